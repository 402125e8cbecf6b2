r"""The metric of posterior covariances at centroids of the latent space [1].

.. math::
    G(z) = \sum_{i=1}^N \Sigma_i^{-1} \omega_i(z) + \lambda e^{-\tau |z|^2} I, \qquad
    \omega_i(z) = \exp\left( -\frac{(z - \mu_i)^\top \Sigma_i^{-1} (z - \mu_i)}{\rho^2} \right)

With :math:`Q = G^{-1}`, which for diagonal :math:`\Sigma_i` is a vector,

.. math::
    \nabla \tfrac12 \log \det G(z) = -\frac{1}{\rho^2} \sum_i \omega_i(z) \, \mathrm{tr}(Q \Sigma_i^{-1}) \,
    \Sigma_i^{-1} (z - \mu_i) - \tau \lambda e^{-\tau |z|^2} \, \mathrm{tr}(Q) \, z

Both are products of matrices of size points x centroids and centroids x d (or d^2), made in tiles of bounded size, so
memory does not grow with the number of centroids. The sum is divided by its largest weight, whose logarithm is kept
apart, so that nothing underflows far from the data or in many dimensions.

References:
    [1] A Geometric Perspective on Variational Autoencoders (Chadebec & Allassonnière, 2022)
        https://arxiv.org/abs/2209.07370
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ppvae.manifolds.riemannian import RiemannianMetric

__all__ = ["PosteriorCovarianceMetric", "nearest_neighbour_distance"]


def nearest_neighbour_distance(points: Tensor, chunk: int = 1 << 22) -> Tensor:
    """The Euclidean distance of each point to the nearest other one, shape ``(N,)``, in float64.

    :param points: shape ``(N, d)``, N at least 2.
    :param chunk: how many pairs of points are held at once.

    >>> nearest_neighbour_distance(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([1., 1., 2.], dtype=torch.float64)
    """
    points = points.double()
    rows = max(chunk // len(points), 1)
    out = []
    for start in range(0, len(points), rows):
        distance = torch.cdist(points[start : start + rows], points)
        here = torch.arange(len(distance), device=points.device)
        distance[here, start + here] = math.inf
        out.append(distance.amin(1))
    return torch.cat(out)


class PosteriorCovarianceMetric(RiemannianMetric):
    r"""The metric G(z) above, built from centroids and the precisions of the posterior there.

    :param centroids: :math:`\mu_i`, shape ``(N, d)``.
    :param precision: :math:`\Sigma_i^{-1}`: the diagonals, shape ``(N, d)``, or matrices, shape ``(N, d, d)``.
    :param temperature: :math:`\rho`, in units of z. By default the rule of [1]: the largest distance from a centroid to
        its nearest neighbour.
    :param regularization: :math:`\lambda`, at least 0.
    :param decay: :math:`\tau`, at least 0. At 0 the volume of R^d is infinite, unless :math:`\lambda` is 0.
    :param chunk: how many (point, centroid) pairs are held at once.
    :raises ValueError: if shapes do not match, a precision is not positive (definite), or N is 1 and no temperature is
        given.

    The exponents are computed in float64 whatever the dtype of z, as the terms of their expansion cancel; a result has
    the dtype of z.

    >>> metric = PosteriorCovarianceMetric(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), precision=torch.full((2, 2), 9.0))
    >>> print([f"{v:.3f}" for v in metric.log_volume(torch.tensor([[0.5, 0.0], [5.0, 0.0]]))])
    ['0.646', '-4.605']

    Source: Chadebec and Allassonnière (2022), https://arxiv.org/abs/2209.07370, equation (4) and algorithm 1
    """

    centroids: Tensor
    precision: Tensor

    def __init__(
        self,
        centroids: Tensor,
        precision: Tensor,
        temperature: float | None = None,
        regularization: float = 0.01,
        decay: float = 0.0,
        chunk: int = 1 << 20,
    ):
        super().__init__()
        if centroids.dim() != 2 or not len(centroids):
            raise ValueError(f"centroids: expected shape (N, d) with N >= 1, got {tuple(centroids.shape)}")
        N, d = centroids.shape
        if precision.shape not in ((N, d), (N, d, d)):
            raise ValueError(
                f"precision: expected diagonals {(N, d)} or matrices {(N, d, d)}, got {tuple(precision.shape)}"
            )
        self.diagonal = precision.dim() == 2
        positive = precision > 0 if self.diagonal else torch.linalg.cholesky_ex(precision).info == 0
        if not (positive.all() and torch.isfinite(precision).all() and torch.isfinite(centroids).all()):
            raise ValueError("expected finite centroids and finite precisions that are positive (definite)")
        if temperature is None:
            if N == 1:
                raise ValueError("temperature: expected a number where there is one centroid, got None")
            temperature = float(nearest_neighbour_distance(centroids).max())
        for name, value in (("regularization", regularization), ("decay", decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature: expected a finite number above 0, got {temperature}; by the rule for None it is 0 where "
                "each centroid occurs twice"
            )
        self.temperature, self.regularization, self.decay = float(temperature), float(regularization), float(decay)
        self.chunk = chunk
        self.register_buffer("centroids", centroids.detach())
        self.register_buffer("precision", precision.detach())
        self.register_load_state_dict_post_hook(lambda module, _: module._prepare())
        self._prepare()

    def _prepare(self) -> None:
        """What is the same for all z, with P = Sigma^-1 in rows, and zz = z * z for a diagonal P, else z z^T."""
        mu, P = self.centroids.double(), self.precision.double()
        Pmu = self._product(P.flatten(1), mu)
        # log omega = -(z - mu)^T P (z - mu) / rho^2 = -([zz, z] . [P, -2 P mu] + mu . P mu) / rho^2
        self._features = torch.cat([P.flatten(1), -2 * Pmu], 1) / -(self.temperature**2)
        self._offsets = (mu * Pmu).sum(1) / -(self.temperature**2)
        d = mu.shape[1]
        self._eye = torch.ones(d, device=mu.device) if self.diagonal else torch.eye(d, device=mu.device).flatten()
        self._rows = {dtype: torch.cat([P.flatten(1), Pmu], 1).to(dtype) for dtype in (torch.float32, torch.float64)}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._prepare()
        return self

    def metric(self, z: Tensor) -> Tensor:
        G = self._flat(z)
        return torch.diag_embed(G) if self.diagonal else G.unflatten(-1, (z.shape[-1], z.shape[-1]))

    def inner(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u^T G(z) v, shape ``(...)``; for diagonal precisions without a matrix."""
        return (self._flat(z) * self._pairs(u, v)).sum(-1)

    def _flat(self, z: Tensor) -> Tensor:
        S, m = _Sum.apply(z.reshape(-1, z.shape[-1]), self)
        return (m.exp().unsqueeze(-1) * S).to(z.dtype).reshape(*z.shape[:-1], -1)

    def log_volume(self, z: Tensor) -> Tensor:
        S, m = _Sum.apply(z.reshape(-1, z.shape[-1]), self)
        return (z.shape[-1] / 2 * m + self._half_log_det(S)).to(z.dtype).reshape(z.shape[:-1])

    def log_volume_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values, grads = [], []
            for rows in self._row_chunks(z.reshape(-1, z.shape[-1])):
                S, m, weights = self._sum(rows)
                values.append(z.shape[-1] / 2 * m + self._half_log_det(S))
                grads.append(self._pull(rows, m, 0.5 * self._inverse(S), weights))
            return torch.cat(values).to(z.dtype).reshape(z.shape[:-1]), torch.cat(grads).reshape(z.shape)

    def log_kernel_mixture(self, z: Tensor, log_weights: Tensor, power: float = 1.0) -> Tensor:
        r""":math:`\log \sum_i e^{l_i} \omega_i(z)^{power}`, shape ``(...)``, with log weights l of shape ``(N,)``."""
        out = []
        for rows in self._row_chunks(z.reshape(-1, z.shape[-1])):
            parts = []
            for tile, exponents in self._exponents(rows):
                terms = power * exponents + log_weights[tile].double()
                top = terms.amax(1)
                parts.append(top + _exp(terms - top.unsqueeze(1), torch.float64).sum(1).log())
            out.append(torch.logsumexp(torch.stack(parts), 0))
        return torch.cat(out).to(z.dtype).reshape(z.shape[:-1])

    def log_background(self, z: Tensor) -> Tensor:
        r""":math:`\log (\lambda e^{-\tau |z|^2})`, shape ``(...)``."""
        log_lambda = math.log(self.regularization) if self.regularization else -math.inf
        return log_lambda - self.decay * (z * z).sum(-1)

    def _pairs(self, u: Tensor, v: Tensor) -> Tensor:
        return u * v if self.diagonal else (u.unsqueeze(-1) * v.unsqueeze(-2)).flatten(-2)

    def _product(self, P: Tensor, z: Tensor) -> Tensor:
        """P z for a matrix in the form of a row."""
        return P * z if self.diagonal else (P.unflatten(-1, (z.shape[-1], -1)) @ z.unsqueeze(-1)).squeeze(-1)

    def _half_log_det(self, S: Tensor) -> Tensor:
        if self.diagonal:
            return 0.5 * S.log().sum(-1)
        d = self.centroids.shape[1]
        return torch.linalg.cholesky(S.unflatten(-1, (d, d))).diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _inverse(self, S: Tensor) -> Tensor:
        if self.diagonal:
            return S.reciprocal()
        d = self.centroids.shape[1]
        return torch.cholesky_inverse(torch.linalg.cholesky(S.unflatten(-1, (d, d)))).flatten(-2)

    def _row_chunks(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.split(max(min(len(z), math.isqrt(self.chunk)), 1))

    def _exponents(self, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """log omega_i(z), shape (points, tile), in float64, for tile after tile of centroids."""
        size = max(self.chunk // max(len(z), 1), 1)
        z = z.double()
        features = torch.cat([self._pairs(z, z), z], 1)
        for start in range(0, len(self.centroids), size):
            tile = slice(start, start + size)
            yield tile, torch.addmm(self._offsets[tile], features, self._features[tile].T)

    def _sum(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """S and m with G = e^m S, G in rows, m in float64; and omega / e^m, where it is one tile."""
        F = self._eye.numel()
        m = self.log_background(z.double())
        S = self._eye.to(z.dtype).expand(len(z), F) * (1.0 if self.regularization else 0.0)
        for tile, exponents in self._exponents(z):
            top = torch.maximum(m, exponents.amax(1))
            weights = _exp(exponents - top.unsqueeze(1), z.dtype)
            S = torch.addmm(S * (m - top).exp().to(z.dtype).unsqueeze(1), weights, self._rows[z.dtype][tile, :F])
            m = top
        return S, m, weights if weights.shape[1] == len(self.centroids) else None

    def _pull(self, z: Tensor, m: Tensor, bar: Tensor, kept: Tensor | None) -> Tensor:
        """The gradient of S . bar in z, at fixed m: shape (points, d)."""
        F = self._eye.numel()
        rows = self._rows[z.dtype]
        sums = z.new_zeros(len(z), rows.shape[1])
        if kept is not None:
            sums = (kept * (bar @ rows[:, :F].T)) @ rows
        else:
            for tile, exponents in self._exponents(z):
                weights = _exp(exponents - m.unsqueeze(1), z.dtype)
                sums = sums + (weights * (bar @ rows[tile, :F].T)) @ rows[tile]
        grad = (-2 / self.temperature**2) * (self._product(sums[:, :F], z) - sums[:, F:])
        if not self.decay:
            return grad
        background = (self.log_background(z.double()) - m).exp().to(z.dtype) * (bar @ self._eye.to(z.dtype))
        return grad - 2 * self.decay * background.unsqueeze(1) * z


def _exp(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """e^x for weights relative to the largest, which is 1. What is below e^-80 is no part of a sum with it, in float32
    or float64, and costs twenty times as much where it underflows."""
    return exponents.to(dtype).clamp(min=-80).exp()


class _Sum(torch.autograd.Function):
    """S and m with G(z) = e^m S, m without a gradient: d log G is that of S. Backward is differentiable again."""

    @staticmethod
    def forward(z: Tensor, metric: PosteriorCovarianceMetric) -> tuple[Tensor, Tensor]:
        parts = [metric._sum(rows)[:2] for rows in metric._row_chunks(z)]
        return torch.cat([S for S, _ in parts]), torch.cat([m for _, m in parts])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        z, ctx.metric = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(z, output[1])

    @staticmethod
    def backward(ctx: Any, bar: Tensor, _: Tensor) -> tuple[Tensor, None]:
        z, m = ctx.saved_tensors
        size = max(min(len(z), math.isqrt(ctx.metric.chunk)), 1)
        parts = zip(z.split(size), m.split(size), bar.split(size), strict=True)
        return torch.cat([ctx.metric._pull(*part, None) for part in parts]), None
