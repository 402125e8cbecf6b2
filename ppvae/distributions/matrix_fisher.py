r"""The matrix Fisher law on SO(3).

.. math::
    q(R) = \frac{e^{\mathrm{tr}(F^T R)}}{8 \pi^2 c(F)}, \qquad
    F = U \, \mathrm{diag}(s_1, s_2, s_3) \, V^T, \quad U, V \in SO(3), \; s_1 \ge s_2 \ge |s_3|

The mode is :math:`M = U V^T`. With x = (w, x_1, x_2, x_3) the unit quaternion of :math:`U^T R V`,

.. math::
    \mathrm{tr}(F^T R) &= s_1 + s_2 + s_3 - \sum_i \lambda_i x_i^2, \qquad
        \lambda = 2 (0, s_2 + s_3, s_1 + s_3, s_1 + s_2) \\
    c(F) &= e^{s_1 + s_2 + s_3} \int_0^1 \tilde I_0((s_1 - s_2) y) \, \tilde I_0((s_1 + s_2)(1 - y)) \,
        e^{-2 (s_2 + s_3) y} \, dy, \qquad \tilde I_0(t) = e^{-|t|} I_0(t) \\
    E[R] &= \nabla_F \log c = U \, \mathrm{diag}(\partial_1, \partial_2, \partial_3) \log c \; V^T

The first line says that x has the Bingham law on S^3 with concentrations :math:`-\lambda`: the two laws are
one [2]. The sampler draws from it by rejection from an angular central Gaussian [4]: with b the root of
:math:`\sum_i (b + 2 \lambda_i)^{-1} = 1`,

.. math::
    x = \frac{y}{|y|}, \quad y_i \sim N(0, (1 + 2 \lambda_i / b)^{-1}), \quad
        u = \sum_i \lambda_i x_i^2, \quad
    \log P(\text{accept}) = -u + 2 \log(1 + 2 u / b) + \tfrac{4 - b}{2} - 2 \log \tfrac4b

References:
    [1] The von Mises-Fisher matrix distribution in orientation statistics (Khatri & Mardia, 1977)
        https://doi.org/10.1111/j.2517-6161.1977.tb01610.x
    [2] Orientation statistics without parametric assumptions (Prentice, 1986)
        Journal of the Royal Statistical Society B 48, 214-222
    [3] Bayesian Attitude Estimation with the Matrix Fisher Distribution on SO(3) (Lee, 2018)
        https://arxiv.org/abs/1710.03746
    [4] A new unified approach for the simulation of a wide class of directional distributions
        (Kent, Ganeiber & Mardia, 2018)
        https://doi.org/10.1080/10618600.2017.1390468
    [5] A robust eigensolver for 3x3 symmetric matrices (Eberly, 2014)
        https://www.geometrictools.com/Documentation/RobustEigenSymmetric3x3.pdf
"""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.nn.functional import pad

from ppvae.distributions.center import center
from ppvae.distributions.finite import finite
from ppvae.distributions.so3_uniform import SO3Uniform
from ppvae.manifolds import so3
from ppvae.manifolds.sphere import rotate_from_pole
from ppvae.special import bessel_ratio_complement
from ppvae.special.precision import widen

__all__ = ["MatrixFisher"]

#: Proposals drawn for each sample: the least acceptance is 0.44, at large s_3, so that none is accepted with
#: probability 1e-16.
_PROPOSALS = 64


