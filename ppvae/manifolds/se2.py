r"""The rigid motions of the plane, SE(2): p -> R p + b, the similarities of scale one.

.. math::
    \exp(\omega, v) = \begin{pmatrix} R(\omega) & \varphi(i \omega) v \\ 0 & 1 \end{pmatrix}, \qquad
    \varphi(z) = \frac{e^z - 1}{z}

An element is a matrix (..., 3, 3) on homogeneous coordinates, an element of the algebra is (omega, v_1, v_2),
radians and a velocity. compose, inverse and act are those of :mod:`ppvae.manifolds.sim2`. The group has no
metric that is invariant on both sides, so no law lives on it here: a pose is a product of sites, an angle and
a shift.

References:
    [1] A Micro Lie Theory for State Estimation in Robotics (Solà, Deray & Atchuthan, 2018), Example 3 and
    Appendix A
        https://arxiv.org/abs/1812.01537
"""

import torch
from torch import Tensor

from ppvae.manifolds import sim2
from ppvae.manifolds.sim2 import act, compose, inverse

__all__ = ["act", "compose", "exp", "hat", "inverse", "log", "vee"]


def _similarity(xi: Tensor) -> Tensor:
    """(omega, v) as the element (omega, 0, v) of the algebra of the similarities."""
    return torch.cat([xi[..., :1], torch.zeros_like(xi[..., :1]), xi[..., 1:]], -1)


def _motion(xi: Tensor) -> Tensor:
    """The inverse of :func:`_similarity`."""
    return torch.cat([xi[..., :1], xi[..., 2:]], -1)


def hat(xi: Tensor) -> Tensor:
    """The matrix [[0, -omega, v_1], [omega, 0, v_2], [0, 0, 0]] of xi, (..., 3) -> (..., 3, 3).

    >>> hat(torch.tensor([0.5, 1.0, 2.0]))
    tensor([[ 0.0000, -0.5000,  1.0000],
            [ 0.5000,  0.0000,  2.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    return sim2.hat(_similarity(xi))


def vee(a: Tensor) -> Tensor:
    """The inverse of :func:`hat`, (..., 3, 3) -> (..., 3).

    >>> vee(hat(torch.tensor([0.5, 1.0, 2.0])))
    tensor([0.5000, 1.0000, 2.0000])
    """
    return _motion(sim2.vee(a))


def exp(xi: Tensor) -> Tensor:
    """The motion of xi = (omega, v_1, v_2), (..., 3) -> (..., 3, 3); smooth at xi = 0.

    >>> exp(torch.tensor([torch.pi / 3, torch.pi, 0.0])).round(decimals=4)
    tensor([[ 0.5000, -0.8660,  2.5981],
            [ 0.8660,  0.5000,  1.5000],
            [ 0.0000,  0.0000,  1.0000]])
    """
    return sim2.exp(_similarity(xi))


def log(g: Tensor) -> Tensor:
    """The xi = (omega, v_1, v_2) with exp(xi) = g and omega in [-pi, pi], (..., 3, 3) -> (..., 3).

    >>> log(exp(torch.tensor([0.5, 1.0, 2.0]))).round(decimals=4)
    tensor([0.5000, 1.0000, 2.0000])
    """
    return _motion(sim2.log(g))
