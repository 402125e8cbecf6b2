r"""Bessel functions of a ratio, in the form in which laws on the sphere need them.

With m the ambient dimension, v = m/2 - 1 and k >= 0 a concentration,

.. math::
    F(k) = \log {}_0F_1(; m/2; k^2/4) = \log \Gamma(v+1) + \log I_v(k) - v \log (k/2)
         = \log E_{z \sim \mathrm{U}(S^{m-1})}[e^{k z_1}], \\
    A(k) = F'(k) = I_{v+1}(k) / I_v(k), \qquad A' = 1 - A^2 - (m-1) A / k, \qquad K(k) = k A - F.

These lines are not how they are computed: I_v overflows and underflows, and every difference above cancels somewhere.
Instead the expansion of I_n for large order [1, 10.41.3], uniform in k, is taken at an order n = v + i that is large
enough, and brought down to v by the recurrence that runs in its stable direction [1, 10.29.1]. With z = k/n,
:math:`s = \sqrt{1+z^2}` and t = 1/s,

.. math::
    F_n = n \left( s - 1 - \log \tfrac{1+s}{2} \right) - \tfrac12 \log s + R(t) - R(1), \qquad
    R(t) = \sum_{i \ge 1} D_i(t) \, n^{-i} = \log \sum_{i \ge 0} u_i(t) \, n^{-i}, \\
    A_j = \frac{I_{j+1}(k)}{I_j(k)} = \frac{k}{2 (j+1)} \rho_j, \qquad
    q_j = \frac{k}{2j} A_j, \qquad \rho_{j-1} = \frac{1}{1 + q_j}, \qquad
    F_{j-1} = F_j + \log(1 + q_j).

R(1) is Stirling's series of log Gamma, so that no Gamma function is left. Every term added to F is positive, so that F
keeps its relative accuracy down to k = 0, where F ~ k^2 / 2m. The same steps carry 1 - A and A' (below), which keep
their relative accuracy up to large k, where 1 - A ~ (m-1)/2k and A' ~ (m-1)/2k^2. There is one formula for all k:
nothing branches on values. Float32 arguments are computed in float64 with fewer terms, and cast back.

Every function takes ``k``, a tensor of any shape, and ``m``, an integer >= 2. A size that torch.jit.trace has made a
tensor counts as the integer that it is. Error bounds are relative, against
mpmath for 2 <= m <= 4096 and 0 <= k <= 1e8; in float32 the bound is 2e-6 for all of them.

References:
    [1] NIST Digital Library of Mathematical Functions, 10.29, 10.41
        https://dlmf.nist.gov/10.41
    [2] Computation of Modified Bessel Functions and Their Ratios (Amos, 1974)
        https://doi.org/10.1090/S0025-5718-1974-0333287-7
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import torch
from numpy.polynomial import Chebyshev, Polynomial
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from ppvae.special.precision import widen

__all__ = [
    "bessel_ratio",
    "bessel_ratio_complement",
    "bessel_ratio_derivative",
    "bessel_ratio_over_argument",
    "log_hyp0f1",
    "log_hyp0f1_conjugate",
    "log_hyp0f1_divergence",
    "log_hyp0f1_scaled",
]


class _Accuracy(NamedTuple):
    order: int  # least order n at which the expansion is taken
    terms: int  # number of terms D_i kept
    tolerance: float  # of the polynomials in t that sum them


# The largest |D_i(t)| n^-i left out is 1e-14 for n = 18, i = 12, and 3e-8 for n = 8, i = 7.
_DOUBLE = _Accuracy(order=18, terms=11, tolerance=1e-16)
_SINGLE = _Accuracy(order=8, terms=6, tolerance=1e-7)
# Nodes and weights on [0, 1].
_GAUSS_LEGENDRE = tuple((0.5 * y).tolist() for y in (leggauss(6)[0] + 1, leggauss(6)[1]))


@lru_cache
def _debye(terms: int) -> list[list[Fraction]]:
    """Coefficients of D_1(t), D_2(t), ... in powers of t, from those of u_i(t) [1, 10.41.9]."""
    u = [[Fraction(1)]]
    for _ in range(terms):
        new = [Fraction(0)] * (len(u[-1]) + 3)
        for i, a in enumerate(u[-1]):  # u' = t^2 (1 - t^2) u_t / 2 + int_0^t (1 - 5 y^2) u(y) dy / 8
            new[i + 1] += a * Fraction(i, 2) + a / (8 * (i + 1))
            new[i + 3] -= a * Fraction(i, 2) + 5 * a / (8 * (i + 3))
        u.append(new)
    D: list[list[Fraction]] = []
    for i in range(1, terms + 1):  # the logarithm of a power series: i D_i = i u_i - sum_j j D_j u_{i-j}
        new = list(u[i])
        for j, d in enumerate(D, start=1):
            for k, x in enumerate(d):
                for l, y in enumerate(u[i - j]):
                    new[k + l] -= Fraction(j, i) * x * y
        D.append(new)
    return D


@lru_cache
def _polynomials(n: float, accuracy: _Accuracy) -> tuple[list[float], list[float], list[float]]:
    """(R(t) - R(1)) / (1 - t), R'(t) and R''(t) on 0 <= t <= 1, as short polynomials in x = 2t - 1."""
    R = [Fraction(0)] * (3 * accuracy.terms + 1)
    for i, d in enumerate(_debye(accuracy.terms), start=1):
        for a, x in enumerate(d):
            R[a] += x / Fraction(n) ** i
    quotient = [-sum(R[a:], Fraction(0)) for a in range(1, len(R))]
    first = [a * R[a] for a in range(1, len(R))]
    second = [a * first[a] for a in range(1, len(first))]

    def economise(p: list[Fraction]) -> list[float]:
        c = Polynomial([float(a) for a in p]).convert(kind=Chebyshev, domain=[0, 1]).coef
        short = c[: 1 + max((a for a in range(len(c)) if abs(c[a]) > accuracy.tolerance), default=0)]
        return Chebyshev(short, domain=[0, 1]).convert(kind=Polynomial, domain=[0, 1], window=[-1, 1]).coef.tolist()

    return economise(quotient), economise(first), economise(second)


