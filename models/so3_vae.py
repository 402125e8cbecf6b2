r"""Homeomorphic VAE with a rotation latent [1], its posterior the pushforward of a Gaussian [2].

The data are views of one object in unknown orientation z.

    p(z)     = Haar(SO(3))                       total volume 8 pi^2
    p(x | z) = likelihood(f(D(z) F))             D(z) rotates the learned spectrum F, degree by degree
    q(z | x) = mu(x) exp(v),                     v ~ N(0, diag sigma(x)^2) in so(3)

The decoder sees z only through its action on F. Gram-Schmidt makes mu(x) from two vectors, so x -> mu(x) can be a
homeomorphism onto SO(3) that cuts no chart open. With ``head=SO3NormalHead(AxisAngle())`` it cannot be one, and with
``decoder=MLP((3, 3), shape)``, which reads the nine entries of z, nothing ties the turn of the object to that of z.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018)
        https://arxiv.org/abs/1807.04689
    [2] Reparameterizing Distributions on Lie Groups (Falorsi et al., 2019)
        https://arxiv.org/abs/1903.02958
"""

from collections.abc import Sequence

import pyro
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.distributions import SO3Uniform
from ppvae.nn import (
    MLP,
    ActionDecoder,
    Batched,
    BernoulliLikelihood,
    Likelihood,
    PosteriorHead,
    SO3NormalHead,
    channels,
    records_options,
    register,
)


class SO3VAE(nn.Module):
    """VAE with z in SO(3), the uniform prior, and the pushforward of a Gaussian as posterior.

    :param shape: shape of one datum, e.g. ``(3, 64, 64)`` or ``(d,)``.
    :param degree: L, the highest degree of the spectrum F.
    :param copies: number of functions on the sphere in F, which turn together.
    :param hidden: widths of the encoder's hidden layers; f has them in reverse.
    :param encoder: network from data of shape ``shape`` to ``head.features`` features; by default a perceptron.
    :param decoder: network from rotations (3, 3) to the features of the likelihood; by default an
        :class:`ppvae.nn.ActionDecoder` with a perceptron as f.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.
    :param head: posterior head q(z | features) with values in SO(3), by default :class:`ppvae.nn.SO3NormalHead` with
        its mean by Gram-Schmidt.

    >>> import torch
    >>> vae = SO3VAE((1, 8, 8), degree=1, copies=2)
    >>> z = vae.guide(torch.zeros(5, 1, 8, 8))
    >>> torch.allclose(z @ z.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)
    True
    """

    space = ("rotations",)

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        degree: int = 3,
        copies: int = 10,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        head: PosteriorHead | None = None,
    ):
        super().__init__()
        self.shape = Size(shape)
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = self.likelihood.given
        self.head: PosteriorHead = head or SO3NormalHead()
        inputs, outputs = (
            channels(shape, self.likelihood.in_features),
            channels(shape, self.likelihood.features),
        )
        self.encoder = Batched(encoder or MLP(inputs, (self.head.features,), hidden), len(shape))
        if decoder is None:
            decoder = ActionDecoder(MLP(((degree + 1) ** 2 * copies,), outputs, hidden[::-1]), degree, copies)
        self.decoder = Batched(decoder, 2)

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for rotations z of shape (..., 3, 3)."""
        return self.likelihood(self.decoder(z), len(self.shape), *given)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", SO3Uniform(dtype=x.dtype, device=x.device))
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.head(self.encoder(self.likelihood.inputs(x, len(self.shape)))))
