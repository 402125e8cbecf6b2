"""SO(3) against scipy, matrix_exp and mpmath, at the ends of the angle's range above all."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.manifolds import SO3, so3

DTYPES = [torch.float32, torch.float64]
ANGLES = [0.0, 1e-30, 1e-8, 1e-4, 1e-2, 0.2, 1.0, 2.0, math.pi - 1e-2, math.pi - 1e-4, math.pi - 1e-8, math.pi]


def axes(n=200, dtype=torch.float64, seed=0):
    """Random axes, the coordinate axes and diagonals, where the choice of the quaternion's row changes."""
    u = torch.randn(n, 3, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    special = torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 0, -1], [1, 1, 0], [0, 1, -1], [1, 1, 1], [-1, 1, 1]], dtype=dtype
    )
    return torch.nn.functional.normalize(torch.cat([u, special]), dim=-1)


def rotations(n=200, dtype=torch.float64, seed=0):
    return torch.tensor(Rotation.random(n, random_state=seed).as_matrix(), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle", ANGLES)
def test_exp_and_log_are_inverse_to_rounding_with_finite_gradients(angle, dtype):
    v = (angle * axes(dtype=dtype)).requires_grad_()
    eps = torch.finfo(dtype).eps
    r = so3.exp(v)
    assert so3.rotation.check(r).all()
    assert (r - torch.linalg.matrix_exp(so3.hat(v))).abs().max() < 30 * eps
    back = so3.log(r)
    assert (so3.exp(back) - r).abs().max() < 8 * eps
    assert (so3.angle(r) - angle).abs().max() < 8 * eps * max(angle, 1e-20) + 8 * eps * (angle > 1)
    if angle < math.pi - 1e-3:
        assert (back - v).abs().max() <= 8 * eps * max(angle, 1e-30)
    for output in (r, back, so3.angle(r), so3.log_jacobian(v)):
        (gradient,) = torch.autograd.grad(output.sum() + output.square().sum(), v, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 100


@pytest.mark.parametrize("angle", [*ANGLES[1:], 3.5, 10.0, 60.0])
def test_exp_is_that_of_scipy(angle):
    v = angle * axes()
    assert np.allclose(so3.exp(v), Rotation.from_rotvec(v.numpy()).as_matrix(), atol=1e-13, rtol=0)


def test_log_is_that_of_scipy():
    r = rotations(1000)
    assert np.allclose(so3.log(r), Rotation.from_matrix(r.numpy()).as_rotvec(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("angle", [math.pi - 0.01, math.pi - 1e-3, math.pi - 1e-4, math.pi - 1e-6])
def test_log_near_pi_in_float32_keeps_its_digits(angle):
    """The trace forms of log lose .002 rad at pi - .01, all digits at pi - 1e-4, or return an angle beyond pi."""
    v = angle * axes()
    r = so3.exp(v).float()
    assert (so3.log(r).double() - v).abs().max() < 2e-6


def test_exp_has_its_gradients_at_zero():
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(so3.exp, v)
    assert torch.equal(jacobian, so3.hat(torch.eye(3, dtype=torch.float64)).permute(1, 2, 0))
    u = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    # d^2/dt^2 exp(t u) = hat(u)^2 at t = 0
    second = torch.func.jacfwd(torch.func.jacfwd(lambda t: so3.exp(t * u)))(torch.zeros((), dtype=torch.float64))
    assert torch.allclose(second, so3.hat(u) @ so3.hat(u), atol=1e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.19, 0.21, 1.0, 3.0, 3.14159])
def test_gradients_agree_with_finite_differences(angle):
    v = (angle * axes(3)[:3]).requires_grad_()
    assert torch.autograd.gradcheck(so3.exp, v)
    # Through exp, as log is defined on rotations alone.
    assert torch.autograd.gradcheck(lambda v: so3.log(so3.exp(v)), v, atol=1e-6)
    assert torch.autograd.gradcheck(so3.log_jacobian, v)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sinc_over_the_whole_range(dtype):
    s = torch.tensor([0, 1e-30, 1e-8, 0.3, 0.999, 1.0, 1.001, 4.0, 9.0, 100.0, 3600.0], dtype=dtype)
    exact = [mpmath.sinc(mpmath.sqrt(mpmath.mpf(x))) for x in s.tolist()]
    error = (so3.sinc(s).double() - torch.tensor([float(x) for x in exact], dtype=torch.float64)).abs()
    assert error.max() < 4 * torch.finfo(dtype).eps
    s = s.double().requires_grad_()
    (slope,) = torch.autograd.grad(so3.sinc(s).sum(), s)

    def exact_slope(x):
        return -mpmath.mpf(1) / 6 if x < 1e-20 else mpmath.diff(lambda y: mpmath.sinc(mpmath.sqrt(y)), x)

    assert np.allclose(slope, [float(exact_slope(mpmath.mpf(x))) for x in s.tolist()], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("t", [1e-30, 1e-10, 1e-9, 1e-8, 1e-3, 1.0, 2.0, 3.0, math.pi])
@pytest.mark.parametrize("dtype", DTYPES)
def test_log_jacobian(t, dtype):
    """A branch that substitutes 1 for t gives log(11/12) at 0, and 2 - 2 cos t underflows near 1e-9."""
    x = float(torch.tensor(t, dtype=dtype))
    with mpmath.workdps(90):
        exact = float(mpmath.log((2 - 2 * mpmath.cos(x)) / mpmath.mpf(x) ** 2))
    value = so3.log_jacobian(torch.tensor([0, x, 0], dtype=dtype))
    assert abs(value.item() - exact) < 8 * torch.finfo(dtype).eps
    assert so3.log_jacobian(torch.zeros(3, dtype=dtype)) == 0


def test_log_jacobian_is_the_determinant_of_the_derivative():
    v = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64)
    left = torch.autograd.functional.jacobian(lambda w: so3.vee(so3.exp(v).mT @ so3.exp(w)), v)
    assert torch.allclose(left.det().log(), so3.log_jacobian(v), atol=1e-12)


def test_volume_by_quadrature():
    x, w = np.polynomial.legendre.leggauss(40)
    t = torch.tensor(math.pi * (x + 1) / 2)
    shell = 4 * math.pi * t**2 * so3.log_jacobian(torch.stack([t, 0 * t, 0 * t], -1)).exp()
    assert abs((torch.tensor(w) * shell).sum().item() * math.pi / 2 - so3.VOLUME) < 1e-10


@pytest.mark.parametrize("dtype", DTYPES)
def test_quaternions(dtype):
    r = rotations(500, dtype)
    q = so3.to_quaternion(r)
    exact = torch.tensor(Rotation.from_matrix(r.double().numpy()).as_quat(canonical=True, scalar_first=True))
    assert (q.double() - exact).abs().max() < 10 * torch.finfo(dtype).eps
    assert (so3.from_quaternion(-q) - r).abs().max() < 10 * torch.finfo(dtype).eps


def test_group():
    r, s, t = (rotations(50, seed=i) for i in range(3))
    p = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(so3.compose(so3.compose(r, s), t), so3.compose(r, so3.compose(s, t)), atol=1e-14)
    assert torch.allclose(so3.compose(r, so3.inverse(r)), torch.eye(3, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(so3.act(so3.compose(r, s), p), so3.act(r, so3.act(s, p)), atol=1e-14)
    assert torch.allclose(so3.compose(r, s), r @ s, atol=1e-15)
    assert torch.allclose(so3.act(so3.hat(p), p.roll(1, 0)), torch.linalg.cross(p, p.roll(1, 0)), atol=1e-14)
    assert torch.equal(so3.vee(so3.hat(p)), p)
    # Ad: R exp(v) R^T = exp(R v)
    assert torch.allclose(r @ so3.exp(p) @ r.mT, so3.exp(so3.act(r, p)), atol=1e-14)


def test_constraint():
    r = rotations(3)
    assert so3.rotation.check(r).all()
    assert not so3.rotation.check(1.001 * r).any()
    assert not so3.rotation.check(-r).any(), "a reflection is orthogonal too"
    assert not so3.rotation.check(r * float("nan")).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_manifold(dtype):
    manifold, x, y = SO3(), rotations(100, dtype), rotations(100, dtype, seed=1)
    eps = torch.finfo(dtype).eps
    u = manifold.logmap(x, y)
    assert (manifold.expmap(x, u) - y).abs().max() < 20 * eps
    assert (manifold.proju(x, u) - u).abs().max() < 20 * eps
    exact = (Rotation.from_matrix(x.double()).inv() * Rotation.from_matrix(y.double())).magnitude()
    assert (manifold.dist(x, y).double() - torch.tensor(exact)).abs().max() < 20 * eps
    assert (u.square().sum((-1, -2)).sqrt() / math.sqrt(2) - manifold.dist(x, y)).abs().max() < 20 * eps
    g = rotations(1, dtype, seed=2)[0]
    assert (manifold.dist(g @ x, g @ y) - manifold.dist(x, y)).abs().max() < 20 * eps
    assert (manifold.dist(x @ g, y @ g) - manifold.dist(x, y)).abs().max() < 20 * eps
    a = torch.randn(100, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    normal = a - manifold.proju(x, a)
    assert (normal * u).sum((-1, -2)).abs().max() < 50 * eps, "what proju removes is orthogonal to the tangent space"


def test_traces_batches_and_empty_batches():
    v = torch.randn(4, 2, 3)
    traced = make_fx(lambda v: so3.log(so3.exp(v)))(v)
    assert torch.equal(traced(2 * v), so3.log(so3.exp(2 * v)))
    gradient = make_fx(torch.func.grad(lambda v: so3.log(so3.exp(v)).square().sum()))(v)
    assert gradient(v).isfinite().all()
    assert so3.log(so3.exp(torch.zeros(0, 3))).shape == (0, 3)
