r"""How good generated data are: distances between the laws of features of real and of generated data.

With features r_1, ..., r_n of real and g_1, ..., g_m of generated data, :math:`\mu, C` their means and covariances
and :math:`\rho_k(r_i)` the distance of r_i from its k-th nearest neighbour among the other r:

.. math::
    \text{Fréchet distance}   &= |\mu_r - \mu_g|^2 + \mathrm{tr} (C_r + C_g - 2 (C_r C_g)^{1/2}) \\
    \text{kernel distance}    &= E\, k(r, r') + E\, k(g, g') - 2 E\, k(r, g), \qquad k(a, b) = (a \cdot b / d + 1)^3 \\
    \text{precision}          &= \tfrac1m \textstyle\sum_j 1[\exists i: |g_j - r_i| \le \rho_k(r_i)] \\
    \text{recall}             &= \tfrac1n \textstyle\sum_i 1[\exists j: |r_i - g_j| \le \rho_k(g_j)] \\
    \text{density}            &= \tfrac1{km} \textstyle\sum_j \sum_i 1[|g_j - r_i| \le \rho_k(r_i)] \\
    \text{coverage}           &= \tfrac1n \textstyle\sum_i 1[\exists j: |r_i - g_j| \le \rho_k(r_i)]

The Fréchet distance is the squared 2-Wasserstein distance of two normal laws with these moments; with Inception-v3
features it is the FID. Its estimate is biased upwards by an amount that falls as 1/n, so that only numbers at equal n
and m are to be compared. The kernel distance (KID) is unbiased, and can be negative. Memory is bounded: kernels and
distances are computed in blocks.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    """A number from a sample, and an interval for what other samples of the same size would have given."""

    value: float
    low: float = math.nan  #: NaN where no interval was asked for
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
    """The Fréchet distance of two normal laws with the means and covariances of the features, in their squared unit.

    It is computed in float64 as |mu_r - mu_g|^2 + tr C_r + tr C_g - 2 |A' B|_*, where C_r = A A', C_g = B B' and |.|_*
    is the sum of singular values, which needs no root of a matrix that is not symmetric, and holds for singular ones.

    :param real: data, shape (n, *shape), or their features where ``features`` is None.
    :param generated: data, shape (m, *shape).
    :param features: from data to features; where None the data are flattened.
    :param resamples: bootstrap resamples of both samples, each as costly as the distance itself; 0 for no interval.
        The interval is their spread put around the estimate, and ends at 0: resampling adds a bias, which is taken
        out.
    :param level: probability of the interval.
    :param seed: seed of the resamples.
    :raises ValueError: if a sample has fewer than two data, or features differ in number or are not finite.
    """
    r, g = _pair(real, generated, features)
    value = _frechet(r, g)
    if not resamples:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    replicates = [_frechet(_resampled(r, rng), _resampled(g, rng)) for _ in range(resamples)]
    interval = _centred(value, replicates, level)
    return Estimate(value, max(0.0, interval.low), interval.high)


def _frechet(r: Tensor, g: Tensor) -> float:
    (mu_r, A), (mu_g, B) = _moments(r), _moments(g)
    distance = (mu_r - mu_g).square().sum() + A.square().sum() + B.square().sum()
    # Zero for equal laws, where rounding may leave a little less.
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
    """KID: the squared maximum mean discrepancy of the features with the kernel (a.b / d + 1)^3, unbiased.

    :param real: data, shape (n, *shape), or their features where ``features`` is None.
    :param generated: data, shape (m, *shape).
    :param features: from data to features; where None the data are flattened.
    :param subsets: number of subsets of which the distance is averaged, as in the paper [2], where the interval is that
        of their mean; all pairs are used where None, which is the estimate of smallest variance.
    :param subset_size: data of each sample in a subset.
    :param resamples: bootstrap resamples; 0 for no interval. Over all pairs the terms of first order of the
        U-statistic are resampled: where the two laws are equal these vanish, and the interval is too narrow.
    :param level: probability of the interval.
    :param seed: seed of subsets and resamples.
    :param chunk: data whose kernel with all others is in memory at once.
    :raises ValueError: if a sample has fewer than two data, or than ``subset_size``, or features differ in number or
        are not finite.
    """
    r, g = _pair(real, generated, features)
    rng = np.random.default_rng(seed)
    if subsets is not None:
        if not 2 <= subset_size <= min(len(r), len(g)):
            raise ValueError(
                f"subset_size: expected within 2 and the size of the smaller sample, {min(len(r), len(g))}, got "
                f"{subset_size}"
            )
        draws = []
        for _ in range(subsets):
            one, other = (x[rng.choice(len(x), subset_size, replace=False)] for x in (r, g))
            draws.append(_mmd(one, other, chunk)[0])
        return _mean(np.array(draws), resamples, level, rng)
    value, of_r, of_g = _mmd(r, g, chunk)
    if not resamples:
        return Estimate(value)
    replicates = _means(of_r, resamples, rng) + _means(of_g, resamples, rng)
    return _centred(value, replicates, level)


def _mmd(r: Tensor, g: Tensor, chunk: int) -> tuple[float, NDArray, NDArray]:
    """The U-statistic, and what each real and generated datum adds to it in first order."""
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
    """What :func:`prdc` found: fidelity (precision, density) and diversity (recall, coverage)."""

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
    """Improved precision and recall [3], density and coverage [4], with balls that reach to the k-th neighbour.

    Density can exceed 1. Recall can be high for poor samples, whose balls are large; coverage cannot.

    :param real: data, shape (n, *shape), or their features where ``features`` is None.
    :param generated: data, shape (m, *shape).
    :param features: from data to features; where None the data are flattened.
    :param k: which neighbour, below n and m; 3 in [3], 5 in [4].
    :param resamples: bootstrap resamples; 0 for no interval. Precision and density are means over the generated data,
        recall and coverage over the real ones; the mean's sample is resampled, and the balls stay as they are, as a
        sample with repetitions has no balls.
    :param level: probability of the intervals.
    :param seed: seed of the resamples.
    :param chunk: data whose distances from all others are in memory at once.
    :raises ValueError: if k does not fit, or features differ in number or are not finite.
    """
    r, g = _pair(real, generated, features)
    if not 1 <= k < min(len(r), len(g)):
        raise ValueError(f"k: expected within 1 and {min(len(r), len(g)) - 1}, below both sample sizes, got {k}")
    radius_r, radius_g = (_radii(x, k, chunk) for x in (r, g))
    inside = torch.zeros(len(g), dtype=torch.float64)  # for each g_j: how many balls of real data hold it
    covered, recalled = [], []
    for part, radius in zip(r.split(chunk), radius_r.split(chunk), strict=True):
        distance = torch.cdist(part, g)
        inside += (distance <= radius[:, None]).sum(0)
        covered.append(distance.amin(1) <= radius)
        recalled.append((distance <= radius_g).any(1))
    rng = np.random.default_rng(seed)
    return PRDC(
        *(
            _mean(values.double().numpy(), resamples, level, rng)
            for values in (inside > 0, torch.cat(recalled), inside / k, torch.cat(covered))
        )
    )


def _radii(x: Tensor, k: int, chunk: int) -> Tensor:
    """Distance of each point from its k-th neighbour; the nearest of all is the point itself."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, 1).values for part in x.split(chunk)])


