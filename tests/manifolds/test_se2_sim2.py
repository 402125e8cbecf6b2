"""SE(2) and Sim(2) against the exponential of their matrices."""

import math

import pytest
import torch

from ppvae.manifolds import se2, sim2

ANGLES = [0.0, 1e-9, 1e-4, 0.3, 0.5, 0.6, 1.0, math.pi - 1e-6, math.pi]


def draws(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [-3.0, -0.5, -1e-9, 0.0, 1e-4, 0.4, 2.0])
@pytest.mark.parametrize("omega", ANGLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_similarities(omega, sigma, dtype):
    v = draws(20, 2).to(dtype)
    xi = torch.cat([torch.tensor([[omega, sigma]], dtype=dtype).expand(20, 2), v], -1).requires_grad_()
    eps, size = torch.finfo(dtype).eps, math.exp(abs(sigma))
    g = sim2.exp(xi)
    assert (g - torch.linalg.matrix_exp(sim2.hat(xi))).abs().max() < 50 * eps * size
    back = sim2.log(g)
    assert (sim2.exp(back) - g).abs().max() < 30 * eps * size
    if omega < 3:
        assert (back - xi).abs().max() < 30 * eps * size
    for output in (g, back):
        (gradient,) = torch.autograd.grad(output.square().sum() + output.sum(), xi, retain_graph=True)
        assert gradient.isfinite().all()
    assert torch.equal(sim2.vee(sim2.hat(xi)), xi)


@pytest.mark.parametrize("omega", ANGLES)
def test_rigid_motions(omega):
    xi = torch.cat([torch.full((20, 1), omega, dtype=torch.float64), draws(20, 2)], -1)
    g = se2.exp(xi)
    assert torch.allclose(g, torch.linalg.matrix_exp(se2.hat(xi)), atol=1e-13)
    assert torch.allclose(se2.exp(se2.log(g)), g, atol=1e-14)
    assert torch.equal(se2.vee(se2.hat(xi)), xi)
    p = draws(20, 2, seed=1)
    assert torch.allclose((se2.act(g, p) - se2.act(g, 2 * p)).norm(dim=-1), p.norm(dim=-1)), "distances are kept"


@pytest.mark.parametrize("group, d", [(se2, 3), (sim2, 4)])
def test_group(group, d):
    g, h, k = (group.exp(draws(30, d, seed=i)) for i in range(3))
    p = draws(30, 2, seed=5)
    assert torch.allclose(group.compose(group.compose(g, h), k), group.compose(g, group.compose(h, k)))
    assert torch.allclose(group.compose(g, group.inverse(g)), torch.eye(3, dtype=torch.float64), atol=1e-13)
    assert torch.allclose(group.act(group.compose(g, h), p), group.act(g, group.act(h, p)))
    homogeneous = torch.cat([p, torch.ones(30, 1, dtype=torch.float64)], -1)
    assert torch.allclose(group.act(g, p), (g @ homogeneous.unsqueeze(-1)).squeeze(-1)[..., :2])


def test_gradients_agree_with_finite_differences():
    for omega, sigma in [(0.0, 0.0), (0.3, 0.39), (0.3, 0.41), (2.0, -1.0)]:
        xi = torch.tensor([omega, sigma, 0.3, -1.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(sim2.exp, xi)
        assert torch.autograd.gradcheck(lambda xi: sim2.log(sim2.exp(xi)), xi)
