r"""Hyperbolic space H^{m-1} of curvature -1, as the upper sheet of the hyperboloid in R^m.

.. math::
    \langle x, y \rangle = -x_1 y_1 + x_2 y_2 + \dots + x_m y_m, \qquad
    H^{m-1} = \{x : \langle x, x \rangle = -1, \; x_1 > 0\}, \qquad d(x, y) = \operatorname{arcosh}(-\langle x, y
    \rangle), \\
    \exp_x(u) = \cosh|u| \, x + \frac{\sinh|u|}{|u|} \, u, \qquad
    \det d \exp_x(u) = \left( \frac{\sinh|u|}{|u|} \right)^{m - 2}, \qquad |u|^2 = \langle u, u \rangle

The origin is o = (1, 0, ..., 0). Points are (..., m): m is the ambient dimension and m - 1 that of the space, so that m
= 3 is the hyperbolic plane. Distances are in units of the radius of curvature; the total volume is infinite.

A law of scale s in curvature -c is, up to isometry and a unit of length, that of scale :math:`\sqrt c \, s` here: the
curvature is the scale of the laws.

The coordinates of a point at distance r from the origin are of size e^r / 2, and the textbook forms above lose e^{2r}
rounding units between neighbours. Here p = (x_2, ..., x_m) alone is read, and :math:`x_1 = \sqrt{1 + |p|^2}` from it.
A second point q is split along :math:`e = p / |p|`: q = a e + b, and :math:`\exp_x(v) = y` in the frame that parallel
transport from o brings to x has

.. math::
    \frac{\sinh|v|}{|v|} \, v = b + (x_1 a - |p| y_1) \, e, \qquad
    x_1 a - |p| y_1 = \frac{(a - |p| w)(a + |p| w)}{x_1 a + |p| y_1}, \quad w = \sqrt{1 + |b|^2}, \\
    a - |p| w = (q - p) \cdot e - |p| (w - 1), \qquad b = q - (q \cdot e) \, e = (q - p) - ((q - p) \cdot e) \, e

which loses no more than the rounding of the points has lost: e^r units of the dtype across e. The vector is divided by
:math:`x_1`, and norms are taken over the largest entry, so that nothing overflows before the coordinates do: at a
distance of 88 from the origin in float32 and of 709 in float64. The Poincaré ball, :math:`p / (1 + x_1)`, ends at 17
and 37. Beyond a distance of 16 in float32 and 36 in float64 the rounding of a point is longer than 1. The distance
between neighbours there is finite, with finite gradients, but it is the distance between the rounded points.

Tangent vectors u at x are ambient and of size :math:`e^r |v|`. So ``expmap``, ``logmap`` and ``logvolume`` lose e^r
rounding units of v, and ``proju`` loses e^{2r}. :func:`boost` and :func:`to_frame` take and give v itself.

References:
    [1] Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry (Nickel & Kiela, 2018)
        https://arxiv.org/abs/1806.03417
    [2] A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning (Nagano et al., 2019)
        https://arxiv.org/abs/1902.02992
"""

import math

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.protocol import frechet_mean

__all__ = ["Hyperboloid", "boost", "frame", "from_origin", "hyperboloid", "log_sinhc", "to_frame", "to_origin"]


