r"""VAE with a VampPrior: the prior is a mixture of posteriors, at pseudo-inputs that are learned [1].

    p(z)     = (1/K) sum_k q(z | u_k)            u_1, ..., u_K pseudo-inputs, in the place of what the encoder reads
    p(x | z) = likelihood(f(z))                  Bernoulli on logits by default
    q(z | x) = N(mu(x), diag sigma(x)^2)         or the law of another head

The best prior for the ELBO is the aggregate posterior, (1/N) sum_i q(z | x_i). The VampPrior approximates it by K
points in place of the N data, and shares the encoder with the guide. A head on another space gives a prior on that
space: with ``head=VonMisesFisherHead(dim)`` it is a mixture of von Mises-Fisher laws on the sphere.

    vae = VampVAE(shape, dim=16)
    vae.place(x_train, seed=0)                   the pseudo-inputs start at data; by default near grey
    fit(vae, x_train)

References:
    [1] VAE with a VampPrior (Tomczak and Welling, 2018)
        https://arxiv.org/abs/1705.07120
"""

from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.distributions import Mixture
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


class VampVAE(nn.Module):
    """VAE whose prior is the mixture of the posteriors of K pseudo-inputs.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: dimension of the latent z, the ambient one on a curved space.
    :param pseudo_inputs: number K of pseudo-inputs. A step evaluates K densities for each draw.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network from data of shape ``shape`` to ``head.features`` features; by default a perceptron.
    :param decoder: network from z to the features of the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.
    :param head: posterior head q(z | features) with values in R^dim, by default diagonal Gaussian.
    :raises ValueError: if there is no pseudo-input.

    >>> vae = VampVAE((1, 8, 8), dim=2, pseudo_inputs=10)
    >>> vae.prior().sample().shape
    torch.Size([2])
    """

    space = ("R^d", "sphere", "hyperboloid", "box")

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 2,
        pseudo_inputs: int = 100,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        head: PosteriorHead | None = None,
    ):
        super().__init__()
        if pseudo_inputs < 1:
            raise ValueError(f"pseudo_inputs: expected at least 1, got {pseudo_inputs}")
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
        self.u = nn.Parameter(0.5 + 0.1 * torch.randn(pseudo_inputs, *inputs))

    @torch.no_grad()
    def place(self, x: object, seed: int | None = None) -> None:
        """Let the pseudo-inputs start at K of the data, chosen at random without repetition.

        :param x: data of shape (n, *shape) with n of at least K.
        :param seed: seed of the choice; by default the global generator is used and moved.
        :raises ValueError: if there are fewer data than pseudo-inputs, of another shape, or not finite.
        """
        data = torch.as_tensor(x)
        K = len(self.u)
        if data.shape[1:] != self.shape:
            raise ValueError(f"x: expected shape (n, {', '.join(map(str, self.shape))}), got {tuple(data.shape)}")
        if len(data) < K:
            raise ValueError(f"x: expected at least {K} data, one for each pseudo-input, got {len(data)}")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        chosen = data[torch.randperm(len(data), generator=generator)[:K].to(data.device)].to(self.u)
        if not chosen.isfinite().all():
            raise ValueError("x: expected finite numbers, got others")
        self.u.copy_(self.likelihood.inputs(chosen, len(self.shape)))

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for latents z of shape (..., dim)."""
        return self.likelihood(self.decoder(z), len(self.shape), *given)

    def prior(self) -> Mixture:
        """p(z), the mixture of the posteriors of the pseudo-inputs."""
        return Mixture(self.u.new_zeros(len(self.u)), self.head(self.encoder(self.u)))

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        p = self.prior()
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", p)
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.head(self.encoder(self.likelihood.inputs(x, len(self.shape)))))
