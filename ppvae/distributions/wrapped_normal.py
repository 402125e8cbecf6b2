r"""The wrapped normal on the circle, the torus, the spheres and hyperbolic space.

.. math::
    v \sim N(0, \mathrm{diag}\, \sigma^2) \text{ in } T_\mu M, \qquad z = \exp_\mu(v), \qquad
    q(z) = \sum_{v \,:\, \exp_\mu(v) = z} \frac{N(v; 0, \mathrm{diag}\, \sigma^2)}{|\det d \exp_\mu(v)|}

A closed geodesic comes back after 2 pi, so with :math:`\theta u = \log_\mu(z)`, ``|u|`` = 1, the v in the sum
are :math:`v_k = (\theta + 2 \pi k) u`, k in Z: those along u for k >= 0 and those along -u for k < 0.

.. math::
    \text{circle} \quad q(z) &= \sum_k N(\theta + 2 \pi k; 0, \sigma^2)
        \qquad \text{torus: the product over its circles} \\
    S^{m-1} \quad q(z) &= \sum_k N(v_k; 0, \mathrm{diag}\, \sigma^2) \,
        \left| \frac{\theta + 2 \pi k}{\sin \theta} \right|^{m-2} \\
    H^{m-1} \quad q(z) &= N(v; 0, \mathrm{diag}\, \sigma^2) \, \left( \frac{|v|}{\sinh |v|} \right)^{m-2},
        \qquad v = \log_\mu(z)

In hyperbolic space exp is one to one, and nothing wraps [1].

For m > 2 the sphere's density is infinite at :math:`\mu`, by the terms k != 0, and at :math:`-\mu`, by all:
exp sends whole spheres of v to these two points. Its integral is one. **Convention**: where theta is below
the rounding unit of the dtype the terms k != 0 are left out, and sin theta near pi counts as no less than
that unit. The sums over k are :func:`ppvae.special.log_periodic_sum`, which holds at every scale.

References:
    [1] A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning (Nagano et al., 2019)
        https://arxiv.org/abs/1902.02992
    [2] Mixed-curvature Variational Autoencoders (Skopek, Ganea & Bécigneul, 2019)
        https://arxiv.org/abs/1911.08411
    [3] Directional Statistics (Mardia & Jupp, 2000), 3.5.7
        https://doi.org/10.1002/9780470316979
    [4] Adaptive estimation of a quadratic functional by model selection (Laurent & Massart, 2000)
        https://doi.org/10.1214/aos/1015957395
"""

import functools
import math

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.distributions.center import center
from ppvae.distributions.finite import positive
from ppvae.manifolds import circle
from ppvae.manifolds.circle import Circle, quarter_turn
from ppvae.manifolds.hyperboloid import Hyperboloid, boost, log_sinhc, to_frame, to_origin
from ppvae.manifolds.protocol import Manifold
from ppvae.manifolds.so3 import sinc
from ppvae.manifolds.sphere import Sphere, rotate_from_pole
from ppvae.manifolds.torus import Torus
from ppvae.special.periodic import log_periodic_sum

__all__ = ["WrappedNormal"]


