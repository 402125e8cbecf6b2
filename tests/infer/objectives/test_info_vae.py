"""The InfoVAE objective: its limits, its formula, its prior draw, and what it refuses."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE, WassersteinVAE
from pyro import poutine
from pyro.infer import SVI
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import ppvae
from ppvae.infer import ELBO, InfoVAE_ELBO, SquaredExponential, TensorELBO, energy_distance, mmd
from ppvae.infer.objectives.divergences import names
from ppvae.isolation import isolated_param_store
from ppvae.manifolds import Sphere
from ppvae.nn import PowerSphericalHead, SphericalDeltaHead
from ppvae.random import seeded

X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
SHAPE = (1, 4, 4)


@pytest.fixture(autouse=True)
def _own_store():
    with pyro.get_param_store().scope():
        yield


def normal(*shape, loc=0.0, scale=1.0):
    return dist.Normal(torch.full(shape[1:], loc), scale).to_event(len(shape) - 1).expand(shape[:1])


def pair(p, q, event_dim=1):
    """A model/guide pair with p(z) and q(z) as they are, of a batch x that is observed around 0."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", p)
            pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", q)

    return model, guide


# --- the limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [GaussianVAE, SphericalVAE])
@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_alpha_0_and_lambda_1_is_the_elbo_through_every_entry_point(make, particles, kl_weight):
    vae = make(SHAPE, 3, (8,))
    numbers, gradients = [], []
    for objective in (ELBO(particles), InfoVAE_ELBO("mmd", alpha=0, lambda_=1, num_particles=particles)):
        objective.kl_weight = torch.tensor(kl_weight)
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
        for entry in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
            vae.zero_grad()
            with seeded(3):
                numbers.append(entry(vae.model, vae.guide, X).detach().item())
        gradients.append([p.grad.clone() for p in vae.parameters()])
        for call in (objective(vae.model, vae.guide), svi.evaluate_loss, svi.step):
            with seeded(3):
                numbers.append(torch.as_tensor(call(X)).detach().item())
        with seeded(3):
            numbers.append(objective.all_terms(vae.model, vae.guide, X)["loss"].item())
    assert numbers == pytest.approx([numbers[0]] * 14, rel=1e-6)
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_training_at_alpha_0_and_lambda_1_is_training_by_the_elbo():
    histories = []
    for objective in (None, InfoVAE_ELBO()):
        with seeded(0):
            vae = GaussianVAE(SHAPE, 2, (8,))
        fit = ppvae.fit(vae, X, validation=X, epochs=3, batch_size=4, objective=objective, seed=0, progress=False)
        histories.append({name: values for name, values in fit.history.items() if name != "seconds"})
    assert histories[0].keys() == histories[1].keys()
    for name in histories[0]:
        assert histories[1][name] == pytest.approx(histories[0][name], rel=1e-6)


