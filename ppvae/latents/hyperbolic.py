r"""Points of hyperbolic space, in which volume grows as that of a tree [1, 2].

    p(z)     = WrappedNormal(o, s I)             on H^{m-1}, curvature -1
    q(z | x) = WrappedNormal(mu(x), sigma(x))

References:
    [1] A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning (Nagano et al., 2019)
        https://arxiv.org/abs/1902.02992
    [2] Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019)
        https://arxiv.org/abs/1901.06033
"""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppvae.distributions import WrappedNormal
from ppvae.latents.protocol import Encode, law_of
from ppvae.manifolds import Hyperboloid
from ppvae.manifolds.hyperboloid import to_origin
from ppvae.nn import HyperbolicNormalHead, PosteriorHead, records_options

__all__ = ["Hyperbolic"]


class Hyperbolic(nn.Module):
    """z on the hyperboloid in R^dim.

    :param dim: ambient dimension m: 3 is the hyperbolic plane.
    :param prior_scale: s, in units of the radius of curvature.
    :param head: posterior head with values on the hyperboloid; wrapped normal by default.
    :param prior: a law of the points, or a module that returns one; the wrapped normal at the origin by default.
    :raises ValueError: if ``dim`` is below 2 or ``prior_scale`` not positive.

    >>> Hyperbolic(3).reads
    (2,)
    """

    given = ()

    @records_options
    def __init__(self, dim: int = 3, prior_scale: float = 1.0, head: PosteriorHead | None = None, prior: Any = None):
        super().__init__()
        if dim < 2:
            raise ValueError(f"Hyperbolic: expected the ambient dimension, at least 2 (3 is the plane), got {dim}")
        if not prior_scale > 0:
            raise ValueError(f"prior_scale: expected a positive number, got {prior_scale}")
        self.dim, self.prior_scale, self.prior_law = dim, prior_scale, prior
        self.head = head or HyperbolicNormalHead(dim, prior_scale)
        self.features, self.reads = self.head.features, (dim - 1,)

    @property
    def manifold(self) -> Hyperboloid:
        """Where z lives."""
        return Hyperboloid()

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        if self.prior_law is not None:
            return pyro.sample(name, law_of(self.prior_law))
        origin = torch.cat([like.new_ones(1), like.new_zeros(self.dim - 1)])
        return pyro.sample(name, WrappedNormal(Hyperboloid(), origin, like.new_full((self.dim - 1,), self.prior_scale)))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return pyro.sample(name, self.head(h))

    def read(self, z: Tensor) -> Tensor:
        """log_o(z) / s, whose coordinates have size 1 under the prior."""
        return to_origin(z) / self.prior_scale
