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


def test_labels_are_names():
    """0, 0.3 and 0.6 are no classes; strings, booleans and whole floating numbers are."""
    z = np.array([[0.0], [0.1], [5.0], [5.1]])
    for labels in ([0, 0, 7, 7], [0.0, 0.0, 7.0, 7.0], ["a", "a", "b", "b"], [False, False, True, True]):
        assert knn_accuracy(z, labels, z, labels, k=2) == 1
        assert knn_accuracy(z, np.array(labels, object) if isinstance(labels[0], str) else labels, z, labels, k=2) == 1
        assert knn_accuracy(z, labels, z, labels[::-1], k=2) == 0
    assert knn_accuracy(z, [0, 0, 1, 1], z, [0, 0, 9, 9], k=1) == 0.5, "a class that has no labelled point"
    with pytest.raises(ValueError, match=r"labels: expected classes, got the number 0\.3 in row 1"):
        knn_accuracy(z, [0, 0.3, 0.6, 0.6], z, [0, 0, 0, 0], k=1)
    with pytest.raises(ValueError, match="labels_test: expected classes of the kind of labels, int64, got <U1"):
        knn_accuracy(z, [0, 0, 1, 1], z, ["0", "0", "1", "1"], k=1)


def test_ties():
    """Of points equally far the earlier rows; of classes with as many votes the nearer one; then the first by name."""
    z = np.array([[1.0], [-1.0], [1.0], [-1.0], [3.0]])
    assert knn_accuracy(z, [0, 1, 2, 3, 4], [[0.0]], [0], k=1) == 1
    assert knn_accuracy(z[::-1], [4, 3, 2, 1, 0], [[0.0]], [3], k=1) == 1
    assert knn_accuracy(z, [1, 0, 2, 2, 2], [[0.0]], [0], k=2) == 1, "one vote each, at one distance"
    assert knn_accuracy(z, [2, 2, 1, 1, 0], [[0.1]], [1], k=4) == 1, "two votes each, at 2 in sum"
    assert knn_accuracy(z, [2, 1, 2, 1, 0], [[0.1]], [2], k=4) == 1, "two votes each, at 1.8 and 2.2 in sum"


def test_far_from_the_origin_the_nearest_is_still_the_nearest():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 64)) + 1e6
    labels = np.arange(500)
    near = z + 1e-5 * rng.normal(size=z.shape)
    assert knn_accuracy(z, labels, near, labels, k=1) == 1


def test_separated_classes_and_matrices():
    z = np.stack([np.eye(3), -np.eye(3)] * 4)
    labels = np.array([0, 1] * 4)
    assert knn_accuracy(z, labels, z, labels, k=3) == 1.0


def test_bad_input():
    z, labels = np.zeros((4, 2)), np.zeros(4, int)
    with pytest.raises(ValueError, match="k: expected an integer from 1 to 4, got 5"):
        knn_accuracy(z, labels, z, labels)
    with pytest.raises(ValueError, match="labels: expected one class for each of the 4 data, got 3"):
        knn_accuracy(z, labels[:3], z, labels, k=1)
    with pytest.raises(ValueError, match=r"z_test: expected points of the shape of those in z, \(2,\), got \(3,\)"):
        knn_accuracy(z, labels, np.zeros((4, 3)), labels, k=1)
