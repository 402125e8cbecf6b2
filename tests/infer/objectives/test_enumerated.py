"""Discrete latents summed out: against Pyro's TraceEnum_ELBO, against exact evidence, and against the mixture
summed out.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import MCEVAE, GaussianMixtureVAE, GaussianVAE
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import ppvae
from ppvae.infer import ELBO, EnumeratedELBO, LabelTerm, Regularized
from ppvae.isolation import isolated_param_store
from ppvae.nn import Clusters, EnumeratedClusters, LabelledClusters, PolarCanonicalizer, Pose
from ppvae.nn.actions import rotate
from ppvae.random import seeded

X = (torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
Y = torch.arange(12) % 4
KNOWN = torch.arange(12) < 5


@pytest.fixture(autouse=True)
def _own_store_and_seed():
    with pyro.get_param_store().scope(), seeded(0):
        yield


def mixture(clusters=EnumeratedClusters, seed=0):
    torch.manual_seed(seed)
    return GaussianMixtureVAE((1, 6, 6), clusters(3, 4), (8,))


def mce(clusters=EnumeratedClusters, seed=0):
    torch.manual_seed(seed)
    return MCEVAE((1, 6, 6), 2, clusters(3, 4), canonicalizer=PolarCanonicalizer((1, 6, 6), (4,), 8, 3), hidden=(8,))


def two_sided(clusters=EnumeratedClusters, seed=0):
    torch.manual_seed(seed)
    finder = PolarCanonicalizer((1, 6, 6), (4,), 8, 3, directions=2)
    return MCEVAE((1, 6, 6), 2, clusters(3, 4), Pose(directions=2), finder, hidden=(8,))


def loss_and_gradients(objective, vae, model, guide, *batch):
    vae.zero_grad()
    with seeded(1):
        loss = float(objective.loss_and_grads(model, guide, *batch))
    return loss, [p.grad.clone() for p in vae.parameters()]


@pytest.mark.parametrize("make", [mixture, mce, two_sided])
@pytest.mark.parametrize("particles", [1, 5])
@pytest.mark.parametrize("labelled", [False, True])
def test_same_numbers_as_trace_enum_elbo(make, particles, labelled):
    # Pyro's contraction takes no deterministic site in float64.
    dtype, rtol = (torch.float64, 1e-9) if make is mixture else (torch.float32, 1e-5)
    vae = make(LabelledClusters if labelled else EnumeratedClusters).to(dtype)
    batch = (X.to(dtype), Y, KNOWN) if labelled else (X.to(dtype),)
    theirs = TraceEnum_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    one = torch.ones((), dtype=dtype)

    def model(*batch):
        with poutine.scale(scale=one.clone()):  # a scale not known to be the guide's: no closed form is used
            vae.model(*batch)

    loss, gradients = loss_and_gradients(theirs, vae, vae.model, vae.guide, *batch)
    ours, own = loss_and_gradients(EnumeratedELBO(particles), vae, model, vae.guide, *batch)
    assert ours == pytest.approx(loss, rel=rtol)
    largest = max(g.abs().max().item() for g in gradients)
    torch.testing.assert_close(own, gradients, rtol=100 * rtol, atol=10 * rtol * largest)


def test_without_enumerated_latents_it_is_the_elbo():
    vae = GaussianVAE((1, 6, 6), 2, (8,))
    ours = loss_and_gradients(EnumeratedELBO(3), vae, vae.model, vae.guide, X)
    theirs = loss_and_gradients(ELBO(3), vae, vae.model, vae.guide, X)
    assert ours[0] == theirs[0]
    torch.testing.assert_close(ours[1], theirs[1])


class Discrete(nn.Module):
    """A discrete latent in the data plate, and one that all data share: the evidence is a finite sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 4))

    def model(self, x):
        g = pyro.sample("g", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.a[c] + g, 1.0), obs=x)

    def exact(self, x):
        """The joint posterior, and the evidence."""
        c = torch.tensor([0.2, 0.3, 0.5]).log() + dist.Normal(self.a + torch.arange(2.0)[:, None], 1.0).log_prob(
            x[:, None, None]
        )
        by_g = torch.tensor([0.3, 0.7]).log() + c.logsumexp(-1).sum(0)
        return by_g.log_softmax(0), c.log_softmax(-1), by_g.logsumexp(0)

    def guide(self, x):
        log_g, log_c, _ = self.exact(x)
        g = pyro.sample("g", dist.Categorical(logits=log_g), infer={"enumerate": "parallel"})
        with pyro.plate("data", x.shape[0]):
            rows = torch.arange(x.shape[0])
            pyro.sample("c", dist.Categorical(logits=log_c[rows, g]), infer={"enumerate": "parallel"})


def test_the_exact_posterior_gives_the_evidence():
    """One latent depends on another that lies outside the plate: neither may be counted once for each datum."""
    vae, x = Discrete(), torch.tensor([0.3, -1.0, 2.0])
    terms = EnumeratedELBO().all_terms(vae.model, vae.guide, x)
    assert -terms["loss"].item() == pytest.approx(vae.exact(x)[2].item(), rel=1e-6)
    assert TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, x) == pytest.approx(
        terms["loss"].item(), rel=1e-6
    )


