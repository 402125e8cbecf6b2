"""Diagnostics by ArviZ, imported when they are asked for; both of its lines (0.x and 1.x) are served."""

import math
import sys
import warnings

import numpy as np
from numpy.typing import NDArray


def pareto_k(log_weights: NDArray) -> NDArray:
    """Pareto k-hat of importance weights, one for each row of ``log_weights`` (n, S).

    Below 0.5 the weights have a finite variance, above 0.7 an importance sampling estimate is not to be trusted. It is
    fitted to the M = min(S/5, 3 sqrt S) largest weights. It is infinite where fewer than five of them are there to fit,
    as for S < 25 or where all others are 0 beside them, and NaN where they are all equal or one is infinite or NaN.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), https://www.jmlr.org/papers/v25/19-556.html
    """
    ordered = np.sort(np.asarray(log_weights, float), axis=1)
    n, S = ordered.shape
    if S < 25:
        return np.full(n, np.inf)
    M = math.ceil(min(S / 5, 3 * math.sqrt(S)))
    k = np.full(n, np.nan)
    rows = np.flatnonzero(np.isfinite(ordered[:, -1]))  # NaN is sorted to the end
    # A weight of 0 stays 0, and both lines of ArviZ get numbers.
    ordered = np.maximum(ordered[rows] - ordered[rows, -1:], 2 * math.log(sys.float_info.min))
    few = ordered[:, -5] < math.log(sys.float_info.min)
    k[rows[few]] = np.inf
    rows, ordered = rows[~few], ordered[~few]
    differ = ordered[:, -M] < ordered[:, -1]
    if differ.any():
        k[rows[differ]] = _fit(ordered[differ])
    return k


def _fit(log_weights: NDArray) -> NDArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ about itself, when it is imported
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            import arviz

            return np.asarray(arviz.psislw(log_weights)[1])
        return np.asarray(array_stats.psislw(-log_weights)[1])  # 1.x takes the negative, as of log likelihoods for LOO
