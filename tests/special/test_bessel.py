import functools
import math

import mpmath
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.special import (
    bessel_ratio,
    bessel_ratio_complement,
    bessel_ratio_derivative,
    bessel_ratio_over_argument,
    log_hyp0f1,
    log_hyp0f1_conjugate,
    log_hyp0f1_divergence,
    log_hyp0f1_scaled,
)

# Orders on both sides of those at which the expansion is taken (v = m/2 - 1 = 8 and 16), odd and even.
DIMS = [2, 3, 4, 5, 11, 16, 18, 19, 33, 34, 41, 101, 400, 1024, 4096]
K = [0, 1e-8, 1e-3, 0.1, 1, 3, 10, 16, 40, 100, 1e3, 1e4, 1e6, 1e8]
FUNCTIONS = {
    "F": log_hyp0f1,
    "scaled": log_hyp0f1_scaled,
    "K": log_hyp0f1_conjugate,
    "A": bessel_ratio,
    "complement": bessel_ratio_complement,
    "A/k": bessel_ratio_over_argument,
    "A'": bessel_ratio_derivative,
}


@functools.cache
def oracle(k: float, m: int) -> dict[str, tuple[mpmath.mpf, mpmath.mpf]]:
    """Each function and its derivative in 60 digits, from the definitions."""
    if k == 0:
        one = mpmath.mpf(1)
        return {
            "F": (0, 0),
            "scaled": (0, -1),
            "K": (0, 0),
            "A": (0, one / m),
            "complement": (1, -one / m),
            "A/k": (one / m, 0),
            "A'": (one / m, 0),
        }
    with mpmath.workdps(60):
        k, v = mpmath.mpf(k), mpmath.mpf(m) / 2 - 1
        if k > 1e6 or (k > 1e4 and k > 50 * m * m):
            i0, i1 = mpmath.besseli(v, k), mpmath.besseli(v + 1, k)
            F, A = mpmath.loggamma(v + 1) + mpmath.log(i0) - v * mpmath.log(k / 2), i1 / i0
        else:
            f0, f1 = mpmath.hyp0f1(v + 1, k * k / 4), mpmath.hyp0f1(v + 2, k * k / 4)
            F, A = mpmath.log(f0), f1 / f0 * k / m
        d = 1 - A * A - (m - 1) * A / k
        d2 = -2 * A * d - (m - 1) * (d - A / k) / k
        return {
            "F": (F, A),
            "scaled": (F - k, A - 1),
            "K": (k * A - F, k * d),
            "A": (A, d),
            "complement": (1 - A, -d),
            "A/k": (A / k, (d - A / k) / k),
            "A'": (d, d2),
        }


def relative_error(got: float, expected) -> float:
    return float(abs(got - expected) / abs(expected)) if expected else abs(got)


@pytest.mark.parametrize(("dtype", "bound", "slope"), [(torch.float64, 1e-12, 1e-11), (torch.float32, 2e-6, 2e-6)])
def test_values_and_derivatives_agree_with_mpmath(dtype, bound, slope):
    for m in DIMS:
        k = torch.tensor(K, dtype=dtype, requires_grad=True)
        expected = [oracle(x, m) for x in k.tolist()]
        for name, function in FUNCTIONS.items():
            value = function(k, m)
            assert value.dtype == dtype
            (grad,) = torch.autograd.grad(value.sum(), k)
            for i, e in enumerate(expected):
                assert relative_error(value[i].item(), e[name][0]) < bound, (name, m, K[i])
                # A'' is the derivative of the recurrence by automatic differentiation: some digits less.
                limit = 100 * slope if name == "A'" else slope
                assert relative_error(grad[i].item(), e[name][1]) < limit, (name, m, K[i])


@pytest.mark.parametrize("m", [2, 3, 16, 40, 4096])
def test_second_derivatives_are_those_of_the_first(m):
    k = torch.tensor(K, dtype=torch.float64, requires_grad=True)
    d = bessel_ratio_derivative(k, m)
    (d2,) = torch.autograd.grad(d.sum(), k, create_graph=True)
    expected = {"F": d, "scaled": d, "K": d + k * d2, "A": d2, "complement": -d2}
    for name, second in expected.items():
        (grad,) = torch.autograd.grad(FUNCTIONS[name](k, m).sum(), k, create_graph=True)
        (grad2,) = torch.autograd.grad(grad.sum(), k, retain_graph=True)
        torch.testing.assert_close(grad2, second, rtol=1e-10, atol=0)


