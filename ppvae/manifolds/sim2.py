r"""The similarities of the plane, Sim(2), and the rigid motions SE(2) among them.

As complex maps, with :math:`z = \sigma + i \omega` and :math:`\varphi(z) = (e^z - 1)/z`,

.. math::
    p \mapsto a p + b, \qquad
    \exp(\omega, \sigma, v) = (a, b) = (e^z, \varphi(z) v), \qquad
    \log(a, b) = (\arg a, \log |a|, b / \varphi(z)), \quad \arg a \in [-\pi, \pi]

An element is a matrix (..., 3, 3) on homogeneous coordinates, :math:`[[sR, b], [0, 1]]` with scale s =
``|a|`` and rotation R; an element of the algebra is (omega, sigma, v_1, v_2): radians, log scale and a
velocity. A rigid motion has sigma = 0 (:mod:`ppvae.manifolds.se2`). These groups have no metric that is
invariant on both sides, so no law lives on them here: a pose is a product of sites, an angle, a scale and a
shift.

References:
    [1] Lie Groups for 2D and 3D Transformations (Eade, 2013)
        https://ethaneade.com/lie.pdf
    [2] A Micro Lie Theory for State Estimation in Robotics (Solà, Deray & Atchuthan, 2018)
        https://arxiv.org/abs/1812.01537
"""

import torch
from torch import Tensor

from ppvae.manifolds import circle

__all__ = ["act", "compose", "exp", "hat", "inverse", "log", "vee"]


def hat(xi: Tensor) -> Tensor:
    """The matrix [[sigma, -omega, v_1], [omega, sigma, v_2], [0, 0, 0]] of xi, (..., 4) -> (..., 3, 3).

    >>> hat(torch.tensor([0.5, 0.1, 1.0, 2.0]))
    tensor([[ 0.1000, -0.5000,  1.0000],
            [ 0.5000,  0.1000,  2.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    omega, sigma, v1, v2 = xi.unbind(-1)
    o = torch.zeros_like(omega)
    return torch.stack([sigma, -omega, v1, omega, sigma, v2, o, o, o], -1).unflatten(-1, (3, 3))


def vee(a: Tensor) -> Tensor:
    """The inverse of :func:`hat`, (..., 3, 3) -> (..., 4).

    >>> vee(hat(torch.tensor([0.5, 0.1, 1.0, 2.0])))
    tensor([0.5000, 0.1000, 1.0000, 2.0000])
    """
    return torch.stack(
        [
            (a[..., 1, 0] - a[..., 0, 1]) / 2,
            (a[..., 0, 0] + a[..., 1, 1]) / 2,
            a[..., 0, 2],
            a[..., 1, 2],
        ],
        -1,
    )


def exp(xi: Tensor) -> Tensor:
    """The similarity of xi = (omega, sigma, v_1, v_2), (..., 4) -> (..., 3, 3); smooth at xi = 0.

    >>> exp(torch.tensor([torch.pi / 3, 0.6931, 0.0, 0.0])).round(decimals=3)
    tensor([[ 1.0000, -1.7320,  0.0000],
            [ 1.7320,  1.0000,  0.0000],
            [ 0.0000,  0.0000,  1.0000]])
    """
    omega, sigma, v = xi[..., 0], xi[..., 1], xi[..., 2:]
    a = sigma.exp().unsqueeze(-1) * circle.exp(omega)
    return _element(a, circle.act(_phi(sigma, omega), v))


def log(g: Tensor) -> Tensor:
    """The xi = (omega, sigma, v_1, v_2) with exp(xi) = g and omega in [-pi, pi], (..., 3, 3) -> (..., 4).

    The gradient is finite everywhere. At omega = pi, where -pi is a logarithm too, it is that of the chosen branch.

    >>> log(exp(torch.tensor([0.5, 0.1, 1.0, 2.0]))).round(decimals=4)
    tensor([0.5000, 0.1000, 1.0000, 2.0000])
    """
    a, b = g[..., :2, 0], g[..., :2, 2]
    omega, sigma = circle.log(a), a.square().sum(-1).log() / 2
    phi = _phi(sigma, omega)
    v = circle.act(circle.inverse(phi), b) / phi.square().sum(-1, keepdim=True)  # its zeros are at omega = 2 pi k
    return torch.cat([omega.unsqueeze(-1), sigma.unsqueeze(-1), v], -1)


def compose(g: Tensor, h: Tensor) -> Tensor:
    """The map g after h, (..., 3, 3).

    >>> g = exp(torch.tensor([0.5, 0.1, 1.0, 2.0]))
    >>> compose(g, inverse(g)).abs().round(decimals=4)
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    # A sum of products and not a matmul: TF32 and autocast would leave it with three digits.
    return (g.unsqueeze(-1) * h.unsqueeze(-3)).sum(-2)


def inverse(g: Tensor) -> Tensor:
    """The inverse map p -> (p - b) / a, (..., 3, 3).

    >>> inverse(exp(torch.tensor([0.0, 0.0, 1.0, 2.0])))[..., 2]
    tensor([-1., -2.,  1.])
    """
    a, b = g[..., :2, 0], g[..., :2, 2]
    a = circle.inverse(a) / a.square().sum(-1, keepdim=True)
    return _element(a, -circle.act(a, b))


def act(g: Tensor, p: Tensor) -> Tensor:
    """Points p of the plane, (..., 2), mapped by g; batch shapes broadcast.

    >>> shift = exp(torch.tensor([0.0, 0.0, 1.0, 2.0]))
    >>> act(shift, torch.tensor([5.0, 5.0]))
    tensor([6., 7.])
    """
    return circle.act(g[..., :2, 0], p) + g[..., :2, 2]


def _element(a: Tensor, b: Tensor) -> Tensor:
    o, one = torch.zeros_like(b[..., 0]), torch.ones_like(b[..., 0])
    (a1, a2), (b1, b2) = a.unbind(-1), b.unbind(-1)
    return torch.stack([a1, -a2, b1, a2, a1, b2, o, o, one], -1).unflatten(-1, (3, 3))


def _phi(sigma: Tensor, omega: Tensor) -> Tensor:
    """(e^z - 1) / z for z = sigma + i omega, as real and imaginary part, (..., 2)."""
    n = sigma.square() + omega.square()
    near = n < 0.25
    z = torch.stack([torch.where(near, sigma, 0), torch.where(near, omega, 0)], -1)
    one = torch.stack([torch.ones_like(n), torch.zeros_like(n)], -1)
    series = one
    for k in range(14, 0, -1):  # sum_k z^k / (k + 1)!; the first term left out is below 0.5^15 / 16! = 2e-18
        series = one + circle.act(z, series) / (k + 1)
    real = sigma.expm1() * omega.cos() - 2 * (omega / 2).sin().square()  # Re(e^z - 1), without 1 - cos
    difference = torch.stack([real, sigma.exp() * omega.sin()], -1)
    conjugate = torch.stack([sigma, -omega], -1)
    far = circle.act(conjugate, difference) / torch.where(near, 1, n).unsqueeze(-1)
    return torch.where(near.unsqueeze(-1), series, far)
