r"""Points of the flat torus T^n, a product of circles, with a uniform prior.

    p(z_j)     = Uniform(S^1)                    j = 1, ..., n
    q(z_j | x) = vMF(mu_j(x), kappa_j(x))        on the circle, one concentration for each

Reference: Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), https://arxiv.org/abs/1804.00891
"""

import math
from typing import Any

import pyro
from torch import Tensor, nn

from ppvae import manifolds
from ppvae.distributions import HypersphericalUniform
from ppvae.latents.protocol import Encode, law_of
from ppvae.nn import PosteriorHead, VonMisesFisherHead, records_options

__all__ = ["Torus"]


class Torus(nn.Module):
    """z on T^n, points as unit vectors of shape (n, 2).

    :param n: number of circles.
    :param head: posterior head with values on the circle, used for each; von Mises-Fisher by default.
    :param prior: a law of the points (n, 2), or a module that returns one; uniform by default.
    :raises ValueError: if n is below 1.

    >>> Torus(2).features
    6
    """

    given = ()

    @records_options
    def __init__(self, n: int = 2, head: PosteriorHead | None = None, prior: Any = None):
        super().__init__()
        if n < 1:
            raise ValueError(f"Torus: expected n >= 1 circles, got {n}")
        self.n, self.head, self.prior_law = n, head or VonMisesFisherHead(2), prior
        self.features, self.reads = n * self.head.features, (2 * n,)

    @property
    def manifold(self) -> manifolds.Torus:
        """Where z lives."""
        return manifolds.Torus(self.n)

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        if self.prior_law is not None:
            return pyro.sample(name, law_of(self.prior_law))
        circle = HypersphericalUniform(2, dtype=like.dtype, device=like.device)
        return pyro.sample(name, circle.expand([self.n]).to_event(1))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return pyro.sample(name, self.head(h.unflatten(-1, (self.n, self.head.features))).to_event(1))

    def read(self, z: Tensor) -> Tensor:
        """sqrt(2) z in one vector, whose coordinates have size 1 under the prior."""
        return math.sqrt(2) * z.flatten(-2)