def test_gradients_of_several_outputs_add_up():
    def total(k):
        return sum(f(k, 7) * (i + 1) for i, f in enumerate(FUNCTIONS.values()))

    k = torch.tensor([0.3, 5.0, 80.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (k,))
    assert torch.autograd.gradgradcheck(total, (k,))
    per_datum = torch.func.vmap(torch.func.grad(total))(k.detach())
    torch.testing.assert_close(per_datum, torch.autograd.grad(total(k).sum(), k)[0])


def test_closed_forms_in_one_three_and_five_dimensions():
    k = torch.tensor([0.5, 2.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(log_hyp0f1(k, 2), torch.special.i0(k).log(), rtol=1e-13, atol=0)
    torch.testing.assert_close(bessel_ratio(k, 2), torch.special.i1(k) / torch.special.i0(k), rtol=1e-13, atol=0)
    torch.testing.assert_close(log_hyp0f1(k, 3), (k.sinh() / k).log(), rtol=1e-12, atol=0)
    torch.testing.assert_close(bessel_ratio(k, 3), 1 / k.tanh() - 1 / k, rtol=1e-12, atol=0)
    expected = (3 * (k * k.cosh() - k.sinh()) / k**3).log()
    torch.testing.assert_close(log_hyp0f1(k, 5), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_far_beyond_the_stated_range_everything_is_finite(dtype):
    k = torch.tensor([1e-30, 1e-12, 1e10, 1e12], dtype=dtype, requires_grad=True)
    for m in (2, 3, 17, 100_000):
        for function in FUNCTIONS.values():
            value = function(k, m)
            (grad,) = torch.autograd.grad(value.sum(), k)
            assert value.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_divergence_agrees_with_mpmath(dtype, bound):
    pairs = [(a, b) for a in (0, 1e-3, 1.0, 30.0, 1e4, 1e8) for b in (0, 1e-3, 1.0, 30.0, 1e4, 1e8)]
    pairs += [(a, a * b) for a in (1e-3, 1.0, 30.0, 1e4, 1e8) for b in (0.5, 0.75, 0.8, 0.99, 1.001, 1.2, 1.26, 2)]
    k, k0 = torch.tensor(pairs, dtype=dtype).requires_grad_().unbind(1)
    for m in (2, 16, 101, 4096):
        value = log_hyp0f1_divergence(k, k0, m)
        grad = torch.autograd.grad(value.sum(), (k, k0))
        for i, (x, x0) in enumerate(zip(k.tolist(), k0.tolist(), strict=True)):
            e, e0 = oracle(x, m), oracle(x0, m)
            with mpmath.workdps(60):
                expected = e["F"][0] - e0["F"][0] - (mpmath.mpf(x) - x0) * e0["A"][0]
                slope = e["A"][0] - e0["A"][0], -(mpmath.mpf(x) - x0) * e0["A"][1]
            assert relative_error(value[i].item(), expected) < bound, (m, x, x0)
            # The first slope is a difference; its terms are known to a rounding error.
            scale = min(max(e["A"][0], e0["A"][0]), max(e["complement"][0], e0["complement"][0]))
            assert abs(grad[0][i].item() - slope[0]) <= bound * scale, (m, x, x0)
            assert relative_error(grad[1][i].item(), slope[1]) < bound, (m, x, x0)


def test_traces_without_values():
    def f(k):
        return torch.stack([g(k, 6) for g in FUNCTIONS.values()] + [log_hyp0f1_divergence(k, 2 * k, 6)])

    traced = make_fx(f)(torch.tensor([1.0, 2.0]))
    k = torch.tensor([0.0, 1e6])
    torch.testing.assert_close(traced(k), f(k), rtol=0, atol=0)


def test_arguments_out_of_range_raise():
    with pytest.raises(ValueError, match="m >= 2"):
        log_hyp0f1(torch.tensor(1.0), 1)
    with pytest.raises(ValueError, match="floating"):
        log_hyp0f1(torch.tensor(1), 3)


def test_limits_at_large_argument():
    k, m = torch.tensor(1e8, dtype=torch.float64), 16
    limit = math.lgamma(m / 2) - 0.5 * math.log(4 * math.pi) - (m - 1) / 2 * math.log(1e8 / 2)
    assert log_hyp0f1_scaled(k, m).item() == pytest.approx(limit, abs=1e-5)
    assert (k * bessel_ratio_complement(k, m)).item() == pytest.approx((m - 1) / 2, rel=1e-6)
    assert (k * k * bessel_ratio_derivative(k, m)).item() == pytest.approx((m - 1) / 2, rel=1e-6)
