r"""The joint law of independent parts, one after the other in one vector.

.. math::
    p(z) = \prod_j p_j(z_j), \qquad H = \sum_j H_j, \qquad \mathrm{KL}(q \| p) = \sum_j \mathrm{KL}(q_j \| p_j)

A model that samples a site for each part needs none. It is for spaces that are one manifold to what comes after: the
cylinder, whose quotient is the Moebius strip, and a box with some of its sides glued.

Reference: Directional Statistics (Mardia and Jupp, 2000), https://doi.org/10.1002/9780470316979
"""

import math
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, kl_divergence
from torch.distributions.constraints import Constraint
from torch.distributions.kl import register_kl

from ppvae.distributions.center import center
from ppvae.manifolds.protocol import Manifold

__all__ = ["ProductLaw"]


class ProductLaw(TorchDistribution):
    r"""The law of (z_1, ..., z_k), the parts flattened, z_j ~ ``laws[j]`` independent.

    The density is with respect to the product of the measures of the parts, whose total masses multiply.

    :param laws: a law for each part; their batch shapes broadcast.
    :param manifold: the space of the vector: a :class:`ppvae.manifolds.Product` or, of laws of single
        numbers, a :class:`ppvae.manifolds.Box`; the law carries it as ``manifold``.
    :raises ValueError: where there is no law, and, where arguments are validated, for a value off the manifold.

    >>> import pyro.distributions as dist
    >>> from ppvae.distributions import VonMisesFisher
    >>> from ppvae.manifolds import Circle, Euclidean, Product
    >>> direction = VonMisesFisher(torch.tensor([1.0, 0.0]), torch.tensor(2.0))
    >>> height = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    >>> law = ProductLaw([direction, height], Product([Circle(), Euclidean()], [(2,), (1,)]))
    >>> law.event_shape
    torch.Size([3])
    """

    arg_constraints: dict[str, Constraint] = {}

    def __init__(self, laws: Sequence[Distribution], manifold: Manifold, validate_args: bool | None = None):
        if not laws:
            raise ValueError("laws: expected at least one part")
        batch_shape = torch.broadcast_shapes(*(law.batch_shape for law in laws))
        self.laws, self.manifold = [law.expand(batch_shape) for law in laws], manifold
        self.sizes = [math.prod(law.event_shape) for law in laws]
        super().__init__(batch_shape, Size([sum(self.sizes)]), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """The points of the manifold."""
        return self.manifold.support

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch declares an attribute; here the parts decide
        """Whether all parts have pathwise gradients."""
        return all(law.has_rsample for law in self.laws)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(ProductLaw, _instance)
        new.laws, new.manifold, new.sizes = [law.expand(batch_shape) for law in self.laws], self.manifold, self.sizes
        super(ProductLaw, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        each = zip(self.laws, parts, self.sizes, strict=True)
        return torch.cat([z.reshape(*z.shape[: z.dim() - len(law.event_shape)], size) for law, z, size in each], -1)

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Vectors of shape ``sample_shape + batch_shape + event_shape``, with the gradients of the parts."""
        return self._join([law.rsample(Size(sample_shape)) for law in self.laws])

    def sample(self, sample_shape=Size()) -> Tensor:
        """Vectors without gradient."""
        return self._join([law.sample(Size(sample_shape)) for law in self.laws])

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum over the parts in nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        parts = zip(self.laws, value.split(self.sizes, -1), strict=True)
        terms = [law.log_prob(z.reshape(*z.shape[:-1], *law.event_shape)) for law, z in parts]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    def entropy(self) -> Tensor:
        """The sum over the parts in nats, shape ``batch_shape``."""
        return torch.stack([law.entropy() for law in self.laws]).sum(0)


@center.register
def _(law: ProductLaw) -> Tensor:
    return law._join([center(part) for part in law.laws])


@register_kl(ProductLaw, ProductLaw)
def _kl_product_product(q: ProductLaw, p: ProductLaw) -> Tensor:
    if q.sizes != p.sizes:
        raise ValueError(f"expected laws of the same parts, got parts of {q.sizes} and {p.sizes} numbers")
    terms = [kl_divergence(a, b) for a, b in zip(q.laws, p.laws, strict=True)]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)
