"""The sum over the turns of a circle against mpmath, on a grid of angles, scales and powers, and its derivatives."""

import math

import mpmath
import pytest
import torch

from ppvae.special import log_periodic_sum

F64 = torch.float64
# On both sides of the two scales at which the form changes, 8 in float32 and 11 in float64.
SCALES = [1e-3, 0.1, 1.0, 3.0, 6.0, 7.99, 8.01, 10.99, 11.01, 17.0]


def exact(theta, rate, p):
    """The sum itself, over all turns within forty scales of its largest terms."""
    theta, rate = mpmath.mpf(theta), mpmath.mpf(rate)
    reach = int((math.sqrt(p) + 40) / float(rate) / 6) + 2
    tau = 2 * mpmath.pi
    turns = range(-reach, reach + 1)
    return mpmath.log(
        mpmath.fsum(abs(1 + tau * k / theta) ** p * mpmath.exp(-((rate * (theta + tau * k)) ** 2) / 2) for k in turns)
    )


@pytest.mark.parametrize("p", [0, 1, 2, 3, 4, 7, 13, 14, 21, 23, 24, 62])
def test_the_sum_is_that_of_mpmath(p):
    theta = [1e-6, 1e-3, 0.3, 1.5, 3.0, math.pi]
    for scale in SCALES:
        for dtype in (torch.float32, F64):
            # The reference takes the numbers as the dtype holds them.
            t, rate = torch.tensor(theta, dtype=dtype), torch.tensor(1 / scale, dtype=dtype)
            got = log_periodic_sum(t, rate, p)
            for a, b in zip(t.double().tolist(), got.tolist(), strict=True):
                value = float(exact(a, rate.item(), p))
                limit = 1e-12 if dtype == F64 else 1e-6
                assert abs(b - value) <= limit * (1 + p + abs(value)), (dtype, scale, a)


@pytest.mark.parametrize("p", [0, 1, 2, 3])
@pytest.mark.parametrize("scale", [100.0, 3000.0])
def test_large_scales(p, scale):
    rate = torch.tensor(1 / scale, dtype=F64)
    got = log_periodic_sum(torch.tensor(1.0, dtype=F64), rate, p).item()
    assert got == pytest.approx(float(exact(1.0, rate.item(), p)), abs=1e-12)


@pytest.mark.parametrize("p", [254, 1022, 4094])
@pytest.mark.parametrize("scale", [0.5, 3.0, 10.9, 11.1, 20.0])
def test_many_dimensions(p, scale):
    """The largest terms are those of |t| = scale sqrt(p), far beyond any fixed number of turns about 0."""
    theta = [1e-3, 1.0, math.pi]
    got = log_periodic_sum(torch.tensor(theta, dtype=F64), torch.tensor(1 / scale, dtype=F64), p)
    for a, b in zip(theta, got.tolist(), strict=True):
        rate = torch.tensor(1 / scale, dtype=F64).item()
        assert b == pytest.approx(float(exact(a, rate, p)), rel=1e-12, abs=1e-12 * p)


@pytest.mark.parametrize("p", [0, 1, 2, 5, 14])
def test_derivatives(p):
    theta = torch.tensor([0.2, 1.0, 3.0], dtype=F64, requires_grad=True)
    for scale in (0.2, 1.0, 5.0, 12.0, 50.0):
        rate = torch.full((3,), 1 / scale, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t, r: log_periodic_sum(t, r, p), (theta, rate), atol=1e-7)


def test_turns_are_counted():
    theta, rate = torch.tensor([0.5], dtype=F64), torch.tensor([0.2], dtype=F64)
    terms = [(1 + 2 * math.pi * k / 0.5) ** 2 * math.exp(-((0.5 + 2 * math.pi * k) ** 2) / 50) for k in range(-2, 3)]
    assert log_periodic_sum(theta, rate, 2, turns=2).item() == pytest.approx(math.log(sum(terms)), rel=1e-13)
    assert log_periodic_sum(theta, rate, 2, turns=0).item() == pytest.approx(math.log(terms[2]), rel=1e-13)
