r"""Inverse autoregressive flow: a normal law moved by maps whose draws take one pass of a network each [1].

    u ~ N(loc, scale^2),   z_0 = u
    z_l = g_l z_{l-1} + (1 - g_l) m_l,   g_l = sigmoid(s_l),   (m_l, s_l) = layer_l(z_{l-1}, context),   l = 1, ..., L

where coordinate i of m_l and s_l depends on coordinates of z_{l-1} before i alone, so that

    log q(z_L) = log N(u; loc, scale^2) - sum_l sum_i log g_li

References:
    [1] Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        https://arxiv.org/abs/1606.04934
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppvae.distributions.center import center
from ppvae.distributions.finite import finite, positive


class AutoregressiveLayer(Protocol):
    """What the flow needs of a layer.

    >>> class Halves:
    ...     order = (0, 1)
    ...
    ...     def __call__(self, z, context):
    ...         return torch.zeros_like(z), torch.zeros_like(z)
    """

    order: Sequence[int]  #: the coordinates, each after those that its m and s depend on

    def __call__(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, each of shape (..., dim)."""


class InverseAutoregressive(TorchDistribution):
    r"""Law on R^dim of :math:`z_L = f_L \circ \dots \circ f_1(u)` with normal u; density with respect to the volume dz.

    Training asks for the density of the law's own draw, which comes with the draw. At any other point u is found
    coordinate by coordinate, in dim passes of each layer.

    :param loc: mean of u, shape (..., dim).
    :param scale: standard deviations of u, shape (..., dim).
    :param context: what the layers read beside z, shape (..., c).
    :param layers: the maps from (z, context) to m and s, in the order of a draw.

    >>> class Halves:  # m = 0 and g = 1/2 for every z
    ...     order = (0, 1)
    ...
    ...     def __call__(self, z, context):
    ...         return torch.zeros_like(z), torch.zeros_like(z)
    >>> law = InverseAutoregressive(torch.zeros(2), torch.ones(2), torch.zeros(1), [Halves()])
    >>> print(f"{law.log_prob(torch.zeros(2)).exp():.4f}")  # 4 times 1 / (2 pi)
    0.6366

    Source: Kingma et al. (2016), algorithm 1, https://arxiv.org/abs/1606.04934
    """

    arg_constraints = {
        "loc": constraints.independent(finite, 1),
        "scale": constraints.independent(positive, 1),
        "context": constraints.independent(finite, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        context: Tensor,
        layers: Sequence[AutoregressiveLayer],
        validate_args: bool | None = None,
    ):
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], scale.shape[:-1], context.shape[:-1])
        self._set(batch_shape, loc, scale, context, layers)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def _set(
        self, batch_shape: Size, loc: Tensor, scale: Tensor, context: Tensor, layers: Sequence[AutoregressiveLayer]
    ) -> None:
        self.loc, self.scale, self.context = (t.expand(batch_shape + t.shape[-1:]) for t in (loc, scale, context))
        self.layers = layers
        self._drawn: tuple[Tensor, Tensor, bool] | None = None

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(InverseAutoregressive, _instance)
        batch_shape = Size(batch_shape)
        new._set(batch_shape, self.loc, self.scale, self.context, self.layers)
        super(InverseAutoregressive, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_drawn": None}  # a sample with its graph cannot be copied

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + (dim,)``, with gradients to loc, scale, context and layers."""
        eps = torch.randn(Size(sample_shape) + self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        z, log_det = self.push(self.loc + self.scale * eps)
        log_q = -(eps.square() / 2 + self.scale.log() + math.log(2 * math.pi) / 2).sum(-1) - log_det
        self._drawn = (z, log_q, torch.is_grad_enabled())
        return z

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z_L of u, and log |det dz_L / du|."""
        z, log_det = u, u.new_zeros(())
        for layer in self.layers:
            m, s = layer(z, self.context)
            z = m + s.sigmoid() * (z - m)
            log_det = log_det + logsigmoid(s).sum(-1)
        return z, log_det

    def log_prob(self, value: Tensor) -> Tensor:
        """log q in nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        if self._drawn is not None and value is self._drawn[0]:
            _, log_q, learning = self._drawn
            # A draw made without gradients is a fixed point: its density still has gradients for the parameters.
            if learning or not torch.is_grad_enabled():
                return log_q
        z, log_det = value, value.new_zeros(())
        for layer in reversed(self.layers):
            z, s = self._invert(layer, z)
            log_det = log_det + logsigmoid(s).sum(-1)
        eps = (z - self.loc) / self.scale
        return -(eps.square() / 2 + self.scale.log() + math.log(2 * math.pi) / 2).sum(-1) - log_det

    def _invert(self, layer: AutoregressiveLayer, z: Tensor) -> tuple[Tensor, Tensor]:
        """The point that the layer maps to z, and s there."""
        shape = torch.broadcast_shapes(z.shape, self.loc.shape)
        z = z.expand(shape)
        u = torch.zeros_like(z)
        for i in layer.order:
            m, s = layer(u, self.context)
            coordinate = z[..., i] + (z[..., i] - m[..., i]) * (-s[..., i]).exp()
            u = torch.cat([u[..., :i], coordinate.unsqueeze(-1), u[..., i + 1 :]], -1)
        return u, layer(u, self.context)[1]


@center.register
def _(law: InverseAutoregressive) -> Tensor:
    return law.push(law.loc)[0]
