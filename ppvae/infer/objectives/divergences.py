r"""Divergences D(p, q) between two laws, from a sample of each: none needs a density.

.. math::
    \mathrm{MMD}^2 &= E k(z, z') + E k(w, w') - 2 E k(z, w), \\
    \mathrm{energy} &= 2 E |z - w| - E |z - z'| - E |w - w'|, \\
    \mathrm{SW}_2^2 &= E_\theta W_2^2(\theta \cdot z, \theta \cdot w), \qquad \theta \sim \mathrm{Uniform}(S^{d-1})

with :math:`z, z' \sim p` and :math:`w, w' \sim q` independent. By default points are compared by the Euclidean distance
of their coordinates, which is the chordal distance on a sphere or a torus and the Frobenius distance on SO(3). The
argument ``distance`` compares them by another one, e.g. ``Sphere().dist``, the geodesic distance in radians.

An MMD and an energy distance are never negative only if the distance d is of negative type,

.. math::
    \sum_{ij} c_i c_j \, d(x_i, x_j) \le 0 \qquad \text{for all points } x_i \text{ and all } c_i
    \text{ with } \textstyle\sum_i c_i = 0,

which is to say that :math:`e^{-d / s}` is positive definite for every s > 0 (Schoenberg). Euclidean distances are. Of
geodesic distances only few are, and :data:`NEGATIVE_TYPE` says which.

The sums over pairs run in blocks that the backward pass computes anew, so memory is linear in the sizes of the samples.

References:
    [1] A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html
    [2] The Cramer Distance as a Solution to Biased Wasserstein Gradients (Bellemare et al., 2017)
        https://arxiv.org/abs/1705.10743
    [3] Energy statistics: A class of statistics based on distances (Székely and Rizzo, 2013)
        https://doi.org/10.1016/j.jspi.2013.03.018
    [4] Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015)
        https://doi.org/10.1007/s10851-014-0506-3
    [5] Geodesic Exponential Kernels: When Curvature and Linearity Conflict (Feragen, Lauze and Hauberg, 2015)
        https://arxiv.org/abs/1411.0296
    [6] Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558
    [7] Strong negative type in spheres (Lyons, 2020), https://arxiv.org/abs/1905.02863
    [8] Manifold indexed fractional fields (Istas, 2012), https://doi.org/10.1051/ps/2011106
    [9] Crofton formulae and geodesic distance in hyperbolic spaces (Robertson, 1998), Journal of Lie Theory 8, 163-172
    [10] On the existence of fractional Brownian fields indexed by manifolds with closed geodesics (Venet, 2016)
        https://arxiv.org/abs/1612.05984
    [11] Nonexistence of fractional Brownian fields indexed by cylinders (Venet, 2016)
        https://arxiv.org/abs/1612.05983
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.utils.checkpoint import checkpoint

from ppvae.distributions.base import base_support
from ppvae.manifolds import (
    SO3,
    Angle,
    Box,
    Circle,
    ComplexProjective,
    Euclidean,
    Hyperboloid,
    Power,
    Product,
    Quotient,
    RiemannianManifold,
    Sphere,
    Torus,
)

#: D(p, q) from samples p of shape (n, *event) and q of shape (m, *event): a scalar.
Divergence = Callable[[Tensor, Tensor], Tensor]
#: Distances (n, m) of points (n, 1, *event) and (1, m, *event), and (n,) of points (n, *event).
Distance = Callable[[Tensor, Tensor], Tensor]
#: k as a function of the distances d, of any shape, between points of the given number of coordinates.
Kernel = Callable[[Tensor, int], Tensor]

#: How many numbers one block of pairs holds: 64 MiB in float32. glibc returns blocks of this size to the system as soon
#: as they are freed. Smaller ones it keeps, and gigabytes of them pile up between longer-lived objects.
BLOCK = 2**24


#: Whether the geodesic distance of a manifold is of negative type, and why. The sources are numbered as above.
NEGATIVE_TYPE: dict[type, tuple[bool, str]] = {
    Euclidean: (True, "it counts, up to a factor, the hyperplanes that separate two points [8]"),
    Angle: (True, "it is the distance of the sphere S^1 [7, 8]"),
    Circle: (True, "it is the sphere S^1 [7, 8]"),
    Sphere: (True, "it counts, up to a factor, the great hyperspheres that separate two points [7, 8]"),
    Hyperboloid: (True, "it counts, up to a factor, the hyperplanes that separate two points [8, 9]"),
    SO3: (False, "SO(3) is the projective space RP^3, whose geodesic distance is not of negative type [9, 10]"),
    Torus: (False, "the root of a sum of squared angles is not of negative type for two circles or more [11]"),
    Box: (False, "a box with two glued sides or more is a flat torus [11]"),
    Power: (False, "the root of a sum of squared distances is not of negative type for two circles or more [11]"),
    Product: (False, "the root of a sum of squared distances is not of negative type for two circles or more [11]"),
    Quotient: (False, "on projective spaces of dimension 2 or more it is not of negative type [9, 10]"),
    ComplexProjective: (False, "on projective spaces it is not of negative type [9, 10]"),
    RiemannianManifold: (False, "the distance of a metric that varies is not of negative type in general [5]"),
}


@dataclass(frozen=True)
class SquaredExponential:
    """k = exp(-d^2 / c), a kernel for Euclidean and chordal distances.

    For the geodesic distance of a curved space it is not positive definite [5].

    :param scale: c, a squared length. The default is the number of coordinates of a point, which is half the mean
        squared distance of two draws of N(0, I); of two uniform draws on a sphere of any dimension that half is 1.

    >>> SquaredExponential(2.0)(torch.tensor([0.0, 2.0]), 3)
    tensor([1.0000, 0.1353])
    """

    scale: float | None = None

    def __call__(self, d: Tensor, coordinates: int) -> Tensor:
        return torch.exp(-d.square() / _scale(self.scale, coordinates))


@dataclass(frozen=True)
class InverseMultiquadric:
    """k = sum_s C_s / (C_s + d^2) with C_s = 2 c s, a kernel with heavy tails for Euclidean and chordal distances [6].

    :param scale: c, a squared length; by default the number of coordinates of a point.
    :param multiples: the values of s.

    >>> InverseMultiquadric(2.0, multiples=(1.0,))(torch.tensor([0.0, 2.0]), 3)
    tensor([1.0000, 0.5000])
    """

    scale: float | None = None
    multiples: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

    def __call__(self, d: Tensor, coordinates: int) -> Tensor:
        C = [2 * s * _scale(self.scale, coordinates) for s in self.multiples]
        return torch.stack([c / (c + d.square()) for c in C]).sum(0)


@dataclass(frozen=True)
class Laplace:
    """k = exp(-d / sqrt(c)), a kernel for every distance of negative type (see :data:`NEGATIVE_TYPE`).

    :param scale: c, a squared length; by default the number of coordinates of a point.

    >>> Laplace(4.0)(torch.tensor([0.0, 2.0]), 3)
    tensor([1.0000, 0.3679])
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

    With each kernel of this module it is zero only for equal laws.

    :param p: sample of shape (n, \*event).
    :param q: sample of shape (m, \*event).
    :param kernel: k. The default is :class:`SquaredExponential` for the Euclidean distance and :class:`Laplace` for
        any other.
    :param distance: distance of points (..., \*event); by default the Euclidean one of their coordinates.
    :param unbiased: whether to take the U-statistic, whose mean is the MMD² and which can be negative. The V-statistic
        is at least 0 for a kernel that is positive definite; its mean exceeds the MMD² by
        (E k(z, z) - E k(z, z')) / n and the like for q.
    :param paired: whether point i of p and point i of q depend on each other, say because they were drawn given one
        label. The U-statistic then leaves these n pairs out of E k(z, w).
    :raises ValueError: if the samples are not comparable or too small, or if the kernel is not positive definite on
        the manifold that ``distance`` belongs to.

    A kernel of your own is not checked, nor is a ``distance`` that is not the method of a manifold in
    :data:`NEGATIVE_TYPE`. If the kernel is not positive definite, the V-statistic can be negative, and such a value is
    returned as it is.

    Source: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html

    >>> p, q = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    >>> f"{mmd(p, q, unbiased=False):.4f} {mmd(p, q):.4f}"
    '1.1656 0.5334'
    """
    kernel = kernel or (SquaredExponential() if distance is None else Laplace())
    if distance is not None and isinstance(kernel, SquaredExponential | InverseMultiquadric):
        raise ValueError(
            f"kernel: {type(kernel).__name__} is positive definite for Euclidean and chordal distances alone, got "
            "another distance; leave distance out for the chordal one, or take kernel=Laplace()"
        )
    if isinstance(kernel, Laplace):
        _check_negative_type(distance)
    coordinates = p[0].numel() if p.dim() and p.shape[0] else 0
    within_p, within_q, between = _pair_means(lambda d: kernel(d, coordinates), p, q, distance, unbiased, paired)
    return within_p + within_q - 2 * between


def energy_distance(
    p: Tensor, q: Tensor, distance: Distance | None = None, unbiased: bool = True, paired: bool = False
) -> Tensor:
    r"""Energy distance of two laws, from samples.

    .. math::
        D = 2 E |z - w| - E |z - z'| - E |w - w'|

    It is zero only for equal laws where the distance is Euclidean, chordal or hyperbolic. The geodesic distance of a
    sphere is blind to some differences: as d(x, y) + d(x, -y) = pi, any two laws that are symmetric under z -> -z have
    D = 0 [7]. The chordal distance, which is the default, sees them.

    The gradient of |z - w| at z = w is taken to be the subgradient 0, so that it is finite for equal points.

    :param p: sample of shape (n, \*event).
    :param q: sample of shape (m, \*event).
    :param distance: distance of points (..., \*event); by default the Euclidean one of their coordinates. Of one that
        is not the method of a manifold in :data:`NEGATIVE_TYPE` nothing is checked.
    :param unbiased: whether to take the U-statistic, whose mean is D and which can be negative. The V-statistic is at
        least 0 for a distance of negative type.
    :param paired: whether point i of p and point i of q depend on each other, as in :func:`mmd`.
    :raises ValueError: if the samples are not comparable or too small, or if ``distance`` is the geodesic one of a
        manifold where it is not of negative type, so that D could be negative.

    Source: Bellemare et al. (2017), https://arxiv.org/abs/1705.10743

    >>> p, q = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    >>> f"{energy_distance(p, q, unbiased=False):.4f} {energy_distance(p, q):.4f}"
    '3.0000 2.0000'
    """
    _check_negative_type(distance)
    within_p, within_q, between = _pair_means(lambda d: d, p, q, distance, unbiased, paired)
    return 2 * between - within_p - within_q


def _check_negative_type(distance: Distance | None) -> None:
    manifold: Any = getattr(distance, "__self__", None)
    negative, why = next((row for kind, row in NEGATIVE_TYPE.items() if isinstance(manifold, kind)), (True, ""))
    if not negative and not (isinstance(manifold, Torus) and manifold.n == 1):
        raise ValueError(
            f"distance: expected one of negative type, got the geodesic distance of {type(manifold).__name__}: {why}, "
            "and the result could be negative. Leave distance out to compare points by the Euclidean distance of their "
            "coordinates"
        )


def sliced_wasserstein(p: Tensor, q: Tensor, projections: int = 64) -> Tensor:
    r"""Sliced squared 2-Wasserstein distance of two laws, from samples of equal size.

    .. math::
        \mathrm{SW}_2^2 = E_\theta \frac1n \sum_i \left( (\theta \cdot z)_{(i)} - (\theta \cdot w)_{(i)} \right)^2

    with order statistics (i). Its mean is positive for equal laws too, and falls with n. For N(0, I) and N(m, I) on R^d
    it tends to :math:`|m|^2 / d`.

    :param p: sample of shape (n, \*event).
    :param q: sample of shape (n, \*event).
    :param projections: number of directions theta, which the global generator draws anew at every call. In one
        dimension there is a single direction, and nothing is drawn.
    :raises ValueError: if the samples are not comparable or not equally large.

    Source: Bonneel, Rabin, Peyré and Pfister (2015), https://doi.org/10.1007/s10851-014-0506-3

    >>> f"{sliced_wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [2.0]])):.2f}"
    '10.00'
    """
    _check(p, q, 1)
    if p.shape[0] != q.shape[0]:
        raise ValueError(
            f"sliced_wasserstein: expected samples of equal size, got {p.shape[0]} and {q.shape[0]}; take as many "
            "points of both"
        )
    if projections < 1:
        raise ValueError(f"projections: expected at least 1, got {projections}")
    z, w = p.reshape(p.shape[0], -1), q.reshape(q.shape[0], -1)
    if z.shape[1] > 1:
        theta = torch.randn(z.shape[1], projections, dtype=z.dtype, device=z.device)
        theta = theta / theta.norm(dim=0)
        z, w = z @ theta, w @ theta
    return (z.sort(0).values - w.sort(0).values).square().mean()


def names() -> list[str]:
    """The names that :func:`find` knows.

    >>> names()
    ['mmd', 'mmd-imq', 'energy', 'sliced-wasserstein']
    """
    return ["mmd", "mmd-imq", "energy", "sliced-wasserstein"]


def find(name: str, support: constraints.Constraint, event_shape: Size) -> Divergence:
    """The divergence ``name`` between two samples, where point i of one and point i of the other belong to one datum.

    The scale of a kernel is half the mean squared distance of two draws of the usual prior. That is the number of
    coordinates on R^d with N(0, I), and the number of unit vectors of a point where the prior is uniform: 1 on a
    sphere, 3 on SO(3), n on T^n.

    :param name: one of :func:`names`.
    :param support: the set in which the points lie.
    :param event_shape: shape of a point.
    :raises ValueError: if no divergence has this name.

    >>> divergence = find("energy", constraints.real_vector, Size([1]))
    >>> f"{divergence(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])):.2f}"
    '2.00'
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
        raise ValueError(f"name: no divergence is named {name!r}; expected one of {', '.join(names())}")
    return table[name]


def _pair_means(
    f: Callable[[Tensor], Tensor], p: Tensor, q: Tensor, distance: Distance | None, unbiased: bool, paired: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates of E f(d(z, z')), E f(d(w, w')) and E f(d(z, w))."""
    _check(p, q, 2 if unbiased else 1)
    if paired and not (unbiased and p.shape[0] == q.shape[0]):
        raise ValueError(
            f"paired: expected a U-statistic of samples of equal size, got unbiased={unbiased} and {p.shape[0]} and "
            f"{q.shape[0]} points; leave paired out, or pass as many points of both laws and unbiased=True"
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

    numbers = 1 if distance is None else z[0].numel()  # a distance of the user's holds the coordinates of all pairs
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
    for name, sample in (("p", p), ("q", q)):
        if not isinstance(sample, Tensor):
            raise ValueError(f"{name}: expected a torch tensor, got {type(sample).__name__}; use torch.as_tensor")
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
