"""The tangent normal on every manifold: mass, wraps, the diagonal case, products, quotients, poles, entropy."""

import math

import mpmath
import numpy as np
import pytest
import torch

from ppvae.distributions import OnQuotient, SO3Normal, TangentNormal, WrappedNormal, center
from ppvae.infer.sites import manifold_of
from ppvae.manifolds import (
    SO3,
    Angle,
    Box,
    Circle,
    ComplexProjective,
    Euclidean,
    Hyperboloid,
    Power,
    Product,
    RiemannianManifold,
    Sphere,
    Torus,
    circle,
    quotient,
    so3,
)
from ppvae.manifolds.hyperboloid import from_origin

F64 = torch.float64
CYLINDER = Product([Circle(), Euclidean()], [(2,), (1,)])


def unit(*shape, seed=0):
    x = torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)


def factor(d, scale=1.0, seed=0):
    """A full factor of a covariance, of about this scale."""
    a = torch.randn(d, d, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return scale * (0.5 * a.tril(-1) + torch.diag(torch.linspace(0.6, 1.2, d, dtype=F64)))


def legendre(n, low, high):
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.tensor(low + (high - low) * (x + 1) / 2), torch.tensor(w * (high - low) / 2)


def around(n):
    return 2 * math.pi * (torch.arange(n, dtype=F64) + 0.5) / n, torch.full((n,), 2 * math.pi / n, dtype=F64)


def grid(*axes):
    """Points (N, axes) and weights (N,) of a product rule."""
    nodes = torch.meshgrid(*(x for x, _ in axes), indexing="ij")
    weights = torch.meshgrid(*(w for _, w in axes), indexing="ij")
    return torch.stack(nodes, -1).flatten(0, -2), torch.stack(weights).prod(0).flatten()


def on_torus(n):
    t, w = grid(around(n), around(n))
    return circle.exp(t), w


def on_sphere(n, pole):
    """Gauss' rule in the angle from a pole, where the density of a law about it may be infinite."""
    t, w = grid(legendre(n, 0, math.pi), around(2 * n))
    theta, phi = t.unbind(-1)
    z = torch.stack([theta.cos(), theta.sin() * phi.cos(), theta.sin() * phi.sin()], -1)
    frame = torch.cat([pole.unsqueeze(0), Sphere().frame(pole)])
    return z @ frame, w * theta.sin()


def on_rotations(n, loc):
    t, w = grid(legendre(n, 0, math.pi), legendre(n, 0, math.pi), around(2 * n))
    r, theta, phi = t.unbind(-1)
    u = torch.stack([theta.cos(), theta.sin() * phi.cos(), theta.sin() * phi.sin()], -1)
    return so3.compose(loc, so3.exp(r.unsqueeze(-1) * u)), w * theta.sin() * 4 * (r / 2).sin().square()


def in_box(n, low, high):
    return grid(*(legendre(n, float(a), float(b)) for a, b in zip(low, high, strict=True)))


def on_cylinder(n, scale):
    t, w = grid(around(n), legendre(n, -10 * scale - 1, 10 * scale + 1))
    return torch.cat([circle.exp(t[:, 0]), t[:, 1:]], -1), w


def on_hyperbolic_plane(n, scale):
    t, w = grid(legendre(n, 0, 9 * scale), around(n))
    r, phi = t.unbind(-1)
    return from_origin(r.unsqueeze(-1) * circle.exp(phi)), w * r.sinh()


LOW, HIGH = torch.tensor([0.0, -1.0], dtype=F64), torch.tensor([2.0, 1.0], dtype=F64)
INSIDE = torch.tensor([0.3, 0.7], dtype=F64)
ON_CYLINDER = torch.cat([unit(2), torch.tensor([0.4], dtype=F64)])
TURN = so3.exp(torch.tensor([0.3, -0.7, 1.1], dtype=F64))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(
    "manifold, loc, nodes, share, error",
    [
        (Circle(), unit(2), lambda s: (circle.exp(around(400)[0]), around(400)[1]), 1, 1e-10),
        (Angle(), INSIDE[0], lambda s: around(400), 1, 1e-10),
        (Torus(2), unit(2, 2), lambda s: on_torus(80), 1, 1e-8),
        (Sphere(), unit(3), lambda s: on_sphere(100, unit(3)), 1, 2e-4),
        (SO3(), TURN, lambda s: on_rotations(40, TURN), 1, 2e-6),
        (Hyperboloid(), from_origin(INSIDE), lambda s: on_hyperbolic_plane(600, s + 1), 1, 1e-6),
        (Euclidean(), INSIDE, lambda s: in_box(200, [-10 * s, -10 * s], [10 * s + 1, 10 * s + 1]), 1, 1e-9),
        (Box(low=LOW, high=HIGH), INSIDE, lambda s: in_box(60, LOW, HIGH), 1, 1e-7),
        (Box(glued=True, low=LOW, high=HIGH), INSIDE, lambda s: in_box(80, LOW, HIGH), 1, 1e-7),
        (Box(glued=[True, False], low=LOW, high=HIGH), INSIDE, lambda s: in_box(80, LOW, HIGH), 1, 1e-7),
        (CYLINDER, ON_CYLINDER, lambda s: on_cylinder(120, s), 1, 1e-8),
        (quotient("moebius"), ON_CYLINDER, lambda s: on_cylinder(120, s), 2, 1e-8),
        (quotient("klein"), unit(2, 2), lambda s: on_torus(80), 2, 1e-8),
        (quotient("projective"), unit(3), lambda s: on_sphere(100, unit(3)), 2, 2e-4),
        (quotient("axes"), TURN, lambda s: on_rotations(40, TURN), 4, 2e-2),
    ],
)
def test_mass_is_one_with_a_full_covariance(manifold, loc, nodes, share, error, scale):
    """``share``: how often a grid over the cover counts a point of the quotient. On the axes the density is infinite at
    three more points of the ball that the grid covers."""
    law = TangentNormal(manifold, loc, factor(manifold.intrinsic_dim(loc), scale), num_wraps=6)
    z, w = nodes(scale)
    mass = (
        torch.cat([w * law.log_prob(z).exp() for z, w in zip(z.split(20000), w.split(20000), strict=True)]).sum()
        / share
    )
    assert abs(mass.item() - 1) < error


def test_the_mass_that_too_few_wraps_lack_is_that_of_the_vectors_left_out():
    law = TangentNormal(Circle(), unit(2), torch.full((1, 1), 3.0, dtype=F64), num_wraps=0)
    t, w = around(400)
    mass = (w * law.log_prob(circle.exp(t)).exp()).sum().item()
    assert mass == pytest.approx(math.erf(math.pi / 3 / math.sqrt(2)), abs=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(
    "manifold, points",
    [
        (Circle(), unit(2, 5, 2)),
        (Torus(2), unit(2, 5, 2, 2)),
        (Sphere(), unit(2, 5, 2)),
        (Sphere(), unit(2, 5, 3)),
        (Sphere(), unit(2, 5, 6)),
        (Hyperboloid(), from_origin(unit(2, 5, 3))),
        (SO3(), SO3().uniform(torch.zeros(2, 5, 3, 3, dtype=F64))),
    ],
)
def test_a_diagonal_factor_gives_the_wrapped_normal(manifold, points, scale):
    loc, z = points
    scales = scale * torch.linspace(1, 1.4, manifold.intrinsic_dim(loc), dtype=F64)
    law = TangentNormal(manifold, loc, torch.diag_embed(scales), num_wraps=4)
    if isinstance(manifold, SO3):
        other = SO3Normal(loc, scales, num_wraps=4)
    else:
        other = WrappedNormal(manifold, loc, scales, num_wraps=4)
    assert torch.allclose(law.log_prob(z), other.log_prob(z), atol=1e-11)
    torch.manual_seed(0)
    first = law.rsample((3,))
    torch.manual_seed(0)
    assert torch.allclose(first, other.rsample((3,)), atol=1e-9)


def test_the_draws_have_the_covariance():
    L = factor(2, 0.05)
    law = TangentNormal(Sphere(), unit(3), L)
    torch.manual_seed(0)
    z = law.sample((40000,))
    loc = law.loc.expand_as(z)
    v = Sphere().coordinates(loc, Sphere().logmap(loc, z))
    assert torch.allclose(v.T @ v / len(v), L @ L.T, atol=5e-5)


@pytest.mark.parametrize(
    "product, parts, split",
    [
        (Torus(2), [Circle(), Circle()], lambda z: z.unbind(-2)),
        (Power(Sphere(), 1), [Sphere(), Sphere()], lambda z: z.unbind(-2)),
        (Power(SO3(), 1), [SO3(), SO3()], lambda z: z.unbind(-3)),
        (CYLINDER, [Circle(), Euclidean()], CYLINDER.split),
        (Box(glued=[True, False]), [Box(glued=True), Box()], lambda z: z.split(1, -1)),
    ],
)
def test_blocks_on_a_product_are_independent_laws(product, parts, split):
    points = {
        "Torus": unit(2, 2, 2),
        "Power": unit(2, 2, 3),
        "Product": torch.stack([ON_CYLINDER, -ON_CYLINDER]),
        "Box": torch.rand(2, 2, dtype=F64),
    }[type(product).__name__]
    if parts[0].support is SO3.support:
        points = SO3().uniform(torch.zeros(2, 2, 3, 3, dtype=F64))
    loc, z = points
    blocks = [factor(M.intrinsic_dim(x), 0.8, i) for i, (M, x) in enumerate(zip(parts, split(loc), strict=True))]
    laws = [TangentNormal(M, x, L, num_wraps=2) for M, x, L in zip(parts, split(loc), blocks, strict=True)]
    joint = TangentNormal(product, loc, torch.block_diag(*blocks), num_wraps=2)
    expected = sum(law.log_prob(x) for law, x in zip(laws, split(z), strict=True))
    assert torch.allclose(joint.log_prob(z), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["moebius", "klein", "projective", "axes"])
def test_on_a_quotient_it_is_the_law_of_the_orbit(name):
    manifold = quotient(name)
    loc = {"moebius": ON_CYLINDER, "klein": unit(2, 2), "projective": unit(3), "axes": TURN}[name]
    L = factor(manifold.intrinsic_dim(loc), 0.8)
    law, cover = TangentNormal(manifold, loc, L), TangentNormal(manifold.base, loc, L)
    z = cover.sample((40,))
    assert torch.allclose(law.log_prob(z), OnQuotient(cover, manifold).log_prob(z), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize(
    "manifold, loc",
    [
        (Circle(), unit(2)),
        (Sphere(), unit(3)),
        (Sphere(), unit(5)),
        (Torus(2), unit(2, 2)),
        (SO3(), TURN),
        (Hyperboloid(), from_origin(INSIDE)),
        (Box(glued=[True, False], low=LOW, high=HIGH), INSIDE),
        (Power(Sphere(), 1), unit(2, 3)),
        (CYLINDER, ON_CYLINDER),
        (ComplexProjective(), unit(6).unflatten(-1, (3, 2))),
        (quotient("klein"), unit(2, 2)),
        (quotient("projective"), unit(3)),
        (quotient("axes"), TURN),
    ],
)
def test_values_and_gradients_are_finite_at_the_poles(manifold, loc, scale, dtype):
    d = manifold.intrinsic_dim(loc)
    loc = manifold.lift.point(manifold.lift.start(loc.to(dtype)))
    L = factor(d, scale).to(dtype).requires_grad_()
    many = loc.expand(d, *loc.shape)
    frame = manifold.frame(loc)
    lengths = (0.0, 1e-20, 1e-9, 1e-7, 1e-4, 1.0, math.pi - 1e-6, math.pi, 2 * math.pi)
    z = torch.cat([manifold.expmap(many, t * frame) for t in lengths]).detach().requires_grad_()
    leaf = loc.clone().requires_grad_()
    law = TangentNormal(manifold, leaf, L, num_wraps=2, validate_args=False)
    log_q = law.log_prob(z)
    assert log_q.isfinite().all() and log_q.dtype == dtype
    draws = law.rsample((20,))
    assert manifold.support.check(draws).all()
    for gradient in torch.autograd.grad(log_q.sum() + draws.sum(), (leaf, L, z)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [1e-3, 0.1, 0.39, 0.41, 1.0, 2.0, 5.0, 20.0])
def test_entropy_on_the_circle(scale):
    s = mpmath.mpf(scale)

    def integrand(x):
        wide = scale > 0.5
        f = mpmath.jtheta(3, x / 2, mpmath.exp(-s * s / 2)) / (2 * mpmath.pi) if wide else mpmath.mpf(0)
        f += 0 if wide else sum(mpmath.npdf(x + 2 * mpmath.pi * k, 0, s) for k in (-1, 0, 1))
        return -f * mpmath.log(f) if f > 1e-300 else mpmath.mpf(0)

    cuts = [0, *(c for c in (scale, 6 * scale, 30 * scale) if c < 3), mpmath.pi]
    exact = float(2 * mpmath.quad(integrand, cuts))
    for dtype, error in ((F64, 1e-12), (torch.float32, 2e-6)):
        L = torch.full((1, 1), scale, dtype=dtype, requires_grad=True)
        entropy = TangentNormal(Circle(), unit(2).to(dtype), L, validate_args=False).entropy()
        assert entropy.item() == pytest.approx(exact, abs=error)
        assert torch.autograd.grad(entropy, L)[0].isfinite()


def test_entropy_on_the_line_and_where_there_is_none():
    L = factor(3)
    exact = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), scale_tril=L).entropy()
    assert torch.allclose(TangentNormal(Euclidean(), torch.zeros(3, dtype=F64), L).entropy(), exact)
    with pytest.raises(NotImplementedError, match="on Sphere"):
        TangentNormal(Sphere(), unit(3), factor(2)).entropy()


def test_shapes_centre_and_what_is_refused():
    law = TangentNormal(Sphere(), unit(4, 3), factor(2))
    assert law.batch_shape == (4,) and law.event_shape == (3,) and torch.equal(center(law), law.loc)
    assert law.expand((5, 4)).rsample((2,)).shape == (2, 5, 4, 3)
    assert law.log_prob(unit(3)).shape == (4,) and law.log_prob(unit(6, 1, 3)).shape == (6, 4)
    assert manifold_of(law) is law.manifold
    with pytest.raises(ValueError, match=r"scale_tril: expected shape \(\.\.\., 2, 2\)"):
        TangentNormal(Sphere(), unit(3), factor(3))
    with pytest.raises(ValueError, match="num_wraps >= 0, got -1"):
        TangentNormal(Sphere(), unit(3), factor(2), num_wraps=-1)
    with pytest.raises(ValueError, match="RiemannianManifold, which has no method `preimages`"):
        TangentNormal(RiemannianManifold(lambda z: torch.eye(2)), torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError):
        TangentNormal(Sphere(), 2 * unit(3), factor(2), validate_args=True)
    with pytest.raises(ValueError):
        TangentNormal(Sphere(), unit(3), -factor(2), validate_args=True)
    with pytest.raises(ValueError, match="straight lines leave"):
        positive = Euclidean(torch.distributions.constraints.independent(torch.distributions.constraints.positive, 1))
        TangentNormal(positive, torch.ones(2), torch.eye(2), validate_args=False).log_prob(torch.ones(2))
