r"""The evidence lower bound, and the base of all objectives: one differentiable loss computed from the traces.

    ELBO = E_q(z|x) [log p(x | z)] - KL(q(z | x) || p(z))

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

from ppvae.infer.sites import Needs, Site, check_pair, latents, log_prob, number_of_data, observations, same_scale


class TensorELBO(PyroELBO):
    """Base of the objectives.

    A subclass defines :meth:`terms`. Like every Pyro objective the loss is a sum over the data in nats, scaled by the
    plates; :func:`ppvae.fit` divides it by the number of data.

    :param num_particles: samples of the guide for each datum, drawn in one vectorised call.
    :param max_plate_nesting: how many dimensions on the left of an event belong to plates. It is not guessed: a guess
        runs the model once, which moves the random generator.

    ``kl_weight`` is a tensor with the weight of the latent terms, 1 unless something (KL warm-up) fills it otherwise.
    """

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
                trace.compute_log_prob()
                for site in (*latents(trace), *observations(trace)):
                    check_site_shape(site, self.max_plate_nesting)
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


class ELBO(TensorELBO):
    r"""Evidence lower bound, its KL in closed form at every site where one is registered.

    .. math::
        L = \sum_i \frac1K \sum_k \log p(x_i \mid z_{ik}) - \beta \, KL(q(z \mid x_i) \| p(z)),
        \qquad \beta = \texttt{kl\_weight}

    The closed form is used at a site if model and guide visit the latents in the same order (else the prior of one
    latent may depend on another that the guide draws from it) under the same scale and mask. Elsewhere the term is
    :math:`\log q(z) - \log p(z)` at the sample, as in Pyro's ``Trace_ELBO``; both are unbiased.

    Source: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114
    """

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        reconstruction = self.mean(reconstruction_terms(model_trace))
        kl = self.mean(kl_terms(model_trace, guide_trace))
        return {"loss": self.kl_weight * kl - reconstruction, "reconstruction": reconstruction, "kl": kl}


def reconstruction_terms(model_trace: Trace) -> dict[str, Tensor]:
    """log p(x | z) for each observed site; shapes of the plates, particles on the left."""
    return {site["name"]: log_prob(model_trace, site) for site in observations(model_trace)}


def kl_terms(model_trace: Trace, guide_trace: Trace, skip: Collection[str] = ()) -> dict[str, Tensor]:
    """An unbiased estimate of KL(q || p) for each latent, in the shape of the plates; exact where a closed form is
    registered.

    :param skip: sites of which no density is evaluated.
    """
    names = [site["name"] for site in latents(guide_trace)]
    same_order = [name for name in names if name in model_trace] == [site["name"] for site in latents(model_trace)]
    terms = {}
    for name in names:
        if name in skip:
            continue
        q: Site = guide_trace.nodes[name]
        if name not in model_trace:  # an auxiliary variable of the guide
            terms[name] = log_prob(guide_trace, q)
            continue
        p: Site = model_trace.nodes[name]
        try:
            if not (same_order and same_scale(p["scale"], q["scale"]) and p["mask"] is q["mask"]):
                raise NotImplementedError
            terms[name] = scale_and_mask(kl_divergence(q["fn"], p["fn"]), q["scale"], q["mask"])
        except NotImplementedError:  # what torch raises where no closed form is registered
            terms[name] = log_prob(guide_trace, q) - log_prob(model_trace, p)
    for factor in observations(guide_trace):
        if factor["name"] not in skip:
            terms[factor["name"]] = log_prob(guide_trace, factor)
    return terms


def sum_terms(terms: dict[str, Tensor]) -> Tensor:
    """The sum of all entries of all terms."""
    sums = [term.sum() for term in terms.values()]
    return torch.stack(sums).sum() if len(sums) > 1 else next(iter(sums), torch.zeros(()))