class MatrixFisher(TorchDistribution):
    r"""The law on SO(3) with density proportional to exp tr(F^T R), the von Mises-Fisher law of rotations.

    The density is with respect to the volume of the angle metric, whose total mass is :math:`8 \pi^2`. The law is
    uniform at F = 0. At large concentration it is the law of :math:`M \exp(V v)`, v normal with variances
    :math:`1 / (s_2 + s_3), 1 / (s_1 + s_3), 1 / (s_1 + s_2)`. Samples are exact and carry no gradient. First
    derivatives by F are right, second ones are not.

    ``log_prob``, ``mean``, ``mode`` and the divergence hold for :math:`s_1` up to 1e8. In float32 ``log_prob`` at a
    draw is off by less than :math:`2 \cdot 10^{-5} + 4 \cdot 10^{-6} \sqrt{s_1}` nats, which is what the rounding of R
    itself changes.

    :param concentration: F, real matrices of shape ``(..., 3, 3)``; no other condition.
    :raises ValueError: for another shape. With validated arguments also for entries that are not finite, and for a
        value off SO(3).

    >>> law = MatrixFisher(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
    >>> print(f"{law.log_prob(torch.eye(3)):.4f}, {law.entropy():.4f}")
    -0.6224, 2.2774

    Source: Khatri and Mardia (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01610.x
    """

    arg_constraints = {"concentration": constraints.independent(finite, 2)}
    support = so3.rotation
    has_rsample = False

    def __init__(self, concentration: Tensor, validate_args=None):
        if concentration.shape[-2:] != (3, 3):
            raise ValueError(f"expected a parameter F of shape (..., 3, 3), got {tuple(concentration.shape)}")
        self.concentration = concentration
        super().__init__(concentration.shape[:-2], Size((3, 3)), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(MatrixFisher, _instance)
        new.concentration = self.concentration.expand(*batch_shape, 3, 3)
        super(MatrixFisher, new).__init__(Size(batch_shape), Size((3, 3)), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mode(self) -> Tensor:
        """M, the rotation nearest to F, shape ``batch_shape + (3, 3)``."""
        return so3.project(widen(self.concentration)).to(self.concentration.dtype)

    @property
    def mean(self) -> Tensor:
        """E R in the space of matrices, shape ``batch_shape + (3, 3)``, without gradient."""
        u, v, d = _decompose(self.concentration.detach())
        u, v, sums = (t.to(self.concentration.dtype) for t in (u, v, _sums(d)))
        _, weight, a, b, y = _integrand(sums)
        # The derivatives of log c by s_1 - s_2, s_1 + s_2 and s_2 + s_3, that by s_1 + s_2 + s_3 apart.
        d1 = -(weight * y * bessel_ratio_complement(a, 2)).sum(-1)
        d2 = -(weight * (1 - y) * bessel_ratio_complement(b, 2)).sum(-1)
        d3 = -2 * (weight * y).sum(-1)
        slope = 1 + torch.stack([d1 + d2, d2 - d1 + d3, d3], -1)
        return so3.compose(u * slope.unsqueeze(-2), v.mT)

    def sample(self, sample_shape=Size()) -> Tensor:
        """Rotations of shape ``sample_shape + batch_shape + (3, 3)``; NaN where no proposal was accepted."""
        u, v, d = _decompose(self.concentration.detach())
        u, v, rates = (t.to(self.concentration.dtype) for t in (u, v, _rates(d).clamp_min(0)))
        rates = pad(rates, (1, 0))
        b = torch.ones_like(rates[..., 0])
        # Newton from the left of a convex function; any b in (0, 4] gives an exact sampler.
        for _ in range(8):
            terms = 1 / (b.unsqueeze(-1) + 2 * rates)
            b = b + (terms.sum(-1) - 1) / terms.square().sum(-1)
        b = b.clamp(max=4)
        shape = Size((_PROPOSALS,)) + Size(sample_shape) + rates.shape
        x = torch.randn(shape, dtype=rates.dtype, device=rates.device)
        x = x * (1 + 2 * rates / b.unsqueeze(-1)).rsqrt()
        x = x / x.square().sum(-1, keepdim=True).sqrt()
        excess = (rates * x.square()).sum(-1)
        log_accept = -excess + 2 * torch.log1p(2 * excess / b) + (4 - b) / 2 - 2 * (4 / b).log()
        accepted = torch.rand(excess.shape, dtype=x.dtype, device=x.device).log() < log_accept
        first = accepted.to(torch.uint8).argmax(0)
        x = x.gather(0, first[None, ..., None].expand(1, *x.shape[1:])).squeeze(0)
        x = torch.where(accepted.any(0).unsqueeze(-1), x, math.nan)
        return so3.compose(so3.compose(u, so3.from_quaternion(x)), v.mT)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""log q of rotations ``(..., 3, 3)`` in nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        u, v, d = _decompose(self.concentration)
        rates = _rates(d)
        # With D = U^T F V and Q = U^T R V, tr(F^T R) - tr D is the sum of D_ij (Q - I)_ij. Off its diagonal D is 0, but
        # its derivative by F is not.
        off = d - torch.diag_embed(d.diagonal(dim1=-2, dim2=-1))
        form, skew = off + off.mT - torch.diag_embed(rates), 4 * so3.vee(off)
        mode, form, skew, axes = (t.to(value.dtype) for t in (so3.compose(u, v.mT), form, skew, v.mT))
        q = so3.to_quaternion(so3.compose(mode.mT, value))
        x = so3.act(axes, q[..., 1:])
        energy = (x * (so3.act(form, x) + q[..., :1] * skew)).sum(-1)
        log_c, *_ = _integrand(_sums(d).to(value.dtype))
        return energy - log_c - math.log(so3.VOLUME)

    def entropy(self) -> Tensor:
        r""":math:`\log 8 \pi^2 - KL(q \| \mathrm{uniform})` nats, shape ``batch_shape``."""
        return math.log(so3.VOLUME) - _kl_to_uniform(self.concentration)


@center.register
def _(law: MatrixFisher) -> Tensor:
    return law.mode


@register_kl(MatrixFisher, SO3Uniform)
def _kl_fisher_uniform(p: MatrixFisher, q: SO3Uniform) -> Tensor:
    kl = _kl_to_uniform(p.concentration)
    return kl.expand(torch.broadcast_shapes(kl.shape, q.batch_shape))


def _kl_to_uniform(concentration: Tensor) -> Tensor:
    r"""tr(F^T E R) - log c in nats, without the terms in :math:`s_1 + s_2 + s_3` that cancel."""
    sums = _sums(_decompose(concentration)[2]).to(concentration.dtype)
    log_c, weight, a, b, y = _integrand(sums)
    inner = a * bessel_ratio_complement(a, 2) + b * bessel_ratio_complement(b, 2) + 2 * sums[..., 2:] * y
    return -(weight * inner).sum(-1) - log_c


def _integrand(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""The integral of c(F) by the trapezoidal rule in :math:`\tau`, :math:`y = 1 / (1 + e^{-\tau})`.

    In :math:`\tau` the peaks of the integrand at y = 0 and 1 have width one, however narrow they are in y, and the rule
    converges as :math:`e^{-\pi^2 / h}`. The error of log c is below 1e-5 in float32 and 1e-12 in float64 for
    :math:`s_1` up to 1e8.

    :param sums: s_1 - s_2, s_1 + s_2 and s_2 + s_3, shape ``(..., 3)``.
    :return: log c - (s_1 + s_2 + s_3), shape ``(...)``; then, for each node, its weight (they add up to one),
        (s_1 - s_2) y, (s_1 + s_2)(1 - y) and y.
    """
    low, high, h = (-56.0, 52.0, 0.3) if sums.dtype == torch.float64 else (-34.2, 33.0, 0.6)
    tau = torch.arange(round((high - low) / h) + 1, dtype=sums.dtype, device=sums.device) * h + low
    difference, total, rate = sums.unsqueeze(-1).unbind(-2)
    y, rest = tau.sigmoid(), (-tau).sigmoid()
    a, b = difference * y, total * rest
    log_f = _log_i0(a) + _log_i0(b) - 2 * rate * y + (h * y * rest).log()
    log_c = log_f.logsumexp(-1)
    return log_c, (log_f - log_c.unsqueeze(-1)).exp(), a, b, y


def _log_i0(a: Tensor) -> Tensor:
    """log(e^{-a} I_0(a)), whose derivative at a = 0 is -1, where that of i0e, with e^{-|a|}, is 0."""
    return torch.special.i0e(a).log() + (a.abs() - a)


def _decompose(f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""U, V in SO(3) and :math:`D = U^T F V = \mathrm{diag}(s)`, :math:`s_1 \ge s_2 \ge |s_3|`, in float64.

    In float32 the sums s_2 + s_3, on which the law depends, would be lost where s_1 is large: to 8 at s_1 = 1e8.

    D carries its gradient by F, :math:`dD = U^T dF V`. U and V carry none. A function of s that is symmetric where
    singular values are equal has its right gradient there too.
    """
    f = widen(f)
    fixed = f.detach()
    r = so3.project(fixed)
    s = so3.compose(r.mT, fixed)
    v = _eigenvectors((s + s.mT) / 2)
    u = so3.compose(r, v)
    return u, v, so3.compose(so3.compose(u.mT, f), v)


def _rates(d: Tensor) -> Tensor:
    r""":math:`\lambda` without its first entry, which is 0."""
    s1, s2, s3 = d.diagonal(dim1=-2, dim2=-1).unbind(-1)
    return 2 * torch.stack([s2 + s3, s1 + s3, s1 + s2], -1)


def _sums(d: Tensor) -> Tensor:
    """s_1 - s_2, s_1 + s_2 and s_2 + s_3, on which c depends apart from its factor."""
    s1, s2, s3 = d.diagonal(dim1=-2, dim2=-1).unbind(-1)
    return torch.stack([s1 - s2, s1 + s2, s2 + s3], -1)


def _eigenvectors(s: Tensor) -> Tensor:
    """The rotation whose columns are eigenvectors of the symmetric S, the largest eigenvalue first [5].

    The eigenvalue that is far from the two others is found by the cubic formula, which is accurate for it,
    its vector by cross products, and the other two by one rotation of the plane that it leaves.
    """
    eye = torch.eye(3, dtype=s.dtype, device=s.device)
    b = s - s.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * eye
    size = b.abs().amax((-2, -1), keepdim=True)
    b = b / torch.where(size > 0, size, 1)
    p = (b.square().sum((-2, -1), keepdim=True) / 6).sqrt()
    b = b / torch.where(p > 0, p, 1)
    b1, b2, b3 = b.unbind(-2)
    half = (b1 * so3.cross(b2, b3)).sum(-1) / 2  # cos 3 phi
    phi = torch.atan2((1 - half.square()).clamp_min(0).sqrt(), half) / 3
    first = half >= 0  # whether the largest eigenvalue is the one apart, or the smallest
    apart = 2 * torch.where(first, phi, phi + 2 * math.pi / 3).cos()
    m1, m2, m3 = (b - apart[..., None, None] * eye).unbind(-2)
    normals = torch.stack([so3.cross(m1, m2), so3.cross(m2, m3), so3.cross(m3, m1)], -2)
    longest = normals.square().sum(-1).argmax(-1)
    w = normals.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 3)).squeeze(-2)
    norm = w.square().sum(-1, keepdim=True).sqrt()
    w = torch.where(norm > 0, w / torch.where(norm > 0, norm, 1), eye[0])
    e, f = rotate_from_pole(eye[1], w), rotate_from_pole(eye[2], w)
    ee, ef, ff = (x.mul(so3.act(b, y)).sum(-1, keepdim=True) for x, y in ((e, e), (e, f), (f, f)))
    turn = torch.atan2(2 * ef, ee - ff) / 2
    larger, smaller = turn.cos() * e + turn.sin() * f, turn.cos() * f - turn.sin() * e
    v1 = torch.where(first.unsqueeze(-1), w, larger)
    v2 = torch.where(first.unsqueeze(-1), larger, smaller)
    return torch.stack([v1, v2, so3.cross(v1, v2)], -1)
