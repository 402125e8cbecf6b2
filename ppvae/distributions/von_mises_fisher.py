r"""The von Mises-Fisher law on the unit sphere S^{m-1} in R^m [1, 2].

With w = mu . z the cosine of the angle t between z and the mean direction mu, and F, A, A' from
:mod:`ppvae.special.bessel`,

.. math::
    q(z) = \frac{e^{k w - F(k)}}{\mathrm{area}(S^{m-1})}, \qquad
    w - 1 = -\tfrac12 |z - \mu|^2, \qquad
    E[z] = A(k) \, \mu, \qquad
    \mathrm{KL}(q \| \mathrm{U}) = k A - F, \\
    \mathrm{KL}(q_1 \| q_2) = F(k_2) - F(k_1) - (k_2 - k_1) A(k_1) + \tfrac12 k_2 A(k_1) |\mu_1 - \mu_2|^2.

**Sampling** [3, 4]. z = cos(t) mu + sin(t) y with y uniform on the unit vectors across mu. On S^2 (m = 3) 1 - w is
exponential, cut at 2. Otherwise, with e ~ Beta((m-1)/2, (m-1)/2) [5],

.. math::
    b = \frac{m-1}{2k + \sqrt{4k^2 + (m-1)^2}}, \qquad
    1 - w = \frac{2 b e}{1 - e + b e}, \qquad
    1 + w = \frac{2 (1 - e)}{1 - e + b e}, \qquad
    w_0 = \frac{1 - b}{1 + b}, \\
    \text{accepted if } (m-1) (r + \log(1 - r)) \ge \log u, \qquad r = \frac{k (w - w_0)}{m-1}, \qquad u \sim U(0, 1).

w_0 is the mode of the ratio of the densities, and 1 - w is never a difference, so that nothing cancels for large k.

**Gradient** [6]. The sample depends on k through t alone. Its distribution function is the same for every k if

.. math::
    \frac{dt}{dk} = \frac{1}{g(t)} \int_0^t (A - \cos y) \, g(y) \, dy
                  = \frac{1}{g(t)} \int_t^\pi (\cos y - A) \, g(y) \, dy, \qquad
    g(y) = e^{k \cos y} \sin^{m-2} y.

The code takes the integral whose integrand has one sign.

References:
    [1] Directional Statistics (Mardia & Jupp, 2000)
        https://doi.org/10.1002/9780470316979
    [2] Hyperspherical Variational Auto-Encoders (Davidson et al., 2018)
        https://arxiv.org/abs/1804.00891
    [3] Computer Generation of Distributions on the m-Sphere (Ulrich, 1984)
        https://doi.org/10.2307/2347441
    [4] Simulation of the von Mises Fisher distribution (Wood, 1994)
        https://doi.org/10.1080/03610919408813161
    [5] Non-Uniform Random Variate Generation (Devroye, 1986), IX.3
        http://luc.devroye.org/rnbookindex.html
    [6] Implicit Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018)
        https://arxiv.org/abs/1805.08498
"""

import math
from functools import lru_cache

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions.kl import register_kl

from ppvae.distributions.finite import positive_or_zero
from ppvae.distributions.hyperspherical_uniform import HypersphericalUniform
from ppvae.manifolds.sphere import log_area, rotate_from_pole, sphere
from ppvae.special.bessel import (
    bessel_ratio,
    bessel_ratio_complement,
    bessel_ratio_derivative,
    bessel_ratio_over_argument,
    log_hyp0f1_conjugate,
    log_hyp0f1_divergence,
    log_hyp0f1_scaled,
)
from ppvae.special.precision import widen

__all__ = ["VonMisesFisher"]

# For all m and k a proposal is accepted with probability 0.65 or more, so that all are refused with probability 3e-15.
PROPOSALS = 32
# Stands for k = 0 on S^2, where the limit k -> 0 is taken: no rounding separates the two.
TINY = 1e-30


