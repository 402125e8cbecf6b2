"""The space of a law: its manifold, the measure of its density, and whether one support contains another.

Torch and Pyro say little of this. Angles have the support R, a transformed law has the image of R under its last
transform (of [0, 1] moved by 1 that is R), and a mixture has the points that all components share. So laws are read
here by their parts.
"""

import math
from typing import Any

import torch
from pyro import distributions as pyro_distributions
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.constraints import Constraint, is_dependent

from ppvae.distributions import Mixture
from ppvae.distributions.base import base_law, base_support
from ppvae.manifolds import SO3, Angle, Box, Circle, Euclidean, Hyperboloid, Manifold, Power, Quotient, Sphere, Torus
from ppvae.manifolds.supports import CURVED, power

__all__ = ["contains", "manifold_of", "measure_of", "stated_support"]

_REAL = type(constraints.real)
#: Parts of R^d that are no boxes, with the least and the greatest value of a number where all numbers have the same.
_PARTS: dict[type, tuple[float, float] | None] = {
    type(pyro_distributions.constraints.ordered_vector): (-math.inf, math.inf),
    type(pyro_distributions.constraints.positive_ordered_vector): (0.0, math.inf),
    constraints.cat: None,
    constraints.stack: None,
}
#: Laws whose support Pyro leaves out, or gives as R where the numbers are angles or atoms.
_BY_LAW: dict[type, Manifold | None] = {
    torch.distributions.VonMises: Angle(),
    pyro_distributions.SineBivariateVonMises: Angle(),
    pyro_distributions.SineSkewed: Angle(),
    pyro_distributions.GaussianScaleMixture: Euclidean(),
    pyro_distributions.Empirical: None,
}
#: The measure of densities on each manifold, in words. Equal words are equal measures.
_MEASURES: dict[type, str] = {
    Euclidean: "Lebesgue measure",
    Box: "Lebesgue measure",
    Angle: "the angle, modulo 2 pi",
    Sphere: "the surface of spheres",
    Circle: "the surface of spheres",
    Torus: "the surface of spheres",
    SO3: "the volume of SO(3)",
    Hyperboloid: "the volume of hyperbolic space",
}


def manifold_of(law: Any) -> Manifold | None:
    """The manifold that a law lives on. Nothing else in the library tells kinds of space apart.

    An attribute ``manifold`` of the law decides; without one its type does (Pyro gives R as the support of angles), and
    else its support. A mixture lives where its components do.

    :return: the manifold; None for a law of counts or classes, and where ppvae has no manifold with this support.

    >>> import pyro.distributions as dist
    >>> type(manifold_of(dist.ProjectedNormal(torch.ones(3)))).__name__
    'Sphere'
    >>> manifold_of(dist.Poisson(1.0)) is None
    True
    """
    base = base_law(law)
    for candidate in (law, base):
        if getattr(candidate, "manifold", None) is not None:
            return power(candidate.manifold, law.event_shape)
    for kind, manifold in _BY_LAW.items():
        if isinstance(base, kind):
            return manifold and power(manifold, law.event_shape)
    parts = [manifold_of(part) for part in (*_components(base), *_before_transforms(base))]
    if any(isinstance(_factor(part), Angle) for part in parts):  # moved angles wrap elsewhere, and masked ones in part
        return parts[0] if len(_components(base)) == 1 else None
    support = stated_support(law)
    if support is None or support.is_discrete:
        return None
    smallest = base_support(support)
    if type(smallest) in CURVED:
        return power(CURVED[type(smallest)](smallest), law.event_shape)
    if type(smallest) in _PARTS:
        return Euclidean(support)
    if isinstance(base, pyro_distributions.MaskedMixture):
        return Euclidean(support) if all(isinstance(part, Euclidean | Box) for part in parts) else None
    bounds = _bounds(law)
    if bounds is None:
        return None
    if len(law.event_shape) == 1 and all(torch.isfinite(torch.as_tensor(end)).all() for end in bounds):
        return Box(low=bounds[0], high=bounds[1])
    if parts:  # the support that torch states is not theirs
        interval, event_dim = _interval(*bounds), len(law.event_shape)
        return Euclidean(constraints.independent(interval, event_dim) if event_dim else interval)
    return Euclidean(support)


def _factor(manifold: Manifold | None) -> Manifold | None:
    """The manifold of one copy in a product of copies."""
    return manifold.base if isinstance(manifold, Power) else manifold


def stated_support(law: Any) -> Constraint | None:
    """The support that a law states; None if it states none."""
    try:
        support = law.support
    except NotImplementedError:
        return None
    return None if support is None or is_dependent(support) else support


def _components(law: Any) -> tuple[Any, ...]:
    """The laws that a mixture mixes, those of one family as a batch."""
    if isinstance(law, Mixture):
        return (law.components,)
    if isinstance(law, torch.distributions.MixtureSameFamily):
        return (law.component_distribution,)
    return (law.component0, law.component1) if isinstance(law, pyro_distributions.MaskedMixture) else ()


