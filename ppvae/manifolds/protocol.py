r"""What a manifold of latents offers: the methods that laws, samplers, metrics and plots may call.

The names are those of geoopt where it has the method, so that a geoopt manifold is nearly one of ours.

.. math::
    u = \sum_i c_i e_i(x), \qquad \langle e_i(x), e_j(x) \rangle_x = \delta_{ij}, \qquad
    \bar x = \arg\min_y \sum_i w_i \, d(y, x_i)^2

with e_i the ``frame``, c the ``coordinates`` and :math:`\bar x` the Fréchet ``mean``. From these everything that comes
after training follows once for all spaces: jitter is exp_x of normal noise in the frame, a mixture is one of tangent
normals about Fréchet means, interpolation is :math:`\exp_x(t \log_x y)`, chains move in the ``lift``.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Size, Tensor
from torch.distributions.constraints import Constraint

__all__ = ["Lift", "Manifold", "Unrolled", "along_closed_geodesics", "combined", "frechet_mean", "tangent", "wraps"]


class Lift(Protocol):
    r"""Coordinates v of R^k in which a Markov chain moves; they may be redundant, as the direction of a vector.

    With z = point(v), a chain whose density in v is

    .. math::
        \log p(z) + \texttt{log\_volume}(v)

    has points z with the density p with respect to the volume of the manifold.
    """

    def shape(self, event: Size) -> Size:
        """The shape of v for a latent of this event shape."""
        ...

    def start(self, z: Tensor) -> Tensor:
        """Where a chain begins whose latent is z: (..., \\*event) to (..., \\*coordinates)."""
        ...

    def point(self, v: Tensor) -> Tensor:
        """The latent at v."""
        ...

    def log_volume(self, v: Tensor) -> Tensor:
        """Log density of the chain's law at v over that of the latent, shape ``(...)``."""
        ...


class Manifold(Protocol):
    r"""A complete Riemannian manifold, in coordinates of the space around it.

    Points x, y and tangent vectors u, v have the event shape of ``support``, and ``...`` is the batch. Angles
    and distances are in radians where the manifold is compact. Instances need not know their dimension: what depends on
    it reads it off a point.

    >>> import torch
    >>> from ppvae.manifolds import Manifold, Sphere
    >>> def midpoint(manifold: Manifold, x, y):
    ...     return manifold.expmap(x, manifold.logmap(x, y) / 2)
    >>> midpoint(Sphere(), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])).round(decimals=4)
    tensor([0.7071, 0.7071, 0.0000])
    """

    @property
    def support(self) -> Constraint:
        """The set of points: ``support.check(x)`` has shape ``(...)``, ``support.event_dim`` counts a point's axes."""
        ...

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of u on the tangent space at x."""
        ...

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The point that the geodesic from x with velocity u reaches after unit time."""
        ...

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """A shortest tangent vector u at x with ``expmap(x, u) == y``."""
        ...

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of a shortest geodesic from x to y, shape ``(...)``."""
        ...

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |det d exp_x| at u, shape ``(...)``: what exp_x makes of a unit of volume at u."""
        ...

    def intrinsic_dim(self, x: Tensor) -> int:
        """The dimension of the manifold that x lies on."""
        ...

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The Riemannian inner product of tangent vectors at x, shape ``(...)``."""
        ...

    def frame(self, x: Tensor) -> Tensor:
        """An orthonormal basis of the tangent space at x, shape ``(..., d, *event)``."""
        ...

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates of u in the frame at x, shape ``(..., d)``."""
        ...

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of n points (n, *event) with weights (n,), equal ones where none are given."""
        ...

    def embed(self, x: Tensor) -> Tensor:
        """The numbers in which networks, kernels and linear tools read a point, shape ``(..., k)``; injective."""
        ...

    @property
    def lift(self) -> Lift:
        """The coordinates in which a Markov chain moves."""
        ...

    @property
    def chart(self) -> Lift | None:
        """Coordinates on R^d that are one to one, None where the manifold has none."""
        ...

    def log_total_volume(self, x: Tensor) -> float:
        """Logarithm of the volume of the manifold that x lies on; inf where it is infinite."""
        ...

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform points, as many as ``like`` has, in its shape, dtype and device.

        :raises ValueError: if the volume is infinite.
        """
        ...


class Unrolled(Manifold, Protocol):
    r"""A manifold that knows all tangent vectors that exp sends to one point.

    A law pushed forward by exp_x has the density

    .. math::
        q(y) = \sum_{u \,:\, \exp_x(u) = y} \frac{r(u)}{|\det d \exp_x(u)|}
    """

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """The tangent vectors u at x with ``expmap(x, u) == y``, up to so many turns along each closed geodesic.

        x and y have one shape. The coordinates of u in the frame have the shape ``(k, ..., d)``, and log |det d exp_x|
        there ``(k, ...)``: inf where a vector is not to be counted.
        """
        ...