class WrappedNormal(TorchDistribution):
    r"""The law of :math:`\exp_\mu(v)`, v normal in the tangent space at :math:`\mu`.

    The density is with respect to the volume of the manifold: :math:`d\theta` on the circle, total mass 2 pi;
    the product on the torus T^n, :math:`(2 \pi)^n`; the surface measure of S^{m-1}, :math:`2 \pi^{m/2} /
    \Gamma(m/2)`; the volume of H^{m-1}, which is infinite. On the compact manifolds the mass is one to 1e-10 in
    float64 at every scale. As the scale grows, the law becomes uniform on the circle and the torus. On S^{m-1},
    m > 2, the angle to :math:`\mu` becomes uniform on [0, pi].

    :param manifold: ``Circle()``, ``Torus(n)``, ``Sphere()`` or ``Hyperboloid()``. On SO(3) the law is
        :class:`ppvae.distributions.SO3Normal`.
    :param loc: points :math:`\mu` of the manifold: unit vectors ``(..., 2)``, ``(..., n, 2)`` or ``(...,
        m)``, points ``(..., m)`` of the hyperboloid.
    :param scale: standard deviations :math:`\sigma` in radians, one for each dimension of the manifold: ``(..., 1)`` on
        the circle, ``(..., n)`` on the torus, ``(..., m - 1)`` on the sphere and the hyperboloid. On the sphere they
        belong to the tangent vectors that :func:`ppvae.manifolds.rotate_from_pole` makes of e_2, ..., e_m. On a sphere
        such as S^2 no frame is continuous in ``loc``; with equal scales the law does not depend on the frame. On the
        hyperboloid their unit is the radius of curvature, and the frame is the parallel transport of e_2, ..., e_m from
        the origin.
    :param num_wraps: K, at least 0, to keep the terms ``|k|`` <= K alone: 0 is the principal branch, which lacks the
        mass of v beyond pi. By default all terms count.
    :raises ValueError: for another manifold and for shapes that do not fit. With validated arguments also for a ``loc``
        or a value off the manifold, for a scale not above 0, and for a law in hyperbolic space whose draws overflow:
        they reach to 88 from the origin in float32 and to 709 in float64.

    >>> law = WrappedNormal(Circle(), torch.tensor([1.0, 0.0]), torch.tensor([0.5]))
    >>> print(f"{law.log_prob(torch.tensor([0.0, 1.0])):.4f}")
    -5.1606
    """

    has_rsample = True

    def __init__(
        self, manifold: Manifold, loc: Tensor, scale: Tensor, num_wraps: int | None = None, validate_args=None
    ):
        dim = _dimension(manifold, loc)
        if scale.shape[-1:] != (dim,):
            raise ValueError(
                f"expected scales of shape (..., {dim}), one for each dimension of the "
                f"{type(manifold).__name__}, got {tuple(scale.shape)}"
            )
        if num_wraps is not None and num_wraps < 0:
            raise ValueError(f"expected num_wraps >= 0, got {num_wraps}")
        self.manifold, self.num_wraps = manifold, num_wraps
        self._drawn: tuple[Tensor, Tensor] | None = None
        event_shape = loc.shape[-manifold.support.event_dim :]
        batch_shape = torch.broadcast_shapes(loc.shape[: -len(event_shape)], scale.shape[:-1])
        self.loc, self.scale = loc.expand(batch_shape + event_shape), scale.expand(*batch_shape, dim)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)
        if self._validate_args and isinstance(manifold, Hyperboloid):
            _check_reach(self.loc, self.scale)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The constraints of ``loc``, which the manifold decides, and ``scale``."""
        return {"loc": self.manifold.support, "scale": constraints.independent(positive, 1)}

    @property
    def support(self) -> constraints.Constraint:
        """The points of the manifold."""
        return self.manifold.support

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(WrappedNormal, _instance)
        batch_shape = Size(batch_shape)
        new.manifold, new.num_wraps, new._drawn = self.manifold, self.num_wraps, None
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.scale = self.scale.expand(batch_shape + self.scale.shape[-1:])
        super(WrappedNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_drawn": None}  # a sample with its graph cannot be copied

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Points exp(v) of shape ``sample_shape + batch_shape + event_shape``, with gradients to loc and scale."""
        shape = Size(sample_shape) + self.scale.shape
        v = self.scale * torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        z = _exponential(self.manifold, self.loc, v)
        if isinstance(self.manifold, Hyperboloid):
            # In float32 the rounding of a point at distance 12 is 0.005: its v would not be found again.
            self._drawn = (z, v)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log q in nats of points, shape ``(...)``; it and its gradients are finite at every point."""
        if self._validate_args:
            self._validate_sample(value)
        v = self._drawn_as(value)
        if v is not None:
            return _log_density_of(v, self.scale)
        return _log_density(self.manifold, self.loc, self.scale, value, self.num_wraps)

    def _drawn_as(self, value: Tensor) -> Tensor | None:
        """The v of the last draw; None for other values, and where v lacks the graph that a fixed point would have."""
        if self._drawn is None or value is not self._drawn[0]:
            return None
        wanted = torch.is_grad_enabled() and (self.loc.requires_grad or self.scale.requires_grad)
        return self._drawn[1] if value.requires_grad or not wanted else None


@center.register
def _(law: WrappedNormal) -> Tensor:
    return law.loc


@functools.singledispatch
def _dimension(manifold: Manifold, loc: Tensor) -> int:
    """Dimension of the manifold that holds ``loc``."""
    raise ValueError(
        f"expected Circle(), Torus(n), Sphere() or Hyperboloid() as the manifold, got {manifold!r} "
        "(on SO(3) use SO3Normal)"
    )


@functools.singledispatch
def _tangent(manifold: Manifold, loc: Tensor, v: Tensor) -> Tensor:
    """The tangent vector at loc with coordinates v in an orthonormal frame."""
    raise NotImplementedError


@functools.singledispatch
def _exponential(manifold: Manifold, loc: Tensor, v: Tensor) -> Tensor:
    """exp at loc of the tangent vector with coordinates v."""
    return manifold.expmap(loc, _tangent(manifold, loc, v))


@functools.singledispatch
def _log_density(manifold: Manifold, loc: Tensor, scale: Tensor, value: Tensor, num_wraps: int | None) -> Tensor:
    """log q(value)."""
    raise NotImplementedError


@_dimension.register
def _(manifold: Circle, loc: Tensor) -> int:
    return 1


@_tangent.register
def _(manifold: Circle, loc: Tensor, v: Tensor) -> Tensor:
    return v * quarter_turn(loc)


@_log_density.register
def _(manifold: Circle, loc: Tensor, scale: Tensor, value: Tensor, num_wraps: int | None) -> Tensor:
    theta, sigma = circle.log(circle.compose(circle.inverse(loc), value)), scale.squeeze(-1)
    return log_periodic_sum(theta, 1 / sigma, 0, num_wraps) - sigma.log() - math.log(2 * math.pi) / 2


@_dimension.register
def _(manifold: Torus, loc: Tensor) -> int:
    return manifold.n


@_tangent.register
def _(manifold: Torus, loc: Tensor, v: Tensor) -> Tensor:
    return v.unsqueeze(-1) * quarter_turn(loc)


@_log_density.register
def _(manifold: Torus, loc: Tensor, scale: Tensor, value: Tensor, num_wraps: int | None) -> Tensor:
    return _log_density(Circle(), loc, scale.unsqueeze(-1), value, num_wraps).sum(-1)


@_dimension.register
def _(manifold: Sphere, loc: Tensor) -> int:
    return loc.shape[-1] - 1


@_tangent.register
def _(manifold: Sphere, loc: Tensor, v: Tensor) -> Tensor:
    return rotate_from_pole(torch.cat([torch.zeros_like(v[..., :1]), v], -1), loc)


@_log_density.register
def _(manifold: Sphere, loc: Tensor, scale: Tensor, value: Tensor, num_wraps: int | None) -> Tensor:
    m = loc.shape[-1]
    if m == 2:  # where nothing is infinite, and no term may be left out
        return _log_density(Circle(), loc, scale, value, num_wraps)
    # The map from the pole is its own inverse.
    v = rotate_from_pole(manifold.logmap(loc, value), loc)[..., 1:]
    theta2, eps = v.square().sum(-1), torch.finfo(v.dtype).eps
    # sin theta = |z - mu| |z + mu| / 2 keeps its digits at pi, and sinc its gradient at 0.
    near = theta2 < 4
    sine = _norm(value - loc) * _norm(value + loc) / 2
    far = (torch.where(near, 1, sine.clamp_min(eps)) / torch.where(near, 1, theta2).sqrt()).log()
    log_ratio = torch.where(near, sinc(torch.where(near, theta2, 0)).log(), far)  # log (sin theta / theta)
    return log_wrapped_normal(v, scale, m - 2, num_wraps) - (m - 2) * log_ratio


@_dimension.register
def _(manifold: Hyperboloid, loc: Tensor) -> int:
    return loc.shape[-1] - 1


@_exponential.register
def _(manifold: Hyperboloid, loc: Tensor, v: Tensor) -> Tensor:
    return boost(loc, v)  # the tangent vector far from the origin is long, and would lose what v has


def _check_reach(loc: Tensor, scale: Tensor) -> None:
    r"""Refuse a law in hyperbolic space whose draws would overflow.

    With S the sum and m the largest of the squared scales, and Q the root of the sum of their squares,
    :math:`|v|^2 \le S + 2 Q \sqrt t + 2 m t` for all but a share :math:`e^{-t}` of the draws [4, lemma 1], which is
    6e-6 for t = 12.
    """
    variance, t = scale.square(), 12
    spread = variance.sum(-1) + 2 * math.sqrt(t) * variance.norm(dim=-1) + 2 * t * variance.amax(-1)
    reach = (to_origin(loc).norm(dim=-1) + spread.sqrt()).max().item()
    limit = math.floor(math.log(torch.finfo(loc.dtype).max))
    if reach > limit:
        raise ValueError(
            f"expected draws within {limit} of the origin of hyperbolic space, where coordinates of {loc.dtype} "
            f"overflow, got loc and scale with draws as far as {reach:.0f}: take smaller scales, fewer dimensions"
            + (" or float64" if loc.dtype != torch.float64 else "")
        )


@_log_density.register
def _(manifold: Hyperboloid, loc: Tensor, scale: Tensor, value: Tensor, num_wraps: int | None) -> Tensor:
    return _log_density_of(to_frame(loc, value), scale)


def _log_density_of(v: Tensor, scale: Tensor) -> Tensor:
    """log q at exp(v) in hyperbolic space."""
    chi2 = (v / scale).square().sum(-1)
    return -chi2 / 2 - _log_volume(scale) - (v.shape[-1] - 1) * log_sinhc(v.square().sum(-1))


def _log_volume(scale: Tensor) -> Tensor:
    """log of the normaliser of a normal law."""
    return scale.log().sum(-1) + scale.shape[-1] * math.log(2 * math.pi) / 2


def log_wrapped_normal(v: Tensor, scale: Tensor, p: int, num_wraps: int | None) -> Tensor:
    r""":math:`\log \sum_k |1 + 2 \pi k / \theta|^p \, N(v_k; 0, \mathrm{diag}\, \sigma^2)` for
    :math:`v_k = (1 + 2 \pi k / \theta) v` and :math:`\theta = |v|`; the term k = 0 alone where theta is below the
    rounding unit.

    :param v: vectors of length up to pi, shape ``(..., n)``.
    :param scale: standard deviations, shape ``(..., n)``.
    :param p: power of the lengths, at least 1.
    :param num_wraps: K, for the terms of ``|k|`` <= K alone, or None for all.

    >>> v, scale = torch.tensor([0.5, 0.0]), torch.tensor([2.0, 2.0])
    >>> print([f"{log_wrapped_normal(v, scale, 1, K):.4f}" for K in (0, 1, None)])
    ['-3.2554', '-3.0509', '-3.0509']
    """
    theta2 = v.square().sum(-1)
    off = theta2 > torch.finfo(v.dtype).eps ** 2
    theta = torch.where(off, theta2, 1).sqrt()
    # Along the line through v the law is that of one scale.
    rate = torch.where(off, (v / theta.unsqueeze(-1) / scale).square().sum(-1), 1).sqrt()
    at_0 = -(v / scale).square().sum(-1) / 2
    return torch.where(off, log_periodic_sum(theta, rate, p, num_wraps), at_0) - _log_volume(scale)


def _norm(x: Tensor) -> Tensor:
    s = x.square().sum(-1)
    return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)
