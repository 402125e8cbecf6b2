r"""The sample sites of a trace, and the rules that a model/guide pair keeps.

Objectives, samplers and predictions ask the same questions of a site. Is it a latent? Does it belong to a datum? Which
law does it have beneath its wrappers, and on which manifold? This file answers each of them once.

:func:`check_pair` holds the rules. A pair that breaks one still gives numbers, but not those that their names promise.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.distributions.base import base_law, base_support, is_deterministic
from ppvae.infer.spaces import contains, manifold_of, measure_of, stated_support

__all__ = [
    "Needs",
    "base_law",
    "base_support",
    "check_densities",
    "check_pair",
    "data_first",
    "data_last",
    "in_data_plate",
    "is_deterministic",
    "latents",
    "log_prob",
    "manifold_of",
    "mask_of",
    "number_of_data",
    "observations",
    "outside_the_data_plate",
    "per_datum",
    "plate_nesting",
    "plates",
    "same_scale",
    "scales_differ",
    "several_scales",
]

Site = Any  # a sample site: Pyro's Message, whose optional entries are all there once it is in a trace

#: What a computation needs of the guide at a latent. Chains and divergences need draws alone. Bounds need a density
#: whose KL is finite. Importance weights need a density that is positive wherever the prior is.
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


def mask_of(site: Site) -> Any:
    """Which data of a site count: True for all, else a tensor; of ``poutine.mask`` and of a law's own ``mask``."""
    mask, law = True if site["mask"] is None else site["mask"], site["fn"]
    return mask & law._mask if isinstance(law, MaskedDistribution) else mask


def scales_differ(a: Any, b: Any) -> bool:
    """Whether two plate scales are known to differ; of tensors only :func:`check_pair` knows."""
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a != b


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


# The rules


