r"""Mixtures of laws of one family, on any manifold.

.. math::
    p(z) = \sum_k w_k \, p_k(z), \qquad p(k \mid z) = \frac{w_k \, p_k(z)}{p(z)}

A draw carries no gradient, which suffices for a prior. ``GaussianMixture`` has pathwise gradients.
"""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions.utils import lazy_property

from ppvae.distributions.base import base_law
from ppvae.distributions.finite import log_weights


class Mixture(TorchDistribution):
    """Mixture of K laws; density with respect to the volume that the density of its components has.

    :param logits: logarithms of the weights up to a constant, shape ``(..., K)``.
    :param components: a law of batch shape ``(..., K)``.
    :raises ValueError: if the two differ in K. With validated arguments also for logits that are NaN or infinite, or
        for no weight above zero.

    >>> from ppvae.distributions import VonMisesFisher
    >>> law = Mixture(torch.zeros(2), VonMisesFisher(torch.eye(2), torch.tensor([5.0, 5.0])))
    >>> law.component_probs(torch.tensor([0.6, 0.8])).round(decimals=3)
    tensor([0.2690, 0.7310])
    """

    arg_constraints = {"logits": log_weights}
    has_rsample = False

    def __init__(self, logits: Tensor, components: TorchDistribution, validate_args: bool | None = None):
        shape = components.batch_shape
        if not shape or not logits.dim() or shape[-1] != logits.shape[-1]:
            raise ValueError(
                f"Mixture expected logits (..., K) and components of batch shape (..., K), got {tuple(logits.shape)} "
                f"and {tuple(shape)}"
            )
        self.logits, self.components = logits - logits.logsumexp(-1, keepdim=True), components
        batch_shape = torch.broadcast_shapes(shape[:-1], logits.shape[:-1])
        super().__init__(batch_shape, components.event_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """That of the components."""
        return self.components.support

    @property
    def manifold(self) -> Any:
        """That of the components, where they name one."""
        return getattr(base_law(self.components), "manifold", None)

    @lazy_property
    def num_components(self) -> int:
        """K."""
        return self.logits.shape[-1]

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Mixture, _instance)
        # The components stay as they are, and broadcast: K densities are not made K times the batch.
        new.logits, new.components = self.logits, self.components
        super(Mixture, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_joint(self, value: Tensor) -> Tensor:
        """log w_k p_k(z) in nats, shape ``(..., K)``."""
        return self.logits + self.components.log_prob(value.unsqueeze(-len(self.event_shape) - 1))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p in nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        log_p = self.log_joint(value).logsumexp(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def component_probs(self, value: Tensor) -> Tensor:
        """p(k | z), shape ``(..., K)``."""
        return self.log_joint(value).softmax(-1)

    @torch.no_grad()
    def sample(self, sample_shape=Size()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``, without gradients."""
        shape = Size(sample_shape) + self.batch_shape
        # The largest of w_k times an exponential race is k with probability w_k; torch.multinomial waits for a device.
        race = self.logits - self.logits.new_empty((*shape, self.num_components)).exponential_().log()
        k = race.argmax(-1)
        draws = self.components.expand((*self.batch_shape, self.num_components)).sample(sample_shape)
        events = len(self.event_shape)
        index = k.reshape(*shape, 1, *[1] * events).expand(*shape, 1, *self.event_shape)
        return draws.gather(len(shape), index).squeeze(len(shape)).detach()  # torch.jit.trace forgets no_grad