@pytest.mark.parametrize("make", [mixture, mce])
def test_enumerated_bound_is_the_lower_of_the_two(make):
    """KL(q(c, z) || p(c, z)) >= KL(q(z) || p(z)), for the same laws."""
    summed, enumerated = make(Clusters), make(EnumeratedClusters)
    enumerated.load_state_dict(summed.state_dict())
    with torch.no_grad():
        for p in summed.clusters.parameters():  # clusters that overlap, or the two would be nearly one
            p.mul_(0.5)
        enumerated.load_state_dict(summed.state_dict())
        high = torch.stack([-ELBO(500).loss(summed.model, summed.guide, X) for _ in range(8)])
        low = torch.stack([-EnumeratedELBO(500).loss(enumerated.model, enumerated.guide, X) for _ in range(8)])
    error = math.sqrt((high.var() + low.var()) / 8)
    assert high.mean() - low.mean() > 5 * error


def test_the_enumerated_gradient_has_less_noise():
    """The pathwise gradient of ten Gaussians in R^10 that differ and overlap, against the sum over them."""
    noise = {}
    for kind, objective in ((Clusters, ELBO()), (EnumeratedClusters, EnumeratedELBO())):
        torch.manual_seed(0)
        vae = GaussianMixtureVAE((1, 6, 6), kind(10, 10), (8,))
        last = vae.encoder.module.layers[-1]
        with torch.no_grad():
            last.bias[10:110] += torch.randn(100)
        draws = []
        for _ in range(100):
            loss = objective.differentiable_loss(vae.model, vae.guide, X)
            draws.append(torch.autograd.grad(loss, last.bias)[0])
        draws = torch.stack(draws)
        noise[kind] = (draws.var(0).sum().sqrt() / draws.mean(0).norm()).item()
    assert noise[EnumeratedClusters] < 0.2 * noise[Clusters], noise


def test_known_labels_give_the_bound_of_that_cluster_alone():
    vae = mixture(LabelledClusters)

    def model(x):
        with pyro.plate("data", 12):
            z_c = pyro.sample("z_c", dist.Normal(vae.clusters.loc[Y], vae.clusters.log_scale[Y].exp()).to_event(1))
            pyro.sample("x", vae.decode(z_c), obs=x)

    def guide(x):
        law = vae.clusters.head(vae.encoder(x))
        with pyro.plate("data", 12):
            rows = torch.arange(12)
            pyro.sample("z_c", dist.Normal(law.loc[rows, Y], law.scale[rows, Y]).to_event(1))

    with torch.no_grad():
        alone = torch.stack([ELBO(200).loss(model, guide, X) for _ in range(8)])
        ours = torch.stack([EnumeratedELBO(200).loss(vae.model, vae.guide, X, Y, Y >= 0) for _ in range(8)])
    error = ((alone.var() + ours.var()) / 8).sqrt().item()
    log_w = vae.clusters.logits.log_softmax(-1)[Y].sum().item()
    assert ours.mean().item() == pytest.approx(alone.mean().item() - log_w, abs=5 * error)


def test_the_weights_of_the_clusters_are_learned_from_the_labels():
    vae, y = mixture(LabelledClusters), torch.tensor([0] * 9 + [1, 2, 3])
    ppvae.fit(
        vae, (X, y, torch.ones(12, dtype=torch.bool)), objective=EnumeratedELBO(), epochs=200, lr=3e-2, progress=False
    )
    torch.testing.assert_close(vae.clusters.law.probs, torch.tensor([9.0, 1, 1, 1]) / 12, atol=0.02, rtol=0)


def test_unknown_labels_have_no_part():
    vae, plain = mixture(LabelledClusters), mixture(EnumeratedClusters)
    plain.load_state_dict(vae.state_dict())
    unknown = torch.zeros(12, dtype=torch.bool)
    ours, own = loss_and_gradients(EnumeratedELBO(), vae, vae.model, vae.guide, X, Y, unknown)
    theirs, other = loss_and_gradients(EnumeratedELBO(), plain, plain.model, plain.guide, X)
    assert ours == pytest.approx(theirs)
    torch.testing.assert_close(own, other)


def test_gradients_with_labels_are_finite():
    for dtype in (torch.float32, torch.float64):
        vae = mce(LabelledClusters).to(dtype)
        objective = Regularized(EnumeratedELBO(), label=LabelTerm(weight=10.0))
        _, gradients = loss_and_gradients(objective, vae, vae.model, vae.guide, X.to(dtype), Y, KNOWN)
        assert all(torch.isfinite(g).all() for g in gradients)


def test_label_term_is_the_cross_entropy_of_the_known_labels():
    vae = mixture(LabelledClusters)
    law = vae.clusters.head(vae.encoder(X))
    expected = nn.functional.cross_entropy(law.logits[KNOWN], Y[KNOWN], reduction="sum")
    torch.testing.assert_close(LabelTerm()(vae.model, vae.guide, X, Y, KNOWN), expected)