def _horner(coefficients: list[float], x: Tensor) -> Tensor:
    y = torch.full_like(x, coefficients[-1])
    for a in reversed(coefficients[:-1]):
        y = y * x + a
    return y


def _prepare(k: Tensor, m: int) -> tuple[Tensor, int, float, _Accuracy]:
    """k in the dtype of the arithmetic, the number of steps from n down to v, n, and the accuracy."""
    if m < 2:
        raise ValueError(f"expected an ambient dimension m >= 2 (m = 2 is the circle), got {m}")
    if not k.dtype.is_floating_point:
        raise ValueError(f"expected k of a floating dtype such as torch.float64, got {k.dtype}")
    accuracy = _DOUBLE if k.dtype == torch.float64 else _SINGLE
    v = m / 2 - 1
    steps = max(0, math.ceil(accuracy.order - v))
    return widen(k), steps, v + steps, accuracy


def _descend(k: Tensor, m: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A, 1 - A and all q_j, by 1 - A_{j-1} = rho_{j-1} - A_{j-1} (1 - A_j)."""
    k, steps, n, accuracy = _prepare(k, m)
    z = k / n
    s = (1 + z * z).sqrt()
    t = 1 / s
    slope = t * t * (0.5 + t * _horner(_polynomials(n, accuracy)[1], 2 * t - 1)) / n
    A = z * (1 / (1 + s) - slope)
    complement = (1 + 1 / (s + z)) / (1 + s) + z * slope  # 1 - z / (1 + s) is the first term
    q = []
    for i in range(steps):
        h = k * (0.5 / (n - i))
        q.append(A * h)
        rho = 1 / (1 + q[-1])
        A = h * rho
        complement = torch.addcmul(rho, A, complement, value=-1)
    return A, complement, q


def _evaluate(k: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """F, F - k, K, A and 1 - A."""
    dtype = k.dtype
    A, complement, q = _descend(k, m)
    k, _, n, accuracy = _prepare(k, m)
    z = k / n
    s = (1 + z * z).sqrt()
    d = z * z / (1 + s)  # s - 1, so that 1 - t = d / s
    bend = n * torch.log1p(0.5 * d)
    rest = d / s * _horner(_polynomials(n, accuracy)[0], 2 / s - 1) - 0.5 * torch.log1p(d)
    if q:
        rest = rest + torch.log1p(torch.stack(q)).sum(0)
    F = n * d - bend + rest
    scaled = rest - bend - k * (1 + 1 / (s + z)) / (1 + s)
    # Either form of K loses less than two digits on its side of n.
    K = torch.where(k < n, k * A - F, -scaled - k * complement)
    return F.to(dtype), scaled.to(dtype), K.to(dtype), A.to(dtype), complement.to(dtype)


class _LogHyp0F1(torch.autograd.Function):
    """F, F - k, K, A, 1 - A and their derivatives A, A - 1, k A', A', -A'."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor, m: int):
        return _evaluate(k, m)

    @staticmethod
    def setup_context(ctx, inputs, output):
        k, ctx.m = inputs
        ctx.save_for_backward(k, output[3], output[4])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads):
        k, A, complement = ctx.saved_tensors
        F, scaled, K, ratio, rest = grads
        terms = [g * a for g, a in ((F, A), (scaled, -complement)) if g is not None]
        if not (K is None and ratio is None and rest is None):
            derivative = bessel_ratio_derivative(k, ctx.m)
            slopes = ((K, k * derivative), (ratio, derivative), (rest, -derivative))
            terms += [g * a for g, a in slopes if g is not None]
        return (torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]) if terms else None, None


