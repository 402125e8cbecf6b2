"""MCE-VAE: a bound of the exact evidence, poses that move with the image, and what is then left of the image."""

import math

import numpy as np
import pyro
import pytest
import torch
from ppvae.models import MCEVAE
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from torch import nn

import ppvae
from ppvae.distributions import center
from ppvae.infer import ELBO, IWAE_ELBO, EnumeratedELBO, Invariance, Regularized
from ppvae.isolation import isolated_param_store
from ppvae.manifolds import circle, sim2
from ppvae.nn import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    Clusters,
    EnumeratedClusters,
    NormalHead,
    NormalLikelihood,
    PolarCanonicalizer,
    Pose,
)
from ppvae.nn.actions import RandomSimilarity, act, pixels, rotate, similarity
from ppvae.random import seeded
from ppvae.testing import check_vae

X = (torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def blobs(n, side=40, dtype=torch.float64, seed=0):
    """Smooth images without symmetry, in the middle of the frame."""
    g = torch.Generator().manual_seed(seed)
    p = pixels(torch.zeros(1, side, side, dtype=dtype))
    at = 0.5 * torch.rand(n, 4, 1, 1, 2, generator=g, dtype=dtype) - 0.25
    height = torch.rand(n, 4, 1, 1, generator=g, dtype=dtype)
    return (height * torch.exp(-60 * (p - at).square().sum(-1))).sum(1).unsqueeze(1)


def canonical_vae(shape, pose=None, seed=0, clusters=None, directions=1, **options):
    torch.manual_seed(seed)
    finder = PolarCanonicalizer(shape, (8, 8), 32, 8, directions)
    return MCEVAE(shape, 2, clusters or Clusters(3, 4), pose, finder, (16,), **options)


@pytest.fixture(autouse=True)
def _seeded():
    with seeded(0):
        yield


# What is known of an image


@pytest.mark.parametrize("steps", [1, 5, 16, 31])
def test_turning_by_a_ray_turns_the_direction_for_any_weights(steps):
    torch.manual_seed(1)
    find = PolarCanonicalizer((1, 40, 40), (8, 8), 32, 8).double()
    x = blobs(5)
    turn = circle.exp(torch.tensor(2 * math.pi * steps / 32, dtype=torch.float64))
    h, moved = find(x), find(rotate(x, turn))
    u, u_moved = (a[:, :2] * a[:, 2:3].exp() for a in (h, moved))
    error = (u_moved - circle.act(turn, u)).norm(dim=-1)
    assert error.max() < 0.2 * u.norm(dim=-1).mean()  # by the blur of turned pixels
    torch.testing.assert_close(moved[:, 5:], h[:, 5:], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("directions", [2, 3])
def test_several_directions_turn_with_the_image(directions):
    """As a mixture: which of them is the first has no meaning."""
    torch.manual_seed(1)
    pose = Pose(directions=directions)
    find = PolarCanonicalizer((1, 40, 40), (8, 8), 32, 8, directions).double()
    points = circle.exp(2 * math.pi * torch.arange(24, dtype=torch.float64) / 24)

    def density(x, points):
        with EnumMessenger(-2), pyro.plate("data", 5):
            nodes = poutine.trace(pose.posterior).get_trace(find(x)).nodes
        log_m = nodes["direction"]["fn"].logits.movedim(-1, 0)
        return (log_m + nodes["turn"]["fn"].log_prob(points[:, None, None])).logsumexp(1)

    x = blobs(5)
    quarter = circle.exp(torch.tensor(math.pi / 2, dtype=torch.float64))
    here = density(x, points)
    torch.testing.assert_close(density(torch.rot90(x, 1, (-2, -1)), circle.act(quarter, points)), here)
    steps = circle.exp(torch.tensor(2 * math.pi * 5 / 32, dtype=torch.float64))
    assert (density(rotate(x, steps), circle.act(steps, points)) - here).abs().mean() < 0.1
    assert here.std(0).min() > 0.01


def test_several_directions_find_the_side():
    """An image that is drawn at half a turn from where the guide looks first: the objective tells the guide so."""
    vae = canonical_vae((1, 12, 12), Pose(directions=2), directions=2)
    x = blobs(2, 12, torch.float32)
    x = (x / x.amax((1, 2, 3), keepdim=True) > 0.5).float()
    with isolated_param_store():
        terms = EnumeratedELBO().all_terms(vae.model, vae.guide, x)
        terms["loss"].backward()
    assert vae.canonicalizer.module.layers[-1].weight.grad[-1].abs().max() > 0
    assert set(ppvae.encode(vae, x)) == {"direction", "turn", "z_c", "z"}
    with pytest.raises(ValueError, match="EnumeratedELBO"), isolated_param_store():
        ELBO().differentiable_loss(vae.model, vae.guide, x)
    with pytest.raises(ValueError, match="directions: expected at least 1, got 0"):
        Pose(directions=0)


def test_quarter_turns_are_exact():
    torch.manual_seed(1)
    find = PolarCanonicalizer((1, 40, 40), (8, 8), 32, 8).double()
    x = blobs(5)
    h, moved = find(x), find(torch.rot90(x, 1, (-2, -1)))
    quarter = circle.exp(torch.tensor(math.pi / 2, dtype=torch.float64))
    torch.testing.assert_close(moved[:, :2], circle.act(quarter, h[:, :2]))
    torch.testing.assert_close(moved[:, 3:5], circle.act(quarter, h[:, 3:5]))
    torch.testing.assert_close(moved[:, [2, 5, 6, 7, 8]], h[:, [2, 5, 6, 7, 8]])


def test_shift_and_scale_are_found_exactly_and_the_rest_stays():
    torch.manual_seed(1)
    find, x = PolarCanonicalizer((1, 80, 80), (8, 8), 32, 8).double(), blobs(5, 80)
    h = find(x)
    b = torch.tensor([0.2, -0.1], dtype=torch.float64)  # whole pixels
    moved = find(act(x, similarity(shift=b)))
    torch.testing.assert_close(moved[:, 3:5], h[:, 3:5] + b, atol=1e-3, rtol=0)
    torch.testing.assert_close(moved[:, 7], h[:, 7], atol=2e-3, rtol=0)
    small = find(act(x, similarity(log_scale=torch.tensor(-0.4, dtype=torch.float64))))
    torch.testing.assert_close(small[:, 7], h[:, 7] - 0.4, atol=5e-3, rtol=0)


def test_a_moved_image_has_the_same_code_and_the_moved_pose():
    vae = canonical_vae((1, 80, 80), Pose(0.25, 0.2)).double()
    x = blobs(6, 80)
    turn = circle.exp(torch.tensor(2 * math.pi * 5 / 32, dtype=torch.float64))
    b = torch.tensor([0.1, 0.15], dtype=torch.float64)
    g = similarity(turn, b, torch.tensor(-0.2, dtype=torch.float64))
    here, there = ppvae.encode(vae, x), ppvae.encode(vae, act(x, g))
    for name in ("z", "z_c"):
        assert (here[name] - there[name]).square().mean() < 0.02 * here[name].var(0).mean()
    here, there = ({n: code[n] for n in ("turn", "shift", "log_scale")} for code in (here, there))
    composed, found = sim2.compose(g, similarity(**here)), similarity(**there)
    assert (composed - found).abs().max() < 0.1


def test_an_image_without_mass_has_a_pose():
    vae = canonical_vae((1, 6, 6), Pose(0.25, 0.2))
    x = torch.zeros(2, 1, 6, 6)
    x[1, 0, 2, 3] = 1  # a single pixel
    with isolated_param_store():
        loss = ELBO().loss_and_grads(vae.model, vae.guide, x)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters())


# The objective is a bound


class Known(nn.Module):
    """A decoder from (z_c, z) in R^2 to logits of 3 x 3 pixels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 9, generator=torch.Generator().manual_seed(3)))

    def forward(self, v):
        return 2 * (v.tanh() @ self.weight).unflatten(-1, (1, 3, 3))


def small(clusters, directions):
    torch.manual_seed(2)
    return MCEVAE((1, 3, 3), 1, clusters(1, 2), Pose(directions=directions), hidden=(16,), decoder=Known()).double()


def exact_evidence(vae, x, n=41):
    """log p(x) by quadrature over the turn, z_c and z."""
    v = torch.linspace(-6, 6, n, dtype=torch.float64)
    step = math.log(12 / (n - 1))
    law = vae.clusters.law
    log_c = law.log_prob(v[:, None]) + step
    log_z = torch.distributions.Normal(0, 1).log_prob(v).double() + step
    f = vae.decoder(torch.stack(torch.meshgrid(v, v, indexing="ij"), -1))
    turns = circle.exp(2 * math.pi * torch.arange(48, dtype=torch.float64) / 48)
    total = []
    for turn in turns:
        log_x = vae.likelihood(act(f, similarity(turn), vae.background)[:, :, None], 3).log_prob(x)
        total.append((log_x + log_c[:, None, None] + log_z[:, None]).flatten(0, 1).logsumexp(0))
    return (torch.stack(total).logsumexp(0) - math.log(48)).detach()


@pytest.mark.parametrize(
    "clusters, directions, objective", [(Clusters, 1, ELBO), (EnumeratedClusters, 2, EnumeratedELBO)]
)
def test_elbo_below_exact_evidence_and_importance_sampling_reaches_it(clusters, directions, objective):
    vae = small(clusters, directions)
    x = (torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1)) > 0.5).double()

    def elbo():
        with torch.no_grad(), isolated_param_store():
            return -objective(4000).loss(vae.model, vae.guide, x)

    assert elbo() < exact_evidence(vae, x).sum() - 0.1
    ppvae.fit(vae, x, objective=objective(8), epochs=100, lr=3e-2, seed=0, progress=False)
    evidence = exact_evidence(vae, x)
    assert elbo() < evidence.sum()
    ll = ppvae.log_likelihood(vae, x, num_samples=20_000, seed=0)
    assert (np.abs(ll.values - evidence.numpy()) < 5 * ll.error + 2e-4).all()
    assert (ll.error < 0.05).all()


def test_the_weight_of_the_kl_is_that_of_all_latents():
    vae, objective = canonical_vae((1, 6, 6), Pose(0.25, 0.2)), ELBO()
    objective.kl_weight = torch.zeros(())
    with isolated_param_store():
        terms = objective.all_terms(vae.model, vae.guide, X)
    assert terms["loss"] == -terms["reconstruction"] and terms["kl"] > 0


def test_a_new_network_decodes_with_finite_gradients():
    vae = MCEVAE((1, 6, 6), 2, Clusters(3, 4), Pose(0.25, 0.2), hidden=(16,))
    with isolated_param_store():
        ELBO().differentiable_loss(vae.model, vae.guide, X).backward()
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)


def test_moving_by_the_identity_has_finite_gradients():
    for dtype in (torch.float32, torch.float64):
        f = torch.randn(1, 6, 6, dtype=dtype, requires_grad=True)
        tau = {
            "turn": torch.tensor([1.0, 0.0], dtype=dtype),
            "shift": torch.zeros(2, dtype=dtype),
            "log_scale": torch.zeros((), dtype=dtype),
        }
        tau = {name: value.requires_grad_() for name, value in tau.items()}
        moved = act(f, similarity(**tau))
        torch.testing.assert_close(moved, f)
        for gradient in torch.autograd.grad(moved.square().sum(), [f, *tau.values()]):
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("directions", [1, 2])
def test_nothing_is_made_on_another_device(directions):
    """On torch's meta device an operator with a tensor of the CPU is an error."""
    pose = Pose(0.25, 0.2, directions=directions)
    vae = canonical_vae((1, 6, 6), pose, directions=directions, clusters=Clusters(3, 4, NormalHead(3))).to("meta")
    with isolated_param_store(), pyro.validation_enabled(False):
        objective = EnumeratedELBO()
        objective.kl_weight = objective.kl_weight.to("meta")
        assert objective.differentiable_loss(vae.model, vae.guide, X.to("meta")).device.type == "meta"


def test_training_on_moved_images_writes_nothing(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    turned = RandomSimilarity()
    ppvae.fit(canonical_vae((1, 6, 6)), X, transform=lambda x: torch.bernoulli(turned(x)), epochs=1, progress=False)
    assert [p.name for p in tmp_path.rglob("*")] == ["inner"]


def test_no_seam_in_the_turn():
    """Just below and just above a half turn is the same place: in the prior, the guide and the image."""
    vae = canonical_vae((1, 6, 6)).double()
    ends = circle.exp(torch.tensor([math.pi - 1e-6, -math.pi + 1e-6], dtype=torch.float64))
    prior = poutine.trace(vae.pose.prior).get_trace(ends).nodes["turn"]["fn"]
    assert prior.log_prob(ends[0]) == prior.log_prob(ends[1])
    h = torch.tensor([-1.0, 0.0, 1.0] + [0.0] * 6, dtype=torch.float64)
    law = poutine.trace(vae.pose.posterior).get_trace(h).nodes["turn"]["fn"]
    torch.testing.assert_close(law.log_prob(ends[0]), law.log_prob(ends[1]))
    f = torch.randn(1, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(*(rotate(f, t) for t in ends), atol=1e-5, rtol=0)


def test_scales_are_positive_and_dtypes_stay():
    vae = canonical_vae((1, 6, 6), Pose(0.25, 3.0)).double()
    with torch.no_grad(), isolated_param_store():
        trace = poutine.trace(vae.model).get_trace(X.double())
    g = similarity(**{name: trace.nodes[name]["value"] for name in ("turn", "shift", "log_scale")})
    assert (torch.linalg.det(g[:, :2, :2]) > 0).all()
    assert all(
        s["value"].dtype == torch.float64 for s in trace.nodes.values() if s["type"] == "sample" and s["name"] != "data"
    )


def test_the_background_begins_dark():
    """As a logit of -4 where features are logits, as 0 where they are means."""
    grey = canonical_vae((1, 6, 6), likelihood=NormalLikelihood(0.1))
    assert grey.background.item() == 0 and canonical_vae((1, 6, 6)).background.item() == -4


def test_a_pixel_that_comes_in_from_beyond_the_edge_is_the_learned_background():
    """Of an image that is bright everywhere and turned, the corners are unknown to the decoder; their law is no
    certainty.
    """
    vae = canonical_vae((1, 6, 6)).double()
    with torch.no_grad():
        vae.background.fill_(0.3)
    f = torch.full((1, 6, 6), 5.0, dtype=torch.float64)
    moved = act(f, similarity(shift=torch.tensor([2.0, 0.0], dtype=torch.float64)), vae.background)
    torch.testing.assert_close(moved, torch.full_like(f, 0.3))
    for dtype in (torch.float32, torch.float64):
        law = BernoulliLikelihood()(moved.to(dtype), 3)
        torch.testing.assert_close(
            law.log_prob(torch.ones(1, 6, 6, dtype=dtype)).double(),
            36 * nn.functional.logsigmoid(torch.tensor(0.3)).double(),
        )


# Invariance


def test_the_invariance_term_is_the_mean_over_moves_one_by_one():
    torch.manual_seed(0)
    vae = MCEVAE((1, 6, 6), 2, Clusters(3, 4), hidden=(16,))
    g = similarity(circle.exp(torch.tensor([0.3, 1.2, -2.0])))

    class Fixed:
        """Moves the i-th of three copies by the i-th element."""

        def __call__(self, x):
            return act(x.unflatten(0, (-1, 8)), g[: x.shape[0] // 8, None]).flatten(0, 1)

    with isolated_param_store(), torch.no_grad():
        term = Invariance(Fixed(), num_moves=3)(vae.model, vae.guide, X)

        def values(x):
            e = ppvae.encode(vae, x)
            e["canonical"] = vae.likelihood(vae.decoder(torch.cat([e["z_c"], e["z"]], -1)), 3).mean
            return e

        here, total = values(X), 0.0
        for i in range(3):
            there = values(act(X, g[i]))
            total += sum((there[n] - here[n]).square().sum() for n in ("z", "z_c", "canonical")) / 3
    torch.testing.assert_close(term, total)


def test_all_moves_go_through_the_networks_at_once():
    vae = canonical_vae((1, 6, 6))
    sizes = []
    vae.encoder.register_forward_hook(lambda module, args, out: sizes.append(args[0].shape[0]))
    with isolated_param_store():
        Invariance(RandomSimilarity(), num_moves=25)(vae.model, vae.guide, X)
    assert sizes == [8, 200]


def test_the_invariance_term_lowers_the_invariance_error_of_the_papers_guide():
    x = blobs(64, 12, torch.float32)
    x = (x / x.amax((1, 2, 3), keepdim=True)).clamp(0, 1)
    move = RandomSimilarity()
    errors = {}
    for weight in (0.0, 20.0):
        torch.manual_seed(0)
        vae = MCEVAE((1, 12, 12), 2, Clusters(3, 4, NormalHead(3)), hidden=(32,))
        objective = Regularized(ELBO(), invariance=Invariance(move, sites=("z", "z_c"), num_moves=4, weight=weight))
        fit = ppvae.fit(
            vae,
            x,
            transform=lambda x: torch.bernoulli(move(x)),
            objective=objective,
            epochs=50,
            batch_size=64,
            lr=3e-3,
            seed=0,
            progress=False,
        )
        with seeded(5):
            there = ppvae.encode(vae, move(x))
        here = ppvae.encode(vae, x)
        errors[weight] = sum(ppvae.metrics.invariance_error(here[n], there[n]) for n in ("z", "z_c"))
        assert len(fit.history["invariance"]) == 50
    assert errors[20.0] < 0.5 * errors[0.0]


def test_known_canonical_images_are_observed():
    vae = canonical_vae((1, 6, 6), canonical=BernoulliLikelihood())
    x_0, known = X.flip(0), torch.arange(8) < 5
    check_vae(lambda: canonical_vae((1, 6, 6), canonical=BernoulliLikelihood()), X, given=(x_0, known))
    with isolated_param_store(), seeded(1), torch.no_grad():
        terms = ELBO().all_terms(vae.model, vae.guide, X, x_0, known)
    plain = canonical_vae((1, 6, 6))
    plain.load_state_dict(vae.state_dict())
    with isolated_param_store(), seeded(1), torch.no_grad():
        guide_trace = poutine.trace(plain.guide).get_trace(X)
        model_trace = poutine.trace(poutine.replay(plain.model, trace=guide_trace)).get_trace(X)
    mean = model_trace.nodes["canonical"]["value"]
    canonical = torch.distributions.Bernoulli(mean[known]).log_prob(x_0[known]).sum()
    log_x = model_trace.log_prob_sum(lambda name, _: name == "x")
    torch.testing.assert_close(terms["reconstruction"], log_x + canonical)
    with pytest.raises(ValueError, match="expected 2 arrays beside x, got 0"):
        ppvae.encode(vae, X)
    one, two = (ppvae.log_likelihood(vae, X, x, known < 0, num_samples=20, seed=0).values for x in (X, x_0))
    assert (one == two).all() and (one == ppvae.log_likelihood(plain, X, num_samples=20, seed=0).values).all()


def test_terms_of_the_objective():
    vae = canonical_vae((1, 6, 6))
    with pytest.raises(ValueError, match="expected names of latents or deterministic sites of the model, got"):
        with isolated_param_store():
            Invariance(RandomSimilarity(), sites=("w",))(vae.model, vae.guide, X)
    with pytest.raises(ValueError, match="penalties: expected some"):
        Regularized(ELBO())
    with pytest.raises(ValueError, match="by names of their own"):
        Regularized(ELBO(), kl=Invariance(RandomSimilarity()))
    objective = Regularized(IWAE_ELBO(3), invariance=Invariance(RandomSimilarity(), num_moves=2, weight=0.5))
    objective.kl_weight = torch.tensor(0.25)
    assert objective.objective.kl_weight == 0.25
    with isolated_param_store():
        terms = objective.all_terms(vae.model, vae.guide, X)
        with seeded(3):
            whole = objective.differentiable_loss(vae.model, vae.guide, X)
        with seeded(3):
            bound = objective.objective.differentiable_loss(vae.model, vae.guide, X)
            term = objective.penalties["invariance"](vae.model, vae.guide, X)
    assert terms["invariance"] > 0
    torch.testing.assert_close(whole, bound + 0.5 * term)
    with pytest.raises(ValueError, match="shift: expected a positive standard deviation"):
        Pose(shift=0.0)


def test_parts_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"shape: expected that of an image, \(C, H, W\), got \(36,\)"):
        MCEVAE((36,))
    for part, words in (
        ({"decoder": nn.Linear(5, 36)}, r"Linear: expected an output of shape \(1, 6, 6\)"),
        (
            {"encoder": nn.Sequential(nn.Flatten(), nn.Linear(36, 7))},
            r"Sequential: expected an output of shape \(\d+,\)",
        ),
        ({"pose": Pose(directions=2)}, r"PolarCanonicalizer: expected an output of shape \(14,\)"),
    ):
        settings = {"dim": 2, "clusters": Clusters(3, 4), "canonicalizer": PolarCanonicalizer((1, 6, 6), (8,), 16, 4)}
        with pytest.raises(ValueError, match=words):
            ppvae.fit(MCEVAE((1, 6, 6), **settings | part), X, epochs=1, objective=EnumeratedELBO(), progress=False)


def test_classes_are_canonicalised_as_one_hot_images():
    x = torch.randint(4, (8, 1, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    settings = {"dim": 2, "clusters": Clusters(3, 4), "hidden": (16,), "likelihood": CategoricalLikelihood(4)}
    check_vae(lambda: MCEVAE((1, 6, 6), canonicalizer=PolarCanonicalizer((4, 6, 6), (8,), 16, 4), **settings), x)
    vae = MCEVAE((1, 6, 6), canonicalizer=PolarCanonicalizer((1, 6, 6), (8,), 16, 4), **settings)
    with pytest.raises(ValueError, match="expected images of 1 channels, got 4"):
        ppvae.encode(vae, x)


def test_saved_and_loaded_with_its_parts(tmp_path):
    vae = canonical_vae((1, 6, 6), Pose(0.25))
    ppvae.save(vae, tmp_path / "vae.safetensors")
    again = ppvae.load(tmp_path / "vae.safetensors")
    one, two = ppvae.encode(vae, X), ppvae.encode(again, X)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert set(one) == {"turn", "shift", "z_c", "z"}


def test_plain_pyro():
    vae = canonical_vae((1, 6, 6), clusters=EnumeratedClusters(3, 4))
    with pyro.get_param_store().scope():
        svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), EnumeratedELBO())
        losses = [float(svi.step(X)) for _ in range(15)]
    assert np.mean(losses[-5:]) < losses[0]
    assert isinstance(center(vae.clusters.law), torch.Tensor)
