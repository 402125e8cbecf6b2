r"""The flat torus T^n, a product of n unit circles.

.. math::
    d(x, y)^2 = \sum_{i=1}^n d(x_i, y_i)^2, \qquad \mathrm{vol}(T^n) = (2 \pi)^n

A point is a matrix (..., n, 2) whose rows are points of circles; exp and log act on each row. The measure is
the product of the angles' d t_i.

References:
    [1] Riemannian Geometry (do Carmo, 1992), Chapter 0, Example 4.10
        https://doi.org/10.1007/978-1-4757-2201-7
"""

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.manifolds.circle import Circle

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
