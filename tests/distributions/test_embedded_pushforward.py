import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.stats import kstest
from torch import nn
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from ppvae.distributions import VonMisesFisher
from ppvae.distributions.center import center
from ppvae.distributions.embedded_pushforward import EmbeddedPushforward
from ppvae.distributions.unimodal_beta import UnimodalBeta
from ppvae.distributions.unrolled_circle import UnrolledCircle
from ppvae.manifolds.embeddings import (
    CircleEmbedding,
    MoebiusEmbedding,
    SphereEmbedding,
    SwissRollEmbedding,
    TorusEmbedding,
)
from ppvae.testing import check_distribution

EMBEDDINGS = {
    "circle": CircleEmbedding(),
    "torus": TorusEmbedding(),
    "sphere": SphereEmbedding(),
    "swiss roll": SwissRollEmbedding(0.1),
    "moebius": MoebiusEmbedding(),
}


def uniform(n, dtype=torch.float64):
    return dist.Uniform(torch.zeros(n, dtype=dtype), torch.ones(n, dtype=dtype)).to_event(1)


class Curve(nn.Module):
    """A smooth random curve in R^3."""

    dim, ambient = 1, 3

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, z):
        return torch.cat([z, self.net(6 * z)], -1)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_battery(name):
    f = EMBEDDINGS[name]
    flat = EmbeddedPushforward(uniform(f.dim), f)
    report = check_distribution(
        lambda p, q: EmbeddedPushforward(UnimodalBeta(p, q).to_event(1), f),
        {
            "p": torch.tensor([[0.5, 1.0], [4.0, 2.0]])[:, : f.dim],
            "q": torch.tensor([[2.0, 1.0], [3.0, 5.0]])[:, : f.dim],
        },
        proposal=flat,
        kl_to=[flat],
        num_samples=2**13,
    )
    missing = {name for name, figure in report.items() if isinstance(figure, str)}
    assert missing == {"argument validation", "moments", "entropy", "isometry"}


def test_battery_of_the_seamless_law_on_the_circle():
    f = CircleEmbedding()
    report = check_distribution(
        lambda loc, k: EmbeddedPushforward(
            UnrolledCircle(VonMisesFisher(normalize(loc, dim=-1)[..., None, :], k[..., None])).to_event(1), f
        ),
        {"loc": torch.tensor([[1.0, 0.0], [1.0, 1e-3], [-1.0, 1.0]]), "k": torch.tensor([0.3, 7.0, 20.0])},
        kl_to=[EmbeddedPushforward(uniform(1), f)],
    )
    assert isinstance(report["pathwise gradient"], float) and isinstance(report["mass"], float)


def test_f_proj_sends_uniform_to_uniform():
    law = EmbeddedPushforward(uniform(1), CircleEmbedding())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = law.sample((4000,))
    assert torch.equal(law.log_prob(x), torch.full((4000,), -math.log(2 * math.pi), dtype=torch.float64))
    turns = np.arctan2(*x.numpy().T[::-1]) / (2 * np.pi) % 1
    assert kstest(turns, "uniform").pvalue > 1e-3


def test_the_sphere_chart_sends_uniform_to_uniform():
    law = EmbeddedPushforward(uniform(2), SphereEmbedding())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = law.sample((4000,))
    for direction in ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0]):  # heights are uniform on [-1, 1], Archimedes
        assert kstest(((x @ torch.tensor(direction).double()) + 1) / 2, "uniform").pvalue > 1e-3


def test_mass_one_along_a_learned_curve_by_its_arc_length():
    f = Curve()
    law = EmbeddedPushforward(UnimodalBeta(torch.tensor([2.0]).double(), torch.tensor([5.0]).double()).to_event(1), f)
    z = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        x = f(z)
        length = (x[1:] - x[:-1]).norm(dim=-1)
        middle = f((z[1:] + z[:-1]) / 2)
        mass = (law.log_prob(middle).exp() * length).sum()
    assert float(mass) == pytest.approx(1, abs=1e-5)


