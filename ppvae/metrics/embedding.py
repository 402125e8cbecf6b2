r"""How good an embedding f of [0, 1]^n is: injective, onto the manifold, and from the uniform law to the law wanted.

.. math::
    \mathrm{KL}(f_\# q \| f_\# U) \le \mathrm{KL}(q \| U), \qquad \text{equal for an injective } f

If f is not injective, the KL on the manifold is smaller than the one on [0, 1]^n, which a VAE pays. Its bound is then
looser than it could be, and its prior is f#U, the law of f(z) for uniform z, and not the law that was asked for.

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), https://arxiv.org/abs/1812.05769
    [2] A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html
    [3] Permutation P-values Should Never Be Zero (Phipson & Smyth, 2010), https://doi.org/10.2202/1544-6115.1585
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ppvae.checks import count, numbers
from ppvae.infer.objectives.divergences import InverseMultiquadric, Kernel
from ppvae.manifolds.embeddings import Embedding, gauss_newton, log_volume
from ppvae.metrics.distances import nearest_neighbours

NEAR = 0.02  # of the size of f(Z): two images nearer than this count as one point
FAR = 0.1  # of the side of the box: two z farther apart than this count as two
SEAM = 0.05  # every chart of a closed manifold has edges that meet, and colliding z near them

__all__ = ["EmbeddingReport", "embedding_report", "permutation_test"]


@dataclass(frozen=True)
class EmbeddingReport:
    """The result of :func:`embedding_report`. Lengths are in units of the points.

    Two images collide if they are nearer than ``near`` and their z are farther apart than a tenth of the box.
    """

    collision: float  #: largest distance of two z whose images collide; 0 if none do
    near: float  #: a fiftieth of the root mean square size of f(Z)
    colliding: float  #: share of the z whose image collides with another; small if f is injective
    distance: float  #: largest distance of f(z) from the manifold
    mean_distance: float  #: mean distance of f(z) from the manifold
    gap: float  #: largest distance of a point of the manifold from f(Z)
    mmd: float  #: squared MMD of f#U and the law of the points, the U-statistic, which can be negative
    p_value: float  #: share of permutations whose MMD is no smaller; small if the laws differ
    density_range: float  #: range of the log density of f#U, nats; 0 if it is uniform, infinite if J loses rank

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"images nearer than {self.near:.3g} come from z up to {self.collision:.3g} apart "
            f"({self.colliding:.1%} of all z)",
            f"f(Z) is up to {self.distance:.3g} off the manifold ({self.mean_distance:.3g} in the mean) and "
            f"leaves gaps up to {self.gap:.3g}",
            f"MMD^2 of f#U to the points {self.mmd:.3g}, permutation p-value {self.p_value:.3g}",
            f"log density of f#U within {self.density_range:.3g} nats",
        ]
        if self.colliding > SEAM:
            lines.append(
                f"warning: f is not injective on {self.colliding:.1%} of z: there the KL on the manifold is smaller "
                "than the one on z_hid that a VAE pays, and its bound looser than it could be"
            )
        return "\n".join(lines)


def embedding_report(
    embedding: Embedding,
    points: Any,
    distance: Callable[[np.ndarray], np.ndarray] | None = None,
    num_samples: int = 2000,
    permutations: int = 500,
    seed: int = 0,
) -> EmbeddingReport:
    """Compare f#U with the law of points on a manifold.

    :param embedding: f, on [0, 1]^n.
    :param points: points of the manifold on which f was not trained, shape (k, m), k at least 10.
    :param distance: function from points (j, m) to their distances from the manifold, shape (j,), if it is known. By
        default it is the distance from the nearest of ``points``, which is rarely below half their spacing.
    :param num_samples: how many z are drawn, and how many points are used at most.
    :param permutations: number of permutations in the test of the MMD.
    :param seed: seed of all draws.
    :raises ValueError: if the points are not finite, not (k, m) with the m of f, or fewer than 10.

    >>> from ppvae.manifolds.embeddings import CircleEmbedding
    >>> z = torch.arange(200)[:, None] / 200
    >>> report = embedding_report(CircleEmbedding(), CircleEmbedding()(z), num_samples=200, permutations=19)
    >>> report.colliding < SEAM, report.gap < 0.1, report.density_range
    (True, True, 0.0)
    """
    count("num_samples", num_samples, 2)
    x = torch.from_numpy(numbers("points", points, least=10))
    if x.dim() != 2 or x.shape[1] != embedding.ambient:
        raise ValueError(
            f"points: expected shape (k, {embedding.ambient}), the space of f, got {tuple(x.shape)}; pass points of "
            "the manifold that f is to cover"
        )
    generator = torch.Generator().manual_seed(seed)
    like = next(iter(getattr(embedding, "parameters", list)()), torch.empty(0))
    z = torch.rand(num_samples, embedding.dim, generator=generator).to(like)
    with torch.no_grad():
        y = embedding(z).cpu().double()
        near = NEAR * float((y - y.mean(0)).square().sum(1).mean().sqrt())
        apart = _apart(embedding, z, near)
        volume = log_volume(embedding, z)
        fine = embedding(torch.rand(10_000, embedding.dim, generator=generator).to(like)).cpu().double()
    x = x[torch.randperm(len(x), generator=generator)[:num_samples]]
    off = _nearest(y, x) if distance is None else torch.from_numpy(numbers("distance(f(z))", distance(y.numpy())))
    if off.shape != y.shape[:1]:
        raise ValueError(f"distance: expected one number for each point, shape ({len(y)},), got {tuple(off.shape)}")
    mmd, p_value = permutation_test(y, x, permutations, seed=seed)
    return EmbeddingReport(
        collision=float(apart.max()),
        near=near,
        colliding=float((apart > 0).double().mean()),
        distance=float(off.max()),
        mean_distance=float(off.mean()),
        gap=float(_nearest(x, fine).max()),
        mmd=mmd,
        p_value=p_value,
        density_range=float((volume.max() - volume.min()).nan_to_num(nan=torch.inf)),
    )


def _nearest(x: Tensor, y: Tensor) -> Tensor:
    return torch.from_numpy(nearest_neighbours(x, y, 1)[0][:, 0])


def _apart(f: Embedding, z: Tensor, near: float) -> Tensor:
    """The distance of each z from another one whose image is nearer than ``near``; 0 if none is found.

    Among the draws far from z, the one with the nearest image is where Gauss-Newton starts to look for a common image.
    """
    x = f(z)
    images = torch.cdist(x, x).masked_fill(torch.cdist(z, z) <= FAR, torch.inf)
    start = z[images.argmin(1)]
    found = torch.stack([start, gauss_newton(f, x, start.unsqueeze(0))])
    apart = (found - z).norm(dim=-1)
    return torch.where(((f(found) - x).norm(dim=-1) < near) & (apart > FAR), apart, 0).amax(0)


def permutation_test(
    p: ArrayLike, q: ArrayLike, permutations: int = 500, kernel: Kernel | None = None, seed: int = 0
) -> tuple[float, float]:
    r"""MMD² of two laws from samples, and the p-value of the hypothesis that the laws are equal.

    The kernel matrix of all points is computed once. Permuting which points belong to p changes only sums over it. The
    p-value (1 + number of permutations with an MMD² as large) / (1 + permutations) is exact, and never 0 [3].

    :param p: sample of shape (n, m), n > 1.
    :param q: sample of shape (k, m), k > 1.
    :param permutations: how many are drawn.
    :param kernel: k. By default it is the sum of inverse multiquadrics, scaled to half the mean squared distance.
    :param seed: seed of the permutations.
    :return: the U-statistic of MMD², and the p-value.
    :raises ValueError: if the samples are not (n, m) and (k, m), too small, or not finite.

    Source: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html

    >>> mmd, p_value = permutation_test([[0.0], [1.0], [2.0]], [[8.0], [9.0], [10.0]], 999)
    >>> f"{mmd:.2f} {p_value:.2f}"
    '6.91 0.10'
    """
    x, y = (torch.from_numpy(numbers(name, sample, least=2)) for name, sample in (("p", p), ("q", q)))
    if x.dim() != 2 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"p, q: expected shapes (n, m) and (k, m), got {tuple(x.shape)} and {tuple(y.shape)}")
    count("permutations", permutations, 0)
    n, k = len(x), len(y)
    points = torch.cat([x, y])
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = kernel or InverseMultiquadric(float(distance.square().mean() / 2))
    K = kernel(distance, points.shape[1]).fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(permutations + 1, n + k, dtype=K.dtype)
    labels[0, :n] = 1
    for row in labels[1:]:
        row[torch.randperm(n + k, generator=generator)[:n]] = 1
    own, other = labels @ K, (1 - labels) @ K
    within_p, within_q = (own * labels).sum(1), (other * (1 - labels)).sum(1)
    between = (own * (1 - labels)).sum(1)
    mmd = within_p / (n * (n - 1)) + within_q / (k * (k - 1)) - 2 * between / (n * k)
    # Sums of the same terms in another order differ by rounding.
    as_large = int((mmd[1:] >= mmd[0] - 1e-12 * K.abs().max()).sum())
    return float(mmd[0]), (1 + as_large) / (1 + permutations)
