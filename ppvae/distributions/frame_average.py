r"""Laws of orthogonal axes: frames of SO(3) whose columns have no heads, points of SO(3)/D_2.

The columns of R = (a, b, c) are axes, not arrows, so that R and R d are one point for the four

.. math::
    d \in D_2 = \{ I, \mathrm{diag}(1, -1, -1), \mathrm{diag}(-1, 1, -1), \mathrm{diag}(-1, -1, 1) \}

and a law of axes is a law of frames that gives the four the same density,

.. math::
    \bar q(R) = \frac14 \sum_{d \in D_2} q(R d).

References:
    [1] Orthogonal axial frames: Statistics of ambiguous rotations (Arnold, Jupp & Schaeben, 2018)
        https://doi.org/10.1016/j.jmva.2017.10.007
"""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ppvae.distributions.center import center
from ppvae.manifolds import so3

__all__ = ["D2", "FrameAverage"]

#: The diagonals of the four elements of D_2.
D2 = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))


def _d2(like: Tensor) -> Tensor:
    """D2 as a tensor made on the device, without a copy from the host."""
    eye = torch.eye(3, dtype=like.dtype, device=like.device)
    return torch.cat([torch.ones_like(eye[:1]), 2 * eye - 1])


class FrameAverage(TorchDistribution):
    r"""The law of R d, R ~ ``base`` and d uniform on D_2.

    The density is with respect to the volume of the angle metric on SO(3), whose total mass is :math:`8 \pi^2`. The
    uniform law of frames has the log density -log :math:`8 \pi^2` = -4.369. ``OnQuotient(base, quotient("axes"))`` is
    the same law with respect to the volume of SO(3)/D_2, whose total mass is :math:`2 \pi^2`: its log density is larger
    by log 4, and that of the uniform law is -2.983. Samples are spread over the four frames, and carry no gradient.

    :param base: a law on SO(3).
    :raises ValueError: for a base of another space. With validated arguments also for a value off SO(3).

    >>> from ppvae.distributions import MatrixFisher
    >>> law = FrameAverage(MatrixFisher(5 * torch.eye(3)))
    >>> frame = torch.eye(3)
    >>> turned = frame * torch.tensor([1.0, -1.0, -1.0])  # the same axes, two heads exchanged
    >>> print(f"{law.log_prob(frame):.4f} {law.log_prob(turned):.4f}")
    -0.7301 -0.7301
    """

    arg_constraints: dict[str, Constraint] = {}
    support = so3.rotation
    has_rsample = False

    def __init__(self, base: Distribution, validate_args=None):
        if base.event_shape != (3, 3):
            raise ValueError(f"expected a law on SO(3), event_shape (3, 3), got {tuple(base.event_shape)}")
        self.base = base
        super().__init__(base.batch_shape, Size((3, 3)), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(FrameAverage, _instance)
        new.base = self.base.expand(Size(batch_shape))
        super(FrameAverage, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape=Size()) -> Tensor:
        """Frames of shape ``sample_shape + batch_shape + (3, 3)``, without gradient."""
        r = self.base.sample(Size(sample_shape)).detach()
        return r * _d2(r)[torch.randint(4, r.shape[:-2], device=r.device)].unsqueeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """log of the average over the four sheets in nats, shape ``(...)`` for frames ``(..., 3, 3)``."""
        if self._validate_args:
            self._validate_sample(value)
        d = _d2(value).reshape(4, *(1,) * (max(value.dim() - 2, len(self.batch_shape)) + 1), 3)
        return self.base.log_prob(value * d).logsumexp(0) - math.log(4)


@center.register
def _(law: FrameAverage) -> Tensor:
    return center(law.base)
