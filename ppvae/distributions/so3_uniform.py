r"""The uniform distribution on the rotation group SO(3), its Haar measure.

.. math::
    p(R) = \frac{1}{8 \pi^2}, \qquad R = R(q), \quad q = \frac{x}{|x|}, \quad x \sim N(0, I_4)

References:
    [1] Uniform random rotations (Shoemake, 1992)
        https://doi.org/10.1016/B978-0-08-050755-2.50036-1
    [2] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018)
        https://arxiv.org/abs/1807.04689
"""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions.constraints import Constraint
from torch.distributions.kl import register_kl

from ppvae.manifolds import so3

__all__ = ["SO3Uniform"]


class SO3Uniform(TorchDistribution):
    r"""Uniform distribution on SO(3): the prior p(z) of a rotation latent.

    The density is with respect to the volume of the angle metric, whose total mass is :math:`8 \pi^2`. The
    law is invariant under rotations from the left and from the right. It has no parameters, so dtype and
    device are its own.

    :param batch_shape: shape of independent copies.
    :param dtype: floating dtype of the samples, torch's default if None.
    :param device: device of the samples, torch's default if None.
    :raises ValueError: if the dtype is not floating. With validated arguments also for a value off SO(3).

    >>> law = SO3Uniform()
    >>> print(f"{law.log_prob(torch.eye(3)):.4f} {-math.log(8 * math.pi**2):.4f}")
    -4.3689 -4.3689
    """

    arg_constraints: dict[str, Constraint] = {}
    support = so3.rotation
    has_rsample = True

    def __init__(self, batch_shape=Size(), dtype=None, device=None, validate_args=None):
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        if not self.dtype.is_floating_point:
            raise ValueError(f"expected a floating dtype such as torch.float32, got {self.dtype}")
        self.device = device
        super().__init__(Size(batch_shape), Size((3, 3)), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(SO3Uniform, _instance)
        new.dtype, new.device = self.dtype, self.device
        super(SO3Uniform, new).__init__(Size(batch_shape), Size((3, 3)), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E R = 0 in the space of matrices, which is no rotation, shape ``batch_shape + (3, 3)``."""
        return torch.zeros(self._extended_shape(), dtype=self.dtype, device=self.device)

    @property
    def variance(self) -> Tensor:
        """Var R_ij = 1 / 3 of each entry, shape ``batch_shape + (3, 3)``."""
        return torch.full(self._extended_shape(), 1 / 3, dtype=self.dtype, device=self.device)

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Rotations of uniform unit quaternions, shape ``sample_shape + batch_shape + (3, 3)``."""
        shape = Size(sample_shape) + self.batch_shape + (4,)
        x = torch.randn(shape, dtype=self.dtype, device=self.device)
        return so3.from_quaternion(x / x.square().sum(-1, keepdim=True).sqrt())

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The constant :math:`-\log 8 \pi^2` in nats, shape ``(...)`` for rotations ``(..., 3, 3)``."""
        if self._validate_args:
            self._validate_sample(value)
        return value.new_full(torch.broadcast_shapes(value.shape[:-2], self.batch_shape), -math.log(so3.VOLUME))

    def entropy(self) -> Tensor:
        r""":math:`\log 8 \pi^2` nats, the largest entropy of any law on SO(3), shape ``batch_shape``."""
        return torch.full(self.batch_shape, math.log(so3.VOLUME), dtype=self.dtype, device=self.device)


@register_kl(SO3Uniform, SO3Uniform)
def _kl_uniform_uniform(p: SO3Uniform, q: SO3Uniform) -> Tensor:
    return torch.zeros(torch.broadcast_shapes(p.batch_shape, q.batch_shape), dtype=p.dtype, device=p.device)
