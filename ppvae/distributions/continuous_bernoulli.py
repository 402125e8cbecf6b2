r"""The continuous Bernoulli law on [0, 1] [1], in a form that holds for logits of any size.

    p(x | h) = exp(h (x - 1/2)) t / sinh t,   t = h/2,   0 <= x <= 1
    E x      = 1/2 + L(t) / 2,                L(t) = coth t - 1/t

Both cancel for large h. There the law is an exponential law about the end r that it prefers, 1 for h > 0 and 0 for
h < 0, cut off at the other end: with a = |h|,

    log p(x | h) = h (x - r) - log((1 - e^-a) / a),   |E x - r| = 1/a - e^-a / (1 - e^-a)

Only h enters, and no probability that rounds to 1: ``torch.distributions.ContinuousBernoulli`` clamps one, after which
its float32 density has the wrong normaliser for ``|h| > 16`` (0.06 nats off at 17, 1.7 at 90) and no gradient.

References:
    [1] The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.utils import broadcast_all

from ppvae.distributions.finite import finite

__all__ = ["ContinuousBernoulli"]

# log(sinh t / t) = sum_n c_n t^2n, which converges for |t| < pi: six terms leave 1e-16 for |t| < 1/4, |h| < SWITCH.
SWITCH = 0.5
SERIES = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250)


def _pieces(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where ``|h|`` is small, t = h/2 for the series, and a = ``|h|`` for the forms at large ``|h|``."""
    a = h.abs()
    small = a < SWITCH
    return small, torch.where(small, 0.5 * h, 0), torch.where(small, 1, a)


def _series(square: Tensor, factor: Callable[[int], int]) -> Tensor:
    """sum_n factor(n) c_n t^(2n - 2)."""
    first, second, *rest = reversed([factor(n) * c for n, c in enumerate(SERIES, 1)])
    series = second + first * square
    for c in rest:
        series = c + square * series
    return series


def _log_normaliser(a: Tensor) -> Tensor:
    """log((1 - e^-a) / a) for a > 0."""
    return torch.log1p(-(-a).exp()) - a.log()


def _distance(a: Tensor) -> Tensor:
    """The mean distance from the end that the law prefers, 1/a - e^-a / (1 - e^-a) for a > 0."""
    decay = (-a).exp()
    return 1 / a - decay / (1 - decay)


class ContinuousBernoulli(TorchDistribution):
    """Density on [0, 1] proportional to lambda^x (1 - lambda)^(1-x), lambda = sigmoid(logits); total mass 1 in dx.

    In float32 the logarithm of the density is right to 1e-6 of its largest term, h (x - r) included, for every h.

    :param logits: h, finite, of any shape; h = 0 is the uniform law.
    :raises ValueError: where arguments are validated, for logits that are not finite or a value outside [0, 1].

    >>> law = ContinuousBernoulli(torch.tensor([0.0, 2.0, -1e8]))
    >>> print([f"{x:.4f}" for x in law.log_prob(torch.tensor([0.5, 1.0, 0.0]))], f"{law.mean[1]:.4f}")
    ['0.0000', '0.8386', '18.4207'] 0.6565

    Source: Loaiza-Ganem and Cunningham (2019), https://arxiv.org/abs/1907.06845
    """

    arg_constraints = {"logits": finite}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor | float, validate_args: bool | None = None):
        (self.logits,) = broadcast_all(logits)
        super().__init__(self.logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: "ContinuousBernoulli | None" = None) -> "ContinuousBernoulli":
        new = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        small, t, a = _pieces(self.logits)
        end = torch.where(small, 0.5, (self.logits > 0).to(a.dtype))
        square = t.square()
        log_c = torch.where(small, square * _series(square, lambda n: 1), _log_normaliser(a))
        return self.logits * (value - end) - log_c

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        """Draws by the inverse of the distribution function; the gradient is pathwise."""
        # in (0, 1], so that no logarithm is of 0 where exp(-h) underflows
        u = 1 - torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        a = self.logits.abs()
        small = a < 1e-3  # where log(...)/a loses more digits than the next term, of order a^2 / 12, is worth
        a = torch.where(small, 1.0, a)
        y = -torch.log(u + (1 - u) * (-a).exp()) / a  # the distance from the end that the law prefers
        x = torch.where(self.logits < 0, y, 1 - y)
        x = torch.where(small, u + self.logits * u * (1 - u) / 2, x)
        return x.clamp(0, 1)  # which rounding can leave by an ulp

    @property
    def mean(self) -> Tensor:
        """1/2 + (coth(h/2) - 2/h) / 2."""
        small, t, a = _pieces(self.logits)
        y = _distance(a)
        series = 0.5 + t * _series(t.square(), lambda n: n)
        return torch.where(small, series, torch.where(self.logits < 0, y, 1 - y))

    @property
    def variance(self) -> Tensor:
        """The derivative of the mean, 1/h^2 - 1/(4 sinh^2(h/2)); 1/12 at h = 0."""
        small, t, a = _pieces(self.logits)
        decay = (-a).exp()
        # sinh t = (1 - e^-2t) / 2 e^-t, which does not overflow
        large = 1 / a.square() - decay / (1 - decay).square()
        return torch.where(small, _series(t.square(), lambda n: n * (2 * n - 1)) / 2, large)

    def entropy(self) -> Tensor:
        """-E log p(x), in nats; 1 - log ``|h|`` for large ``|h|``."""
        small, t, a = _pieces(self.logits)
        square = t.square()
        series = square * (_series(square, lambda n: 1) - _series(square, lambda n: 2 * n))
        return torch.where(small, series, _log_normaliser(a) + a * _distance(a))