class Implicit(dist.TorchDistribution):
    """A law that can be sampled and has no density."""

    has_rsample = True
    arg_constraints = {}
    support = dist.constraints.real_vector

    def __init__(self, z):
        self.z = z
        super().__init__(z.shape[:-1], z.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Implicit(self.z.expand(torch.Size(batch_shape) + self.event_shape))

    def rsample(self, sample_shape=()):
        return self.z.tanh() + 0 * self.z

    def log_prob(self, value):
        raise NotImplementedError("no density")


def test_at_alpha_1_log_q_is_never_evaluated():
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    model, guide = pair(normal(6, 2), Implicit(z))
    objective = InfoVAE_ELBO("energy", alpha=1, lambda_=10)
    with pyro.validation_enabled(False):
        terms = objective.all_terms(model, guide, torch.zeros(6))
        objective.loss_and_grads(model, guide, torch.zeros(6))
        with pytest.raises(NotImplementedError, match="no density"):
            InfoVAE_ELBO("energy", alpha=0.9, lambda_=10).loss(model, guide, torch.zeros(6))
    assert torch.isfinite(terms["loss"]) and torch.isnan(terms["kl"]) and z.grad.abs().sum() > 0


def test_at_alpha_1_with_a_deterministic_encoder_it_is_the_wasserstein_auto_encoder():
    vae = WassersteinVAE(SHAPE, 3, (8,))
    objective = InfoVAE_ELBO("mmd", alpha=1, lambda_=7)
    with seeded(5):
        loss = objective.loss(vae.model, vae.guide, X).item()
    with seeded(5), torch.no_grad():
        z = vae.encoder(X)
        prior = dist.Normal(torch.zeros(3), 1.0).to_event(1).sample((12,))
        expected = -vae.decode(z).log_prob(X).sum() + 7 * 12 * mmd(prior, z, paired=True)
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_on_the_sphere_the_wasserstein_auto_encoder_has_codes_on_the_sphere():
    vae = SphericalVAE(SHAPE, 3, (8,), head=SphericalDeltaHead(3))
    fit = ppvae.fit(vae, X, epochs=3, batch_size=6, objective=InfoVAE_ELBO("energy", 1, 10), seed=0, progress=False)
    assert math.isfinite(fit.history["loss"][-1])
    assert abs((ppvae.encode(vae, X) ** 2).sum(-1) - 1).max() < 1e-6


# --- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha, lambda_", [(0.3, 2.0), (0.0, 5.0), (-2.0, 10.0), (1.0, 4.0)])
@pytest.mark.parametrize("particles", [1, 3])
def test_formula(alpha, lambda_, particles):
    """D averaged over the particles, times the 12 data; the prior is drawn after the guide and the model."""
    vae = GaussianVAE(SHAPE, 3, (8,))
    objective = InfoVAE_ELBO("mmd", alpha, lambda_, num_particles=particles)
    objective.kl_weight = torch.tensor(0.5)
    with seeded(1):
        terms = objective.all_terms(vae.model, vae.guide, X)
    with seeded(1):
        elbo = ELBO(particles)
        _, guide_trace = elbo.traces(vae.model, vae.guide, X)
        prior = torch.randn(particles, 12, 3) if particles > 1 else torch.randn(1, 12, 3)
    with seeded(1):
        plain = elbo.all_terms(vae.model, vae.guide, X)
    z = guide_trace.nodes["z"]["value"].reshape(particles, 12, 3)
    D = sum(mmd(prior[k], z[k], paired=True) for k in range(particles)) / particles
    kl = plain["kl"] if alpha < 1 else 0
    expected = 0.5 * ((1 - alpha) * kl + (alpha + lambda_ - 1) * 12 * D) - plain["reconstruction"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["divergence_z"].item() == pytest.approx(12 * D.item(), rel=1e-4)
    torch.testing.assert_close(terms["reconstruction"], plain["reconstruction"])


@pytest.mark.parametrize("divergence", [*names(), partial(energy_distance, distance=Sphere().dist)])
@pytest.mark.parametrize("head", [None, PowerSphericalHead(3)])
def test_every_divergence_on_the_sphere(divergence, head):
    vae = SphericalVAE(SHAPE, 3, (8,), head=head)
    objective = InfoVAE_ELBO(divergence, alpha=0.5, lambda_=2)
    objective.loss_and_grads(vae.model, vae.guide, X)
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters())


def test_the_scale_of_the_kernel_suits_the_sphere():
    vae = SphericalVAE(SHAPE, 8, (8,))
    values = []
    for divergence in ("mmd", partial(mmd, kernel=SquaredExponential(1.0), paired=True)):
        with seeded(0):
            values.append(InfoVAE_ELBO(divergence, 1, 2).loss(vae.model, vae.guide, X).item())
    assert values[0] == values[1]


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("divergence", names())
def test_the_kl_is_summed_over_dimensions_and_every_divergence_runs_in_all(dim, divergence):
    """KL(N(1, I) || N(0, I)) = dim / 2 for each datum; N(1, I) is away from N(0, I) by every divergence."""
    terms = InfoVAE_ELBO(divergence, 0.5, 2).all_terms(
        *pair(normal(200, dim), normal(200, dim, loc=1.0)), torch.zeros(200)
    )
    assert terms["kl"].item() == pytest.approx(200 * dim / 2, rel=1e-5)
    assert terms["divergence_z"].item() / 200 > 0.1


def one(p, q):
    """A divergence that is 1, so that the term of the history is N."""
    return torch.ones(())


@pytest.mark.parametrize("scale", [10.0, torch.tensor(10.0), torch.full((12,), 10.0)], ids=["float", "0-d", "1-d"])
def test_the_scale_of_the_plate_meets_every_term_once(scale):
    """Each datum counted ten times: the loss of 120 data, in which D is not counted per datum again."""
    vae = GaussianVAE(SHAPE, 2, (8,))
    model, guide = (poutine.scale(fn, scale) for fn in (vae.model, vae.guide))
    assert InfoVAE_ELBO(one, 0.5, 3).all_terms(vae.model, vae.guide, X)["divergence_z"].item() == 12
    assert InfoVAE_ELBO(one, 0.5, 3).all_terms(model, guide, X)["divergence_z"].item() == pytest.approx(120)
    objective = InfoVAE_ELBO("energy", alpha=1, lambda_=3)
    with seeded(0):
        loss = objective.loss(vae.model, vae.guide, X).item()
    with seeded(0):
        assert objective.loss(model, guide, X).item() == pytest.approx(10 * loss, rel=1e-5)


def test_particles_are_never_paired_with_each_other():
    """With guide = prior and draws that depend on the datum, E D = 0 whatever the number of particles.

    Pooled particles of a deterministic guide would be equal in pairs, and pull the mean of D up.
    """
    with seeded(0):
        draws = []
        for _ in range(400):
            model, guide = pair(normal(10, 2), dist.Delta(torch.randn(10, 2), event_dim=1))
            terms = InfoVAE_ELBO("mmd", 1, 1, num_particles=6).all_terms(model, guide, torch.zeros(10))
            draws.append(terms["divergence_z"] / 10)
    draws = torch.stack(draws)
    assert abs(draws.mean()) < 3 * draws.std() / 20


# --- the prior draw ---------------------------------------------------------------------------------------------------


def test_conditional_priors():
    """p(z | c) = q(z | x, c) = N(c, 0.1): D is 0 in the mean, as the prior is drawn for the batch's own labels c.

    Point i of both is drawn given c_i, so that the pairs (i, i) must not count: they are closer than others.
    """

    def model(x, c):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(c[:, None], 0.1).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape), obs=x)

    def guide(x, c):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(c[:, None], 0.1).to_event(1))

    c, x = torch.tensor([3.0, -3.0, 0.0, 3.0, -3.0, 3.0]), torch.zeros(6)
    for divergence in ("energy", "mmd", "mmd-imq"):
        objective = InfoVAE_ELBO(divergence, 1, 1)
        with seeded(0):
            D = torch.stack([objective.all_terms(model, guide, x, c)["divergence_z"] for _ in range(200)]) / 6
        assert abs(D.mean()) < 3 * D.std() / math.sqrt(200)
        assert D.std() < 0.2  # a prior drawn for other labels would be units away


