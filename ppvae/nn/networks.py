"""Networks: from a datum to features and back. They know no VAE."""

import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Batched(nn.Module):
    """Call ``module`` on one batch dimension, whatever number of them the input has.

    Particles and samples add dimensions on the left, which convolutions and many user networks do not accept.

    :param module: takes (batch, *event) and returns (batch, ...).
    :param event_dim: how many dimensions on the right of the input belong to one datum.
    """

    def __init__(self, module: nn.Module, event_dim: int):
        super().__init__()
        self.module, self.event_dim = module, event_dim

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - self.event_dim]
        if len(batch) == 1:
            return self.module(x)
        y = self.module(x.reshape(-1, *x.shape[x.dim() - self.event_dim :]))
        return y.reshape(batch + y.shape[1:])


class MLP(nn.Module):
    """A multilayer perceptron from tensors of one shape to tensors of another, with any batch dimensions.

    :param in_shape: shape of one input.
    :param out_shape: shape of one output.
    :param hidden: widths of the hidden layers.
    :param activation: the nonlinearity after each hidden layer.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ):
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        widths = [math.prod(in_shape), *hidden]
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(widths):
            layers += [nn.Linear(n, m), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)


def channels(shape: Sequence[int], features: int) -> tuple[int, ...]:
    """The shape of ``features`` numbers for each number of a datum, side by side in its first dimension."""
    return (features * shape[0], *shape[1:])
