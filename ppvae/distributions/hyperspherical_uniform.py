r"""The uniform distribution on the unit sphere S^{m-1} in R^m.

.. math::
    p(z) = \frac{\Gamma(m/2)}{2 \pi^{m/2}}, \qquad z = \frac{x}{|x|}, \quad x \sim N(0, I_m)

References:
    [1] A note on a method for generating points uniformly on n-dimensional spheres (Muller, 1959)
        https://doi.org/10.1145/377939.377946
    [2] Directional Statistics (Mardia & Jupp, 2000)
        https://doi.org/10.1002/9780470316979
"""

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions.constraints import Constraint
from torch.distributions.kl import register_kl

from ppvae.manifolds.sphere import log_area, sphere

__all__ = ["HypersphericalUniform"]


class HypersphericalUniform(TorchDistribution):
    r"""Uniform distribution on the unit vectors of R^m: the prior p(z) of a spherical latent.

    The density is with respect to the surface measure of S^{m-1}, whose total mass is :math:`2 \pi^{m/2} /
    \Gamma(m/2)`: 2 pi on the circle (m = 2), 4 pi on the sphere (m = 3). The law has no parameters, so dtype
    and device are its own.

    :param dim: ambient dimension m >= 2 of the vectors; the sphere has dimension m - 1.
    :param batch_shape: shape of independent copies.
    :param dtype: floating dtype of the samples, torch's default if None.
    :param device: device of the samples, torch's default if None.
    :raises ValueError: if ``dim`` < 2 or the dtype is not floating. With validated arguments also for a value off the
        sphere.

    >>> law = HypersphericalUniform(3)
    >>> print(f"{law.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp():.4f}")  # 1 / (4 pi)
    0.0796
    """

    arg_constraints: dict[str, Constraint] = {}
    support = sphere
    has_rsample = True

    def __init__(self, dim: int, batch_shape=(), dtype=None, device=None, validate_args=None):
        if dim < 2:
            raise ValueError(f"expected an ambient dimension dim >= 2 (dim = 2 is the circle), got {dim}")
        self.dim = dim
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        if not self.dtype.is_floating_point:
            raise ValueError(f"expected a floating dtype such as torch.float32, got {self.dtype}")
        self.device = device
        super().__init__(Size(batch_shape), Size((dim,)), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(HypersphericalUniform, _instance)
        new.dim, new.dtype, new.device = self.dim, self.dtype, self.device
        super(HypersphericalUniform, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E z = 0, a point of R^m off the sphere, shape ``batch_shape + (m,)``."""
        return torch.zeros(self._extended_shape(), dtype=self.dtype, device=self.device)

    @property
    def variance(self) -> Tensor:
        """Var z_i = 1 / m of each coordinate, shape ``batch_shape + (m,)``."""
        return torch.full(self._extended_shape(), 1 / self.dim, dtype=self.dtype, device=self.device)

    def rsample(self, sample_shape=()) -> Tensor:
        """Normalised standard normal vectors, shape ``sample_shape + batch_shape + (m,)``."""
        x = torch.randn(self._extended_shape(Size(sample_shape)), dtype=self.dtype, device=self.device)
        norm = x.norm(dim=-1, keepdim=True)
        # A draw of zeros, likely only at m = 2 in few bits, has no direction: it becomes e_1.
        e1 = torch.cat([torch.ones_like(x[..., :1]), torch.zeros_like(x[..., 1:])], -1)
        return torch.where(norm > 0, x / torch.where(norm > 0, norm, 1), e1)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The constant :math:`-\log (2 \pi^{m/2} / \Gamma(m/2))` in nats for points ``(..., m)``."""
        if self._validate_args:
            self._validate_sample(value)
        return value.new_full(torch.broadcast_shapes(value.shape[:-1], self.batch_shape), -log_area(self.dim))

    def entropy(self) -> Tensor:
        """The logarithm of the sphere's area in nats, shape ``batch_shape``: the largest entropy there is."""
        return torch.full(self.batch_shape, log_area(self.dim), dtype=self.dtype, device=self.device)


@register_kl(HypersphericalUniform, HypersphericalUniform)
def _kl_uniform_uniform(p: HypersphericalUniform, q: HypersphericalUniform) -> Tensor:
    if p.dim != q.dim:
        raise ValueError(f"expected uniform laws on one sphere, got ambient dimensions {p.dim} and {q.dim}")
    return torch.zeros(torch.broadcast_shapes(p.batch_shape, q.batch_shape), dtype=p.dtype, device=p.device)
