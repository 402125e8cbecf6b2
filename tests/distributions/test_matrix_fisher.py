"""The matrix Fisher law: normaliser, mean and KL against mpmath, samples against the density, singular values."""

import math

import mpmath
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.distributions import kl_divergence

from ppvae.distributions.center import center
from ppvae.distributions.matrix_fisher import MatrixFisher, _decompose
from ppvae.distributions.so3_uniform import SO3Uniform
from ppvae.manifolds import so3
from ppvae.testing import check_distribution

F64 = torch.float64
UNIFORM = SO3Uniform(dtype=F64)
VALUES = [
    (0, 0, 0),
    (1e-3, 0, 0),
    (1, 0.5, -0.3),
    (2, 2, 2),
    (2, 2, -2),
    (10, 3, 3),
    (100, 50, -20),
    (1e4, 1, -1),
    (1e6, 1e5, 1e3),
]


def rotations(*shape, seed=0):
    r = Rotation.random(math.prod(shape), random_state=seed).as_matrix()
    return torch.tensor(r).reshape(*shape, 3, 3)


def with_singular_values(s, seed=0):
    u, v = rotations(2, seed=seed)
    return u @ torch.diag(torch.tensor(s, dtype=F64)) @ v.mT


def exact_log_c(s):
    """log c(F), from the integral of systems of two Bessel functions (Lee, 2018), less s_1 + s_2 + s_3."""
    s1, s2, s3 = (mpmath.mpf(x) for x in s)

    def i0e(x):
        return mpmath.exp(-x) * mpmath.besseli(0, x)

    def f(y):
        return i0e((s1 - s2) * y) * i0e((s1 + s2) * (1 - y)) * mpmath.exp(-2 * (s2 + s3) * y)

    decades = [mpmath.mpf(10) ** -k for k in range(11, 0, -1)]
    return mpmath.log(mpmath.quad(f, [0, *decades, mpmath.mpf(1) / 2, *(1 - d for d in reversed(decades)), 1]))


def exact_singular_values(f):
    """s_1 >= s_2 >= |s_3| of the matrix as it is stored: float32 holds s_2 + s_3 to a rounding unit of s_1 only."""
    with mpmath.workdps(40):
        a = mpmath.matrix(f.double().tolist())
        s = list(mpmath.svd_r(a, compute_uv=False))
        return [s[0], s[1], mpmath.sign(mpmath.det(a)) * s[2]]


@pytest.mark.parametrize("s", VALUES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_normaliser_is_that_of_mpmath(s, dtype):
    law = MatrixFisher(with_singular_values(s).to(dtype))
    got = -law.log_prob(law.mode) - math.log(so3.VOLUME)
    assert abs(got.item() - float(exact_log_c(exact_singular_values(law.concentration)))) < (
        1e-5 if dtype == torch.float32 else 1e-11 + 1e-15 * s[0]
    )


# Where s_2 + s_3 is small beside s_1 the law is broad about one axis and narrow about two: the hard case in float32.
SHAPES = [(1, 1, 1), (1, 0.5, 0.2), (1, 1, -0.9), (1, 1, -1), (1, 0, 0), (1, 1e-4, 0)]


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_that_of_float64_over_a_grid_of_concentrations(shape):
    """At the law's own draws and everywhere else, and the KL, from 0 to 1e8."""
    sizes = torch.tensor([0, *(10.0**k for k in range(-8, 9))], dtype=F64)
    f = (sizes[:, None, None] * with_singular_values(shape)).float()
    double, single = MatrixFisher(f.double()), MatrixFisher(f)
    torch.manual_seed(0)
    near, far = double.sample((64,)), rotations(64, seed=7)[:, None].expand(64, len(sizes), 3, 3)
    # A rotation in float32 is off by 1e-7 radians. The slope of log q is sqrt(s_1) near the mode, s_1 elsewhere.
    for z, slope in ((near, sizes.sqrt()), (far, sizes)):
        z = z.float()
        exact = double.log_prob(so3.project(z.double()))
        assert ((single.log_prob(z).double() - exact).abs() < 2e-5 + 4e-6 * slope).all()
    exact = kl_divergence(double, UNIFORM)
    assert torch.allclose(kl_divergence(single, SO3Uniform()).double(), exact, rtol=1e-6, atol=2e-5)
    at_mode = double.log_prob(double.mode)
    assert torch.allclose(single.log_prob(single.mode).double(), at_mode, rtol=0, atol=2e-5)
    assert ((single.mean.double() - double.mean).abs() < 2e-6).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e7, 1e8])
