r"""Rotations with the uniform prior [1], their posterior the pushforward of a Gaussian [2].

    p(z)     = Haar(SO(3))                       total volume 8 pi^2
    q(z | x) = mu(x) exp(v),                     v ~ N(0, diag sigma(x)^2) in so(3)

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018)
        https://arxiv.org/abs/1807.04689
    [2] Reparameterizing Distributions on Lie Groups (Falorsi et al., 2019), https://arxiv.org/abs/1903.02958
"""

from typing import Any

import pyro
from torch import Tensor, nn

from ppvae.distributions import SO3Uniform
from ppvae.latents.protocol import Encode, law_of
from ppvae.manifolds import SO3
from ppvae.nn import PosteriorHead, SO3NormalHead, records_options

__all__ = ["Rotation"]


class Rotation(nn.Module):
    """z in SO(3), matrices of shape (3, 3).

    :param head: posterior head with values in SO(3); :class:`ppvae.nn.SO3NormalHead` by default.
    :param prior: a law of rotations, or a module that returns one; uniform by default.

    >>> Rotation().reads
    (3, 3)
    """

    given = ()
    reads = (3, 3)

    @records_options
    def __init__(self, head: PosteriorHead | None = None, prior: Any = None):
        super().__init__()
        self.head: PosteriorHead = head or SO3NormalHead()
        self.prior_law, self.features = prior, self.head.features

    @property
    def manifold(self) -> SO3:
        """Where z lives."""
        return SO3()

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        uniform = SO3Uniform(dtype=like.dtype, device=like.device)
        return pyro.sample(name, uniform if self.prior_law is None else law_of(self.prior_law))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return pyro.sample(name, self.head(h))

    def read(self, z: Tensor) -> Tensor:
        """z itself, so that a decoder such as :class:`ppvae.nn.ActionDecoder` can act by it."""
        return z
