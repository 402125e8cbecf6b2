r"""Other weights for the KL: beta [1], a capacity [2], free nats [3].

    beta       E log p(x | z) - beta KL
    capacity   E log p(x | z) - gamma |KL - C|
    free nats  E log p(x | z) - sum_j max(lambda, KL_j)

References:
    [1] beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017)
        https://openreview.net/forum?id=Sy2fzU9gl
    [2] Understanding disentangling in beta-VAE (Burgess et al., 2018), https://arxiv.org/abs/1804.03599
    [3] Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        https://arxiv.org/abs/1606.04934
"""

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.elbo import (
    TensorELBO,
    kl_terms,
    reconstruction_terms,
    sum_terms,
)
from ppvae.infer.sites import number_of_data, observations


class Beta_ELBO(TensorELBO):
    r"""The objective of the beta-VAE, a lower bound of the evidence where beta >= 1.

    .. math::
        L = \sum_i E \log p(x_i \mid z_i) - w \, \beta \, KL(q(z \mid x_i) \| p(z)), \qquad w = \texttt{kl\_weight}

    :param beta: weight of the KL, at least 0.
    :param num_particles: samples of the guide for each datum.
    :raises ValueError: if beta < 0.

    Source: Higgins et al. (2017), https://openreview.net/forum?id=Sy2fzU9gl
    """

    def __init__(self, beta: float = 4.0, num_particles: int = 1, max_plate_nesting: int = 1):
        super().__init__(num_particles, max_plate_nesting)
        if not beta >= 0:
            raise ValueError(f"beta: expected at least 0, got {beta}")
        self.beta = beta

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        reconstruction = self.mean(reconstruction_terms(model_trace))
        kl = self.mean(kl_terms(model_trace, guide_trace))
        return {"loss": self.kl_weight * self.beta * kl - reconstruction, "reconstruction": reconstruction, "kl": kl}


class Capacity_ELBO(TensorELBO):
    r"""The KL is held at a capacity C, which warm-up raises from 0.

    .. math::
        L = \sum_i E \log p(x_i \mid z_i) - N \gamma \left| \frac1N \sum_i KL(q(z \mid x_i) \| p(z)) - w C \right|,
        \qquad w = \texttt{kl\_weight}

    with the mean KL of the batch. If that is estimated by draws, the distance of a noisy mean is larger than that of
    the mean itself: the KL settles at C up to about its standard deviation over batches.
    ``fit(..., warmup=epochs)`` raises w C linearly, as in the source; without warm-up it is C from the start.

    :param capacity: C in nats per datum, at least 0.
    :param gamma: weight of the distance from it, at least 0.
    :param num_particles: samples of the guide for each datum.
    :raises ValueError: if C or gamma is negative.

    Source: Burgess et al. (2018), https://arxiv.org/abs/1804.03599
    """

    def __init__(
        self, capacity: float = 25.0, gamma: float = 1000.0, num_particles: int = 1, max_plate_nesting: int = 1
    ):
        super().__init__(num_particles, max_plate_nesting)
        for name, value in (("capacity", capacity), ("gamma", gamma)):
            if not value >= 0:
                raise ValueError(f"{name}: expected at least 0, got {value}")
        self.capacity, self.gamma = capacity, gamma

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        reconstruction = self.mean(reconstruction_terms(model_trace))
        kl = self.mean(kl_terms(model_trace, guide_trace))
        N = number_of_data(next(observations(model_trace)))
        excess = (kl - N * self.kl_weight * self.capacity).abs()
        return {"loss": self.gamma * excess - reconstruction, "reconstruction": reconstruction, "kl": kl}


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
