r"""Riemannian metrics of a flat latent space: a positive definite matrix G(z) at every z in R^d.

.. math::
    \langle u, v \rangle_z = u^\top G(z) \, v, \qquad
    \log \mathrm{vol}(z) = \tfrac12 \log \det G(z), \qquad
    G(z) = J(z)^\top J(z) \ \text{for the pull-back of} \ f, \quad J = \partial f / \partial z

The volume element is vol(z) dz with dz the Lebesgue measure of the chart R^d. Your own metric is any function z ->
G(z), or any object with ``metric(z)``; :class:`RiemannianMetric` derives the rest by autograd.

References:
    [1] Latent Space Oddity: on the Curvature of Deep Generative Models (Arvanitidis, Hansen & Hauberg, 2018)
        https://arxiv.org/abs/1710.11379
    [2] A Geometric Perspective on Variational Autoencoders (Chadebec & Allassonnière, 2022)
        https://arxiv.org/abs/2209.07370
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["InverseVolumeMetric", "PullbackMetric", "RiemannianMetric", "as_metric"]


class RiemannianMetric(nn.Module):
    """A metric of R^d. A subclass defines ``metric(z)``, and may override what it knows in closed form.

    Points z and tangent vectors u, v have shape ``(..., d)``. Tensors of a metric are its buffers or parameters, so
    ``to(device)`` moves it.

    >>> class HalfPlane(RiemannianMetric):
    ...     def metric(self, z):
    ...         return z[..., 1, None, None] ** -2 * torch.eye(2, dtype=z.dtype)
    >>> print(f"{HalfPlane().log_volume(torch.tensor([0.0, 2.0])):.4f}")  # -2 log 2
    -1.3863
    """

    def metric(self, z: Tensor) -> Tensor:
        """G(z), symmetric positive definite, shape ``(..., d, d)``."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """G(z), shape ``(..., d, d)``."""
        return self.metric(z)

    def inner(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u^T G(z) v, shape ``(...)``."""
        return torch.einsum("...i,...ij,...j->...", u, self.metric(z), v)

    def log_volume(self, z: Tensor) -> Tensor:
        """1/2 log det G(z), shape ``(...)``.

        :raises torch.linalg.LinAlgError: where G(z) is not positive definite.
        """
        return torch.linalg.cholesky(self.metric(z)).diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_volume_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """1/2 log det G(z), shape ``(...)``, and its gradient in z, shape ``(..., d)``; neither is differentiable."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.log_volume(z)
            constant = not value.requires_grad
            grad = torch.zeros_like(z) if constant else torch.autograd.grad(value.sum(), z, materialize_grads=True)[0]
        return value.detach(), grad

    def grad_log_volume(self, z: Tensor) -> Tensor:
        """The gradient of 1/2 log det G(z) in z, shape ``(..., d)``."""
        return self.log_volume_and_grad(z)[1]


class _Function(RiemannianMetric):
    """The metric that a function z -> G(z) gives."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def metric(self, z: Tensor) -> Tensor:
        G = self.function(z)
        if G.shape != (*z.shape, z.shape[-1]):
            raise ValueError(
                f"metric: expected G(z) of shape {(*z.shape, z.shape[-1])} at z of shape {tuple(z.shape)}, "
                f"got {tuple(G.shape)}"
            )
        return G


def as_metric(metric: Any) -> RiemannianMetric:
    """A metric from a metric, from an object with ``metric(z)``, or from a function z -> G(z).

    :raises ValueError: for anything else.

    >>> as_metric(lambda z: 4 * torch.eye(2).expand(*z.shape, 2)).inner(torch.zeros(2), torch.ones(2), torch.ones(2))
    tensor(8.)
    """
    if isinstance(metric, RiemannianMetric):
        return metric
    function = getattr(metric, "metric", metric)
    if not callable(function):
        raise ValueError(
            "metric: expected a RiemannianMetric, an object with metric(z), or a function from z of shape (..., d) to "
            f"G(z) of shape (..., d, d), got {type(metric).__name__}"
        )
    return _Function(function)