def nearest(points: Any, among: Any, features: Features | None = None, *, chunk: int = 1000) -> tuple[NDArray, NDArray]:
    """For each of ``points`` the Euclidean distance from the nearest of ``among``, and which that is: shape (n,) both.

    ``nearest(generated, train)`` shows what was memorised.
    """
    p, a = _pair(points, among, features, least=1)
    found = [torch.cdist(part, a).min(1) for part in p.split(chunk)]
    return torch.cat([f.values for f in found]).numpy(), torch.cat([f.indices for f in found]).numpy()


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
    """The probability that a generated datum is nearer to the training data than a test datum is (ties count half).

    It is 1/2 for a perfect model, near 1 for one that repeats its training data, and below 1/2 for one that falls short
    of the data's law.

    :param generated: data, shape (m, *shape), or features.
    :param train: what the model was trained on.
    :param test: fresh data from the same law.
    :param features: from data to features; where None the data are flattened.
    :param resamples: bootstrap resamples of generated and test data; 0 for no interval.

    Source: Meehan, Chaudhuri and Dasgupta (2020), https://arxiv.org/abs/2004.05675
    """
    ours, theirs = (nearest(x, train, features)[0] for x in (generated, test))
    ordered, other = np.sort(theirs), np.sort(ours)
    # of each generated datum: the share of test data that are farther; of each test datum: of generated ones nearer
    of_ours = 1 - (np.searchsorted(ordered, ours, "left") + np.searchsorted(ordered, ours, "right")) / 2 / len(theirs)
    of_theirs = (np.searchsorted(other, theirs, "left") + np.searchsorted(other, theirs, "right")) / 2 / len(ours)
    value = float(of_ours.mean())
    if not resamples:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    return _centred(value, _means(of_ours, resamples, rng) + _means(of_theirs, resamples, rng), level)


def _pair(one: Any, other: Any, features: Features | None, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both samples as features (n, d) in float64."""
    a, b = (_matrix(x if features is None else features(x)) for x in (one, other))
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"expected two samples of at least {least} data with equally many features, got shapes {tuple(a.shape)} "
            f"and {tuple(b.shape)}"
        )
    for x in (a, b):
        if not torch.isfinite(x).all():
            raise ValueError(f"expected finite features, got {int((~torch.isfinite(x)).sum())} that are not")
    return a, b


def _matrix(x: Any) -> Tensor:
    tensor = torch.as_tensor(x).detach().cpu().double()
    return tensor.reshape(len(tensor), -1)


def _resampled(x: Tensor, rng: np.random.Generator) -> Tensor:
    return x[torch.from_numpy(rng.integers(len(x), size=len(x)))]


def _means(values: NDArray, resamples: int, rng: np.random.Generator) -> NDArray:
    """Means of bootstrap resamples, shape (resamples,)."""
    return np.fromiter((values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)), float)


def _mean(values: NDArray, resamples: int, level: float, rng: np.random.Generator) -> Estimate:
    value = float(values.mean())
    return Estimate(value, *_quantiles(_means(values, resamples, rng), level)) if resamples else Estimate(value)


def _centred(value: float, replicates: Any, level: float) -> Estimate:
    """The spread of the replicates about their own mean, put around the value."""
    spread = np.asarray(replicates) - np.mean(replicates)
    low, high = _quantiles(spread, level)
    return Estimate(value, value + low, value + high)


def _quantiles(replicates: NDArray, level: float) -> Iterator[float]:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a probability between 0 and 1, got {level}")
    return (float(q) for q in np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]))
