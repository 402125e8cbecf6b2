r"""The sampler of Chadebec and Allassonnière (2022) as they describe it, and as they ran it.

As described [1]: from random embeddings of the training data, 100 transitions of Hamiltonian Monte Carlo, each of 10
leapfrog steps of 0.01, with the target sqrt(det G), which is improper at tau = 0. So short a chain has not mixed: it
stays near the embedding that it came from.

As published [2] the momentum has a standard deviation of 1/2, where the energy has |r|^2 / 2, and the force is

.. math::
    \nabla \log \det G_{N \lambda}(z), \qquad
    G_{N \lambda}(z) = \sum_i \Sigma_i^{-1} \omega_i(z) + N \lambda e^{-\tau |z|^2} I

without the 1/2 of the target, and with :math:`\lambda` once for each of the N centroids. Leapfrog with this force keeps
:math:`|r|^2 / 2 - \log \det G_{N \lambda}`, and the acceptance is of :math:`\tfrac12 \log \det G - |r|^2 / 2`. Detailed
balance with the momentum's density :math:`e^{-2 |r|^2}` then gives, for small steps, the stationary law

.. math::
    \det G^{1/2} \, \det G_{N \lambda}^3,

where :math:`\lambda` is negligible :math:`(\sqrt{\det G})^7`.

References:
    [1] A Geometric Perspective on Variational Autoencoders (Chadebec & Allassonnière, 2022)
        https://arxiv.org/abs/2209.07370
    [2] https://github.com/clementchadebec/geometric_perspective_on_vaes
"""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from ppvae.infer.batched_hmc import leapfrog
from ppvae.manifolds import PosteriorCovarianceMetric

__all__ = ["PublishedHMC"]


class PublishedHMC(MCMCKernel):
    """The Hamiltonian kernel as published [2]: it does not leave sqrt(det G) as it is.

    :param metric: the metric of posterior covariances.
    :param step_size: of the leapfrog steps.
    :param num_steps: leapfrog steps of a transition.
    """

    model = None
    initial_params: Any = None  # a property of the base class

    def __init__(self, metric: PosteriorCovarianceMetric, step_size: float = 0.01, num_steps: int = 10):
        self.metric, self.step_size, self.num_steps = metric, step_size, num_steps
        N = len(metric.centroids)
        self.faulty = PosteriorCovarianceMetric(
            metric.centroids, metric.precision, metric.temperature, N * metric.regularization, metric.decay
        )
        self.transforms: dict[str, Any] = {}

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Begin a run."""
        self._accepts: list[Tensor] = []

    @torch.no_grad()
    def sample(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One transition of every chain."""
        z = params["z"]
        r = 0.5 * torch.randn_like(z)
        z_new, r_new, _, _ = leapfrog(
            self._force, z, r, self._force(z)[1], torch.full_like(z[:, :1], self.step_size), self.num_steps
        )
        rise = self.metric.log_volume(z_new) - self.metric.log_volume(z) + ((r**2).sum(1) - (r_new**2).sum(1)) / 2
        accepts = torch.rand_like(rise).log() < rise
        self._accepts.append(rise.clamp(max=0).exp())
        return {"z": torch.where(accepts.unsqueeze(1), z_new, z)}

    def _force(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_volume, grad = self.faulty.log_volume_and_grad(z)
        return -2 * log_volume, -2 * grad

    def logging(self) -> dict[str, str]:
        """What the progress bar shows."""
        return {"acc. prob": f"{float(self._accepts[-1].mean()):.3f}"}

    def diagnostics(self) -> dict[str, Any]:
        """The acceptance rate over all chains."""
        return {"divergences": [], "acceptance rate": float(torch.stack(self._accepts).mean())}

    @property
    def sample_stats(self) -> dict[str, Tensor]:
        """``acceptance_rate`` and ``diverging`` (never), each of shape (chains, draws)."""
        acceptance = torch.stack(self._accepts, 1)
        return {"acceptance_rate": acceptance, "diverging": torch.zeros_like(acceptance, dtype=torch.bool)}
