r"""What is asked of the sample sites of a trace, and the rules that a model/guide pair keeps.

Every objective, sampler and prediction asks the same few questions of a site: is it a latent, which law has it beneath
its wrappers, on which manifold does it live, does it belong to a datum. They are answered here, once.

:func:`check_pair` has the rules under which the answers are numbers that mean what they say.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution

from ppvae.distributions.base import base_law, base_support, is_deterministic
from ppvae.manifolds import SO3, Angle, Box, Circle, Euclidean, Hyperboloid, Manifold, Power, Quotient, Sphere, Torus
from ppvae.manifolds.supports import bounds, manifold_of_support, power

__all__ = [
    "Needs",
    "base_law",
    "base_support",
    "check_pair",
    "data_first",
    "data_last",
    "in_data_plate",
    "is_deterministic",
    "latents",
    "log_prob",
    "manifold_of",
    "no_density",
    "number_of_data",
    "observations",
    "per_datum",
    "plate_nesting",
    "plates",
    "same_scale",
]

Site = Any  # a sample site: Pyro's Message, whose optional entries are all there once it is in a trace

#: What a computation needs of the guide at a latent: draws alone, as chains and divergences; a density under which the
#: KL is finite, as bounds; or one that covers the prior, as importance weights.
Needs = Literal["draws", "bound", "weights"]


# Which sites


def latents(trace: Trace) -> Iterator[Site]:
    """The unobserved sample sites."""
    return (site for site in _sample_sites(trace) if not site["is_observed"])


def observations(trace: Trace) -> Iterator[Site]:
    """The observed sample sites and factors; ``pyro.deterministic`` sites carry no density and are left out."""
    return (s for s in _sample_sites(trace) if s["is_observed"] and not s["infer"].get("_deterministic"))


def _sample_sites(trace: Trace) -> Iterator[Site]:
    return (s for s in trace.nodes.values() if s["type"] == "sample" and not site_is_subsample(s))


# Plates and scales


def plates(site: Site) -> list[Any]:
    """The plates of a site that have a dimension, without that of vectorised particles."""
    return [f for f in site["cond_indep_stack"] if f.vectorized and f.name != "num_particles_vectorized"]


def in_data_plate(site: Site) -> bool:
    """Whether the site belongs to one datum: it is in the plate at dim -1."""
    return any(frame.dim == -1 for frame in plates(site))


def plate_nesting(*traces: Trace) -> int:
    """How many dimensions on the left of an event belong to plates, at least 1: the ``max_plate_nesting`` of a pair."""
    return max([1, *(-frame.dim for trace in traces for site in _sample_sites(trace) for frame in plates(site))])


def number_of_data(site: Site) -> Tensor | float:
    """How many data the loss sums over: the size of the data plate (dim -1), times the scale of the site.

    Of a subsampled plate it is the number of all data; of a batch by itself the number of its rows.

    :raises ValueError: if the site is outside the data plate.
    """
    sizes = [frame.size for frame in plates(site) if frame.dim == -1]
    if not sizes:
        raise ValueError(
            f"site {site['name']!r}: expected it in the data plate (dim -1), found it outside; sample it within "
            "pyro.plate('data', x.shape[0])"
        )
    scale = site["scale"]
    return scale.expand(sizes[0]).sum() if isinstance(scale, Tensor) else scale * sizes[0]


def same_scale(a: Any, b: Any) -> bool:
    """Whether two plate scales are known to be equal; tensors are not compared by value, which waits for the device."""
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


def data_first(site: Site) -> Tensor:
    """The value with the data as its first dimension, plates within a datum behind them: (n, \\*inner, \\*event)."""
    value, event = site["value"], len(site["fn"].event_shape)
    return value.movedim(-1 - event, 0) if value.dim() > event + 1 and in_data_plate(site) else value


def data_last(value: Tensor, site: Site) -> Tensor:
    """The inverse of :func:`data_first`: the data as the last dimension before the event, where Pyro has them."""
    event = len(site["fn"].event_shape)
    return value.movedim(0, -1 - event) if value.dim() > event + 1 and in_data_plate(site) else value


# Densities


def log_prob(trace: Trace, site: Site) -> Tensor:
    """The site's log density at its value, scaled and masked; computed once for a trace."""
    trace.compute_log_prob(lambda name, _: name == site["name"])
    return site["log_prob"]


def per_datum(trace: Trace, site: Site, max_plate_nesting: int = 1) -> Tensor:
    """The site's log density for each datum, without the scale of its plates.

    Plates within a datum, at the dimensions from -2 to ``-max_plate_nesting``, are summed over and kept with size 1;
    particles, to the left of them, stay.
    """
    log_prob(trace, site)
    value = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    inner = [frame.dim for frame in plates(site) if -max_plate_nesting <= frame.dim < -1]
    return value.sum(inner, keepdim=True) if inner else value


# The space of a law

#: What a density on each manifold is taken with respect to, in words; equal words are equal measures.
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
    """The manifold that a law lives on, the only place where kinds of space are told apart.

    An attribute ``manifold`` of the law wins. Else its type decides (Pyro's ``VonMises`` says that its support is R),
    then its support. The laws of Pyro and torch are known too.

    :return: the manifold; None for a law of counts or classes, and where no manifold of ppvae has the support.

    >>> import pyro.distributions as dist
    >>> type(manifold_of(dist.ProjectedNormal(torch.ones(3)))).__name__
    'Sphere'
    """
    base = base_law(law)
    for candidate in (law, base):
        if getattr(candidate, "manifold", None) is not None:
            return power(candidate.manifold, law.event_shape)
    if isinstance(base, torch.distributions.VonMises):
        return power(Angle(), law.event_shape)
    return manifold_of_support(law.support, law.event_shape)


