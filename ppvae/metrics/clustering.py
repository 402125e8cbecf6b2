r"""Agreement of clusters with classes, whatever their names, and of angles with each other, whatever the offset.

References:
    [1] Comparing partitions (Hubert and Arabie, 1985), https://doi.org/10.1007/BF01908075
    [2] Information Theoretic Measures for Clusterings Comparison (Vinh, Epps and Bailey, 2010)
        https://www.jmlr.org/papers/v11/vinh10a.html
    [3] Topics in Circular Statistics (Jammalamadaka and SenGupta, 2001), section 8.2, https://doi.org/10.1142/4031
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppvae.checks import classes, numbers


def _contingency(clusters: ArrayLike, labels: ArrayLike) -> NDArray:
    """The number of data in cluster i and class j."""
    c = classes("clusters", clusters)
    y = classes("labels", labels, len(c))
    (_, c), (_, y) = np.unique(c, return_inverse=True), np.unique(y, return_inverse=True)
    table = np.zeros((c.max() + 1, y.max() + 1), np.int64)
    np.add.at(table, (c, y), 1)
    return table


def clustering_accuracy(clusters: ArrayLike, labels: ArrayLike) -> float:
    r"""Share of the data whose class is that of their cluster, at the best one-to-one assignment of clusters.

    .. math::
        \max_\pi \frac1n \sum_i 1[y_i = \pi(c_i)]

    If there are more clusters than classes, or fewer, some stay without a partner, and their data count as wrong.

    :param clusters: integers or strings, shape (n,).
    :param labels: integers or strings, shape (n,).
    :raises ValueError: if the lengths differ, or an entry is no class, e.g. NaN.

    >>> clustering_accuracy([0, 0, 1, 1], ["b", "b", "a", "b"])
    0.75
    """
    from scipy.optimize import linear_sum_assignment

    table = _contingency(clusters, labels)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def normalized_mutual_information(clusters: ArrayLike, labels: ArrayLike) -> float:
    r"""Mutual information of clusters and classes over the mean of their entropies, in [0, 1].

    .. math::
        \mathrm{NMI} = \frac{2 \, I(c; y)}{H(c) + H(y)}

    One cluster and one class, where both entropies are 0, agree entirely, and give 1.

    :param clusters: integers or strings, shape (n,).
    :param labels: integers or strings, shape (n,).
    :raises ValueError: if the lengths differ, or an entry is no class, e.g. NaN.

    Source: Vinh, Epps and Bailey (2010), https://www.jmlr.org/papers/v11/vinh10a.html

    >>> round(normalized_mutual_information([0, 0, 1, 1], [1, 1, 0, 1]), 4)
    0.3437
    """
    table = _contingency(clusters, labels)
    p = table / table.sum()

    def entropy(q: NDArray) -> float:
        return float(-(q[q > 0] * np.log(q[q > 0])).sum())

    total = entropy(p.sum(0)) + entropy(p.sum(1))
    return 2 * (total - entropy(p)) / total if total else 1.0


def adjusted_rand_index(clusters: ArrayLike, labels: ArrayLike) -> float:
    r"""Share of pairs on which two partitions agree, adjusted: 0 is the mean over random partitions, 1 is equality.

    .. math::
        \mathrm{ARI} = \frac{\sum_{ij} \binom{n_{ij}}{2} - E}{\tfrac12 (A + B) - E}, \qquad
        A = \sum_i \binom{n_i}{2}, \quad B = \sum_j \binom{n_j}{2}, \quad E = A B / \binom n2

    with n_ij data in cluster i and class j, n_i in cluster i and n_j in class j.

    :param clusters: integers or strings, shape (n,).
    :param labels: integers or strings, shape (n,).
    :raises ValueError: if the lengths differ, or an entry is no class, e.g. NaN.

    Source: Hubert and Arabie (1985), https://doi.org/10.1007/BF01908075

    >>> round(adjusted_rand_index([0, 0, 1, 1, 1], [0, 0, 1, 1, 0]), 4)
    0.1667
    """
    table = _contingency(clusters, labels)

    def pairs(n: NDArray) -> float:
        return float((n * (n - 1.0) / 2).sum())

    together, a, b = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = a * b / max(pairs(table.sum(keepdims=True)), 1.0)  # one datum has no pair, and nothing to disagree on
    spread = (a + b) / 2 - expected
    return (together - expected) / spread if spread else 1.0


def circular_correlation(angles: ArrayLike, others: ArrayLike, groups: ArrayLike | None = None) -> float:
    r"""Correlation of two angles in radians, whatever the offset between them, in [-1, 1].

    .. math::
        \rho = \frac{|\sum_j e^{i (a_j - b_j)}| - |\sum_j e^{i (a_j + b_j)}|}
                    {2 \sqrt{\sum_j \sin^2(a_j - \bar a) \sum_j \sin^2(b_j - \bar b)}}

    with :math:`\bar a - \bar b` and :math:`\bar a + \bar b` the directions of the two sums. It is 1 for a = b +
    constant and -1 for a = constant - b. It needs no mean of a or of b alone, which a uniform angle does not have.

    With ``groups`` the mean of a - b is taken out of each group first. Images that were turned need this: the canonical
    pose of one cluster has nothing to do with that of another. As an offset is fitted to each group, unrelated pairs in
    groups of n still give about :math:`0.9 / \sqrt n`, so leave small groups out.

    For shapes that look the same after a half turn, double both angles.

    :param angles: a, radians, shape (n,).
    :param others: b, radians, shape (n,).
    :param groups: a label for each pair, e.g. cluster and class in one, shape (n,).
    :raises ValueError: if the lengths differ, an angle is not finite, or one of the two does not vary.

    Source: Jammalamadaka and SenGupta (2001), https://doi.org/10.1142/4031

    >>> f"{circular_correlation([0.1, 1.1, 4.1], [0.0, 1.0, 4.0]):.3f}"
    '1.000'
    """
    a, b = numbers("angles", angles), numbers("others", others)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"others: expected angles of one shape (n,) in both arguments, got {a.shape} and {b.shape}; pass pairs"
        )
    if groups is not None:
        part = np.unique(classes("groups", groups, len(a)), return_inverse=True)[1]
        difference = np.exp(1j * (a - b))
        sums = np.bincount(part, difference.real) + 1j * np.bincount(part, difference.imag)
        a = a - np.angle(sums)[part]
    minus, plus = np.exp(1j * (a - b)).sum(), np.exp(1j * (a + b)).sum()
    mean_a, mean_b = (np.angle(plus) + np.angle(minus)) / 2, (np.angle(plus) - np.angle(minus)) / 2
    spread = (np.sin(a - mean_a) ** 2).sum() * (np.sin(b - mean_b) ** 2).sum()
    if spread <= 1e-24 * len(a) ** 2:  # sin^2 of rounding errors
        raise ValueError("angles, others: expected angles that vary, got one value for all; it has no correlation")
    return float((abs(minus) - abs(plus)) / (2 * np.sqrt(spread)))
