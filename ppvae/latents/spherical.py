r"""Points of a sphere, or of a product of spheres, with a uniform prior [1, 2].

    p(z_j)     = Uniform(S^{m-1})                j = 1, ..., copies
    q(z_j | x) = vMF(mu_j(x), kappa_j(x))        one concentration for each copy

One von Mises-Fisher law has one concentration for all directions, and cannot switch off those that the data do not
need: in many dimensions it falls behind the Gaussian. A product of low-dimensional spheres can.

References:
    [1] Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), https://arxiv.org/abs/1804.00891
    [2] Increasing Expressivity of a Hyperspherical VAE (Davidson, Tomczak and Gavves, 2019)
        https://arxiv.org/abs/1910.02912
"""

import math
from typing import Any

import pyro
from torch import Tensor, nn

from ppvae.distributions import HypersphericalUniform
from ppvae.latents.protocol import Encode, law_of
from ppvae.manifolds import Circle, Manifold, Power, Sphere, Torus
from ppvae.nn import PosteriorHead, VonMisesFisherHead, records_options

__all__ = ["Spherical"]


class Spherical(nn.Module):
    """z on the unit sphere of R^dim, or ``copies`` of them.

    :param dim: ambient dimension m: 2 is the circle, 3 the sphere S^2.
    :param copies: number of spheres; points then have the shape (copies, dim).
    :param head: posterior head with values on one sphere, used for each copy; von Mises-Fisher by default.
    :param prior: a law of the points, or a module that returns one; uniform by default.
    :raises ValueError: if ``dim`` is below 2 or there is no copy.

    >>> Spherical(6, copies=8).reads
    (48,)
    """

    given = ()

    @records_options
    def __init__(self, dim: int = 3, copies: int = 1, head: PosteriorHead | None = None, prior: Any = None):
        super().__init__()
        if dim < 2 or copies < 1:
            raise ValueError(f"Spherical: expected dim >= 2 (2 is the circle) and copies >= 1, got {dim} and {copies}")
        self.dim, self.copies, self.head, self.prior_law = dim, copies, head or VonMisesFisherHead(dim), prior
        self.features, self.reads = copies * self.head.features, (copies * dim,)

    @property
    def manifold(self) -> Manifold:
        """Where z lives: of dim 2 a circle, or a torus of copies."""
        if self.dim == 2:
            return Circle() if self.copies == 1 else Torus(self.copies)
        return Sphere() if self.copies == 1 else Power(Sphere(), 1)

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        if self.prior_law is not None:
            return pyro.sample(name, law_of(self.prior_law))
        law = HypersphericalUniform(self.dim, dtype=like.dtype, device=like.device)
        return pyro.sample(name, law if self.copies == 1 else law.expand([self.copies]).to_event(1))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        if self.copies == 1:
            return pyro.sample(name, self.head(h))
        return pyro.sample(name, self.head(h.unflatten(-1, (self.copies, self.head.features))).to_event(1))

    def read(self, z: Tensor) -> Tensor:
        """sqrt(dim) z, whose coordinates have size 1 under the prior, as networks expect."""
        z = math.sqrt(self.dim) * z
        return z if self.copies == 1 else z.flatten(-2)
