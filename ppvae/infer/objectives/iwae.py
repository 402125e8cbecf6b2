r"""Importance weights of a model/guide pair, and the importance weighted bound.

    w_ik = p(x_i, z_ik) / q(z_ik | x_i),   z_i1, ..., z_iK ~ q(. | x_i)
    L_K  = sum_i E log (1/K) sum_k w_ik,   L_1 = ELBO <= L_K <= log p(x)

References:
    [1] Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
"""

import math
from collections.abc import Iterable

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO
from ppvae.infer.sites import (
    Needs,
    Site,
    in_data_plate,
    latents,
    observations,
    outside_the_data_plate,
    per_datum,
    scales_differ,
    several_scales,
)


class IWAE_ELBO(TensorELBO):
    r"""Importance weighted bound with K = ``num_particles`` samples a datum.

    .. math::
        L = \sum_i \log \frac1K \sum_k p(x_i \mid z_{ik}) \, \Bigl(\frac{p(z_{ik})}{q(z_{ik} \mid x_i)}\Bigr)^{\beta},
        \qquad \beta = \texttt{kl\_weight}

    The sum over k is within the log, so it needs the weight of each datum by itself: every site must be in the data
    plate (the one at dim -1). Other plates are summed first; the scale of the data plate stays outside the log.

    :raises ValueError: if a site is outside the data plate, sites have different scales, or the guide is deterministic.

    Source: Burda, Grosse and Salakhutdinov (2016), https://arxiv.org/abs/1509.00519
    """

    def needs(self, name: str) -> Needs:
        return "weights"

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        w = LogWeights(model_trace, guide_trace, self.max_plate_nesting, self.num_particles)
        bound = torch.logsumexp(w.log_w(self.kl_weight), 0) - math.log(self.num_particles)
        return {"loss": -(w.scale * bound).sum(), **w.shown()}


class LogWeights:
    r"""The parts of the log importance weights of two traces, unscaled, each of shape (particles, batch).

    :raises ValueError: if a site is outside the data plate, sites have different scales, or the guide is deterministic.
    """

    log_likelihood: Tensor  #: log p(x | z)
    log_prior: Tensor  #: log p(z)
    log_q: Tensor  #: log q(z | x)
    scale: Tensor | float  #: of the data plate

    def __init__(self, model_trace: Trace, guide_trace: Trace, max_plate_nesting: int, num_particles: int):
        *parts, self.scale = _parts(model_trace, guide_trace, max_plate_nesting)
        shape = torch.broadcast_shapes(*(part.shape for part in parts))
        self.log_likelihood, self.log_prior, self.log_q = (p.expand(shape).reshape(num_particles, -1) for p in parts)

    def log_p(self, kl_weight: Tensor | float = 1.0) -> Tensor:
        """log p(x | z) + kl_weight log p(z)."""
        return self.log_likelihood + kl_weight * self.log_prior

    def log_w(self, kl_weight: Tensor | float = 1.0) -> Tensor:
        """log p(x | z) + kl_weight (log p(z) - log q(z | x))."""
        return self.log_likelihood + kl_weight * (self.log_prior - self.log_q)

    def shown(self) -> dict[str, Tensor]:
        """Reconstruction and KL for the history, summed over the data and averaged over the particles."""
        K = self.log_q.shape[0]
        return {
            "reconstruction": (self.scale * self.log_likelihood).sum() / K,
            "kl": (self.scale * (self.log_q - self.log_prior)).sum() / K,
        }


def _parts(
    model_trace: Trace, guide_trace: Trace, max_plate_nesting: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    scales: list[Tensor | float] = []

    def total(trace: Trace, sites: Iterable[Site]) -> Tensor:
        densities = [torch.zeros(())]
        for site in sites:
            if not in_data_plate(site):
                raise ValueError(outside_the_data_plate(site["name"]))
            scales.append(site["scale"])
            if scales_differ(site["scale"], scales[0]):
                raise ValueError(several_scales(site, scales[0]))
            densities.append(per_datum(trace, site, max_plate_nesting))
        return sum(densities[1:], densities[0])

    log_likelihood = total(model_trace, observations(model_trace))
    log_q = total(guide_trace, [*latents(guide_trace), *observations(guide_trace)])
    log_p = total(model_trace, latents(model_trace))
    return log_likelihood, log_p, log_q, scales[0]
