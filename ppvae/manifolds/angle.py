r"""The circle by its angle in radians: real numbers that are one point where they differ by a multiple of 2 pi.

.. math::
    \exp_t(u) = t + u, \qquad \log_t(s) = s - t \bmod 2 \pi \in [-\pi, \pi], \qquad d(t, s) = |\log_t(s)|

Pyro's ``VonMises`` is a law of such angles, with respect to dt on one turn. The laws of ppvae take points of the circle
as unit vectors (:class:`ppvae.manifolds.Circle`), whose coordinates have no seam.

Reference: Directional Statistics (Mardia and Jupp, 2000), https://doi.org/10.1002/9780470316979
"""

import math

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.circle import exp, log, mean_angle
from ppvae.manifolds.protocol import wraps
from ppvae.manifolds.sphere import Direction

__all__ = ["Angle"]


class Angle:
    """Geometry of angles: each number of a point (...) is a circle by itself.

    >>> Angle().dist(torch.tensor(3.0), torch.tensor(-3.0)).round(decimals=4)
    tensor(0.2832)
    """

    support = constraints.real

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u itself."""
        return u

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The angle x + u."""
        return x + u

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shorter turn from x to y, in [-pi, pi]."""
        return torch.remainder(y - x + math.pi, 2 * math.pi) - math.pi

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The length of the shorter turn, in [0, pi] radians."""
        return self.logmap(x, y).abs()

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |d exp_x| = 0: the circle is flat."""
        return torch.zeros_like(x + u)

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """The shorter turn from x to y, and 2 pi k more."""
        t = self.logmap(x, y)
        turns = t + wraps(num_wraps, 2 * math.pi, t)
        return turns.unsqueeze(-1), torch.zeros_like(turns)

    def intrinsic_dim(self, x: Tensor) -> int:
        """1."""
        return 1

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u v."""
        return u * v

    def frame(self, x: Tensor) -> Tensor:
        """1, shape ``(..., 1)``."""
        return torch.ones_like(x).unsqueeze(-1)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """u, shape ``(..., 1)``."""
        return u.unsqueeze(-1)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of angles (n,), exact: see :func:`ppvae.manifolds.circle.mean_angle`."""
        return mean_angle(self.logmap(torch.zeros_like(x), x), weights)

    def embed(self, x: Tensor) -> Tensor:
        """(cos x, sin x), shape ``(..., 2)``."""
        return exp(x)

    @property
    def lift(self) -> "AngleOfDirection":
        """The angle of the direction of a vector."""
        return AngleOfDirection()

    chart = None

    def log_total_volume(self, x: Tensor) -> float:
        """log 2 pi."""
        return math.log(2 * math.pi)

    def uniform(self, like: Tensor) -> Tensor:
        """Angles in [-pi, pi)."""
        return (2 * torch.rand_like(like) - 1) * math.pi


class AngleOfDirection(Direction):
    """The circle by its angle t, as the direction of v in the plane."""

    def shape(self, event: Size) -> Size:
        """Two numbers for each angle."""
        return Size([*event, 2])

    def start(self, z: Tensor) -> Tensor:
        """The unit vector at angle z, times sqrt(2)."""
        return super().start(exp(z))

    def point(self, v: Tensor) -> Tensor:
        """The angle of v in [-pi, pi]."""
        return log(v)
