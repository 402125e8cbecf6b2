r"""Vectors of 48 numbers whose only factor is a rotation: the toy experiment of the homeomorphic VAE [1].

.. math::
    R \sim \mathrm{Haar}(SO(3)), \qquad x = D(R) F + \epsilon, \qquad
    D = \mathrm{diag}(D^0, D^1, D^2, D^3), \quad F \in R^{16 \times 3}, \; |F| = 10, \quad
    \epsilon \sim N(0, \sigma^2 I)

F holds three functions on the sphere by their real spherical harmonics of degrees 0 to 3, drawn once. With so small a
:math:`\sigma` that the posterior of R is narrow, its precision is the Fisher information
:math:`I = J^T J / \sigma^2`, :math:`J_i = \partial_i D(\exp v) F` at v = 0, the same at every R, and

.. math::
    E \log p(x) \approx -24 \log 2 \pi \sigma^2 - \tfrac{45}{2} - \log 8 \pi^2 + \tfrac32 \log 2 \pi
        - \tfrac12 \log \det I

(Laplace) is what no model of x can exceed.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), Section 6.1
        https://arxiv.org/abs/1807.04689
    [2] Rotation Matrices for Real Spherical Harmonics (Ivanic & Ruedenberg, 1996)
        https://doi.org/10.1021/jp953350u
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

__all__ = ["SpectralToy"]

DEGREE, COPIES = 3, 3


def _harmonics(x: NDArray) -> NDArray:
    """Real spherical harmonics of degrees 0 to 3 at unit vectors (..., 3), shape (..., 16), orthonormal up to a factor.

    The order of degree 1 is (y, z, x), m runs from -l to l.
    """
    a, b, c = np.moveaxis(x, -1, 0)
    s3, s5, s6, s10, s15 = (math.sqrt(n) for n in (3, 5, 6, 10, 15))
    s7 = math.sqrt(7)
    columns = [
        np.ones_like(a),
        *(s3 * b, s3 * c, s3 * a),
        *(s15 * a * b, s15 * b * c, s5 / 2 * (3 * c * c - 1), s15 * a * c, s15 / 2 * (a * a - b * b)),
        s7 * s10 / 4 * b * (3 * a * a - b * b),
        s7 * s15 * a * b * c,
        s7 * s6 / 4 * b * (5 * c * c - 1),
        s7 / 2 * c * (5 * c * c - 3),
        s7 * s6 / 4 * a * (5 * c * c - 1),
        s7 * s15 / 2 * c * (a * a - b * b),
        s7 * s10 / 4 * a * (a * a - 3 * b * b),
    ]
    return np.stack(columns, -1)


class SpectralToy:
    """The law of x given R, and of both.

    :param noise: the standard deviation sigma of each number.
    :param seed: of the spectrum F.

    >>> toy = SpectralToy(noise=0.5)
    >>> x, R = toy.draw(10)
    >>> x.shape, R.shape
    ((10, 48), (10, 3, 3))
    >>> round(toy.evidence(), 2)  # nats per datum
    -45.34
    """

    def __init__(self, noise: float = 0.5, seed: int = 0):
        if not noise >= 0:
            raise ValueError(f"expected a noise of at least 0, got {noise}")
        rng = np.random.default_rng(seed)
        spectrum = rng.standard_normal(((DEGREE + 1) ** 2, COPIES))
        self.noise, self.spectrum = noise, 10 * spectrum / np.linalg.norm(spectrum)
        # Y(R p) = D(R) Y(p) at more points p than harmonics determines D(R), exactly but for rounding.
        points = np.random.default_rng(0).standard_normal((64, 3))
        self._points = points / np.linalg.norm(points, axis=-1, keepdims=True)
        self._values = np.linalg.pinv(_harmonics(self._points).T) @ self.spectrum

    @property
    def shape(self) -> tuple[int]:
        """(48,), the shape of one datum."""
        return ((DEGREE + 1) ** 2 * COPIES,)

    def mean(self, rotations: NDArray) -> NDArray:
        """D(R) F without noise, row by row: (..., 48) for rotations (..., 3, 3)."""
        turned = self._points @ np.swapaxes(np.asarray(rotations, np.float64), -1, -2)
        return (np.swapaxes(_harmonics(turned), -1, -2) @ self._values).reshape(*turned.shape[:-2], -1)

    def draw(self, n: int, seed: int = 0) -> tuple[NDArray, NDArray]:
        """x (n, 48) and R (n, 3, 3), float32, independent draws."""
        rng = np.random.default_rng(seed)
        # A Gaussian quaternion, here with its real part first, has a uniform direction and makes a uniform rotation.
        rotations = Rotation.from_quat(rng.standard_normal((n, 4))[:, [1, 2, 3, 0]]).as_matrix()
        data = self.mean(rotations) + self.noise * rng.standard_normal((n, *self.shape))
        return data.astype(np.float32), rotations.astype(np.float32)

    def information(self) -> NDArray:
        """The Fisher information (3, 3) of a small turn exp(v) of the object, at every R alike up to its frame."""
        step = 1e-4  # of central differences: their error, 1e-8 of the value, is that of rounding too
        columns = []
        for i, j in ((1, 2), (2, 0), (0, 1)):
            pair = []
            for t in (step, -step):
                r = np.eye(3)
                r[i, i] = r[j, j] = math.cos(t)
                r[i, j], r[j, i] = -math.sin(t), math.sin(t)
                pair.append(self.mean(r))
            columns.append((pair[0] - pair[1]) / (2 * step))
        jacobian = np.stack(columns, -1)
        return jacobian.T @ jacobian / self.noise**2

    def evidence(self) -> float:
        """E log p(x) in nats per datum, by Laplace's approximation: for noise small enough for a narrow posterior."""
        d = self.shape[0]
        log_det = np.linalg.slogdet(self.information())[1]
        log_prior = -math.log(8 * math.pi**2)
        fit = -d / 2 * math.log(2 * math.pi * self.noise**2) - (d - 3) / 2
        return float(fit + log_prior + 1.5 * math.log(2 * math.pi) - log_det / 2)
