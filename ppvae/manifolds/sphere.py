r"""The unit sphere S^{m-1} = {z in R^m : |z| = 1} with the metric that R^m induces on it.

.. math::
    \mathrm{area}(S^{m-1}) = \frac{2 \pi^{m/2}}{\Gamma(m/2)}, \qquad
    d(x, y) = 2 \, \mathrm{atan2}(|x - y|, |x + y|), \qquad
    \exp_x(u) = \cos|u| \, x + \frac{\sin|u|}{|u|} \, u, \qquad
    \log_x(y) = d(x, y) \, \frac{y - (x \cdot y) x}{|y - (x \cdot y) x|}, \qquad
    |\det d \exp_x(u)| = \left| \frac{\sin|u|}{|u|} \right|^{m - 2}

Points are unit vectors (..., m): m is the ambient dimension and m - 1 that of the sphere. Distances are in
radians.

References:
    [1] Optimization Algorithms on Matrix Manifolds (Absil, Mahony & Sepulchre, 2008)
        https://press.princeton.edu/absil
    [2] Directional Statistics (Mardia & Jupp, 2000)
        https://doi.org/10.1002/9780470316979
"""

import math

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.protocol import along_closed_geodesics, frechet_mean, wraps
from ppvae.manifolds.so3 import sinc

__all__ = ["Direction", "Sphere", "log_area", "rotate_from_pole", "sphere"]


class _Sphere(constraints.Constraint):
    r"""Unit vectors: :math:`| |z| - 1 | \le 10 \sqrt{m} \, \epsilon` with :math:`\epsilon` the rounding unit
    of the dtype.

    A unit vector from this library is off by a few :math:`\epsilon`, and one that has passed through products
    with orthogonal matrices by :math:`\sqrt{m} \, \epsilon` for each. Float32 points cast to float64 do not
    pass: normalise them again.
    """

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        tolerance = 10 * math.sqrt(value.shape[-1]) * torch.finfo(value.dtype).eps
        return (value.norm(dim=-1) - 1).abs() <= tolerance


sphere = _Sphere()


def log_area(m: int) -> float:
    r"""Logarithm of the surface measure of the sphere S^{m-1} in R^m, :math:`\log (2 \pi^{m/2} /
    \Gamma(m/2))`.

    In float64: the relative error is below 1e-13 for 2 <= m <= 4096. The measure itself leaves the range of
    float64 at m = 439.

    :param m: ambient dimension, at least 1: ``log_area(2)`` is log 2 pi, ``log_area(3)`` is log 4 pi.
    :raises ValueError: if m < 1.

    >>> print(f"{math.exp(log_area(3)):.4f} {4 * math.pi:.4f}")
    12.5664 12.5664
    """
    if m < 1:
        raise ValueError(f"expected an ambient dimension m >= 1 of the sphere S^(m-1), got {m}")
    return math.log(2) + m / 2 * math.log(math.pi) - math.lgamma(m / 2)


def rotate_from_pole(y: Tensor, loc: Tensor) -> Tensor:
    r"""Move y by an orthogonal map that sends the pole e_1 to ``loc``.

    .. math::
        s = \mathrm{sign}(\mu_1), \qquad u = \frac{\mu + s e_1}{|\mu + s e_1|}, \qquad
        z = -s \, (y - 2 u (u \cdot y))

    The sign keeps :math:`|\mu + s e_1| \ge \sqrt 2`, so that no direction needs a threshold, values and
    gradients are finite everywhere, and :math:`|z| = |y|` up to a few rounding errors. Across :math:`\mu_1 =
    0` the map changes to another one with the same image of e_1, so a law that is symmetric about the pole
    moves smoothly with ``loc``.

    :param y: points, shape ``(..., m)``.
    :param loc: the image :math:`\mu` of e_1, unit vectors of shape ``(..., m)``; batch shapes broadcast.
    :return: points of shape ``(..., m)``.

    >>> rotate_from_pole(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.48, 0.6, 0.64])).round(decimals=4)
    tensor([0.4800, 0.6000, 0.6400])
    """
    first, rest = loc[..., :1], loc[..., 1:]
    s = torch.copysign(torch.ones_like(first), first.detach())
    u = torch.cat([first + s, rest], -1)
    u = u / u.norm(dim=-1, keepdim=True)
    return -s * (y - 2 * u * (u * y).sum(-1, keepdim=True))


