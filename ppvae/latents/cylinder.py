r"""Points of the cylinder, the product of a circle and a line.

    p(z)     = Uniform(S^1) x N(0, 1)            z = (cos t, sin t, v)
    q(z | x) = vMF(mu(x), kappa(x)) x N(m(x), sigma(x)^2)

Two latents, ``Spherical(2)`` and ``Gaussian(1)``, are the same space at two sites. This one is a site alone, as its
quotient is, the Moebius strip: ``Quotient(Cylinder(), "moebius")``.

Reference: Diffusion Variational Autoencoders (Pérez Rey, Menkovski and Portegies, 2019), https://arxiv.org/abs/1901.08991
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.distributions import HypersphericalUniform, ProductLaw
from ppvae.latents.protocol import Encode, law_of
from ppvae.manifolds import Circle, Euclidean, Product
from ppvae.nn import CylinderHead, PosteriorHead, records_options

__all__ = ["Cylinder"]


class Cylinder(nn.Module):
    """z = (cos t, sin t, v), vectors of shape (3,).

    :param head: posterior head with values on the cylinder; :class:`ppvae.nn.CylinderHead` by default.
    :param prior: a law of the points, or a module that returns one; uniform times normal by default.

    >>> Cylinder().read(torch.tensor([1.0, 0.0, -2.0]))
    tensor([ 1.4142,  0.0000, -2.0000])
    """

    given = ()
    reads = (3,)

    @records_options
    def __init__(self, head: PosteriorHead | None = None, prior: Any = None):
        super().__init__()
        self.head: PosteriorHead = head or CylinderHead()
        self.prior_law, self.features = prior, self.head.features

    @property
    def manifold(self) -> Product:
        """Where z lives."""
        return Product([Circle(), Euclidean()], [(2,), (1,)])

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        if self.prior_law is not None:
            return pyro.sample(name, law_of(self.prior_law))
        around = HypersphericalUniform(2, dtype=like.dtype, device=like.device)
        height = dist.Normal(like.new_zeros(1), 1.0).to_event(1)
        return pyro.sample(name, ProductLaw([around, height], self.manifold))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return pyro.sample(name, self.head(h))

    def read(self, z: Tensor) -> Tensor:
        """(sqrt(2) cos t, sqrt(2) sin t, v), whose coordinates have size 1 under the prior."""
        return torch.cat([math.sqrt(2) * z[..., :2], z[..., 2:]], -1)
