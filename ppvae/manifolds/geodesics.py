r"""Geometry that a Riemannian metric gives the flat space R^d: lengths, geodesics, distances, means.

.. math::
    L(\gamma) = \int_0^1 |\gamma'|_\gamma \, dt, \qquad
    E(\gamma) = \tfrac12 \int_0^1 |\gamma'|_\gamma^2 \, dt \ge \tfrac12 L(\gamma)^2, \qquad
    |v|_z^2 = v^\top G(z) \, v

with equality at constant speed. A geodesic from x to y minimises E, here over the cubic splines from x to y; one from x
with velocity u solves

.. math::
    \dot z = G(z)^{-1} p, \qquad \dot p = \tfrac12 \nabla_z \, v^\top G(z) \, v \, \big|_{v = \dot z},
    \qquad z(0) = x, \quad p(0) = G(x) \, u

References:
    [1] Riemannian Geometry (do Carmo, 1992)
        https://link.springer.com/book/9780817634902
    [2] Latent Space Oddity: on the Curvature of Deep Generative Models (Arvanitidis, Hansen & Hauberg, 2018)
        https://arxiv.org/abs/1710.11379
    [3] Numerical Optimization (Nocedal & Wright, 2006), algorithm 7.4
        https://doi.org/10.1007/978-0-387-40065-5
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.manifolds.riemannian import RiemannianMetric, as_metric

__all__ = ["Geodesics", "RiemannianManifold"]


class RiemannianManifold:
    """R^d with a metric: a :class:`~ppvae.manifolds.Manifold` whose maps are computed numerically.

    Points x, y, z and tangent vectors u have shape ``(..., d)`` and broadcast; all pairs of a batch are solved at once.

    How exact the maps are depends on the metric and the distance. In the Poincaré disc, between points up to 3 apart,
    the errors in units of the metric are below

    =======  ========  ==========  ==========  ====================  ========================
    dtype    ``dist``  ``logmap``  ``expmap``  points of a geodesic  velocities of a geodesic
    =======  ========  ==========  ==========  ====================  ========================
    float64  1e-9      1e-6        1e-6        3e-6                  3e-4
    float32  5e-6      1e-3        5e-6        1e-3                  1e-1
    =======  ========  ==========  ==========  ====================  ========================

    More ``segments`` make geodesics more exact, more ``steps`` the exponential map.

    :param metric: a metric, an object with ``metric(z)``, or a function z -> G(z).
    :param segments: number of segments of the spline between two points.
    :param steps: number of Runge-Kutta steps of a geodesic from a point and a velocity.
    :param iterations: the largest number of steps of the minimisation. If they do not suffice, a warning says so.

    >>> def half_plane(z):  # G(z) = I / z_2^2
    ...     return z[..., 1, None, None] ** -2 * torch.eye(2, dtype=z.dtype)
    >>> manifold = RiemannianManifold(half_plane)
    >>> x, y = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    >>> print(f"{manifold.dist(x, y):.6f}")  # log 2
    0.693147
    """

    support = constraints.real_vector

    def __init__(self, metric: Any, segments: int = 16, steps: int = 64, iterations: int = 500):
        if min(segments, steps, iterations) < 1:
            raise ValueError(f"expected segments, steps and iterations >= 1, got {segments}, {steps}, {iterations}")
        self.metric: RiemannianMetric = as_metric(metric)
        self.segments, self.steps, self.iterations = segments, steps, iterations

    def norm(self, x: Tensor, u: Tensor) -> Tensor:
        """Length of the tangent vector u at x, shape ``(...)``."""
        return self.metric.inner(x, u, u).sqrt()

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u: all of R^d is tangent."""
        return u

    def energy(self, curve: Tensor) -> Tensor:
        r"""E of a curve given by points at equal times, shape ``(..., T, d)``; shape ``(...)``.

        Of the curve of straight pieces, by the midpoint rule: the error falls as 1/T^2.
        """
        step, middle = curve.diff(dim=-2), (curve[..., 1:, :] + curve[..., :-1, :]) / 2
        return 0.5 * step.shape[-2] * self.metric.inner(middle, step, step).sum(-1)

    def length(self, curve: Tensor) -> Tensor:
        """L of a curve given by points, shape ``(..., T, d)``, as in :meth:`energy`; shape ``(...)``."""
        step, middle = curve.diff(dim=-2), (curve[..., 1:, :] + curve[..., :-1, :]) / 2
        return self.metric.inner(middle, step, step).sqrt().sum(-1)

    def geodesic(self, x: Tensor, y: Tensor) -> "Geodesics":
        """Geodesics from x to y: of the cubic splines with ``segments`` segments, one of locally least energy.

        The descent starts at the straight line and ends in the geodesic below it. That need not be the shortest one:
        between two points on both sides of a hill the straight line is a ridge of the energy.
        """
        x, y = torch.broadcast_tensors(x, y)
        basis = _Basis(self.segments, x)
        line = basis.line(*(end.detach().reshape(-1, x.shape[-1]) for end in (x, y)))  # (pairs, controls, d)
        free = torch.zeros_like(line[:, 1:-1])

        def energies(steps: Tensor) -> Tensor:
            return self._energy(basis, basis.move(line, steps))

        steps, slope, converged = minimise(energies, free, self.iterations)
        self._say(converged, slope)
        controls = basis.move(line, steps).reshape(*x.shape[:-1], *line.shape[1:])
        return Geodesics(self, basis, controls, converged.reshape(x.shape[:-1]))

    def _energy(self, basis: "_Basis", controls: Tensor) -> Tensor:
        """E of splines of controls (..., controls, d), by Gauss' rule in each segment; shape ``(...)``."""
        z, v = basis.points_and_velocities(controls)
        return 0.5 * (basis.weights * self.metric.inner(z, v, v)).sum(-1)

    def _say(self, converged: Tensor, slope: Tensor) -> None:
        if not converged.all():
            warnings.warn(
                f"{int((~converged).sum())} of {converged.numel()} geodesics did not converge in {self.iterations} "
                f"steps: the energy still falls by up to {float(slope.max()):.1e} of itself a step; take more "
                "iterations, fewer segments or float64",
                stacklevel=3,
            )

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of the geodesic from x to y that :meth:`geodesic` finds, shape ``(...)``: the distance if that
        geodesic is the shortest, else an upper bound."""
        return self.geodesic(x, y).length

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The velocity at x of the geodesic from x to y in unit time, without gradient.

        By the first variation of the least energy [1, chapter 9]: :math:`u = -G(x)^{-1} \, \partial E / \partial x`.
        The energy is exact to the square of the curve's error, and so is u; the spline's own velocity is not.
        """
        g = self.geodesic(x, y)
        x, y = torch.broadcast_tensors(x.detach(), y.detach())
        bends = g.controls - g.basis.line(x, y)
        with torch.enable_grad():
            start = x.clone().requires_grad_()
            energy = self._energy(g.basis, g.basis.line(start, y) + bends)
            (slope,) = torch.autograd.grad(energy.sum(), start)
        return -torch.linalg.solve(self.metric.metric(x).detach(), slope)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The point that the geodesic from x with velocity u reaches after unit time; differentiable in x and u."""
        return self.shoot(x, u)[..., -1, :]

    def shoot(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic from x with velocity u at the times 0, 1/steps, ..., 1, shape ``(..., steps + 1, d)``.

        By the classical Runge-Kutta rule. The speed of a geodesic is constant. If the computed speed changes by more
        than a thousandth, a warning asks for more steps.
        """
        z, u = torch.broadcast_tensors(x, u)
        differentiable = torch.is_grad_enabled() and (z.requires_grad or u.requires_grad)

        def velocity(z: Tensor, p: Tensor) -> Tensor:
            return torch.linalg.solve(self.metric.metric(z), p)

        def flow(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
            v = velocity(z, p)
            with torch.enable_grad():
                at = z + torch.zeros_like(
                    z, requires_grad=True
                )  # v, which depends on z too, is constant in this gradient
                half = 0.5 * self.metric.inner(at, v, v).sum()
                if not half.requires_grad:  # a constant metric
                    return v, torch.zeros_like(v)
                return v, torch.autograd.grad(half, at, create_graph=differentiable, materialize_grads=True)[0]

        with torch.set_grad_enabled(differentiable):
            p = (self.metric.metric(z) @ u.unsqueeze(-1)).squeeze(-1)
            start = (p * u).sum(-1).detach()
            h, path = 1 / self.steps, [z]
            for _ in range(self.steps):
                z1, p1 = flow(z, p)
                z2, p2 = flow(z + h / 2 * z1, p + h / 2 * p1)
                z3, p3 = flow(z + h / 2 * z2, p + h / 2 * p2)
                z4, p4 = flow(z + h * z3, p + h * p3)
                z, p = z + h / 6 * (z1 + 2 * z2 + 2 * z3 + z4), p + h / 6 * (p1 + 2 * p2 + 2 * p3 + p4)
                path.append(z)
            end = (p * velocity(z, p)).sum(-1).detach()
        drift = torch.where(start > 0, (end / start).sqrt() - 1, end).abs()
        if not (drift < 1e-3).all():
            warnings.warn(
                f"the speed of {int((~(drift < 1e-3)).sum())} of {drift.numel()} geodesics changes by up to "
                f"{float(drift.max()):.1e} of itself, where it should be constant; take more than {self.steps} steps",
                stacklevel=2,
            )
        return torch.stack(path, -2)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """log |det d exp_x| at u, shape ``(...)``, from the volume at x to that at exp_x(u); d backward passes."""
        x, u = torch.broadcast_tensors(x, u)
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            y = self.expmap(x.detach(), u)
            rows = [torch.autograd.grad(y[..., i].sum(), u, retain_graph=True)[0] for i in range(y.shape[-1])]
        jacobian = torch.linalg.slogdet(torch.stack(rows, -2)).logabsdet
        return jacobian + self.metric.log_volume(y.detach()) - self.metric.log_volume(x)

    def mean(self, points: Tensor, weights: Tensor | None = None) -> Tensor:
        r"""The Fréchet mean: the m with least :math:`\sum_i w_i \, d(m, x_i)^2`.

        m and the geodesics from it to all points are found in one minimisation of :math:`\sum_i w_i E(\gamma_i)`,
        from the weighted mean of coordinates.

        :param points: shape ``(n, d)``.
        :param weights: numbers of at least 0, shape ``(n,)``; equal ones by default.
        :return: shape ``(d,)``.
        """
        if points.dim() != 2:
            raise ValueError(f"points: expected shape (n, d), got {tuple(points.shape)}")
        n, d = points.shape
        w = points.new_full((n,), 1 / n) if weights is None else weights / weights.sum()
        if w.shape != (n,) or not (w >= 0).all():
            raise ValueError(f"weights: expected {n} numbers of at least 0, got shape {tuple(w.shape)}")
        basis, start = _Basis(self.segments, points), w @ points
        free = len(basis.greville) - 2
        # The Hessian in each curve is then of one size. A point of weight 0 has a curve all the same.
        scale = w.clamp(min=1e-6 / n).sqrt().reshape(n, 1, 1)

        def energy(steps: Tensor) -> Tensor:
            m, inner = start + steps[:, 0], steps[:, 1:].reshape(-1, n, free, d) / scale
            return (w * self._energy(basis, basis.move(basis.line(m.unsqueeze(1), points), inner))).sum(-1)

        steps, slope, converged = minimise(energy, points.new_zeros(1, 1 + n * free, d), self.iterations)
        self._say(converged, slope)
        return start + steps[0, 0]

    def intrinsic_dim(self, x: Tensor) -> int:
        """d."""
        return x.shape[-1]

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u^T G(x) v, shape ``(...)``."""
        return self.metric.inner(x, u, v)

    def frame(self, x: Tensor) -> Tensor:
        r"""The columns of :math:`L^{-T}` with :math:`G(x) = L L^T`, shape ``(..., d, d)``: smooth."""
        L = torch.linalg.cholesky(self.metric.metric(x))
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        r""":math:`L^T u`, shape ``(..., d)``."""
        return (torch.linalg.cholesky(self.metric.metric(x)).mT @ u.unsqueeze(-1)).squeeze(-1)

    def embed(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    @property
    def lift(self) -> "Coordinates":
        """x itself, with the volume of the metric."""
        return Coordinates(self.metric)

    chart = lift

    def log_total_volume(self, x: Tensor) -> float:
        """Not known of a metric that is a function."""
        raise ValueError(
            "RiemannianManifold: its volume is not known, and may be infinite; integrate exp(metric.log_volume(z))"
        )

    def uniform(self, like: Tensor) -> Tensor:
        """No uniform points: the volume may be infinite."""
        raise ValueError("RiemannianManifold: no uniform points; ppvae.samplers draws in proportion to the volume")


class Coordinates:
    """R^d itself: a chain of the density p with respect to the volume has p times the volume element in z."""

    def __init__(self, metric: RiemannianMetric):
        self.metric = metric

    def shape(self, event: Size) -> Size:
        """(d,)."""
        return event

    def start(self, z: Tensor) -> Tensor:
        """z itself."""
        return z.clone()

    def point(self, v: Tensor) -> Tensor:
        """v itself."""
        return v

    def log_volume(self, v: Tensor) -> Tensor:
        """1/2 log det G(v), shape ``(...)``."""
        return self.metric.log_volume(v)


@dataclass(frozen=True, eq=False)
class Geodesics:
    """Curves of a batch of pairs, functions of the time t in [0, 1]: ``geodesics(t)``.

    :param converged: whether the minimisation came to an end, shape ``(...)``.

    >>> manifold = RiemannianManifold(lambda z: z[..., 1, None, None] ** -2 * torch.eye(2, dtype=z.dtype))
    >>> x, y = torch.tensor([[-1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    >>> g = manifold.geodesic(x, y)
    >>> g(0.5).round(decimals=4)  # the top of the half-circle of radius sqrt 2
    tensor([0.0000, 1.4142], dtype=torch.float64)
    """

    manifold: RiemannianManifold
    basis: "_Basis"
    controls: Tensor
    converged: Tensor

    def __call__(self, t: Tensor | float) -> Tensor:
        """Points at times t: shape ``(..., d)`` for a number, ``(..., T, d)`` for times of shape ``(T,)``."""
        return self._at(t, 0)

    def velocity(self, t: Tensor | float) -> Tensor:
        """Velocities at times t, of the shape of ``geodesics(t)``."""
        return self._at(t, 1)

    def _at(self, t: Tensor | float, order: int) -> Tensor:
        times = np.atleast_1d(torch.as_tensor(t).detach().cpu().numpy().astype(float))
        if not ((times >= 0) & (times <= 1)).all():
            raise ValueError(f"t: expected times between 0 and 1, got {times.min():g} to {times.max():g}")
        out = self.basis.design(times, order) @ self.controls
        return out if isinstance(t, Tensor) and t.dim() else out[..., 0, :]

    @cached_property
    def length(self) -> Tensor:
        """L, shape ``(...)``."""
        z, v = self.basis.points_and_velocities(self.controls)
        return (self.basis.weights * self.manifold.metric.inner(z, v, v).clamp(min=0).sqrt()).sum(-1).detach()

    @cached_property
    def energy(self) -> Tensor:
        """E, shape ``(...)``: half the squared length where the speed is constant."""
        return self.manifold._energy(self.basis, self.controls).detach()


class _Basis:
    """Clamped cubic B-splines on [0, 1] with equal segments, and four Gauss points in each."""

    def __init__(self, segments: int, like: Tensor):
        self.knots = np.concatenate([[0.0] * 3, np.linspace(0, 1, segments + 1), [1.0] * 3])
        self.like = like
        nodes, weights = np.polynomial.legendre.leggauss(4)
        times = ((np.arange(segments)[:, None] + (nodes + 1) / 2) / segments).ravel()
        self.values, self.slopes = self.design(times, 0), self.design(times, 1)
        self.weights = self._tensor(np.tile(weights / 2 / segments, segments))
        self.greville = self._tensor(np.stack([self.knots[i + 1 : i + 4].mean() for i in range(segments + 3)]))
        # In coordinates s with c = L^-T s the energy of a constant metric is |s|^2 / 2, whatever the segments.
        inner = self.slopes[:, 1:-1].double()
        stiffness = inner.T @ (self.weights.double().unsqueeze(1) * inner)
        factor = torch.linalg.cholesky(stiffness)
        eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        self.unscale = torch.linalg.solve_triangular(factor.T, eye, upper=True).to(like.dtype)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=self.like.dtype, device=self.like.device)

    def design(self, times: np.ndarray, order: int) -> Tensor:
        """The B-splines or their derivatives of an order at times, shape ``(times, controls)``."""
        from scipy.interpolate import BSpline

        return self._tensor(BSpline(self.knots, np.eye(len(self.knots) - 4), 3)(times, nu=order))

    def line(self, x: Tensor, y: Tensor) -> Tensor:
        """Controls of the straight line from x to y, shape ``(..., controls, d)``; all equal where x = y."""
        return x.unsqueeze(-2) + self.greville.unsqueeze(-1) * (y - x).unsqueeze(-2)

    def points_and_velocities(self, controls: Tensor) -> tuple[Tensor, Tensor]:
        """At the Gauss points, shape ``(..., points, d)`` each; the velocity is 0 where all controls are equal."""
        x = controls[..., :1, :]
        return x + self.values @ (controls - x), self.slopes @ (controls - x)

    def move(self, line: Tensor, steps: Tensor) -> Tensor:
        """Controls of a straight line, with its inner ones moved by scaled steps."""
        return line + torch.nn.functional.pad(self.unscale @ steps, (0, 0, 1, 1))


def minimise(
    function: Callable[[Tensor], Tensor], x: Tensor, iterations: int, history: int = 10
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise many functions at once by L-BFGS [3], each with its own memory and step.

    :param function: from x of shape ``(n, ...)`` to n values of at least 0, each of its own point alone.
    :return: the points; the decrease that each last step promised, relative to the value; and whether that decrease is
        below the root of the rounding unit, at which the minimum is found to rounding.

    >>> x, _, converged = minimise(lambda x: (x - 3).square().sum(-1), torch.zeros(1, 2), iterations=50)
    >>> x.round(decimals=4), converged
    (tensor([[3., 3.]]), tensor([True]))
    """
    shape, n = x.shape, len(x)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = function(x.reshape(shape))
            (grad,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), grad

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1, keepdim=True)

    x = x.detach().reshape(n, -1)
    value, grad = evaluate(x)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    tiny, eps = torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).eps
    gamma = (value.unsqueeze(-1) / dot(grad, grad).clamp(min=tiny)).clamp(max=1)  # promises no more than the value
    tolerance = max(1e-12, 8 * eps)  # of relative changes of the value; sums of its terms are not more exact
    slope = torch.full_like(value, torch.inf)
    done = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(iterations):
        # Two-loop recursion. A pair with s . y <= 0 has weight 0 where it would spoil the memory of its function.
        q, alphas = grad, []
        for s, y, weight in reversed(pairs):
            alpha = weight * dot(s, q)
            q = q - alpha * y
            alphas.append(alpha)
        r = gamma * q
        for (s, y, weight), alpha in zip(pairs, reversed(alphas), strict=True):
            r = r + s * (alpha - weight * dot(y, r))
        promised = dot(grad, r).squeeze(-1)
        slope = torch.where(done, slope, promised / value.clamp(min=tiny))
        done = done | (slope <= tolerance)
        if done.all():
            break
        step = torch.ones_like(value)
        searching = ~done
        new, new_value, new_grad = x, value, grad
        for _ in range(30):
            trial = torch.where(searching.unsqueeze(-1), x - step.unsqueeze(-1) * r, new)
            trial_value, trial_grad = evaluate(trial)
            enough = searching & (trial_value <= value - 1e-4 * step * promised)
            new = torch.where(enough.unsqueeze(-1), trial, new)
            new_value = torch.where(enough, trial_value, new_value)
            new_grad = torch.where(enough.unsqueeze(-1), trial_grad, new_grad)
            searching = searching & ~enough
            if not searching.any():
                break
            step = torch.where(searching, step / 2, step)
        # Where a step along a descent direction lowers the value by less than its rounding, that is all that is left.
        done = done | searching | (value - new_value <= eps * value)
        s, y = new - x, new_grad - grad
        curvature, size = dot(s, y), dot(y, y)
        good = curvature > 1e-10 * dot(s, s)
        weight = torch.where(good, 1 / torch.where(good, curvature, torch.ones_like(curvature)), torch.zeros_like(size))
        gamma = torch.where(good, curvature / torch.where(good, size, torch.ones_like(size)), gamma)
        pairs = [*pairs[1 - history :], (s, y, weight)]
        x, value, grad = new, new_value, new_grad
    return x.reshape(shape), slope, slope <= eps**0.5