class Sphere:
    """Geometry of the unit sphere in R^m: points x, y and tangent vectors u at x have shape ``(..., m)``.

    >>> x, y = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    >>> print(f"{Sphere().dist(x, y):.4f}")
    1.5708
    >>> Sphere().expmap(x, Sphere().logmap(x, y) / 2).round(decimals=4)
    tensor([0.7071, 0.7071, 0.0000])
    """

    support = sphere

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of u on the tangent space at x: u - (x . u) x."""
        return u - (x * u).sum(-1, keepdim=True) * x

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The point ``|u|`` radians from x along the great circle with direction u; smooth at u = 0."""
        angle = u.norm(dim=-1, keepdim=True)
        # Cosine and sine of one and the same number: torch.sinc(angle / pi) is off by the rounding of its argument.
        sinc = torch.where(angle > 0, angle.sin() / torch.where(angle > 0, angle, 1), 1)
        y = angle.cos() * x + sinc * u
        return y / y.norm(dim=-1, keepdim=True)  # a long u is off the tangent space by |u| rounding units

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector u at x with exp_x(u) = y, in radians; smooth except at y = -x.

        At y = -x every tangent vector of length pi is a logarithm. The result there is the image of pi e_2 under
        :func:`rotate_from_pole` to x.
        """
        # Removing +-x first loses nothing, as it is normal, and leaves a small vector where y is near +-x.
        s = torch.where((x * y).sum(-1, keepdim=True) < 0, -torch.ones_like(x), torch.ones_like(x))
        u = self.proju(x, y - s * x)
        sine, angle = u.norm(dim=-1, keepdim=True), self.dist(x, y).unsqueeze(-1)
        e2 = torch.cat([torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1]), torch.zeros_like(x[..., 2:])], -1)
        at_cut = math.pi * rotate_from_pole(e2, x)
        inside = angle / torch.where(sine > 0, sine, torch.ones_like(sine)) * u
        return torch.where(sine > 0, inside, torch.where(s < 0, at_cut, u))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Angle between x and y in [0, pi], shape ``(...)``: 2 atan2(``|x - y|``, ``|x + y|``).

        Accurate to a rounding error at both ends. The distance has a corner at y = x and at y = -x; the
        gradient there is the finite subgradient that the norm takes at 0.
        """
        return 2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1))

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |det d exp_x| at u, shape ``(...)``: (m - 2) log |sin t / t| with t = ``|u|``."""
        return (x.shape[-1] - 2) * torch.sinc(u.norm(dim=-1) / math.pi).abs().log()

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        r""":math:`(\theta + 2 \pi k) u` with :math:`\theta u = \log_x(y)`, u of length 1.

        At y = -x exp has no volume: **sin theta near pi counts as no less than the rounding unit**.
        """
        m, v = x.shape[-1], self.coordinates(x, self.logmap(x, y))
        if m == 2:  # where geodesics meet in no direction, and none is left out
            turns = v + wraps(num_wraps, 2 * math.pi, v)
            return turns, torch.zeros_like(turns[..., 0])
        squared, eps = v.square().sum(-1), torch.finfo(v.dtype).eps
        near = squared < 4
        # sin theta = |y - x| |y + x| / 2 keeps its digits at pi, and the series its gradient at 0.
        sine = _length(y - x) * _length(y + x) / 2
        far = torch.where(near, 1, sine.clamp_min(eps)).log() - torch.where(near, 1, squared).log() / 2
        log_sinc = torch.where(near, sinc(torch.where(near, squared, 0)).log(), far)
        return along_closed_geodesics(v, (m - 2) * log_sinc, 2 * math.pi, m - 2, num_wraps)

    def intrinsic_dim(self, x: Tensor) -> int:
        """m - 1."""
        return x.shape[-1] - 1

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u . v, shape ``(...)``."""
        return (u * v).sum(-1)

    def frame(self, x: Tensor) -> Tensor:
        """The images of e_2, ..., e_m under :func:`rotate_from_pole` to x, shape ``(..., m - 1, m)``.

        It jumps where x_1 changes its sign: no frame of S^2 is continuous.
        """
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[1:]
        return rotate_from_pole(basis, x.unsqueeze(-2))

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates of u in :meth:`frame`, shape ``(..., m - 1)``."""
        return rotate_from_pole(u, x)[..., 1:]  # which is its own inverse

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of points (n, m), by :func:`ppvae.manifolds.protocol.frechet_mean`."""
        return frechet_mean(self, x, weights)

    def embed(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    @property
    def lift(self) -> "Direction":
        """A point as the direction of a vector."""
        return Direction()

    chart = None

    def log_total_volume(self, x: Tensor) -> float:
        """:func:`log_area` of m."""
        return log_area(x.shape[-1])

    def uniform(self, like: Tensor) -> Tensor:
        """Directions of normal vectors."""
        return Direction().point(torch.randn_like(like))


def _length(x: Tensor) -> Tensor:
    """The norm, whose gradient at 0 is 0."""
    s = x.square().sum(-1)
    return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)


class Direction:
    r"""The sphere as the direction of v in R^m: among all v of one direction the length is that of a normal law.

    .. math::
        z = v / |v|, \qquad v \sim N(v; 0, I) \, p(z) / u(z), \qquad u \text{ the uniform density}
    """

    def shape(self, event: Size) -> Size:
        """That of the point."""
        return event

    def start(self, z: Tensor) -> Tensor:
        """z times sqrt(m), the typical length: near 0 the steps that fit are tiny."""
        return z * math.sqrt(z.shape[-1])

    def point(self, v: Tensor) -> Tensor:
        """v / ``|v|``."""
        return v / v.norm(dim=-1, keepdim=True)

    def log_volume(self, v: Tensor) -> Tensor:
        """log N(v; 0, I) plus the log of the area, shape ``(...)``."""
        m = v.shape[-1]
        return log_area(m) - m / 2 * math.log(2 * math.pi) - v.square().sum(-1) / 2
