r"""A vector of R^d with clusters: a learned mixture of Gaussians for a prior [1].

    p(z)     = sum_k w_k N(m_k, diag s_k^2)      learned
    q(z | x) = N(mu(x), diag sigma(x)^2)         or the law of another head on R^d

The cluster is summed out of the prior. For a cluster that is a site, or partly labelled, see
:class:`ppvae.models.GaussianMixtureVAE`.

Reference: [1] Variational Deep Embedding (Jiang et al., 2017), https://arxiv.org/abs/1611.05148
"""

import pyro
import torch
from torch import Tensor, nn

from ppvae.distributions import GaussianMixture as GaussianMixtureLaw
from ppvae.latents.protocol import Encode
from ppvae.manifolds import Euclidean
from ppvae.nn import NormalHead, PosteriorHead, records_options

__all__ = ["GaussianMixture"]


class GaussianMixture(nn.Module):
    """z in R^dim with K clusters.

    :param dim: d.
    :param clusters: K.
    :param head: posterior head with values in R^dim; diagonal Gaussian by default.

    >>> GaussianMixture(2, clusters=5).law.sample((3,)).shape
    torch.Size([3, 2])
    """

    given = ()

    @records_options
    def __init__(self, dim: int = 2, clusters: int = 10, head: PosteriorHead | None = None):
        super().__init__()
        self.dim, self.clusters, self.head = dim, clusters, head or NormalHead(dim)
        self.features, self.reads = self.head.features, (dim,)
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.loc = nn.Parameter(torch.randn(clusters, dim))
        self.log_scale = nn.Parameter(torch.zeros(clusters, dim))

    @property
    def law(self) -> GaussianMixtureLaw:
        """p(z)."""
        return GaussianMixtureLaw(self.logits, self.loc, self.log_scale.exp())

    @property
    def manifold(self) -> Euclidean:
        """Where z lives."""
        return Euclidean()

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        return pyro.sample(name, self.law)

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return pyro.sample(name, self.head(h))

    def read(self, z: Tensor) -> Tensor:
        """z itself."""
        return z
