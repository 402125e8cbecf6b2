r"""Products of copies of one manifold: points with more axes, all of which belong to one event.

.. math::
    M^k \ni x = (x_1, \ldots, x_k), \qquad d(x, y)^2 = \sum_i d(x_i, y_i)^2, \qquad
    \mathrm{vol}(M^k) = \mathrm{vol}(M)^k

``VonMisesFisher(loc, k).to_event(1)`` with loc (8, 6) is a law on ``Power(Sphere(), 1)``, the product of eight S^5.

Reference: Riemannian Geometry (do Carmo, 1992), https://doi.org/10.1007/978-1-4757-2201-7
"""

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.protocol import Lift, Manifold, combined

__all__ = ["Power"]


class Power:
    """Geometry of M^k: points have shape ``(..., *copies, *event)``.

    :param base: M.
    :param axes: how many axes on the left of a point of M count the copies.

    >>> from ppvae.manifolds import Sphere
    >>> x, y = torch.eye(3)[:2], torch.eye(3)[[1, 2]]  # two points of S^2 each
    >>> Power(Sphere(), 1).dist(x, y).round(decimals=4)
    tensor(2.2214)
    """

    def __init__(self, base: Manifold, axes: int):
        self.base, self.axes = base, axes
        self.support = constraints.independent(base.support, axes)

    def _copies(self, x: Tensor) -> torch.Size:
        end = x.dim() - self.base.support.event_dim
        return x.shape[end - self.axes : end]

    def _sum(self, value: Tensor) -> Tensor:
        return value.sum(tuple(range(-self.axes, 0)))

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """That of each copy."""
        return self.base.proju(x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """That of each copy."""
        return self.base.expmap(x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """That of each copy."""
        return self.base.logmap(x, y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The root of the sum of the squared distances, shape ``(...)``; the gradient at y = x is 0."""
        s = self._sum(self.base.dist(x, y).square())
        return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """The sum over the copies, shape ``(...)``."""
        return self._sum(self.base.logvolume(x, u))

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """Every choice of one in each copy: as many as one copy has, to the power of their number."""
        base: Any = self.base
        c, log_volume = base.preimages(x, y, num_wraps)
        copies = c.flatten(-1 - self.axes, -2).unbind(-2), log_volume.flatten(-self.axes).unbind(-1)
        return combined(list(zip(*copies, strict=True)))

    def intrinsic_dim(self, x: Tensor) -> int:
        """That of M times the number of copies."""
        return math.prod(self._copies(x)) * self.base.intrinsic_dim(x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The sum over the copies, shape ``(...)``."""
        return self._sum(self.base.inner(x, u, v))

    def frame(self, x: Tensor) -> Tensor:
        """The frame of each copy, zero in the others, shape ``(..., k d, *copies, *event)``."""
        copies, event = self._copies(x), self.base.support.event_dim
        k, d = math.prod(copies), self.base.intrinsic_dim(x)
        e = self.base.frame(x).flatten(-1 - event - self.axes, -2 - event)  # (..., k, d, *event)
        eye = torch.eye(k, dtype=x.dtype, device=x.device).reshape(k, 1, k, *[1] * event)
        spread = e.unsqueeze(-1 - event) * eye  # (..., k, d, k, *event)
        shape = (*e.shape[: e.dim() - 2 - event], k * d, *copies, *e.shape[e.dim() - event :])
        return spread.reshape(shape)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates of each copy, one after the other, shape ``(..., k d)``."""
        return self.base.coordinates(x, u).flatten(-1 - self.axes)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean of each copy."""
        copies = self._copies(x)
        event = x.shape[x.dim() - self.base.support.event_dim :]
        each = x.reshape(x.shape[0], -1, *event)
        means = [self.base.mean(each[:, i], weights) for i in range(each.shape[1])]
        return torch.stack(means).reshape(*copies, *event)

    def embed(self, x: Tensor) -> Tensor:
        """Those of each copy, one after the other."""
        return self.base.embed(x).flatten(-1 - self.axes)

    @property
    def lift(self) -> "PowerLift":
        """That of each copy."""
        return PowerLift(self.base.lift, self.axes)

    @property
    def chart(self) -> "PowerLift | None":
        """That of each copy, where M has one."""
        return None if self.base.chart is None else PowerLift(self.base.chart, self.axes)

    def log_total_volume(self, x: Tensor) -> float:
        """The number of copies times that of M."""
        return math.prod(self._copies(x)) * self.base.log_total_volume(x)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform points of each copy."""
        return self.base.uniform(like)


class PowerLift:
    """The lift of each copy."""

    def __init__(self, base: Lift, axes: int):
        self.base, self.axes = base, axes

    def shape(self, event: Size) -> Size:
        """That of each copy, behind the axes of the copies."""
        return Size([*event[: self.axes], *self.base.shape(event[self.axes :])])

    def start(self, z: Tensor) -> Tensor:
        """That of each copy."""
        return self.base.start(z)

    def point(self, v: Tensor) -> Tensor:
        """That of each copy."""
        return self.base.point(v)

    def log_volume(self, v: Tensor) -> Tensor:
        """The sum over the copies, shape ``(...)``."""
        return self.base.log_volume(v).sum(tuple(range(-self.axes, 0)))
