"""Diagnostics by ArviZ, imported when they are asked for; both of its lines (0.x and 1.x) are served."""

import warnings

import numpy as np


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto k-hat of importance weights, one for each row of ``log_weights`` (n, samples); NaN where all weights are equal.

    Below 0.5 the weights have a finite variance, above 0.7 an importance sampling estimate is not to be trusted.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), https://www.jmlr.org/papers/v25/19-556.html
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices of ArviZ about itself
        import arviz as az

        if hasattr(az, "psislw"):  # 0.x
            smooth = az.psislw
        else:
            from arviz_stats.base import array_stats

            smooth = array_stats.psislw
    k = np.full(len(log_weights), np.nan)
    vary = np.ptp(log_weights, axis=1) > 0
    if vary.any():
        k[vary] = np.asarray(smooth(np.array(log_weights[vary]))[1])
    return k
