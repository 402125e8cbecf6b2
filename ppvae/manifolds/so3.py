r"""The rotation group SO(3) = {R in R^{3x3} : R R^T = I, det R = 1} with the angle metric.

With :math:`\hat v w = v \times w`, :math:`t = |v|` and :math:`\mathrm{sinc}\, t = \sin t / t`,

.. math::
    \exp(v) &= \cos t \, I + \mathrm{sinc}\, t \; \hat v + \tfrac12 \mathrm{sinc}^2 \tfrac t2 \; v v^T
        & &\text{(Rodrigues)} \\
    \log(R) &= 2 \, \mathrm{atan2}(|x|, w) \, \frac{x}{|x|}, & &(w, x) \text{ the unit quaternion of } R, \; w \ge 0 \\
    d(R, S) &= |\log(R^T S)| \in [0, \pi], & d\mathrm{vol} &= \mathrm{sinc}^2 \tfrac t2 \; dv, \quad
        \mathrm{vol}\, SO(3) = 8 \pi^2

Rotations are matrices (..., 3, 3) and act on column vectors; v, an element of the algebra so(3), is an axis times an
angle in radians, (..., 3). As functions of s = :math:`|v|^2` sinc and cos are entire, so that values and gradients are
right at v = 0 too. All forms are closed: no solver is called, and nothing branches on values.

References:
    [1] Reparameterizing Distributions on Lie Groups (Falorsi et al., 2019)
        https://arxiv.org/abs/1903.02958
    [2] Quaternion from Rotation Matrix (Shepperd, 1978)
        https://doi.org/10.2514/3.55767b
    [3] Three-axis attitude determination from vector observations (Shuster & Oh, 1981)
        https://doi.org/10.2514/3.19717
    [4] A Micro Lie Theory for State Estimation in Robotics (Solà, Deray & Atchuthan, 2018)
        https://arxiv.org/abs/1812.01537
"""

import math

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.protocol import along_closed_geodesics, frechet_mean

__all__ = [
    "SO3",
    "VOLUME",
    "act",
    "angle",
    "compose",
    "cross",
    "exp",
    "from_quaternion",
    "hat",
    "inverse",
    "log",
    "log_jacobian",
    "project",
    "rotation",
    "sinc",
    "to_quaternion",
    "vee",
]

#: Volume of SO(3) in the angle metric.
VOLUME = 8 * math.pi**2


class _Rotation(constraints.Constraint):
    r"""Rotation matrices: every entry of :math:`R R^T - I` is within 100 rounding units of the dtype, and det
    R > 0.

    A rotation from this library is off by a few units. Float32 rotations cast to float64 do not pass: project
    them again.
    """

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        eye = torch.eye(3, dtype=value.dtype, device=value.device)
        defect = (compose(value, value.mT) - eye).abs().amax((-2, -1))
        right_handed = _dot(cross(value[..., 0, :], value[..., 1, :]), value[..., 2, :]).squeeze(-1) > 0
        return (defect <= 100 * torch.finfo(value.dtype).eps) & right_handed


rotation = _Rotation()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """The cross product a x b, (..., 3); batch shapes broadcast.

    >>> cross(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    tensor([0., 0., 1.])
    """
    return a.roll(-1, -1) * b.roll(-2, -1) - a.roll(-2, -1) * b.roll(-1, -1)


def sinc(s: Tensor) -> Tensor:
    r"""sin t / t as a function of s = t^2 >= 0, entire: :math:`\sum_n (-s)^n / (2n + 1)!`.

    The relative error is a few rounding units, and near the zeros t = k pi as large as that of sin t. All derivatives
    with respect to s are finite.

    >>> print(f"{sinc(torch.tensor(4.0)):.4f} {math.sin(2) / 2:.4f}")
    0.4546 0.4546
    """
    near = s < 1
    series, few = torch.ones_like(s), torch.where(near, s, 0)
    for n in range(9, 0, -1):  # the first term left out is below 1 / 21! = 2e-20
        series = 1 - few * series / (2 * n * (2 * n + 1))
    t = torch.where(near, 1, s).sqrt()
    return torch.where(near, series, t.sin() / t)


