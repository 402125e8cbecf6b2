r"""The action of SO(3) on functions on the sphere: real Wigner-D matrices, and the decoder that is built on
them.

The real spherical harmonics :math:`Y_{lm}`, l <= L, |m| <= l, are an orthonormal basis of the polynomials of
degree L on S^2. Rotations act on them degree by degree,

.. math::
    Y_l(R x) = D^l(R) \, Y_l(x), \qquad D^l(R S) = D^l(R) D^l(S), \qquad D^l(R) \text{ orthogonal}

with :math:`D^0 = 1` and :math:`D^1 = R` in the order (y, z, x) of :math:`Y_1 \propto (y, z, x)`. As the
products :math:`x_i Y_{l-1,m}` hold each :math:`Y_{lm'}` once, there is a fixed matrix :math:`C_l` (of
Clebsch-Gordan coefficients) with orthonormal rows and

.. math::
    D^l(R) = C_l \, (D^1(R) \otimes D^{l-1}(R)) \, C_l^T, \qquad
    (C_l)_{m, (i, m')} \propto \int_{S^2} Y_{lm} \, Y_{1i} \, Y_{l-1,m'} \, dA

which is a polynomial in the entries of R: it has no poles as in Euler angles, and its gradient is exact.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), Section 5
        https://arxiv.org/abs/1807.04689
    [2] Rotation Matrices for Real Spherical Harmonics (Ivanic & Ruedenberg, 1996)
        https://doi.org/10.1021/jp953350u
    [3] Efficient Spherical Harmonic Evaluation (Sloan, 2013)
        https://jcgt.org/published/0002/02/06/
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.nn.registration import records_options

__all__ = ["ActionDecoder", "WignerD", "spherical_harmonics"]


def spherical_harmonics(degree: int, x: Tensor) -> list[Tensor]:
    r"""Real spherical harmonics of degrees 0, ..., L at unit vectors x, orthonormal for the area of S^2.

    .. math::
        Y_{lm} = \sqrt{\tfrac{2l+1}{4 \pi} \tfrac{(l - |m|)!}{(l + |m|)!} (2 - \delta_{m0})} \;
        \frac{P_{l|m|}(z)}{(1 - z^2)^{|m|/2}} \;
        \{ \mathrm{Im} \text{ if } m < 0, \mathrm{Re} \text{ else} \} (x + i y)^{|m|}

    :param degree: L >= 0.
    :param x: unit vectors, shape ``(..., 3)``.
    :return: for each l a tensor of shape ``(..., 2l + 1)``, m from -l to l; without the sign :math:`(-1)^m`
        of Condon and Shortley, so that :math:`Y_1 = \sqrt{3 / 4 \pi} \, (y, z, x)`.

    >>> y_0, y_1 = spherical_harmonics(1, torch.tensor([1.0, 0.0, 0.0]))
    >>> y_0, y_1  # 1 / sqrt(4 pi), and sqrt(3 / 4 pi) (y, z, x)
    (tensor([0.2821]), tensor([0.0000, 0.0000, 0.4886]))
    """
    a, b, z = x.unbind(-1)
    real, imaginary = [torch.ones_like(z)], [torch.zeros_like(z)]
    for _ in range(degree):
        real, imaginary = (
            [*real, a * real[-1] - b * imaginary[-1]],
            [*imaginary, a * imaginary[-1] + b * real[-1]],
        )
    # P[l][m] = P_lm / (1 - z^2)^{m/2}, a polynomial in z: up in l at fixed m.
    p: list[list[Tensor]] = [[] for _ in range(degree + 1)]
    for m in range(degree + 1):
        p[m].append(torch.full_like(z, math.prod(range(1, 2 * m, 2))))
        for l in range(m + 1, degree + 1):
            before = p[l - 2][m] if l - 2 >= m else 0.0
            p[l].append(((2 * l - 1) * z * p[l - 1][m] - (l + m - 1) * before) / (l - m))
    harmonics = []
    for l in range(degree + 1):
        row = []
        for m in range(-l, l + 1):
            n = abs(m)
            factor = (2 * l + 1) / (4 * math.pi) * math.factorial(l - n) / math.factorial(l + n) * (2 if n else 1)
            row.append(math.sqrt(factor) * p[l][n] * (imaginary[n] if m < 0 else real[n]))
        harmonics.append(torch.stack(row, -1))
    return harmonics


def _clebsch_gordan(degree: int) -> list[Tensor]:
    """C_l of shape (2l + 1, 3 (2l - 1)) for l = 2, ..., L, in float64, by a quadrature that is exact."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(degree + 1))
    phi = 2 * math.pi * torch.arange(2 * degree + 2, dtype=torch.float64) / (2 * degree + 2)
    rho = (1 - z.square()).sqrt()[:, None]
    points = torch.stack(torch.broadcast_tensors(rho * phi.cos(), rho * phi.sin(), z[:, None]), -1)
    y = [h.flatten(0, 1) for h in spherical_harmonics(degree, points)]
    weight = w[:, None].expand(-1, 2 * degree + 2).flatten()
    matrices = []
    for l in range(2, degree + 1):
        c = torch.einsum("p,pm,pi,pn->min", weight, y[l], y[1], y[l - 1]).flatten(1)
        matrices.append(c / c.norm(dim=-1, keepdim=True))  # C C^T is a multiple of I, by Schur's lemma
    return matrices