class _Hyperboloid(constraints.Constraint):
    r"""Points of R^m with :math:`|x_1 - \sqrt{1 + |p|^2}| \le 10 \sqrt m \, \epsilon \, x_1`, :math:`\epsilon` the
    rounding unit of the dtype."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        tolerance = 10 * math.sqrt(value.shape[-1]) * torch.finfo(value.dtype).eps
        first, p = value[..., 0], value[..., 1:]
        return (first - _first(p).squeeze(-1)).abs() <= tolerance * first


hyperboloid = _Hyperboloid()


def _norm(x: Tensor) -> Tensor:
    """``|x|``, shape (..., 1), which does not overflow; its gradient at 0 is 0."""
    largest = x.detach().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return largest * torch.linalg.vector_norm(x / largest, dim=-1, keepdim=True)


def _root(t: Tensor) -> Tensor:
    """sqrt(1 + t^2)."""
    return torch.hypot(t, torch.ones_like(t))


def _first(p: Tensor) -> Tensor:
    """The first coordinate of the point above p, shape (..., 1)."""
    return _root(_norm(p))


def _above(p: Tensor) -> Tensor:
    return torch.cat([_first(p), p], -1)


def sinhc(s: Tensor) -> Tensor:
    r"""sinh t / t as a function of s = t^2 >= 0, entire: :math:`\sum_n s^n / (2n + 1)!`.

    >>> print(f"{sinhc(torch.tensor(4.0)):.4f} {math.sinh(2) / 2:.4f}")
    1.8134 1.8134
    """
    near = s < 1
    series, few = torch.ones_like(s), torch.where(near, s, 0)
    for n in range(9, 0, -1):  # the first term left out is below 1 / 21! = 2e-20
        series = 1 + few * series / (2 * n * (2 * n + 1))
    t = torch.where(near, 1, s).sqrt()
    return torch.where(near, series, t.sinh() / t)


def log_sinhc(s: Tensor) -> Tensor:
    r"""log(sinh t / t) as a function of s = t^2 >= 0, at any t: t + log(1 - e^{-2t}) - log 2t away from 0.

    >>> print(f"{log_sinhc(torch.tensor(1e6)):.4f}")  # sinh 1000 overflows
    992.3991
    """
    near = s < 1
    t = torch.where(near, 1, s).sqrt()
    return torch.where(near, sinhc(torch.where(near, s, 0)).log(), t + torch.log1p(-(-2 * t).exp()) - (2 * t).log())


def asinhc(s: Tensor) -> Tensor:
    r"""arsinh t / t as a function of s = t^2 >= 0: :math:`\sum_n \binom{-1/2}{n} s^n / (2n + 1)` near 0.

    >>> print(f"{asinhc(torch.tensor(4.0)):.4f} {math.asinh(2) / 2:.4f}")
    0.7218 0.7218
    """
    near = s < 0.04
    series, few = torch.zeros_like(s), torch.where(near, s, 0)
    for n in range(12, -1, -1):  # the first term left out is below 0.04^13 / 170 = 4e-21
        series = series * few + (-0.25) ** n * math.comb(2 * n, n) / (2 * n + 1)
    t = torch.where(near, 1, s).sqrt()
    return torch.where(near, series, t.asinh() / t)


def _asinh(n: Tensor, scale: Tensor) -> Tensor:
    """arsinh(n scale) for n >= 0 and scale >= 1, whose product may overflow."""
    z = n * scale
    far = z > 1e9  # from where on log(2 z) is right to rounding
    return torch.where(far, math.log(2) + torch.where(far, n, 1).log() + scale.log(), torch.where(far, 1, z).asinh())


def _without_sinh(t: Tensor, scale: Tensor) -> Tensor:
    """The v with sinh|v| v / |v| = scale t."""
    n = _norm(t)
    near = n * scale < 0.2
    few = torch.where(near, n * scale, 0)
    many = torch.where(near, 1, n)
    return torch.where(near, scale * asinhc(few.square()), _asinh(many, scale) / many) * t


def _moved(x: Tensor, q: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """The point above q, moved along the geodesic from o to x (sign 1) or backwards (sign -1): its coordinates without
    the first over x_1, and x_1. Sign -1 gives the vector of the module's equations, sign 1 has -p for p in them.
    """
    p = x[..., 1:]
    length, q_1 = _norm(p), _first(q)
    x_1 = _root(length)
    over = p / x_1
    ahead = q / x_1 + ((p / (1 + x_1) * q).sum(-1, keepdim=True) + sign * q_1) * over
    # Where p is long and q lies on the other side of o, the terms of the boost cancel.
    long = length > 1
    e = p / torch.where(long, length, 1)
    a = (q * e).sum(-1, keepdim=True)
    cancels = long & (sign * a < 0)
    step = q + sign * p
    along = (step * e).sum(-1, keepdim=True)
    close = along.abs() < a.abs()
    b = torch.where(close, step, q) - torch.where(close, along, a) * e  # of the two forms the one that rounds less
    size = _norm(b)
    w = _root(size)
    t = sign * length / x_1
    c = torch.where(cancels, a, -sign)
    behind = (along / x_1 + t * (size * (size / (1 + w)))) * ((c / x_1 - t * w) / (c - t * q_1))
    return torch.where(cancels, b / x_1 + behind * e, ahead), x_1


def from_origin(v: Tensor) -> Tensor:
    """exp_o(v) for v in R^{m-1}: shape (..., m - 1) to points (..., m).

    >>> from_origin(torch.tensor([1.0, 0.0]))
    tensor([1.5431, 1.1752, 0.0000])
    """
    return _above(sinhc(v.square().sum(-1, keepdim=True)) * v)


def to_origin(x: Tensor) -> Tensor:
    """log_o(x), the inverse of :func:`from_origin`: points (..., m) to vectors (..., m - 1).

    >>> to_origin(from_origin(torch.tensor([80.0, 0.0])))
    tensor([80.,  0.])
    """
    p = x[..., 1:]
    return _without_sinh(p, torch.ones_like(p[..., :1]))


def frame(x: Tensor, v: Tensor) -> Tensor:
    """The parallel transport of (0, v) from the origin to x: an isometry of R^{m-1} and the tangent space at x.

    >>> frame(from_origin(torch.tensor([1.0, 0.0])), torch.tensor([0.0, 1.0]))
    tensor([0., 0., 1.])
    """
    p = x[..., 1:]
    along = (p * v).sum(-1, keepdim=True)
    return torch.cat([along, v + along / (1 + _first(p)) * p], -1)


def boost(x: Tensor, v: Tensor) -> Tensor:
    """exp_x of ``frame(x, v)``: the isometry that moves the origin to x along their geodesic, at exp_o(v).

    >>> x = from_origin(torch.tensor([80.0, 0.0]))
    >>> to_origin(boost(x, torch.tensor([-79.0, 0.0])))
    tensor([1.0000, 0.0000])
    """
    t, x_1 = _moved(x, sinhc(v.square().sum(-1, keepdim=True)) * v, 1)
    return _above(x_1 * t)


def to_frame(x: Tensor, y: Tensor) -> Tensor:
    """The inverse of :func:`boost`: v of shape (..., m - 1) with ``boost(x, v) == y``.

    >>> x, y = from_origin(torch.tensor([80.0, 0.0])), from_origin(torch.tensor([-80.0, 0.0]))
    >>> to_frame(x, y)
    tensor([-160.,    0.])
    """
    return _without_sinh(*_moved(x, y[..., 1:], -1))


class Hyperboloid:
    """Geometry of hyperbolic space: points x, y and tangent vectors u at x have shape ``(..., m)``.

    >>> x, y = from_origin(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> u = Hyperboloid().logmap(x, y)
    >>> print(f"{Hyperboloid().dist(x, y):.4f} {Hyperboloid().dist(Hyperboloid().expmap(x, u / 2), y):.4f}")
    1.5134 0.7567
    """

    support = hyperboloid

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of u on the tangent space at x: u + <x, u> x."""
        return u + ((x[..., 1:] * u[..., 1:]).sum(-1, keepdim=True) - x[..., :1] * u[..., :1]) * x

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The point that the geodesic from x with velocity u reaches after unit time; smooth at u = 0."""
        return boost(x, _in_frame(x, u))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The tangent vector u at x with exp_x(u) = y: there is one for all points."""
        return frame(x, to_frame(x, y))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance, shape ``(...)``; it has a corner at y = x, where the gradient is 0."""
        t, x_1 = _moved(x, y[..., 1:], -1)
        return _asinh(_norm(t), x_1).squeeze(-1)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |det d exp_x| at u, shape ``(...)``: (m - 2) log (sinh t / t) with t = ``|u|``."""
        return (x.shape[-1] - 2) * log_sinhc(_in_frame(x, u).square().sum(-1))

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """log_x(y) alone: exp is one to one."""
        v = to_frame(x, y)
        log_volume = (v.shape[-1] - 1) * log_sinhc(v.square().sum(-1))
        return v.unsqueeze(0), log_volume.unsqueeze(0)

    def intrinsic_dim(self, x: Tensor) -> int:
        """m - 1."""
        return x.shape[-1] - 1

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """<u, v>, shape ``(...)``; in the frame at x, since the terms of the form cancel far from the origin."""
        return (_in_frame(x, u) * _in_frame(x, v)).sum(-1)

    def frame(self, x: Tensor) -> Tensor:
        """The parallel transport of e_2, ..., e_m from the origin, shape ``(..., m - 1, m)``: smooth."""
        basis = torch.eye(x.shape[-1] - 1, dtype=x.dtype, device=x.device)
        x = x.unsqueeze(-2)
        return frame(x, basis.expand(*x.shape[:-2], *basis.shape))

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates of u in :meth:`frame`, shape ``(..., m - 1)``."""
        return _in_frame(x, u)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of points (n, m), which is unique."""
        return frechet_mean(self, x, weights)

    def embed(self, x: Tensor) -> Tensor:
        """log_o(x), shape ``(..., m - 1)``."""
        return to_origin(x)

    @property
    def lift(self) -> "Exponential":
        """A point as exp_o(v)."""
        return Exponential()

    chart = lift

    def log_total_volume(self, x: Tensor) -> float:
        """inf."""
        return math.inf

    def uniform(self, like: Tensor) -> Tensor:
        """No uniform law: the volume is infinite."""
        raise ValueError("Hyperboloid: no uniform points, its volume is infinite; draw from a WrappedNormal")


class Exponential:
    """Hyperbolic space as exp_o(v), v in R^{m-1}: one to one."""

    def shape(self, event: Size) -> Size:
        """(m - 1,)."""
        return Size([event[-1] - 1])

    def start(self, z: Tensor) -> Tensor:
        """log_o(z)."""
        return to_origin(z)

    def point(self, v: Tensor) -> Tensor:
        """exp_o(v)."""
        return from_origin(v)

    def log_volume(self, v: Tensor) -> Tensor:
        """(m - 2) log (sinh t / t) with t = ``|v|``, shape ``(...)``."""
        return (v.shape[-1] - 1) * log_sinhc(v.square().sum(-1))


def _in_frame(x: Tensor, u: Tensor) -> Tensor:
    """The inverse of :func:`frame`. It reads all but the first coordinate of u."""
    p, u = x[..., 1:], u[..., 1:]
    length = _norm(p)
    short = length < 1
    p_short = torch.where(short, p, 0)
    x_1 = _root(torch.where(short, length, 0))
    direct = u - (p_short * u).sum(-1, keepdim=True) / (x_1 * (1 + x_1)) * p_short
    e = p / torch.where(short, 1, length)
    along = (e * u).sum(-1, keepdim=True)
    return torch.where(short, direct, u - along * e + along / _root(length) * e)
