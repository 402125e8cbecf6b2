"""Posterior heads on products in one vector: the cylinder, and boxes with some of their sides glued."""

from collections.abc import Sequence

import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from ppvae.distributions import ProductLaw, UnimodalBeta, UnrolledCircle, VonMisesFisher
from ppvae.manifolds.box import Box
from ppvae.manifolds.circle import Circle
from ppvae.manifolds.euclidean import Euclidean
from ppvae.manifolds.product import Product
from ppvae.nn.quotient_heads import direction
from ppvae.nn.registration import records_options
from ppvae.nn.rotation_heads import _check

__all__ = ["BoxHead", "CylinderHead"]


class CylinderHead(nn.Module):
    """q(z | h) on the cylinder, z = (cos t, sin t, v): von Mises-Fisher times normal.

    The concentration is 1 + 8 exp(.) of a feature, as in :class:`ppvae.nn.VonMisesFisherHead`, the scale exp of one.

    >>> CylinderHead()(torch.zeros(5) + 1).event_shape
    torch.Size([3])
    """

    features = 5

    @records_options
    def __init__(self):
        super().__init__()
        self.manifold = Product([Circle(), Euclidean()], [(2,), (1,)])

    def forward(self, h: Tensor) -> ProductLaw:
        """The law for features (..., 5): the direction, its concentration, the height and its scale."""
        _check(self, h)
        around, log_concentration, height, log_scale = h.split([2, 1, 1, 1], -1)
        circle = VonMisesFisher(direction(around), 1 + 8 * log_concentration.squeeze(-1).exp())
        return ProductLaw([circle, Normal(height, log_scale.exp()).to_event(1)], self.manifold)


class BoxHead(nn.Module):
    """q(z | h) on a box [0, 1]^n: on each open side a Beta law, on each glued one a law of the circle, unrolled.

    A side reads what it would of :class:`ppvae.nn.UnimodalBetaHead` or :class:`ppvae.nn.UnrolledCircleHead`.

    :param glued: for each side whether its two ends are one point.

    >>> BoxHead([True, False]).features
    5
    """

    @records_options
    def __init__(self, glued: Sequence[bool]):
        super().__init__()
        self.glued = tuple(map(bool, glued))
        self.sizes = [3 if side else 2 for side in self.glued]
        self.dim, self.features, self.manifold = len(self.glued), sum(self.sizes), Box(glued=self.glued)

    def forward(self, h: Tensor) -> ProductLaw:
        """The law for features (..., features), side by side."""
        _check(self, h)
        sides = zip(self.glued, h.split(self.sizes, -1), strict=True)
        return ProductLaw([_circle(part) if glued else _interval(part) for glued, part in sides], self.manifold)


def _circle(h: Tensor) -> UnrolledCircle:
    return UnrolledCircle(VonMisesFisher(direction(h[..., :2]), 2 * h[..., 2].exp()))


def _interval(h: Tensor) -> UnimodalBeta:
    mode, n = h[..., 0], h[..., 1].exp()
    return UnimodalBeta(n * torch.sigmoid(mode), n * torch.sigmoid(-mode))