def check_pair(model_trace: Trace, guide_trace: Trace, needs: Needs | Callable[[str], Needs] = "bound") -> None:
    """Raise a ValueError if numbers that are computed from the pair would not mean what their names say.

    1. The sites match. The model observes "x" in the data plate (dim -1). The guide samples every latent of the model
       and observes none of them. A latent of the guide alone is marked as auxiliary.
    2. At each latent, guide and prior have densities with respect to one measure, of points of one shape. The ratio of
       a density on a sphere and one on R^m means nothing.
    3. The guide stays where the prior has mass, or the KL is infinite. For importance weights it also covers all of it,
       as a point mass on classes does not: draws of the guide say nothing of what they never reach.
    4. A point mass (Delta) on a continuous space has no density, hence no KL and no importance weight; on classes it
       has one. If the guide samples an auxiliary variable, a Delta latent may be a function of it, with the volume of
       that function as its ``log_density``, as in Pyro's autoguides.
    5. For importance weights every latent is in the data plate: a weight belongs to one datum.
    6. Guide and prior of a latent have one scale and one mask, or the difference of their log densities is no KL. For
       importance weights the observed sites have that scale too.
    7. Every dimension to the left of a point belongs to a plate. Pyro lets a dimension between two plates pass, such as
       one of particles that a decoder has moved there, and sums over it.

    What is said of one datum leaves the scale of the plates out: means are divided by :func:`number_of_data`, weights
    and potentials are made of :func:`per_datum`.

    :param needs: what is computed, for all latents or as a function of the name of one. "draws" asks for rules 1, 2 and
        7, "bound" for rules 3, 4 and the first half of 6 too, "weights" for all.

    >>> from pyro import distributions as dist, plate, poutine, sample
    >>> def model():
    ...     with plate("data", 2):
    ...         z = sample("z", dist.Normal(0.0, 1.0))
    ...         sample("x", dist.Normal(z, 1.0), obs=torch.zeros(2))
    >>> def guide():
    ...     with plate("data", 2):
    ...         sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    >>> check_pair(poutine.trace(model).get_trace(), poutine.trace(guide).get_trace())
    Traceback (most recent call last):
    ValueError: site 'z': the guide's Normal has points of shape (3,), and the prior's Normal of (); expected one shape
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
    for name in sorted(guides.keys() - priors.keys()):
        if name in model_trace:
            raise ValueError(f"site {name!r}: the guide samples what the model observes; leave it out of the guide")
        if not guides[name]["infer"].get("is_auxiliary"):
            raise ValueError(
                f"site {name!r}: the guide samples it, and the model does not; give both one name, or mark an "
                "auxiliary variable of the guide by infer={'is_auxiliary': True}"
            )
    for trace in (model_trace, guide_trace):
        for site in (*latents(trace), *observations(trace)):
            _check_dimensions(site)
    check_densities(model_trace, guide_trace, needs)
    asked = {name: needs if isinstance(needs, str) else needs(name) for name in guides}
    for name, p in priors.items():
        _check_space(p, guides[name], asked[name])
        if asked[name] != "draws":
            _check_scale(p, guides[name])
    if "weights" in asked.values():
        for site in (*guides.values(), *observations(model_trace), *observations(guide_trace)):
            if not in_data_plate(site):
                raise ValueError(outside_the_data_plate(site["name"]))
            if not _equal(site["scale"], x["scale"]):
                raise ValueError(several_scales(site, x["scale"]))


def check_densities(model_trace: Trace, guide_trace: Trace, needs: Needs | Callable[[str], Needs] = "bound") -> None:
    """Rule 4 of :func:`check_pair`, which reads types alone and costs microseconds.

    :raises ValueError: if a point mass on a continuous space needs a density.
    """
    guides = list(latents(guide_trace))
    pushed = any(site["name"] not in model_trace and not is_deterministic(site["fn"]) for site in guides)
    for q in guides:
        p = model_trace.nodes.get(q["name"])
        if p is None or (needs if isinstance(needs, str) else needs(q["name"])) == "draws":
            continue
        if (is_deterministic(q["fn"]) and not pushed) or is_deterministic(p["fn"]):
            support = stated_support(p["fn"])
            if support is None or not support.is_discrete:
                raise ValueError(_no_density(q["name"]) if is_deterministic(q["fn"]) else _no_prior(q["name"]))


def _no_density(name: str) -> str:
    """The words of rule 4."""
    return (
        f"site {name!r}: a deterministic encoder (Delta) has no density, and so neither a KL nor an importance weight; "
        "train it with InfoVAE_ELBO(alpha=1), or choose a posterior head that has a density"
    )


def _no_prior(name: str) -> str:
    return (
        f"site {name!r}: the prior is a point mass (Delta) and has no density, and so neither a KL nor an importance "
        "weight; compute the value in the model by pyro.deterministic, and leave it out of the guide"
    )


def outside_the_data_plate(name: str) -> str:
    """The words of rule 5."""
    return (
        f"site {name!r}: expected every site in the data plate (dim -1), since an importance weight belongs to one "
        "datum; move the site into the plate, or train with ELBO"
    )


def several_scales(site: Site, scale: Any) -> str:
    """The words of rule 6 for importance weights."""
    return (
        f"site {site['name']!r}: expected one scale for all sites, got {site['scale']} and {scale}; weight the latent "
        "terms with kl_weight, not with poutine.scale"
    )


def _check_space(p: Site, q: Site, needs: Needs) -> None:
    """Rules 2 and 3."""
    prior, law = p["fn"], q["fn"]
    ours, theirs = (f"the {whose} {type(base_law(f)).__name__}" for whose, f in (("guide's", law), ("prior's", prior)))
    (measure, event), (prior_measure, prior_event) = measure_of(law), measure_of(prior)
    if event != prior_event:
        raise ValueError(
            f"site {q['name']!r}: {ours} has points of shape {event}, and {theirs} of {prior_event}; expected one shape"
        )
    point = is_deterministic(law) or is_deterministic(prior)
    if not point and measure != prior_measure and None not in (measure, prior_measure):
        raise ValueError(
            f"site {q['name']!r}: {ours} and {theirs} are densities with respect to different measures, {measure} and "
            f"{prior_measure}, and their ratio means nothing; choose a posterior head with values on the space of the "
            "prior"
        )
    if needs == "draws":
        return
    if not point and contains(prior, law) is False:
        raise ValueError(
            f"site {q['name']!r}: {ours} on {_support_of(law)} leaves the support of {theirs}, {_support_of(prior)}, "
            "so the KL is infinite; choose a head whose values stay within it"
        )
    if needs == "weights" and (prior_measure == "counts" if point else contains(law, prior) is False):
        raise ValueError(
            f"site {q['name']!r}: {ours} on {_support_of(law)} does not cover the support of {theirs}, "
            f"{_support_of(prior)}. Importance weights never see the rest of it: the ELBO of this pair is a bound, but "
            "its log-likelihood by importance sampling is not the model's. Choose a head with values on all of it"
        )


def _support_of(law: Any) -> Any:
    manifold = manifold_of(law)
    return law.support if manifold is None else manifold.support


def _check_scale(p: Site, q: Site) -> None:
    """Rule 6."""
    if not _equal(p["scale"], q["scale"]):
        raise ValueError(
            f"site {q['name']!r}: expected one scale in model and guide, got {p['scale']} and {q['scale']}: the "
            "difference of the log densities is no KL. Put both under the same plate or poutine.scale"
        )
    if not _equal(mask_of(p), mask_of(q)):
        raise ValueError(
            f"site {q['name']!r}: expected one mask in model and guide, got {mask_of(p)} and {mask_of(q)}: the "
            "difference of the log densities is no KL. Mask both, or neither"
        )


def _check_dimensions(site: Site) -> None:
    """Rule 7."""
    dims, shape = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}, site["fn"].batch_shape
    for dim in range(-1, min(dims, default=0), -1):
        if dim not in dims and len(shape) >= -dim and shape[dim] > 1:
            raise ValueError(
                f"site {site['name']!r}: expected every dimension of its law in a plate, got the batch shape "
                f"{tuple(shape)} with plates at {sorted(dims, reverse=True)} alone; give dimension {dim} size 1, or "
                "make it part of a point by .to_event"
            )


def _equal(a: Any, b: Any) -> bool:
    """Whether two scales or masks have equal values, which waits for the device."""
    return a is b or bool(torch.as_tensor(a == b).all())
