r"""A capacity for the KL.

    L = E log p(x | z) - gamma |KL(q(z | x) || p(z)) - C|

Reference: Understanding disentangling in beta-VAE (Burgess et al., 2018), https://arxiv.org/abs/1804.03599
"""

from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO, kl_terms, reconstruction_terms
from ppvae.infer.sites import number_of_data, observations


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
