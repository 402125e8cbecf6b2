r"""Complex projective space CP^n: unit vectors of C^{n+1} up to a phase, and Kendall's shapes in the plane [1].

.. math::
    CP^n = S^{2n+1} / U(1), \qquad \langle x, y \rangle = \sum_j \bar x_j y_j, \qquad
    d(x, y) = \arccos |\langle x, y \rangle| \in [0, \tfrac\pi2], \qquad
    T_x = \{u : \langle x, u \rangle = 0\}, \\
    \exp_x(u) = \cos|u| \, x + \frac{\sin|u|}{|u|} \, u, \qquad
    |\det d \exp_x(u)| = \left| \frac{\sin 2|u|}{2|u|} \right| \left| \frac{\sin|u|}{|u|} \right|^{2n-2}, \qquad
    \mathrm{vol}(CP^n) = \frac{\pi^n}{n!}

All geodesics are closed, of length pi. The curvature is 4 in the plane of u and i u, and 1 in that of u and a vector
orthogonal to both. CP^1 is the sphere of radius 1/2.

A point is stored as real numbers (..., n + 1, 2), its phase left free: functions of it are to be the same for all
phases, as :meth:`ComplexProjective.embed` is. The shape of k landmarks in the plane, which is what is left of them when
they are moved, scaled and turned, is a point of CP^{k-2}: :func:`preshape` and :func:`landmarks`.

References:
    [1] Shape Manifolds, Procrustean Metrics, and Complex Projective Spaces (Kendall, 1984)
        https://doi.org/10.1112/blms/16.2.81
    [2] Statistical Shape Analysis (Dryden and Mardia, 2016), https://doi.org/10.1002/9781119072492
"""

import math

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.circle import act, inverse
from ppvae.manifolds.protocol import along_closed_geodesics, frechet_mean
from ppvae.manifolds.so3 import sinc

__all__ = ["ComplexProjective", "landmarks", "preshape"]