def _before_transforms(law: Any) -> tuple[Any, ...]:
    """The law that a transformed one moves. Subclasses such as ``LogNormal`` state their support themselves."""
    kinds = (torch.distributions.TransformedDistribution, pyro_distributions.TransformedDistribution)
    return (law.base_dist,) if type(law) in kinds else ()


def measure_of(law: Any) -> tuple[str | None, tuple[int, ...]]:
    """The measure of a law's density, None if it states no support; and the shape of a point."""
    manifold, event, support = _factor(manifold_of(law)), tuple(law.event_shape), stated_support(law)
    if isinstance(manifold, Quotient):
        cover = _MEASURES.get(type(manifold.base), f"the volume of {type(manifold.base).__name__}")
        return f"{cover}, of a quotient by {len(manifold.group)} isometries", event
    if manifold is not None:
        return _MEASURES.get(type(manifold), f"the volume of {type(manifold).__name__}"), event
    if support is None:
        return None, event
    if support.is_discrete:
        return "counts", event
    # A law on R^d without a manifold has a measure of its own; the others share that of their support.
    own = _bounds_of(base_support(support)) is not None
    return f"the measure of {type(base_law(law)).__name__ if own else support}", event


def _bounds(law: Any) -> tuple[Any, Any] | None:
    """The least and the greatest value of a number of an event; None where they are not known."""
    base = base_law(law)
    parts = [_bounds(part) for part in _components(base)]
    if len(parts) == 1 and parts[0] is not None:  # a batch of components, to the left of the event
        dim = -1 - len(law.event_shape)
        low, high = (torch.as_tensor(end) for end in parts[0])
        return (low.amin(dim) if low.dim() >= -dim else low), (high.amax(dim) if high.dim() >= -dim else high)
    if parts:
        return None
    for start in _before_transforms(base):
        bounds = _bounds(start)
        for transform in base.transforms:
            bounds = bounds and _image(transform, *bounds)
        return bounds
    support = stated_support(law)
    return None if support is None else _bounds_of(base_support(support))


def _bounds_of(support: Any) -> tuple[Any, Any] | None:
    """The least and the greatest value of a number within a support; None where they are not known."""
    if isinstance(support, _REAL):
        return -math.inf, math.inf
    if support is constraints.boolean:
        return 0, 1
    if type(support) in _PARTS:
        return _PARTS[type(support)]
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    if low is None and support.is_discrete:  # of a multinomial law
        low = 0
    return -math.inf if low is None else low, math.inf if high is None else high


def _image(transform: Transform, low: Any, high: Any) -> tuple[Any, Any] | None:
    """The interval onto which a transform takes [low, high]; None where this is not known.

    An end of the domain goes to an end of the codomain, also where the transform clips. Any other end goes where a
    monotone transform takes it.
    """
    domain, codomain = (_bounds_of(base_support(space)) for space in (transform.domain, transform.codomain))
    if domain is None or codomain is None:
        return None
    at_end = [torch.as_tensor(x == end) for x, end in zip((low, high), domain, strict=True)]
    try:
        if transform.domain.event_dim:
            raise NotImplementedError
        falls = bool((torch.as_tensor(transform.sign) < 0).any())
        if falls and not (torch.as_tensor(transform.sign) < 0).all():
            raise NotImplementedError
        move = transform.with_cache(0)  # a draw that the transform remembers stays
        moved = [move(torch.as_tensor(x)) for x in (low, high)]
    except NotImplementedError:
        return codomain if all(at.all() for at in at_end) else None
    ends = codomain[::-1] if falls else codomain
    least, most = (
        torch.where(at.to(x.device), torch.as_tensor(end).to(x), x)
        for at, end, x in zip(at_end, ends, moved, strict=True)
    )
    return (most, least) if falls else (least, most)


def _interval(low: Any, high: Any) -> Constraint:
    endless = [bool(torch.isinf(torch.as_tensor(end)).all()) for end in (low, high)]
    if all(endless):
        return constraints.real
    if any(endless):
        return constraints.less_than(high) if endless[0] else constraints.greater_than_eq(low)
    return constraints.interval(low, high)


def contains(outer: Distribution, inner: Distribution) -> bool | None:
    """Whether one law's support contains another's; None if their bounds do not say."""
    space, other = (type(base_support(stated_support(law))) for law in (outer, inner))
    if space in _PARTS:
        return space == other if _PARTS[space] else None
    bounds, others = _bounds(outer), _bounds(inner)
    if bounds is None or others is None:
        return None
    (least, most), (low, high) = bounds, others
    return bool(torch.as_tensor(low >= least).all()) and bool(torch.as_tensor(high <= most).all())