def test_the_prior_of_several_latents_is_drawn_jointly():
    """The guide puts z2 at 3 and z1 on its prior; a prior of z1 given the guide's z2 would lie 15 away."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(x.shape[0]), 1.0))
            pyro.sample("z1", dist.Normal(5 * z2, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z2", dist.Normal(torch.full((x.shape[0],), 3.0), 1.0))
            pyro.sample("z1", dist.Normal(torch.zeros(x.shape[0]), 26**0.5))

    objective, x = InfoVAE_ELBO("energy", 1, 1), torch.zeros(20)
    with seeded(0):
        terms = [objective.all_terms(model, guide, x) for _ in range(300)]
    z1, z2 = (torch.stack([t[f"divergence_{name}"] for t in terms]) / 20 for name in ("z1", "z2"))
    assert abs(z1.mean()) < 3 * z1.std() / math.sqrt(300)
    m = 3.0
    exact = 4 / math.sqrt(math.pi) * (math.exp(-(m**2) / 4) - 1) + 2 * m * math.erf(m / 2)
    assert z2.mean().item() == pytest.approx(exact, abs=4 * z2.std().item() / math.sqrt(300))


def test_the_decoder_runs_once_and_the_draws_of_the_elbo_stay_the_same():
    vae = GaussianVAE(SHAPE, 2, (8,))
    calls = []
    vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    with seeded(0):
        terms = InfoVAE_ELBO("mmd", 0.5, 10).all_terms(vae.model, vae.guide, X)
    assert len(calls) == 1
    with seeded(0):
        plain = ELBO().all_terms(vae.model, vae.guide, X)
    assert terms["reconstruction"] == plain["reconstruction"] and terms["kl"] == plain["kl"]


def test_a_subsample_is_the_same_in_both_runs_of_the_model():
    seen = []
    loc = torch.arange(50.0)

    def model(x):
        with pyro.plate("data", 50, subsample_size=10) as rows:
            seen.append(rows)
            pyro.sample("z", dist.Normal(loc[rows], 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(10), 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", 50, subsample_size=10) as rows:
            pyro.sample("z", dist.Normal(loc[rows], 1.0))

    terms = InfoVAE_ELBO(one, 0.5, 2).all_terms(model, guide, torch.zeros(50))
    assert len(seen) == 2 and torch.equal(*seen)
    assert terms["divergence_z"].item() == pytest.approx(50)


def test_a_learned_prior_is_trained_by_the_divergence():
    loc = nn.Parameter(torch.tensor(0.0))

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc.expand(x.shape[0]), 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(torch.full((x.shape[0],), 4.0), 1.0))

    InfoVAE_ELBO("energy", 1, 1).loss_and_grads(model, guide, torch.zeros(30))
    assert loc.grad < -1


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha, lambda_", [(0.0, 1e-3), (0.5, 0.4), (1.0, -0.1), (math.nan, 1.0), (0.0, math.nan)])
def test_a_divergence_that_would_be_maximised_is_refused(alpha, lambda_):
    with pytest.raises(ValueError, match=r"expected alpha \+ lambda - 1 >= 0, got|alpha: expected at most 1, got nan"):
        InfoVAE_ELBO("mmd", alpha, lambda_)


def test_a_kl_that_would_be_maximised_is_refused():
    with pytest.raises(ValueError, match=r"alpha: expected at most 1, got 1\.5"):
        InfoVAE_ELBO("mmd", 1.5, 1)


@pytest.mark.parametrize("divergences", ["kl", {"z": "kl"}, 3])
def test_unknown_divergences_are_refused(divergences):
    with pytest.raises(ValueError, match="divergences: expected one of mmd, mmd-imq, energy, sliced-wasser"):
        InfoVAE_ELBO(divergences, 1, 1)


def refused(model, guide, match, x=None, objective=None, grad=False):
    objective = objective or InfoVAE_ELBO("mmd", 0.5, 2)
    with pytest.raises(ValueError, match=match):
        (objective.differentiable_loss if grad else objective.loss)(model, guide, torch.zeros(4) if x is None else x)


def test_a_discrete_site_is_refused():
    law = dist.Categorical(torch.ones(4, 3))
    refused(*pair(law, law), "site 'z': no divergence of its aggregate posterior: its law Categorical is discrete")


def global_latent(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(x.shape[0]), 1.0))


def global_model(x):
    global_latent(x)
    with pyro.plate("data_x", x.shape[0]):
        pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)


def test_a_global_latent_is_refused_unless_it_keeps_its_kl():
    refused(global_model, global_latent, r"site 'w': .* expected it in the data plate \(dim -1\) alone, got .* \[\]")

    def guide(x):
        pyro.sample("w", dist.Normal(2.0, 1.0))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(torch.zeros(x.shape[0]), 1.0))

    terms = InfoVAE_ELBO({"z": "mmd"}, 1, 2).all_terms(global_model, guide, torch.zeros(4))
    rest = terms["loss"] + terms["reconstruction"] - 2 * terms["divergence_z"]
    assert rest.item() == pytest.approx(2.0, rel=1e-5)  # KL(N(2, 1) || N(0, 1))


def test_further_plates_and_masks_are_refused():
    def latent(x):
        with pyro.plate("data", x.shape[0]), pyro.plate("parts", 3):
            pyro.sample("z", dist.Normal(torch.zeros(3, x.shape[0]), 1.0))

    def model(x):
        latent(x)
        with pyro.plate("data_x", x.shape[0]):
            pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)

    objective = InfoVAE_ELBO("mmd", 0.5, 2, max_plate_nesting=2)
    refused(model, latent, r"site 'z': .* got the plates \['data', 'parts'\]", objective=objective)
    mask = torch.tensor([True, False, True, True])
    model, guide = (poutine.mask(fn, mask=mask) for fn in pair(normal(4, 2), normal(4, 2)))
    refused(model, guide, "site 'z': .* it is masked")


def test_a_batch_of_one_is_refused():
    refused(*pair(normal(1, 2), normal(1, 2)), "site 'z': .* a batch of one datum", x=torch.zeros(1))


def test_the_kl_of_a_deterministic_encoder_is_refused():
    vae = WassersteinVAE(SHAPE, 3, (8,))
    refused(
        vae.model,
        vae.guide,
        "site 'z': a deterministic encoder .* neither a KL .*alpha=1",
        x=X,
    )


def test_a_site_that_is_not_there_is_refused():
    objective = InfoVAE_ELBO({"y": "mmd"}, 0.5, 2)
    refused(*pair(normal(4, 2), normal(4, 2)), r"expected names of latents, got \['y'\]", objective=objective)


def test_a_learned_prior_without_pathwise_gradient_is_refused():
    locs = nn.Parameter(torch.tensor([-2.0, 2.0]))
    prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(locs, 1.0))
    model, guide = pair(prior.expand([4]), dist.Normal(torch.zeros(4), 1.0))
    refused(model, guide, "site 'z': .* parameters to learn, and no pathwise gradient", grad=True)
    assert torch.isfinite(InfoVAE_ELBO("mmd", 0.5, 2).loss(model, guide, torch.zeros(4)))


# --- as an objective of the library -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("particles", [1, 3])
def test_entry_points_agree(alpha, particles):
    vae, objective = GaussianVAE(SHAPE, 2, (8,)), InfoVAE_ELBO("energy", alpha, 10, num_particles=particles)
    assert isinstance(objective, TensorELBO)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
    numbers = []
    for entry in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        with seeded(3):
            numbers.append(entry(vae.model, vae.guide, X).detach().item())
    for call in (objective(vae.model, vae.guide), svi.evaluate_loss, svi.step):
        with seeded(3):
            numbers.append(torch.as_tensor(call(X)).detach().item())
    assert numbers == pytest.approx([numbers[0]] * 6, rel=1e-6)


@pytest.mark.parametrize("divergence", names())
@pytest.mark.parametrize("make", [GaussianVAE, SphericalVAE, WassersteinVAE])
def test_traceable_with_gradients(make, divergence):
    vae, objective = make(SHAPE, 3, (8,)), InfoVAE_ELBO(divergence, 1, 10)
    parameters = list(vae.parameters())

    def step(x):
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        return loss.detach(), *torch.autograd.grad(loss, parameters)

    with isolated_param_store(), pyro.validation_enabled(False):
        with seeded(0):
            graph = make_fx(step)(X)
        with seeded(2):
            eager = step(X)
        with seeded(2):
            torch.testing.assert_close(graph(X), eager)


def test_history():
    vae = GaussianVAE(SHAPE, 2, (8,))
    fit = ppvae.fit(
        vae, X, validation=X, epochs=2, batch_size=6, objective=InfoVAE_ELBO("energy", 1, 10), seed=0, progress=False
    )
    history = fit.history
    assert all(math.isnan(value) for value in history["kl"])
    for prefix in ("", "valid_"):
        for loss, reconstruction, D in zip(
            *(history[prefix + name] for name in ("loss", "reconstruction", "divergence_z")), strict=True
        ):
            assert loss == pytest.approx(10 * D - reconstruction, rel=1e-5)


def test_training_moves_the_aggregate_posterior_to_the_prior():
    """Codes that start away from the prior are at a small energy distance from it after training at alpha = 1."""
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    loc, scale = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(0.2))

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 100.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Delta(loc + scale * x, event_dim=1))

    for divergence in ("mmd-imq", "energy", "sliced-wasserstein"):
        loc.data.fill_(3.0)
        scale.data.fill_(0.2)
        optimizer, objective = torch.optim.Adam([loc, scale], 0.05), InfoVAE_ELBO(divergence, 1, 1)
        with seeded(0):
            for _ in range(150):
                optimizer.zero_grad()
                objective.loss_and_grads(model, guide, x)
                optimizer.step()
        assert abs(loc.item()) < 0.35 and abs(abs(scale.item()) - 1) < 0.35
