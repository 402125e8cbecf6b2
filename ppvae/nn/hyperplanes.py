r"""The first layer of a decoder on hyperbolic space: signed distances to hyperplanes.

.. math::
    h_j(z) = \frac{|a_j|}{s} \operatorname{arsinh} \left( \cosh(s b_j) \, n_j \cdot p - \sinh(s b_j) \, z_1 \right),
    \qquad n_j = a_j / |a_j|, \quad z = (z_1, p)

is |a_j| times the signed distance of z, in units of s, from the totally geodesic hyperplane at distance s b_j from the
origin in the direction n_j. In flat space it is the affine function :math:`a_j \cdot (z / s - b_j n_j)`, so the layer
takes the place of ``nn.Linear`` [1]. It is the gyroplane layer of [2], written on the hyperboloid.

References:
    [1] Hyperbolic Neural Networks (Ganea, Bécigneul & Hofmann, 2018), https://arxiv.org/abs/1805.09112
    [2] Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019)
        https://arxiv.org/abs/1901.06033
"""

import math

import torch
from torch import Tensor, nn

from ppvae.nn.registration import records_options


class HyperplaneDistances(nn.Module):
    """Signed distances of points (..., dim) of H^{dim-1} to hyperplanes, (..., out_features), scaled by weights.

    >>> layer = HyperplaneDistances(3, 1)
    >>> with torch.no_grad():
    ...     _, _ = layer.a.copy_(torch.tensor([[1.0, 0.0]])), layer.b.zero_()
    ...     layer(torch.tensor([2.0**0.5, 1.0, 0.0]))  # arsinh(1) from the hyperplane through the origin
    tensor([0.8814])

    :param dim: ambient dimension m of the points.
    :param out_features: number of hyperplanes.
    :param unit: s, about the size of the distances to come, such as the scale of a prior.
    :raises ValueError: if ``dim`` is below 2 or ``unit`` is not positive.
    """

    @records_options
    def __init__(self, dim: int, out_features: int, unit: float = 1.0):
        super().__init__()
        if dim < 2 or not unit > 0:
            raise ValueError(f"expected dim of at least 2 and a positive unit, got {dim} and {unit}")
        self.unit = unit
        bound = 1 / math.sqrt(dim - 1)  # as nn.Linear starts
        self.a = nn.Parameter(torch.empty(out_features, dim - 1).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))

    def forward(self, z: Tensor) -> Tensor:
        length = self.a.norm(dim=-1)
        along, b = z[..., 1:] @ (self.a / length.unsqueeze(-1)).mT, self.unit * self.b
        return length / self.unit * (b.cosh() * along - b.sinh() * z[..., :1]).asinh()
