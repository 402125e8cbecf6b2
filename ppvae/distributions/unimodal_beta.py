r"""The Beta law on [0, 1] with one mode, in forms that hold in float32 at any concentration.

.. math::
    q(z) = \frac{z^{p} (1 - z)^{q}}{B(1 + p, 1 + q)}, \qquad p, q \ge 0, \quad n = p + q, \quad m = p / n \text{ the
    mode}

With :math:`g(x) = \log \Gamma(1 + x) - x \log x + x`, which grows as :math:`\tfrac12 \log 2 \pi x`,

.. math::
    \log q(z) &= p \log \Bigl(1 + \frac{d}{p}\Bigr) + q \log \Bigl(1 - \frac{d}{q}\Bigr)
        + \log(1 + n) + g(n) - g(p) - g(q), \qquad d = n (z - m) = q z - p (1 - z), \\
    \mathrm{KL}(q \| U) &= \log(1 + n) - \frac{n}{1 + n} + k(n) - k(p) - k(q), \qquad
    k(x) = \log \Gamma(1 + x) + x - x \psi(1 + x)

No term is larger than the spread of log q itself. The usual sum of log Gamma functions has terms of size n log n, and
at n = 1e6 it is off by a nat in float32.

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), https://arxiv.org/abs/1812.05769
    [2] Fast and accurate computation of binomial probabilities (Loader, 2000)
        https://www.r-project.org/doc/reports/CLoader-dbinom-2002.pdf
    [3] Implicit Reparameterization Gradients (Figurnov et al., 2018), https://arxiv.org/abs/1805.08498
"""

import math

import torch
from pyro.distributions import TorchDistribution, Uniform
from torch import Size, Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Dirichlet, constraints
from torch.distributions import Uniform as TorchUniform
from torch.distributions.kl import register_kl

from ppvae.distributions.center import center
from ppvae.distributions.finite import positive_or_zero
from ppvae.distributions.power_spherical import _log_odds_derivative
from ppvae.special.gamma import digamma_difference

__all__ = ["UnimodalBeta"]

# Stirling's series from x = 8 on: nine terms leave less than the rounding error of float64.
LARGE = 8.0
STIRLING = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400, 43867 / 244188]


