r"""A few points that stand for many, in memory that does not grow with the square of their number.

k-medoids [1] minimises :math:`\sum_n \min_k |z_n - z_{c_k}|` over k of the points by turns. Each point joins the
nearest medoid, and in each cluster the point with the least sum of distances to the others becomes the medoid. k-means
[2] minimises :math:`\sum_n \min_k |z_n - m_k|^2` over any k places; SciPy runs it.

References:
    [1] A simple and fast algorithm for K-medoids clustering (Park & Jun, 2009)
        https://doi.org/10.1016/j.eswa.2008.01.039
    [2] k-means++: The Advantages of Careful Seeding (Arthur & Vassilvitskii, 2007)
        https://dl.acm.org/doi/10.5555/1283383.1283494
"""

import warnings

import torch
from torch import Tensor

from ppvae.checks import count
from ppvae.samplers.mixture import far_apart

__all__ = ["k_means", "k_medoids"]


def k_medoids(z: Tensor, k: int, iterations: int = 100, chunk: int = 1 << 22) -> Tensor:
    """The rows of z that are k medoids, shape ``(k,)``, sorted.

    The start is that of k-means++ by the global generator, so that a seed determines the result. If several points are
    equal, several medoids can share one place.

    :param z: points, shape ``(n, d)``.
    :param k: number of medoids, at most n.
    :param iterations: how many turns are taken at most.
    :param chunk: how many distances are held at once.
    :raises ValueError: if k is not within 1 and n.

    >>> from ppvae.random import seeded
    >>> z = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    >>> with seeded(0):
    ...     k_medoids(z, 2).tolist()
    [1, 4]
    """
    medoids = far_apart(z, count("k", k, 1, len(z)))
    for _ in range(count("iterations", iterations)):
        cluster = torch.cat(
            [_distances(part, z[medoids]).argmin(1) for part in z.split(max(count("chunk", chunk) // k, 1))]
        )
        new = medoids.clone()
        for c in range(k):
            members = (cluster == c).nonzero()[:, 0]
            if not len(members):  # it shares its place with another medoid
                continue
            points = z[members]
            sums = torch.cat([_distances(part, points).sum(1) for part in points.split(max(chunk // len(points), 1))])
            new[c] = members[sums.argmin()]
        if torch.equal(new, medoids):
            break
        medoids = new
    return medoids.sort().values


def k_means(z: Tensor, k: int, iterations: int = 100) -> Tensor:
    """The rows of z nearest to k means, shape ``(k,)``, sorted, no row twice.

    The start is that of :func:`k_medoids`. The means are found on the CPU, in the dtype of z. A mean whose cluster
    becomes empty stays where it is.

    :param z: points, shape ``(n, d)``.
    :param k: number of means, at most n.
    :param iterations: how many times the means are computed.
    :raises ValueError: if k is not within 1 and n.

    >>> from ppvae.random import seeded
    >>> z = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    >>> with seeded(0):
    ...     k_means(z, 2).tolist()
    [1, 4]
    """
    from scipy.cluster.vq import kmeans2

    start = z[far_apart(z, count("k", k, 1, len(z)))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        means, _ = kmeans2(z.cpu().numpy(), start.cpu().numpy(), iter=count("iterations", iterations), minit="matrix")
    rows: list[int] = []
    for mean in torch.from_numpy(means).to(z):
        distance = (z - mean).norm(dim=1)
        distance[rows] = torch.inf
        rows.append(int(distance.argmin()))
    return torch.tensor(sorted(rows), device=z.device)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # The matrix form loses the distance of close points that are far from the origin.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
