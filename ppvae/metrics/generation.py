r"""How good generated data are: distances between the laws of features of real and of generated data.

Let r_1, ..., r_n be the features of real and g_1, ..., g_m those of generated data, :math:`\mu, C` their means and
covariances, and :math:`\rho_k(r_i)` the distance of r_i from its k-th nearest neighbour among the other r. Then

.. math::
    \text{Fréchet distance}   &= |\mu_r - \mu_g|^2 + \mathrm{tr} (C_r + C_g - 2 (C_r C_g)^{1/2}) \\
    \text{kernel distance}    &= E\, k(r, r') + E\, k(g, g') - 2 E\, k(r, g), \qquad k(a, b) = (a \cdot b / d + 1)^3 \\
    \text{precision}          &= \tfrac1m \textstyle\sum_j 1[\exists i: |g_j - r_i| \le \rho_k(r_i)] \\
    \text{recall}             &= \tfrac1n \textstyle\sum_i 1[\exists j: |r_i - g_j| \le \rho_k(g_j)] \\
    \text{density}            &= \tfrac1{km} \textstyle\sum_j \sum_i 1[|g_j - r_i| \le \rho_k(r_i)] \\
    \text{coverage}           &= \tfrac1n \textstyle\sum_i 1[\exists j: |r_i - g_j| \le \rho_k(r_i)]

The Fréchet distance is the squared 2-Wasserstein distance of two normal laws with these moments. With the features of
Inception-v3 it is the FID. Its estimate is biased upwards by an amount that falls as 1/n, so compare only numbers at
equal n and m. The kernel distance (KID) is unbiased, and can be negative. Kernels and distances are computed in blocks,
so memory is bounded. Intervals are bootstrap intervals.

References:
    [1] GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), the Fréchet distance
        https://arxiv.org/abs/1706.08500
    [2] Demystifying MMD GANs (Binkowski et al., 2018), the kernel distance
        https://arxiv.org/abs/1801.01401
    [3] Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019)
        https://arxiv.org/abs/1904.06991
    [4] Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020), density and coverage
        https://arxiv.org/abs/2002.09797
    [5] A Non-Parametric Test to Detect Data-Copying in Generative Models (Meehan, Chaudhuri and Dasgupta, 2020)
        https://arxiv.org/abs/2004.05675
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ppvae.checks import count, numbers
from ppvae.metrics.distances import nearest_neighbours, within

__all__ = [
    "PRDC",
    "Estimate",
    "data_copying",
    "frechet_distance",
    "kernel_distance",
    "nearest",
    "prdc",
]

Features = Callable[[Any], Any]  #: from data (n, *shape) to features (n, d)


@dataclass(frozen=True)
class Estimate:
    """A number from a sample, and an interval for what other samples of the same size would have given.

    >>> print(Estimate(1.23456), "and", Estimate(1, 0.5, 2))
    1.235 and 1 [0.5, 2]
    """

    value: float
    low: float = math.nan  #: NaN if no interval was asked for
    high: float = math.nan

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"


def frechet_distance(
    real: Any,
    generated: Any,
    features: Features | None = None,
    *,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    r"""The Fréchet distance of two normal laws with the means and covariances of the features, in their squared unit.

    It is computed in float64 as

    .. math::
        |\mu_r - \mu_g|^2 + \mathrm{tr}\, C_r + \mathrm{tr}\, C_g - 2 |A^\top B|_*, \qquad
        C_r = A A^\top, \quad C_g = B B^\top

    with the sum of singular values :math:`|\cdot|_*`. This needs no root of a matrix that is not symmetric, and holds
    for singular covariances.

    :param real: data, shape (n, \*shape), or their features if ``features`` is None.
    :param generated: data, shape (m, \*shape), or their features.
    :param features: function from data to features, shape (n, d). By default the data are flattened.
    :param resamples: number of bootstrap resamples of both samples, each as costly as the distance itself; 0 for no
        interval. Resampling adds a bias, so the interval is the spread of the resamples about their mean, put around
        the estimate and cut off at 0.
    :param level: probability of the interval.
    :param seed: seed of the resamples.
    :raises ValueError: if a sample has fewer than two data, or the features differ in number or are not finite.

    Source: Heusel et al. (2017), https://arxiv.org/abs/1706.08500

    >>> print(frechet_distance([[0.0], [2.0]], [[3.0], [5.0]], resamples=0))
    9
    """
    bootstrap = _Bootstrap(resamples, level, seed)
    r, g = _read(features, real=real, generated=generated)
    value = _frechet(r, g)
    found = bootstrap.around(value, [_frechet(*map(bootstrap.resampled, (r, g))) for _ in range(resamples)])
    return Estimate(value, max(0.0, found.low), found.high) if resamples else found


def _frechet(r: Tensor, g: Tensor) -> float:
    (mu_r, A), (mu_g, B) = _moments(r), _moments(g)
    distance = (mu_r - mu_g).square().sum() + A.square().sum() + B.square().sum()
    # Of equal laws it is 0, and rounding may leave a little less.
    return max(0.0, (distance - 2 * torch.linalg.svdvals(A.mT @ B).sum()).item())


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and a factor A of the covariance A A'."""
    values, vectors = torch.linalg.eigh(x.mT.cov().reshape(x.shape[1], x.shape[1]))
    return x.mean(0), vectors * values.clamp(min=0).sqrt()  # a singular covariance has eigenvalues of -1e-17