def test_normaliser_in_float32_at_the_end_of_the_range_is_that_of_mpmath(shape, size):
    law = MatrixFisher(with_singular_values([size * s for s in shape]).float())
    got = -law.log_prob(law.mode) - math.log(so3.VOLUME)
    assert got.item() == pytest.approx(float(exact_log_c(exact_singular_values(law.concentration))), abs=2e-5)


@pytest.mark.parametrize("s", VALUES)
def test_kl_entropy_and_mean_are_those_of_the_normaliser(s):
    """E R = U diag(d log c / d s) V^T, KL = sum s_i d_i log c - log c."""
    f, total = with_singular_values(s), sum(s)
    with mpmath.workdps(30):
        slopes = []
        for i in range(3):
            h = mpmath.mpf(10) ** -6 * max(1, s[i])
            up, down = ([mpmath.mpf(x) + sign * h * (j == i) for j, x in enumerate(s)] for sign in (1, -1))
            slopes.append(1 + (exact_log_c(up) - exact_log_c(down)) / (2 * h) if max(s) < 1e3 else mpmath.nan)
    law = MatrixFisher(f)
    if max(s) < 1e3:
        u, v, _ = _decompose(f)
        diagonal = (u.mT @ law.mean @ v).diagonal()
        assert torch.allclose(diagonal, torch.tensor([float(x) for x in slopes], dtype=F64), atol=1e-8)
        kl = sum(a * (b - 1) for a, b in zip(s, slopes, strict=True)) - exact_log_c(s)
        assert kl_divergence(law, UNIFORM).item() == pytest.approx(float(kl), abs=1e-6)
    assert law.entropy().item() == pytest.approx(math.log(so3.VOLUME) - kl_divergence(law, UNIFORM).item())
    assert (so3.compose(law.mode.mT, f).diagonal().sum() - total).abs() < 1e-12 * max(1, total)


@pytest.mark.parametrize("s", VALUES)
def test_gradients(s):
    """d log c / dF = E R, also where singular values are equal; the score has that mean."""
    f = with_singular_values(s).requires_grad_()
    z = rotations(4, seed=3)
    (score,) = torch.autograd.grad(MatrixFisher(f).log_prob(z).sum(), f)
    exact = (z - MatrixFisher(f.detach()).mean).sum(0)
    assert torch.allclose(score, exact, atol=1e-6 if s[0] > 1e3 else 1e-9)
    if 0 < s[0] < 50:
        step = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
        (slope,) = torch.autograd.grad(kl_divergence(MatrixFisher(f), UNIFORM), f)
        up, down = (kl_divergence(MatrixFisher(f.detach() + h * step), UNIFORM) for h in (1e-5, -1e-5))
        assert (slope * step).sum().item() == pytest.approx((up - down).item() / 2e-5, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "s", [(0, 0, 0), (1, 0, 0), (3, 3, -3), (3, 3, 3), (1e-20, 1e-20, 0), (1e4, 1e4, 1e4), (1e4, 1e4, -1e4)]
)
def test_degenerate_parameters_are_finite(s, dtype):
    f = with_singular_values(s).to(dtype).requires_grad_()
    law = MatrixFisher(f)
    z = law.sample((200,))
    assert so3.rotation.check(z).all()
    z = torch.cat([z, law.mode[None].detach()]).requires_grad_()
    kl = kl_divergence(law, UNIFORM)
    for output in (law.log_prob(z).sum(), kl):
        assert output.isfinite()
        assert torch.autograd.grad(output, f, retain_graph=True)[0].isfinite().all()
    assert torch.autograd.grad(law.log_prob(z).sum(), z)[0].isfinite().all()
    assert kl >= -1e-6


