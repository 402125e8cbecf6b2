"""A masked network [1] and the posterior head of an inverse autoregressive flow [2].

References:
    [1] MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), https://arxiv.org/abs/1502.03509
    [2] Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        https://arxiv.org/abs/1606.04934
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ppvae.distributions.inverse_autoregressive import InverseAutoregressive
from ppvae.nn.heads import _split
from ppvae.nn.registration import records_options


class MaskedMLP(nn.Module):
    """m(z, c) and s(z, c) with one hidden layer. Coordinate i of each is a function of c and the coordinates before i.

    >>> layer = MaskedMLP(3, context=2, hidden=8, reverse=False)
    >>> z, c = torch.zeros(3), torch.zeros(2)
    >>> m, s = layer(z, c)
    >>> moved, _ = layer(torch.tensor([0.0, 0.0, 5.0]), c)  # no coordinate comes after the last
    >>> torch.equal(m, moved)
    True

    :param dim: dimension of z.
    :param context: number of features c.
    :param hidden: width of the hidden layer.
    :param reverse: whether the coordinates come in the order dim - 1, ..., 0.
    """

    mask_in: Tensor
    mask_out: Tensor

    def __init__(self, dim: int, context: int, hidden: int, reverse: bool):
        super().__init__()
        self.order = list(range(dim))[:: -1 if reverse else 1]
        place = torch.arange(dim).flip(0) if reverse else torch.arange(dim)
        unit = torch.arange(hidden) % max(1, dim - 1)  # a unit sees the coordinates up to its own
        self.register_buffer("mask_in", (unit[:, None] >= place).float(), persistent=False)
        self.register_buffer("mask_out", (place[:, None] > unit).float().repeat(2, 1), persistent=False)
        self.inward, self.outward = nn.Linear(dim, hidden), nn.Linear(hidden, 2 * dim)
        self.from_context, self.past = nn.Linear(context, hidden, bias=False), nn.Linear(context, 2 * dim, bias=False)
        with torch.no_grad():
            self.outward.weight.mul_(0.1)
            self.past.weight.mul_(0.1)
            self.outward.bias.zero_()

    def forward(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h = silu(linear(z, self.inward.weight * self.mask_in, self.inward.bias) + self.from_context(c))
        m, s = (linear(h, self.outward.weight * self.mask_out, self.outward.bias) + self.past(c)).chunk(2, -1)
        return m, s + 2  # a gate that starts nearly open, as in [2]


class InverseAutoregressiveHead(nn.Module):
    """q(z | h) = an inverse autoregressive flow on R^dim, whose layers read features too.

    The posterior need not be a product of normal laws. Its KL has no closed form and is estimated from samples.

    >>> head = InverseAutoregressiveHead(2, layers=2)
    >>> q = head(torch.zeros(5, head.features))
    >>> z = q.rsample()
    >>> z.shape, q.log_prob(z).shape
    (torch.Size([5, 2]), torch.Size([5]))

    :param dim: dimension of z.
    :param layers: number of layers L. They run from the first coordinate to the last and back, in turns; with 0 the
        head is ``NormalHead``.
    :param hidden: width of the hidden layer of each.
    :param context: number of features that the layers read, beside the 2 dim of the normal law.
    :raises ValueError: if ``layers`` is below 0, or ``hidden`` or ``context`` below 1.
    """

    @records_options
    def __init__(self, dim: int, layers: int = 4, hidden: int = 128, context: int = 32):
        super().__init__()
        if layers < 0 or hidden < 1 or context < 1:
            raise ValueError(
                f"expected layers >= 0, hidden >= 1 and context >= 1, got {layers}, {hidden} and {context}"
            )
        self.dim, self.context, self.features = dim, context, 2 * dim + context
        self.layers = nn.ModuleList(MaskedMLP(dim, context, hidden, reverse=bool(k % 2)) for k in range(layers))

    def forward(self, h: Tensor) -> InverseAutoregressive:
        loc, log_scale, c = _split(self, h, (self.dim, self.dim, self.context))
        layers: list[Any] = [*self.layers]
        return InverseAutoregressive(loc, log_scale.exp(), c, layers)
