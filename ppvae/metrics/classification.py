"""How well a latent tells classes apart."""

import numpy as np
import torch
from numpy.typing import ArrayLike

from ppvae.checks import classes, count, numbers
from ppvae.metrics.distances import nearest_neighbours


def knn_accuracy(
    z: ArrayLike, labels: ArrayLike, z_test: ArrayLike, labels_test: ArrayLike, k: int = 5, chunk: int = 1000
) -> float:
    r"""Share of the test points whose class is that of the majority of their k nearest labelled points.

    The distance is the Euclidean one of the coordinates. On a sphere and on SO(3) it orders points as the geodesic
    distance does, so the neighbours are those on the manifold too. Among points equally far the earlier rows are
    neighbours first. If two classes have as many neighbours, the class with the smaller sum of distances wins, and then
    the class that sorts first.

    :param z: labelled points, shape (n, \*event).
    :param labels: their classes, integers or strings, shape (n,).
    :param z_test: points to classify, shape (n_test, \*event).
    :param labels_test: their classes, shape (n_test,). A class that ``labels`` lacks is never right.
    :param k: number of neighbours, at most n.
    :param chunk: how many test points are compared at once.
    :raises ValueError: if shapes do not fit, a number is not finite, a label is no class, or k is not within 1 and n.

    >>> knn_accuracy([[0.0], [1.0], [9.0]], ["a", "a", "b"], [[0.4], [8.0], [3.0]], ["a", "b", "b"], k=1)
    0.6666666666666666
    """
    points, tests = numbers("z", z), numbers("z_test", z_test)
    known, truth = classes("labels", labels, len(points)), classes("labels_test", labels_test, len(tests))
    if points.shape[1:] != tests.shape[1:]:
        raise ValueError(
            f"z_test: expected points of the shape of those in z, {points.shape[1:]}, got {tests.shape[1:]}; encode "
            "both with one model"
        )
    if (known.dtype.kind in "US") != (truth.dtype.kind in "US"):
        raise ValueError(
            f"labels_test: expected classes of the kind of labels, {known.dtype}, got {truth.dtype}; name them alike"
        )
    names, code = np.unique(known, return_inverse=True)
    n = len(tests)
    one, other = (torch.from_numpy(a.reshape(len(a), -1)) for a in (tests, points))
    distance, neighbours = nearest_neighbours(one, other, count("k", k, 1, len(points)), count("chunk", chunk))
    votes, sums = np.zeros((2, n, len(names)))
    np.add.at(votes, (np.arange(n)[:, None], code[neighbours]), 1)
    np.add.at(sums, (np.arange(n)[:, None], code[neighbours]), distance)
    found = np.where(votes == votes.max(1, keepdims=True), sums, np.inf).argmin(1)
    return float((names[found] == truth).mean())