@pytest.mark.parametrize(
    "s", [(3, 2, 1), (1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, -1.9999), (1e6, 1, -0.5), (1, 1e-3, -1e-3)]
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_singular_values(s, dtype):
    u, v = rotations(300), rotations(300, seed=1)
    f = (u @ torch.diag(torch.tensor(s, dtype=F64)) @ v.mT).to(dtype)
    eps = torch.finfo(dtype).eps
    u, v, d = _decompose(f)
    values = d.diagonal(dim1=-2, dim2=-1)
    assert u.dtype == v.dtype == F64
    assert so3.rotation.check(u).all()
    assert so3.rotation.check(v).all()
    assert (u @ torch.diag_embed(values) @ v.mT - f).abs().max() < 20 * torch.finfo(F64).eps * s[0]
    assert (values - torch.tensor(s, dtype=F64)).abs().max() < 20 * eps * s[0]


@pytest.mark.parametrize("s", [(1, 0.5, -0.3), (20, 20, 20), (300, 100, -90)])
def test_samples_have_the_mean_and_the_law_is_the_bingham_law(s):
    torch.manual_seed(0)
    law = MatrixFisher(with_singular_values(s))
    z = law.sample((20000,))
    assert ((z.mean(0) - law.mean).abs() < 5.5 * z.std(0) / math.sqrt(20000)).all()
    # log q + sum_i lambda_i x_i^2 is one constant, x the quaternion of U^T R V
    u, v, d = _decompose(law.concentration)
    s1, s2, s3 = d.diagonal()
    x = so3.to_quaternion(u.mT @ z @ v)
    bingham = 2 * (torch.stack([s2 + s3, s1 + s3, s1 + s2]) * x[..., 1:].square()).sum(-1)
    assert (law.log_prob(z) + bingham).std() < 1e-10


def test_large_concentration_is_normal_in_the_algebra():
    torch.manual_seed(0)
    law = MatrixFisher(torch.diag(torch.tensor([3e4, 2e4, 1e4], dtype=F64)))
    v = so3.log(law.sample((20000,)))
    variance = 1 / torch.tensor([3e4, 4e4, 5e4], dtype=F64)
    assert torch.allclose(v.var(0), variance, rtol=0.05)


def test_no_accepted_proposal_is_nan(monkeypatch):
    monkeypatch.setattr("ppvae.distributions.matrix_fisher._PROPOSALS", 1)
    torch.manual_seed(0)
    z = MatrixFisher(100 * torch.eye(3)).sample((200,))
    share = z.isnan().flatten(-2).any(-1).float().mean()
    assert 0.4 < share < 0.7
    assert so3.rotation.check(z[~z.isnan().flatten(-2).any(-1)]).all()


def test_passes_the_battery():
    f = torch.randn(2, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    f = torch.tensor([1.0, 6.0])[:, None, None] * f
    g, h = rotations(2, seed=5)
    check_distribution(
        lambda concentration: MatrixFisher(concentration),
        {"concentration": f},
        proposal=UNIFORM,
        isometry=(lambda z: g @ z @ h, {"concentration": g @ f @ h}),
        kl_to=[UNIFORM],
        grid=[{"concentration": c * f} for c in (0, 1e-4, 100)],
        points=lambda q: torch.stack(
            [q.mode, so3.compose(q.mode, so3.exp(math.pi * torch.eye(3).to(f)[0]).to(q.mode))]
        ),
    )


def test_errors_and_center():
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 3\)"):
        MatrixFisher(torch.zeros(9))
    with pytest.raises(ValueError, match="concentration"):
        MatrixFisher(torch.full((3, 3), math.nan), validate_args=True)
    law = MatrixFisher(rotations(2))
    assert torch.allclose(center(law), rotations(2))
    assert not law.has_rsample
