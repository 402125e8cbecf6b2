"""Differences of log Gamma, digamma and trigamma against mpmath, relative to the difference itself."""

import itertools

import mpmath
import pytest
import torch
from torch import Tensor

from ppvae.special import digamma_difference, log_gamma_second_difference, trigamma_difference

START = [0.5, 1.0, 1.4616, 2.0, 3.3, 50.0, 2047.5, 1e8]
STEP = [1e-8, 1e-3, 0.5, 2.0, 100.0, 2047.5, 1e8]
BOUND = {torch.float64: 1e-15, torch.float32: 5e-7}
DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=str)


def columns(*axes: list[float], dtype: torch.dtype) -> list[Tensor]:
    """The points of a grid, one tensor for each axis."""
    return [torch.tensor(c, dtype=dtype, requires_grad=True) for c in zip(*itertools.product(*axes), strict=True)]


def assert_relative(values: Tensor, exact, bound: float, *arguments: Tensor):
    """Every value within ``bound`` of ``exact`` at the arguments as rounded, computed with 60 digits."""
    with mpmath.workdps(60):
        for value, *point in zip(values.tolist(), *(a.tolist() for a in arguments), strict=True):
            reference = exact(*(mpmath.mpf(x) for x in point))
            assert abs(value - reference) <= bound * abs(reference), (point, value, mpmath.nstr(reference, 12))


@DTYPES
def test_trigamma_difference(dtype):
    a, b = columns(START, STEP, dtype=dtype)
    y = trigamma_difference(a, b)
    assert_relative(y, lambda a, b: mpmath.psi(1, a) - mpmath.psi(1, a + b), BOUND[dtype], a, b)


@DTYPES
def test_digamma_difference_and_its_gradient(dtype):
    a, b = columns(START, STEP, dtype=dtype)
    y = digamma_difference(a, b)
    by_a, by_b = torch.autograd.grad(y.sum(), [a, b])
    bound = BOUND[dtype]
    assert_relative(y, lambda a, b: mpmath.psi(0, a + b) - mpmath.psi(0, a), bound, a, b)
    assert_relative(by_a, lambda a, b: mpmath.psi(1, a + b) - mpmath.psi(1, a), bound, a, b)
    assert_relative(by_b, lambda a, b: mpmath.psi(1, a + b), bound, a, b)


@DTYPES
def test_log_gamma_second_difference_and_its_gradient(dtype):
    a, b, c = columns(START, STEP[2:], STEP, dtype=dtype)
    y = log_gamma_second_difference(a, b, c)
    by_b, by_c = torch.autograd.grad(y.sum(), [b, c])
    log_gamma, bound = mpmath.loggamma, BOUND[dtype]

    def exact(a, b, c):
        return log_gamma(a) + log_gamma(a + b + c) - log_gamma(a + b) - log_gamma(a + c)

    assert_relative(y, exact, bound, a, b, c)
    assert_relative(by_b, lambda a, b, c: mpmath.psi(0, a + b + c) - mpmath.psi(0, a + b), bound, a, b, c)
    assert_relative(by_c, lambda a, b, c: mpmath.psi(0, a + b + c) - mpmath.psi(0, a + c), bound, a, b, c)


@DTYPES
def test_the_differences_are_zero_at_a_zero_step(dtype):
    a, zero, b = torch.tensor(START, dtype=dtype), torch.zeros((), dtype=dtype), torch.tensor(3.0, dtype=dtype)
    differences = (
        trigamma_difference(a, zero),
        digamma_difference(a, zero),
        log_gamma_second_difference(a, zero, b),
        log_gamma_second_difference(a, b, zero),
    )
    for y in differences:
        assert y.dtype == dtype
        assert y.eq(0).all()


def test_second_derivatives():
    a, b, c = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([0.5, 3.0], [0.5, 40.0], [2.0, 7.0]))
    assert torch.autograd.gradcheck(log_gamma_second_difference, (a, b, c))
    assert torch.autograd.gradgradcheck(log_gamma_second_difference, (a, b, c))
    assert torch.autograd.gradgradcheck(digamma_difference, (a, b))


def test_arguments_broadcast():
    a, b = torch.rand(3, 1) + 1, torch.rand(4)
    assert digamma_difference(a, b).shape == trigamma_difference(a, b).shape == (3, 4)
    assert log_gamma_second_difference(a, b, torch.rand(2, 1, 1)).shape == (2, 3, 4)
