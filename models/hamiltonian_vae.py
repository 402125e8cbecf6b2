r"""Hamiltonian VAE: a posterior that a few steps of Hamiltonian dynamics bring nearer to the true one [1].

    p(z)     = N(0, I)                           on R^dim
    p(x | z) = likelihood(f(z))                  Bernoulli on logits by default
    q(z | x) : z_0 ~ N(mu(x), diag sigma(x)^2), momentum rho_0 ~ N(0, I / beta_0),
               K leapfrog steps of the energy -log p(x, z) + |rho|^2 / 2, the momentum cooled to 1 on the way

    ELBO     = E [log p(x, z_K) + log N(rho_K; 0, I) - log N(z_0; mu, sigma^2) - log N(sqrt(beta_0) rho_0; 0, I)]

The decoder's gradient moves the draws, so the model itself corrects a coarse guide, at K + 1 more runs of the decoder.
Exact dynamics without cooling would leave the target, and so the bound, as it is. Finite steps and cooling raise the
bound, so step sizes and beta_0 are learned with the rest. Both take energy away: for Gaussian targets they help a start
that is too wide, and not one that is too narrow. In place of a density the guide gives the weight above, which holds
for its own draws alone; objectives that need the density elsewhere refuse it.

References:
    [1] Hamiltonian Variational Auto-Encoder (Caterini, Doucet and Sejdinovic, 2018)
        https://arxiv.org/abs/1805.11328
"""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.distributions import HamiltonianFlow
from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    Likelihood,
    NormalHead,
    channels,
    records_options,
    register,
)


class HamiltonianVAE(nn.Module):
    """VAE with z in R^dim, prior N(0, I) and a Gaussian posterior moved by Hamiltonian dynamics.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: dimension of the latent z.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param steps: number K of leapfrog steps.
    :param max_step_size: bound on the step size of each coordinate, in units of z; step sizes start at a fifth of it.
    :param encoder: network from data of shape ``shape`` to ``2 * dim`` features; by default a perceptron.
    :param decoder: network from z to the features of the likelihood, differentiable twice; by default a perceptron of
        smooth units.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.
    :raises ValueError: if ``steps`` is below 1 or ``max_step_size`` is not positive.

    >>> vae = HamiltonianVAE((1, 8, 8), dim=2, steps=2)
    >>> vae.guide(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 2])
    """

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 2,
        hidden: Sequence[int] = (256, 128),
        steps: int = 3,
        max_step_size: float = 0.5,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}; for none take GaussianVAE")
        if not max_step_size > 0:
            raise ValueError(f"max_step_size: expected a positive number, got {max_step_size}")
        self.shape, self.dim, self.steps, self.max_step_size = Size(shape), dim, steps, max_step_size
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = self.likelihood.given
        self.head = NormalHead(dim)
        inputs, outputs = (
            channels(shape, self.likelihood.in_features),
            channels(shape, self.likelihood.features),
        )
        self.encoder = Batched(encoder or MLP(inputs, (self.head.features,), hidden, nn.SiLU), len(shape))
        self.decoder = Batched(decoder or MLP((dim,), outputs, hidden[::-1], nn.SiLU), 1, outputs)
        self.step_logit = nn.Parameter(torch.full((dim,), -math.log(4)))
        self.beta_logit = nn.Parameter(torch.tensor(3.0))  # beta_0 = 0.95

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for latents z of shape (..., dim)."""
        return self.likelihood(self.decoder(z), len(self.shape), *given)

    def prior(self, x: Tensor) -> TorchDistribution:
        """p(z), in the dtype and on the device of x."""
        return dist.Normal(x.new_zeros(self.dim), 1.0).to_event(1)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            start = self.head(self.encoder(self.likelihood.inputs(x, len(self.shape)))).base_dist

            def log_joint(z: Tensor) -> Tensor:
                return self.prior(x).log_prob(z) + self.decode(z, *given).log_prob(x)

            step_size, beta_0 = self.max_step_size * self.step_logit.sigmoid(), self.beta_logit.sigmoid()
            return pyro.sample("z", HamiltonianFlow(start.loc, start.scale, log_joint, step_size, beta_0, self.steps))
