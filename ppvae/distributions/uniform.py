r"""The uniform law on any manifold of finite volume.

.. math::
    p(z) = \frac{1}{\mathrm{vol}(M)}, \qquad H = \log \mathrm{vol}(M), \qquad
    \mathrm{KL}(q \| p) = \log \mathrm{vol}(M) - H(q)

Reference: Directional Statistics (Mardia and Jupp, 2000), https://doi.org/10.1002/9780470316979
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Delta, TorchDistribution
from pyro.distributions.constraints import sphere as pyro_sphere
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from ppvae.distributions.base import base_support
from ppvae.manifolds.circle import Circle
from ppvae.manifolds.power import Power
from ppvae.manifolds.protocol import Manifold
from ppvae.manifolds.quotient import Quotient
from ppvae.manifolds.sphere import Sphere
from ppvae.manifolds.torus import Torus

__all__ = ["Uniform"]

_INTERVAL = type(constraints.unit_interval)


class Uniform(TorchDistribution):
    r"""The law with one density all over a manifold: the prior p(z) of a latent on it.

    The density is with respect to the volume of the manifold, total mass vol(M); off a box it is 0. The law has no
    parameters, so dtype and device are its own.

    :param manifold: one of finite volume.
    :param like: a point, which gives the event shape, dtype and device; or the event shape, e.g. ``(3,)`` on S^2.
    :param batch_shape: shape of independent copies.
    :param dtype: floating dtype of the samples; that of ``like``, or torch's default.
    :param device: device of the samples; that of ``like``, or torch's default.
    :raises ValueError: for a manifold of infinite volume, an event shape with too few axes, a dtype that is not
        floating, and, where arguments are validated, for a value off the manifold.

    >>> law = Uniform(Sphere(), (3,))
    >>> 1 / law.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp()  # 4 pi
    tensor(12.5664)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = True

    def __init__(
        self,
        manifold: Manifold,
        like: Tensor | Sequence[int],
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: Any = None,
        validate_args: bool | None = None,
    ):
        event_dim, shape = manifold.support.event_dim, Size(like.shape if isinstance(like, Tensor) else like)
        if len(shape) < event_dim or (len(shape) > event_dim and not isinstance(like, Tensor)):
            raise ValueError(
                f"like: expected a point of {type(manifold).__name__}, or its shape of {event_dim} numbers, got the "
                f"shape {tuple(shape)}"
            )
        if isinstance(like, Tensor):
            dtype, device = dtype or like.dtype, like.device if device is None else device
        self.dtype, self.device = dtype or torch.get_default_dtype(), device
        if not self.dtype.is_floating_point:
            raise ValueError(f"expected a floating dtype such as torch.float32, got {self.dtype}")
        event_shape = shape[len(shape) - event_dim :]
        self.manifold, self.log_volume = manifold, manifold.log_total_volume(torch.empty(event_shape))
        if not math.isfinite(self.log_volume):
            raise ValueError(
                f"{type(manifold).__name__}: expected a manifold of finite volume, since no law is uniform on an "
                "infinite one; take a TangentNormal"
            )
        super().__init__(Size(batch_shape), event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The points of the manifold."""
        return self.manifold.support

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Uniform, _instance)
        new.manifold, new.log_volume, new.dtype, new.device = self.manifold, self.log_volume, self.dtype, self.device
        super(Uniform, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Points of shape ``sample_shape + batch_shape + event_shape``."""
        like = torch.empty(self._extended_shape(Size(sample_shape)), dtype=self.dtype, device=self.device)
        return self.manifold.uniform(like)

    def log_prob(self, value: Tensor) -> Tensor:
        """-log vol(M) in nats, shape ``(...)`` for points ``(..., *event)``; -inf off a box."""
        if self._validate_args:
            self._validate_sample(value)
        batch = value.shape[: value.dim() - len(self.event_shape)]
        log_p = value.new_full(torch.broadcast_shapes(batch, self.batch_shape), -self.log_volume)
        if isinstance(base_support(self.support), _INTERVAL):
            log_p = torch.where(self.support.check(value), log_p, -math.inf)
        return log_p

    def entropy(self) -> Tensor:
        """log vol(M) nats, the largest entropy of any law on the manifold, shape ``batch_shape``."""
        return torch.full(self.batch_shape, self.log_volume, dtype=self.dtype, device=self.device)


@register_kl(Distribution, Uniform)
def _kl_to_uniform(q: Distribution, p: Uniform) -> Tensor:
    """By the entropy of q; a law without one in closed form raises NotImplementedError."""
    _check_space(q, p)
    kl = p.log_volume - q.entropy()
    side, box = base_support(q.support), base_support(p.support)
    if not isinstance(box, _INTERVAL):
        return kl
    if not isinstance(side, _INTERVAL):
        return torch.full_like(kl, math.inf)
    low, high = (torch.as_tensor(end, dtype=kl.dtype, device=kl.device) for end in (side.lower_bound, side.upper_bound))
    inside = ((low >= box.lower_bound) & (high <= box.upper_bound)).expand(*kl.shape, *p.event_shape).all(-1)
    return torch.where(inside, kl, math.inf)


@register_kl(Delta, Uniform)  # Pyro has one for any law, which would be as near
def _kl_delta_uniform(q: Delta, p: Uniform) -> Tensor:
    return -p.log_prob(q.v)


def _check_space(q: Distribution, p: Uniform) -> None:
    ours, theirs = _space(q, getattr(q, "manifold", None)), _space(p, p.manifold)
    if ours != theirs:
        raise ValueError(
            f"expected a law on the space of {type(p.manifold).__name__}, got a {type(q).__name__}: the densities are "
            f"with respect to different measures, {theirs} and {ours}"
        )


def _space(law: Distribution, manifold: Any) -> tuple[str, tuple[int, ...], int]:
    """What a law's density is taken with respect to: the kind of its points, their shape, and how many are one."""
    kind: Any = base_support(law.support)
    unit_vectors = isinstance(
        kind, (type(Sphere.support), type(Circle.support), type(Torus(1).support), type(pyro_sphere))
    )
    flat = isinstance(kind, (_INTERVAL, type(constraints.real)))
    while isinstance(manifold, Power):
        manifold = manifold.base
    order = len(manifold.group) if isinstance(manifold, Quotient) else 1
    name = "unit vectors" if unit_vectors else "R^n" if flat else type(kind).__name__
    return name, tuple(law.event_shape), order