def wraps(num_wraps: int, period: float, like: Tensor) -> Tensor:
    """The numbers k ``period`` for ``|k|`` <= num_wraps, on the left of the batch of ``like``."""
    k = torch.arange(-num_wraps, num_wraps + 1, dtype=like.dtype, device=like.device)
    return period * k.reshape(-1, *[1] * like.dim())


def along_closed_geodesics(
    v: Tensor, log_volume: Tensor, period: float, power: int, num_wraps: int
) -> tuple[Tensor, Tensor]:
    r"""Preimages where every geodesic is closed, of one length, and meets the point at no other times.

    .. math::
        v_k = \Bigl(1 + \frac{k P}{|v|}\Bigr) v, \qquad
        |\det d \exp(v_k)| = |\det d \exp(v)| \; \Bigl|1 + \frac{k P}{|v|}\Bigr|^{-p}

    At v = 0 all v of length k P are sent to one point, where the density is infinite; its integral is finite.
    **Convention**: where ``|v|`` is below the rounding unit the terms k != 0 are left out.

    :param v: coordinates of the shortest preimage, shape ``(..., d)``.
    :param log_volume: log |det d exp| at v, shape ``(...)``.
    :param period: P, the length of a closed geodesic.
    :param power: p, the number of directions in which geodesics from one point meet again.
    """
    squared = v.square().sum(-1)
    off = squared > torch.finfo(v.dtype).eps ** 2
    k = wraps(num_wraps, period, squared)
    stretch = 1 + k / torch.where(off, squared, 1).sqrt()
    log_volumes = log_volume - power * stretch.abs().log()
    return stretch.unsqueeze(-1) * v, torch.where(off | (k == 0), log_volumes, math.inf)


def combined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The preimages in a product: every choice of one in each factor."""
    c, log_volume = parts[0]
    for more, its_volume in parts[1:]:
        k, n = len(c), len(more)
        left, right = c.unsqueeze(1).expand(k, n, *c.shape[1:]), more.unsqueeze(0).expand(k, n, *more.shape[1:])
        c = torch.cat([left, right], -1).flatten(0, 1)
        log_volume = (log_volume.unsqueeze(1) + its_volume).flatten(0, 1)
    return c, log_volume


def tangent(manifold: Manifold, x: Tensor, c: Tensor) -> Tensor:
    """The tangent vector at x with the coordinates c, shape ``(..., d)``, in the frame.

    >>> from ppvae.manifolds import Circle
    >>> tangent(Circle(), torch.tensor([0.0, 1.0]), torch.tensor([0.5]))
    tensor([-0.5000,  0.0000])
    """
    event = manifold.support.event_dim
    return (c.reshape(*c.shape, *[1] * event) * manifold.frame(x)).sum(-1 - event)


def frechet_mean(manifold: Manifold, x: Tensor, weights: Tensor | None = None, iterations: int = 64) -> Tensor:
    r"""The Fréchet mean of points (n, \*event) by fixed-point steps from the best of the points.

    .. math::
        y \leftarrow \exp_y \Bigl( \sum_i w_i \log_y x_i \Bigr)

    On a manifold of positive curvature a local minimum may lie elsewhere; from the point with the least sum of squares,
    among at most 512 of them, the steps lead to the global one unless the points are spread all over it.

    Source: Afsari, Tron and Vidal (2013), https://arxiv.org/abs/1201.0925

    >>> from ppvae.manifolds import Sphere
    >>> frechet_mean(Sphere(), torch.tensor([[0.6, 0.8, 0.0], [0.6, -0.8, 0.0]])).round(decimals=3)
    tensor([1., 0., 0.])
    """
    n = x.shape[0]
    w = x.new_full((n,), 1 / n) if weights is None else weights / weights.sum()
    candidates = x[:: max(1, -(-n // 512))]
    costs = torch.stack([(w * manifold.dist(y.expand_as(x), x).square()).sum() for y in candidates])
    y, lift = candidates[costs.argmin()], manifold.lift
    shape = (n, *[1] * (x.dim() - 1))
    for _ in range(iterations):
        y = manifold.expmap(y, (w.reshape(shape) * manifold.logmap(y.expand_as(x), x)).sum(0))
        y = lift.point(lift.start(y))  # what is off the manifold by rounding would grow from step to step
    return y
