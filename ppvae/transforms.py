"""What :func:`ppvae.fit` does to the data of each batch, on the device, before model and guide see them.

A transform is any function from a tensor x of shape (batch, *shape) to another; with an attribute ``domain``, a
constraint of torch.distributions, the whole array is checked to lie in it before training. Draws come from torch's
global generator, so that a seed of ``fit`` governs them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["DynamicBinarization", "Scale"]


@dataclass(frozen=True)
class DynamicBinarization:
    """x_i ~ Bernoulli(g_i) for grey values g in [0, 1], a fresh draw at every call.

    Source: Salakhutdinov and Murray (2008), https://doi.org/10.1145/1390156.1390266

    >>> x = DynamicBinarization()(torch.full((10_000,), 0.3))
    >>> x.unique().tolist(), round(x.mean().item(), 1)
    ([0.0, 1.0], 0.3)
    """

    domain = constraints.unit_interval

    def __call__(self, x: Tensor) -> Tensor:
        return torch.bernoulli(x)


@dataclass(frozen=True)
class Scale:
    """x / maximum, and then another transform where there is one: for pixels that are stored as whole numbers.

    ::

        fit(vae, images, transform=Scale(255, DynamicBinarization()))  # images of dtype uint8 stay so in memory

    :param maximum: the greatest value that can be stored.
    :param then: what is done to the values in [0, 1].

    >>> Scale(255)(torch.tensor([0.0, 51.0, 255.0]))
    tensor([0.0000, 0.2000, 1.0000])
    """

    maximum: float
    then: Callable[[Tensor], Tensor] | None = None

    @property
    def domain(self) -> constraints.Constraint:
        """[0, maximum]."""
        return constraints.interval(0, self.maximum)

    def __call__(self, x: Tensor) -> Tensor:
        return x / self.maximum if self.then is None else self.then(x / self.maximum)
