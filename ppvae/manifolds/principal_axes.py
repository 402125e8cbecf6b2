r"""Axes of symmetric matrices: the eigenvectors of the largest and the smallest eigenvalue, each up to its sign.

.. math::
    A = \sum_i \lambda_i q_i q_i^\top, \quad \lambda_1 \ge \lambda_2 \ge \dots, \qquad
    A^{2^k} / \mathrm{tr} A^{2^k} \to q_1 q_1^\top \; (\text{A positive}), \\
    dq_1 = (\lambda_1 I - A)^+ \, dA \, q_1, \qquad
    (I - X)^{-1} = \prod_k \bigl( I + X^{2^k} \bigr), \quad X = A / \lambda_1 - q_1 q_1^\top

By repeated squaring, in a fixed number of products, as no solver for eigenvectors runs on a device without waiting for
it. The last step carries the gradient, that of the implicit function theorem. First derivatives only.

As lines the axes are continuous functions of A where their eigenvalues are simple, and every line is one: they are what
a network can say of a line, or of a frame of lines, without a tear.

Reference: Matrix Computations (Golub and Van Loan, 2013), 7.3 and 8.2, https://doi.org/10.56021/9781421407944
"""

import math

import torch
from torch import Tensor

from ppvae.manifolds.so3 import compose, cross
from ppvae.manifolds.sphere import rotate_from_pole

__all__ = ["principal_axis", "principal_frame", "symmetric"]


def symmetric(h: Tensor, m: int) -> Tensor:
    """The symmetric matrix of m (m + 1) / 2 numbers, an isometry: (..., m (m + 1) / 2) to (..., m, m).

    >>> symmetric(torch.tensor([1.0, 0.0, 3.0]), 2)
    tensor([[1., 0.],
            [0., 3.]])
    """
    i, j = torch.triu_indices(m, m, device=h.device)
    place = torch.zeros(m, m, dtype=torch.long, device=h.device)
    place = place.index_put((i, j), torch.arange(h.shape[-1], device=h.device))
    place = torch.maximum(place, place.T)
    eye = torch.eye(m, dtype=h.dtype, device=h.device)
    return h[..., place] * (eye + (1 - eye) * math.sqrt(0.5))


def principal_axis(a: Tensor) -> Tensor:
    r"""The eigenvector of the largest eigenvalue of symmetric matrices, of length one, its sign arbitrary.

    Its gradient grows as the inverse of the gap between the two largest eigenvalues. Where they are equal to rounding
    the axis is not unique: one of those that are right is returned, with gradient 0.

    :param a: symmetric matrices, shape ``(..., m, m)``.
    :return: unit vectors, shape ``(..., m)``.

    >>> principal_axis(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).abs()
    tensor([0.7071, 0.7071])
    """
    size = a.detach().abs().amax((-2, -1), keepdim=True)
    a = a / torch.where(size > 0, size, 1)  # the axis does not depend on the scale, nor does the square overflow
    bound = a.detach().square().sum((-2, -1), keepdim=True).sqrt()  # no eigenvalue is below -bound
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    a = a + torch.where(bound > 0, bound, 1) * eye
    fixed = power = a.detach()
    # After k squarings e^{-2^k gap} of the second axis is left: 2^k = 1 / eps.
    k = round(-math.log2(torch.finfo(a.dtype).eps))
    for _ in range(k):
        power = power / _trace(power)
        power = compose(power, power)
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = power.gather(-2, largest[..., None, None].expand(*largest.shape, 1, a.shape[-1])).squeeze(-2)
    q = q / q.square().sum(-1, keepdim=True).sqrt()
    outer = q.unsqueeze(-1) * q.unsqueeze(-2)
    level = (compose(fixed, outer) * eye).sum((-2, -1), keepdim=True)  # q^T A q
    x = fixed / level - outer
    step = _apply(a, q)
    step = (step - (q * step).sum(-1, keepdim=True) * q) / level.squeeze(-1)  # 0 to rounding, and not so its derivative
    for _ in range(k - 3):
        step = step + _apply(x, step)
        x = compose(x, x)
    unique = _trace(x).squeeze(-1) < math.exp(-1)  # a gap above 8 eps
    q = q + torch.where(unique, step, 0)
    return q / q.square().sum(-1, keepdim=True).sqrt()


def principal_frame(a: Tensor) -> Tensor:
    r"""The rotation whose columns are the axes of a symmetric 3x3 matrix, in the order of falling eigenvalues.

    It is one of the four that differ by half turns about its own axes: a point of SO(3)/D_2, continuous in A where the
    three eigenvalues are distinct.

    :param a: symmetric matrices, shape ``(..., 3, 3)``.
    :return: rotations, shape ``(..., 3, 3)``.

    >>> principal_frame(torch.diag(torch.tensor([1.0, 3.0, 2.0]))).abs()
    tensor([[0., 0., 1.],
            [1., 0., 0.],
            [0., 1., 0.]])
    """
    first, last = principal_axis(a), principal_axis(-a)
    last = last - (first * last).sum(-1, keepdim=True) * first
    length = last.square().sum(-1, keepdim=True)
    apart = length > 0.5  # two axes are orthogonal to rounding; of a multiple of the identity both are one
    e2 = torch.eye(3, dtype=a.dtype, device=a.device)[1]
    last = torch.where(apart, last / torch.where(apart, length, 1).sqrt(), rotate_from_pole(e2, first))
    return torch.stack([first, cross(last, first), last], -1)


def _trace(a: Tensor) -> Tensor:
    return a.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def _apply(a: Tensor, x: Tensor) -> Tensor:
    return (a * x.unsqueeze(-2)).sum(-1)
