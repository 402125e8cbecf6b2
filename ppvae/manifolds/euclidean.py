r"""R^d, or an open part of it, with the flat metric.

.. math::
    \exp_x(u) = x + u, \qquad \log_x(y) = y - x, \qquad d(x, y) = |x - y|, \qquad |\det d \exp_x(u)| = 1

The measure is Lebesgue's. Of a part of R^d, such as the unit cube, the straight lines are those within it: what leads
out of it is the caller's to see.

Reference: Riemannian Geometry (do Carmo, 1992), https://doi.org/10.1007/978-1-4757-2201-7
"""

from torch import Tensor
from torch.distributions import constraints

__all__ = ["Euclidean"]


class Euclidean:
    """Geometry of R^d: points and tangent vectors have shape ``(..., d)``.

    :param support: the part of R^d; all of it where not given.

    >>> import torch
    >>> Euclidean().dist(torch.tensor([0.0, 3.0]), torch.tensor([4.0, 0.0]))
    tensor(5.)
    """

    def __init__(self, support: constraints.Constraint = constraints.real_vector):
        self.support = support

    @property
    def is_whole(self) -> bool:
        """Whether it is all of R^d."""
        part = self.support
        while isinstance(part, constraints.independent):
            part = part.base_constraint
        return isinstance(part, type(constraints.real))

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u itself: the tangent space is R^d."""
        return u

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """x + u."""
        return x + u

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x."""
        return y - x

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The length of y - x, shape ``(...)``."""
        return (y - x).norm(dim=-1)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |det d exp_x| = 0, shape ``(...)``: R^d is flat."""
        return (x + u).new_zeros((x + u).shape[:-1])
