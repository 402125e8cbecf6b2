r"""Posterior heads on quotients M = C / G, whose laws are continuous functions of the features.

An encoder onto a quotient that ends in a point of the cover has to choose one of an orbit, and tears: there are loops
of the quotient along which a continuous choice ends at another point than it began. Each head here reads numbers that
all points of an orbit share, and makes a point of the cover from them in such a way that the choice does not matter:

==================  ======================  ======================================================
head                reads                   point of the cover
==================  ======================  ======================================================
``MoebiusHead``     a, b in R^2             (cos 2t, sin 2t) along a, and v = b . (cos t, sin t)
``KleinHead``       a, s in R^2, w in R     the same t, and (cos p, sin p) along (w, s . (cos t, sin t))
``ProjectiveHead``  a symmetric matrix      its principal axis
``AxesHead``        a symmetric 3x3 matrix  the frame of its axes
==================  ======================  ======================================================

Two t have the same 2t. The other one, t + pi, gives -v and -p, which is the same point of the quotient. Each head has a
continuous right inverse, the invariants of the manifold, so a network can learn to use it; each is undefined on a set
of codimension two.

Scales stop at 2 radians, where a law is nearly uniform: more turns than the two that are summed would count beyond.

Reference: Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018),
https://arxiv.org/abs/1807.04689
"""

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.distributions import OnQuotient, SO3Normal, TangentNormal, VonMisesFisher
from ppvae.manifolds.principal_axes import principal_axis, principal_frame, symmetric
from ppvae.manifolds.quotient import quotient
from ppvae.nn.registration import records_options
from ppvae.nn.rotation_heads import _check

__all__ = ["AxesHead", "KleinHead", "MoebiusHead", "ProjectiveHead", "bounded_scale", "direction"]

WIDEST = 2.0  #: radians; a wrapped normal of this scale is 0.018 nats from uniform on the circle


def bounded_scale(h: Tensor, widest: float = WIDEST) -> Tensor:
    """A standard deviation between 1e-4 and ``widest``, about an eighth of it at h = 0.

    Below 1e-4 radians a float32 point does not tell angles, and a density would be that of rounding.
    """
    return widest * (h - 2).sigmoid() + 1e-4


def direction(a: Tensor) -> Tensor:
    """a / ``|a|``, and e_1 with gradient 0 where a = 0."""
    size = a.detach().abs().amax(-1, keepdim=True)
    e1 = torch.cat([torch.ones_like(a[..., :1]), torch.zeros_like(a[..., 1:])], -1)
    a = torch.where(size > 0, a / torch.where(size > 0, size, 1), e1)  # scaled, or the square leaves the range
    return a / a.square().sum(-1, keepdim=True).sqrt()


def _half(a: Tensor) -> Tensor:
    r"""A direction (cos t, sin t) with (cos 2t, sin 2t) along a: of the two one or the other, smooth on each side.

    .. math::
        (1 + \cos 2t, \sin 2t) = 2 \cos t \, (\cos t, \sin t), \qquad
        (\sin 2t, 1 - \cos 2t) = 2 \sin t \, (\cos t, \sin t)
    """
    cosine, sine = direction(a).unbind(-1)
    right = cosine > 0
    x = torch.where(right, 1 + cosine, sine)
    y = torch.where(right, sine, 1 - cosine)
    return direction(torch.stack([x, y], -1))


def _factor(first: Tensor, across: Tensor, second: Tensor) -> Tensor:
    """The lower triangular matrix ((first, 0), (across, second))."""
    rows = torch.stack([first, torch.zeros_like(first)], -1), torch.stack([across, second], -1)
    return torch.stack(rows, -2)


class MoebiusHead(nn.Module):
    """q(z | h) on the Moebius strip: a tangent normal at (t, v) with a full covariance.

    The covariance of t and v changes its sign with the choice of t, as d . (cos t, sin t) does for d in R^2.

    >>> MoebiusHead().features
    8
    """

    features = 8

    @records_options
    def __init__(self):
        super().__init__()
        self.manifold: Any = quotient("moebius")

    def forward(self, h: Tensor) -> OnQuotient:
        """The law for features (..., 8): a, b, d and two of the scales."""
        _check(self, h)
        a, b, d, scales = h.split(2, -1)
        t = _half(a)
        v, ratio = ((c * t).sum(-1) for c in (b, d))
        scale = scales[..., 1].exp()
        L = _factor(bounded_scale(scales[..., 0]), scale * ratio, scale)
        cover = TangentNormal(self.manifold.base, torch.cat([t, v.unsqueeze(-1)], -1), L, num_wraps=2)
        return OnQuotient(cover, self.manifold)


class KleinHead(nn.Module):
    """q(z | h) on the Klein bottle: a tangent normal at (t, p) with a full covariance.

    The covariance of t and p changes its sign with the choice of t, as d . (cos t, sin t) does for d in R^2.

    >>> KleinHead().features
    9
    """

    features = 9

    @records_options
    def __init__(self):
        super().__init__()
        self.manifold: Any = quotient("klein")

    def forward(self, h: Tensor) -> OnQuotient:
        """The law for features (..., 9): a, s, d, w and two of the scales."""
        _check(self, h)
        a, s, d = h[..., :6].split(2, -1)
        w, first, second = h[..., 6:].unbind(-1)
        t = _half(a)
        p = direction(torch.stack([w, (s * t).sum(-1)], -1))
        scale = bounded_scale(second)
        L = _factor(bounded_scale(first), scale * (d * t).sum(-1).tanh(), scale)
        return OnQuotient(TangentNormal(self.manifold.base, torch.stack([t, p], -2), L, num_wraps=2), self.manifold)


class ProjectiveHead(nn.Module):
    """q(z | h) on the projective space of lines in R^dim: a von Mises-Fisher law about either end of an axis.

    The axis is the principal one of a symmetric matrix; the concentration is 1 + 4 dim exp(.) of a feature, as in
    :class:`ppvae.nn.VonMisesFisherHead`.

    :param dim: ambient dimension m of z: 3 is the projective plane.
    :raises ValueError: if ``dim`` is below 2.

    >>> ProjectiveHead(3).features
    7
    """

    @records_options
    def __init__(self, dim: int = 3):
        super().__init__()
        if dim < 2:
            raise ValueError(f"dim: expected the ambient dimension, at least 2, got {dim}")
        self.dim, self.features, self.manifold = dim, dim * (dim + 1) // 2 + 1, quotient("projective")

    def forward(self, h: Tensor) -> OnQuotient:
        """The law for features (..., features): those of the matrix, then that of the concentration."""
        _check(self, h)
        axis = principal_axis(symmetric(h[..., :-1], self.dim))
        return OnQuotient(VonMisesFisher(axis, 1 + 4 * self.dim * h[..., -1].exp()), self.manifold)


class AxesHead(nn.Module):
    """q(z | h) on frames of axes, SO(3) / D_2: a normal law about each axis of a symmetric matrix.

    Half turns about its axes change the signs of the coordinates of a rotation vector in the frame, and not their
    scales.

    >>> AxesHead().features
    9
    """

    features = 9

    @records_options
    def __init__(self):
        super().__init__()
        self.manifold = quotient("axes")

    def forward(self, h: Tensor) -> OnQuotient:
        """The law for features (..., 9): six of the matrix, then three of the scales."""
        _check(self, h)
        frame = principal_frame(symmetric(h[..., :6], 3))
        return OnQuotient(SO3Normal(frame, bounded_scale(h[..., 6:]), num_wraps=2), self.manifold)
