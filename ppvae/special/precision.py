"""Float64 where an expression of float32 arguments would cancel."""

from torch import Tensor

__all__ = ["widen"]


def widen(x: Tensor) -> Tensor:
    """x in float64, or as it is on MPS devices, which have no float64; gradients pass.

    >>> import torch
    >>> widen(torch.ones(2)).dtype
    torch.float64
    """
    return x if x.device.type == "mps" else x.double()
