"""Complex projective space: the sphere of radius 1/2, phases, shapes of landmarks, and the mass of a law on it."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ppvae.distributions import TangentNormal
from ppvae.manifolds import ComplexProjective, Sphere
from ppvae.manifolds.complex_projective import landmarks, preshape

F64 = torch.float64
M = ComplexProjective()


def points(n, m, seed=0):
    z = torch.randn(n, m, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return z / z.flatten(1).norm(dim=-1)[:, None, None]


def turned(z, angle):
    return torch.view_as_real(torch.view_as_complex(z.contiguous()) * complex(math.cos(angle), math.sin(angle)))


def hopf(z):
    """CP^1 to the unit sphere of R^3."""
    a, b = torch.view_as_complex(z).unbind(-1)
    c = 2 * a.conj() * b
    return torch.stack([c.real, c.imag, a.abs().square() - b.abs().square()], -1)


def test_of_dimension_one_it_is_the_sphere_of_radius_one_half():
    x, y = points(40, 2), points(40, 2, 1)
    assert torch.allclose(2 * M.dist(x, y), Sphere().dist(hopf(x), hopf(y)), atol=1e-12)
    u = M.logmap(x, y)
    half = hopf(M.expmap(x, u / 2))
    assert torch.allclose(half, Sphere().expmap(hopf(x), Sphere().logmap(hopf(x), hopf(y)) / 2), atol=1e-12)
    length = 2 * u.flatten(1).norm(dim=-1)
    assert torch.allclose(M.logvolume(x, u), (length.sin() / length).log(), atol=1e-12)


def test_distance_is_the_angle_of_complex_lines():
    x, y = points(40, 4), points(40, 4, 1)
    inner = (torch.view_as_complex(x).conj() * torch.view_as_complex(y)).sum(-1)
    assert torch.allclose(M.dist(x, y).cos(), inner.abs(), atol=1e-14)
    near = M.expmap(x, 1e-7 * M.frame(x)[:, 0])
    assert torch.allclose(M.dist(x, near), torch.full((40,), 1e-7, dtype=F64), rtol=1e-7), "where arccos has no digits"


@pytest.mark.parametrize("angle", [0.3, 2.0, math.pi])
def test_nothing_depends_on_the_phase(angle):
    x, y = points(20, 3), points(20, 3, 1)
    there = turned(x, angle)
    assert torch.allclose(M.embed(there), M.embed(x), atol=1e-14)
    assert torch.allclose(M.dist(there, y), M.dist(x, y), atol=1e-14)
    assert M.dist(there, x).max() < 1e-15
    # Tangent vectors turn with the point, and so does the frame: coordinates stay.
    assert torch.allclose(M.coordinates(there, M.logmap(there, y)), M.coordinates(x, M.logmap(x, y)), atol=1e-13)
    assert torch.allclose(M.frame(there), turned(M.frame(x), angle), atol=1e-14)
    L = torch.tensor([[0.3, 0, 0, 0], [0.1, 0.2, 0, 0], [0, 0.2, 0.4, 0], [0.1, 0, 0, 0.5]], dtype=F64)
    one, other = TangentNormal(M, x, L), TangentNormal(M, there, L)
    assert torch.allclose(one.log_prob(y), other.log_prob(turned(y, 1.0)), atol=1e-12)


def test_at_the_cut_locus_the_logarithm_is_one_of_many():
    x, y = torch.eye(3, dtype=F64)[:2].unsqueeze(-1) * torch.tensor([1.0, 0.0], dtype=F64)
    assert M.dist(x, y).item() == pytest.approx(math.pi / 2)
    assert torch.allclose(M.logmap(x, y), math.pi / 2 * y)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.5])
def test_mass_of_an_isotropic_law_is_one(n, scale):
    """In the distance t from loc, with the volume sin 2t / 2 (sin t)^(2n - 2) times the area of S^(2n - 1)."""
    x, w = np.polynomial.legendre.leggauss(400)
    largest = min(math.pi / 2, 14 * scale)
    t, w = torch.tensor(largest * (x + 1) / 2), torch.tensor(w * largest / 2)
    law = TangentNormal(M, points(1, n + 1)[0], scale * torch.eye(2 * n, dtype=F64), num_wraps=8)
    loc = law.loc.expand(400, -1, -1)
    z = M.expmap(loc, t[:, None, None] * M.frame(loc)[:, 0])
    area = 2 * math.pi**n / math.factorial(n - 1)
    mass = (w * area * (2 * t).sin() / 2 * t.sin() ** (2 * n - 2) * law.log_prob(z).exp()).sum().item()
    assert mass == pytest.approx(1, abs=1e-7)


def test_the_shape_is_what_moving_scaling_and_turning_leave():
    x = torch.randn(30, 5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    z = preshape(x)
    assert z.shape == (30, 4, 2) and M.support.check(z).all()
    moved = preshape(3 * turned(x, 0.7) + torch.tensor([100.0, -5.0], dtype=F64))
    assert M.dist(z, moved).max() < 1e-12
    mirrored = preshape(x * torch.tensor([1.0, -1.0], dtype=F64))
    assert M.dist(z, mirrored).min() > 0.01, "a mirror image is another shape"
    back = landmarks(z)
    assert torch.allclose(preshape(back), z, atol=1e-14)
    assert back.mean(1).abs().max() < 1e-15 and torch.allclose(back.flatten(1).norm(dim=-1), torch.ones(30, dtype=F64))


def test_its_distance_is_that_of_procrustes():
    """sin d is the least root of squares over turns, scales and shifts, of a configuration of size one from another."""
    a, b = torch.randn(2, 5, 2, dtype=F64, generator=torch.Generator().manual_seed(1)).numpy()
    a = (a - a.mean(0)) / np.linalg.norm(a - a.mean(0))

    def cost(p):
        turn = np.array([[p[0], -p[1]], [p[1], p[0]]])
        return np.square(a - b @ turn.T - p[2:]).sum()

    least = minimize(cost, np.array([0.1, 0.1, 0.0, 0.0]), tol=1e-14).fun
    d = M.dist(preshape(torch.tensor(a)), preshape(torch.tensor(b))).item()
    assert math.sin(d) == pytest.approx(math.sqrt(least), abs=1e-7)


def test_the_mean_shape_of_noisy_copies_is_near_the_shape():
    torch.manual_seed(0)
    x = torch.randn(5, 2, dtype=F64)
    noisy = preshape(torch.stack([turned(x, 0.3 * k) for k in range(100)]) + 0.05 * torch.randn(100, 5, 2, dtype=F64))
    assert M.dist(M.mean(noisy), preshape(x)) < 0.02


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"shape \(\.\.\., k, 2\) with k >= 3, got \(2, 2\)"):
        preshape(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="not all one point"):
        preshape(torch.ones(4, 2))
    with pytest.raises(ValueError, match="view_as_real"):
        M.support.check(torch.ones(3))
