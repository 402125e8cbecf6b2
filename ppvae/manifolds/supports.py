"""From the support of a law to the manifold that it is."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import constraints as pyro_constraints
from torch.distributions import constraints

from ppvae.manifolds.box import Box
from ppvae.manifolds.circle import Circle
from ppvae.manifolds.euclidean import Euclidean
from ppvae.manifolds.hyperboloid import Hyperboloid
from ppvae.manifolds.power import Power
from ppvae.manifolds.protocol import Manifold
from ppvae.manifolds.so3 import SO3
from ppvae.manifolds.sphere import Sphere
from ppvae.manifolds.torus import Torus

__all__ = ["CURVED", "bounds", "manifold_of_support", "power"]

_REAL = type(constraints.real)
#: Manifolds by the support of one point.
CURVED: dict[type, Callable[[Any], Manifold]] = {
    type(Sphere.support): lambda support: Sphere(),
    type(pyro_constraints.sphere): lambda support: Sphere(),
    type(Circle.support): lambda support: Circle(),
    type(Torus(1).support): lambda support: Torus(support.n),
    type(SO3.support): lambda support: SO3(),
    type(Hyperboloid.support): lambda support: Hyperboloid(),
}


def manifold_of_support(support: Any, event_shape: Sequence[int]) -> Manifold | None:
    """The manifold with this support, None for a discrete one and where no manifold of ppvae has it.

    :param support: a constraint, of torch, Pyro or ppvae.
    :param event_shape: shape of a point; more axes than a point of the manifold has are a product of copies.

    >>> type(manifold_of_support(constraints.real_vector, (3,))).__name__
    'Euclidean'
    """
    if support is None or support.is_discrete:
        return None
    part = support
    while hasattr(part, "base_constraint"):  # of independent coordinates, and of a mixture's components
        part = part.base_constraint
    if type(part) in CURVED:
        return power(CURVED[type(part)](part), event_shape)
    ends = bounds(part)
    if ends is None:
        return None
    if len(event_shape) == 1 and all(torch.isfinite(torch.as_tensor(end)).all() for end in ends):
        return Box(low=ends[0], high=ends[1])
    return Euclidean(support)


def power(manifold: Manifold, event_shape: Sequence[int]) -> Manifold:
    """The product of copies, where a point has more axes than one of the manifold; circles and tori by their names."""
    axes = len(event_shape) - manifold.support.event_dim
    if isinstance(manifold, Sphere) and event_shape[-1] == 2:
        if axes == 1:
            return Torus(event_shape[0])
        manifold = Circle()
    return Power(manifold, axes) if axes > 0 else manifold


def bounds(support: Any) -> tuple[Any, Any] | None:
    """The least and the greatest value of a number of an event; None where the support is no interval."""
    if isinstance(support, _REAL):
        return -math.inf, math.inf
    if support is constraints.boolean:
        return 0, 1
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    return -math.inf if low is None else low, math.inf if high is None else high