def hat(v: Tensor) -> Tensor:
    r"""The skew matrix :math:`\hat v` of the cross product with v, (..., 3) -> (..., 3, 3).

    >>> hat(torch.tensor([1.0, 2.0, 3.0]))
    tensor([[ 0., -3.,  2.],
            [ 3.,  0., -1.],
            [-2.,  1.,  0.]])
    """
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def vee(a: Tensor) -> Tensor:
    r"""The inverse of :func:`hat`, (..., 3, 3) -> (..., 3); of any other matrix, that of its skew part.

    >>> vee(hat(torch.tensor([1.0, 2.0, 3.0])))
    tensor([1., 2., 3.])
    """
    skew = a - a.mT
    return torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1) / 2


def compose(r: Tensor, s: Tensor) -> Tensor:
    """The product R S, (..., 3, 3).

    >>> print(f"{angle(compose(exp(torch.tensor([0.0, 0.0, 1.0])), exp(torch.tensor([0.0, 0.0, 0.5])))):.4f}")
    1.5000
    """
    # A sum of products and not a matmul: TF32 and autocast would leave it with three digits, off the
    # manifold.
    return (r.unsqueeze(-1) * s.unsqueeze(-3)).sum(-2)


def inverse(r: Tensor) -> Tensor:
    """The inverse R^T, (..., 3, 3).

    >>> r = exp(torch.tensor([0.3, 0.1, -0.2]))
    >>> print(f"{angle(compose(r, inverse(r))):.4f}")
    0.0000
    """
    return r.mT


def act(r: Tensor, p: Tensor) -> Tensor:
    """The rotated points R p, (..., 3); batch shapes broadcast.

    >>> r = exp(torch.tensor([0.0, 0.0, math.pi / 3]))
    >>> act(r, torch.tensor([1.0, 0.0, 0.0])).round(decimals=4)
    tensor([0.5000, 0.8660, 0.0000])
    """
    return (r * p.unsqueeze(-2)).sum(-1)


def exp(v: Tensor) -> Tensor:
    r"""The rotation by ``|v|`` radians about v, (..., 3) -> (..., 3, 3); orthogonal to rounding at every
    ``|v|``.

    Values and derivatives of every order are finite at v = 0, where the first is :math:`\hat{dv}`.

    >>> exp(torch.tensor([0.0, 0.0, math.pi / 3])).round(decimals=4)
    tensor([[ 0.5000, -0.8660,  0.0000],
            [ 0.8660,  0.5000,  0.0000],
            [ 0.0000,  0.0000,  1.0000]])
    """
    s = _dot(v, v).unsqueeze(-1)
    half = sinc(s / 4).square() / 2  # (1 - cos t) / t^2, which the difference would cancel
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    return (1 - s * half) * eye + sinc(s) * hat(v) + half * v.unsqueeze(-1) * v.unsqueeze(-2)


def log(r: Tensor) -> Tensor:
    r"""The v with :math:`\exp(v) = R` and ``|v|`` <= pi, (..., 3, 3) -> (..., 3), accurate to rounding at
    every angle.

    The gradient is finite everywhere. At angle pi, where v and -v are both logarithms, one is chosen and the
    gradient is that of its branch.

    >>> log(exp(torch.tensor([0.3, 0.1, -0.2]))).round(decimals=4)
    tensor([ 0.3000,  0.1000, -0.2000])
    """
    return _log_quaternion(to_quaternion(r))


def _log_quaternion(q: Tensor) -> Tensor:
    """The rotation vector of unit quaternions (w, x), w >= 0: 2 atan2(|x|, w) x / |x|."""
    w, x = q[..., :1], q[..., 1:]
    n = _dot(x, x)
    near = n < 0.01
    # Near the identity 2 atan(t) / |x| with t = |x| / w, by the series of atan: |x| has no gradient at 0.
    y = torch.where(near, n, 0) / torch.where(near, w, 1).square()
    series = torch.zeros_like(y)
    for k in range(8, -1, -1):  # the first term left out is below 0.0102^9 / 19 = 1e-19
        series = 1 / (2 * k + 1) - y * series
    sine = torch.where(near, 1, n).sqrt()
    factor = torch.where(near, series / torch.where(near, w, 1), torch.atan2(sine, w) / sine)
    return 2 * factor * x


