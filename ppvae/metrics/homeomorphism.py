r"""Is an encoder a homeomorphism: continuous, equivariant, and of the right class on loops?

A closed loop of data goes in, and the loop of its latents comes out. On SO(3) the loops are the closed geodesics

.. math::
    R_j = g \exp(2 \pi j u / n), \quad j = 0, \dots, n - 1, \qquad g \sim \mathrm{Haar}, \; u \sim U(S^2),

each of which generates the fundamental group Z/2. Let d_j be the steps between neighbours of the latent loop, with the
step from its last point back to its first. Then

.. math::
    \text{discontinuity} = \frac{\max_j d_j}{\tfrac1n \sum_j d_j}, \qquad
    \text{equivariance error} = E_{g, x} \; d(\mathrm{enc}(g x), g \, \mathrm{enc}(x)).

The discontinuity is 1 for a latent that moves at constant speed, and n at most. It grows with n for a torn loop, and
does not for a smooth one.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), Section 6
        https://arxiv.org/abs/1807.04689
    [2] Topological Obstructions and How to Avoid Them (Esmaeili et al., 2023), on winding numbers of encoders
        https://arxiv.org/abs/2312.07529
"""

import math
from collections.abc import Callable

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ppvae.checks import count, numbers
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
    :param seed: seed of the loops; the global generator is left as it was.
    :raises ValueError: if a number is below 1.

    >>> loops = closed_geodesics(2, 100)
    >>> loops.shape, rotation_class(loops).tolist()
    ((2, 100, 3, 3), [1.0, 1.0])
    """
    num_loops, num_points = count("num_loops", num_loops), count("num_points", num_points)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = SO3Uniform(dtype=torch.float64).sample((num_loops, 1))
        u = torch.randn(num_loops, 1, 3, dtype=torch.float64)
    u = u / u.norm(dim=-1, keepdim=True)
    t = 2 * math.pi * torch.arange(num_points, dtype=torch.float64) / num_points
    return so3.compose(g, so3.exp(t[:, None] * u)).numpy()


def discontinuity(loops: ArrayLike, dist: Distance, event_dim: int = 1) -> NDArray:
    r"""The largest step of each closed loop of latents over the mean step, in [1, n], shape (...).

    The discontinuity of an encoder is the largest over random loops, ``discontinuity(...).max()``. A loop that does not
    move has none, and gives NaN.

    :param loops: shape ``(..., n, *event)``, with the order of the loop along n; the first point follows the last.
    :param dist: the latent's distance, e.g. ``SO3().dist`` or ``Sphere().dist``.
    :param event_dim: number of axes of a point: 1 for vectors, 2 for rotations.
    :raises ValueError: for loops of fewer than 3 points, or numbers that are not finite.

    >>> square = [[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]
    >>> float(discontinuity(square, lambda x, y: (x - y).norm(dim=-1)))
    1.0
    """
    steps = _steps(torch.from_numpy(numbers("loops", loops)), dist, event_dim)
    return (steps.amax(-1) / steps.mean(-1)).numpy()


def equivariance_error(z: ArrayLike, gz: ArrayLike, g: ArrayLike) -> NDArray:
    """The angle between enc(g x) and g enc(x), in [0, pi] radians, shape (...).

    For unrelated rotations it is pi / 2 + 2 / pi = 2.2 on average.

    :param z: enc(x), rotations (..., 3, 3).
    :param gz: enc(g x), rotations (..., 3, 3).
    :param g: the rotations that moved the objects from the left, (..., 3, 3): x(R) becomes x(g R). If the encoder may
        turn in a frame of its own, pass ``S g S^T`` with the S of :func:`automorphism`; SO(3) has no other
        automorphisms.
    :raises ValueError: if an argument is no rotation, or the batch shapes do not broadcast.

    >>> one = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> quarter = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    >>> f"{equivariance_error(one, one, quarter):.4f}"
    '1.5708'
    """
    z, gz, g = _rotations(z=z, gz=gz, g=g)
    return so3.angle(so3.compose(so3.compose(g, z).mT, gz)).numpy()


def automorphism(z: ArrayLike, gz: ArrayLike, g: ArrayLike) -> NDArray:
    r"""The S for which :math:`S g S^T` comes nearest to :math:`\mathrm{enc}(g x) \, \mathrm{enc}(x)^T`, (3, 3).

    Nothing in the data says in which frame of the latent space the object turns. S solves the Procrustes problem
    between the axes of both rotations, weighted by the sines of their angles.

    :param z: enc(x), rotations (n, 3, 3).
    :param gz: enc(g x), rotations (n, 3, 3).
    :param g: the rotations that moved the objects, (n, 3, 3).
    :raises ValueError: if an argument is no rotation, the shapes differ, or the axes do not determine S.

    >>> g = closed_geodesics(5, 3)[:, 1]  # five rotations
    >>> bool(abs(automorphism(g, g @ g, g) - torch.eye(3).numpy()).max() < 1e-6)
    True
    """
    z, gz, g = _rotations(z=z, gz=gz, g=g)
    if not z.shape == gz.shape == g.shape or z.dim() != 3:
        raise ValueError(
            f"z, gz, g: expected one shape (n, 3, 3), got {tuple(z.shape)}, {tuple(gz.shape)} and {tuple(g.shape)}"
        )
    found = so3.vee(so3.compose(gz, z.mT))
    products = (found.unsqueeze(-1) * so3.vee(g).unsqueeze(-2)).sum(0)
    if torch.linalg.svdvals(products)[1] <= 1e-10 * len(g):  # rounding leaves 1e-16 of each term
        raise ValueError(
            "g: expected rotations about two axes at least in x and in the latents, which determine S, got one axis; "
            "pass more of them"
        )
    return so3.project(products).numpy()


def winding_number(loops: ArrayLike, max_step: float = math.pi / 2) -> NDArray:
    """How often each closed loop on the circle goes round, counter-clockwise, shape (...): the class of the encoder.

    A homeomorphism of the circle has 1 or -1. A torn loop, with a step larger than ``max_step``, has no class, and
    gives NaN.

    :param loops: points of the circle, or of the plane without its origin, shape (..., n, 2), n > 2.
    :param max_step: radians, below pi.
    :raises ValueError: for another shape, numbers that are not finite, or the origin, which has no angle.

    >>> float(winding_number([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], max_step=2.0))
    1.0
    """
    x = torch.from_numpy(numbers("loops", loops))
    if x.dim() < 2 or x.shape[-1] != 2 or x.shape[-2] < 3:
        raise ValueError(f"loops: expected at least 3 points of the circle, shape (..., n, 2), got {tuple(x.shape)}")
    if (x == 0).all(-1).any():
        raise ValueError("loops: expected unit vectors, got the origin, which has no angle; leave such loops out")
    _check_step(max_step)
    following = x.roll(-1, -2)
    step = torch.atan2(x[..., 0] * following[..., 1] - x[..., 1] * following[..., 0], (x * following).sum(-1))
    number = (step.sum(-1) / (2 * math.pi)).round()
    return torch.where(step.abs().amax(-1) <= max_step, number, math.nan).numpy()


def rotation_class(loops: ArrayLike, max_step: float = math.pi / 2) -> NDArray:
    """The class of each closed loop on SO(3) in its fundamental group Z/2, 0 or 1, shape (...).

    The loop is lifted to the unit quaternions, the double cover of SO(3). The class is 1 if it ends at -q. An encoder
    that is a homeomorphism sends :func:`closed_geodesics`, of class 1, to loops of class 1. A torn loop, with a step
    larger than ``max_step``, has no class, and gives NaN.

    :param loops: rotations, shape (..., n, 3, 3), n > 2.
    :param max_step: radians, below pi, at which the lift is no longer unique.
    :raises ValueError: for another shape, or matrices that are no rotations.

    >>> loop = closed_geodesics(1, 100)
    >>> rotation_class(loop).tolist(), rotation_class(loop @ loop).tolist()
    ([1.0], [0.0])
    """
    (r,) = _rotations(loops=loops)
    steps = _steps(r, SO3().dist, 2)
    _check_step(max_step)
    q = so3.to_quaternion(r)
    turned = (q * q.roll(-1, -2)).sum(-1) < 0  # then the lift of the neighbour that lies nearer is the other one, -q
    return torch.where(steps.amax(-1) <= max_step, (turned.sum(-1) % 2).double(), math.nan).numpy()


def _check_step(max_step: float) -> None:
    if not 0 < max_step < math.pi:
        raise ValueError(f"max_step: expected radians between 0 and pi, got {max_step}; take e.g. pi / 2")


def _steps(x: Tensor, dist: Distance, event_dim: int) -> Tensor:
    count("event_dim", event_dim, 0)
    if x.dim() < event_dim + 1 or x.shape[-event_dim - 1] < 3:
        raise ValueError(
            f"loops: expected at least 3 points, shape (..., n, *event) with {event_dim} axes for a point, got "
            f"{tuple(x.shape)}"
        )
    return dist(x, x.roll(-1, -event_dim - 1))


def _rotations(**arrays: ArrayLike) -> list[Tensor]:
    found = []
    for name, array in arrays.items():
        r = torch.from_numpy(numbers(name, array))
        if r.shape[-2:] != (3, 3):
            raise ValueError(f"{name}: expected rotations of shape (..., 3, 3), got {tuple(r.shape)}")
        defect = float((so3.compose(r, r.mT) - torch.eye(3).to(r)).abs().max()) if r.numel() else 0.0
        # Rotations of float32 that went through some products are off by 1e-6, angles of them by as much.
        if defect > 1e-4 or (torch.linalg.det(r) < 0).any():
            raise ValueError(
                f"{name}: expected rotations R with R R^T = I and det R = 1, got a defect of {defect:.2g} or a "
                "reflection; project them with ppvae.manifolds.so3.project"
            )
        found.append(r)
    try:
        torch.broadcast_shapes(*(r.shape for r in found))
    except RuntimeError:
        shapes = ", ".join(str(tuple(r.shape)) for r in found)
        raise ValueError(f"{', '.join(arrays)}: expected batch shapes that broadcast, got {shapes}") from None
    return found
