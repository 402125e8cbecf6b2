r"""A law on the circle, unrolled to the interval [0, 1): the seamless posterior of a periodic chart.

.. math::
    c \sim q_{S^1}(c), \qquad z = \frac{\mathrm{atan2}(c_2, c_1)}{2 \pi} \bmod 1, \qquad
    q(z) = 2 \pi \, q_{S^1}(\cos 2 \pi z, \sin 2 \pi z)

A Beta law on [0, 1] cannot put its mass around the point where 0 and 1 meet; this law can. Samples cross that point
with continuous gradients if the function of z is periodic, as the embeddings of the circle and the torus are.

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), https://arxiv.org/abs/1812.05769
"""

import math

import torch
from pyro.distributions import TorchDistribution, Uniform
from torch import Size, Tensor
from torch.distributions import Uniform as TorchUniform
from torch.distributions import constraints
from torch.distributions.kl import kl_divergence, register_kl

from ppvae.distributions.center import center
from ppvae.distributions.hyperspherical_uniform import HypersphericalUniform
from ppvae.manifolds import circle

__all__ = ["UnrolledCircle"]


class UnrolledCircle(TorchDistribution):
    r"""The law of the angle of a point c ~ ``base`` of the circle, in turns from 0 to 1.

    The density is with respect to dz on [0, 1), total mass 1.

    :param base: law on the circle with event_shape (2,): VonMisesFisher, PowerSpherical, ``WrappedNormal(Circle(),
        ...)``.
    :raises ValueError: for a base of another event_shape. With validated arguments also for a value outside [0, 1].

    >>> from ppvae.distributions import VonMisesFisher
    >>> law = UnrolledCircle(VonMisesFisher(torch.tensor([1.0, 0.0]), 4.0))
    >>> print(f"{law.log_prob(torch.tensor(0.01)):.4f} {law.log_prob(torch.tensor(0.99)):.4f}")
    1.5671 1.5671
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.unit_interval

    def __init__(self, base: TorchDistribution, validate_args=None):
        if tuple(base.event_shape) != (2,):
            raise ValueError(f"expected a law on the circle with event_shape (2,), got {tuple(base.event_shape)}")
        self.base = base
        super().__init__(base.batch_shape, Size(), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch declares an attribute; here the base decides
        """Whether the base law has pathwise gradients."""
        return self.base.has_rsample

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(UnrolledCircle, _instance)
        new.base = self.base.expand(Size(batch_shape))
        super(UnrolledCircle, new).__init__(Size(batch_shape), Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape=()) -> Tensor:
        """Turns in [0, 1) of shape ``sample_shape + batch_shape``."""
        return _turns(self.base.rsample(Size(sample_shape)))

    def sample(self, sample_shape=()) -> Tensor:
        """Turns in [0, 1) without gradient."""
        return _turns(self.base.sample(Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """log density in nats per turn, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        return self.base.log_prob(circle.exp(2 * math.pi * value)) + math.log(2 * math.pi)

    def entropy(self) -> Tensor:
        """Entropy in nats, shape ``batch_shape``; 0 for the uniform law."""
        return self.base.entropy() - math.log(2 * math.pi)


def _turns(c: Tensor) -> Tensor:
    z = torch.remainder(circle.log(c) / (2 * math.pi), 1)
    return torch.where(z < 1, z, 0)  # a small negative angle is rounded to 1


@center.register
def _(law: UnrolledCircle) -> Tensor:
    return _turns(center(law.base))


@register_kl(UnrolledCircle, TorchUniform)
@register_kl(UnrolledCircle, Uniform)
def _kl_unrolled_uniform(q: UnrolledCircle, p: TorchUniform) -> Tensor:
    flat = HypersphericalUniform(2, dtype=p.low.dtype, device=p.low.device)
    covered = (p.low <= 0) & (p.high >= 1)
    return torch.where(covered, kl_divergence(q.base, flat) + (p.high - p.low).log(), math.inf)