def to_quaternion(r: Tensor) -> Tensor:
    r"""The unit quaternion (w, x, y, z) of R with w >= 0, (..., 3, 3) -> (..., 4).

    Row i of the matrix :math:`4 q q^T`, which is linear in R, is :math:`4 q_i q`; the row of the largest
    :math:`q_i^2` is taken [2], so nothing cancels at any angle.

    >>> to_quaternion(exp(torch.tensor([0.0, 0.0, math.pi / 2]))).round(decimals=4)
    tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """
    r11, r12, r13, r21, r22, r23, r31, r32, r33 = r.flatten(-2).unbind(-1)
    wx, wy, wz = r32 - r23, r13 - r31, r21 - r12
    xy, xz, yz = r12 + r21, r13 + r31, r23 + r32
    up, down = 1 + r11, 1 - r11
    plus, minus = r22 + r33, r22 - r33
    ww, xx, yy, zz = up + plus, up - plus, down + minus, down - minus
    rows = torch.stack([ww, wx, wy, wz, wx, xx, xy, xz, wy, xy, yy, yz, wz, xz, yz, zz], -1).unflatten(-1, (4, 4))
    largest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = rows.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    q = q / _dot(q, q).sqrt()  # its length is 4 |q_i| >= 2
    return torch.where(q[..., :1] < 0, -q, q)


