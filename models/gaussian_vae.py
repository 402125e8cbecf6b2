r"""Variational auto-encoder with a Gaussian latent [1, 2].

    p(z)     = N(0, I)                           on R^dim
    p(x | z) = likelihood(f(z))                  Bernoulli on logits by default
    q(z | x) = N(mu(x), diag sigma(x)^2)

With ``head=InverseAutoregressiveHead(dim)`` the posterior is an inverse autoregressive flow [3], which need not be a
product over the coordinates of z.

References:
    [1] Auto-Encoding Variational Bayes (Kingma and Welling, 2014)
        https://arxiv.org/abs/1312.6114
    [2] Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et al., 2014)
        https://arxiv.org/abs/1401.4082
    [3] Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        https://arxiv.org/abs/1606.04934
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    Likelihood,
    NormalHead,
    PosteriorHead,
    channels,
    records_options,
    register,
)


class GaussianVAE(nn.Module):
    """VAE with z in R^dim, prior N(0, I) and a diagonal Gaussian posterior.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: dimension of the latent z.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network from data of shape ``shape`` to ``head.features`` features; by default a perceptron.
    :param decoder: network from z to the features of the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.
    :param head: posterior head q(z | features) with values in R^dim, by default diagonal Gaussian.

    >>> import torch
    >>> vae = GaussianVAE((1, 8, 8), dim=2)
    >>> x = torch.zeros(5, 1, 8, 8)
    >>> z = vae.guide(x)
    >>> vae.decode(z).log_prob(x).shape
    torch.Size([5])
    """

    space = ("R^d", "points of R^d")

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 2,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        head: PosteriorHead | None = None,
    ):
        super().__init__()
        self.shape, self.dim = Size(shape), dim
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = self.likelihood.given
        self.head = head or NormalHead(dim)
        inputs, outputs = (
            channels(shape, self.likelihood.in_features),
            channels(shape, self.likelihood.features),
        )
        self.encoder = Batched(encoder or MLP(inputs, (self.head.features,), hidden), len(shape))
        self.decoder = Batched(decoder or MLP((dim,), outputs, hidden[::-1]), 1, outputs)

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for latents z of shape (..., dim)."""
        return self.likelihood(self.decoder(z), len(self.shape), *given)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.dim), 1.0).to_event(1))
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.head(self.encoder(self.likelihood.inputs(x, len(self.shape)))))
