"""Posterior heads: modules from features to a distribution, so a guide reads ``q = self.head(h)``.

A head says how many features it needs, ``head.features``; the encoder ends in that many.
"""

from typing import Any, Protocol

from pyro.distributions import Delta, Independent, Normal, TorchDistribution
from torch import Tensor, nn

from ppvae.distributions import PowerSpherical, VonMisesFisher, WrappedNormal
from ppvae.distributions.unimodal_beta import UnimodalBeta
from ppvae.distributions.unrolled_circle import UnrolledCircle
from ppvae.manifolds.hyperboloid import Hyperboloid, from_origin
from ppvae.nn.registration import records_options


class PosteriorHead(Protocol):
    """What a VAE needs of a posterior head."""

    features: int  #: how many numbers it reads; the encoder ends in that many

    def __call__(self, h: Tensor) -> TorchDistribution:
        """q(z | h) with batch shape (...) from features of shape (..., features)."""


def _split(head: Any, h: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    if h.shape[-1] != sum(sizes):
        raise ValueError(
            f"{type(head).__name__} expected features of shape (..., {sum(sizes)}), got {tuple(h.shape)}: "
            f"end the encoder in {sum(sizes)} outputs (the head's attribute `features`)"
        )
    return h.split(sizes, -1)


class NormalHead(nn.Module):
    """q(z | h) = N(loc, scale^2) on R^dim, its scale exp of a feature.

    :param dim: dimension of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.features = dim, 2 * dim

    def forward(self, h: Tensor) -> Independent:
        loc, log_scale = _split(self, h, (self.dim, self.dim))
        return Normal(loc, log_scale.exp()).to_event(1)


class VonMisesFisherHead(nn.Module):
    """q(z | h) = vMF(loc, concentration) on the sphere S^{dim-1} in R^dim.

    The concentration is 1 + 4 dim exp(.) of a feature. Well below the dimension a sample hardly depends on loc (its
    mean cosine is about concentration / dim), and a posterior that starts or comes there gets no gradient that leads
    back: it collapses. The start, 4 dim, has a mean cosine of about 0.9 in every dimension; the floor of 1 costs
    1 / (2 dim) nats where the posterior is to be uniform.

    :param dim: ambient dimension m of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.features = dim, dim + 1

    def forward(self, h: Tensor) -> VonMisesFisher:
        return VonMisesFisher(*_sphere_parameters(self, h))


class PowerSphericalHead(nn.Module):
    """q(z | h) = PowerSpherical(loc, concentration) on S^{dim-1}; parameters as in :class:`VonMisesFisherHead`.

    :param dim: ambient dimension m of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.features = dim, dim + 1

    def forward(self, h: Tensor) -> PowerSpherical:
        return PowerSpherical(*_sphere_parameters(self, h))


def _sphere_parameters(head: Any, h: Tensor) -> tuple[Tensor, Tensor]:
    direction, log_concentration = _split(head, h, (head.dim, 1))
    return direction / direction.norm(dim=-1, keepdim=True), 1 + 4 * head.dim * log_concentration.squeeze(-1).exp()


class HyperbolicNormalHead(nn.Module):
    """q(z | h) = WrappedNormal(exp_o(s loc), s scale) on hyperbolic space H^{dim-1}, its scale exp of a feature.

    :param dim: ambient dimension m of z: 3 is the hyperbolic plane.
    :param prior_scale: s, the scale of the prior, in which the features count.
    """

    @records_options
    def __init__(self, dim: int, prior_scale: float = 1.0):
        super().__init__()
        self.dim, self.prior_scale, self.features = dim, prior_scale, 2 * (dim - 1)

    def forward(self, h: Tensor) -> WrappedNormal:
        loc, log_scale = _split(self, h, (self.dim - 1, self.dim - 1))
        return WrappedNormal(Hyperboloid(), from_origin(self.prior_scale * loc), self.prior_scale * log_scale.exp())


class DeltaHead(nn.Module):
    """q(z | h) = delta(z - h) on R^dim: a deterministic encoder, as in the Wasserstein auto-encoder.

    :param dim: dimension of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim = self.features = dim

    def forward(self, h: Tensor) -> Delta:
        return Delta(_split(self, h, (self.dim,))[0], event_dim=1)


class SphericalDeltaHead(nn.Module):
    """q(z | h) = delta(z - h / |h|) on the sphere S^{dim-1} in R^dim: a deterministic encoder.

    :param dim: ambient dimension m of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim = self.features = dim

    def forward(self, h: Tensor) -> Delta:
        (direction,) = _split(self, h, (self.dim,))
        return Delta(direction / direction.norm(dim=-1, keepdim=True), event_dim=1)


class UnimodalBetaHead(nn.Module):
    """q(z | h) = a product of Beta laws on [0, 1]^dim, each with its mode at sigmoid of a feature.

    With n = exp of another feature and the mode m it is Beta(1 + n m, 1 + n (1 - m)), which is never infinite.

    :param dim: dimension of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.features = dim, 2 * dim

    def forward(self, h: Tensor) -> Independent:
        mode, log_n = _split(self, h, (self.dim, self.dim))
        n = log_n.exp()
        return UnimodalBeta(n * mode.sigmoid(), n * (-mode).sigmoid()).to_event(1)


class UnrolledCircleHead(nn.Module):
    """q(z | h) on [0, 1)^dim: a von Mises-Fisher law of an angle for each coordinate, in turns, across the seam where 0
    and 1 meet. The concentration is 2 * exp of a feature, as in :class:`VonMisesFisherHead`.

    :param dim: dimension of z; what reads z is to be periodic in each coordinate.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.features = dim, 3 * dim

    def forward(self, h: Tensor) -> Independent:
        direction, log_concentration = _split(self, h, (2 * self.dim, self.dim))
        direction = direction.unflatten(-1, (self.dim, 2))
        direction = direction / direction.norm(dim=-1, keepdim=True)
        return UnrolledCircle(VonMisesFisher(direction, 2 * log_concentration.exp())).to_event(1)
