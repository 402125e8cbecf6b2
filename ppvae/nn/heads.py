"""Posterior heads: modules from features to a law, so that a guide reads ``q = self.head(h)``.

A head says how many features it reads, ``head.features``; the encoder ends in that many. :mod:`ppvae.nn.registry` says
on which space the law of each head lives.
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
    """What a VAE needs of a posterior head; one of your own is a few lines.

    >>> import torch
    >>> from pyro.distributions import Laplace
    >>> class LaplaceHead(nn.Module):
    ...     features = 4
    ...     def forward(self, h):
    ...         loc, log_scale = h.chunk(2, -1)
    ...         return Laplace(loc, log_scale.exp()).to_event(1)
    >>> LaplaceHead()(torch.zeros(5, 4)).event_shape
    torch.Size([2])
    """

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
    """q(z | h) = N(loc, scale^2) on R^dim. The scale is exp of a feature.

    >>> import torch
    >>> head = NormalHead(2)
    >>> head.features
    4
    >>> q = head(torch.tensor([1.0, 2.0, 0.0, 0.0]))
    >>> q.mean, q.stddev
    (tensor([1., 2.]), tensor([1., 1.]))

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

    The concentration is 1 + 4 dim exp(a) with a feature a. If it is far below the dimension, a sample hardly depends on
    loc (its mean cosine is about concentration / dim) and no gradient leads back: the posterior collapses. At a = 0 the
    mean cosine is about 0.9 in every dimension. The floor of 1 costs 1 / (2 dim) nats when the posterior should be
    uniform.

    >>> import torch
    >>> q = VonMisesFisherHead(3)(torch.tensor([2.0, 0.0, 0.0, 0.0]))
    >>> q.loc, q.concentration
    (tensor([1., 0., 0.]), tensor(13.))

    :param dim: ambient dimension m of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.features = dim, dim + 1

    def forward(self, h: Tensor) -> VonMisesFisher:
        return VonMisesFisher(*_sphere_parameters(self, h))


class PowerSphericalHead(nn.Module):
    """q(z | h) = PowerSpherical(loc, concentration) on S^{dim-1}, with the parameters of :class:`VonMisesFisherHead`.

    >>> import torch
    >>> q = PowerSphericalHead(3)(torch.tensor([0.0, 2.0, 0.0, 0.0]))
    >>> q.loc, q.concentration
    (tensor([0., 1., 0.]), tensor(13.))

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
    """q(z | h) = WrappedNormal(exp_o(s loc), s scale) on hyperbolic space H^{dim-1}. The scale is exp of a feature.

    >>> import torch
    >>> q = HyperbolicNormalHead(3)(torch.zeros(4))
    >>> q.loc, q.scale
    (tensor([1., 0., 0.]), tensor([1., 1.]))

    :param dim: ambient dimension m of z: 3 is the hyperbolic plane.
    :param prior_scale: s, the scale of the prior, which is the unit of the features.
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

    >>> import torch
    >>> DeltaHead(2)(torch.tensor([3.0, 4.0])).sample()
    tensor([3., 4.])

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

    >>> import torch
    >>> SphericalDeltaHead(2)(torch.tensor([3.0, 4.0])).sample()
    tensor([0.6000, 0.8000])

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
    """q(z | h) = a product of Beta laws on [0, 1]^dim, one for each coordinate.

    The mode m is sigmoid of a feature and n is exp of another: Beta(1 + n m, 1 + n (1 - m)), whose density is bounded.

    >>> import torch
    >>> q = UnimodalBetaHead(1)(torch.zeros(2))  # m = 1/2, n = 1: Beta(3/2, 3/2)
    >>> round(q.log_prob(torch.tensor([0.5])).exp().item() * torch.pi, 4)
    4.0

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
    """q(z | h) = a product of von Mises-Fisher laws of angles, in turns: on [0, 1)^dim, across the seam at 0 = 1.

    The concentration of each angle is 2 exp(.) of a feature.

    >>> import torch
    >>> q = UnrolledCircleHead(1)(torch.tensor([1.0, 0.0, 0.0]))  # centred at the seam
    >>> torch.allclose(q.log_prob(torch.tensor([0.01])), q.log_prob(torch.tensor([0.99])))
    True

    :param dim: dimension of z. What reads z should be periodic in each coordinate, as the embedding of a torus is.
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
