r"""Euclidean distances of many points, exact where a comparison hangs on them.

With the centred points a and b, the expansion

.. math::
    |a - b|^2 = |a|^2 + |b|^2 - 2 \, a \cdot b

costs one product of matrices, ten times less than differences do, but it is off by about :math:`d \, \epsilon` times
the largest squared length. So the expansion finds the few pairs that could matter, and these are computed again as
roots of sums of squared differences. Equal points are then at distance 0, and distances that tie are equal.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["nearest_neighbours", "within"]

#: Numbers of coordinates of pairs in memory at once, 32 MiB.
_BLOCK = 2**22


def nearest_neighbours(x: Tensor, y: Tensor, k: int, chunk: int = 1000) -> tuple[NDArray, NDArray]:
    """Distances of each x from its k nearest of y, ascending, and their rows, shape (n, k) both.

    Of points equally far, that of the smaller row comes first.

    :param x: points, shape (n, d), float64.
    :param y: points, shape (m, d), float64.
    :param k: how many, at most m.
    :param chunk: how many rows of x are compared at once.

    >>> x, y = torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]).double()
    >>> nearest_neighbours(x, y, 2)
    (array([[1., 1.]]), array([[1, 2]]))
    """
    distances, rows = [], []
    for part, square, slack in _expansions(x, y, chunk):
        rows_x, rows_y = (square <= square.topk(k, largest=False).values[:, -1:] + 2 * slack).nonzero(as_tuple=True)
        distance, i, j = (t.numpy() for t in (_exact(part, y, rows_x, rows_y), rows_x, rows_y))
        order = np.lexsort((j, distance, i))
        first = np.searchsorted(i, np.arange(len(part)))  # nonzero sorts by i, and so does the order
        chosen = order[first[:, None] + np.arange(k)]
        distances.append(distance[chosen])
        rows.append(j[chosen])
    return np.concatenate(distances), np.concatenate(rows)


def within(
    x: Tensor, y: Tensor, radius_x: Tensor, radius_y: Tensor, chunk: int = 1000
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each part of x whether its balls hold the points of y, and whether the balls of y hold it.

    :param x: points, shape (n, d), float64.
    :param y: points, shape (m, d), float64.
    :param radius_x: radii of closed balls round x, shape (n,); distances among x, or among y.
    :param radius_y: radii of closed balls round y, shape (m,).
    :param chunk: how many rows of x are in a part.
    :return: two boolean matrices (chunk, m) for each part.

    >>> x, y = torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0], [0.0, 1.0]]).double()
    >>> [inside.tolist() for inside in next(within(x, y, torch.ones(1).double(), torch.tensor([5.0, 0.5]).double()))]
    [[[False, True]], [[True, False]]]
    """
    for (part, square, slack), radius in zip(_expansions(x, y, chunk), radius_x.split(chunk), strict=True):
        found = []
        for r in (radius[:, None].expand_as(square), radius_y.expand_as(square)):
            inside = square <= r.square()
            i, j = ((square - r.square()).abs() <= slack).nonzero(as_tuple=True)
            inside[i, j] = _exact(part, y, i, j) <= r[i, j]
            found.append(inside)
        yield found[0], found[1]


def _expansions(x: Tensor, y: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Parts of x, their squared distances from y by the expansion, and the largest error of one."""
    center = y.mean(0)
    y = y - center
    square_y = y.square().sum(1)
    largest = max(float(square_y.max()), float((x - center).square().sum(1).max()))
    if not largest < float("inf"):
        raise ValueError("expected numbers whose squares are finite in float64, got larger ones; divide all by one")
    # d products and sums in each of three terms are rounded once, and so are those of the distances that replace them.
    # Subtracting the centre rounds every coordinate once more.
    slack = 8 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps * largest
    for part in x.split(chunk):
        centred = part - center
        yield part, centred.square().sum(1, keepdim=True) + square_y - 2 * centred @ y.mT, slack


def _exact(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Distances of the pairs x_i, y_j; those of equal pairs are equal to the last bit."""
    parts = max(1, _BLOCK // x.shape[1])
    found = [
        torch.cdist(x[a].unsqueeze(1), y[b].unsqueeze(1), compute_mode="donot_use_mm_for_euclid_dist").flatten()
        for a, b in zip(i.split(parts), j.split(parts), strict=True)
    ]
    return torch.cat(found)
