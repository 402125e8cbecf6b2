"""A plate within a datum, under every objective: the guide is the posterior, so every bound is the evidence."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.infer import (
    CIWAE_ELBO,
    ELBO,
    IWAE_ELBO,
    MIWAE_ELBO,
    PIWAE_ELBO,
    Beta_ELBO,
    Capacity_ELBO,
    DReG_ELBO,
    EnumeratedELBO,
    FreeBits_ELBO,
    InfoVAE_ELBO,
    TotalCorrelation_ELBO,
)
from ppvae.infer.objectives import names
from ppvae.random import seeded

P, S = 3, 0.7
X = torch.tensor([[1.0, 0.2, -0.4], [0.3, -1.0, 2.0]])


class Parts(nn.Module):
    """g ~ N(0, 1), z_p ~ N(g, 1), x_p ~ N(z_p, S^2) for the parts p of each datum; the guide is the posterior."""

    shape = torch.Size([P])

    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(S))

    def model(self, x):
        pyro.module("parts", self)
        with pyro.plate("data", x.shape[0]):
            g = pyro.sample("g", dist.Normal(torch.zeros(x.shape[0]), 1.0))
            with pyro.plate("parts_of_one", P, dim=-2):
                z = pyro.sample("z", dist.Normal(g, 1.0))
            loc = z.unsqueeze(-1).transpose(-3, -1)  # (..., 1, n, P): where the parts were is a dimension of size 1
            pyro.sample("x", dist.Normal(loc, self.s).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("parts", self)
        precision, within = 1 + P / (1 + S**2), 1 + S**-2
        with pyro.plate("data", x.shape[0]):
            g = pyro.sample("g", dist.Normal(x.sum(-1) / (1 + S**2) / precision, precision**-0.5))
            with pyro.plate("parts_of_one", P, dim=-2):
                pyro.sample("z", dist.Normal((g + x.mT / S**2) / within, within**-0.5))


EVIDENCE = dist.MultivariateNormal(torch.zeros(P), torch.ones(P, P) + (1 + S**2) * torch.eye(P)).log_prob(X).sum()
within, var_g = 1 + S**-2, 1 / (1 + P / (1 + S**2))
mean = (X.sum(-1, keepdim=True) / (1 + S**2) * var_g + X / S**2) / within
RECONSTRUCTION = (
    -math.log(2 * math.pi * S**2) / 2 - ((X - mean) ** 2 + 1 / within + var_g / within**2) / (2 * S**2)
).sum()
KL = (RECONSTRUCTION - EVIDENCE).item()

#: draw by draw: the weights of the exact posterior are all alike
WEIGHTED = {
    "iwae": IWAE_ELBO(4, max_plate_nesting=2),
    "dreg": DReG_ELBO(4, max_plate_nesting=2),
    "miwae": MIWAE_ELBO(4, 2, max_plate_nesting=2),
    "ciwae": CIWAE_ELBO(0.3, 4, max_plate_nesting=2),
    "piwae": PIWAE_ELBO(4, 2, max_plate_nesting=2),
    "iwae, one": IWAE_ELBO(1, max_plate_nesting=2),
}
K = 20_000
#: in the mean, with the weight of the KL that each has
MEAN = {
    "elbo": (ELBO(K, max_plate_nesting=2), KL),
    "enumerated": (EnumeratedELBO(K, max_plate_nesting=2), KL),
    "beta": (Beta_ELBO(3.0, K, max_plate_nesting=2), 3 * KL),
    "capacity": (Capacity_ELBO(0.5, 2.0, K, max_plate_nesting=2), 2 * abs(KL - 2 * 0.5)),
    "capacity, above": (Capacity_ELBO(5.0, 2.0, K, max_plate_nesting=2), 2 * abs(KL - 2 * 5.0)),
    "free-bits": (FreeBits_ELBO(5.0, K, max_plate_nesting=2), 2 * 2 * 5.0),
    "info": (InfoVAE_ELBO(alpha=0.0, lambda_=1.0, num_particles=K, max_plate_nesting=2), KL),
    "info, a part": (InfoVAE_ELBO({"g": lambda p, q: q.sum() * 0}, 0.0, 2.0, 200, max_plate_nesting=2), KL),
}


@pytest.fixture(autouse=True)
def _seed():
    with seeded(0), pyro.validation_enabled(True):
        yield


@pytest.mark.parametrize("name", WEIGHTED)
def test_importance_weighted_bounds_are_the_evidence_draw_by_draw(name):
    vae = Parts()
    assert -WEIGHTED[name].loss(vae.model, vae.guide, X).item() == pytest.approx(EVIDENCE.item(), rel=1e-5)


@pytest.mark.parametrize("name", MEAN)
def test_other_bounds_have_their_formula_in_the_mean(name):
    objective, latent = MEAN[name]
    vae = Parts()
    terms = objective.all_terms(vae.model, vae.guide, X)
    error = 0.1 * math.sqrt(K / objective.num_particles)
    assert terms["reconstruction"].item() == pytest.approx(RECONSTRUCTION.item(), abs=error)
    assert terms["kl"].item() == pytest.approx(KL, abs=error)
    assert (terms["loss"] + terms["reconstruction"]).item() == pytest.approx(latent, abs=3 * error)


def test_the_total_correlation_and_divergences_say_that_a_plate_within_a_datum_has_no_place_there():
    vae = Parts()
    for objective in (TotalCorrelation_ELBO(max_plate_nesting=2), InfoVAE_ELBO("mmd", 0.5, 2.0, max_plate_nesting=2)):
        with pytest.raises(ValueError, match=r"site 'z': .* got the plates \['data', 'parts_of_one'\]"):
            objective.loss(vae.model, vae.guide, X)


def test_every_objective_is_here():
    assert set(names()) <= {*WEIGHTED, *MEAN, "total-correlation"}


def test_particles_that_a_decoder_moves_into_a_gap_are_refused():
    """Without rule 7 the loss would be a sum over 4 decoders for each datum."""

    class Moved(Parts):
        def model(self, x):
            with pyro.plate("data", x.shape[0]):
                g = pyro.sample("g", dist.Normal(torch.zeros(x.shape[0]), 1.0))
                with pyro.plate("parts_of_one", P, dim=-2):
                    z = pyro.sample("z", dist.Normal(g, 1.0))
                pyro.sample("x", dist.Normal(z.movedim(-2, -1), S).to_event(1), obs=x)

    vae = Moved()
    ELBO(1, max_plate_nesting=2).loss(vae.model, vae.guide, X)
    with pytest.raises(ValueError, match=r"site 'x': .* got the batch shape \(4, 4, 2\) with plates at \[-1, -3\]"):
        ELBO(4, max_plate_nesting=2).loss(vae.model, vae.guide, X)


def test_log_likelihood():
    vae = Parts()
    found = ppvae.log_likelihood(vae, X, num_samples=3, seed=0)
    expected = dist.MultivariateNormal(torch.zeros(P), torch.ones(P, P) + (1 + S**2) * torch.eye(P)).log_prob(X)
    torch.testing.assert_close(torch.as_tensor(found.values).float(), expected)


def test_gradients_for_the_model_are_those_of_the_evidence():
    """d/ds of the evidence, for guides that are the posterior at s = S."""
    s = torch.tensor(S, requires_grad=True)
    covariance = torch.ones(P, P) + (1 + s**2) * torch.eye(P)
    evidence = dist.MultivariateNormal(torch.zeros(P), covariance).log_prob(X).sum()
    (expected,) = torch.autograd.grad(evidence, s)
    for objective in (ELBO(20_000, 2), IWAE_ELBO(20_000, 2), DReG_ELBO(20_000, 2)):
        vae = Parts()
        objective.loss_and_grads(vae.model, vae.guide, X)
        assert -vae.s.grad.item() == pytest.approx(expected.item(), abs=0.05), type(objective)


class Classes(nn.Module):
    """d ~ Cat, c_p ~ Cat(. | d), x_p ~ N(a_c, 1), all enumerated; the guide is the posterior, c first."""

    shape = torch.Size([P])
    a = torch.tensor([-1.0, 0.5, 2.0])
    by_d = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    of_d = torch.tensor([0.3, 0.7])

    def model(self, x):
        enumerate_ = {"enumerate": "parallel"}
        with pyro.plate("data", x.shape[0]):
            d = pyro.sample("d", dist.Categorical(self.of_d), infer=enumerate_)
            with pyro.plate("parts_of_one", P, dim=-2):
                c = pyro.sample("c", dist.Categorical(self.by_d[d]), infer=enumerate_)
                pyro.sample("x", dist.Normal(self.a[c], 1.0), obs=x.mT)

    def joint(self, x):
        """log p(x_p, c_p | d), shape (n, P, d, c)."""
        return self.by_d.log() + dist.Normal(self.a, 1.0).log_prob(x[..., None, None])

    def guide(self, x):
        log_d = self.of_d.log() + self.joint(x).logsumexp(-1).sum(-2)
        log_c = self.joint(x).movedim(0, 1)  # (P, n, d, c)
        enumerate_ = {"enumerate": "parallel"}
        with pyro.plate("data", x.shape[0]):
            d = pyro.sample("d", dist.Categorical(logits=log_d), infer=enumerate_)
            with pyro.plate("parts_of_one", P, dim=-2):
                rows, parts = torch.arange(x.shape[0]), torch.arange(P)[:, None]
                pyro.sample("c", dist.Categorical(logits=log_c[parts, rows, d]), infer=enumerate_)


def test_classes_of_the_parts_are_summed_out_exactly():
    vae = Classes()
    evidence = (vae.of_d.log() + vae.joint(X).logsumexp(-1).sum(-2)).logsumexp(-1).sum()
    terms = EnumeratedELBO(max_plate_nesting=2).all_terms(vae.model, vae.guide, X)
    assert -terms["loss"].item() == pytest.approx(evidence.item(), rel=1e-5)
    pyros = pyro.infer.TraceEnum_ELBO(max_plate_nesting=2).loss(vae.model, vae.guide, X)
    assert pyros == pytest.approx(terms["loss"].item(), rel=1e-5)
