"""The wrapped normal on circle, torus, spheres and hyperbolic space: mass, wraps, symmetry, the two poles."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from ppvae.distributions.center import center
from ppvae.distributions.hyperspherical_uniform import HypersphericalUniform
from ppvae.distributions.wrapped_normal import WrappedNormal
from ppvae.manifolds import SO3, Circle, Hyperboloid, Sphere, Torus, circle
from ppvae.manifolds.hyperboloid import boost, from_origin, hyperboloid, to_origin
from ppvae.testing import check_distribution

F64 = torch.float64


def unit(*shape, seed=0):
    x = torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)


def normalised(x):
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 4.0, 15.0, 40.0])
def test_density_on_the_circle_is_the_theta_function(sigma):
    t = torch.tensor([0.0, 1e-3, 0.5, 2.0, 3.0, math.pi, -1.0], dtype=F64)
    law = WrappedNormal(Circle(), circle.exp(torch.tensor(0.7, dtype=F64)), torch.tensor([sigma], dtype=F64))
    got = law.log_prob(circle.exp(0.7 + t))
    for ti, value in zip(t.tolist(), got.tolist(), strict=True):
        if sigma < 1:
            exact = mpmath.log(sum(mpmath.npdf(ti + 2 * mpmath.pi * k, 0, sigma) for k in range(-60, 61)))
        else:
            exact = mpmath.log(mpmath.jtheta(3, ti / 2, mpmath.exp(-(sigma**2) / 2)) / (2 * mpmath.pi))
        assert value == pytest.approx(float(exact), rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("m, sigma", [(3, 0.1), (3, 1.0), (3, 5.0), (5, 1.0), (6, 1.0), (12, 1.0), (12, 3.0)])
def test_mass_on_spheres(m, sigma):
    """The principal branch alone holds .993 of the mass on S^2 at sigma = 1, .870 on S^6, .373 on S^12."""
    x, w = np.polynomial.legendre.leggauss(400)
    largest = min(math.pi, 14 * sigma)
    theta, w = torch.tensor(largest * (x + 1) / 2), torch.tensor(w * largest / 2)
    e = torch.eye(m, dtype=F64)
    law = WrappedNormal(Sphere(), e[0], torch.full((m - 1,), sigma, dtype=F64))
    z = theta.cos().unsqueeze(-1) * e[0] + theta.sin().unsqueeze(-1) * e[1]
    log_area = math.log(2) + (m - 1) / 2 * math.log(math.pi) - math.lgamma((m - 1) / 2)
    mass = (w * (log_area + (m - 2) * theta.sin().log() + law.log_prob(z)).exp()).sum().item()
    assert mass == pytest.approx(1, abs=1e-8)
    alone = WrappedNormal(Sphere(), e[0], torch.full((m - 1,), sigma, dtype=F64), num_wraps=0)
    mass = (w * (log_area + (m - 2) * theta.sin().log() + alone.log_prob(z)).exp()).sum().item()
    assert mass == pytest.approx(stats.chi(m - 1).cdf(math.pi / sigma), abs=1e-8)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 16, 17, 64])
@pytest.mark.parametrize("sigma", [0.5, 5.0, 12.0, 30.0, 90.0, 1e3, 1e6])
def test_no_mass_is_lost_at_any_scale(m, sigma):
    """The 16 turns about 0 that were summed before lose 0.16 of it at m = 3, sigma = 52, and all at m = 64."""
    x, w = np.polynomial.legendre.leggauss(600)
    theta, w = torch.tensor(math.pi * (x + 1) / 2), torch.tensor(w * math.pi / 2)
    e = torch.eye(m, dtype=F64)
    z = theta.cos().unsqueeze(-1) * e[0] + theta.sin().unsqueeze(-1) * e[1]
    log_q = WrappedNormal(Sphere(), e[0], torch.full((m - 1,), sigma, dtype=F64)).log_prob(z)
    log_area = math.log(2) + (m - 1) / 2 * math.log(math.pi) - math.lgamma((m - 1) / 2)
    density = (log_area + (m - 2) * theta.sin().log() + log_q).exp()
    assert (w * density).sum().item() == pytest.approx(1, abs=1e-10)
    if sigma >= 1e3:  # the angle is uniform there
        assert torch.allclose(density, torch.full_like(density, 1 / math.pi), rtol=1e-5)


def test_mass_of_unequal_scales_on_the_sphere():
    z, w = np.polynomial.legendre.leggauss(200)
    z, w = torch.tensor(z), torch.tensor(w)
    phi = 2 * math.pi * torch.arange(400, dtype=F64) / 400
    rho = (1 - z**2).sqrt()[:, None]
    # The grid's axis runs through loc, where the density is infinite.
    law = WrappedNormal(Sphere(), torch.tensor([0.0, 0, 1], dtype=F64), torch.tensor([0.5, 1.1], dtype=F64))
    points = torch.stack(torch.broadcast_tensors(rho * phi.cos(), rho * phi.sin(), z[:, None]), -1)
    mass = (w[:, None] * 2 * math.pi / 400 * law.log_prob(points).exp()).sum()
    assert abs(mass - 1) < 1e-3, "the singularity 1 / sin at the antipode takes three digits of the quadrature"


def test_sphere_of_dimension_one_is_the_circle():
    loc, z, scale = unit(5, 2), unit(5, 2, seed=1), torch.full((5, 1), 2.0, dtype=F64)
    circle_law, sphere_law = WrappedNormal(Circle(), loc, scale), WrappedNormal(Sphere(), loc, scale)
    assert torch.allclose(circle_law.log_prob(z), sphere_law.log_prob(z), atol=1e-13)


def test_torus_is_a_product():
    loc, z, scale = unit(4, 3, 2), unit(4, 3, 2, seed=1), torch.tensor([0.3, 1.0, 5.0], dtype=F64)
    joint = WrappedNormal(Torus(3), loc, scale)
    assert joint.batch_shape == (4,)
    parts = [WrappedNormal(Circle(), loc[:, i], scale[i : i + 1]).log_prob(z[:, i]) for i in range(3)]
    assert torch.allclose(joint.log_prob(z), sum(parts), atol=1e-13)


def test_circular_moments():
    """E z = exp(-sigma^2 / 2) loc."""
    torch.manual_seed(0)
    law = WrappedNormal(Circle(), unit(2), torch.tensor([1.2], dtype=F64))
    z = law.sample((20000,))
    assert (z.mean(0) - math.exp(-0.72) * law.loc).abs().max() < 5 * z.std(0).max() / math.sqrt(20000)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sigma", [1.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("m", [2, 3, 17])
def test_draws_are_on_the_sphere_at_any_scale(m, sigma, dtype):
    torch.manual_seed(0)
    law = WrappedNormal(Sphere(), unit(m).to(dtype), torch.full((m - 1,), sigma, dtype=dtype), validate_args=False)
    z = law.sample((2000,))
    assert Sphere.support.check(z).all()
    assert ((z.norm(dim=-1) - 1).abs() < 4 * torch.finfo(dtype).eps).all()
    if sigma > 1:  # |v| is spread over many turns, and the angle is uniform
        assert stats.kstest(Sphere().dist(z, law.loc) / math.pi, "uniform").pvalue > 0.001


@pytest.mark.parametrize("m", [3, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 10.0, 1e3, 1e15])
def test_values_and_gradients_are_finite_at_the_poles(m, dtype, sigma):
    loc = unit(m).to(dtype)
    side = normalised(unit(m, seed=1).to(dtype) - (unit(m, seed=1).to(dtype) @ loc) * loc)
    small = [t * side for t in (1e-20, 1e-9, 1e-7, 1e-4, 1e-2)]
    z = torch.stack([loc, -loc, side, *(normalised(loc + t) for t in small), *(normalised(t - loc) for t in small)])
    leaves = (loc.requires_grad_(), torch.full((m - 1,), sigma, dtype=dtype).requires_grad_(), z.requires_grad_())
    log_q = WrappedNormal(Sphere(), *leaves[:2], validate_args=False).log_prob(z)
    assert log_q.isfinite().all()
    for gradient in torch.autograd.grad(log_q.sum(), leaves):
        assert gradient.isfinite().all()


def test_circle_passes_the_battery():
    loc = torch.randn(2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    g = circle.exp(torch.tensor(1.0, dtype=F64))
    check_distribution(
        lambda loc, scale: WrappedNormal(Circle(), normalised(loc), scale),
        {"loc": loc, "scale": torch.tensor([[0.5], [3.0]])},
        proposal=HypersphericalUniform(2, dtype=F64),
        isometry=(lambda z: circle.act(g, z), {"loc": circle.act(g, loc)}),
        grid=[{"loc": loc, "scale": torch.full((2, 1), s)} for s in (1e-2, 10.0)],
        points=lambda q: torch.stack([q.loc, -q.loc]),
    )


def test_torus_passes_the_battery():
    loc = torch.randn(2, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    check_distribution(
        lambda loc, scale: WrappedNormal(Torus(3), normalised(loc), scale),
        {"loc": loc, "scale": torch.tensor([[0.5, 1.0, 0.7], [3.0, 0.8, 0.4]])},
        proposal=HypersphericalUniform(2, dtype=F64).expand((3,)).to_event(1),
        points=lambda q: torch.stack([q.loc, -q.loc]),
    )


@pytest.mark.parametrize("m", [3, 5])
def test_sphere_passes_the_battery(m):
    loc = torch.randn(2, m, dtype=F64, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(m, m, dtype=F64, generator=torch.Generator().manual_seed(2)))[0]
    check_distribution(
        # Scales that are equal, as the frame in which unequal ones are measured does not turn with loc.
        lambda loc, scale: WrappedNormal(Sphere(), normalised(loc), scale.expand(*scale.shape[:-1], m - 1)),
        {"loc": loc, "scale": torch.tensor([[0.5], [0.9]])},
        proposal=HypersphericalUniform(m, dtype=F64),
        isometry=(lambda z: z @ turn.mT, {"loc": loc @ turn.mT}),
        grid=[{"loc": loc, "scale": torch.full((2, 1), s)} for s in (1e-2, 5.0)],
        points=lambda q: torch.stack([q.loc, -q.loc]),
        skip={} if m == 3 else dict.fromkeys(("mass", "sampler"), "q / uniform has no second moment at the antipode"),
    )


@pytest.mark.parametrize("m, sigma", [(2, 1.0), (3, 0.1), (3, 1.0), (3, 3.0), (6, 1.0), (11, 0.5), (65, 0.3)])
def test_mass_in_hyperbolic_space(m, sigma):
    """The integral over spheres about a point that is not the origin; their area is A sinh(r)^{m - 2}."""
    x, w = np.polynomial.legendre.leggauss(800)
    largest = sigma * (math.sqrt(m) + 12)
    r, w = torch.tensor(largest * (x + 1) / 2), torch.tensor(w * largest / 2)
    loc = from_origin(torch.full((m - 1,), 0.7 / math.sqrt(m - 1), dtype=F64))
    law = WrappedNormal(Hyperboloid(), loc, torch.full((m - 1,), sigma, dtype=F64))
    z = boost(loc, r.unsqueeze(-1) * unit(m - 1))
    log_area = math.log(2) + (m - 1) / 2 * math.log(math.pi) - math.lgamma((m - 1) / 2)
    mass = (w * (log_area + (m - 2) * r.sinh().log() + law.log_prob(z)).exp()).sum().item()
    assert mass == pytest.approx(1, abs=1e-9)


def test_mass_of_unequal_scales_in_the_hyperbolic_plane():
    """In polar coordinates about the origin, where the volume is sinh r dr dphi, and the law is elsewhere."""
    x, w = np.polynomial.legendre.leggauss(600)
    r, w = torch.tensor(6 * (x + 1)), torch.tensor(6 * w)
    phi = 2 * math.pi * torch.arange(1200, dtype=F64) / 1200
    law = WrappedNormal(
        Hyperboloid(), from_origin(torch.tensor([0.9, -0.4], dtype=F64)), torch.tensor([0.4, 0.9], dtype=F64)
    )
    z = from_origin(r[:, None, None] * torch.stack([phi.cos(), phi.sin()], -1))
    mass = ((w * r.sinh())[:, None] * 2 * math.pi / 1200 * law.log_prob(z).exp()).sum()
    assert abs(mass - 1) < 1e-8


@pytest.mark.parametrize("m", [3, 6])
def test_hyperbolic_space_passes_the_battery(m):
    p = torch.randn(2, m - 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    g = from_origin(torch.randn(m - 1, dtype=F64, generator=torch.Generator().manual_seed(2)))
    check_distribution(
        lambda p, scale: WrappedNormal(Hyperboloid(), from_origin(p), scale.expand(*scale.shape[:-1], m - 1)),
        {"p": p, "scale": torch.tensor([[0.5], [0.9]])},
        # wider than both, about the point between them
        proposal=WrappedNormal(Hyperboloid(), from_origin(p.mean(0)), torch.full((m - 1,), 1.6, dtype=F64)),
        isometry=(lambda z: boost(g, to_origin(z)), {"p": to_origin(boost(g, p))}),
        grid=[{"p": p, "scale": torch.full((2, 1), s)} for s in (1e-2, 5.0)],
        points=lambda q: torch.stack([q.loc, from_origin(-to_origin(q.loc))]),
    )


def test_a_small_scale_in_hyperbolic_space_is_flat():
    v = 1e-4 * torch.randn(50, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1e-4, 2e-4, 5e-5], dtype=F64)
    law = WrappedNormal(Hyperboloid(), from_origin(torch.zeros(3, dtype=F64)), scale)
    flat = torch.distributions.Normal(0, scale).log_prob(v).sum(-1)
    torch.testing.assert_close(law.log_prob(from_origin(v)), flat, atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_prior_of_many_dimensions_reaches_as_far_as_it_should(dtype):
    """The radius has the chi law of |v|; in the Poincaré ball of float32 it would end at 17."""
    torch.manual_seed(0)
    law = WrappedNormal(Hyperboloid(), from_origin(torch.zeros(50, dtype=dtype)), torch.full((50,), 3.0, dtype=dtype))
    z = law.sample((4000,))
    r = to_origin(z).norm(dim=-1).double().numpy() / 3
    assert stats.kstest(r, stats.chi(50).cdf).pvalue > 0.001 and r.max() > 6
    assert law.log_prob(z).isfinite().all()


def test_draws_reach_to_the_end_of_the_coordinates():
    """In 18 dimensions at scale 10 the radius is 42 at the median: squared coordinates overflow beyond 44."""
    torch.manual_seed(0)
    scale = torch.full((18,), 10.0).requires_grad_()
    law = WrappedNormal(Hyperboloid(), from_origin(torch.zeros(18)), scale, validate_args=True)
    z = law.rsample((20000,))
    assert hyperboloid.check(z).all()
    assert stats.kstest((to_origin(z).norm(dim=-1) / 10).detach(), stats.chi(18).cdf).pvalue > 0.001
    own, again = law.log_prob(z), law.log_prob(z.detach().clone())
    assert torch.allclose(own, again, rtol=1e-4)
    for value in (z.sum(dtype=F64), own.sum(), again.sum()):
        assert torch.autograd.grad(value, scale, retain_graph=True)[0].isfinite().all()


@pytest.mark.parametrize("dtype, end", [(torch.float32, 88), (F64, 709)])
def test_a_law_whose_draws_overflow_is_refused(dtype, end):
    origin = from_origin(torch.zeros(40, dtype=dtype))
    WrappedNormal(Hyperboloid(), origin, torch.full((40,), end / 12, dtype=dtype), validate_args=True)
    with pytest.raises(ValueError, match=f"within {end} of the origin"):
        WrappedNormal(Hyperboloid(), origin, torch.full((40,), end / 8, dtype=dtype), validate_args=True)
    far = from_origin(torch.eye(40, dtype=dtype)[0] * 0.9 * end)
    with pytest.raises(ValueError, match="smaller scales"):
        WrappedNormal(Hyperboloid(), far, torch.full((40,), end / 50, dtype=dtype), validate_args=True)


@pytest.mark.parametrize("seen_by", ["training", "evaluation"])
def test_the_density_of_a_draw_far_out_does_not_go_by_its_rounding(seen_by):
    """At distance 12 in float32 the rounding of a point is longer than the scale."""
    torch.manual_seed(0)
    p = torch.full((500, 3), 7.0).requires_grad_(seen_by == "training")
    law = WrappedNormal(Hyperboloid(), from_origin(p), torch.full((3,), 0.003))
    z = law.rsample()
    log_q = law.log_prob(z).double().detach()
    assert hyperboloid.check(z).all()
    # log q is -(chi squared of 3) / 2 and a constant, as v is so short that the space is flat there.
    chi2 = -2 * (log_q + 3 * math.log(0.003) + 1.5 * math.log(2 * math.pi))
    assert stats.kstest(chi2.numpy(), stats.chi2(3).cdf).pvalue > 0.001


def test_the_score_of_a_draw_is_that_of_a_point():
    """Of a draw without graph v is not used: a density at a fixed point moves with loc."""
    p = torch.tensor([0.3, -0.5], dtype=F64, requires_grad=True)
    scale = torch.tensor([0.7, 0.4], dtype=F64, requires_grad=True)
    law = WrappedNormal(Hyperboloid(), from_origin(p), scale)
    z = law.sample((3,))
    ones = torch.ones(3, dtype=F64)
    scores = [torch.autograd.grad(law.log_prob(x), (p, scale), ones, retain_graph=True) for x in (z, z.clone())]
    for one, other in zip(*scores, strict=True):
        assert one.abs().min() > 0
        torch.testing.assert_close(one, other)
    x = law.rsample((3,))
    (known,) = torch.autograd.grad(law.log_prob(x), scale, ones, retain_graph=True)
    by_loc, by_scale = torch.autograd.grad(law.log_prob(x.clone()), (p, scale), ones)
    torch.testing.assert_close(known, by_scale)
    # A draw moves with loc, and its density stays: what v knows without loc comes out.
    torch.testing.assert_close(by_loc, torch.zeros_like(p), atol=1e-12, rtol=0)


def test_samples_on_a_sphere_have_the_density():
    """The angle to loc against the density's own distribution function."""
    torch.manual_seed(0)
    law = WrappedNormal(Sphere(), unit(5), torch.full((4,), 1.1, dtype=F64))
    x, w = np.polynomial.legendre.leggauss(200)
    theta, w = torch.tensor(math.pi * (x + 1) / 2), torch.tensor(w * math.pi / 2)
    side = normalised(unit(5, seed=1) - (unit(5, seed=1) @ law.loc) * law.loc)
    z = theta.cos().unsqueeze(-1) * law.loc + theta.sin().unsqueeze(-1) * side
    density = w * 2 * math.pi**2 * theta.sin() ** 3 * law.log_prob(z).exp()
    cosine = law.sample((20000,)) @ law.loc
    for k in (1, 2, 3):
        exact, estimate = (density * theta.cos() ** k).sum(), (cosine**k).mean()
        assert abs(estimate - exact) < 5 * (cosine**k).std() / math.sqrt(20000)


def test_unequal_scales_have_their_gradients():
    loc = torch.tensor([[0.4, -1.0, 0.3]], dtype=F64)
    check_distribution(
        lambda loc, scale: WrappedNormal(Sphere(), normalised(loc), scale),
        {"loc": loc, "scale": torch.tensor([[0.5, 0.9]])},
        proposal=HypersphericalUniform(3, dtype=F64),
    )


def test_errors_and_center():
    loc = unit(4, 3)
    with pytest.raises(ValueError, match="SO3Normal"):
        WrappedNormal(SO3(), torch.eye(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        WrappedNormal(Sphere(), loc, torch.ones(3))
    with pytest.raises(ValueError, match="num_wraps"):
        WrappedNormal(Sphere(), loc, torch.ones(2), num_wraps=-1)
    with pytest.raises(ValueError, match="loc"):
        WrappedNormal(Sphere(), 2 * loc, torch.ones(2), validate_args=True)
    with pytest.raises(ValueError, match="scale"):
        WrappedNormal(Sphere(), loc, torch.zeros(2, dtype=F64), validate_args=True)
    assert torch.equal(center(WrappedNormal(Sphere(), loc, torch.ones(2, dtype=F64))), loc)
