r"""Hyperspherical variational auto-encoder (S-VAE) [1].

    p(z)     = Uniform(S^{dim-1})                the unit sphere in R^dim
    p(x | z) = likelihood(f(z))                  Bernoulli on logits by default
    q(z | x) = vMF(mu(x), kappa(x))              von Mises-Fisher, |mu(x)| = 1

KL(q || p) has a closed form, which depends on kappa alone. The latent space has no boundary and no centre, so the prior
pulls no datum to the origin as a Gaussian prior does. With ``head=PowerSphericalHead(dim)`` the posterior is the power
spherical law [2], whose sampler needs no rejection.

References:
    [1] Hyperspherical Variational Auto-Encoders (Davidson et al., 2018)
        https://arxiv.org/abs/1804.00891
    [2] The Power Spherical distribution (De Cao and Aziz, 2020)
        https://arxiv.org/abs/2006.04437
"""

import math
from collections.abc import Sequence

import pyro
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.distributions import HypersphericalUniform
from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    Likelihood,
    PosteriorHead,
    VonMisesFisherHead,
    channels,
    records_options,
    register,
)


class SphericalVAE(nn.Module):
    """VAE with z on the unit sphere of R^dim, a uniform prior and a von Mises-Fisher posterior.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: ambient dimension of the latent z: 2 is the circle, 3 the sphere S^2.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network from data of shape ``shape`` to ``head.features`` features; by default a perceptron.
    :param decoder: network from sqrt(dim) z to the features of the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.
    :param head: posterior head q(z | features) with values on the sphere, by default von Mises-Fisher.
    :raises ValueError: if ``dim`` is below 2.

    >>> import torch
    >>> vae = SphericalVAE((1, 8, 8), dim=3)
    >>> z = vae.guide(torch.zeros(5, 1, 8, 8))
    >>> torch.allclose(z.norm(dim=-1), torch.ones(5))
    True
    """

    space = ("sphere", "points of the sphere")

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 3,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        head: PosteriorHead | None = None,
    ):
        super().__init__()
        if dim < 2:
            raise ValueError(f"dim: expected the ambient dimension, at least 2 (2 is the circle), got {dim}")
        self.shape, self.dim = Size(shape), dim
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = self.likelihood.given
        self.head = head or VonMisesFisherHead(dim)
        inputs, outputs = (
            channels(shape, self.likelihood.in_features),
            channels(shape, self.likelihood.features),
        )
        self.encoder = Batched(encoder or MLP(inputs, (self.head.features,), hidden), len(shape))
        self.decoder = Batched(decoder or MLP((dim,), outputs, hidden[::-1]), 1, outputs)

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for latents z of shape (..., dim)."""
        # A uniform point has coordinates of size 1 / sqrt(dim); networks are initialised for coordinates of size 1.
        return self.likelihood(self.decoder(math.sqrt(self.dim) * z), len(self.shape), *given)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", HypersphericalUniform(self.dim, dtype=x.dtype, device=x.device))
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.head(self.encoder(self.likelihood.inputs(x, len(self.shape)))))
