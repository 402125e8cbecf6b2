"""Constraints of parameters that exclude infinity, which those of torch contain."""

from typing import Any

from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

__all__ = ["Finite", "finite", "log_weights", "lower_cholesky", "positive", "positive_or_zero"]


class Finite(constraints.Constraint):
    """The finite values that a constraint admits.

    :param base: a constraint of numbers, of vectors or of matrices.

    >>> import torch
    >>> Finite(constraints.positive).check(torch.tensor([1.0, 0.0, torch.inf]))
    tensor([ True, False, False])
    """

    def __init__(self, base: constraints.Constraint):
        self.base = base
        self.event_dim = base.event_dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        is_finite = value.isfinite()
        for _ in range(self.event_dim):
            is_finite = is_finite.all(-1)
        return self.base.check(value) & is_finite

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
lower_cholesky = Finite(constraints.lower_cholesky)
log_weights = _LogWeights()


@biject_to.register(_LogWeights)
@transform_to.register(_LogWeights)
def _transform_to_log_weights(constraint: _LogWeights) -> Any:
    return biject_to(constraints.real_vector)