def test_samples_remember_their_z_and_nothing_is_inverted():
    class Deep(nn.Module):
        dim, ambient = 5, 6  # too many dimensions for a grid

        def forward(self, z):
            return torch.cat([z.sin(), z.prod(-1, keepdim=True)], -1)

    law = EmbeddedPushforward(uniform(5), Deep())
    x = law.rsample((3,))
    torch.testing.assert_close(law.log_prob(x), law.log_prob_of(law.hidden(x)))
    with pytest.raises(ValueError, match="give it a method inverse"):
        law.log_prob(x.clone())


def test_a_site_with_a_learned_embedding_has_the_same_density_when_replayed():
    f = Curve()

    def model():
        with pyro.plate("data", 7):
            return pyro.sample("x", EmbeddedPushforward(uniform(1), f))

    trace = poutine.trace(model).get_trace()
    again = poutine.trace(poutine.replay(model, trace=trace)).get_trace()  # another law, which inverts
    torch.testing.assert_close(again.log_prob_sum(), trace.log_prob_sum(), rtol=1e-9, atol=0)


def test_points_off_the_manifold_raise():
    law = EmbeddedPushforward(uniform(1), Curve(), validate_args=True)
    x = law.sample((5,))
    law.log_prob(x.clone())
    with pytest.raises(ValueError):
        law.log_prob(x + 1e-4)


def test_the_kl_is_that_of_the_base_for_one_embedding_alone():
    f, g = Curve(), Curve()
    q = UnimodalBeta(torch.tensor([3.0]).double(), torch.tensor([1.0]).double()).to_event(1)
    torch.testing.assert_close(
        kl_divergence(EmbeddedPushforward(q, f), EmbeddedPushforward(uniform(1), f)), kl_divergence(q, uniform(1))
    )
    with pytest.raises(NotImplementedError):
        kl_divergence(EmbeddedPushforward(q, f), EmbeddedPushforward(uniform(1), g))


def test_a_map_that_is_not_injective_has_a_smaller_kl_on_the_manifold():
    # z and 1 - z meet: on the half circle q is the sum of its two branches.
    q = torch.distributions.Beta(torch.tensor(4.0).double(), torch.tensor(1.5).double())
    z = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 40_000
    folded = q.log_prob(z).exp() + q.log_prob(1 - z).exp()
    on_the_manifold = float((folded / 2 * (folded / 2).log()).mean())
    on_the_interval = float(
        kl_divergence(q, torch.distributions.Uniform(torch.zeros(()).double(), torch.ones(()).double()))
    )
    assert 0 < on_the_manifold < on_the_interval - 0.1


def test_gradients_reach_base_and_embedding():
    f = Curve()
    p = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    x = EmbeddedPushforward(UnimodalBeta(p, p).to_event(1), f).rsample((10,))
    grads = torch.autograd.grad(x.sum(), [p, *f.parameters()])
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in grads)


def test_the_center_lies_on_the_manifold():
    f = MoebiusEmbedding()
    law = EmbeddedPushforward(UnimodalBeta(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])).to_event(1), f)
    torch.testing.assert_close(center(law), f(torch.tensor([4 / 6, 0.5])))


def test_a_base_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match=r"event_shape \(2,\) for SphereEmbedding, got \(1,\)"):
        EmbeddedPushforward(uniform(1), SphereEmbedding())


def test_a_base_on_another_box_is_refused():
    with pytest.raises(ValueError, match=r"on \[0, 1\]\^n or R\^n, got one on \[-1, 1\]"):
        EmbeddedPushforward(dist.Uniform(-torch.ones(1), torch.ones(1)).to_event(1), Curve(), validate_args=True)


def test_the_z_of_a_point_off_the_manifold_is_refused_too():
    law = EmbeddedPushforward(uniform(1), Curve(), validate_args=True)
    x = law.sample((5,))
    torch.testing.assert_close(law.hidden(x.clone()), law.hidden(x))
    with pytest.raises(ValueError):
        law.hidden(x + 1e-4)
