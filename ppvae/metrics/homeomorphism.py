r"""Is an encoder a homeomorphism: continuous, equivariant, and of the right class on loops?

A closed loop of data goes in, the loop of their latents comes out. On SO(3) the loops are the closed geodesics

.. math::
    R_j = g \exp(2 \pi j u / n), \quad j = 0, \dots, n - 1, \qquad g \sim \mathrm{Haar}, \; u \sim U(S^2),

each of which generates the fundamental group Z/2. For the steps d_j between neighbours of the latent loop, the last and
the first among them,

.. math::
    \text{discontinuity} = \frac{\max_j d_j}{\tfrac1n \sum_j d_j}, \qquad
    \text{equivariance error} = E_{g, x} \; d(\mathrm{enc}(g x), g \, \mathrm{enc}(x)).

The discontinuity is 1 where the latent moves at constant speed, and n at most: for a torn loop it grows with n, for a
smooth one it does not.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), Section 6
        https://arxiv.org/abs/1807.04689
    [2] Topological Obstructions and How to Avoid Them (Esmaeili et al., 2023), on winding numbers of encoders
        https://arxiv.org/abs/2312.07529
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ppvae.distributions import SO3Uniform
from ppvae.manifolds import SO3, so3

__all__ = [
    "automorphism",
    "closed_geodesics",
    "discontinuity",
    "equivariance_error",
    "rotation_class",
    "winding_number",
]

Distance = Callable[[Tensor, Tensor], Tensor]


def closed_geodesics(num_loops: int, num_points: int = 1000, seed: int = 0) -> NDArray:
    """Random closed geodesics of SO(3), (num_loops, num_points, 3, 3), float64: translates of one-parameter groups.

    :param num_loops: number of loops.
    :param num_points: n; neighbours are 2 pi / n radians apart.
    :param seed: of the loops.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = SO3Uniform(dtype=torch.float64).sample((num_loops, 1))
        u = torch.randn(num_loops, 1, 3, dtype=torch.float64)
    u = u / u.norm(dim=-1, keepdim=True)
    t = 2 * math.pi * torch.arange(num_points, dtype=torch.float64) / num_points
    return so3.compose(g, so3.exp(t[:, None] * u)).numpy()


def discontinuity(loops: ArrayLike, dist: Distance, event_dim: int = 1) -> NDArray:
    r"""The largest over the mean step of each closed loop of latents, in [1, n], shape (...).

    The supremum over random loops, ``discontinuity(...).max()``, is that of the encoder. Of a loop that does not move
    it is NaN.

    :param loops: shape ``(..., n, *event)``, the order of the loop along n; the last point is followed by the first.
    :param dist: the latent's distance, e.g. ``SO3().dist``, ``Sphere().dist``.
    :param event_dim: number of axes of a point: 1 for vectors, 2 for rotations.
    :raises ValueError: for loops of fewer than 3 points.
    """
    steps = _steps(loops, dist, event_dim)
    return (steps.amax(-1) / steps.mean(-1)).numpy()


def equivariance_error(z: ArrayLike, gz: ArrayLike, g: ArrayLike) -> NDArray:
    """The angle between enc(g x) and g enc(x), in [0, pi] radians, shape (...).

    For unrelated rotations it is pi / 2 + 2 / pi = 2.2 on average.

    :param z: enc(x), rotations (..., 3, 3).
    :param gz: enc(g x), the same shape.
    :param g: the rotations that moved the objects, (..., 3, 3), from the left: x(R) becomes x(g R). Where the action is
        known but for an inner automorphism of SO(3), which has no other, give ``S g S^T`` of :func:`automorphism`.
    """
    z, gz, g = _rotations(z, gz, g)
    return so3.angle(so3.compose(so3.compose(g, z).mT, gz)).numpy()


def automorphism(z: ArrayLike, gz: ArrayLike, g: ArrayLike) -> NDArray:
    r"""The S for which :math:`S g S^T` comes nearest to :math:`\mathrm{enc}(g x) \, \mathrm{enc}(x)^T`, (3, 3).

    Nothing in the data says in which frame of the latent space the object turns. S is the solution of Procrustes'
    problem between the axes of both, weighted by the sines of their angles.

    :param z: enc(x), rotations (n, 3, 3).
    :param gz: enc(g x).
    :param g: the rotations that moved the objects.
    """
    z, gz, g = _rotations(z, gz, g)
    found = so3.vee(so3.compose(gz, z.mT))
    return so3.project((found.unsqueeze(-1) * so3.vee(g).unsqueeze(-2)).sum(0)).numpy()


def winding_number(loops: ArrayLike, max_step: float = math.pi / 2) -> NDArray:
    """How often each closed loop on the circle goes round, counter-clockwise, shape (...): the class of the encoder.

    +-1 is that of a homeomorphism of the circle. NaN where a step is larger than ``max_step``: a torn loop has no
    class.

    :param loops: points of the circle, shape (..., n, 2).
    :param max_step: radians, below pi.
    """
    x = torch.as_tensor(np.asarray(loops)).double()
    following = x.roll(-1, -2)
    step = torch.atan2(x[..., 0] * following[..., 1] - x[..., 1] * following[..., 0], (x * following).sum(-1))
    number = (step.sum(-1) / (2 * math.pi)).round()
    return torch.where(step.abs().amax(-1) <= max_step, number, math.nan).numpy()


def rotation_class(loops: ArrayLike, max_step: float = math.pi / 2) -> NDArray:
    """The class of each closed loop on SO(3) in its fundamental group Z/2, 0 or 1, shape (...).

    The loop is lifted to the unit quaternions, its double cover: the class is 1 where it comes back to -q. An encoder
    that is a homeomorphism sends :func:`closed_geodesics`, of class 1, to loops of class 1. NaN where a step is larger
    than ``max_step``: a torn loop has no class.

    :param loops: rotations, shape (..., n, 3, 3).
    :param max_step: radians, below pi, at which the lift is no longer unique.
    """
    (r,) = _rotations(loops)
    steps = _steps(r, SO3().dist, 2)
    q = so3.to_quaternion(r)
    turned = (q * q.roll(-1, -2)).sum(-1) < 0  # of the two lifts of a neighbour the nearer one is the other
    return torch.where(steps.amax(-1) <= max_step, (turned.sum(-1) % 2).double(), math.nan).numpy()


def _steps(loops: ArrayLike, dist: Distance, event_dim: int) -> Tensor:
    x = torch.as_tensor(np.asarray(loops)).double()
    if x.dim() < event_dim + 1 or x.shape[-event_dim - 1] < 3:
        raise ValueError(
            f"expected loops of at least 3 points, shape (..., n, *event) with {event_dim} axes for a point, got "
            f"{tuple(x.shape)}"
        )
    return dist(x, x.roll(-1, -event_dim - 1))


def _rotations(*arrays: ArrayLike) -> list[Tensor]:
    found = [torch.as_tensor(np.asarray(a)).double() for a in arrays]
    for r in found:
        if r.shape[-2:] != (3, 3):
            raise ValueError(f"expected rotations of shape (..., 3, 3), got {tuple(r.shape)}")
    return found
