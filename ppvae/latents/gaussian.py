r"""A vector of R^d with a normal prior [1, 2].

    p(z)     = N(0, I)                           on R^d
    q(z | x) = N(mu(x), diag sigma(x)^2)         or the law of another head on R^d

References:
    [1] Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114
    [2] Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et al., 2014)
        https://arxiv.org/abs/1401.4082
"""

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppvae.latents.protocol import Encode, law_of
from ppvae.manifolds import Euclidean
from ppvae.nn import NormalHead, PosteriorHead, records_options

__all__ = ["Gaussian"]


class Gaussian(nn.Module):
    """z in R^dim.

    :param dim: d.
    :param head: posterior head with values in R^dim; diagonal Gaussian by default.
    :param prior: a law on R^dim, or a module that returns one and may learn; N(0, I) by default.

    >>> Gaussian(2).features
    4
    """

    given = ()

    @records_options
    def __init__(self, dim: int = 2, head: PosteriorHead | None = None, prior: Any = None):
        super().__init__()
        self.dim, self.head, self.prior_law = dim, head or NormalHead(dim), prior
        self.features, self.reads = self.head.features, (dim,)

    @property
    def manifold(self) -> Euclidean:
        """Where z lives."""
        return Euclidean()

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        law = (
            dist.Normal(like.new_zeros(self.dim), 1.0).to_event(1) if self.prior_law is None else law_of(self.prior_law)
        )
        return pyro.sample(name, law)

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return pyro.sample(name, self.head(h))

    def read(self, z: Tensor) -> Tensor:
        """z itself."""
        return z
