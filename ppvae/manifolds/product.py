r"""Products of different manifolds in one vector: the parts of a point, flattened, one after the other.

.. math::
    M_1 \times M_2 \ni x = (x_1, x_2), \qquad d(x, y)^2 = d(x_1, y_1)^2 + d(x_2, y_2)^2, \qquad
    \mathrm{vol}(M_1 \times M_2) = \mathrm{vol}(M_1) \, \mathrm{vol}(M_2)

A model that samples a site for each part needs no product; one law on both does, such as that of a point of the
cylinder, ``Product([Circle(), Euclidean()], [(2,), (1,)])``, whose quotient is the Moebius strip.

Reference: Riemannian Geometry (do Carmo, 1992), https://doi.org/10.1007/978-1-4757-2201-7
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.protocol import Lift, Manifold, combined

__all__ = ["Product"]


class _Parts(constraints.Constraint):
    """Vectors whose parts lie in the supports of the factors."""

    event_dim = 1

    def __init__(self, product: "Product"):
        self.product = product

    def check(self, value: Tensor) -> Tensor:
        inside = [M.support.check(x) for M, x in zip(self.product.factors, self.product.split(value), strict=True)]
        return torch.stack(inside).all(0)


class Product:
    """Geometry of a product: points have shape ``(..., n)`` with n the sum of the sizes of the parts.

    :param factors: the manifolds.
    :param shapes: the event shape of a point of each.

    >>> from ppvae.manifolds import Circle, Euclidean
    >>> cylinder = Product([Circle(), Euclidean()], [(2,), (1,)])
    >>> cylinder.dist(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 2.0]))
    tensor(2.)
    """

    def __init__(self, factors: Sequence[Manifold], shapes: Sequence[Sequence[int]]):
        self.factors, self.shapes = list(factors), [tuple(shape) for shape in shapes]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.support = _Parts(self)

    def split(self, x: Tensor) -> list[Tensor]:
        """The parts of a point or tangent vector, each in its event shape."""
        parts = zip(x.split(self.sizes, -1), self.shapes, strict=True)
        return [part.reshape(*x.shape[:-1], *shape) for part, shape in parts]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        flat = []
        for part, shape in zip(parts, self.shapes, strict=True):
            flat.append(part.reshape(*part.shape[: part.dim() - len(shape)], -1))
        return torch.cat(flat, -1)

    def _each(self, method: str, *arguments: Tensor) -> list[Tensor]:
        parts = zip(self.factors, *(self.split(a) for a in arguments), strict=True)
        return [getattr(M, method)(*part) for M, *part in parts]

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """That of each part."""
        return self.join(self._each("proju", x, u))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """That of each part."""
        return self.join(self._each("expmap", x, u))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """That of each part."""
        return self.join(self._each("logmap", x, y))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The root of the sum of the squared distances, shape ``(...)``; the gradient at y = x is 0."""
        s = torch.stack(self._each("dist", x, y)).square().sum(0)
        return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """The sum over the parts, shape ``(...)``."""
        return torch.stack(self._each("logvolume", x, u)).sum(0)

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """Every choice of one in each part."""
        parts: Any = zip(self.factors, self.split(x), self.split(y), strict=True)
        return combined([M.preimages(a, b, num_wraps) for M, a, b in parts])

    def intrinsic_dim(self, x: Tensor) -> int:
        """The sum over the parts."""
        return sum(M.intrinsic_dim(part) for M, part in zip(self.factors, self.split(x), strict=True))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The sum over the parts, shape ``(...)``."""
        return torch.stack(self._each("inner", x, u, v)).sum(0)

    def frame(self, x: Tensor) -> Tensor:
        """The frames of the parts, zero in the others, shape ``(..., d, n)``."""
        frames = []
        for i, frame in enumerate(self._each("frame", x)):
            flat = frame.reshape(*x.shape[:-1], -1, self.sizes[i])
            before, after = sum(self.sizes[:i]), sum(self.sizes[i + 1 :])
            frames.append(torch.nn.functional.pad(flat, (before, after)))
        return torch.cat(frames, -2)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """Those of the parts, one after the other, shape ``(..., d)``."""
        return torch.cat(self._each("coordinates", x, u), -1)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean of each part."""
        return self.join([M.mean(part, weights) for M, part in zip(self.factors, self.split(x), strict=True)])

    def embed(self, x: Tensor) -> Tensor:
        """Those of the parts, one after the other."""
        return torch.cat(self._each("embed", x), -1)

    @property
    def lift(self) -> "ProductLift":
        """That of each part, flattened."""
        return ProductLift(self, [M.lift for M in self.factors])

    @property
    def chart(self) -> "ProductLift | None":
        """That of each part, where all have one."""
        charts = [M.chart for M in self.factors]
        return ProductLift(self, [c for c in charts if c is not None]) if all(charts) else None

    def log_total_volume(self, x: Tensor) -> float:
        """The sum over the parts."""
        return sum(M.log_total_volume(part) for M, part in zip(self.factors, self.split(x), strict=True))

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform points of each part."""
        return self.join(self._each("uniform", like))


class ProductLift:
    """The lifts of the parts, flattened, one after the other."""

    def __init__(self, product: Product, lifts: Sequence[Lift]):
        self.product, self.lifts = product, lifts
        self.shapes = [lift.shape(Size(shape)) for lift, shape in zip(lifts, product.shapes, strict=True)]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def _split(self, v: Tensor) -> list[Tensor]:
        parts = v.split(self.sizes, -1)
        return [part.reshape(*v.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _apply(self, method: Callable[[Lift], Callable[[Tensor], Tensor]], parts: Sequence[Tensor]) -> list[Tensor]:
        return [method(lift)(part) for lift, part in zip(self.lifts, parts, strict=True)]

    def shape(self, event: Size) -> Size:
        """One vector of all of them."""
        return Size([sum(self.sizes)])

    def start(self, z: Tensor) -> Tensor:
        """That of each part."""
        parts = self._apply(lambda lift: lift.start, self.product.split(z))
        return torch.cat([part.reshape(*z.shape[:-1], -1) for part in parts], -1)

    def point(self, v: Tensor) -> Tensor:
        """That of each part."""
        return self.product.join(self._apply(lambda lift: lift.point, self._split(v)))

    def log_volume(self, v: Tensor) -> Tensor:
        """The sum over the parts, shape ``(...)``."""
        return torch.stack(self._apply(lambda lift: lift.log_volume, self._split(v))).sum(0)
