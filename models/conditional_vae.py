r"""Conditional VAE: the law of x given a label or covariates y, with a latent for what y leaves open [1, 2].

    p(z)        = N(0, I)                        on R^dim
    p(x | z, y) = likelihood(f(z, y))            Bernoulli on logits by default
    q(z | x, y) = N(mu(x, y), diag sigma(x, y)^2)

Model and guide take y, a label or a vector of numbers. z holds what y does not say, such as the style of a digit. If
only some labels are known see ``GaussianMixtureVAE``.

    vae = ConditionalVAE(shape, condition=OneHotCondition(10))
    fit(vae, (x, y))
    generate(vae, 10, np.arange(10), seed=0)     one of each class
    z = encode(vae, x, y)
    decode(vae, z, other_y)                      the same style, another class

References:
    [1] Learning Structured Output Representation using Deep Conditional Generative Models (Sohn, Lee and Yan, 2015)
        https://papers.nips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html
    [2] Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014), model M2
        https://arxiv.org/abs/1406.5298
"""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    Condition,
    Likelihood,
    NormalHead,
    OneHotCondition,
    PosteriorHead,
    channels,
    records_options,
    register,
)


class ConditionalVAE(nn.Module):
    """VAE with z in R^dim and prior N(0, I), whose encoder and decoder read y too.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: dimension of the latent z.
    :param condition: what y is: ``OneHotCondition(num_classes)`` or ``CovariatesCondition(dim)``; by default ten
        classes.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network of two arguments, data (batch, *shape) and features of y (batch, ``condition.features``), to
        ``head.features`` features; by default a perceptron.
    :param decoder: network from z and features of y in one vector of ``dim + condition.features`` to the features of
        the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take after y: ``fit(vae, (x, y, size))``.
    :param head: posterior head q(z | features) with values in R^dim, by default diagonal Gaussian.

    >>> vae = ConditionalVAE((1, 8, 8), dim=2, condition=OneHotCondition(3))
    >>> x, y = torch.zeros(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    >>> vae.decode(vae.guide(x, y), y).log_prob(x).shape
    torch.Size([5])
    """

    space = ("R^d", "points of R^d")

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 2,
        condition: Condition | None = None,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        head: PosteriorHead | None = None,
    ):
        super().__init__()
        self.shape, self.dim = Size(shape), dim
        self.condition = condition or OneHotCondition()
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = (*self.condition.given, *self.likelihood.given)
        self.head = head or NormalHead(dim)
        inputs, outputs = (
            channels(shape, self.likelihood.in_features),
            channels(shape, self.likelihood.features),
        )
        c = self.condition.features
        read = _Apart(encoder, inputs) if encoder else MLP((math.prod(inputs) + c,), (self.head.features,), hidden)
        self.encoder = Batched(read, 1)
        self.decoder = Batched(decoder or MLP((dim + c,), outputs, hidden[::-1]), 1, outputs)

    def decode(self, z: Tensor, y: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z, y) for latents z of shape (..., batch, dim) and y with batch rows."""
        c = self.condition(y, z.dtype)
        h = self.decoder(torch.cat([z, c.expand(*z.shape[:-1], c.shape[-1])], -1))
        return self.likelihood(h, len(self.shape), *given)

    def model(self, x: Tensor, y: Tensor, *given: Tensor) -> Tensor:
        """p(x, z | y) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.dim), 1.0).to_event(1))
            return pyro.sample("x", self.decode(z, y, *given), obs=x)

    def guide(self, x: Tensor, y: Tensor, *given: Tensor) -> Tensor:
        """q(z | x, y)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            inputs = self.likelihood.inputs(x, len(self.shape)).flatten(1)
            return pyro.sample("z", self.head(self.encoder(torch.cat([inputs, self.condition(y, x.dtype)], -1))))


class _Apart(nn.Module):
    """A network of data and features, as one of both in one vector."""

    def __init__(self, network: nn.Module, shape: Sequence[int]):
        super().__init__()
        self.network, self.shape = network, tuple(shape)

    def forward(self, v: Tensor) -> Tensor:
        n = math.prod(self.shape)
        return self.network(v[..., :n].unflatten(-1, self.shape), v[..., n:])