def from_quaternion(q: Tensor) -> Tensor:
    r"""The rotation of the unit quaternion q = (w, x, y, z), (..., 4) -> (..., 3, 3); -q gives the same one.

    .. math::
        R = (w^2 - |x|^2) I + 2 w \hat x + 2 x x^T

    >>> from_quaternion(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    w, x = q[..., :1, None], q[..., 1:]
    eye = torch.eye(3, dtype=q.dtype, device=q.device)
    outer = x.unsqueeze(-1) * x.unsqueeze(-2)
    return (w.square() - _dot(x, x).unsqueeze(-1)) * eye + 2 * w * hat(x) + 2 * outer


def angle(r: Tensor) -> Tensor:
    """The angle of R in [0, pi] radians, (..., 3, 3) -> (...), accurate to rounding at both ends.

    It has a corner at the identity, as every norm; the gradient there is 0.

    >>> print(f"{angle(exp(torch.tensor([0.0, 0.6, 0.8]))):.4f}")
    1.0000
    """
    v = log(r)
    s = _dot(v, v).squeeze(-1)
    return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)


def log_jacobian(v: Tensor) -> Tensor:
    r"""log |dvol / dv| of the exponential map at v, :math:`2 \log |\mathrm{sinc}(t/2)|` with t = ``|v|``,
    (..., 3) -> (...).

    It is 0 at v = 0, falls to 2 log(2 / pi) at t = pi and is -inf at t = 2 pi k, k != 0, whose spheres exp
    sends to one point.

    >>> print(f"{log_jacobian(torch.tensor([0.0, 0.0, math.pi])):.4f} {2 * math.log(2 / math.pi):.4f}")
    -0.9032 -0.9032
    """
    return 2 * sinc(_dot(v, v).squeeze(-1) / 4).abs().log()


def project(a: Tensor) -> Tensor:
    r"""The rotation nearest to a matrix A in the Frobenius norm, which is also :math:`\arg\max_R
    \mathrm{tr}(A^T R)`.

    With singular values :math:`A = U \mathrm{diag}(s_1, s_2, s_3) V^T`, U and V rotations, :math:`s_1 \ge s_2
    \ge |s_3|`, it is :math:`R = U V^T`. In unit quaternions :math:`\mathrm{tr}(A^T R(q)) = q^T K q` with
    Davenport's matrix [3]

    .. math::
        K = \begin{pmatrix} \mathrm{tr} A & a^T \\ a & A + A^T - \mathrm{tr} A \, I \end{pmatrix}, \qquad
        a = 2 \, \mathrm{vee}(A),

    so q is the first eigenvector of K, by repeated squaring. Newton steps on SO(3), :math:`R \exp(w)` with
    :math:`(\mathrm{tr} S \, I - S) w = 2 \, \mathrm{vee}(S), S = R^T A`, then take off what is left, and the last
    one carries the gradient: its derivative is that of R by the implicit function theorem. First derivatives only.

    R is unique where :math:`s_2 + s_3 > 0`, and its gradient grows as the inverse of that sum. The sum is 0 to rounding
    if the rank is below two, or if det A < 0 and the two smallest singular values are equal. Then the result is one of
    the nearest rotations, the identity if A = 0, with gradient 0.

    :param a: matrices, shape ``(..., 3, 3)``.
    :return: rotations, shape ``(..., 3, 3)``.

    >>> r = exp(torch.tensor([0.3, 0.1, -0.2]))
    >>> torch.allclose(project(2 * r), r, atol=1e-6)
    True
    """
    size = a.detach().abs().amax((-2, -1), keepdim=True)
    a = a / torch.where(size > 0, size, 1)  # R does not depend on the scale, nor does the square overflow
    fixed = a.detach()
    trace = fixed.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    vector = 2 * vee(fixed).unsqueeze(-1)
    k = torch.cat([torch.cat([trace, vector.mT], -1), torch.cat([vector, fixed + fixed.mT - trace * eye], -1)], -2)
    # Its eigenvalues are +-s_1 +-s_2 +-s_3, none below -3^(1/2) |A|, so that the largest becomes the largest
    # in modulus.
    bound = math.sqrt(3) * fixed.square().sum((-2, -1), keepdim=True).sqrt()
    power = k + torch.where(bound > 0, bound, 1) * torch.eye(4, dtype=a.dtype, device=a.device)
    # After n squarings e^{-2^n gap} of the second eigenvector is left, gap = (s_2 + s_3) / |A| up to a
    # factor: 2^n = 1 / eps.
    for n in range(round(-math.log2(torch.finfo(a.dtype).eps))):
        if n % 4 == 0:  # the largest eigenvalue is then at least 1/4, and above 2e-10 four squarings later
            power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        # TF32 and autocast, for which compose is no matmul, leave float64 alone.
        power = power @ power if a.dtype == torch.float64 else compose(power, power)
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = power.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    r = from_quaternion(q / _dot(q, q).sqrt())
    r = _newton(r, fixed)
    return _newton(r, a)


def _newton(r: Tensor, a: Tensor) -> Tensor:
    """One Newton step from R towards the maximum of tr(A^T R)."""
    s = compose(r.mT, a)
    h = s.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * torch.eye(3, dtype=a.dtype, device=a.device)
    h = h - (s + s.mT) / 2
    h1, h2, h3 = h.unbind(-2)
    adjugate = torch.stack([cross(h2, h3), cross(h3, h1), cross(h1, h2)], -2)  # h is symmetric
    det = _dot(h1, adjugate[..., 0, :])  # (s_1 + s_2)(s_1 + s_3)(s_2 + s_3)
    unique = det > 8 * torch.finfo(a.dtype).eps * a.detach().abs().amax((-2, -1)).unsqueeze(-1) ** 3
    w = act(adjugate, 2 * vee(s)) / torch.where(unique, det, 1)
    return compose(r, exp(torch.where(unique, w, 0)))


class SO3:
    r"""Geometry of SO(3): points x, y and tangent vectors u at x have shape ``(..., 3, 3)``.

    The tangent vectors at x are :math:`u = x \hat v`, and the angle metric gives them the length ``|v|``,
    which is that of u as a matrix over the square root of 2. Geodesics have period 2 pi, the diameter is pi.

    >>> x, y = exp(torch.tensor([[0.0, 0.0, 0.2], [0.0, 0.0, 1.0]]))
    >>> halfway = SO3().expmap(x, SO3().logmap(x, y) / 2)
    >>> print(f"{SO3().dist(x, y):.4f} {SO3().dist(x, halfway):.4f}")
    0.8000 0.4000
    """

    support = rotation

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        r"""Orthogonal projection of u on the tangent space at x: x times the skew part of :math:`x^T u`."""
        return compose(x, hat(vee(compose(x.mT, u))))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        r"""The point :math:`x \exp(x^T u)`, at distance ``|u|`` radians from x along the geodesic with direction u."""
        return compose(x, exp(vee(compose(x.mT, u))))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The shortest tangent vector :math:`u = x \log(x^T y)` with exp_x(u) = y."""
        return compose(x, hat(log(compose(x.mT, y))))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Angle between x and y in [0, pi] radians, shape ``(...)``; the gradient at y = x is 0."""
        return angle(compose(x.mT, y))

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        r"""log |det d exp_x| at u, :math:`2 \log |\mathrm{sinc}(|u|/2)|`, shape ``(...)``."""
        return log_jacobian(vee(compose(x.mT, u)))

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        r""":math:`(\theta + 2 \pi k) u` with :math:`\theta u = \log(x^T y)`, u of length 1."""
        v = log(compose(x.mT, y))
        return along_closed_geodesics(v, log_jacobian(v), 2 * math.pi, 2, num_wraps)

    def intrinsic_dim(self, x: Tensor) -> int:
        """3."""
        return 3

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        r"""Half of :math:`\mathrm{tr}(u^T v)`, shape ``(...)``: a turn of one radian has length one."""
        return (u * v).sum((-2, -1)) / 2

    def frame(self, x: Tensor) -> Tensor:
        r""":math:`x \hat e_i`, shape ``(..., 3, 3, 3)``: left invariant, hence smooth."""
        return compose(x.unsqueeze(-3), hat(torch.eye(3, dtype=x.dtype, device=x.device)))

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The v with u = x hat(v), shape ``(..., 3)``."""
        return vee(compose(x.mT, u))

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of rotations (n, 3, 3), by :func:`ppvae.manifolds.protocol.frechet_mean`."""
        return frechet_mean(self, x, weights)

    def embed(self, x: Tensor) -> Tensor:
        """The nine entries, row by row."""
        return x.flatten(-2)

    @property
    def lift(self) -> "QuaternionDirection":
        """A rotation as the direction of a quaternion."""
        return QuaternionDirection()

    chart = None

    def log_total_volume(self, x: Tensor) -> float:
        """log 8 pi^2."""
        return math.log(VOLUME)

    def uniform(self, like: Tensor) -> Tensor:
        """Rotations of the directions of normal quaternions."""
        q = torch.randn((*like.shape[:-2], 4), dtype=like.dtype, device=like.device)
        return QuaternionDirection().point(q)


class QuaternionDirection:
    r"""SO(3) by the direction of a quaternion v in R^4, which covers it twice.

    .. math::
        q = v / |v|, \qquad v \sim N(v; 0, I) \, p(R(q)) / u, \qquad u = 1 / 8 \pi^2

    The volume of S^3 is 2 pi^2, each of its points q and -q is a rotation, and R stretches lengths by 2: the density of
    q is 4 p(R(q)), and 4 times the area of S^3 is 8 pi^2.
    """

    def shape(self, event: Size) -> Size:
        """(4,)."""
        return Size([4])

    def start(self, z: Tensor) -> Tensor:
        """Twice the unit quaternion: the typical length of v."""
        return 2 * to_quaternion(z)

    def point(self, v: Tensor) -> Tensor:
        """The rotation of v / ``|v|``."""
        return from_quaternion(v / v.norm(dim=-1, keepdim=True))

    def log_volume(self, v: Tensor) -> Tensor:
        """log N(v; 0, I) + log 8 pi^2, shape ``(...)``."""
        return math.log(VOLUME) - 2 * math.log(2 * math.pi) - v.square().sum(-1) / 2
