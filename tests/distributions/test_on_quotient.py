"""Laws on quotients: one density on an orbit, mass one, samples, and what a KL on the cover says of theirs."""

import math
import pickle

import pytest
import torch
from torch.distributions import kl_divergence

from ppvae.distributions import (
    FrameAverage,
    MatrixFisher,
    OnQuotient,
    SO3Normal,
    SO3Uniform,
    TangentNormal,
    Uniform,
    VonMisesFisher,
    center,
)
from ppvae.infer.sites import manifold_of
from ppvae.manifolds import SO3, Circle, Quotient, circle, quotient

F64 = torch.float64
ANGLES = 2 * math.pi * torch.arange(400, dtype=F64) / 400
KLEIN, PROJECTIVE, AXES, MOEBIUS = (quotient(name) for name in ("klein", "projective", "axes", "moebius"))
#: The circle by half a turn, again a circle, of half the length.
HALF = Quotient(Circle(), [lambda x: x, torch.neg], lambda x: circle.exp(2 * circle.log(x)))


def on_circle(t, kappa=5.0):
    return VonMisesFisher(circle.exp(torch.as_tensor(t, dtype=F64)), torch.tensor(kappa, dtype=F64))


def on_torus(t, p, kappa=4.0):
    return VonMisesFisher(circle.exp(torch.tensor([t, p], dtype=F64)), torch.tensor(kappa, dtype=F64)).to_event(1)


def on_cylinder(t, v):
    loc = torch.tensor([math.cos(t), math.sin(t), v], dtype=F64)
    return TangentNormal(MOEBIUS.base, loc, torch.tensor([[0.5, 0.0], [0.2, 0.3]], dtype=F64))


def rotation(seed=0):
    torch.manual_seed(seed)
    return SO3().uniform(torch.zeros(3, 3, dtype=F64))


LAWS = {
    "circle": OnQuotient(on_circle(1.0), HALF),
    "klein": OnQuotient(on_torus(1.0, 2.0), KLEIN),
    "moebius": OnQuotient(on_cylinder(1.0, 0.5), MOEBIUS),
    "projective": OnQuotient(VonMisesFisher(torch.eye(3, dtype=F64)[0], torch.tensor(2.0, dtype=F64)), PROJECTIVE),
    "axes": OnQuotient(SO3Normal(rotation(), torch.tensor([0.3, 0.5, 0.7], dtype=F64)), AXES),
}


@pytest.mark.parametrize("name", LAWS)
def test_all_points_of_an_orbit_have_one_density_the_sum_over_them(name):
    law = LAWS[name]
    z = law.sample((50,))
    images = law.manifold.orbit(z)
    found = law.log_prob(images)
    assert torch.allclose(found, found[:1].expand_as(found), atol=1e-12)
    assert torch.allclose(found[0].exp(), law.base.log_prob(images).exp().sum(0), atol=1e-12)
    assert (law.log_prob(z) >= law.base.log_prob(z)).all()


def torus_nodes():
    t, p = torch.meshgrid(ANGLES, ANGLES, indexing="ij")
    return torch.stack([circle.exp(t), circle.exp(p)], -2).flatten(0, 1)


@pytest.mark.parametrize(
    "name, nodes, volume", [("circle", circle.exp(ANGLES), math.pi), ("klein", torus_nodes(), 2 * math.pi**2)]
)
def test_mass_is_one_by_quadrature_over_the_cover(name, nodes, volume):
    assert LAWS[name].log_prob(nodes).exp().mean().item() * volume == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["projective", "axes"])
def test_mass_is_one_over_uniform_points(name):
    law = LAWS[name]
    flat = Uniform(law.manifold, law.event_shape, dtype=F64)
    torch.manual_seed(0)
    w = (law.log_prob(z := flat.sample((40000,))) - flat.log_prob(z)).exp()
    assert abs(w.mean().item() - 1) < 5 * w.std().item() / 200


def test_a_tangent_normal_on_the_quotient_is_one_on_its_cover():
    cover = on_cylinder(1.0, 0.5)
    law = TangentNormal(MOEBIUS, cover.loc, cover.scale_tril)
    z = cover.sample((30,))
    assert torch.allclose(law.log_prob(z), OnQuotient(cover, MOEBIUS).log_prob(z), atol=1e-13)
    assert (law.log_prob(z) - cover.log_prob(z)).max() > 1e-3