def _pieces(x: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments that are safe in the forms for small x and for large x."""
    return torch.where(x < LARGE, x, 1), torch.where(x < LARGE, LARGE, x)


def _series(c: list[float], x: Tensor) -> Tensor:
    y = x.square().reciprocal()
    value = torch.zeros_like(y)
    for c_n in reversed(c):
        value = value * y + c_n
    return value / x


def _g(x: Tensor) -> Tensor:
    """log Gamma(1 + x) - x log x + x, 0 at x = 0."""
    few, many = _pieces(x)
    direct = torch.lgamma(1 + few) - torch.xlogy(few, few) + few
    return torch.where(x < LARGE, direct, (2 * math.pi * many).log() / 2 + _series(STIRLING, many))


def _k(x: Tensor) -> Tensor:
    """log Gamma(1 + x) + x - x digamma(1 + x), 0 at x = 0."""
    few, many = _pieces(x)
    direct = torch.lgamma(1 + few) + few - few * torch.digamma(1 + few)
    c = [2 * n * s for n, s in enumerate(STIRLING, 1)]
    return torch.where(x < LARGE, direct, (2 * math.pi * many).log() / 2 - 0.5 + _series(c, many))


def _power(p: Tensor, off: Tensor, z: Tensor, n: Tensor) -> Tensor:
    """p log (n z / p) = p log(1 + off / p), 0 at p = 0 and -inf at z = 0 < p."""
    some = torch.where(p > 0, p, 1)
    log = torch.where(off > -some / 2, torch.log1p(off / some), z.log() + (n / some).log())
    return torch.where(p > 0, p * log, 0)


class _LogDensity(Function):
    """log q(z), whose derivatives are finite at p = 0 and q = 0 where those of its terms are not."""

    @staticmethod
    def forward(p, q, z):
        n, w = p + q, 1 - z
        off = z * q - w * p
        return _power(p, off, z, n) + _power(q, -off, w, n) + torch.log1p(n) + _g(n) - _g(p) - _g(q)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        p, q, z = ctx.saved_tensors
        w = 1 - z
        by_p, by_q, by_z = ctx.needs_input_grad
        return (
            grad * (z.log() + digamma_difference(1 + p, 1 + q)) if by_p else None,
            grad * (torch.log1p(-z) + digamma_difference(1 + q, 1 + p)) if by_q else None,
            grad * (w * p - z * q) / z / w if by_z else None,
        )


class _Draw(Function):
    """z and 1 - z, with their implicit gradients in the two concentrations."""

    @staticmethod
    def forward(a, b, z, w):
        return z.clone(), w.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_z, grad_w):
        a, b, z, w = ctx.saved_tensors
        by_log_odds = (grad_z - grad_w) * z * w
        return (
            -by_log_odds * _log_odds_derivative(a, b, z, w),
            by_log_odds * _log_odds_derivative(b, a, w, z),
            None,
            None,
        )


class UnimodalBeta(TorchDistribution):
    r"""Beta(1 + p, 1 + q) on [0, 1]: a posterior q(z | x) in a chart, uniform at p = q = 0.

    The density is with respect to dz, total mass 1. It is bounded. At z = 0 it is 0 if p > 0, and at z = 1 if q > 0:
    ``log_prob`` is -inf there.

    :param p: concentration to the right of 0, p >= 0.
    :param q: concentration to the left of 1, q >= 0; the two broadcast.
    :raises ValueError: with validated arguments, for a p or q that is negative or not finite, and for a value outside
        [0, 1].

    >>> law = UnimodalBeta(torch.tensor(3.0), torch.tensor(1.0))  # Beta(4, 2), with its mode at 3/4
    >>> print(f"{law.log_prob(torch.tensor(0.75)):.4f} {law.mean:.4f} {law.entropy():.4f}")
    0.7464 0.6667 -0.3624
    """

    arg_constraints = {"p": positive_or_zero, "q": positive_or_zero}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, p: Tensor, q: Tensor, validate_args=None):
        self.p, self.q = torch.broadcast_tensors(p, q)
        super().__init__(self.p.shape, Size(), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(UnimodalBeta, _instance)
        new.p, new.q = self.p.expand(batch_shape), self.q.expand(batch_shape)
        super(UnimodalBeta, new).__init__(Size(batch_shape), Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E z = (1 + p) / (2 + p + q)."""
        return (1 + self.p) / (2 + self.p + self.q)

    @property
    def variance(self) -> Tensor:
        """Var z = (1 + p)(1 + q) / ((2 + p + q)^2 (3 + p + q))."""
        n = self.p + self.q
        return self.mean * ((1 + self.q) / (2 + n)) / (3 + n)

    def rsample(self, sample_shape=()) -> Tensor:
        """Numbers in (0, 1) of shape ``sample_shape + batch_shape``, with implicit gradients [3] in p and q."""
        shape = self._extended_shape(Size(sample_shape))
        a, b = 1 + self.p.expand(shape), 1 + self.q.expand(shape)
        with torch.no_grad():
            pair = Dirichlet(torch.stack([a, b], -1), validate_args=False).sample()
            # Below 1, the end of the half-open interval of a uniform prior; above 0, where the logarithm ends.
            unit = torch.finfo(a.dtype)
            z, w = pair.clamp(unit.tiny, 1 - unit.eps / 2).unbind(-1)
        return _Draw.apply(a, b, z, w)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """log density in nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        return _LogDensity.apply(*torch.broadcast_tensors(self.p, self.q, value))

    def entropy(self) -> Tensor:
        """Entropy in nats: -KL to the uniform law on [0, 1]."""
        p, q = self.p, self.q
        n = p + q
        return n / (1 + n) - torch.log1p(n) - _k(n) + _k(p) + _k(q)


@center.register
def _(law: UnimodalBeta) -> Tensor:
    return law.mean


@register_kl(UnimodalBeta, TorchUniform)
@register_kl(UnimodalBeta, Uniform)
def _kl_beta_uniform(q: UnimodalBeta, p: TorchUniform) -> Tensor:
    covered = (p.low <= 0) & (p.high >= 1)
    return torch.where(covered, (p.high - p.low).log() - q.entropy(), math.inf)
