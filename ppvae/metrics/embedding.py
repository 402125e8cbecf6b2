r"""How good an embedding f of [0, 1]^n a map is: injective, onto the manifold, and uniform law to the law wanted.

.. math::
    \mathrm{KL}(f_\# q \| f_\# U) \le \mathrm{KL}(q \| U), \qquad \text{equal for an injective } f

Where f is not injective the KL on the manifold is smaller than that on [0, 1]^n, which a VAE pays: its bound is looser
than it could be, and its prior is f#U, not the law that was asked for.

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
from torch import Tensor

from ppvae.infer.objectives.divergences import InverseMultiquadric, Kernel
from ppvae.manifolds.embeddings import Embedding, gauss_newton, log_volume

NEAR = 0.02  # of the size of f(Z): two images this close are taken for one point
FAR = 0.1  # of the side of the box: two z this far apart are taken for two
SEAM = 0.05  # a chart whose ends meet, as every chart of a closed manifold, has colliding z near its edges

__all__ = ["EmbeddingReport", "embedding_report", "permutation_test"]


@dataclass(frozen=True)
class EmbeddingReport:
    """What :func:`embedding_report` found. Lengths are in units of the points."""

    collision: float  #: largest ``|z - z'|`` above a tenth of the box whose images nearly collide; 0 if there is none
    near: float  #: nearly colliding images are nearer than this, a fiftieth of the root mean square size of f(Z)
    colliding: float  #: share of the z that have such a z'; small where f is injective
    distance: float  #: largest distance of f(z) from the manifold
    mean_distance: float  #: its mean
    gap: float  #: largest distance of a point of the manifold from f(Z)
    mmd: float  #: squared MMD of f#U and the law of the points, the U-statistic, which can be negative
    p_value: float  #: share of permutations whose MMD is no smaller; small where the laws differ
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
    :param points: points of the manifold that f was not trained on, shape (k, m), numpy or tensor.
    :param distance: distance of points (j, m) from the manifold, shape (j,), where it is known; else the distance to
        the nearest of ``points``, which is never below about half their spacing.
    :param num_samples: draws of z, and points used, at most.
    :param permutations: of the MMD's test.
    :param seed: seed of all draws.
    :raises ValueError: if the points are not (k, m) with the m of f, or fewer than 10.
    """
    x = torch.as_tensor(points).detach().cpu().double()
    if x.dim() != 2 or x.shape[1] != embedding.ambient or x.shape[0] < 10:
        raise ValueError(f"points: expected at least 10 of shape (k, {embedding.ambient}), got {tuple(x.shape)}")
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
    off = torch.cdist(y, x).amin(1) if distance is None else torch.as_tensor(distance(y.numpy()))
    mmd, p_value = permutation_test(y, x, permutations, seed=seed)
    return EmbeddingReport(
        collision=float(apart.max()),
        near=near,
        colliding=float((apart > 0).double().mean()),
        distance=float(off.max()),
        mean_distance=float(off.mean()),
        gap=float(torch.cdist(x, fine).amin(1).max()),
        mmd=mmd,
        p_value=p_value,
        density_range=float((volume.max() - volume.min()).nan_to_num(nan=torch.inf)),
    )


def _apart(f: Embedding, z: Tensor, near: float) -> Tensor:
    """For each z how far away a z' is found whose image is nearer than ``near``; 0 where none is.

    From the draw with the nearest image among those far from z, Gauss-Newton looks for where the images meet.
    """
    x = f(z)
    images = torch.cdist(x, x).masked_fill(torch.cdist(z, z) <= FAR, torch.inf)
    start = z[images.argmin(1)]
    found = torch.stack([start, gauss_newton(f, x, start.unsqueeze(0))])
    apart = (found - z).norm(dim=-1)
    return torch.where(((f(found) - x).norm(dim=-1) < near) & (apart > FAR), apart, 0).amax(0)


def permutation_test(
    p: Tensor, q: Tensor, permutations: int = 500, kernel: Kernel | None = None, seed: int = 0
) -> tuple[float, float]:
    r"""MMD² of two laws from samples, and the probability of one as large if the laws were equal.

    The kernel matrix of all points is computed once; under a permutation of the two labels only sums over it change.
    The p-value is (1 + number as large) / (1 + permutations), which is exact and never 0 [3].

    :param p: sample of shape (n, m).
    :param q: sample of shape (k, m).
    :param kernel: k; the sum of inverse multiquadrics of [2]'s kind at half the mean squared distance where None.
    :return: the U-statistic of MMD², and the p-value.
    """
    n, k = len(p), len(q)
    points = torch.cat([p, q])
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
    # Sums of the same terms in another order may differ by rounding.
    as_large = int((mmd[1:] >= mmd[0] - 1e-12 * K.abs().max()).sum())
    return float(mmd[0]), (1 + as_large) / (1 + permutations)
