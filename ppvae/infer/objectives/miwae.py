r"""Several importance weighted bounds at once [1]: a tighter bound has a noisier gradient for the encoder.

    w_mk = p(x, z_mk) / q(z_mk | x),   z_mk ~ q(. | x),   m = 1, ..., M,   k = 1, ..., K
    MIWAE   (1/M) sum_m log (1/K) sum_k w_mk
    CIWAE   beta ELBO + (1 - beta) IWAE
    PIWAE   the model ascends log (1/MK) sum_mk w_mk, the guide the MIWAE

The signal-to-noise ratio of the IWAE's gradient is of order sqrt(K) for the parameters of the model and of order
1 / sqrt(K) for those of the guide. ``DReG_ELBO`` keeps the tight bound and mends the gradient itself.

References:
    [1] Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018), https://arxiv.org/abs/1802.04537
"""

import math

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO
from ppvae.infer.objectives.dreg import SplitELBO
from ppvae.infer.objectives.iwae import LogWeights
from ppvae.infer.sites import Needs


class MIWAE_ELBO(TensorELBO):
    r"""The mean of M importance weighted bounds of K = ``num_particles`` / M samples each.

    .. math::
        L = \sum_i \frac1M \sum_m \log \frac1K \sum_k w_{imk}, \qquad
        \mathrm{ELBO} \le \mathrm{MIWAE} \le \mathrm{IWAE}_{MK} \le \log p(x)

    M = 1 is the IWAE, K = 1 the ELBO without a closed form. ``kl_weight`` enters as in ``IWAE_ELBO``.

    :param num_particles: samples of the guide for each datum, M K.
    :param num_bounds: M.
    :raises ValueError: if M does not divide the samples; in training, where ``IWAE_ELBO`` raises one.

    Source: Rainforth et al. (2018), section 5, https://arxiv.org/abs/1802.04537
    """

    def __init__(self, num_particles: int = 16, num_bounds: int = 4, max_plate_nesting: int = 1):
        super().__init__(num_particles, max_plate_nesting)
        self.num_bounds = _divisor(num_particles, num_bounds)

    def needs(self, name: str) -> Needs:
        return "weights"

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        w = LogWeights(model_trace, guide_trace, self.max_plate_nesting, self.num_particles)
        bound = _mean_of_bounds(w.log_w(self.kl_weight), self.num_bounds)
        return {"loss": -(w.scale * bound).sum(), **w.shown()}


class CIWAE_ELBO(TensorELBO):
    r"""A combination of the ELBO and the importance weighted bound, of the same K = ``num_particles`` samples.

    .. math::
        L = \sum_i \beta \, \frac1K \sum_k \log w_{ik} + (1 - \beta) \log \frac1K \sum_k w_{ik}

    :param beta: weight of the ELBO, in [0, 1].
    :param num_particles: samples of the guide for each datum.
    :raises ValueError: if beta is outside [0, 1]; in training, where ``IWAE_ELBO`` raises one.

    Source: Rainforth et al. (2018), section 5, https://arxiv.org/abs/1802.04537
    """

    def __init__(self, beta: float = 0.5, num_particles: int = 16, max_plate_nesting: int = 1):
        super().__init__(num_particles, max_plate_nesting)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta: expected a number in [0, 1], got {beta}")
        self.beta = beta

    def needs(self, name: str) -> Needs:
        return "weights"

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        w = LogWeights(model_trace, guide_trace, self.max_plate_nesting, self.num_particles)
        log_w = w.log_w(self.kl_weight)
        bound = self.beta * log_w.mean(0) + (1 - self.beta) * _mean_of_bounds(log_w, 1)
        return {"loss": -(w.scale * bound).sum(), **w.shown()}


class PIWAE_ELBO(SplitELBO):
    r"""One set of samples, two bounds: the model is trained by the IWAE of all, the guide by the MIWAE.

    .. math::
        \theta: \; \log \frac{1}{MK} \sum_{mk} w_{mk}, \qquad
        \varphi: \; \frac1M \sum_m \log \frac1K \sum_k w_{mk}

    The loss shown is the IWAE's. The samples carry the gradient of the guide, at one run of the decoder.

    :param num_particles: samples of the guide for each datum, M K.
    :param num_bounds: M.
    :raises ValueError: if M does not divide the samples; in training, where ``IWAE_ELBO`` raises one.

    Source: Rainforth et al. (2018), section 5, https://arxiv.org/abs/1802.04537
    """

    def __init__(self, num_particles: int = 16, num_bounds: int = 4, max_plate_nesting: int = 1):
        super().__init__(num_particles, max_plate_nesting)
        self.num_bounds = _divisor(num_particles, num_bounds)

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        each = log_w.unflatten(0, (self.num_bounds, -1)).softmax(1).flatten(0, 1) / self.num_bounds
        return log_w.softmax(0), each, each


def _mean_of_bounds(log_w: Tensor, num_bounds: int) -> Tensor:
    K = log_w.shape[0] // num_bounds
    return (torch.logsumexp(log_w.unflatten(0, (num_bounds, K)), 1) - math.log(K)).mean(0)


def _divisor(num_particles: int, num_bounds: int) -> int:
    if num_bounds < 1 or num_particles % num_bounds:
        raise ValueError(
            f"num_bounds: expected a divisor of num_particles = {num_particles}, got {num_bounds}: each bound has "
            "num_particles / num_bounds samples"
        )
    return num_bounds
