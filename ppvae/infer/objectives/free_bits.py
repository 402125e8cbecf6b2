r"""Free nats: the first nats of the KL cost nothing at each latent.

    L = E log p(x | z) - sum_j max(lambda, KL_j)

Reference: Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
    https://arxiv.org/abs/1606.04934
"""

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO, kl_terms, reconstruction_terms, sum_terms
from ppvae.infer.sites import number_of_data, observations


class FreeBits_ELBO(TensorELBO):
    r"""The first nats of the KL are free at each latent, so that none of them collapses.

    .. math::
        L = \sum_i E \log p(x_i \mid z_i) - w \, N \sum_j \max \Bigl( \lambda, \frac1N \sum_i KL_j(x_i) \Bigr),
        \qquad w = \texttt{kl\_weight}

    with j over the latent sites and the mean over the batch, as in the source. Below lambda a site's KL has no
    gradient.

    The maximum of a noisy estimate is larger than that of its mean. So a KL without a closed form, which is estimated
    by draws, is not compared by itself: each half of the batch is kept, or replaced by lambda, as the mean of the other
    half says. The estimate is then never above the right value in the mean, and its gradient is that of the KL times
    the probability that it is kept.

    :param lambda_: free nats per datum and site, at least 0; 0 is exactly the ELBO.
    :param num_particles: samples of the guide for each datum.
    :raises ValueError: if lambda is negative.

    Source: Kingma et al. (2016), equation 15, https://arxiv.org/abs/1606.04934
    """

    def __init__(self, lambda_: float = 2.0, num_particles: int = 1, max_plate_nesting: int = 1):
        super().__init__(num_particles, max_plate_nesting)
        if not lambda_ >= 0:
            raise ValueError(f"lambda: expected at least 0, got {lambda_}")
        self.lambda_ = lambda_

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        reconstruction = self.mean(reconstruction_terms(model_trace))
        N = number_of_data(next(observations(model_trace)))
        sampled: set[str] = set()
        terms = kl_terms(model_trace, guide_trace, sampled=sampled)
        kls = {name: term.sum() / self.num_particles for name, term in terms.items()}
        if self.lambda_ == 0:
            kept = kls
        else:
            kept = {
                name: self._kept_by_halves(terms[name], N) if name in sampled else torch.clamp(kl, min=N * self.lambda_)
                for name, kl in kls.items()
            }
        return {
            "loss": self.kl_weight * sum_terms(kept) - reconstruction,
            "reconstruction": reconstruction,
            "kl": sum_terms(kls),
        }

    def _kept_by_halves(self, term: Tensor, N: Tensor | float) -> Tensor:
        """max(N lambda, KL) of a KL by draws: each half of the data is kept if the other half exceeds its share."""
        n = term.shape[-1] if term.dim() else 1
        if n < 2:
            raise ValueError(
                f"FreeBits_ELBO: a KL that is estimated by draws needs a batch of at least 2 data, got {n}; choose a "
                "batch_size that leaves no single datum over"
            )
        halves = [part.sum() / self.num_particles for part in (term[..., : n // 2], term[..., n // 2 :])]
        floors = [N * self.lambda_ * (n // 2) / n, N * self.lambda_ * (n - n // 2) / n]
        kept = [
            torch.where(other > other_floor, half, floor)
            for half, floor, other, other_floor in zip(halves, floors, halves[::-1], floors[::-1], strict=True)
        ]
        return torch.stack(kept).sum()
