import numpy as np
import pytest

from ppvae.metrics import knn_accuracy


def test_against_plain_loops():
    rng = np.random.default_rng(0)
    z, z_test = rng.normal(size=(60, 3)), rng.normal(size=(40, 3))
    labels, truth = rng.integers(0, 3, 60), rng.integers(0, 3, 40)
    for k in (1, 3, 5):
        right = 0
        for point, label in zip(z_test, truth, strict=True):
            near = np.argsort(((z - point) ** 2).sum(1))[:k]
            distance = np.sqrt(((z[near] - point) ** 2).sum(1))
            score = [(-(labels[near] == c).sum(), distance[labels[near] == c].sum()) for c in range(3)]
            right += min(range(3), key=lambda c: score[c]) == label
        assert knn_accuracy(z, labels, z_test, truth, k=k, chunk=7) == right / 40


def test_separated_classes_and_matrices():
    z = np.stack([np.eye(3), -np.eye(3)] * 4)
    labels = np.array([0, 1] * 4)
    assert knn_accuracy(z, labels, z, labels, k=3) == 1.0


def test_bad_input():
    z, labels = np.zeros((4, 2)), np.zeros(4, int)
    with pytest.raises(ValueError, match="expected k within 1 and the 4 labelled points, got 5"):
        knn_accuracy(z, labels, z, labels)
    with pytest.raises(ValueError, match="expected as many labels as points"):
        knn_accuracy(z, labels[:3], z, labels, k=1)
