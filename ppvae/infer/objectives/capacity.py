r"""A capacity C for the KL, which warm-up raises from 0 [1].

    L = sum_i E log p(x_i | z_i) - N gamma |KL - C|,    KL = (1/N) sum_i KL(q(z | x_i) || p(z))

Without a closed form the KL is estimated from the draws. The distance of a noisy estimate from C is too large in the
mean, and most of all where it should be zero. Here a second estimate, from new draws, decides on which side the KL is:

    |KL - C|  ~  sign(KL'' - C) (KL' - C)

whose mean is at most |KL - C|, and below it by 2 |KL - C| times the probability of the wrong side.

Reference: [1] Understanding disentangling in beta-VAE (Burgess et al., 2018), https://arxiv.org/abs/1804.03599
"""

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO, closed_forms, kl_from_new_draws, kl_terms, reconstruction_terms
from ppvae.infer.sites import number_of_data


class Capacity_ELBO(TensorELBO):
    r"""The KL is held at a capacity C, which warm-up raises from 0.

    .. math::
        L = \sum_i E \log p(x_i \mid z_i) - N \gamma \left| \frac1N \sum_i KL(q(z \mid x_i) \| p(z)) - w C \right|,
        \qquad w = \texttt{kl\_weight}

    with the mean KL of the batch. ``fit(..., warmup=epochs)`` raises w C linearly, as in the source; without warm-up it
    is C from the start. Without a closed form the KL is sampled, and new draws decide on which side of C it is: the
    penalty is then at most the formula's in the mean. At C = 0 it is ``Beta_ELBO(gamma)``, draw by draw.

    :param capacity: C in nats per datum, at least 0.
    :param gamma: weight of the distance from it, at least 0.
    :param num_particles: samples of the guide for each datum.
    :raises ValueError: if C or gamma is negative; in training, if the guide samples latents without a closed form in
        another order than the model.

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
        closed = closed_forms(model_trace, guide_trace)
        reconstruction = self.mean(reconstruction_terms(model_trace))
        kl = self.mean(kl_terms(model_trace, guide_trace, closed=closed))
        distance = kl
        if self.capacity > 0:
            C = number_of_data(model_trace.nodes["x"]) * self.kl_weight * self.capacity
            again = self.mean(kl_from_new_draws(model_trace, guide_trace, closed))
            distance = torch.where((again > C) | (C <= 0), kl - C, C - kl)
        return {"loss": self.gamma * distance - reconstruction, "reconstruction": reconstruction, "kl": kl}
