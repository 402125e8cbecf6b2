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
    x_1 a - |p| y_1 = \frac{(a - |p| w)(a + |p| w)}{x_1 a + |p| y_1}, \quad w = \sqrt{1 + |b|^2}

which loses no more than the rounding of q has lost: e^r units of the dtype. Distances reach to 40 in float32 and to 350
in float64. The Poincaré ball, :math:`p / (1 + x_1)`, ends at 17 and 37.

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
        return (first - _first(p)).abs() <= tolerance * first


hyperboloid = _Hyperboloid()


def _first(p: Tensor) -> Tensor:
    """The first coordinate of the point above p, shape (...)."""
    return (1 + p.square().sum(-1)).sqrt()


def _above(p: Tensor) -> Tensor:
    return torch.cat([_first(p).unsqueeze(-1), p], -1)


def sinhc(s: Tensor) -> Tensor:
    r"""sinh t / t as a function of s = t^2 >= 0, entire: :math:`\sum_n s^n / (2n + 1)!`."""
    near = s < 1
    series, few = torch.ones_like(s), torch.where(near, s, 0)
    for n in range(9, 0, -1):  # the first term left out is below 1 / 21! = 2e-20
        series = 1 + few * series / (2 * n * (2 * n + 1))
    t = torch.where(near, 1, s).sqrt()
    return torch.where(near, series, t.sinh() / t)


def log_sinhc(s: Tensor) -> Tensor:
    r"""log(sinh t / t) as a function of s = t^2 >= 0, at any t: t + log(1 - e^{-2t}) - log 2t away from 0."""
    near = s < 1
    t = torch.where(near, 1, s).sqrt()
    return torch.where(near, sinhc(torch.where(near, s, 0)).log(), t + torch.log1p(-(-2 * t).exp()) - (2 * t).log())


def asinhc(s: Tensor) -> Tensor:
    r"""arsinh t / t as a function of s = t^2 >= 0: :math:`\sum_n \binom{-1/2}{n} s^n / (2n + 1)` near 0."""
    near = s < 0.04
    series, few = torch.zeros_like(s), torch.where(near, s, 0)
    for n in range(12, -1, -1):  # the first term left out is below 0.04^13 / 170 = 4e-21
        series = series * few + (-0.25) ** n * math.comb(2 * n, n) / (2 * n + 1)
    t = torch.where(near, 1, s).sqrt()
    return torch.where(near, series, t.asinh() / t)


def from_origin(v: Tensor) -> Tensor:
    """exp_o(v) for v in R^{m-1}: shape (..., m - 1) to points (..., m)."""
    return _above(sinhc(v.square().sum(-1, keepdim=True)) * v)


def to_origin(x: Tensor) -> Tensor:
    """log_o(x), the inverse of :func:`from_origin`: points (..., m) to vectors (..., m - 1)."""
    p = x[..., 1:]
    return asinhc(p.square().sum(-1, keepdim=True)) * p


def frame(x: Tensor, v: Tensor) -> Tensor:
    """The parallel transport of (0, v) from the origin to x: an isometry of R^{m-1} and the tangent space at x."""
    p = x[..., 1:]
    along = (p * v).sum(-1, keepdim=True)
    return torch.cat([along, v + along / (1 + _first(p).unsqueeze(-1)) * p], -1)


def boost(x: Tensor, v: Tensor) -> Tensor:
    """exp_x of ``frame(x, v)``: the isometry that moves the origin to x along their geodesic, at exp_o(v)."""
    p = x[..., 1:]
    q = sinhc(v.square().sum(-1, keepdim=True)) * v
    along = _first(q).unsqueeze(-1) + (p * q).sum(-1, keepdim=True) / (1 + _first(p).unsqueeze(-1))
    return _above(q + along * p)


def to_frame(x: Tensor, y: Tensor) -> Tensor:
    """The inverse of :func:`boost`: v of shape (..., m - 1) with ``boost(x, v) == y``."""
    q = _boosted_back(x, y)
    return asinhc(q.square().sum(-1, keepdim=True)) * q


def _boosted_back(x: Tensor, y: Tensor) -> Tensor:
    """sinh|v| v / |v|, from the module's equations, where p is long; by the boost itself where it is short."""
    p, q = torch.broadcast_tensors(x[..., 1:], y[..., 1:])
    square = p.square().sum(-1, keepdim=True)
    x_1, y_1 = (1 + square).sqrt(), _first(q).unsqueeze(-1)
    short = square < 1
    by_boost = q + ((p * q).sum(-1, keepdim=True) / (1 + x_1) - y_1) * p
    length = torch.where(short, 1, square).sqrt()
    e = p / length
    a = (e * q).sum(-1, keepdim=True)
    b = q - a * e
    w = (1 + b.square().sum(-1, keepdim=True)).sqrt()
    ahead = a > 0
    c = torch.where(ahead, a, 1)
    along = torch.where(ahead, (c - length * w) * (c + length * w) / (x_1 * c + length * y_1), x_1 * a - length * y_1)
    return torch.where(short, by_boost, b + along * e)


class Hyperboloid:
    """Geometry of hyperbolic space: points x, y and tangent vectors u at x have shape ``(..., m)``."""

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
        s = _boosted_back(x, y).square().sum(-1)
        return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0).asinh()

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
    x_1 = _first(p).unsqueeze(-1)
    return u - (p * u).sum(-1, keepdim=True) / (x_1 * (1 + x_1)) * p
