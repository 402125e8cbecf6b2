r"""The isotropic Gaussian on SO(3): the law of Brownian motion on the rotations after time t.

With :math:`t = \sigma^2`, :math:`\mu` where the motion starts and :math:`\omega` the angle of :math:`\mu^T R`, the
density with respect to the normalised Haar measure is the heat kernel. It has two series. The first converges fast for
large t, the second for small t:

.. math::
    p_t(\omega) &= \sum_{l \ge 0} (2l + 1) e^{-l(l+1)t/2} \, \chi_l(\omega), \qquad
        \chi_l(\omega) = \frac{\sin (l + 1/2) \omega}{\sin (\omega / 2)} = 1 + 2 \sum_{j=1}^l \cos j \omega \\
    &= \frac{\sqrt{2 \pi} \, e^{t/8}}{t^{3/2} \sin(\omega/2)} \sum_{k \in Z} (-1)^k \omega_k \, e^{-\omega_k^2 / 2t},
        \qquad \omega_k = \omega + 2 \pi k

The terms of the second have signs. With k and -k taken together and :math:`y_k = 2 \pi k \omega / t` they are
one positive term and a correction,

.. math::
    p_t(\omega) = \frac{\sqrt{2 \pi} \, e^{t/8}}{t^{3/2}} \frac{\omega}{\sin(\omega/2)} e^{-\omega^2/2t} \Big( 1
        + 2 \sum_{k \ge 1} (-1)^k e^{-2 \pi^2 k^2 / t}
        \big( \cosh y_k - \tfrac{4 \pi^2 k^2}{t} \tfrac{\sinh y_k}{y_k} \big) \Big)

The angle has density :math:`f = p_t(\omega)(1 - \cos \omega)/\pi` on [0, pi]. As :math:`p_t` solves the heat
equation, :math:`\partial_t p = \tfrac12 \Delta p`, the derivative of its distribution function by t is the
flux :math:`\tfrac12 p_t'(\omega) (1 - \cos \omega) / \pi`, and the angle at a fixed level moves as

.. math::
    \frac{d \omega}{d t} = -\tfrac12 \, \partial_\omega \log p_t(\omega)

which is the pathwise gradient of a sample.

References:
    [1] Normal distribution on the rotation group SO(3) (Nikolayev & Savyolov, 1997)
        https://doi.org/10.1155/TSM.29.201
    [2] Denoising Diffusion Probabilistic Models on SO(3) for Rotational Alignment (Leach et al., 2022)
        https://openreview.net/forum?id=BY88eBbkpe5
"""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions.kl import register_kl

from ppvae.distributions.center import center
from ppvae.distributions.finite import positive
from ppvae.distributions.so3_uniform import SO3Uniform
from ppvae.manifolds import so3
from ppvae.special.quadrature import tanh_sinh

__all__ = ["IsotropicGaussianSO3"]

#: Cells of the grid of angles on which the distribution function is inverted.
_CELLS = 512


