r"""Free nats: the first nats of the KL cost nothing at each latent, so that none of them collapses [1].

    L = sum_i E log p(x_i | z_i) - N sum_j max(lambda, KL_j),    KL_j = (1/N) sum_i KL(q(z_j | x_i) || p(z_j))

Without a closed form KL_j is estimated from the draws. The maximum of lambda and a noisy estimate is too large in the
mean, and most of all for KL_j = lambda. Here a second estimate, from new draws, decides which of the two counts:

    max(lambda, KL_j)  ~  lambda + [KL_j'' > lambda] (KL_j' - lambda)

Its mean is KL_j or lambda in the right proportion, hence at most max(lambda, KL_j), and below it by
|KL_j - lambda| times the probability of the wrong decision.

Reference: [1] Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), equation 15
    https://arxiv.org/abs/1606.04934
"""

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import (
    TensorELBO,
    closed_forms,
    kl_from_new_draws,
    kl_terms,
    reconstruction_terms,
    sum_terms,
)
from ppvae.infer.sites import number_of_data


class FreeBits_ELBO(TensorELBO):
    r"""The first nats of the KL are free at each latent.

    .. math::
        L = \sum_i E \log p(x_i \mid z_i) - w \, N \sum_j \max \Bigl( \lambda, \frac1N \sum_i KL_j(x_i) \Bigr),
        \qquad w = \texttt{kl\_weight}

    with j over the latent sites and the mean over the batch, as in the source. Below lambda a site's KL has no
    gradient. Without a closed form the KL is sampled, and new draws decide whether it is below lambda: the penalty is
    then at most the formula's in the mean. A KL in closed form that depends on an earlier latent is taken at the draw
    of that latent.

    :param lambda_: free nats per datum and site, at least 0; 0 is the ELBO, draw by draw.
    :param num_particles: samples of the guide for each datum.
    :raises ValueError: if lambda is negative; in training, if lambda > 0 and the guide has an auxiliary variable or
        a factor, or samples latents without a closed form in another order than the model.

    Source: Kingma et al. (2016), equation 15, https://arxiv.org/abs/1606.04934
    """

    def __init__(self, lambda_: float = 2.0, num_particles: int = 1, max_plate_nesting: int = 1):
        super().__init__(num_particles, max_plate_nesting)
        if not lambda_ >= 0:
            raise ValueError(f"lambda: expected at least 0, got {lambda_}")
        self.lambda_ = lambda_

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        closed = closed_forms(model_trace, guide_trace)
        kls = kl_terms(model_trace, guide_trace, closed=closed)
        reconstruction, kl = self.mean(reconstruction_terms(model_trace)), self.mean(kls)
        latent = kl
        if self.lambda_ > 0:
            alone = [name for name in kls if name not in model_trace]
            if alone:
                raise ValueError(
                    f"site {alone[0]!r}: FreeBits_ELBO expected latents of the model, each with a KL of its own, and "
                    "the guide alone has this one; train with ELBO"
                )
            free = number_of_data(model_trace.nodes["x"]) * self.lambda_
            again = kl_from_new_draws(model_trace, guide_trace, closed)
            latent = sum_terms(
                {
                    name: torch.where(self.mean({name: again[name]}) > free, self.mean({name: term}), free)
                    for name, term in kls.items()
                }
            )
        return {"loss": self.kl_weight * latent - reconstruction, "reconstruction": reconstruction, "kl": kl}
