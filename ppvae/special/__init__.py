"""Special functions: value, range, gradient and error bound stand in each docstring."""

from ppvae.special.bessel import (
    bessel_ratio,
    bessel_ratio_complement,
    bessel_ratio_derivative,
    bessel_ratio_over_argument,
    log_hyp0f1,
    log_hyp0f1_conjugate,
    log_hyp0f1_divergence,
    log_hyp0f1_scaled,
)
from ppvae.special.gamma import digamma_difference, log_gamma_second_difference, trigamma_difference
from ppvae.special.periodic import log_periodic_sum

__all__ = [
    "bessel_ratio",
    "bessel_ratio_complement",
    "bessel_ratio_derivative",
    "bessel_ratio_over_argument",
    "digamma_difference",
    "log_gamma_second_difference",
    "log_hyp0f1",
    "log_hyp0f1_conjugate",
    "log_hyp0f1_divergence",
    "log_hyp0f1_scaled",
    "log_periodic_sum",
    "trigamma_difference",
]