class WignerD(nn.Module):
    r"""The real Wigner-D matrices :math:`D^0(R), \dots, D^L(R)` of rotations, orthogonal and multiplicative
    in R.

    The error of the block of degree l is about l rounding units of the dtype.

    >>> r, s = (torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0] for _ in range(2))
    >>> r, s = r * r.det(), s * s.det()
    >>> wigner = WignerD(3).double()
    >>> torch.allclose(wigner(r)[3] @ wigner(s)[3], wigner(r @ s)[3])
    True

    :param degree: L >= 0.
    :raises ValueError: if the degree is negative.
    """

    @records_options
    def __init__(self, degree: int):
        super().__init__()
        if degree < 0:
            raise ValueError(f"expected a degree >= 0, got {degree}")
        self.degree = degree
        self._exact = _clebsch_gordan(degree)
        for l, c in enumerate(self._exact, 2):
            self.register_buffer(f"c{l}", c.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for l, c in enumerate(self._exact, 2):  # else double() would keep the digits of float32
            setattr(self, f"c{l}", c.to(getattr(self, f"c{l}")))
        return self

    def forward(self, r: Tensor) -> list[Tensor]:
        """For rotations (..., 3, 3) in the module's dtype the blocks (..., 2l + 1, 2l + 1), l = 0, ..., L."""
        first = torch.cat([r[..., 1:, :], r[..., :1, :]], -2)  # the order (y, z, x)
        first = torch.cat([first[..., 1:], first[..., :1]], -1)
        blocks = [torch.ones_like(r[..., :1, :1]), first][: self.degree + 1]
        for l in range(2, self.degree + 1):
            c: Tensor = getattr(self, f"c{l}")
            d = blocks[-1]
            product = first[..., :, None, :, None] * d[..., None, :, None, :]  # the Kronecker product
            blocks.append(c @ product.flatten(-2).flatten(-3, -2) @ c.mT)
        return blocks


class ActionDecoder(nn.Module):
    r"""Decoder that sees a rotation only by its action on a learned spectrum F [1].

    .. math::
        \hat x = f(D(R) F), \qquad D(R) = \mathrm{diag}(D^0(R), \dots, D^L(R)), \qquad F \in R^{(L+1)^2 \times c}

    A rotation S of the object, R -> S R, then acts on the coefficients as D(S), whatever f is. A perceptron on the nine
    entries of R, ``MLP((3, 3), ...)``, can be far from any action.

    >>> decoder = ActionDecoder(nn.Linear(8, 5), degree=1, copies=2)
    >>> decoder(torch.eye(3).expand(7, 3, 3)).shape
    torch.Size([7, 5])

    :param network: f, from ``(L + 1)^2 * copies`` coefficients to the features of the likelihood; by default the
        identity.
    :param degree: L >= 0.
    :param copies: c, the number of functions on the sphere that rotate together.
    """

    @records_options
    def __init__(self, network: nn.Module | None = None, degree: int = 3, copies: int = 10):
        super().__init__()
        self.wigner = WignerD(degree)
        self.features = (degree + 1) ** 2 * copies
        # Each of the coefficients of D(R) F starts with variance one, whatever R is: D(R) is orthogonal.
        self.spectrum = nn.Parameter(torch.randn((degree + 1) ** 2, copies))
        self.network = network or nn.Identity()

    def forward(self, r: Tensor) -> Tensor:
        """Network output for rotations (..., 3, 3); its input is the rotated spectrum, shape (..., features)."""
        sizes = [2 * l + 1 for l in range(self.wigner.degree + 1)]
        rotated = [d @ f for d, f in zip(self.wigner(r), self.spectrum.split(sizes), strict=True)]
        return self.network(torch.cat(rotated, -2).flatten(-2))
