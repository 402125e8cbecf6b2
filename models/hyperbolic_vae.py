r"""Hyperbolic variational auto-encoder: a latent in which volume grows as that of a tree [1, 2].

    p(z)     = WrappedNormal(o, s I)             on hyperbolic space H^{dim-1}, curvature -1
    p(x | z) = likelihood(f(z))                  Bernoulli on logits by default
    q(z | x) = WrappedNormal(mu(x), sigma(x))    exp at mu(x) of a normal law in the tangent space

The first layer of f takes signed distances to hyperplanes, the counterpart of affine functions on the plane [2].
KL(q || p) has no closed form and is estimated from the sample. The scale s stands for the curvature: a prior of scale 1
in curvature -c, as in [2], is one of scale s = sqrt(c) here, and for s near 0 the latent space is nearly flat.

References:
    [1] A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning (Nagano et al., 2019)
        https://arxiv.org/abs/1902.02992
    [2] Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019)
        https://arxiv.org/abs/1901.06033
"""

from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.distributions import WrappedNormal
from ppvae.manifolds import Hyperboloid
from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    HyperbolicNormalHead,
    HyperplaneDistances,
    Likelihood,
    channels,
    records_options,
    register,
)


class HyperbolicVAE(nn.Module):
    """VAE with z on the hyperboloid in R^dim, prior and posterior wrapped normal.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: ambient dimension of the latent z: 3 is the hyperbolic plane.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param prior_scale: s, in units of the radius of curvature. The posterior's scale is s times exp of a feature.
    :param encoder: network from data of shape ``shape`` to ``2 * (dim - 1)`` features; by default a perceptron.
    :param decoder: network from points z, (..., dim), to the features of the likelihood; by default a perceptron
        whose first layer is :class:`ppvae.nn.HyperplaneDistances`.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.
    :raises ValueError: if ``dim`` is below 2 or ``prior_scale`` is not positive.

    >>> vae = HyperbolicVAE((1, 8, 8), dim=3)
    >>> z = vae.guide(torch.zeros(5, 1, 8, 8))
    >>> Hyperboloid().support.check(z).all()
    tensor(True)
    """

    origin: Tensor

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 3,
        hidden: Sequence[int] = (256, 128),
        prior_scale: float = 1.0,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ):
        super().__init__()
        if dim < 2:
            raise ValueError(f"dim: expected the ambient dimension, at least 2 (3 is the hyperbolic plane), got {dim}")
        if not prior_scale > 0:
            raise ValueError(f"prior_scale: expected a positive number, got {prior_scale}")
        self.shape, self.dim, self.prior_scale = Size(shape), dim, prior_scale
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = self.likelihood.given
        self.head = HyperbolicNormalHead(dim, prior_scale)
        inputs, outputs = (
            channels(shape, self.likelihood.in_features),
            channels(shape, self.likelihood.features),
        )
        self.encoder = Batched(encoder or MLP(inputs, (self.head.features,), hidden), len(shape))
        if decoder is None:
            width = [dim, *hidden][-1]
            rest = MLP((width,), outputs, hidden[::-1][1:])
            decoder = nn.Sequential(HyperplaneDistances(dim, width, prior_scale), nn.ReLU(), rest)
        self.decoder = Batched(decoder, 1, outputs)
        self.register_buffer("origin", torch.eye(dim)[0], persistent=False)

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for latents z of shape (..., dim)."""
        return self.likelihood(self.decoder(z), len(self.shape), *given)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            scale = self.origin.new_full((self.dim - 1,), self.prior_scale)
            z = pyro.sample("z", WrappedNormal(Hyperboloid(), self.origin, scale))
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.head(self.encoder(self.likelihood.inputs(x, len(self.shape)))))
