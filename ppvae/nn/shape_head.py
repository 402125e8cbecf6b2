"""The posterior head on Kendall's shapes of landmarks in the plane."""

import torch
from torch import Tensor, nn

from ppvae.distributions import TangentNormal
from ppvae.manifolds.complex_projective import ComplexProjective
from ppvae.nn.quotient_heads import bounded_scale, direction
from ppvae.nn.registration import records_options
from ppvae.nn.rotation_heads import _check

__all__ = ["ShapeHead"]


class ShapeHead(nn.Module):
    """q(z | h) on CP^{k-2}: a tangent normal about the direction of a vector of C^{k-1}, a scale for each direction.

    Any phase of the vector gives the same law. The scales stop at 1 radian, below the injectivity radius pi / 2, so
    that the sum over four turns along closed geodesics lacks nothing. The frame of the scales jumps where the first
    two landmarks of the shape at the centre are one point.

    :param landmarks: k, at least 3.
    :raises ValueError: for fewer landmarks.

    >>> ShapeHead(5).features
    14
    """

    @records_options
    def __init__(self, landmarks: int):
        super().__init__()
        if landmarks < 3:
            raise ValueError(f"landmarks: expected at least 3, got {landmarks}")
        self.landmarks, self.manifold = landmarks, ComplexProjective()
        self.features = 2 * (landmarks - 1) + 2 * (landmarks - 2)

    def forward(self, h: Tensor) -> TangentNormal:
        """The law for features (..., features): those of the vector, then those of the scales."""
        _check(self, h)
        vector, scales = h.split([2 * (self.landmarks - 1), 2 * (self.landmarks - 2)], -1)
        loc = direction(vector).unflatten(-1, (-1, 2))
        return TangentNormal(self.manifold, loc, torch.diag_embed(bounded_scale(scales, 1.0)))