def kl_on_half(q, p):
    """By the trapezoidal rule over the cover, which counts each point of the quotient twice."""
    z = circle.exp(ANGLES)
    log_q, log_p = OnQuotient(q, HALF).log_prob(z), OnQuotient(p, HALF).log_prob(z)
    return (log_q.exp() * (log_q - log_p)).mean().item() * math.pi


@pytest.mark.parametrize("t, kappa", [(0.0, 5.0), (1.0, 5.0), (2.0, 0.5), (math.pi, 5.0)])
def test_a_quotient_takes_from_the_kl(t, kappa):
    q, p = on_circle(0.0), on_circle(t, kappa)
    assert -1e-12 <= kl_on_half(q, p) <= kl_divergence(q, p).item() + 1e-12


def test_opposite_points_of_the_circle_are_one_in_the_quotient():
    q, p = on_circle(0.0), on_circle(math.pi)
    assert kl_divergence(q, p).item() == pytest.approx(8.93, abs=0.01)
    assert kl_on_half(q, p) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kappa", [0.1, 1.0, 5.0, 50.0])
def test_of_a_prior_that_is_invariant_the_kl_falls_by_log_of_the_order_at_most(kappa):
    q, flat = on_circle(0.0, kappa), Uniform(Circle(), (2,), dtype=F64)
    on_cover, here = kl_divergence(q, flat).item(), kl_on_half(q, flat)
    assert on_cover - math.log(2) - 1e-12 <= here <= on_cover + 1e-12
    if kappa == 50.0:  # where the images do not overlap the bound is met
        assert here == pytest.approx(on_cover - math.log(2), abs=1e-9)


def test_the_uniform_law_of_a_quotient_is_that_of_the_cover():
    z = rotation()
    assert torch.allclose(
        OnQuotient(SO3Uniform(dtype=F64), AXES).log_prob(z), Uniform(AXES, (3, 3), dtype=F64).log_prob(z)
    )


def test_frame_average_is_with_respect_to_the_volume_of_the_cover():
    """Its log density is lower by log 4: -4.369 of the uniform law, -2.983 on the quotient."""
    base = MatrixFisher(3 * torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0)))
    z = SO3().uniform(torch.zeros(50, 3, 3, dtype=F64))
    assert torch.allclose(OnQuotient(base, AXES).log_prob(z) - math.log(4), FrameAverage(base).log_prob(z), atol=1e-12)
    flat = SO3Uniform(dtype=F64)
    assert FrameAverage(flat).log_prob(z[0]).item() == pytest.approx(-4.369, abs=1e-3)
    assert OnQuotient(flat, AXES).log_prob(z[0]).item() == pytest.approx(-2.983, abs=1e-3)


def test_shapes_gradients_copies_and_what_is_refused():
    loc = circle.exp(torch.randn(4, 2, dtype=F64)).requires_grad_()
    law = OnQuotient(VonMisesFisher(loc, torch.ones(4, 2, dtype=F64)).to_event(1), KLEIN)
    assert law.batch_shape == (4,) and law.event_shape == (2, 2) and law.has_rsample
    assert law.expand((5, 4)).sample((3,)).shape == (3, 5, 4, 2, 2)
    z = law.rsample((3,))
    assert z.shape == (3, 4, 2, 2) and law.log_prob(z).shape == (3, 4) and law.log_prob(z[0, 0]).shape == (4,)
    (gradient,) = torch.autograd.grad(law.log_prob(z).sum(), loc)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert torch.equal(center(law), loc) and manifold_of(law) is KLEIN
    copy = pickle.loads(pickle.dumps(OnQuotient(on_torus(1.0, 2.0), KLEIN)))
    assert torch.equal(copy.log_prob(z), LAWS["klein"].log_prob(z))
    with pytest.raises(ValueError, match="whose points have 2 axes, got a VonMisesFisher of event_shape"):
        OnQuotient(VonMisesFisher(loc.detach(), torch.ones(4, 2, dtype=F64)), KLEIN)
    with pytest.raises(ValueError):
        OnQuotient(on_torus(1.0, 2.0), KLEIN, validate_args=True).log_prob(2 * z)