def test_label_term_sums_over_the_directions_before_it():
    """q(c | x) = sum_m q(m | x) q(c | x, m): all directions have a part in it, and learn from the labels."""
    vae = two_sided(LabelledClusters)
    term = LabelTerm()(vae.model, vae.guide, X, Y, KNOWN)
    gradient = torch.autograd.grad(term, vae.canonicalizer.module.layers[-1].weight, retain_graph=True)[0]
    assert gradient[-1].abs().max() > 0
    features = vae.canonicalizer(X)
    q = torch.zeros(12, 4)
    log_m = features[:, -2:].log_softmax(-1)
    for m in range(2):
        turn = features[:, 3 * m : 3 * m + 2]
        h_c, _ = vae.encoder(rotate(X, turn * torch.tensor([1.0, -1.0]))).split(vae.features, -1)
        q = q + log_m[:, m, None].exp() * vae.clusters.head(h_c).probs
    torch.testing.assert_close(term, -q[KNOWN, Y[KNOWN]].log().sum(), rtol=1e-4, atol=1e-4)


def test_label_term_says_what_it_needs():
    plain, vae = mixture(), mixture(LabelledClusters)
    with pytest.raises(ValueError, match=r"expected data \(x, y, known, ...\), got 1 arrays"):
        LabelTerm()(plain.model, plain.guide, X)
    with pytest.raises(ValueError, match=r"one of \['c', 'z_c'\], got 'd'"):
        LabelTerm("d")(vae.model, vae.guide, X, Y, KNOWN)


def test_q_of_c_learns_from_the_labels():
    vae = mixture(LabelledClusters)
    objective = Regularized(EnumeratedELBO(), label=LabelTerm(weight=5.0))
    fit = ppvae.fit(vae, (X, Y, KNOWN), objective=objective, epochs=60, lr=3e-2, seed=0, progress=False)
    c = ppvae.encode(vae, X, Y, torch.zeros(12, dtype=torch.bool))["c"]
    assert (c[KNOWN] == Y[KNOWN]).all()
    assert fit.history["label"][-1] < fit.history["label"][0]


def test_generate_draws_from_the_class_that_is_given():
    vae = mixture(LabelledClusters)
    y = torch.full((400,), 2)
    with torch.no_grad():
        z_c = poutine.trace(vae.model).get_trace(X[:1].expand(400, 1, 6, 6), y, y > 0).nodes["z_c"]["value"]
    error = vae.clusters.log_scale[2].exp() / math.sqrt(400)
    assert ((z_c.mean(0) - vae.clusters.loc[2]).abs() < 5 * error).all()
    assert ppvae.generate(vae, 3, y[:3].numpy(), (y[:3] > 0).numpy(), seed=0).shape == (3, 1, 6, 6)


def test_log_likelihood_samples_the_cluster():
    """Importance sampling reaches the evidence that the mixture summed out has."""
    summed, enumerated = mixture(Clusters), mixture(EnumeratedClusters)
    enumerated.load_state_dict(summed.state_dict())
    a, b = (ppvae.log_likelihood(vae, X, num_samples=20_000, seed=0) for vae in (summed, enumerated))
    assert (abs(a.values - b.values) < 5 * (a.error**2 + b.error**2) ** 0.5).all()


def test_a_label_out_of_range_says_so():
    with pytest.raises(ValueError, match=r"given\[0\]: expected classes 0 to 3, got values from 0 to 4"):
        ppvae.encode(mixture(LabelledClusters), X, Y + (Y == 3), KNOWN)


def test_the_elbo_refuses_an_enumerated_latent_and_says_what_to_take():
    vae = mixture()
    with pytest.raises(ValueError, match=r"site 'c': Categorical has no pathwise gradient.*EnumeratedELBO"):
        ELBO().differentiable_loss(vae.model, vae.guide, X)


def test_entry_points_and_svi_agree():
    vae, objective, numbers = mixture(), EnumeratedELBO(), []
    for entry in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        with seeded(3):
            numbers.append(entry(vae.model, vae.guide, X).detach().item())
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
    with seeded(3):
        numbers.append(svi.step(X))
    assert numbers == pytest.approx([numbers[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("labelled", [False, True])
def test_traceable(labelled):
    """One graph without reading a value back: the traced loss under the same seed is the eager one."""
    vae = mce(LabelledClusters if labelled else EnumeratedClusters)
    given = (Y, KNOWN) if labelled else ()
    with isolated_param_store(), pyro.validation_enabled(False):
        with seeded(0):
            graph = make_fx(lambda x: EnumeratedELBO().differentiable_loss(vae.model, vae.guide, x, *given))(X)
        with seeded(2):
            eager = EnumeratedELBO().differentiable_loss(vae.model, vae.guide, X, *given).detach()
        with seeded(2):
            torch.testing.assert_close(graph(X).detach(), eager)
