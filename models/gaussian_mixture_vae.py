r"""Gaussian mixture VAE [1, 2]: a latent with clusters.

    p(z_c)     = sum_k w_k N(m_k, diag s_k^2)    the clusters, learned
    p(x | z_c) = likelihood(f(z_c))              Bernoulli on logits by default
    q(z_c | x) = sum_k w_k(x) N(m_k(x), diag s_k(x)^2)

By default the cluster c is summed out of model and guide. With ``clusters=EnumeratedClusters(dim, K)`` it is a site,
c ~ Categorical and z_c | c ~ Normal in both, and the objective sums over it exactly. With ``LabelledClusters`` some of
its values are known [3]:

    fit(GaussianMixtureVAE(shape), x)
    fit(GaussianMixtureVAE(shape, EnumeratedClusters(10, 10)), x, objective=EnumeratedELBO())
    fit(
        GaussianMixtureVAE(shape, LabelledClusters(10, 10)),
        (x, y, known),
        objective=Regularized(EnumeratedELBO(), label=LabelTerm(weight=10 * len(x) / known.sum())),
    )

``vae.clusters.law.cluster_probs(torch.tensor(ppvae.encode(vae, x)))`` is p(c | z_c) at the centre of the guide. It
tells the cluster of x if the guide is one Gaussian; the mean of a mixture can lie in none of its clusters. If c is a
site, ``ppvae.encode(vae, x)["c"]`` is the most probable cluster.

References:
    [1] Variational Deep Embedding (Jiang et al., 2017)
        https://arxiv.org/abs/1611.05148
    [2] Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders (Dilokthanakul et al., 2016)
        https://arxiv.org/abs/1611.02648
    [3] Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014)
        https://arxiv.org/abs/1406.5298
"""

from collections.abc import Sequence

import pyro
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    Clusters,
    Likelihood,
    channels,
    records_options,
    register,
)


class GaussianMixtureVAE(nn.Module):
    """VAE with z_c in R^dim and a learned mixture of Gaussians as prior.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param clusters: the latent z_c with its laws, by default ``Clusters(dim=10, clusters=10)``. If it reads labels,
        model and guide take them.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network from data of shape ``shape`` to ``clusters.features`` features; by default a perceptron.
    :param decoder: network from z_c to the features of the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli.

    >>> import torch
    >>> vae = GaussianMixtureVAE((1, 8, 8), Clusters(2, clusters=3))
    >>> z_c = vae.guide(torch.zeros(5, 1, 8, 8))
    >>> vae.clusters.law.cluster_probs(z_c).shape
    torch.Size([5, 3])
    """

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        clusters: Clusters | None = None,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ):
        super().__init__()
        self.clusters = clusters or Clusters()
        self.likelihood = likelihood or BernoulliLikelihood()
        self.shape, self.dim = Size(shape), self.clusters.dim
        self.labels = len(self.clusters.given)
        self.given = (*self.clusters.given, *self.likelihood.given)
        inputs, outputs = channels(shape, self.likelihood.in_features), channels(shape, self.likelihood.features)
        self.encoder = Batched(encoder or MLP(inputs, (self.clusters.features,), hidden), len(shape))
        self.decoder = Batched(decoder or MLP((self.dim,), outputs, hidden[::-1]), 1, outputs)

    def decode(self, z_c: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z_c) for latents z_c of shape (..., dim)."""
        return self.likelihood(self.decoder(z_c), len(self.shape), *given)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z_c) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z_c = self.clusters.prior(*given[: self.labels])
            return pyro.sample("x", self.decode(z_c, *given[self.labels :]), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z_c | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            h = self.encoder(self.likelihood.inputs(x, len(self.shape)))
            return self.clusters.posterior(h, *given[: self.labels])