def kernel_distance(
    real: Any,
    generated: Any,
    features: Features | None = None,
    *,
    subsets: int | None = None,
    subset_size: int = 1000,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    chunk: int = 1000,
) -> Estimate:
    r"""KID: the squared maximum mean discrepancy of the features with the kernel (a.b / d + 1)^3, unbiased.

    :param real: data, shape (n, \*shape), or their features if ``features`` is None.
    :param generated: data, shape (m, \*shape), or their features.
    :param features: function from data to features, shape (n, d). By default the data are flattened.
    :param subsets: number of subsets over which the distance is averaged, as in [2]; the interval is then that of their
        mean. By default all pairs are used, which is the estimate of smallest variance.
    :param subset_size: data of each sample in a subset.
    :param resamples: number of bootstrap resamples; 0 for no interval. If all pairs are used, the terms of first order
        of the U-statistic are resampled. These vanish for equal laws, and then the interval is too narrow.
    :param level: probability of the interval.
    :param seed: seed of subsets and resamples.
    :param chunk: how many data are compared with all others at once.
    :raises ValueError: if a sample has fewer than two data, or than ``subset_size``, or the features differ in number
        or are not finite.

    Source: Binkowski et al. (2018), https://arxiv.org/abs/1801.01401

    >>> print(kernel_distance([[0.0], [2.0]], [[3.0], [5.0]], resamples=0))
    3259
    """
    bootstrap = _Bootstrap(resamples, level, seed)
    r, g = _read(features, real=real, generated=generated)
    count("chunk", chunk)
    if subsets is not None:
        count("subsets", subsets)
        count("subset_size", subset_size, 2, min(len(r), len(g)))
        draws = []
        for _ in range(subsets):
            one, other = (x[bootstrap.rng.choice(len(x), subset_size, replace=False)] for x in (r, g))
            draws.append(_mmd(one, other, chunk)[0])
        return bootstrap.mean(np.array(draws))
    value, of_r, of_g = _mmd(r, g, chunk)
    return bootstrap.around(value, bootstrap.means(of_r) + bootstrap.means(of_g))


def _mmd(r: Tensor, g: Tensor, chunk: int) -> tuple[float, NDArray, NDArray]:
    """The U-statistic, and its terms of first order: what each real and each generated datum adds to it."""
    rr, gg, rg, gr = (
        torch.cat([_kernel(part, y).sum(1) for part in x.split(chunk)]) for x, y in ((r, r), (g, g), (r, g), (g, r))
    )
    n, m = len(r), len(g)
    within_r, within_g = (rr - _kernel_self(r)) / (n - 1), (gg - _kernel_self(g)) / (m - 1)
    value = within_r.mean() + within_g.mean() - 2 * rg.mean() / m
    return value.item(), 2 * (within_r - rg / m).numpy(), 2 * (within_g - gr / n).numpy()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT / a.shape[1] + 1) ** 3


