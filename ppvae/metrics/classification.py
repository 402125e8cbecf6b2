"""How much of a class a latent shows."""

import numpy as np
import torch
from numpy.typing import ArrayLike


def knn_accuracy(
    z: ArrayLike, labels: ArrayLike, z_test: ArrayLike, labels_test: ArrayLike, k: int = 5, chunk: int = 1000
) -> float:
    r"""Share of the test points whose class is that of the majority of their k nearest labelled points.

    Neighbours are those of smallest Euclidean distance between the embedded points; on a sphere and on SO(3) the
    chordal and the geodesic distance have the same order, so that this is the nearest neighbour on the manifold too.
    A tie goes to the class whose neighbours are nearer in sum.

    :param z: labelled points of shape (n, \*event).
    :param labels: their classes, integers from 0, shape (n,).
    :param z_test: points to classify, shape (n_test, \*event).
    :param labels_test: their classes, shape (n_test,).
    :param k: number of neighbours, at most n.
    :param chunk: test points compared at once.
    :raises ValueError: if shapes do not fit, or k is not within 1 and n.
    """
    points, tests = (torch.as_tensor(np.asarray(a)).flatten(1).double() for a in (z, z_test))
    classes, truth = (torch.as_tensor(np.asarray(a)).long() for a in (labels, labels_test))
    if len(points) != len(classes) or len(tests) != len(truth) or points.shape[1] != tests.shape[1]:
        raise ValueError(
            f"expected as many labels as points, and points of one size; got z {tuple(points.shape)} with "
            f"{len(classes)} "
            f"labels and z_test {tuple(tests.shape)} with {len(truth)} labels"
        )
    if not 1 <= k <= len(points):
        raise ValueError(f"expected k within 1 and the {len(points)} labelled points, got {k}")
    right = 0
    for part, expected in zip(tests.split(chunk), truth.split(chunk), strict=True):
        distance, nearest = torch.cdist(part, points).topk(k, largest=False)
        votes = torch.zeros(len(part), int(classes.max()) + 1, dtype=torch.float64)
        # Each vote weighs 1, less a part too small to outvote one neighbour that grows with the distance.
        weight = 1 - distance / (distance.sum(1, keepdim=True) + torch.finfo(torch.float64).tiny) / (2 * k)
        votes.scatter_add_(1, classes[nearest], weight)
        right += int((votes.argmax(1) == expected).sum())
    return right / len(tests)
