"""What a manifold of latents offers: the methods that laws, samplers, metrics and plots may call.

The names are those of geoopt, so that a geoopt manifold is nearly one of ours; ``logvolume`` is added for
densities.
"""

from typing import Protocol

from torch import Tensor
from torch.distributions.constraints import Constraint

__all__ = ["Manifold"]


class Manifold(Protocol):
    r"""A complete Riemannian manifold, in coordinates of the space around it.

    Points x, y and tangent vectors u have the event shape of ``support``, and ``...`` is the batch. Angles
    and distances are in radians where the manifold is compact.

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