def _kernel_self(a: Tensor) -> Tensor:
    return (a.square().mean(1) + 1) ** 3


@dataclass(frozen=True)
class PRDC:
    """The result of :func:`prdc`: fidelity (precision, density) and diversity (recall, coverage)."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self).items())


def prdc(
    real: Any,
    generated: Any,
    features: Features | None = None,
    *,
    k: int = 5,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    chunk: int = 1000,
) -> PRDC:
    r"""Improved precision and recall [3], density and coverage [4], with balls that reach to the k-th neighbour.

    Density can exceed 1. Recall can be high for poor samples, because their balls are large; coverage cannot.

    :param real: data, shape (n, \*shape), or their features if ``features`` is None.
    :param generated: data, shape (m, \*shape), or their features.
    :param features: function from data to features, shape (n, d). By default the data are flattened.
    :param k: which neighbour, below n and m; 3 in [3], 5 in [4].
    :param resamples: number of bootstrap resamples; 0 for no interval. Precision and density are means over the
        generated data, recall and coverage over the real ones, and the sample of the mean is resampled. The balls stay
        as they are, because a sample with repetitions has none.
    :param level: probability of the intervals.
    :param seed: seed of the resamples.
    :param chunk: how many data are compared with all others at once.
    :raises ValueError: if k does not fit, or the features differ in number or are not finite.

    >>> found = prdc([[0.0], [1.0], [2.0]], [[0.5], [9.0], [9.5]], k=1, resamples=0)
    >>> {name: round(float(estimate), 3) for name, estimate in vars(found).items()}
    {'precision': 0.333, 'recall': 1.0, 'density': 0.667, 'coverage': 0.667}
    """
    bootstrap = _Bootstrap(resamples, level, seed)
    r, g = _read(features, real=real, generated=generated)
    count("k", k, 1, min(len(r), len(g)) - 1)
    count("chunk", chunk)
    # The nearest neighbour of a point is the point itself, or an equal one.
    radius_r, radius_g = (torch.from_numpy(nearest_neighbours(x, x, k + 1, chunk)[0][:, -1]) for x in (r, g))
    covered = nearest_neighbours(r, g, 1, chunk)[0][:, 0] <= radius_r.numpy()
    inside, recalled = torch.zeros(len(g), dtype=torch.float64), []  # of each g_j the number of balls that hold it
    for in_real, in_generated in within(r, g, radius_r, radius_g, chunk):
        inside += in_real.sum(0)
        recalled.append(in_generated.any(1))
    values = (inside > 0, torch.cat(recalled), inside / k, torch.from_numpy(covered))
    return PRDC(*(bootstrap.mean(value.double().numpy()) for value in values))


def nearest(points: Any, among: Any, features: Features | None = None, *, chunk: int = 1000) -> tuple[NDArray, NDArray]:
    r"""The Euclidean distance of each point from the nearest of ``among``, and the row of that one: shape (n,) both.

    A copy is at distance 0, and of several equally near the first row is named. ``nearest(generated, train)`` shows
    what was memorised.

    :param points: data, shape (n, \*shape), or their features if ``features`` is None.
    :param among: data, shape (m, \*shape), or their features.
    :param features: function from data to features, shape (n, d). By default the data are flattened.
    :param chunk: how many points are compared with all others at once.
    :raises ValueError: if the features differ in number or are not finite.

    >>> nearest([[0.0], [5.0]], [[3.0], [5.0], [5.0]])
    (array([3., 0.]), array([0, 1]))
    """
    p, a = _read(features, least=1, points=points, among=among)
    distance, row = nearest_neighbours(p, a, 1, count("chunk", chunk))
    return distance[:, 0], row[:, 0]


def data_copying(
    generated: Any,
    train: Any,
    test: Any,
    features: Features | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    r"""The probability that a generated datum is nearer to the training data than a test datum is (ties count half).

    It is 1/2 for a perfect model, near 1 for one that repeats its training data, and below 1/2 for one that falls short
    of the law of the data.

    :param generated: data, shape (m, \*shape), or their features if ``features`` is None.
    :param train: what the model was trained on.
    :param test: fresh data from the same law.
    :param features: function from data to features, shape (n, d). By default the data are flattened.
    :param resamples: number of bootstrap resamples of generated and test data; 0 for no interval.
    :param level: probability of the interval.
    :param seed: seed of the resamples.
    :raises ValueError: if a sample has fewer than two data, or the features differ in number or are not finite.

    Source: Meehan, Chaudhuri and Dasgupta (2020), https://arxiv.org/abs/2004.05675

    >>> train, test = [[0.0], [10.0]], [[1.0], [12.0]]
    >>> print(data_copying([[0.0], [9.0]], train, test, resamples=0))  # 0 and 1 away, test data 1 and 2
    0.875
    """
    bootstrap = _Bootstrap(resamples, level, seed)
    g, a, t = _read(features, generated=generated, train=train, test=test)
    ours, theirs = (nearest_neighbours(x, a, 1)[0][:, 0] for x in (g, t))
    of_ours = 1 - _rank(ours, theirs)  # of each generated datum: the share of test data that are farther
    of_theirs = _rank(theirs, ours)  # of each test datum: the share of generated data that are nearer
    return bootstrap.around(float(of_ours.mean()), bootstrap.means(of_ours) + bootstrap.means(of_theirs))


def _rank(values: NDArray, among: NDArray) -> NDArray:
    """The share of ``among`` that is below each value, where equal ones count half."""
    ordered = np.sort(among)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2 / len(among)


def _read(features: Features | None, least: int = 2, **samples: Any) -> list[Tensor]:
    """The features (n, d) in float64 of samples, by the names of the arguments."""
    found = []
    for name, sample in samples.items():
        if features is not None:
            name, sample = f"features of {name}", features(sample)
        array = numbers(name, sample, least)
        found.append(torch.from_numpy(array.reshape(len(array), -1)))
    if len({x.shape[1] for x in found}) > 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in found)
        raise ValueError(
            f"{', '.join(samples)}: expected as many features of each, got shapes {shapes}; compare data of one shape"
        )
    return found


class _Bootstrap:
    """Resamples with replacement, and intervals of the numbers that they give; none if ``resamples`` is 0."""

    def __init__(self, resamples: int, level: float, seed: int):
        self.resamples = count("resamples", resamples, 0)
        if not 0 < level < 1:
            raise ValueError(f"level: expected a probability between 0 and 1, got {level}; take e.g. 0.95")
        self.level, self.rng = level, np.random.default_rng(seed)

    def resampled(self, x: Tensor) -> Tensor:
        return x[torch.from_numpy(self.rng.integers(len(x), size=len(x)))]

    def means(self, values: NDArray) -> NDArray:
        """Means of resamples of the values, shape (resamples,)."""
        n = len(values)
        return np.array([values[self.rng.integers(n, size=n)].mean() for _ in range(self.resamples)])

    def mean(self, values: NDArray) -> Estimate:
        """The mean of the values, with the quantiles of its resamples."""
        value = float(values.mean())
        return Estimate(value, *self._quantiles(self.means(values))) if self.resamples else Estimate(value)

    def around(self, value: float, replicates: ArrayLike) -> Estimate:
        """The value, with the quantiles of the replicates about their own mean, put around it."""
        if not self.resamples:
            return Estimate(value)
        spread = np.asarray(replicates, float)
        low, high = self._quantiles(spread - spread.mean())
        return Estimate(value, value + low, value + high)

    def _quantiles(self, replicates: NDArray) -> list[float]:
        return np.quantile(replicates, [(1 - self.level) / 2, (1 + self.level) / 2]).tolist()