class IsotropicGaussianSO3(TorchDistribution):
    r"""The heat kernel on SO(3) at time :math:`t = \sigma^2` about a rotation :math:`\mu`.

    The density is with respect to the volume of the angle metric, whose total mass is :math:`8 \pi^2`:
    :math:`q = p_t(\omega) / 8 \pi^2`. At small scales the law is :math:`\mu \exp(v)`, v ~ N(0, :math:`\sigma^2 I`). As
    the scale grows it tends to the uniform law, and equals it to rounding above :math:`\sigma` = 4.5 in float32 and 6.5
    in float64. It is smooth at the mode and at the antipodes. The convolution of two such laws is another one, with the
    sum of their :math:`\sigma^2`.

    Samples invert the distribution function on a grid of angles, where the density is taken as linear in each cell. The
    distribution function is then off by less than 1e-4. Gradients are pathwise, in ``loc`` and in ``scale``.

    :param loc: rotations :math:`\mu`, shape ``(..., 3, 3)``.
    :param scale: :math:`\sigma` > 0 in radians, shape ``(...)``: the square root of the time; batch shapes
        broadcast.
    :raises ValueError: with validated arguments, for a ``loc`` or a value off SO(3), and for a scale that is not
        positive and finite.

    >>> law = IsotropicGaussianSO3(torch.eye(3), torch.tensor([0.1, 1.0, 10.0]))
    >>> print([f"{x:.3f}" for x in law.entropy()], f"{math.log(8 * math.pi**2):.3f}")
    ['-2.655', '3.852', '4.369'] 4.369
    """

    arg_constraints = {"loc": so3.rotation, "scale": positive}
    support = so3.rotation
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args=None):
        batch_shape = torch.broadcast_shapes(loc.shape[:-2], scale.shape)
        self.loc, self.scale = loc.expand(*batch_shape, 3, 3), scale.expand(batch_shape)
        super().__init__(batch_shape, Size((3, 3)), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(IsotropicGaussianSO3, _instance)
        batch_shape = Size(batch_shape)
        new.loc, new.scale = self.loc.expand(*batch_shape, 3, 3), self.scale.expand(batch_shape)
        super(IsotropicGaussianSO3, new).__init__(batch_shape, Size((3, 3)), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        r"""E R = :math:`e^{-\sigma^2} \mu` in the space of matrices, shape ``batch_shape + (3, 3)``."""
        return (-self.scale.square()).exp()[..., None, None] * self.loc

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Rotations of shape ``sample_shape + batch_shape + (3, 3)`` with gradients to loc and scale."""
        shape = Size(sample_shape) + self.scale.shape
        t = self.scale.square()
        omega, score = _sample_angle(t.detach(), Size(sample_shape))
        omega = omega - 0.5 * score * (t - t.detach())
        axis = torch.randn(*shape, 3, dtype=t.dtype, device=t.device)
        axis = axis / axis.square().sum(-1, keepdim=True).sqrt()
        return so3.compose(self.loc, so3.exp(omega.unsqueeze(-1) * axis))

    def log_prob(self, value: Tensor) -> Tensor:
        """log q of rotations ``(..., 3, 3)`` in nats, shape ``(...)``; smooth at every angle."""
        if self._validate_args:
            self._validate_sample(value)
        omega = so3.angle(so3.compose(self.loc.mT, value))
        return _log_heat_kernel(omega, self.scale.square()) - math.log(so3.VOLUME)

    def entropy(self) -> Tensor:
        r""":math:`\log 8 \pi^2 - KL(q \| \mathrm{uniform})` nats, shape ``batch_shape``."""
        return math.log(so3.VOLUME) - _kl_to_uniform(self.scale)


@center.register
def _(law: IsotropicGaussianSO3) -> Tensor:
    return law.loc


@register_kl(IsotropicGaussianSO3, SO3Uniform)
def _kl_heat_uniform(p: IsotropicGaussianSO3, q: SO3Uniform) -> Tensor:
    return _kl_to_uniform(p.scale).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


def _kl_to_uniform(scale: Tensor) -> Tensor:
    r"""The integral of f log p_t over the angles, by quadrature; error below 1e-10 in float64."""
    nodes, weights = tanh_sinh(48, scale)
    width = _width(scale.detach()).unsqueeze(-1)
    omega = width * nodes
    log_p = _log_heat_kernel(omega, scale.square().unsqueeze(-1))
    return (weights * width * log_p.exp() * _haar(omega) * log_p).sum(-1)


def _width(scale: Tensor) -> Tensor:
    """The largest angle that counts: beyond 9 standard deviations the mass is below 1e-16."""
    return (9 * scale).clamp(max=math.pi)


def _haar(omega: Tensor) -> Tensor:
    """(1 - cos omega) / pi, the density of the angle under the uniform law."""
    return 2 / math.pi * (omega / 2).sin().square()


def _log_heat_kernel(omega: Tensor, t: Tensor) -> Tensor:
    r"""log p_t(omega) for omega in [0, pi], t > 0; an even function of omega, with finite gradients at 0 and pi."""
    short = t < 1
    # Short times: |k| <= 2 leaves e^{-4 pi^2 / t}.
    t1 = torch.where(short, t, 1)
    correction = torch.zeros_like(omega * t)
    for k in (1, 2):
        # e^{-2 pi^2 k^2 / t} (cosh y, sinh y / y), the larger exponential first, which never overflows.
        first = (-2 * math.pi * k * (math.pi * k - omega) / t1).exp()
        y = 2 * math.pi * k * omega / t1
        cosh = first * (1 + (-2 * y).exp()) / 2
        sinhc = first * _expm1_ratio(2 * y)
        correction = correction + (-1) ** k * 2 * (cosh - 4 * math.pi**2 * k**2 / t1 * sinhc)
    log_wrapped = (
        t1 / 8 + 0.5 * math.log(8 * math.pi) - 1.5 * t1.log() - omega.square() / (2 * t1)
        - so3.sinc(omega.square() / 4).log() + torch.log1p(correction)
    )  # fmt: skip
    # Long times: l <= 9 leaves 21 e^{-55 t}.
    t2 = torch.where(short, 1, t)
    series, character = torch.zeros_like(omega * t), torch.ones_like(omega)
    for l in range(1, 10):
        character = character + 2 * (l * omega).cos()
        series = series + (2 * l + 1) * (-l * (l + 1) / 2 * t2).exp() * character
    return torch.where(short, log_wrapped, torch.log1p(torch.where(short, 0, series)))


def _expm1_ratio(x: Tensor) -> Tensor:
    """(1 - e^{-x}) / x for x >= 0, 1 at x = 0."""
    near = x < 1e-2
    y = torch.where(near, x, 0)
    series = 1 - y / 2 * (1 - y / 3 * (1 - y / 4 * (1 - y / 5 * (1 - y / 6 * (1 - y / 7)))))
    return torch.where(near, series, -torch.expm1(-x) / torch.where(near, 1, x))


def _sample_angle(t: Tensor, sample_shape: Size) -> tuple[Tensor, Tensor]:
    """Angles of shape ``sample_shape + t.shape`` and the derivative of log p_t at each."""
    with torch.no_grad():
        width = _width(t.sqrt())
        step = width / _CELLS
        nodes = torch.arange(_CELLS + 1, dtype=t.dtype, device=t.device)
        omega = step.unsqueeze(-1) * nodes
        f = _log_heat_kernel(omega, t.unsqueeze(-1)).exp() * _haar(omega)
        low, high = f[..., :-1], f[..., 1:]
        mass = torch.nn.functional.pad(((low + high) / 2).cumsum(-1), (1, 0))
        u = torch.rand(*t.shape, sample_shape.numel(), dtype=t.dtype, device=t.device) * mass[..., -1:]
        cell = (torch.searchsorted(mass, u, right=True) - 1).clamp(0, _CELLS - 1)
        a, b = low.gather(-1, cell), high.gather(-1, cell)
        rest = u - mass.gather(-1, cell)
        # a x + (b - a) x^2 / 2 = rest on [0, 1], by the root that does not cancel; a cell at the end may hold
        # no mass.
        root = a + (a.square() + 2 * (b - a) * rest).clamp_min(0).sqrt()
        x = torch.where(root > 0, 2 * rest / torch.where(root > 0, root, 1), 0).clamp(0, 1)
        angle = (step.unsqueeze(-1) * (cell + x)).reshape(t.shape + sample_shape)
        # The sample's dims come first.
        dims = (*range(t.dim(), angle.dim()), *range(t.dim()))
        angle = angle.permute(dims)
        return angle, _score(angle, t)


def _score(omega: Tensor, t: Tensor) -> Tensor:
    """The derivative of log p_t by omega, term by term of :func:`_log_heat_kernel`.

    In closed form, as torch.jit.trace has no gradients within what it traces.
    """
    short = t < 1
    t1 = torch.where(short, t, 1)
    value, slope = torch.ones_like(omega * t), torch.zeros_like(omega * t)
    for k in (1, 2):
        rate = 2 * math.pi * k / t1
        first = (-rate * (math.pi * k - omega)).exp()
        y = rate * omega
        cosh = first * (1 + (-2 * y).exp()) / 2
        sinhc = first * _expm1_ratio(2 * y)
        near = y < 1e-4
        bend = torch.where(near, first * y / 3, (cosh - sinhc) / torch.where(near, 1, y))  # sinh(y) / y, by y
        value = value + (-1) ** k * 2 * (cosh - 2 * math.pi * k * rate * sinhc)
        slope = slope + (-1) ** k * 2 * rate * (y * sinhc - 2 * math.pi * k * rate * bend)
    # 1/omega - cot(omega/2)/2 is sum_n |B_2n| omega^(2n-1) / (2n)!.
    near = omega < 0.5
    square = torch.where(near, omega, 0).square()
    series = torch.zeros_like(omega)
    for c in (74724249600, 1307674368000 / 691, 47900160, 1209600, 30240, 720, 12):
        series = 1 / c + square * series
    far = torch.where(near, 1, omega)
    of_sinc = torch.where(near, omega * series, 1 / far - 0.5 / (far / 2).tan())
    wrapped = slope / value + of_sinc - omega / t1
    t2 = torch.where(short, 1, t)
    value, slope = torch.ones_like(omega * t), torch.zeros_like(omega * t)
    character, bend = torch.ones_like(omega), torch.zeros_like(omega)
    for l in range(1, 10):
        character, bend = character + 2 * (l * omega).cos(), bend - 2 * l * (l * omega).sin()
        weight = (2 * l + 1) * (-l * (l + 1) / 2 * t2).exp()
        value, slope = value + weight * character, slope + weight * bend
    return torch.where(short, wrapped, slope / value)
