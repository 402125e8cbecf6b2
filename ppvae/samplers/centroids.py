r"""A few points that stand for many, in memory that grows with their number alone.

k-medoids [1] minimises :math:`\sum_n \min_k |z_n - z_{c_k}|` over k of the points by alternation: each point joins the
nearest medoid; of each cluster the point with the least sum of distances to the others becomes its medoid. k-means [2]
minimises :math:`\sum_n \min_k |z_n - m_k|^2` over any k places.

References:
    [1] A simple and fast algorithm for K-medoids clustering (Park & Jun, 2009)
        https://doi.org/10.1016/j.eswa.2008.01.039
    [2] k-means++: The Advantages of Careful Seeding (Arthur & Vassilvitskii, 2007)
        https://dl.acm.org/doi/10.5555/1283383.1283494
"""

import torch
from torch import Tensor

from ppvae.samplers.mixture import far_apart

__all__ = ["k_means", "k_medoids"]


def k_medoids(z: Tensor, k: int, iterations: int = 100, chunk: int = 1 << 22) -> Tensor:
    """The rows of z that are k medoids, shape ``(k,)``, sorted; from a k-means++ start drawn by the global generator.

    :param z: points, shape ``(n, d)``.
    :param iterations: alternations at most.
    :param chunk: how many distances are held at once.
    """
    medoids = far_apart(z, k)
    for _ in range(iterations):
        cluster = _nearest(z, z[medoids], chunk)
        new = medoids.clone()
        for c in range(k):
            members = (cluster == c).nonzero()[:, 0]
            if not len(members):  # it shares its place with another medoid
                continue
            points = z[members]
            sums = torch.cat([torch.cdist(part, points).sum(1) for part in points.split(max(chunk // len(points), 1))])
            new[c] = members[sums.argmin()]
        if torch.equal(new, medoids):
            break
        medoids = new
    return medoids.sort().values


def k_means(z: Tensor, k: int, iterations: int = 100, chunk: int = 1 << 22) -> Tensor:
    """The rows of z nearest to k means, shape ``(k,)``, sorted, no row twice; start and arguments as in k_medoids."""
    means = z[far_apart(z, k)]
    for _ in range(iterations):
        cluster = _nearest(z, means, chunk)
        sums = torch.zeros_like(means).index_add_(0, cluster, z)
        counts = torch.bincount(cluster, minlength=k).unsqueeze(1)
        new = torch.where(counts > 0, sums / counts.clamp(min=1), means)
        if torch.equal(new, means):
            break
        means = new
    rows: list[int] = []
    for mean in means:
        distance = (z - mean).norm(dim=1)
        distance[rows] = torch.inf
        rows.append(int(distance.argmin()))
    return torch.tensor(sorted(rows), device=z.device)


def _nearest(z: Tensor, centroids: Tensor, chunk: int) -> Tensor:
    return torch.cat([torch.cdist(part, centroids).argmin(1) for part in z.split(max(chunk // len(centroids), 1))])
