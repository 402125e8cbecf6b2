"""Conditions: the label or the numbers y that a conditional model takes beside x, as features for its networks."""

from typing import Protocol

import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppvae.nn.registration import records_options


class Condition(Protocol):
    """What a conditional VAE needs of a condition; one of your own is a few lines.

    >>> class Hour(nn.Module):
    ...     '''The time of day, 0 to 24 hours, as a point of the circle.'''
    ...     features, given = 2, (constraints.interval(0, 24),)
    ...     def forward(self, y, dtype):
    ...         angle = 2 * torch.pi * y.to(dtype) / 24
    ...         return torch.stack([angle.cos(), angle.sin()], -1)
    >>> Hour()(torch.tensor([0, 12]), torch.float32).round()
    tensor([[ 1.,  0.],
            [-1., -0.]])
    """

    features: int  #: how many numbers the networks read of it
    given: tuple[constraints.Constraint, ...]  #: one constraint, on a row of the array y

    def __call__(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Features of shape (n, features) from y with n rows."""


class OneHotCondition(nn.Module):
    """A label y = 0, ..., num_classes - 1 as a one-hot vector.

    >>> OneHotCondition(3)(torch.tensor([2, 0]), torch.float32)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])

    :param num_classes: number of classes.
    """

    @records_options
    def __init__(self, num_classes: int = 10):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"OneHotCondition expected num_classes of at least 2, got {num_classes}")
        self.features = num_classes
        self.given = (constraints.integer_interval(0, num_classes - 1),)

    def forward(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        # torch's one_hot reads the largest class back from the device to check it
        return (y.unsqueeze(-1) == torch.arange(self.features, device=y.device)).to(dtype)


class CovariatesCondition(nn.Module):
    """A vector y of real numbers as it is. Scale them to size one first.

    >>> CovariatesCondition(2)(torch.tensor([[0.5, -1.0]]), torch.float64)
    tensor([[ 0.5000, -1.0000]], dtype=torch.float64)

    :param dim: how many numbers there are; y has shape (n, dim).
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(f"CovariatesCondition expected dim of at least 1, got {dim}")
        self.features = dim
        self.given = (constraints.real_vector,)

    def forward(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.shape[-1] != self.features:
            raise ValueError(f"CovariatesCondition expected y of shape (n, {self.features}), got {tuple(y.shape)}")
        return y.to(dtype)