class PullbackMetric(RiemannianMetric):
    r"""The metric that a decoder f pulls back from the data space: lengths are those of decoded curves.

    .. math::
        G(z) = J(z)^\top J(z), \qquad \langle u, v \rangle_z = (J u) \cdot (J v)

    The columns of J come from forward mode, d directions at once; an inner product takes two directions and no matrix.
    G(z) is singular where f is not an immersion.

    :param decoder: a differentiable function from z of shape ``(..., d)`` to a tensor of shape ``(..., *event)`` that
        decodes each z by itself, e.g. ``lambda z: vae.decode(z).mean``. Batch normalisation is such a function in eval
        mode only.
    :param event_dim: number of dimensions of one decoded datum.

    >>> PullbackMetric(lambda z: torch.cat([z, z.square()], -1)).metric(torch.tensor([1.0]))  # 1 + (2 z)^2
    tensor([[5.]])

    Source: Arvanitidis, Hansen and Hauberg (2018), https://arxiv.org/abs/1710.11379
    """

    def __init__(self, decoder: Callable[[Tensor], Tensor], event_dim: int = 1):
        super().__init__()
        self.decoder, self.event_dim = decoder, event_dim

    def jacobian_product(self, z: Tensor, v: Tensor) -> Tensor:
        """J(z) v, shape ``(..., n)`` with n the size of a datum."""
        x, Jv = torch.func.jvp(self._decode, (z,), (v.expand_as(z),))  # type: ignore[misc]
        return Jv.to(x.dtype)

    def _decode(self, z: Tensor) -> Tensor:
        x = self.decoder(z)
        if x.dim() - self.event_dim != z.dim() - 1:
            raise ValueError(
                f"decoder: expected shape (*{tuple(z.shape[:-1])}, *event) with event_dim={self.event_dim} dimensions "
                f"of a datum at z of shape {tuple(z.shape)}, got {tuple(x.shape)}; give event_dim"
            )
        return x.flatten(z.dim() - 1)

    def metric(self, z: Tensor) -> Tensor:
        directions = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        J = torch.func.vmap(lambda v: self.jacobian_product(z, v))(directions)  # (d, ..., n): the columns of J
        return torch.einsum("i...n,j...n->...ij", J, J)

    def inner(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        Ju = self.jacobian_product(z, u)
        return (Ju * (Ju if v is u else self.jacobian_product(z, v))).sum(-1)


class InverseVolumeMetric(RiemannianMetric):
    r"""The conformal metric whose geodesics are the curves that stay where another metric's volume is large.

    .. math::
        \tilde G(z) = V(z)^2 I, \qquad V(z) = \left( \det G(z) \right)^{-s/2}

    Its length is :math:`\int V(\gamma) |\gamma'| dt`: the interpolations of [2] minimise the potential
    :math:`V = 1 / \sqrt{\det G}` along the curve. The posterior-covariance metric is large where data are, so its
    own geodesics go around the data; these go through them.

    :param metric: G.
    :param scale: s; 1 is the potential of [2]. Over a range of log vol of r nats the length element varies by e^(s r):
        s = 1/d keeps that mild in d dimensions.

    >>> metric = InverseVolumeMetric(lambda z: 4 * torch.eye(2).expand(*z.shape, 2))
    >>> metric(torch.zeros(2))
    tensor([[0.0625, 0.0000],
            [0.0000, 0.0625]])
    """

    def __init__(self, metric: Any, scale: float = 1.0):
        super().__init__()
        self.of, self.scale = as_metric(metric), scale

    def metric(self, z: Tensor) -> Tensor:
        eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return (-2 * self.scale * self.of.log_volume(z)).exp()[..., None, None] * eye

    def inner(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (-2 * self.scale * self.of.log_volume(z)).exp() * (u * v).sum(-1)

    def log_volume(self, z: Tensor) -> Tensor:
        return -self.scale * z.shape[-1] * self.of.log_volume(z)

    def log_volume_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = self.of.log_volume_and_grad(z)
        factor = -self.scale * z.shape[-1]
        return factor * value, factor * grad
