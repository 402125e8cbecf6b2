import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from ppvae.distributions import PowerSpherical, VonMisesFisher, WrappedNormal
from ppvae.distributions.center import center
from ppvae.distributions.unrolled_circle import UnrolledCircle
from ppvae.manifolds import Circle
from ppvae.testing import check_distribution

UNIFORM = dist.Uniform(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))


def test_battery():
    report = check_distribution(
        lambda loc, k: UnrolledCircle(VonMisesFisher(normalize(loc, dim=-1), k)),
        {"loc": torch.tensor([[1.0, 0.0], [1.0, 1e-3], [-1.0, 1.0]]), "k": torch.tensor([0.3, 7.0, 20.0])},
        proposal=UNIFORM,
        kl_to=[UNIFORM],
        skip={"pathwise gradient": "holds for periodic functions alone, as tested on the circle's embedding"},
    )
    missing = {name for name, figure in report.items() if isinstance(figure, str)}
    assert missing == {"pathwise gradient", "argument validation", "moments", "isometry"}


def test_it_straddles_the_seam():
    law = UnrolledCircle(VonMisesFisher(torch.tensor([1.0, 0.0]), torch.tensor(50.0)))
    z = torch.tensor([0.001, 0.999, 0.5])
    density = law.log_prob(z)
    assert density[0] == pytest.approx(float(density[1]), abs=1e-4) and density[2] < density[0] - 50
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = law.sample((1000,))
    assert ((draws < 0.1) | (draws > 0.9)).all() and 0.4 < (draws < 0.1).float().mean() < 0.6
    assert center(law) == 0


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
def test_kl_to_uniform_is_that_on_the_circle(family):
    law = UnrolledCircle(family(torch.tensor([0.0, 1.0]).double(), torch.tensor(5.0).double()))
    torch.testing.assert_close(kl_divergence(law, UNIFORM), -law.entropy())
    z = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    log_q = law.log_prob(z)
    torch.testing.assert_close(kl_divergence(law, UNIFORM), (log_q.exp() * log_q).mean(), atol=1e-9, rtol=0)


def test_a_wrapped_normal_has_a_density_and_no_closed_kl():
    scale = torch.tensor([0.3]).double()
    law = UnrolledCircle(WrappedNormal(Circle(), torch.tensor([1.0, 0.0]).double(), scale))
    z = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    assert float(law.log_prob(z).exp().mean()) == pytest.approx(1, abs=1e-12)
    with pytest.raises(NotImplementedError):
        kl_divergence(law, UNIFORM)


def test_turns_stay_below_one():
    tiny = torch.tensor([[1.0, -1e-30], [1.0, -1e-9]])
    turns = center(UnrolledCircle(VonMisesFisher(tiny, torch.tensor(1.0), validate_args=False)))
    assert (turns >= 0).all() and (turns < 1).all()


def test_a_law_elsewhere_is_refused():
    with pytest.raises(ValueError, match="circle"):
        UnrolledCircle(VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), torch.tensor(1.0)))
    assert math.isinf(
        kl_divergence(
            UnrolledCircle(VonMisesFisher(torch.tensor([1.0, 0.0]), torch.tensor(1.0))),
            dist.Uniform(torch.tensor(0.0), torch.tensor(0.5)),
        )
    )
