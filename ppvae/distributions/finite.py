"""Constraints of parameters that exclude infinity, which those of torch contain."""

from typing import Any

from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

__all__ = ["Finite", "finite", "log_weights", "positive", "positive_or_zero"]


class Finite(constraints.Constraint):
    """The finite numbers that a constraint of numbers admits.

    :param base: a constraint of single numbers.

    >>> import torch
    >>> Finite(constraints.positive).check(torch.tensor([1.0, 0.0, torch.inf]))
    tensor([ True, False, False])
    """

    def __init__(self, base: constraints.Constraint):
        self.base = base
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.base.check(value) & value.isfinite()

    def __repr__(self) -> str:
        return f"Finite({self.base!r})"


# As laws with constraints of torch are, laws with these are taken from and to unconstrained parameters.
@biject_to.register(Finite)
def _biject_to_finite(constraint: Finite) -> Any:
    return biject_to(constraint.base)


@transform_to.register(Finite)
def _transform_to_finite(constraint: Finite) -> Any:
    return transform_to(constraint.base)


class _LogWeights(constraints.Constraint):
    """Logarithms of weights up to a constant: minus infinity is a weight of zero, and one weight is positive."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value < float("inf")).all(-1) & (value > -float("inf")).any(-1)


finite = Finite(constraints.real)
positive = Finite(constraints.positive)
positive_or_zero = Finite(constraints.nonnegative)
log_weights = _LogWeights()


@biject_to.register(_LogWeights)
@transform_to.register(_LogWeights)
def _transform_to_log_weights(constraint: _LogWeights) -> Any:
    return biject_to(constraints.real_vector)
