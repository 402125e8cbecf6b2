r"""Divergences D(p, q) between two laws, from a sample of each: none needs a density.

.. math::
    \mathrm{MMD}^2 &= E k(z, z') + E k(w, w') - 2 E k(z, w), \\
    \mathrm{energy} &= 2 E |z - w| - E |z - z'| - E |w - w'|, \\
    \mathrm{SW}_2^2 &= E_\theta W_2^2(\theta \cdot z, \theta \cdot w), \qquad \theta \sim \mathrm{Uniform}(S^{d-1})

with :math:`z, z' \sim p` and :math:`w, w' \sim q` independent. Points are compared in the coordinates of the space
around the manifold, which is the chordal distance on a sphere or a torus and the Frobenius distance on SO(3), or by
``distance``, e.g. ``Sphere().dist`` for the geodesic one.

The sums over pairs run in blocks that the backward pass computes anew, so memory is linear in the sizes of the samples.

References:
    [1] A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html
    [2] The Cramer Distance as a Solution to Biased Wasserstein Gradients (Bellemare et al., 2017)
        https://arxiv.org/abs/1705.10743
    [3] Energy statistics: A class of statistics based on distances (Székely and Rizzo, 2013)
        https://doi.org/10.1016/j.jspi.2013.03.018
    [4] Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015)
        https://doi.org/10.1007/s10851-014-0506-3
    [5] Geodesic Exponential Kernels: When Curvature and Linearity Conflict (Feragen et al., 2015)
        https://arxiv.org/abs/1411.0296
    [6] Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558
    [7] Strong negative type in spheres (Lyons, 2020), https://arxiv.org/abs/1905.02863
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.utils.checkpoint import checkpoint

from ppvae.distributions.base import base_support

#: D(p, q) from samples p of shape (n, *event) and q of shape (m, *event): a scalar.
Divergence = Callable[[Tensor, Tensor], Tensor]
#: Distances (n, m) of points (n, 1, *event) and (1, m, *event), and (n,) of points (n, *event).
Distance = Callable[[Tensor, Tensor], Tensor]
#: k as a function of the distances d, of any shape, between points of the given number of coordinates.
Kernel = Callable[[Tensor, int], Tensor]

#: Numbers that one block of pairs holds, 64 MiB in float32. glibc gives such blocks back to the system when they are
#: freed; of smaller ones it keeps gigabytes between the objects that outlive them.
BLOCK = 2**24


@dataclass(frozen=True)
class SquaredExponential:
    """k = exp(-d^2 / c), a kernel for Euclidean and chordal distances.

    :param scale: c, a squared length; the number of coordinates of a point where None. That is half the mean squared
        distance of two draws of N(0, I); for unit vectors of any dimension this half is 1.
    """

    scale: float | None = None

    def __call__(self, d: Tensor, coordinates: int) -> Tensor:
        return torch.exp(-d.square() / _scale(self.scale, coordinates))


@dataclass(frozen=True)
class InverseMultiquadric:
    """k = sum_s C_s / (C_s + d^2) with C_s = 2 c s, a kernel with heavy tails for Euclidean and chordal distances [6].

    :param scale: c, a squared length; the number of coordinates of a point where None.
    :param multiples: the values of s.
    """

    scale: float | None = None
    multiples: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

    def __call__(self, d: Tensor, coordinates: int) -> Tensor:
        C = [2 * s * _scale(self.scale, coordinates) for s in self.multiples]
        return torch.stack([c / (c + d.square()) for c in C]).sum(0)


@dataclass(frozen=True)
class Laplace:
    """k = exp(-d / sqrt(c)), a kernel for every distance of negative type: Euclidean, and geodesic on spheres and
    hyperbolic space [5].

    :param scale: c, a squared length; the number of coordinates of a point where None.
    """

    scale: float | None = None

    def __call__(self, d: Tensor, coordinates: int) -> Tensor:
        return torch.exp(-d / _scale(self.scale, coordinates) ** 0.5)


def _scale(scale: float | None, coordinates: int) -> float:
    if scale is not None and not scale > 0:
        raise ValueError(f"scale of a kernel: expected a squared length > 0, got {scale}")
    return float(coordinates) if scale is None else scale


def mmd(
    p: Tensor,
    q: Tensor,
    kernel: Kernel | None = None,
    distance: Distance | None = None,
    unbiased: bool = True,
    paired: bool = False,
) -> Tensor:
    r"""Squared maximum mean discrepancy of two laws, from samples.

    .. math::
        \mathrm{MMD}^2 = E k(z, z') + E k(w, w') - 2 E k(z, w)

    Zero for equal laws alone, with each kernel of this module.

    :param p: sample of shape (n, *event).
    :param q: sample of shape (m, *event).
    :param kernel: k; where None, :class:`SquaredExponential` for the Euclidean distance and :class:`Laplace` for
        another.
    :param distance: distance of points (..., \*event); Euclidean in their coordinates where None.
    :param unbiased: the U-statistic, whose mean is the MMD² and which can be negative; else the V-statistic, never
        negative, whose mean is above it by (E k(z, z) - E k(z, z')) / n and the like for q.
    :param paired: whether points i of p and of q go together, say were drawn given one label, and are independent of
        the others alone; the U-statistic then leaves these n pairs out of E k(z, w).
    :raises ValueError: if the samples are not comparable or too small, or the kernel is none for this distance: on the
        geodesic distance of a curved space a function of its square has no mean embedding, and the MMD² can be
        negative [5].

    Source: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html
    """
    kernel = kernel or (SquaredExponential() if distance is None else Laplace())
    if distance is not None and isinstance(kernel, SquaredExponential | InverseMultiquadric):
        raise ValueError(
            f"{type(kernel).__name__} is positive definite for Euclidean and chordal distances alone; leave distance "
            "out for the chordal one, or take kernel=Laplace()"
        )
    coordinates = p[0].numel() if p.dim() and p.shape[0] else 0
    within_p, within_q, between = _pair_means(lambda d: kernel(d, coordinates), p, q, distance, unbiased, paired)
    return within_p + within_q - 2 * between


def energy_distance(
    p: Tensor, q: Tensor, distance: Distance | None = None, unbiased: bool = True, paired: bool = False
) -> Tensor:
    r"""Energy distance of two laws, from samples.

    .. math::
        D = 2 E |z - w| - E |z - z'| - E |w - w'|

    Zero for equal laws alone where the distance is Euclidean, chordal, or hyperbolic. The geodesic distance of a
    sphere does not see everything: as d(x, y) + d(x, -y) = pi, any two laws that are symmetric under z -> -z have D =
    0 [7]. That of SO(3) is not of negative type, and D can be negative. Both are well served by the default.

    The gradient of |z - w| at z = w is the subgradient 0, so that equal points do no harm.

    :param p: sample of shape (n, *event).
    :param q: sample of shape (m, *event).
    :param distance: distance of points (..., \*event); Euclidean in their coordinates where None.
    :param unbiased: the U-statistic, whose mean is D and which can be negative; else the V-statistic, never negative.
    :param paired: whether points i of p and of q go together, as in :func:`mmd`.
    :raises ValueError: if the samples are not comparable or too small.

    Source: Bellemare et al. (2017), https://arxiv.org/abs/1705.10743
    """
    within_p, within_q, between = _pair_means(lambda d: d, p, q, distance, unbiased, paired)
    return 2 * between - within_p - within_q


def sliced_wasserstein(p: Tensor, q: Tensor, projections: int = 64) -> Tensor:
    r"""Sliced squared 2-Wasserstein distance of two laws, from samples of equal size.

    .. math::
        \mathrm{SW}_2^2 = E_\theta \frac1n \sum_i \left( (\theta \cdot z)_{(i)} - (\theta \cdot w)_{(i)} \right)^2

    with order statistics (i). Its mean is positive for equal laws too, and falls with n. N(0, I) and N(m, I) on R^d
    have
    :math:`|m|^2 / d`.

    :param p: sample of shape (n, *event).
    :param q: sample of shape (n, *event).
    :param projections: directions theta, drawn anew at every call; on a line there is nothing to draw.
    :raises ValueError: if the samples are not comparable or not equally large.

    Source: Bonneel, Rabin, Peyré and Pfister (2015), https://doi.org/10.1007/s10851-014-0506-3
    """
    _check(p, q, 1)
    if p.shape[0] != q.shape[0]:
        raise ValueError(f"sliced_wasserstein: expected samples of equal size, got {p.shape[0]} and {q.shape[0]}")
    if projections < 1:
        raise ValueError(f"projections: expected at least 1, got {projections}")
    z, w = p.reshape(p.shape[0], -1), q.reshape(q.shape[0], -1)
    if z.shape[1] > 1:
        theta = torch.randn(z.shape[1], projections, dtype=z.dtype, device=z.device)
        theta = theta / theta.norm(dim=0)
        z, w = z @ theta, w @ theta
    return (z.sort(0).values - w.sort(0).values).square().mean()


def names() -> list[str]:
    """The names that :func:`find` knows."""
    return ["mmd", "mmd-imq", "energy", "sliced-wasserstein"]


def find(name: str, support: constraints.Constraint, event_shape: Size) -> Divergence:
    """The divergence ``name`` between two samples, the points i of which belong to one datum.

    The scale of a kernel is half the mean squared distance of two draws of the usual prior: the number of coordinates
    on R^d with N(0, I), the number of unit vectors of a point with a uniform law (1 on a sphere, 3 on SO(3), n on
    T^n).

    :param name: one of :func:`names`.
    :param support: where the points lie.
    :param event_shape: shape of a point.
    :raises ValueError: if no divergence has this name.
    """
    support = base_support(support)
    scale = max(1, (event_shape if support is constraints.real else event_shape[:-1]).numel())
    table: dict[str, Divergence] = {
        "mmd": partial(mmd, kernel=SquaredExponential(scale), paired=True),
        "mmd-imq": partial(mmd, kernel=InverseMultiquadric(scale), paired=True),
        "energy": partial(energy_distance, paired=True),
        "sliced-wasserstein": sliced_wasserstein,
    }
    if name not in table:
        raise ValueError(f"no divergence is named {name!r}; expected one of {', '.join(names())}")
    return table[name]


def _pair_means(
    f: Callable[[Tensor], Tensor], p: Tensor, q: Tensor, distance: Distance | None, unbiased: bool, paired: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """E f(d(z, z')), E f(d(w, w')) and E f(d(z, w))."""
    _check(p, q, 2 if unbiased else 1)
    if paired and not (unbiased and p.shape[0] == q.shape[0]):
        raise ValueError(
            f"paired: expected a U-statistic of samples of equal size, got unbiased={unbiased} and {p.shape[0]} and "
            f"{q.shape[0]} points"
        )

    def mean(z: Tensor, w: Tensor, distinct: bool) -> Tensor:
        total, n, m = _pair_sum(f, z, w, distance), z.shape[0], w.shape[0]
        if not distinct:
            return total / (n * m)
        diagonal = distance(z, w) if distance else (z - w).reshape(n, -1).norm(dim=-1)
        return (total - f(diagonal).sum()) / (n * (n - 1))

    return mean(p, p, unbiased), mean(q, q, unbiased), mean(p, q, paired)


def _pair_sum(f: Callable[[Tensor], Tensor], z: Tensor, w: Tensor, distance: Distance | None) -> Tensor:
    def block(z: Tensor, w: Tensor) -> Tensor:
        if distance is not None:
            return f(distance(z.unsqueeze(1), w.unsqueeze(0))).sum()
        # Products of matrices would be faster, but lose the distance of close points to cancellation.
        z, w = z.reshape(z.shape[0], -1), w.reshape(w.shape[0], -1)
        d = torch.cdist(z, w, compute_mode="donot_use_mm_for_euclid_dist")
        return f(d).sum()

    numbers = 1 if distance is None else z[0].numel()  # a distance given holds the coordinates of all pairs
    side = max(1, int((BLOCK / numbers) ** 0.5))
    if z.shape[0] * w.shape[0] * numbers <= BLOCK:
        return block(z, w)
    sums = [
        (1 if i == j or z is not w else 2) * checkpoint(block, a, b, use_reentrant=False, preserve_rng_state=False)
        for (i, a), (j, b) in product(enumerate(z.split(side)), enumerate(w.split(side)))
        if i <= j or z is not w  # a distance is symmetric
    ]
    return torch.stack(sums).sum()


def _check(p: Tensor, q: Tensor, least: int) -> None:
    if p.dim() == 0 or p.shape[1:] != q.shape[1:] or p.dtype != q.dtype or not p.is_floating_point():
        raise ValueError(
            "expected two samples of points of one shape and one floating dtype, (n, *event) and (m, *event), got "
            f"{tuple(p.shape)} {p.dtype} and {tuple(q.shape)} {q.dtype}"
        )
    if min(p.shape[0], q.shape[0]) < least:
        raise ValueError(
            f"expected at least {least} points in each sample{' for a U-statistic' if least > 1 else ''}, got "
            f"{p.shape[0]} and {q.shape[0]}"
        )
