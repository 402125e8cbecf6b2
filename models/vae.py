r"""Variational auto-encoder with any latent, or a product of several [1, 2].

    p(z_j)   = the prior of latent j             j = 1, ..., J, independent
    p(x | z) = likelihood(f(r_1(z_1), ..., r_J(z_J), y))
    q(z | x) = prod_j q(z_j | h_j),              h = g(x, y) in J slices

A latent is an object of :mod:`ppvae.latents`: it samples its site in model and guide, and says what the decoder reads
of it. One encoder g serves all. y is what both networks are told beside x, such as a class or a batch:

    VAE((1, 28, 28), Spherical(6, copies=8))
    VAE(shape, {"pose": Rotation(), "style": Gaussian(8)})
    VAE(shape, Hyperbolic(3), condition=OneHotCondition(5))      fit(vae, (x, y))

References:
    [1] Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114
    [2] Mixed-curvature Variational Autoencoders (Skopek, Ganea and Bécigneul, 2020), https://arxiv.org/abs/1911.08411
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.latents import Gaussian, Latent
from ppvae.nn import MLP, Batched, BernoulliLikelihood, Condition, Likelihood, channels, records_options, register

#: Names that a site cannot have: the observed site and the plate.
RESERVED = ("x", "data")


class VAE(nn.Module):
    """VAE with one latent at the site "z", or several by name.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param latents: a latent, or a dict of them by site; ``Gaussian(2)`` by default.
    :param condition: what y is, e.g. ``OneHotCondition(10)``; nothing by default.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network from data of shape ``shape``, and the features of y after them, to the features of all
        latents in one vector; a perceptron by default.
    :param decoder: network of what it reads of each latent, one argument for each, and the features of y after them, to
        the features of the likelihood; by default a perceptron on all of them in one vector.
    :param likelihood: likelihood head p(x | features); Bernoulli by default.
    :raises ValueError: for a name that is reserved or begins with another one and an underscore.

    Model and guide are given y, what each latent is given, and what the likelihood is given, in this order.

    >>> from ppvae.latents import Rotation
    >>> vae = VAE((6,), {"pose": Rotation(), "style": Gaussian(8)}, hidden=(16,))
    >>> sorted(vae.latents)
    ['pose', 'style']
    """

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        latents: Latent | Mapping[str, Latent] | None = None,
        condition: Condition | None = None,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ):
        super().__init__()
        named = dict(latents) if isinstance(latents, Mapping) else {"z": Gaussian(2) if latents is None else latents}
        _check_names(named)
        self.shape, self.names = Size(shape), tuple(named)
        self.modules_of_latents = nn.ModuleList([latent for latent in named.values() if isinstance(latent, nn.Module)])
        self.likelihood, self.condition = likelihood or BernoulliLikelihood(), condition
        each = [latent.given for latent in self.latents.values()]
        self.counts = [1 if condition else 0, *map(len, each)]
        self.given = (*(condition.given if condition else ()), *sum(each, ()), *self.likelihood.given)
        self.sizes = [latent.features for latent in self.latents.values()]
        inputs, outputs = channels(shape, self.likelihood.in_features), channels(shape, self.likelihood.features)
        reads = [tuple(latent.reads) for latent in self.latents.values()]
        told = [(condition.features,)] if condition else []
        self.encoder = Batched(
            encoder or Concatenated([inputs, *told], (sum(self.sizes),), hidden), [len(inputs), *map(len, told)]
        )
        self.decoder = Batched(
            decoder or Concatenated([*reads, *told], outputs, hidden[::-1]),
            [*map(len, reads), *map(len, told)],
            outputs,
        )

    @property
    def latents(self) -> dict[str, Any]:
        """The latents by site."""
        return dict(zip(self.names, self.modules_of_latents, strict=True))

    def split(self, given: Sequence[Tensor]) -> tuple[list[Sequence[Tensor]], Sequence[Tensor]]:
        """What is given beside x: y, what each latent is given, and the rest for the likelihood."""
        parts, start = [], 0
        for count in self.counts:
            parts.append(given[start : start + count])
            start += count
        return parts, given[start:]

    def told(self, y: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """The features of y, where there is a condition."""
        return [self.condition(y[0], dtype)] if self.condition else []

    def decode(self, z: Mapping[str, Tensor] | Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for latents by site, or the only one."""
        z = z if isinstance(z, Mapping) else {self.names[0]: z}
        (y, *_), rest = self.split(given)
        reads = [latent.read(z[name]) for name, latent in self.latents.items()]
        return self.likelihood(self.decoder(*reads, *self.told(y, reads[0].dtype)), len(self.shape), *rest)

    def encode(self, x: Tensor, y: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The features of each latent."""
        return self.encoder(x, *self.told(y, x.dtype)).split(self.sizes, -1)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z | y) for a batch x of shape (batch, *shape)."""
        register(self)
        (y, *each), _ = self.split(given)
        z = {}
        with pyro.plate("data", x.shape[0]):
            for i, (name, latent) in enumerate(self.latents.items()):
                z[name] = latent.prior(name, x, *each[i], encode=lambda u, i=i: self.encode(u, [a[:1] for a in y])[i])
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> None:
        """q(z | x, y)."""
        register(self)
        (y, *each), _ = self.split(given)
        with pyro.plate("data", x.shape[0]):
            features = self.encode(self.likelihood.inputs(x, len(self.shape)), y)
            for (name, latent), h, beside in zip(self.latents.items(), features, each, strict=True):
                latent.posterior(name, h, *beside)


class Concatenated(nn.Module):
    """A perceptron on several tensors, flattened into one vector.

    :param in_shapes: shape of each input for one datum.
    :param out_shape: shape of an output.
    :param hidden: widths of the hidden layers.

    >>> Concatenated([(2,), (3, 3)], (4,), (8,))(torch.zeros(5, 2), torch.zeros(5, 3, 3)).shape
    torch.Size([5, 4])
    """

    def __init__(self, in_shapes: Sequence[Sequence[int]], out_shape: Sequence[int], hidden: Sequence[int]):
        super().__init__()
        self.network = MLP((sum(map(math.prod, in_shapes)),), out_shape, hidden)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(torch.cat([a.flatten(1) for a in inputs], -1))


def _check_names(latents: Mapping[str, Any]) -> None:
    for name in latents:
        taken = [other for other in latents if name != other and name.startswith(f"{other}_")]
        if name in RESERVED or not name.isidentifier() or taken:
            raise ValueError(
                f"latents: expected names of sites that are identifiers, none of {', '.join(RESERVED)}, and none that "
                f"begins with another and an underscore, got {name!r}{f' beside {taken[0]!r}' if taken else ''}"
            )
