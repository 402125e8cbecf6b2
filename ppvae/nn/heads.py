"""Posterior heads: modules from features to a distribution, so a guide reads ``q = self.head(h)``.

A head says how many features it needs, ``head.features``; the encoder ends in that many.
"""

from pyro.distributions import Delta, Independent, Normal
from torch import Tensor, nn

from ppvae.distributions import PowerSpherical, VonMisesFisher
from ppvae.nn.registration import records_options


def _split(head: nn.Module, h: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
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

    The concentration is dim * exp of a feature. For a concentration far below the dimension a sample hardly depends on
    loc (its mean cosine is about concentration / dim), and a posterior that starts there collapses in high dimension.

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


def _sphere_parameters(head: nn.Module, h: Tensor) -> tuple[Tensor, Tensor]:
    direction, log_concentration = _split(head, h, (head.dim, 1))
    return direction / direction.norm(dim=-1, keepdim=True), head.dim * log_concentration.squeeze(-1).exp()


class DeltaHead(nn.Module):
    """q(z | h) = delta(z - h) on R^dim: a deterministic encoder, as in the Wasserstein auto-encoder.

    :param dim: dimension of z.
    """

    @records_options
    def __init__(self, dim: int):
        super().__init__()
        self.dim = self.features = dim

    def forward(self, h: Tensor) -> Delta:
        return Delta(*_split(self, h, (self.dim,)), event_dim=1)


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
