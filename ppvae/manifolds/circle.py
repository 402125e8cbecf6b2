r"""The circle S^1 = {x in R^2 : |x| = 1} and its group SO(2).

.. math::
    \exp(t) = (\cos t, \sin t), \qquad \log(x) = \mathrm{atan2}(x_2, x_1) \in [-\pi, \pi], \qquad
    \hat t = \begin{pmatrix} 0 & -t \\ t & 0 \end{pmatrix}

A point (..., 2) is a complex number of modulus one; the group acts on the plane and on images by turning
counter-clockwise. Tangent vectors at x are t J x with J the quarter turn, so the angle t = u . Jx is a smooth
signed coordinate and nothing is singular at t = 0. The measure is d t, of total 2 pi.

References:
    [1] A Micro Lie Theory for State Estimation in Robotics (Solà, Deray & Atchuthan, 2018)
        https://arxiv.org/abs/1812.01537
"""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.manifolds.protocol import wraps
from ppvae.manifolds.sphere import Direction, sphere

__all__ = ["Circle", "act", "compose", "exp", "hat", "inverse", "log", "matrix", "mean_angle", "vee"]


class _Circle(constraints.Constraint):
    """Unit vectors of R^2."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-1] != 2:
            raise ValueError(
                f"expected points of the circle as unit vectors (..., 2), got shape {tuple(value.shape)}: "
                "turn angles t into points by ppvae.manifolds.circle.exp(t)"
            )
        return sphere.check(value)


def exp(t: Tensor) -> Tensor:
    """The point at angle t radians, (...) -> (..., 2).

    >>> exp(torch.tensor(torch.pi / 3)).round(decimals=4)
    tensor([0.5000, 0.8660])
    """
    return torch.stack([t.cos(), t.sin()], -1)


def log(x: Tensor) -> Tensor:
    """The angle of x in [-pi, pi] radians, (..., 2) -> (...).

    >>> print(f"{log(torch.tensor([0.0, -1.0])):.4f}")
    -1.5708
    """
    return torch.atan2(x[..., 1], x[..., 0])


def hat(t: Tensor) -> Tensor:
    """The skew matrix of t, an element of the algebra so(2), (...) -> (..., 2, 2).

    >>> hat(torch.tensor(2.0))
    tensor([[ 0., -2.],
            [ 2.,  0.]])
    """
    o = torch.zeros_like(t)
    return torch.stack([o, -t, t, o], -1).unflatten(-1, (2, 2))


def vee(a: Tensor) -> Tensor:
    """The inverse of :func:`hat`, (..., 2, 2) -> (...); of any other matrix, that of its skew part.

    >>> vee(hat(torch.tensor(2.0)))
    tensor(2.)
    """
    return (a[..., 1, 0] - a[..., 0, 1]) / 2


def compose(x: Tensor, y: Tensor) -> Tensor:
    """The product of x and y as complex numbers, whose angles add, (..., 2).

    >>> print(f"{log(compose(exp(torch.tensor(1.0)), exp(torch.tensor(0.5)))):.4f}")
    1.5000
    """
    return act(x, y)


def inverse(x: Tensor) -> Tensor:
    """The complex conjugate, whose angle is the opposite one, (..., 2).

    >>> inverse(torch.tensor([0.6, 0.8]))
    tensor([ 0.6000, -0.8000])
    """
    return torch.stack([x[..., 0], -x[..., 1]], -1)


def act(x: Tensor, p: Tensor) -> Tensor:
    """Points p of the plane, (..., 2), turned by x; batch shapes broadcast.

    >>> act(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0]))
    tensor([-1.,  2.])
    """
    (cos, sin), (a, b) = x.unbind(-1), p.unbind(-1)
    return torch.stack([cos * a - sin * b, sin * a + cos * b], -1)


def matrix(x: Tensor) -> Tensor:
    """The rotation matrix [[cos, -sin], [sin, cos]] of x, (..., 2) -> (..., 2, 2).

    >>> matrix(torch.tensor([0.6, 0.8]))
    tensor([[ 0.6000, -0.8000],
            [ 0.8000,  0.6000]])
    """
    cos, sin = x.unbind(-1)
    return torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))


def quarter_turn(x: Tensor) -> Tensor:
    """J x, the unit tangent vector at x that points counter-clockwise, (..., 2).

    >>> quarter_turn(torch.tensor([0.6, 0.8]))
    tensor([-0.8000,  0.6000])
    """
    return torch.stack([-x[..., 1], x[..., 0]], -1)


class Circle:
    """Geometry of the circle: points x, y and tangent vectors u at x have shape ``(..., 2)``.

    >>> x, y = exp(torch.tensor(3.0)), exp(torch.tensor(-3.0))  # on both sides of the angle's jump
    >>> print(f"{Circle().dist(x, y):.4f}")
    0.2832
    """

    support = _Circle()

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of u on the tangent line at x: (u . Jx) Jx."""
        return (u * quarter_turn(x)).sum(-1, keepdim=True) * quarter_turn(x)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """x turned by the angle u . Jx radians."""
        return act(x, exp((u * quarter_turn(x)).sum(-1)))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The tangent vector t Jx with t the angle from x to y in [-pi, pi]."""
        return self._angle(x, y).unsqueeze(-1) * quarter_turn(x)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Angle between x and y in [0, pi] radians, shape ``(...)``; the gradient at y = x is 0."""
        return self._angle(x, y).abs()

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |d exp_x| = 0, shape ``(...)``: the circle is flat."""
        return torch.zeros_like(x[..., 0] + u[..., 0])

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        """The angle from x to y, and 2 pi k more."""
        t = self._angle(x, y)
        turns = t + wraps(num_wraps, 2 * math.pi, t)
        return turns.unsqueeze(-1), torch.zeros_like(turns)

    def intrinsic_dim(self, x: Tensor) -> int:
        """1."""
        return 1

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u . v, shape ``(...)``."""
        return (u * v).sum(-1)

    def frame(self, x: Tensor) -> Tensor:
        """Jx, shape ``(..., 1, 2)``."""
        return quarter_turn(x).unsqueeze(-2)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """u . Jx, shape ``(..., 1)``."""
        return (u * quarter_turn(x)).sum(-1, keepdim=True)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of points (n, 2), exact: see :func:`mean_angle`."""
        return exp(mean_angle(log(x), weights))

    def embed(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    @property
    def lift(self) -> Direction:
        """A point as the direction of a vector."""
        return Direction()

    chart = None

    def log_total_volume(self, x: Tensor) -> float:
        """log 2 pi."""
        return math.log(2 * math.pi)

    def uniform(self, like: Tensor) -> Tensor:
        """Directions of normal vectors."""
        return Direction().point(torch.randn_like(like))

    def _angle(self, x: Tensor, y: Tensor) -> Tensor:
        return log(compose(inverse(x), y))


def mean_angle(t: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""The angle of least weighted sum of squared distances to n angles t, (n,) or (n, k) for k circles: (k,).

    The mean is the ordinary one of the angles once the circle is cut in the right place, which is between two of them.
    With the sorted angles in :math:`[-\pi, \pi]` and the first k of them moved up by a turn,

    .. math::
        m_k = \sum_i w_i t_i + 2 \pi W_k, \qquad
        V_k = \sum_i w_i t_i^2 + 4 \pi \sum_{i \le k} w_i t_i + 4 \pi^2 W_k - m_k^2, \qquad W_k = \sum_{i \le k} w_i

    and the mean is the m_k with the least V_k.

    Source: Hotz and Huckemann (2015), https://arxiv.org/abs/1108.2141
    """
    n = t.shape[0]
    w = torch.full_like(t, 1 / n)
    if weights is not None:
        w = (weights / weights.sum()).reshape(n, *[1] * (t.dim() - 1)).expand_as(t)
    order = t.argsort(0)
    t, w = t.gather(0, order), w.gather(0, order)
    W = w.cumsum(0) - w  # the weight of the angles before, so that the first candidate moves none
    moved = (w * t).cumsum(0) - w * t
    m = (w * t).sum(0) + 2 * math.pi * W
    V = (w * t.square()).sum(0) + 4 * math.pi * moved + 4 * math.pi**2 * W - m.square()
    best = m.gather(0, V.argmin(0, keepdim=True)).squeeze(0)
    return torch.remainder(best + math.pi, 2 * math.pi) - math.pi
