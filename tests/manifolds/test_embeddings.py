import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.manifolds.embeddings import (
    CircleEmbedding,
    FlatTorusEmbedding,
    MoebiusEmbedding,
    SphereEmbedding,
    SwissRollEmbedding,
    TorusEmbedding,
    image,
    invert,
    jacobian,
    log_volume,
)

CLOSED = {
    "circle": CircleEmbedding(),
    "flat torus": FlatTorusEmbedding(3),
    "torus": TorusEmbedding(2.0, 0.7),
    "sphere": SphereEmbedding(),
    "swiss roll": SwissRollEmbedding(0.1),
    "moebius": MoebiusEmbedding(1.5),
}


class Bare:
    """An embedding of which nothing is known but f."""

    def __init__(self, f):
        self.f, self.dim, self.ambient = f, f.dim, f.ambient

    def __call__(self, z):
        return self.f(z)


class Helix(nn.Module):
    dim, ambient = 1, 3

    def forward(self, z):
        t = 4 * math.pi * z
        return torch.cat([t.cos(), t.sin(), t], -1)


class Network(nn.Module):
    """A smooth random surface; z itself is among its coordinates, so that it is injective."""

    def __init__(self, dim=2, ambient=4):
        super().__init__()
        self.dim, self.ambient = dim, ambient
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, ambient - dim)).double()

    def forward(self, z):
        return torch.cat([z, self.net(4 * z)], -1)