class _BesselRatio(torch.autograd.Function):
    """A and 1 - A alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor, m: int):
        A, complement, _ = _descend(k, m)
        return A.to(k.dtype), complement.to(k.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        k, ctx.m = inputs
        ctx.save_for_backward(k)

    @staticmethod
    def backward(ctx, ratio, rest):
        (k,) = ctx.saved_tensors
        return (ratio - rest) * bessel_ratio_derivative(k, ctx.m), None


def log_hyp0f1(k: Tensor, m: int) -> Tensor:
    r"""F(k) = log 0F1(; m/2; k^2/4): the log normaliser of exp(k z_1) under the uniform law on S^{m-1}, in nats.

    Range [0, k], F(0) = 0, F ~ k^2 / 2m for small k. Gradient A(k). Error below 1e-12, at small k too.

    >>> k = torch.tensor(2.0)
    >>> print(f"{log_hyp0f1(k, 3):.4f} {math.log(math.sinh(2) / 2):.4f}")
    0.5952 0.5952
    """
    return _LogHyp0F1.apply(k, int(m))[0]


def log_hyp0f1_scaled(k: Tensor, m: int) -> Tensor:
    r"""F(k) - k without the cancellation: -k for small k, and for large k

    .. math:: F(k) - k \to \log \Gamma(m/2) - \tfrac12 \log 4 \pi - \tfrac{m-1}{2} \log (k/2).

    Range (-inf, 0]. Gradient A(k) - 1 = -bessel_ratio_complement. Error below 1e-12.

    >>> k = torch.tensor(1e6)
    >>> print(f"{log_hyp0f1_scaled(k, 3):.4f} {-math.log(2e6):.4f}")
    -14.5087 -14.5087
    """
    return _LogHyp0F1.apply(k, int(m))[1]


def log_hyp0f1_conjugate(k: Tensor, m: int) -> Tensor:
    r"""K(k) = k A(k) - F(k), the convex conjugate of F at A(k): the Kullback-Leibler divergence in nats of the von
    Mises-Fisher law of concentration k from the uniform law.

    Range [0, inf), K ~ k^2 / 2m for small k. Gradient k A'(k). Error below 1e-12, at small k too.

    >>> k = torch.tensor(2.0)
    >>> print(f"{log_hyp0f1_conjugate(k, 3):.4f} {2 * (1 / math.tanh(2) - 0.5) - math.log(math.sinh(2) / 2):.4f}")
    0.4794 0.4794
    """
    return _LogHyp0F1.apply(k, int(m))[2]


def bessel_ratio(k: Tensor, m: int) -> Tensor:
    r"""A(k) = I_{m/2}(k) / I_{m/2-1}(k): the mean resultant length of the von Mises-Fisher law.

    Range [0, 1), A ~ k/m for small k. Gradient A'(k). Error below 1e-12. For A near 1 see
    :func:`bessel_ratio_complement`.

    >>> print(f"{bessel_ratio(torch.tensor(2.0), 3):.4f} {1 / math.tanh(2) - 0.5:.4f}")
    0.5373 0.5373
    """
    return _BesselRatio.apply(k, int(m))[0]


def bessel_ratio_complement(k: Tensor, m: int) -> Tensor:
    r"""1 - A(k) without the cancellation: (m-1) / 2k for large k.

    Range (0, 1]. Gradient -A'(k). Error below 1e-12.

    >>> print(f"{bessel_ratio_complement(torch.tensor(1e8), 3):.1e}")
    1.0e-08
    """
    return _BesselRatio.apply(k, int(m))[1]


def bessel_ratio_over_argument(k: Tensor, m: int) -> Tensor:
    r"""A(k) / k, which is 1/m at k = 0: the variance of a von Mises-Fisher law across its mean direction.

    Range (0, 1/m]. Gradient by that of A at m + 2. Error below 1e-12.

    >>> print(f"{bessel_ratio_over_argument(torch.tensor(0.0), 4):.4f}")
    0.2500
    """
    # One step of the recurrence, which is a step of two in m: no division by k.
    return 1 / (int(m) + k * bessel_ratio(k, m + 2))


def bessel_ratio_derivative(k: Tensor, m: int) -> Tensor:
    r"""A'(k) = 1 - A^2 - (m-1) A / k without the cancellation: (m-1) / 2k^2 for large k. It is the variance of a von
    Mises-Fisher law along its mean direction.

    .. math:: A'_j = A_j \, \epsilon_j / k, \qquad \epsilon_{j-1} = (1 - \epsilon_j q_j) / (1 + q_j), \qquad
              \epsilon_n = k A'_n / A_n \text{ from the expansion.}

    Range (0, 1/m]. Gradients of every order by automatic differentiation of the recurrence. Error below 1e-11.

    >>> print(f"{bessel_ratio_derivative(torch.tensor(2.0), 3):.4f} {0.25 - 1 / math.sinh(2) ** 2:.4f}")
    0.1740 0.1740
    """
    dtype, m = k.dtype, int(m)
    k, steps, n, accuracy = _prepare(k, m)
    _, first, second = _polynomials(n, accuracy)
    z = k / n
    s = (1 + z * z).sqrt()
    t = 1 / s
    x = 2 * t - 1
    R1, R2 = _horner(first, x), _horner(second, x)
    # n A'_n and A_n / z. Without the factor z, epsilon is 1 at k = 0.
    bend = t / (1 + s) + t * t * (0.5 - t * t + t * R1 * (2 - 3 * t * t) + t * t * (1 - t * t) * R2) / n
    ratio = 1 / (1 + s) - t * t * (0.5 + t * R1) / n
    epsilon = bend / ratio
    rho = ratio * (2 * (n + 1) / n)
    for i in range(steps):
        q = k * k * rho * (0.25 / ((n - i) * (n - i + 1)))
        rho = 1 / (1 + q)
        epsilon = (1 - epsilon * q) * rho
    return (rho * epsilon / m).to(dtype)


def log_hyp0f1_divergence(k: Tensor, k0: Tensor, m: int) -> Tensor:
    r"""The Bregman divergence of F, F(k) - F(k0) - (k - k0) A(k0): the Kullback-Leibler divergence in nats of a von
    Mises-Fisher law of concentration k0 from one of concentration k and the same mean direction.

    Where k and k0 are within a quarter of each other it is the integral of (k - y) A'(y) from k0 to k by a
    Gauss-Legendre rule: six nodes leave 1e-13, as the poles of A lie on the imaginary axis.

    Range [0, inf), 0 for k = k0. Gradients A(k) - A(k0) and -(k - k0) A'(k0). Error below 1e-10.

    >>> k, k0 = torch.tensor(1e6), torch.tensor(2e6)
    >>> print(f"{log_hyp0f1_divergence(k, k0, 3):.4f} {math.log(2) - 0.5:.4f}")
    0.1931 0.1931
    """
    if k.dtype != k0.dtype:
        raise ValueError(f"expected k and k0 of one dtype, got {k.dtype} and {k0.dtype}")
    dtype = k.dtype
    return _Divergence.apply(*torch.broadcast_tensors(widen(k), widen(k0)), int(m)).to(dtype)


class _Divergence(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor, k0: Tensor, m: int):
        F, scaled = _evaluate(k, m)[:2]
        F0, scaled0, _, A0, complement0 = _evaluate(k0, m)
        step = k - k0
        apart = torch.where(k0 < m, F - F0 - step * A0, scaled - scaled0 + step * complement0)
        nodes, weights = _GAUSS_LEGENDRE
        derivative = bessel_ratio_derivative(torch.stack([k0 + a * step for a in nodes]), m)
        mean = torch.stack([w * (1 - a) * y for a, w, y in zip(nodes, weights, derivative, strict=True)]).sum(0)
        near = step.abs() < 0.25 * torch.minimum(k, k0)
        return torch.where(near, step * step * mean, apart)

    @staticmethod
    def setup_context(ctx, inputs, output):
        k, k0, ctx.m = inputs
        ctx.save_for_backward(k, k0)

    @staticmethod
    def backward(ctx, grad):
        k, k0 = ctx.saved_tensors
        gap = torch.where(
            k0 < ctx.m,
            bessel_ratio(k, ctx.m) - bessel_ratio(k0, ctx.m),
            bessel_ratio_complement(k0, ctx.m) - bessel_ratio_complement(k, ctx.m),
        )
        return grad * gap, -grad * (k - k0) * bessel_ratio_derivative(k0, ctx.m), None
