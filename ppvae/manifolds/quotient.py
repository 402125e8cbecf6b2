r"""Quotients M = C / G of a manifold C, the cover, by a finite group G of isometries that move every point.

.. math::
    [z] = \{g z : g \in G\}, \qquad d([x], [y]) = \min_g d(x, g y), \qquad
    \mathrm{vol}(M) = \mathrm{vol}(C) / |G|, \qquad \log p_M([z]) = \log \sum_g p_C(g z)

Points are points of the cover, any of an orbit. The geometry is that of the cover, near the representative that is
nearest; what reads a point, such as a decoder, reads functions that all points of an orbit share (``embed``).

=============  =================  ======================================  =====================================
name           cover              group                                   invariants
=============  =================  ======================================  =====================================
``moebius``    circle x R         (t, v) -> (t + pi, -v)                  cos 2t, sin 2t, v cos t, v sin t
``klein``      torus T^2          (t, p) -> (t + pi, -p)                  cos 2t, sin 2t, cos p, cos t sin p,
                                                                          sin t sin p
``projective`` sphere S^n         z -> -z                                 z z^T
``axes``       SO(3)              R -> R D, D of D2                       r_i r_i^T, r_i the columns of R
=============  =================  ======================================  =====================================

Reference: Riemannian Geometry (do Carmo, 1992), Chapter 8, https://doi.org/10.1007/978-1-4757-2201-7
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor

from ppvae.manifolds.circle import Circle
from ppvae.manifolds.euclidean import Euclidean
from ppvae.manifolds.product import Product
from ppvae.manifolds.protocol import Lift, Manifold, frechet_mean
from ppvae.manifolds.so3 import SO3
from ppvae.manifolds.sphere import Sphere
from ppvae.manifolds.torus import Torus

__all__ = ["QUOTIENTS", "Quotient", "quotient"]

Isometry = Callable[[Tensor], Tensor]


class Quotient:
    """Geometry of C / G: points and tangent vectors are those of the cover C.

    :param base: the cover.
    :param group: the isometries of G, the identity first.
    :param embed: functions of a point that are equal on an orbit and tell orbits apart, ``(..., k)``.

    >>> plane = quotient("projective", Sphere())
    >>> x = torch.tensor([1.0, 0.0, 0.0])
    >>> plane.dist(x, -x)
    tensor(0.)
    """

    def __init__(self, base: Manifold, group: Sequence[Isometry], embed: Callable[[Tensor], Tensor]):
        self.base, self.group, self.embed = base, list(group), embed
        self.support = base.support

    def orbit(self, x: Tensor) -> Tensor:
        """All g x, shape ``(|G|, ..., *event)``."""
        return torch.stack([g(x) for g in self.group])

    def nearest(self, x: Tensor, y: Tensor) -> Tensor:
        """The representative of y that is nearest to x."""
        x, y = torch.broadcast_tensors(x, y)
        images = self.orbit(y)
        best = self.base.dist(x.expand_as(images), images).argmin(0)
        event = images.dim() - 1 - best.dim()
        return images.gather(0, best.reshape(1, *best.shape, *[1] * event).expand(1, *images.shape[1:])).squeeze(0)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """That of the cover."""
        return self.base.proju(x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """That of the cover."""
        return self.base.expmap(x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of the representative of y that is nearest to x."""
        return self.base.logmap(x, self.nearest(x, y))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The least distance over the orbit, shape ``(...)``."""
        x, y = torch.broadcast_tensors(x, y)
        images = self.orbit(y)
        return self.base.dist(x.expand_as(images), images).amin(0)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """That of the cover."""
        return self.base.logvolume(x, u)

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """Those of every point of the orbit of y in the cover."""
        base: Any = self.base
        c, log_volume = zip(*(base.preimages(x, g(y), num_wraps) for g in self.group), strict=True)
        return torch.cat(c), torch.cat(log_volume)

    def intrinsic_dim(self, x: Tensor) -> int:
        """That of the cover."""
        return self.base.intrinsic_dim(x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """That of the cover."""
        return self.base.inner(x, u, v)

    def frame(self, x: Tensor) -> Tensor:
        """That of the cover at this representative."""
        return self.base.frame(x)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """Those in the frame of the cover."""
        return self.base.coordinates(x, u)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean in the quotient, by :func:`ppvae.manifolds.protocol.frechet_mean`."""
        return frechet_mean(self, x, weights)

    @property
    def lift(self) -> Lift:
        """That of the cover. A chain in the cover with the density p([z]) / ``|G|`` has points with the density p."""
        return CoverLift(self.base.lift, len(self.group))

    chart = None

    def log_total_volume(self, x: Tensor) -> float:
        """That of the cover, less log ``|G|``."""
        return self.base.log_total_volume(x) - math.log(len(self.group))

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform points of the cover."""
        return self.base.uniform(like)


class CoverLift:
    """The lift of the cover, whose volume is ``|G|`` times that of the quotient."""

    def __init__(self, base: Lift, order: int):
        self.base, self.order = base, order

    def shape(self, event: Size) -> Size:
        """That of the cover."""
        return self.base.shape(event)

    def start(self, z: Tensor) -> Tensor:
        """That of the cover."""
        return self.base.start(z)

    def point(self, v: Tensor) -> Tensor:
        """That of the cover."""
        return self.base.point(v)

    def log_volume(self, v: Tensor) -> Tensor:
        """That of the cover, less log ``|G|``."""
        return self.base.log_volume(v) - math.log(self.order)


def _moebius(x: Tensor) -> Tensor:
    return -x  # the opposite unit vector is t + pi


def _moebius_invariants(x: Tensor) -> Tensor:
    c, s, v = x.unbind(-1)
    return torch.stack([c * c - s * s, 2 * c * s, v * c, v * s], -1)


def _klein(x: Tensor) -> Tensor:
    (c, s), (a, b) = x[..., 0, :].unbind(-1), x[..., 1, :].unbind(-1)
    return torch.stack([torch.stack([-c, -s], -1), torch.stack([a, -b], -1)], -2)


def _klein_invariants(x: Tensor) -> Tensor:
    (c, s), (a, b) = x[..., 0, :].unbind(-1), x[..., 1, :].unbind(-1)
    return torch.stack([c * c - s * s, 2 * c * s, a, c * b, s * b], -1)


def _outer(x: Tensor) -> Tensor:
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    return x[..., i] * x[..., j]


def _axes_invariants(x: Tensor) -> Tensor:
    return torch.cat([_outer(r) for r in x.unbind(-1)], -1)


def _half_turn(axis: int, x: Tensor) -> Tensor:
    """R D with D the half turn about an axis; its diagonal is made on the device, without a copy from the host."""
    return x * (2 * torch.eye(3, dtype=x.dtype, device=x.device)[axis] - 1)


def _identity(x: Tensor) -> Tensor:
    return x


#: name -> (cover, group, invariants)
QUOTIENTS: dict[str, tuple[Callable[[], Manifold], list[Isometry], Callable[[Tensor], Tensor]]] = {
    "moebius": (
        lambda: Product([Circle(), Euclidean()], [(2,), (1,)]),
        [_identity, _moebius],
        _moebius_invariants,
    ),
    "klein": (lambda: Torus(2), [_identity, _klein], _klein_invariants),
    "projective": (Sphere, [_identity, torch.neg], _outer),
    "axes": (SO3, [_identity, *(partial(_half_turn, axis) for axis in range(3))], _axes_invariants),
}


def quotient(name: str, base: Manifold | None = None) -> Quotient:
    """The quotient ``name`` of the table above.

    :param base: the cover; by default that of the table.
    :raises ValueError: for another name, or a cover of another kind.

    >>> x = torch.tensor([1.0, 0.0, 0.0])
    >>> quotient("projective").dist(x, -x)
    tensor(0.)
    """
    if name not in QUOTIENTS:
        raise ValueError(f"quotient: expected one of {', '.join(QUOTIENTS)}, got {name!r}")
    make, group, embed = QUOTIENTS[name]
    cover = make()
    if base is not None and type(base) is not type(cover):
        raise ValueError(f"quotient: {name} has the cover {type(cover).__name__}, got {type(base).__name__}")
    return Quotient(cover if base is None else base, group, embed)