def draws(f, n=500, seed=0, dtype=torch.float64):
    return torch.rand(n, f.dim, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_agree_with_the_jacobian(name):
    f = CLOSED[name]
    z = draws(f)
    torch.testing.assert_close(log_volume(Bare(f), z), f.log_volume(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(f.inverse(f(z)), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CLOSED)
def test_a_single_point_keeps_its_dtype(name):
    """The forward derivative of 1 + z is float64 in torch, where z is float32 and has no dimensions."""
    f = CLOSED[name]
    z = draws(f, 1, dtype=torch.float32)[0]
    assert jacobian(f, z).dtype == log_volume(Bare(f), z).dtype == invert(Bare(f), f(z)).dtype == torch.float32


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gauss_newton_inverts_from_f_alone(name, dtype):
    f = CLOSED[name]
    x = f(draws(f, 60, dtype=dtype))
    back = f(invert(Bare(f), x))
    assert (back - x).norm(dim=-1).max() < 300 * torch.finfo(dtype).eps * x.norm(dim=-1).max()


AREA = {
    "circle": 2 * math.pi,
    "flat torus": (2 * math.pi) ** 3,
    "torus": 4 * math.pi**2 * 2.0 * 0.7,
    "sphere": 4 * math.pi,
    # the arc length of the Archimedean spiral times the height, and Gauss's double integral for the band
    "swiss roll": 0.01 * 21 * quad(lambda t: math.sqrt(1 + t * t), 1.5 * math.pi, 4.5 * math.pi)[0],
    "moebius": dblquad(lambda a, s: math.sqrt(s * s / 4 + (1 + s * math.cos(a / 2)) ** 2), -0.75, 0.75, 0, 2 * math.pi)[
        0
    ],
}


@pytest.mark.parametrize("name", CLOSED)
def test_total_volume(name):
    f = CLOSED[name]
    x, w = np.polynomial.legendre.leggauss(24)
    axis, weight = torch.tensor((x + 1) / 2), torch.tensor(w / 2)
    nodes = torch.cartesian_prod(*[axis] * f.dim).reshape(-1, f.dim)
    weights = torch.cartesian_prod(*[weight] * f.dim).reshape(-1, f.dim).prod(-1)
    assert float((log_volume(f, nodes).exp() * weights).sum()) == pytest.approx(AREA[name], rel=1e-10)


def test_the_volume_keeps_its_digits_where_the_gram_determinant_loses_them():
    # Two columns at an angle of 1e-5: det J^T J is 1e-10 of its terms, below the rounding unit of float32.
    class Sheared(nn.Module):
        dim, ambient = 2, 3

        def forward(self, z):
            a, b = z.unbind(-1)
            return torch.stack([a + b, 1e-5 * b, 0 * a], -1)

    value = log_volume(Sheared(), torch.rand(4, 2))
    torch.testing.assert_close(value, torch.full_like(value, math.log(1e-5)), rtol=1e-6, atol=0)
    J = jacobian(Sheared(), torch.rand(1, 2))[0]
    assert not abs(float(torch.det(J.T @ J)) / 1e-10 - 1) < 0.1


def test_the_volume_of_three_columns_against_mpmath():
    torch.manual_seed(0)
    A = torch.randn(6, 3, dtype=torch.float64) @ torch.diag(torch.tensor([1.0, 1e-3, 1e-7], dtype=torch.float64))

    class Linear(nn.Module):
        dim, ambient = 3, 6

        def forward(self, z):
            return z @ A.T

    with mpmath.workdps(50):
        M = mpmath.matrix(A.tolist())
        exact = float(mpmath.log(mpmath.det(M.T * M)) / 2)
    assert float(log_volume(Linear(), torch.rand(3, dtype=torch.float64))) == pytest.approx(exact, abs=1e-9)


def test_one_of_your_own_is_five_lines():
    f, z = Helix(), draws(Helix(), 60)
    torch.testing.assert_close(log_volume(f, z), torch.full_like(z[:, 0], math.log(4 * math.pi * math.sqrt(2))))
    torch.testing.assert_close(invert(f, f(z)), z, rtol=0, atol=1e-12)


def test_any_batch_shape_and_none():
    f = Bare(MoebiusEmbedding())
    z = draws(f, 12).reshape(3, 2, 2, 2)
    torch.testing.assert_close(invert(f, f(z)), z)
    torch.testing.assert_close(log_volume(f, z)[1, 1, 0], log_volume(f, z[1, 1, 0]))


def test_the_inverse_has_the_derivatives_of_the_inverse():
    f = Network()
    z = draws(f, 5)
    z.requires_grad_()
    # x = f(z) with z and the weights free: invert(f, x) is z again, so its derivative by z is one and by the weights
    # zero.
    back = invert(f, f(z))
    grads = torch.autograd.grad(back.sum(), [z, *f.parameters()])
    torch.testing.assert_close(grads[0], torch.ones_like(z), atol=1e-9, rtol=0)
    assert all(g.abs().max() < 1e-9 for g in grads[1:])
    # By x alone it is the pseudo-inverse of J.
    x = f(z).detach().requires_grad_()
    (by_x,) = torch.autograd.grad(invert(f, x)[:, 0].sum(), x)
    torch.testing.assert_close(by_x, torch.linalg.pinv(jacobian(f, z.detach()))[:, 0])


def test_points_off_the_manifold_are_seen():
    f = Network()
    on = f(draws(f, 60))
    off = on + 1e-6 * torch.randn(on.shape, dtype=on.dtype, generator=torch.Generator().manual_seed(1))
    check = image(f).check
    assert check(on).all() and not check(off).any() and not check(torch.full_like(on, math.nan)).any()
    outside = f(draws(f, 60) + torch.tensor([1.0, 0.0]))  # beyond the box, where f goes on
    assert not check(outside).any()


def test_an_encoder_is_a_start_where_no_grid_is():
    class Encoded(Network):
        def encode(self, x):
            return x[..., :4] + 0.05

    z = draws(Network(4, 6), 60)
    f = Encoded(4, 6)
    torch.testing.assert_close(invert(f, f(z), bounded=False), z, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="give it a method inverse"):
        invert(Network(4, 6), f(z))
    with pytest.raises(ValueError, match="give it a method inverse"):
        invert(Network(2, 4), torch.zeros(1, 4), bounded=False)


def test_inversion_and_volume_trace():
    f = Network()
    x = f(draws(f, 7)).detach()

    def density(x):
        x = x.detach().requires_grad_()
        value = log_volume(f, invert(f, x, iterations=3))
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    graph = make_fx(density)(x)
    for traced, eager in zip(graph(2 * x[:7] / 2), density(x), strict=True):
        torch.testing.assert_close(traced, eager)


def test_the_poles_of_the_sphere_have_finite_gradients():
    f = SphereEmbedding()
    z = torch.tensor([[0.0, 0.3], [1.0, 0.3], [0.5, 0.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(f(z).sum() + f.inverse(f(z)).sum() + f.log_volume(z).sum(), z)
    assert grad.isfinite().all()


def test_bad_shapes_are_refused():
    for make in (lambda: TorusEmbedding(1.0, 1.0), lambda: MoebiusEmbedding(2.0), lambda: FlatTorusEmbedding(0)):
        with pytest.raises(ValueError, match="expected"):
            make()
    with pytest.raises(ValueError, match="scale"):
        SwissRollEmbedding(0.0)
