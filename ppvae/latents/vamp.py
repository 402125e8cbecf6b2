r"""A prior made of posteriors, on the space of any latent [1].

    p(z) = (1/K) sum_k q(z | u_k)                u_1, ..., u_K pseudo-inputs, what the encoder would read

Reference: [1] VAE with a VampPrior (Tomczak and Welling, 2018), https://arxiv.org/abs/1705.07120
"""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppvae.distributions import Mixture
from ppvae.latents.gaussian import Gaussian
from ppvae.latents.protocol import Encode
from ppvae.nn import records_options

__all__ = ["Vamp"]


class Vamp(nn.Module):
    """The space and posterior of another latent, its prior the mixture of the posteriors of K pseudo-inputs.

    :param shape: shape of what the encoder reads of one datum; for a Bernoulli or normal likelihood that of the datum.
    :param base: a latent with one head; ``Gaussian(2)`` by default.
    :param pseudo_inputs: K. A step takes the density of each draw under all of them.
    :raises ValueError: if there is no pseudo-input.

    >>> Vamp((1, 4, 4), pseudo_inputs=5).u.shape
    torch.Size([5, 1, 4, 4])
    """

    @records_options
    def __init__(self, shape: Sequence[int], base: Any = None, pseudo_inputs: int = 100):
        super().__init__()
        if pseudo_inputs < 1:
            raise ValueError(f"pseudo_inputs: expected at least 1, got {pseudo_inputs}")
        self.base = base if base is not None else Gaussian(2)
        self.features, self.reads, self.given = self.base.features, self.base.reads, self.base.given
        self.u = nn.Parameter(0.5 + 0.1 * torch.randn(pseudo_inputs, *shape))

    @property
    def manifold(self) -> Any:
        """That of the base."""
        return self.base.manifold

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        if encode is None:
            raise ValueError("Vamp: expected the encoder, of whose posteriors the prior is made; use it within a VAE")
        with pyro.poutine.block(), pyro.poutine.trace() as tape:
            self.base.posterior(name, encode(self.u), *given)
        components: Any = tape.trace.nodes[name]["fn"]
        return pyro.sample(name, Mixture(like.new_zeros(len(self.u)), components))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return self.base.posterior(name, h, *given)

    def read(self, z: Tensor) -> Tensor:
        """That of the base."""
        return self.base.read(z)