def _measure(law: Any) -> tuple[str, tuple[int, ...]]:
    """What the density of a law is taken with respect to, and the shape of a point."""
    manifold, event = manifold_of(law), tuple(law.event_shape)
    while isinstance(manifold, Power):
        manifold = manifold.base
    if isinstance(manifold, Quotient):
        cover = _MEASURES.get(type(manifold.base), type(manifold.base).__name__)
        return f"{cover}, of a quotient by {len(manifold.group)} isometries", event
    if manifold is not None:
        return _MEASURES.get(type(manifold), f"the volume of {type(manifold).__name__}"), event
    if law.support is not None and law.support.is_discrete:
        return "counts", event
    return f"the volume of {law.support}", event


# The rules


def check_pair(model_trace: Trace, guide_trace: Trace, needs: Needs | Callable[[str], Needs] = "bound") -> None:
    """Raise a ValueError where numbers that are computed from the pair would not mean what they say.

    1. The sites match. The model observes "x" in the data plate (dim -1). The guide samples every latent of the model
       and observes none of them. A latent of the guide alone is marked as auxiliary.
    2. At each latent the guide and the prior have densities with respect to one measure, of points of one shape. Of a
       density on a sphere and one on R^m the ratio means nothing.
    3. The guide stays where the prior has mass, or the KL is infinite. For importance weights it covers all of it too:
       what a guide never draws is missing in its estimate of the evidence.
    4. A deterministic guide (Delta) of a continuous latent has no density, hence no KL and no importance weight. Of
       classes it has one.
    5. For importance weights every latent is in the data plate: a weight belongs to one datum.
    6. What is said of one datum leaves the scale of the plates out: means are divided by :func:`number_of_data`,
       weights and potentials are made of :func:`per_datum`. Importance weights ask for one scale of all sites.

    :param needs: what is computed, for all latents or as a function of the name of one: "draws" asks for rule 1 and the
        spaces of rule 2, "bound" for rules 1 to 4, "weights" for all.
    """
    x = model_trace.nodes.get("x")
    if x is None or x["type"] != "sample" or not x["is_observed"]:
        raise ValueError("the model has no observed site 'x'; expected pyro.sample('x', law, obs=x) in it")
    number_of_data(x)
    priors = {site["name"]: site for site in latents(model_trace)}
    guides = {site["name"]: site for site in latents(guide_trace)}
    missing = sorted(priors.keys() - guides.keys())
    if missing:
        raise ValueError(
            f"site {missing[0]!r}: a latent of the model that the guide does not sample; the guide samples "
            f"{', '.join(guides) or 'none'}. Sample it under the same name in the guide"
        )
    for name, q in guides.items():
        p = priors.get(name)
        if p is None:
            if name in model_trace:
                raise ValueError(f"site {name!r}: the guide samples what the model observes; leave it out of the guide")
            if not q["infer"].get("is_auxiliary"):
                raise ValueError(
                    f"site {name!r}: the guide samples it, and the model does not; give both one name, or mark an "
                    "auxiliary variable of the guide by infer={'is_auxiliary': True}"
                )
            continue
        _check_site(p, q, needs if isinstance(needs, str) else needs(name))


def no_density(name: str) -> str:
    """The words of rule 4."""
    return (
        f"site {name!r}: a deterministic encoder (Delta) has no density, and so neither a KL nor an importance weight; "
        "train it with InfoVAE_ELBO(alpha=1), or choose a posterior head that has a density"
    )


def _check_site(p: Site, q: Site, needs: Needs) -> None:
    name, prior, law = q["name"], p["fn"], q["fn"]
    words = (
        f"site {name!r}: the guide's {type(base_law(law)).__name__} and the prior's {type(base_law(prior)).__name__}"
    )
    if is_deterministic(law):
        continuous = prior.support is None or not prior.support.is_discrete
        if needs != "draws" and continuous:
            raise ValueError(no_density(name))
        if tuple(law.event_shape) != tuple(prior.event_shape):
            raise ValueError(f"{words} have points of shape {tuple(law.event_shape)} and {tuple(prior.event_shape)}")
    else:
        (measure, event), (prior_measure, prior_event) = _measure(law), _measure(prior)
        if event != prior_event:
            raise ValueError(f"{words} have points of shape {event} and {prior_event}; expected one shape")
        if measure != prior_measure:
            raise ValueError(
                f"{words} are densities with respect to different measures, {measure} and {prior_measure}, and their "
                "ratio means nothing; choose a posterior head with values on the space of the prior"
            )
        if needs != "draws":
            _check_support(words, prior, law, needs)
    if needs == "weights" and not in_data_plate(q):
        raise ValueError(
            f"site {name!r}: expected every site in the data plate (dim -1), since an importance weight belongs to one "
            "datum; move the site into the plate, or train with ELBO"
        )


def _check_support(words: str, prior: Distribution, law: Distribution, needs: Needs) -> None:
    ours, theirs = bounds(base_support(law.support)), bounds(base_support(prior.support))
    if ours is None or theirs is None:
        return
    (low, high), (least, most) = ours, theirs
    if bool(torch.as_tensor(low < least).any()) or bool(torch.as_tensor(high > most).any()):
        raise ValueError(
            f"{words}: expected the guide within the support of the prior, {prior.support}, got {law.support}, where "
            "the KL is infinite; choose a head whose values stay within"
        )
    if needs == "weights" and (bool(torch.as_tensor(low > least).any()) or bool(torch.as_tensor(high < most).any())):
        raise ValueError(
            f"{words}: expected the guide to cover the support of the prior, {prior.support}, got {law.support}: "
            "importance weights never see the rest of it. The ELBO of this pair is a bound, its log-likelihood by "
            "importance sampling is not one of the model"
        )
