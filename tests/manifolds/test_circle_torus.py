"""The circle and the torus against geoopt's sphere and plain angles."""

import math

import geoopt
import pytest
import torch

from ppvae.manifolds import Circle, Torus, circle
from ppvae.manifolds.circle import quarter_turn


def points(*shape, seed=0):
    t = 20 * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 10
    return circle.exp(t)


def test_group():
    x, y, p = points(50), points(50, seed=1), points(50, seed=2) * 3
    assert torch.allclose(circle.act(circle.compose(x, y), p), circle.act(x, circle.act(y, p)))
    assert torch.allclose(circle.act(x, p), (circle.matrix(x) @ p.unsqueeze(-1)).squeeze(-1))
    assert torch.allclose(circle.compose(x, circle.inverse(x)), torch.tensor([1.0, 0.0], dtype=torch.float64))
    t = torch.tensor([-math.pi, -3.0, 0.0, 1e-12, 2.0, math.pi], dtype=torch.float64)
    assert torch.allclose(circle.log(circle.exp(t)), t, rtol=1e-15, atol=0)
    assert torch.allclose(torch.linalg.matrix_exp(circle.hat(t)), circle.matrix(circle.exp(t)), atol=1e-14)
    assert torch.equal(circle.vee(circle.hat(t)), t)


def test_circle_is_geoopts_sphere():
    manifold, oracle, x, y = Circle(), geoopt.Sphere(), points(50), points(50, seed=1)
    u = manifold.logmap(x, y)
    assert torch.allclose(u, oracle.logmap(x, y), atol=1e-6)  # geoopt's own error
    assert torch.allclose(manifold.expmap(x, u), y, atol=1e-14)
    assert torch.allclose(manifold.expmap(x, 0.3 * u), oracle.expmap(x, 0.3 * u), atol=1e-12)
    assert torch.allclose(manifold.dist(x, y), oracle.dist(x, y), atol=1e-6)
    assert torch.allclose(manifold.proju(x, x + 2 * y), oracle.proju(x, x + 2 * y), atol=1e-12)
    assert torch.equal(manifold.logvolume(x, u), torch.zeros(50, dtype=torch.float64))


@pytest.mark.parametrize("manifold, shape", [(Circle(), (4,)), (Torus(3), (4, 3))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_point_and_at_its_antipode(manifold, shape, dtype):
    x = points(*shape).to(dtype)
    for y in (x.clone(), -x):
        y.requires_grad_()
        u = manifold.logmap(x, y)
        value = manifold.dist(x, y).sum() + u.sum() + manifold.expmap(x, u).sum()
        (gradient,) = torch.autograd.grad(value, y)
        assert gradient.isfinite().all()
        assert manifold.support.check(manifold.expmap(x, u)).all()


def test_torus_is_the_product_of_circles():
    manifold, x, y = Torus(3), points(20, 3), points(20, 3, seed=1)
    t = circle.log(y) - circle.log(x)
    wrapped = torch.remainder(t + math.pi, 2 * math.pi) - math.pi
    assert torch.allclose(manifold.dist(x, y), wrapped.norm(dim=-1))
    assert torch.allclose(manifold.logmap(x, y), wrapped.unsqueeze(-1) * quarter_turn(x))
    assert torch.allclose(manifold.expmap(x, 5 * manifold.logmap(x, y)), circle.exp(circle.log(x) + 5 * wrapped))
    assert manifold.logvolume(x, manifold.logmap(x, y)).shape == (20,)
    assert manifold.support.check(x).all()
    assert not manifold.support.check(2 * x).any()


def test_angles_in_place_of_points_are_refused():
    with pytest.raises(ValueError, match=r"unit vectors \(\.\.\., 2\)"):
        Circle().support.check(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="T\\^3"):
        Torus(3).support.check(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="n >= 1"):
        Torus(0)