def _fejer(nodes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Fejer's first rule on [0, 1]."""
    if device.type == "cpu":
        rule = torch.tensor(_fejer_numbers(nodes), dtype=dtype)
        return rule[0], rule[1]
    # Computed where they are used: a table would be a copy to the device, which waits.
    angle = (torch.arange(nodes, dtype=dtype, device=device) + 0.5) * (math.pi / nodes)
    j = torch.arange(1, nodes // 2 + 1, dtype=dtype, device=device)
    weights = (1 - 2 * ((2 * j * angle.unsqueeze(-1)).cos() / (4 * j * j - 1)).sum(-1)) / nodes
    return torch.sin(0.5 * angle).square(), weights


@lru_cache
def _fejer_numbers(nodes: int) -> tuple[list[float], list[float]]:
    angles = [math.pi * (i + 0.5) / nodes for i in range(nodes)]
    sums = [sum(math.cos(2 * j * a) / (4 * j * j - 1) for j in range(1, nodes // 2 + 1)) for a in angles]
    return [math.sin(0.5 * a) ** 2 for a in angles], [(1 - 2 * s) / nodes for s in sums]


def _log_sinhc_scaled(x: Tensor) -> Tensor:
    """log(sinh(x) / x) - x for x >= 0, by its series (remainder 2e-15) where 1 - e^{-2x} would cancel."""
    y = x.clamp_max(0.2).square()
    series = y / 6 * (1 - y / 30 * (1 - y * (4 / 63) * (1 - y * (3 / 40) * (1 - y * (8 / 99))))) - x
    large = x.clamp_min(0.2)
    return torch.where(x < 0.2, series, (-torch.expm1(-2 * large) / (2 * large)).log())


def _angle_rate(concentration: Tensor, below: Tensor, above: Tensor, m: int) -> Tensor:
    r"""dt/dk of the angle t of a sample with ``below`` = 1 - cos t and ``above`` = 1 + cos t at a fixed quantile.

    On S^2 it is closed: with L(k) = log (sinh k / k) - k,

    .. math:: \frac{d(1-w)}{dk} = \frac{1-w}{k} \left( e^{L(k (1-w) / 2) - L(k) - k (1+w)} - 1 \right).

    Else the integral over y is a quadrature on the stretch in which g(y) / g(t) falls to e^-depth. In sin(y/2), log g
    is concave with second derivative at most -4k - 6 (m-2), from which the end of the stretch follows. E[dw/dk] = A'
    holds to 1e-10 in float64 and 2e-5 in float32. So does dt/dk itself within six standard deviations of the mode; in
    float32 its error is 1e-4 for m above 1000.
    """
    depth, nodes = (36.0, 40) if concentration.dtype == torch.float64 else (20.0, 20)
    k, below, above = widen(concentration), widen(below), widen(above)
    # At a pole the rate is 0; the smallest number keeps the ratios below away from 0/0.
    tiny = torch.finfo(k.dtype).tiny
    sin0, cos0 = (0.5 * below).clamp_min(tiny).sqrt(), (0.5 * above).clamp_min(tiny).sqrt()
    if m == 3:
        k = k.clamp_min(TINY)
        below = torch.where(above < below, 2 - above, below)  # the two must add up to 2 to more than float32
        inner, outer = _log_sinhc_scaled(torch.stack([0.5 * k * below, k]))
        return sin0 / cos0 / k * torch.expm1(inner - outer - k * above)
    complement = bessel_ratio_complement(concentration, m).to(k.dtype)
    with torch.no_grad():  # the integral does not depend on where it is cut off
        side = torch.where(below < complement, -1.0, 1.0).to(k.dtype)
        slope = side * (4 * k * sin0 - (m - 2) / sin0 + (m - 2) * sin0 / cos0.square())
        curvature = 4 * k + 6 * (m - 2)
        length = 2 * depth / (slope + (slope.square() + 2 * depth * curvature).sqrt())
        end = torch.asin((sin0 + side * length).clamp(0, 1))
    start = torch.atan2(sin0, cos0)
    stretch = end - start
    x, weights = _fejer(nodes, k.dtype, k.device)
    half = start.unsqueeze(-1) + stretch.unsqueeze(-1) * x
    k, complement, sin0, cos0 = (a.unsqueeze(-1) for a in (k, complement, sin0, cos0))
    sin = half.sin()
    log_ratio = -2 * k * (sin - sin0) * (sin + sin0)
    if m > 2:
        # The end of the stretch may pass pi by a rounding error.
        log_ratio = log_ratio + (m - 2) * (sin / sin0 * (half.cos() / cos0).clamp_min(0)).log()
    integrand = (complement - 2 * sin.square()) * log_ratio.exp()
    return 2 * stretch * (integrand * weights).sum(-1)


class _CosineSine(torch.autograd.Function):
    """cos t, sin t, 1 - cos t and 1 + cos t of a sample drawn as the last two, with the gradient that it has in k."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor, below: Tensor, above: Tensor, m: int):
        return 1 - below, (below * above).sqrt(), below.clone(), above.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.m = inputs[3]
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx, grad_cos, grad_sin, grad_below, grad_above):
        k, cos, sin, below, above = ctx.saved_tensors
        rate = _angle_rate(k, below, above, ctx.m).to(k.dtype)
        return rate * (grad_sin * cos + (grad_below - grad_above - grad_cos) * sin), None, None, None


class VonMisesFisher(TorchDistribution):
    r"""Von Mises-Fisher law on the unit vectors of R^m: the Gaussian of the sphere.

    The density is with respect to the surface measure of S^{m-1}, whose total mass is
    :math:`2 \pi^{m/2} / \Gamma(m/2)`: 2 pi on the circle (m = 2), where it is von Mises' law, and 4 pi on the sphere
    (m = 3). It is uniform at k = 0; for large k it is a Gaussian of variance 1/k along each of the m - 1 directions
    across mu.

    Values and gradients hold for m up to 4096 and k up to 1e8, to 1e-10 in float64 and 1e-5 in float32 relative to the
    largest term. Gradients with respect to ``loc`` and to the value are those of :math:`-k |z - \mu|^2 / 2`. They are
    right along the sphere; across it a law on the sphere has none.

    :param loc: mean direction :math:`\mu`, unit vectors of shape ``(..., m)``.
    :param concentration: :math:`k \ge 0`, shape ``(...)``, one number per vector: it broadcasts with the batch shape of
        ``loc``.
    :raises ValueError: if m < 2 or the dtypes differ. With validated arguments also for a ``loc`` or a value off the
        sphere, and for a concentration that is negative or not finite.

    >>> _ = torch.manual_seed(0)
    >>> law = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 5.0)
    >>> print(f"{law.log_prob(law.loc):.4f} {law.entropy():.4f} {law.mean[2]:.4f}")
    -0.2284 1.2279 0.8001
    >>> print(f"{law.sample((10_000,))[:, 2].mean():.2f}")
    0.80
    """

    arg_constraints = {"loc": sphere, "concentration": positive_or_zero}
    support = sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor | float, validate_args=None):
        if not isinstance(concentration, Tensor):
            concentration = loc.new_full((), concentration)
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(f"expected loc of shape (..., m) with m >= 2, got shape {tuple(loc.shape)}")
        if loc.dtype != concentration.dtype:
            raise ValueError(
                f"expected loc and concentration of one dtype, got {loc.dtype} and {concentration.dtype}: cast one"
            )
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(batch_shape + loc.shape[-1:])
        self.concentration = concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(VonMisesFisher, _instance)
        batch_shape = Size(batch_shape)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.concentration = self.concentration.expand(batch_shape)
        super(VonMisesFisher, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def dim(self) -> int:
        """The ambient dimension m."""
        return self.event_shape[0]

    @property
    def mean(self) -> Tensor:
        r"""E[z] = A(k) mu, inside the sphere, shape ``batch_shape + (m,)``."""
        return bessel_ratio(self.concentration, self.dim).unsqueeze(-1) * self.loc

    @property
    def variance(self) -> Tensor:
        r"""Var z_i = A' mu_i^2 + (A / k) (1 - mu_i^2) of each coordinate, shape ``batch_shape + (m,)``."""
        along = bessel_ratio_derivative(self.concentration, self.dim).unsqueeze(-1)
        across = bessel_ratio_over_argument(self.concentration, self.dim).unsqueeze(-1)
        squares = self.loc.square()
        # 1 - mu_i^2 as the sum of the other squares, from the left and from the right: for large k the variance along
        # mu is smaller than the rounding error of 1 - mu_i^2.
        zero = torch.zeros_like(squares[..., :1])
        left = torch.cat([zero, squares[..., :-1].cumsum(-1)], -1)
        right = torch.cat([squares[..., 1:].flip(-1).cumsum(-1).flip(-1), zero], -1)
        return along * squares + across * (left + right)

    def entropy(self) -> Tensor:
        """log area - KL to the uniform law, in nats, shape ``batch_shape``."""
        return log_area(self.dim) - log_hyp0f1_conjugate(self.concentration, self.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""-k :math:`|z - \mu|^2` / 2 - (F - k) - log area in nats, shape ``(...)`` for points ``(..., m)``."""
        if self._validate_args:
            self._validate_sample(value)
        below = 0.5 * (value - self.loc).square().sum(-1)
        return -self.concentration * below - log_hyp0f1_scaled(self.concentration, self.dim) - log_area(self.dim)

    def rsample(self, sample_shape=()) -> Tensor:
        """Samples, shape ``sample_shape + batch_shape + (m,)``, with pathwise gradients.

        A sample is NaN if all of its proposals were refused, of probability 3e-15 or less.
        """
        shape = Size(sample_shape) + self.batch_shape
        k = self.concentration.expand(shape)
        with torch.no_grad():
            below, above = self._invert(k) if self.dim == 3 else self._reject(k)
            across = self._across(shape)
        cos, sin, *_ = _CosineSine.apply(k, below, above, self.dim)
        return rotate_from_pole(torch.cat([cos.unsqueeze(-1), sin.unsqueeze(-1) * across], -1), self.loc)

    def _across(self, shape: Size) -> Tensor:
        """Uniform unit vectors of R^{m-1}. In one and two dimensions a normal draw of zeros would have no direction."""
        dtype, device = self.loc.dtype, self.loc.device
        if self.dim == 2:
            return torch.where(torch.rand((*shape, 1), dtype=dtype, device=device) < 0.5, -1.0, 1.0).to(dtype)
        if self.dim == 3:
            turn = 2 * math.pi * torch.rand((*shape, 1), dtype=dtype, device=device)
            return torch.cat([turn.cos(), turn.sin()], -1)
        normal = torch.randn((*shape, self.dim - 1), dtype=dtype, device=device)
        return normal / normal.norm(dim=-1, keepdim=True)

    def _invert(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """1 - w and 1 + w on S^2: u e^{-2k} + 1 - u = e^{-k (1-w)}."""
        k = k.clamp_min(TINY)
        below = (-torch.log1p(torch.rand_like(k) * torch.expm1(-2 * k)) / k).clamp(0, 2)
        return below, 2 - below

    def _reject(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """1 - w and 1 + w of the first accepted proposal, NaN where there is none.

        Of n concentrations no more than 0.35^3 n are expected to refuse three proposals. Where n is large the other
        proposals are drawn for that many, and nine standard deviations more, alone.
        """
        n, few = k.numel(), 3
        share = 0.35**few
        second = math.ceil(share * n + 9 * math.sqrt(share * n) + 30)
        if PROPOSALS * n < 2 * (few * n + PROPOSALS * second):
            return self._first_accepted(k, PROPOSALS)
        flat = k.reshape(-1)
        below, above = self._first_accepted(flat, few)
        refused = below.isnan()
        place = refused.cumsum(0) - 1
        beyond = ~refused | (place >= second)
        # The places of those that are not drawn again fall on one more, which is left out.
        rows = torch.zeros_like(place[:1]).expand(second + 1)
        rows = rows.scatter(0, place.masked_fill(beyond, second), torch.arange(n, device=k.device))[:second]
        again = self._first_accepted(flat[rows], PROPOSALS - few)
        place = place.masked_fill(beyond, 0)
        below, above = (torch.where(beyond, a, b[place]) for a, b in zip((below, above), again, strict=True))
        return below.reshape(k.shape), above.reshape(k.shape)

    def _first_accepted(self, k: Tensor, proposals: int) -> tuple[Tensor, Tensor]:
        """1 - w and 1 + w of the first accepted of so many proposals."""
        m = self.dim
        u, v, turn = torch.rand((3, proposals, *k.shape), dtype=k.dtype, device=k.device).unbind(0)
        # e = (1 + r cos(2 pi turn)) / 2 with 1 - r^2 = v^{2/(m-2)}, and 1 - e, each without a difference [5].
        log_rest = 2 / (m - 2) * v.log() if m > 2 else torch.full_like(v, -math.inf)
        r = torch.expm1(log_rest).neg().sqrt()
        rest = 0.5 * log_rest.exp() / (1 + r)
        turn = math.pi * turn
        e, not_e = torch.addcmul(rest, r, turn.cos().square()), torch.addcmul(rest, r, turn.sin().square())
        b = (m - 1) / (2 * k + (4 * k * k + (m - 1) ** 2).sqrt())
        below = 2 * b * e / (not_e + b * e)
        lead = k / (m - 1) * (2 * b / (1 + b) - below)
        accepted = (m - 1) * (lead + torch.log1p(-lead)) >= u.log()
        first = accepted.byte().argmax(0, keepdim=True)
        e, not_e, below, accepted = (a.gather(0, first).squeeze(0) for a in (e, not_e, below, accepted))
        above = 2 * not_e / (not_e + b * e)
        return torch.where(accepted, below, math.nan), torch.where(accepted, above, math.nan)


@register_kl(VonMisesFisher, HypersphericalUniform)
def _kl_vmf_uniform(p: VonMisesFisher, q: HypersphericalUniform) -> Tensor:
    _check_one_sphere(p, q)
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    return log_hyp0f1_conjugate(p.concentration, p.dim).expand(shape)


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl_vmf_vmf(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    _check_one_sphere(p, q)
    along = log_hyp0f1_divergence(q.concentration, p.concentration, p.dim)
    distance = 0.5 * (p.loc - q.loc).square().sum(-1)  # 1 - mu_1 . mu_2
    return along + q.concentration * bessel_ratio(p.concentration, p.dim) * distance


def _check_one_sphere(p: VonMisesFisher, q: VonMisesFisher | HypersphericalUniform) -> None:
    if p.dim != q.dim:
        raise ValueError(f"expected laws on one sphere, got ambient dimensions {p.dim} and {q.dim}")