class _Phases(constraints.Constraint):
    """Unit vectors of C^{n+1} as real numbers (..., n + 1, 2)."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-1] != 2:
            raise ValueError(
                f"expected points of complex projective space as real numbers (..., n + 1, 2), got shape "
                f"{tuple(value.shape)}: torch.view_as_real makes them of complex ones"
            )
        tolerance = 10 * math.sqrt(2 * value.shape[-2]) * torch.finfo(value.dtype).eps
        return (value.flatten(-2).norm(dim=-1) - 1).abs() <= tolerance


def _hermitian(x: Tensor, y: Tensor) -> Tensor:
    """<x, y> as a real pair, shape ``(..., 2)``."""
    return act(inverse(x), y).sum(-2)


def _times(c: Tensor, x: Tensor) -> Tensor:
    """The complex number c (..., 2) times the vector x (..., n + 1, 2)."""
    return act(c.unsqueeze(-2), x)


def _phase(c: Tensor) -> tuple[Tensor, Tensor]:
    """c / ``|c|`` and ``|c|`` of a complex number (..., 2): the phase 1, with gradient 0, where c = 0."""
    squared = c.square().sum(-1, keepdim=True)
    some = squared > 0
    size = torch.where(some, squared, 1).sqrt()
    one = torch.cat([torch.ones_like(squared), torch.zeros_like(squared)], -1)
    return torch.where(some, c / size, one), torch.where(some, size, 0).squeeze(-1)


def _from_pole(y: Tensor, x: Tensor, adjoint: bool = False) -> Tensor:
    r"""U y with U the unitary map that sends the pole e_1 to x, or U* y.

    .. math::
        s = x_1 / |x_1|, \qquad v = x + s e_1, \qquad U y = -s \Bigl( y - 2 v \frac{\langle v, y \rangle}{|v|^2} \Bigr)

    It turns with the phase of x, so that what it makes of y is a function of the point of CP^n. As for every frame of
    CP^n there are points at which it jumps: those with x_1 = 0.
    """
    s, size = _phase(x[..., 0, :])
    v = x + torch.cat([s.unsqueeze(-2), torch.zeros_like(x[..., 1:, :])], -2)
    reflected = y - _times(_hermitian(v, y) / (1 + size.unsqueeze(-1)), v)  # |v|^2 = 2 (1 + |x_1|)
    return -_times(inverse(s) if adjoint else s, reflected)


class ComplexProjective:
    """Geometry of CP^n: points x, y and tangent vectors u at x have shape ``(..., n + 1, 2)``.

    Tangent vectors at x turn with the phase of x.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.6], [0.0, 0.8]])
    >>> ComplexProjective().dist(x, y).cos().round(decimals=4)
    tensor(0.6000)
    """

    support = _Phases()

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u - <x, u> x."""
        return u - _times(_hermitian(x, u), x)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The point ``|u|`` radians from x along the geodesic with direction u; smooth at u = 0."""
        angle = u.flatten(-2).norm(dim=-1)[..., None, None]
        y = angle.cos() * x + torch.sinc(angle / math.pi) * u
        return (
            y / y.flatten(-2).norm(dim=-1)[..., None, None]
        )  # a long u is off the tangent space by |u| rounding units

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector u at x with exp_x(u) = y up to a phase; smooth but where <x, y> = 0.

        There every phase gives one: the vector returned is pi y / 2.
        """
        y = self._aligned(x, y)
        u = self.proju(x, y - x)  # x is normal, and its removal leaves a small vector where y is near
        sine, angle = u.flatten(-2).norm(dim=-1), self._angle(x, y)
        return torch.where(sine > 0, angle / torch.where(sine > 0, sine, 1), 1)[..., None, None] * u

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The angle between x and y, in [0, pi / 2], shape ``(...)``: Kendall's Riemannian distance of shapes.

        It has a corner at y = x and where <x, y> = 0; the gradient there is a finite subgradient.
        """
        return self._angle(x, self._aligned(x, y))

    def _aligned(self, x: Tensor, y: Tensor) -> Tensor:
        """y in the phase in which <x, y> is real and positive."""
        return _times(inverse(_phase(_hermitian(x, y))[0]), y)

    def _angle(self, x: Tensor, y: Tensor) -> Tensor:
        """The angle between unit vectors, accurate to a rounding error."""
        return 2 * torch.atan2((x - y).flatten(-2).norm(dim=-1), (x + y).flatten(-2).norm(dim=-1))

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log ``|sin 2t / 2t|`` + (2n - 2) log ``|sin t / t|`` with t = ``|u|``, shape ``(...)``."""
        t, n = u.flatten(-2).norm(dim=-1) / math.pi, x.shape[-2] - 1
        return torch.sinc(2 * t).abs().log() + (2 * n - 2) * torch.sinc(t).abs().log()

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        r""":math:`(\theta + \pi k) u` with :math:`\theta u = \log_x(y)`, u of length 1.

        Where <x, y> = 0 exp has no volume: **its modulus counts as no less than the rounding unit**.
        """
        n, v = x.shape[-2] - 1, self.coordinates(x, self.logmap(x, y))
        cosine = _phase(_hermitian(x, y))[1].clamp_min(torch.finfo(v.dtype).eps)
        # sin 2t / 2t = cos t sin t / t, where the product keeps its digits at pi / 2.
        log_volume = cosine.log() + (2 * n - 1) * sinc(v.square().sum(-1)).log()
        return along_closed_geodesics(v, log_volume, math.pi, 2 * n - 1, num_wraps)

    def intrinsic_dim(self, x: Tensor) -> int:
        """2n."""
        return 2 * x.shape[-2] - 2

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The real part of <u, v>, shape ``(...)``."""
        return (u * v).sum((-2, -1))

    def frame(self, x: Tensor) -> Tensor:
        """The images of e_2, i e_2, ..., e_{n+1}, i e_{n+1} under a unitary map that sends e_1 to x.

        Its shape is ``(..., 2n, n + 1, 2)``. It turns with the phase of x, and jumps where x_1 = 0.
        """
        m = x.shape[-2]
        basis = torch.eye(2 * m, dtype=x.dtype, device=x.device)[2:].reshape(-1, m, 2)
        return _from_pole(basis, x.unsqueeze(-3))

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates of u in :meth:`frame`, shape ``(..., 2n)``."""
        return _from_pole(u, x, adjoint=True)[..., 1:, :].flatten(-2)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of points (k, n + 1, 2), by :func:`ppvae.manifolds.protocol.frechet_mean`."""
        return frechet_mean(self, x, weights)

    def embed(self, x: Tensor) -> Tensor:
        r"""The (n + 1)^2 real numbers of the Hermitian matrix :math:`x x^*`: real parts from the diagonal on, then the
        imaginary parts above it."""
        a, b = x.unbind(-1)
        i, j = torch.triu_indices(a.shape[-1], a.shape[-1], device=x.device)
        k, l = torch.triu_indices(a.shape[-1], a.shape[-1], 1, device=x.device)
        real = a[..., i] * a[..., j] + b[..., i] * b[..., j]
        return torch.cat([real, b[..., k] * a[..., l] - a[..., k] * b[..., l]], -1)

    @property
    def lift(self) -> "ComplexDirection":
        """A point as the direction of a vector of C^{n+1}."""
        return ComplexDirection()

    chart = None

    def log_total_volume(self, x: Tensor) -> float:
        """n log pi - log n!."""
        n = x.shape[-2] - 1
        return n * math.log(math.pi) - math.lgamma(n + 1)

    def uniform(self, like: Tensor) -> Tensor:
        """Directions of normal vectors."""
        return ComplexDirection().point(torch.randn_like(like))


class ComplexDirection:
    r"""CP^n as the complex direction of v in C^{n+1}: length and phase are those of a normal law.

    .. math::
        z = v / |v|, \qquad v \sim N(v; 0, I) \, p(z) / u, \qquad u = n! / \pi^n
    """

    def shape(self, event: Size) -> Size:
        """That of the point."""
        return event

    def start(self, z: Tensor) -> Tensor:
        """z times sqrt(2n + 2), the typical length of v."""
        return z * math.sqrt(2 * z.shape[-2])

    def point(self, v: Tensor) -> Tensor:
        """v / ``|v|``."""
        return v / v.flatten(-2).norm(dim=-1)[..., None, None]

    def log_volume(self, v: Tensor) -> Tensor:
        """log N(v; 0, I) + log vol(CP^n), shape ``(...)``."""
        m = v.shape[-2]
        return ComplexProjective().log_total_volume(v) - m * math.log(2 * math.pi) - v.square().sum((-2, -1)) / 2


def _helmert(k: int, like: Tensor) -> Tensor:
    """An orthonormal basis of the vectors of R^k that sum to 0, shape ``(k - 1, k)``."""
    j = torch.arange(1, k, dtype=like.dtype, device=like.device).unsqueeze(-1)
    i = torch.arange(k, dtype=like.dtype, device=like.device)
    return torch.where(i < j, 1, torch.where(i == j, -j, 0)) / (j * (j + 1)).sqrt()


def preshape(x: Tensor) -> Tensor:
    r"""The shape of k landmarks in the plane, a point of CP^{k-2}: :math:`H x / |H x|` with Helmert's matrix H.

    :param x: landmarks, shape ``(..., k, 2)`` with k >= 3.
    :return: points of :class:`ComplexProjective`, shape ``(..., k - 1, 2)``.
    :raises ValueError: for fewer landmarks, or where all are one point.

    >>> triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> moved = 3 * triangle.flip(-1) * torch.tensor([-1.0, 1.0]) + 5
    >>> ComplexProjective().dist(preshape(triangle), preshape(moved)) < 1e-6
    tensor(True)
    """
    if x.dim() < 2 or x.shape[-1] != 2 or x.shape[-2] < 3:
        raise ValueError(f"expected landmarks of shape (..., k, 2) with k >= 3, got {tuple(x.shape)}")
    x = x - x.mean(-2, keepdim=True)  # H takes it off too, and loses the digits of a long way from 0
    z = (_helmert(x.shape[-2], x).unsqueeze(-1) * x.unsqueeze(-3)).sum(-2)
    size = z.flatten(-2).norm(dim=-1)[..., None, None]
    if not (size > 0).all():
        raise ValueError("expected landmarks that are not all one point, which has no shape")
    return z / size


def landmarks(z: Tensor) -> Tensor:
    r"""Landmarks of a shape, centred and of size one: :math:`H^\top z`, shape ``(..., k - 1, 2)`` to ``(..., k, 2)``.

    They turn with the phase of z. What a model says of them is to be the same for every turn.
    """
    return (_helmert(z.shape[-2] + 1, z).unsqueeze(-1) * z.unsqueeze(-2)).sum(-3)
