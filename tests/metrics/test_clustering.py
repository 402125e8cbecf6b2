"""Agreement of partitions and of angles, against counting by hand and known laws."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import iv

from ppvae.metrics import (
    adjusted_rand_index,
    circular_correlation,
    clustering_accuracy,
    invariance_error,
    normalized_mutual_information,
)


def partitions(seed=0, n=60, K=4, J=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, K, n), rng.integers(0, J, n)


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_is_that_of_the_best_assignment(seed):
    c, y = partitions(seed, K=4, J=4)
    best = max((np.array(pi)[c] == y).mean() for pi in itertools.permutations(range(4)))
    assert clustering_accuracy(c, y) == pytest.approx(best)


def test_accuracy_with_more_clusters_than_classes():
    assert clustering_accuracy([0, 0, 1, 1, 2], [5, 5, 5, 5, 5]) == pytest.approx(2 / 5)
    assert clustering_accuracy([0, 0, 0, 0], [1, 1, 2, 2]) == pytest.approx(1 / 2)


@pytest.mark.parametrize("seed", range(3))
def test_rand_index_by_counting_pairs(seed):
    c, y = partitions(seed, n=30)
    pairs = list(itertools.combinations(range(30), 2))
    same_c, same_y = (np.array([p[i] == p[j] for i, j in pairs]) for p in (c, y))
    observed, expected = (same_c & same_y).sum(), same_c.sum() * same_y.sum() / len(pairs)
    ari = (observed - expected) / ((same_c.sum() + same_y.sum()) / 2 - expected)
    assert adjusted_rand_index(c, y) == pytest.approx(ari)


def test_rand_index_of_hubert_and_arabie():
    """The table with rows (1, 1, 0), (1, 2, 1), (0, 0, 4): 7 pairs together of the 45."""
    table = np.array([[1, 1, 0], [1, 2, 1], [0, 0, 4]])
    c, y = np.repeat(np.arange(3), table.sum(1)), np.concatenate([np.repeat(np.arange(3), row) for row in table])
    assert adjusted_rand_index(c, y) == pytest.approx((7 - 13 * 14 / 45) / ((13 + 14) / 2 - 13 * 14 / 45))


@pytest.mark.parametrize("seed", range(3))
def test_mutual_information_by_its_definition(seed):
    c, y = partitions(seed)
    joint = {(i, j): np.mean((c == i) & (y == j)) for i in range(4) for j in range(3)}
    information = sum(p * math.log(p / (np.mean(c == i) * np.mean(y == j))) for (i, j), p in joint.items() if p > 0)
    entropies = [-sum(np.mean(a == i) * math.log(np.mean(a == i)) for i in set(a)) for a in (c, y)]
    assert normalized_mutual_information(c, y) == pytest.approx(2 * information / sum(entropies))


@pytest.mark.parametrize("metric", [clustering_accuracy, normalized_mutual_information, adjusted_rand_index])
def test_equal_partitions_by_other_names(metric):
    c, y = partitions()
    assert metric(y * 7 - 3, y) == pytest.approx(1.0)
    assert metric(np.array([5, 9, 1, 0])[c], y) == pytest.approx(metric(c, y))
    assert metric([0], [3]) == 1.0
    with pytest.raises(ValueError, match="labels: expected one class for each of the 2 data, got 3"):
        metric([0, 1], [0, 1, 2])


def test_chance_gives_a_rand_index_of_zero():
    assert abs(adjusted_rand_index(*partitions(n=100_000))) < 1e-3


def test_correlation_of_angles_with_an_offset():
    rng = np.random.default_rng(0)
    for b in (rng.uniform(-np.pi, np.pi, 2000), rng.vonmises(1.0, 5.0, 2000)):
        assert circular_correlation(b + 2.5, b) == pytest.approx(1.0)
        assert circular_correlation(1.0 - b, b) == pytest.approx(-1.0)
        assert circular_correlation(b + 2 * np.pi * rng.integers(-3, 3, 2000), b) == pytest.approx(1.0)


def test_correlation_of_a_uniform_angle_with_noise():
    """a = b + von Mises noise of concentration k, b uniform: I_1(k) / I_0(k)."""
    rng = np.random.default_rng(0)
    b = rng.uniform(-np.pi, np.pi, 200_000)
    for k in (0.5, 2.0, 10.0):
        a = b + 0.7 + rng.vonmises(0, k, len(b))
        assert circular_correlation(a, b) == pytest.approx(iv(1, k) / iv(0, k), abs=0.01)
    assert abs(circular_correlation(rng.uniform(-np.pi, np.pi, len(b)), b)) < 0.01


def test_correlation_within_groups_and_doubled():
    rng = np.random.default_rng(0)
    b, group = rng.uniform(-np.pi, np.pi, 4000), rng.integers(0, 4, 4000)
    a = b + np.array([0.0, 1.0, 2.0, -2.5])[group]
    assert circular_correlation(a, b) < 0.6
    assert circular_correlation(a, b, group) == pytest.approx(1.0)
    t = 2 * np.pi * np.arange(100) / 100
    flipped, straight = np.concatenate([t, t + np.pi]), np.concatenate([t, t])
    assert circular_correlation(flipped, straight) == pytest.approx(0, abs=1e-12), (
        "each angle once flipped and once not"
    )
    assert circular_correlation(2 * flipped, 2 * straight) == pytest.approx(1.0)


def test_correlation_of_what_does_not_vary():
    with pytest.raises(ValueError, match="expected angles that vary"):
        circular_correlation(np.zeros(5), np.arange(5.0))
    with pytest.raises(ValueError, match="others: expected angles of one shape"):
        circular_correlation(np.arange(5.0), np.arange(6.0))
    with pytest.raises(ValueError, match="groups: expected one class for each of the 5 data, got 2"):
        circular_correlation(np.arange(5.0), np.arange(5.0), [1, 2])


def test_invariance_error():
    rng = np.random.default_rng(0)
    z, moved = rng.normal(size=(2, 50, 2, 3)) * 7 + 1
    assert invariance_error(z, z) == 0
    change = sum(np.linalg.norm(a - b) ** 2 for a, b in zip(z, moved, strict=True))
    spread = sum(np.linalg.norm(a - z.mean(0)) ** 2 for a in z)
    assert invariance_error(z, moved) == pytest.approx(change / (2 * spread), rel=1e-12)
    # All pairs of data, each moved to the other: it comes out anew.
    i, j = np.indices((50, 50)).reshape(2, -1)
    assert invariance_error(z[i], z[j]) == pytest.approx(1, rel=1e-12)
    with pytest.raises(ValueError, match="expected values that vary"):
        invariance_error(np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="z_moved: expected the shape of z"):
        invariance_error(z, z[1:])
