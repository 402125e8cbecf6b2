r"""InfoVAE [1]: a Gaussian VAE for real data, trained to match the aggregate posterior to the prior.

    p(z)     = N(0, I)                           on R^dim
    p(x | z) = N(m(z), diag s(z)^2)              each number has a scale of its own
    q(z | x) = N(mu(x), diag sigma(x)^2)

    L = E_q(z|x) log p(x | z) - (1 - alpha) KL(q(z | x) || p(z)) - (alpha + lambda - 1) D(q(z) || p(z))
    q(z) = E_x q(z | x)

L is an objective, not a model, and applies to every model here whose latents belong to the data plate:

    fit(InfoVAE(shape), x, objective=InfoVAE_ELBO("mmd", alpha=1, lambda_=10))
    fit(SphericalVAE(shape), x, objective=InfoVAE_ELBO("energy", alpha=0.5, lambda_=10))

In this model alpha matters most: a decoder with scales of its own can ignore z, and the ELBO does not prevent it. With
a deterministic encoder and alpha = 1 it is the Wasserstein auto-encoder, ``WassersteinVAE``.

References:
    [1] InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao, Song and Ermon, 2019)
        https://arxiv.org/abs/1706.02262
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.nn import MLP, Batched, NormalHead, channels, records_options, register


class InfoVAE(nn.Module):
    """VAE with z in R^dim, prior N(0, I), and diagonal Gaussian encoder and decoder.

    :param shape: shape of one datum, e.g. ``(d,)``.
    :param dim: dimension of the latent z.
    :param hidden: widths of the encoder's hidden layers, with tanh; the decoder has them in reverse.
    :param encoder: network from data of shape ``shape`` to ``2 * dim`` features; by default a perceptron.
    :param decoder: network from z to m and log s side by side in the first dimension, ``(2 * d_1, ...)``; by default a
        perceptron.

    >>> import torch
    >>> vae = InfoVAE((6,), dim=2)
    >>> vae.decode(torch.zeros(5, 2)).stddev.shape
    torch.Size([5, 6])
    """

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 2,
        hidden: Sequence[int] = (100, 100),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__()
        self.shape, self.dim = Size(shape), dim
        self.head = NormalHead(dim)
        self.encoder = Batched(encoder or MLP(shape, (self.head.features,), hidden, nn.Tanh), len(shape))
        self.decoder = Batched(decoder or MLP((dim,), channels(shape, 2), hidden[::-1], nn.Tanh), 1)

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z) for latents z of shape (..., dim)."""
        m, log_s = self.decoder(z).chunk(2, -len(self.shape))
        return dist.Normal(m, log_s.exp()).to_event(len(self.shape))

    def model(self, x: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.dim), 1.0).to_event(1))
            return pyro.sample("x", self.decode(z), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """q(z | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.head(self.encoder(x)))
