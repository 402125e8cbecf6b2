r"""The evidence lower bound with discrete latents summed out exactly.

    ELBO = E_q(c, z | x) [log p(x, c, z) - log q(c, z | x)]
         = sum_c q(c | x) E_q(z | x, c) [log p(x, c, z) - log q(c, z | x)]

A site that says ``infer={"enumerate": "parallel"}`` gets all its values at once, along a new dimension on the left, in
guide and model. What depends on c has this dimension, and is weighted with q(c | x) and summed over it. There is no
sample of c, and no gradient that would have to pass through one. This is what Pyro's ``TraceEnum_ELBO`` computes, here
with the KL in closed form where there is one, and without a value read back from the device.

Reference: Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014), https://arxiv.org/abs/1406.5298
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from ppvae.infer.objectives.base import kl_terms, reconstruction_terms
from ppvae.infer.objectives.elbo import ELBO
from ppvae.infer.sites import latents


class EnumeratedELBO(ELBO):
    r"""Evidence lower bound, the sum over enumerated latents c and the KL in closed form taken exactly.

    .. math::
        L = \sum_i \sum_c q(c \mid x_i) \, E \log p(x_i \mid z_{ic}, c) - \beta \, KL(q(c, z \mid x_i) \| p(c, z)),
        \qquad \beta = \texttt{kl\_weight}

    Latents without ``infer={"enumerate": "parallel"}`` are sampled, as in :class:`ELBO`; without any enumerated this
    is the ELBO. A latent enumerated in the model must be enumerated in the guide.

    Source: Kingma et al. (2014), https://arxiv.org/abs/1406.5298
    """

    def _get_trace(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return super()._get_trace(model, EnumMessenger(-1 - self.max_plate_nesting)(guide), args, kwargs)

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        log_q = {
            site["infer"]["_enumerate_dim"]: site["fn"].log_prob(site["value"])
            for site in latents(guide_trace)
            if site["infer"].get("_enumerate_dim") is not None
        }
        reconstruction = self.mean(_expected(reconstruction_terms(model_trace), log_q))
        kl = self.mean(_expected(kl_terms(model_trace, guide_trace), log_q))
        return {"loss": self.kl_weight * kl - reconstruction, "reconstruction": reconstruction, "kl": kl}


def _expected(terms: dict[str, Tensor], log_q: dict[int, Tensor]) -> dict[str, Tensor]:
    """Each term times the probability of the enumerated values that it depends on.

    :param log_q: for each enumerated dimension the log probability of its values, given those of further such
        dimensions.
    """

    def dims(tensor: Tensor) -> set[int]:
        return {dim for dim in log_q if tensor.dim() >= -dim and tensor.shape[dim] > 1}

    weighted = {}
    for name, term in terms.items():
        needed, asked = set(), dims(term)
        while asked:
            needed |= asked
            asked = set().union(*(dims(log_q[dim]) for dim in asked)) - needed
        weighted[name] = sum((log_q[dim] for dim in needed), torch.zeros_like(term)).exp() * term if needed else term
    return weighted
