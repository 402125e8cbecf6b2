r"""R^d, or an open part of it, with the flat metric.

.. math::
    \exp_x(u) = x + u, \qquad \log_x(y) = y - x, \qquad d(x, y) = |x - y|, \qquad |\det d \exp_x(u)| = 1

The measure is Lebesgue's. Of a part of R^d, such as the positive numbers, the straight lines are those within it: what
leads out of it is the caller's to see. For boxes see :class:`ppvae.manifolds.Box`.

Reference: Riemannian Geometry (do Carmo, 1992), https://doi.org/10.1007/978-1-4757-2201-7
"""

import math

import torch
from torch import Size, Tensor
from torch.distributions import biject_to, constraints

__all__ = ["Euclidean"]


class Euclidean:
    """Geometry of R^d: points and tangent vectors have shape ``(..., d)``.

    :param support: the part of R^d; all of it where not given. A constraint on single numbers counts for vectors.

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

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.support.event_dim, 0))

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
        """The length of y - x, shape ``(...)``; the gradient at y = x is 0."""
        s = self.inner(x, y - x, y - x)
        return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |det d exp_x| = 0, shape ``(...)``: R^d is flat."""
        return torch.zeros_like(self.inner(x, u, u))

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """y - x alone.

        :raises ValueError: of a part of R^d, which straight lines leave.
        """
        if not self.is_whole:
            raise ValueError(f"Euclidean: expected all of R^d, got the part {self.support}, which straight lines leave")
        return self.coordinates(x, y - x).unsqueeze(0), self.logvolume(x, y - x).unsqueeze(0)

    def intrinsic_dim(self, x: Tensor) -> int:
        """d."""
        return math.prod(x.shape[x.dim() - self.support.event_dim :])

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u . v, shape ``(...)``."""
        return (u * v).sum(self._axes) if self._axes else u * v

    def frame(self, x: Tensor) -> Tensor:
        """The unit vectors, shape ``(..., d, *event)``."""
        event = x.shape[x.dim() - self.support.event_dim :]
        d = math.prod(event)
        basis = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, *event)
        return basis.expand(*x.shape[: x.dim() - len(event)], *basis.shape)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The entries of u, shape ``(..., d)``."""
        return u.reshape(*u.shape[: u.dim() - self.support.event_dim], -1)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The weighted mean of points (n, *event)."""
        if weights is None:
            return x.mean(0)
        return ((weights / weights.sum()).reshape(-1, *[1] * (x.dim() - 1)) * x).sum(0)

    def embed(self, x: Tensor) -> Tensor:
        """The entries of x, shape ``(..., d)``."""
        return self.coordinates(x, x)

    @property
    def lift(self) -> "Unconstrained":
        """R^d itself, or the coordinates that torch's ``biject_to`` has for the part."""
        return Unconstrained(self.support)

    chart = lift

    def log_total_volume(self, x: Tensor) -> float:
        """inf."""
        return math.inf

    def uniform(self, like: Tensor) -> Tensor:
        """No uniform law: the volume is infinite."""
        raise ValueError("Euclidean: no uniform points, its volume is infinite; draw from a normal law")


class Unconstrained:
    """A part of R^d by the transform to it from R^d that torch knows, with its Jacobian: one to one."""

    def __init__(self, support: constraints.Constraint):
        self.transform = biject_to(support)
        self.event_dim = support.event_dim

    def shape(self, event: Size) -> Size:
        """That of the unconstrained numbers."""
        return self.transform.inverse_shape(event)

    def start(self, z: Tensor) -> Tensor:
        """The v whose image is z."""
        return self.transform.inv(z).clone()

    def point(self, v: Tensor) -> Tensor:
        """The image of v."""
        return self.transform(v)

    def log_volume(self, v: Tensor) -> Tensor:
        """log |det| of the transform, shape ``(...)``."""
        return self.transform.log_abs_det_jacobian(v, self.transform(v))
