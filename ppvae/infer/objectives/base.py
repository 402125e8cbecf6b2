r"""The base of all objectives: one differentiable loss computed from the traces.

A :class:`TensorELBO` is a Pyro ELBO: it goes into ``SVI(model, guide, optimizer, loss=...)``, and ``objective(model,
guide)`` is a module that returns the loss. ``loss``, ``loss_and_grads`` and ``differentiable_loss`` all come from one
method of the subclass, :meth:`TensorELBO.terms`, which sees the traces and nothing else. Nothing is read back from
the device.

References:
    [1] Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114
    [2] Automated Variational Inference in Probabilistic Programming (Wingate and Weber, 2013), https://arxiv.org/abs/1301.1299
"""

from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO as PyroELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions.kl import kl_divergence

from ppvae.infer.sites import (
    Needs,
    Site,
    check_densities,
    check_pair,
    is_deterministic,
    latents,
    log_prob,
    number_of_data,
    observations,
    same_scale,
)


class TensorELBO(PyroELBO):
    """Base of the objectives.

    A subclass defines :meth:`terms`. Like every Pyro objective the loss is a sum over the data in nats, scaled by the
    plates; :func:`ppvae.fit` divides it by the number of data.

    :param num_particles: samples of the guide for each datum, drawn in one vectorised call.
    :param max_plate_nesting: how many dimensions on the left of an event belong to plates. It is not guessed: a guess
        runs the model once, which moves the random generator.

    ``kl_weight`` is a tensor with the weight of the latent terms, 1 unless something (KL warm-up) fills it otherwise.
    """

    min_batch: int = 1  #: the fewest data of a batch
    max_batch: int | None = None  #: the most data of a batch; None for any number

    def __init__(self, num_particles: int = 1, max_plate_nesting: int = 1):
        if num_particles < 1:
            raise ValueError(f"num_particles: expected at least 1, got {num_particles}")
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=True)
        self.kl_weight = torch.ones(())

    @abstractmethod
    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        """The scalar ``"loss"``, and beside it what a history should show, e.g. ``"reconstruction"`` and ``"kl"``.

        Each is summed over the data and averaged over the particles, in nats.
        """

    def traces(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
        """Run the guide, and the model against it, with all particles at once: (model trace, guide trace)."""
        return self._get_vectorized_trace(model, guide, args, kwargs)

    def _get_trace(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_pair(model_trace, guide_trace, self.needs)
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
            for trace in (model_trace, guide_trace):
                for site in (*latents(trace), *observations(trace)):
                    if site["is_observed"] or self.needs(site["name"]) != "draws":
                        log_prob(trace, site)
                        check_site_shape(site, self.max_plate_nesting)
        else:
            check_densities(model_trace, guide_trace, self.needs)
        if torch.is_grad_enabled():
            for site in latents(guide_trace):
                if not site["fn"].has_rsample and site["infer"].get("_enumerate_dim") is None:
                    raise ValueError(
                        f"site {site['name']!r}: {type(site['fn']).__name__} has no pathwise gradient, which "
                        f"{type(self).__name__} needs; use a law with rsample, EnumeratedELBO, or Pyro's Trace_ELBO"
                    )
        return model_trace, guide_trace

    def needs(self, name: str) -> Needs:
        """What the objective needs of the guide at a latent, see :func:`ppvae.infer.sites.check_pair`."""
        return "bound"

    def check_batch_size(self, size: int) -> None:
        """Raise a ValueError if the objective cannot take a batch of this many data; ``fit`` asks before it trains."""

    def measure(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> tuple[dict[str, Tensor], Tensor | float]:
        """:meth:`terms` for one batch, and how many data they are sums over, plate scales included."""
        model_trace, guide_trace = self.traces(model, guide, *args, **kwargs)
        return self.terms(model_trace, guide_trace), number_of_data(model_trace.nodes["x"])

    def all_terms(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """:meth:`terms` for one batch of data."""
        return self.terms(*self.traces(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, to be differentiated by the caller."""
        return self.all_terms(model, guide, *args, **kwargs)["loss"]

    def mean(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of all entries of all terms, averaged over the particles."""
        return sum_terms(terms) / self.num_particles if self.num_particles > 1 else sum_terms(terms)

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, its gradients added to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.detach()


def reconstruction_terms(model_trace: Trace) -> dict[str, Tensor]:
    """log p(x | z) for each observed site; shapes of the plates, particles on the left."""
    return {site["name"]: log_prob(model_trace, site) for site in observations(model_trace)}


def kl_terms(
    model_trace: Trace, guide_trace: Trace, skip: Collection[str] = (), closed: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """An unbiased estimate of KL(q || p) for each latent, in the shape of the plates; exact if it has a closed form.

    :param skip: sites of which no density is evaluated.
    :param closed: what :func:`closed_forms` returns, if the caller has it.
    """
    closed = closed_forms(model_trace, guide_trace, skip) if closed is None else closed
    terms = {}
    for q in latents(guide_trace):
        name = q["name"]
        if name in skip:
            continue
        if name in closed:
            terms[name] = closed[name]
        elif name in model_trace:
            terms[name] = log_prob(guide_trace, q) - log_prob(model_trace, model_trace.nodes[name])
        else:  # an auxiliary variable of the guide
            terms[name] = log_prob(guide_trace, q)
    for factor in observations(guide_trace):
        if factor["name"] not in skip:
            terms[factor["name"]] = log_prob(guide_trace, factor)
    return terms


def closed_forms(model_trace: Trace, guide_trace: Trace, skip: Collection[str] = ()) -> dict[str, Tensor]:
    """KL(q || p) of each latent that has a registered closed form, in the shape of the plates."""
    if not same_order(model_trace, guide_trace):
        return {}
    terms = {}
    for q in latents(guide_trace):
        name = q["name"]
        if name in skip or name not in model_trace or is_deterministic(q["fn"]):  # Pyro's for Delta drops log_density
            continue
        p: Site = model_trace.nodes[name]
        if same_scale(p["scale"], q["scale"]) and p["mask"] is q["mask"]:
            try:
                terms[name] = scale_and_mask(kl_divergence(q["fn"], p["fn"]), q["scale"], q["mask"])
            except NotImplementedError:  # torch's for no closed form
                continue
    return terms


def same_order(model_trace: Trace, guide_trace: Trace) -> bool:
    """Whether model and guide sample the latents in one order: no prior depends on a later draw of the guide."""
    in_guide = [site["name"] for site in latents(guide_trace) if site["name"] in model_trace]
    return in_guide == [site["name"] for site in latents(model_trace)]


def kl_from_new_draws(model_trace: Trace, guide_trace: Trace, closed: dict[str, Tensor]) -> dict[str, Tensor]:
    """A second estimate of :func:`kl_terms`, without gradients, from new draws at the sites without a closed form.

    Given the latents before it, a site's new draw is independent of the one in the trace. A decision that is taken by
    the second estimate therefore does not bias the first.

    :raises ValueError: if the guide samples the latents in another order than the model: the laws in the trace then say
        nothing of a new draw.
    """
    terms = {}
    for q in latents(guide_trace):
        name = q["name"]
        if name in closed:
            terms[name] = closed[name].detach()
            continue
        if not same_order(model_trace, guide_trace):
            raise ValueError(
                f"site {name!r}: expected model and guide to sample the latents in one order, since the KL of each is "
                "judged by itself; change the order in the guide, or train with ELBO"
            )
        with torch.no_grad():
            z = q["fn"].sample()
            term = scale_and_mask(q["fn"].log_prob(z), q["scale"], q["mask"])
            if name in model_trace:
                p: Site = model_trace.nodes[name]
                term = term - scale_and_mask(p["fn"].log_prob(z), p["scale"], p["mask"])
        terms[name] = term
    for factor in observations(guide_trace):
        terms[factor["name"]] = log_prob(guide_trace, factor).detach()
    return terms


def sum_terms(terms: dict[str, Tensor]) -> Tensor:
    """The sum of all entries of all terms."""
    sums = [term.sum() for term in terms.values()]
    return torch.stack(sums).sum() if len(sums) > 1 else next(iter(sums), torch.zeros(()))
