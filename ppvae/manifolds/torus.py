r"""The flat torus T^n, a product of n unit circles.

.. math::
    d(x, y)^2 = \sum_{i=1}^n d(x_i, y_i)^2, \qquad \mathrm{vol}(T^n) = (2 \pi)^n

A point is a matrix (..., n, 2) whose rows are points of circles; exp and log act on each row. The measure is
the product of the angles' d t_i.

References:
    [1] Riemannian Geometry (do Carmo, 1992), Chapter 0, Example 4.10
        https://doi.org/10.1007/978-1-4757-2201-7
"""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.manifolds.circle import Circle, exp, log, mean_angle, quarter_turn
from ppvae.manifolds.protocol import combined
from ppvae.manifolds.sphere import Direction

__all__ = ["Torus"]


class _Torus(constraints.Constraint):
    """Matrices (..., n, 2) with unit rows."""

    event_dim = 2

    def __init__(self, n: int):
        self.n = n

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-2:] != (self.n, 2):
            raise ValueError(
                f"expected points of the torus T^{self.n} of shape (..., {self.n}, 2), got "
                f"{tuple(value.shape)}: turn angles (..., n) into points by ppvae.manifolds.circle.exp"
            )
        return Circle.support.check(value).all(-1)


class Torus:
    """Geometry of the flat torus: points x, y and tangent vectors u at x have shape ``(..., n, 2)``.

    :param n: number of circles, at least 1.
    :raises ValueError: if n < 1.

    >>> from ppvae.manifolds import circle
    >>> x, y = circle.exp(torch.tensor([0.0, 0.0])), circle.exp(torch.tensor([3.0, -4.0]))
    >>> print(f"{Torus(2).dist(x, y):.4f} {(9 + (2 * torch.pi - 4) ** 2) ** 0.5:.4f}")
    3.7700 3.7700
    """

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"expected a torus of n >= 1 circles, got n = {n}")
        self.n, self.support, self._circle = n, _Torus(n), Circle()

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of u on the tangent space at x, row by row."""
        return self._circle.proju(x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The rows of x, each turned by the signed length of its row of u, in radians."""
        return self._circle.expmap(x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The tangent vector whose rows are the shortest from x_i to y_i."""
        return self._circle.logmap(x, y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Root of the sum of squared angles, in [0, pi sqrt(n)], shape ``(...)``; the gradient at y = x is 0."""
        s = self._circle.dist(x, y).square().sum(-1)
        return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |det d exp_x| = 0, shape ``(...)``: the torus is flat."""
        return self._circle.logvolume(x, u).sum(-1)

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """The angles from x to y, and 2 pi k more, k in Z^n: (2 num_wraps + 1)^n of them."""
        circles = zip(x.unbind(-2), y.unbind(-2), strict=True)
        return combined([self._circle.preimages(*pair, num_wraps) for pair in circles])

    def intrinsic_dim(self, x: Tensor) -> int:
        """n."""
        return self.n

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The sum of the products of all entries, shape ``(...)``."""
        return (u * v).sum((-2, -1))

    def frame(self, x: Tensor) -> Tensor:
        """J x_i in row i, and 0 in the others, shape ``(..., n, n, 2)``."""
        eye = torch.eye(self.n, dtype=x.dtype, device=x.device)
        return eye.unsqueeze(-1) * quarter_turn(x).unsqueeze(-3)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """u_i . J x_i, shape ``(..., n)``."""
        return (u * quarter_turn(x)).sum(-1)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of points (k, n, 2): the circles' means, exact."""
        return exp(mean_angle(log(x), weights))

    def embed(self, x: Tensor) -> Tensor:
        """The 2n coordinates."""
        return x.flatten(-2)

    @property
    def lift(self) -> "Rows":
        """Each row as the direction of a vector."""
        return Rows()

    chart = None

    def log_total_volume(self, x: Tensor) -> float:
        """n log 2 pi."""
        return self.n * math.log(2 * math.pi)

    def uniform(self, like: Tensor) -> Tensor:
        """Directions of normal vectors, row by row."""
        return Direction().point(torch.randn_like(like))


class Rows(Direction):
    """Each row of a point as the direction of a vector."""

    def log_volume(self, v: Tensor) -> Tensor:
        """The sum over the rows, shape ``(...)``."""
        return super().log_volume(v).sum(-1)
