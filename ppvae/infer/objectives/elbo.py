r"""The evidence lower bound.

    ELBO = E_q(z|x) [log p(x | z)] - KL(q(z | x) || p(z))

Reference: Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114
"""

from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO, kl_terms, reconstruction_terms


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
