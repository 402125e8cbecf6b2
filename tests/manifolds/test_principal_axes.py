"""Axes of symmetric matrices against LAPACK: values, gradients, gaps, ties."""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.manifolds.principal_axes import principal_axis, principal_frame, symmetric
from ppvae.manifolds.so3 import rotation

F64 = torch.float64


def matrices(n, m, seed=0):
    g = torch.Generator().manual_seed(seed)
    return symmetric(torch.randn(n, m * (m + 1) // 2, dtype=F64, generator=g), m)


@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-5), (F64, 1e-12)])
@pytest.mark.parametrize("m", [2, 3, 6])
def test_the_axis_is_the_eigenvector(m, dtype, error):
    a = matrices(200, m)
    exact = torch.linalg.eigh(a).eigenvectors[..., -1]
    q = principal_axis((1e3 * a).to(dtype))
    assert q.dtype == dtype and torch.allclose(q.norm(dim=-1), torch.ones(200, dtype=dtype))
    assert (
        q.double().unsqueeze(-1) * q.double().unsqueeze(-2) - exact.unsqueeze(-1) * exact.unsqueeze(-2)
    ).abs().max() < error


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-6, 1e-9])
def test_the_gradient_is_that_of_the_eigenvector(gap):
    """dq = sum_i (q_i^T dA q) / (lambda - lambda_i) q_i, which grows as the inverse of the gap."""
    v = torch.linalg.qr(matrices(1, 3)[0])[0]
    values = torch.tensor([1.0, 1 - gap, -0.4], dtype=F64)
    a = ((v * values) @ v.T).requires_grad_()
    q = principal_axis(a)
    weights = torch.tensor([0.3, -1.0, 0.7], dtype=F64)
    (got,) = torch.autograd.grad((weights * q).sum(), a)
    first = v[:, 0] * (v[:, 0] @ q.detach()).sign()
    exact = sum((weights @ v[:, i]) / (values[0] - values[i]) * torch.outer(v[:, i], first) for i in (1, 2))
    # A perturbation is symmetric: the two halves of a gradient are one number.
    got, exact = got + got.T, exact + exact.T
    assert (got - exact).abs().max() < 1e-6 * exact.abs().max() * max(1, 1e-9 / gap)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "values", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [-1.0, -1.0, -2.0]]
)
def test_where_axes_are_not_unique_one_of_them_comes_with_a_finite_gradient(values, dtype):
    a = torch.diag(torch.tensor(values, dtype=dtype)).requires_grad_()
    q, r = principal_axis(a), principal_frame(a)
    assert torch.allclose(a.detach() @ q, max(values) * q, atol=1e-6)
    assert rotation.check(r) and torch.allclose(
        (r.mT @ a @ r).diagonal(), torch.tensor(sorted(values)[::-1], dtype=dtype)
    )
    assert torch.autograd.grad(q.sum() + r.sum(), a)[0].isfinite().all()


@pytest.mark.parametrize("dtype, error", [(torch.float32, 5e-5), (F64, 1e-11)])
def test_the_frame_diagonalises(dtype, error):
    a = matrices(300, 3).to(dtype)
    r = principal_frame(a)
    assert rotation.check(r).all()
    d = r.mT @ a @ r
    values = d.diagonal(dim1=-2, dim2=-1)
    assert (d - torch.diag_embed(values)).abs().max() < error
    assert (values[:, :-1] >= values[:, 1:]).all()


def test_a_line_followed_around_the_plane_turns_without_a_jump():
    t = torch.linspace(0, math.pi, 500, dtype=F64)
    u = torch.stack([t.cos(), t.sin()], -1)
    q = principal_axis(u.unsqueeze(-1) * u.unsqueeze(-2))
    lines = (q.unsqueeze(-1) * q.unsqueeze(-2)).flatten(1)
    assert (lines.diff(dim=0).norm(dim=-1) < 0.01).all() and torch.allclose(lines[0], lines[-1])


def test_it_can_be_traced():
    a = matrices(4, 3)

    def loss_and_gradient(a):
        a = a.detach().requires_grad_()
        return torch.autograd.grad(principal_frame(a).square().sum() + principal_axis(a).sum(), a)[0]

    graph = make_fx(loss_and_gradient, tracing_mode="fake")(a)
    assert torch.allclose(graph(a), loss_and_gradient(a))
