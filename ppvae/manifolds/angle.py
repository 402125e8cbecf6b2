r"""The circle by its angle in radians: real numbers that are one point where they differ by a multiple of 2 pi.

.. math::
    \exp_t(u) = t + u, \qquad \log_t(s) = s - t \bmod 2 \pi \in [-\pi, \pi], \qquad d(t, s) = |\log_t(s)|

Pyro's ``VonMises`` is a law of such angles, with respect to dt on one turn. The laws of ppvae take points of the circle
as unit vectors (:class:`ppvae.manifolds.Circle`), whose coordinates have no seam.

Reference: Directional Statistics (Mardia and Jupp, 2000), https://doi.org/10.1002/9780470316979
"""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

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
