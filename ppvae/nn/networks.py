"""Networks: from a datum to features and back. They know no VAE."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_NETWORK_DTYPE: ContextVar[torch.dtype | None] = ContextVar("network_dtype", default=None)


@contextmanager
def network_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Run the networks in :class:`Batched` under torch's autocast to ``dtype``.

    What they return has the dtype of their input, so parameters of laws and densities keep their precision.

    >>> network = Batched(nn.Linear(2, 2), 1)
    >>> with network_dtype(torch.bfloat16):
    ...     network(torch.ones(3, 2)).dtype
    torch.float32
    """
    token = _NETWORK_DTYPE.set(dtype)
    try:
        yield
    finally:
        _NETWORK_DTYPE.reset(token)


class Batched(nn.Module):
    """Call ``module`` on one batch dimension, whatever number of them the inputs have.

    Particles and samples add dimensions on the left, which convolutions and many other networks do not accept. The
    batches of several inputs are broadcast against each other.

    >>> network = Batched(nn.Conv2d(1, 2, 3), event_dim=3)
    >>> network(torch.zeros(7, 5, 1, 8, 8)).shape  # 7 particles of 5 images
    torch.Size([7, 5, 2, 6, 6])

    :param module: takes one (batch, *event) for each input and returns (batch, ...).
    :param event_dim: how many dimensions on the right of the input belong to one datum; a sequence for several inputs.
    :param out_shape: the shape that the output must have for one datum; by default it is not checked.
    :raises ValueError: in a call, if the output has another shape.
    """

    def __init__(self, module: nn.Module, event_dim: int | Sequence[int], out_shape: Sequence[int] | None = None):
        super().__init__()
        self.module, self.event_dim = module, event_dim
        self.out_shape = None if out_shape is None else tuple(out_shape)

    def forward(self, *inputs: Tensor) -> Tensor:
        event_dims = [self.event_dim] if isinstance(self.event_dim, int) else self.event_dim
        batches = [x.shape[: x.dim() - n] for x, n in zip(inputs, event_dims, strict=True)]
        batch = batches[0] if len(batches) == 1 else torch.broadcast_shapes(*batches)
        flat = []
        for x, own in zip(inputs, batches, strict=True):
            event = x.shape[len(own) :]
            x = x if own == batch else x.expand(*batch, *event)
            flat.append(x if len(batch) == 1 else x.reshape(-1, *event))
        y = self._call(*flat)
        if self.out_shape is not None and y.shape[1:] != self.out_shape:
            fits = math.prod(y.shape[1:]) == math.prod(self.out_shape)
            advice = f"; end it in nn.Unflatten(1, {self.out_shape})" if fits and y.dim() == 2 else ""
            got = ", ".join(str(tuple(x.shape[1:])) for x in flat)
            raise ValueError(
                f"{type(self.module).__name__}: expected an output of shape {self.out_shape} for each input of shape "
                f"{got}, got {tuple(y.shape[1:])}{advice}"
            )
        return y if len(batch) == 1 else y.reshape(batch + y.shape[1:])

    def _call(self, *inputs: Tensor) -> Tensor:
        dtype = _NETWORK_DTYPE.get()
        if dtype is None:
            return self.module(*inputs)
        with torch.autocast(inputs[0].device.type, dtype):
            return self.module(*inputs).to(inputs[0].dtype)


class MLP(nn.Module):
    """A multilayer perceptron from tensors of one shape to tensors of another, with any batch dimensions.

    >>> MLP((1, 8, 8), (4,), hidden=(16,))(torch.zeros(7, 5, 1, 8, 8)).shape
    torch.Size([7, 5, 4])

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
        y = self.layers(x.flatten(-len(self.in_shape)))
        return y if len(self.out_shape) == 1 else y.unflatten(-1, self.out_shape)


def channels(shape: Sequence[int], features: int) -> tuple[int, ...]:
    """The shape of ``features`` numbers for each number of a datum, side by side in its first dimension.

    >>> channels((3, 28, 28), 2)
    (6, 28, 28)
    """
    return (features * shape[0], *shape[1:])
