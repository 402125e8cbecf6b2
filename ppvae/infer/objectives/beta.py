r"""beta-VAE: a weight for the KL.

    L = E log p(x | z) - beta KL(q(z | x) || p(z))

Reference: beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017)
    https://openreview.net/forum?id=Sy2fzU9gl
"""

from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO, kl_terms, reconstruction_terms


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
