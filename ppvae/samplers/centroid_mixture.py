r"""A mixture of the Gaussians that the volume of a posterior-covariance metric has near its centroids.

.. math::
    q(z) = (1 - \beta) \sum_i w_i \, N\left( z; \mu_i, \tfrac{\rho^2}{p d} \Sigma_i \right) + \beta \, q_0(z)

Near a centroid far from the others

.. math::
    \det G(z)^{p/2} = \det \Sigma_i^{-p/2} \, e^{-\frac{p d}{2 \rho^2} (z - \mu_i)^\top \Sigma_i^{-1} (z - \mu_i)}

so with weights :math:`w_i \propto \det \Sigma_i^{-(p-1)/2}` the mixture is the target there.

References:
    [1] A Geometric Perspective on Variational Autoencoders (Chadebec & Allassonnière, 2022), equation (4)
        https://arxiv.org/abs/2209.07370
"""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds import PosteriorCovarianceMetric

__all__ = ["CentroidMixture"]


class CentroidMixture(TorchDistribution):
    """The law q(z) above on R^d, a density with respect to dz, of total mass 1.

    :param metric: the metric, whose centroids, precisions and temperature are read.
    :param power: p, above 0.
    :param log_weights: logarithms of w up to a constant, shape ``(N,)``; those above where None.
    :param background: a law q_0 on R^d, which makes the weights of importance bounded far away, or None.
    :param fraction: beta, of the background.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        metric: PosteriorCovarianceMetric,
        power: float = 1.0,
        log_weights: Tensor | None = None,
        background: Any = None,
        fraction: float = 0.05,
    ):
        d = metric.centroids.shape[1]
        self.metric, self.background = metric, background
        self.scale = metric.temperature / math.sqrt(power * d)
        self._half_log_dets = half_log_dets(metric)
        weights = (power - 1) * self._half_log_dets if log_weights is None else log_weights
        self.log_weights = weights.double().log_softmax(0)
        self.fraction = fraction if background is not None else 0.0
        super().__init__(Size(), Size([d]), validate_args=False)

    def sample(self, sample_shape: Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        with torch.no_grad():
            mu, P = self.metric.centroids, self.metric.precision
            n, d = math.prod(sample_shape), mu.shape[1]
            chosen = torch.multinomial(self.log_weights.exp(), n, replacement=True)
            noise = torch.randn(n, d, dtype=mu.dtype, device=mu.device)
            if self.metric.diagonal:
                step = noise * P[chosen].rsqrt()
            else:  # P = L L^T, so L^-T noise has the covariance P^-1
                L = torch.linalg.cholesky(P[chosen])
                step = torch.linalg.solve_triangular(L.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
            z = mu[chosen] + self.scale * step
            if self.background is not None:
                outside = torch.rand(n, 1, dtype=mu.dtype, device=mu.device) < self.fraction
                z = torch.where(outside, self.background.sample((n,)), z)
            return z.reshape(*sample_shape, d)

    def log_prob(self, value: Tensor) -> Tensor:
        d = value.shape[-1]
        constants = self._half_log_dets - d / 2 * math.log(2 * math.pi * self.scale**2)
        exponent = (self.metric.temperature / self.scale) ** 2 / 2
        log_q = self.metric.log_kernel_mixture(value, self.log_weights + constants, exponent)
        if self.background is None:
            return log_q
        log_q_0 = log_prob_anywhere(self.background, value)
        return torch.logaddexp(math.log1p(-self.fraction) + log_q, math.log(self.fraction) + log_q_0)


def log_prob_anywhere(law: Any, z: Tensor) -> Tensor:
    """log density of a law, -inf outside its support, where a law itself may refuse, or have no gradient."""
    inside = law.support.check(z)
    if inside.all():
        return law.log_prob(z)
    safe = torch.where(inside.unsqueeze(-1), z, law.mean.to(z.dtype))
    return torch.where(inside, law.log_prob(safe), -math.inf)


def half_log_dets(metric: PosteriorCovarianceMetric) -> Tensor:
    """1/2 log det of each precision, shape (N,), in float64."""
    P = metric.precision.double()
    if metric.diagonal:
        return 0.5 * P.log().sum(1)
    return torch.linalg.cholesky(P).diagonal(dim1=-2, dim2=-1).log().sum(1)
