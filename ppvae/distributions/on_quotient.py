r"""A law on a quotient M = C / G from one on its cover C: what the law of z says of the orbit [z].

.. math::
    z \sim p_C, \qquad \log p_M([z]) = \log \sum_{g \in G} p_C(g z)

For laws q and p on the cover

.. math::
    \mathrm{KL}(q_M \| p_M) \le \mathrm{KL}(q_C \| p_C), \qquad
    \mathrm{KL}(q_C \| p_C) - \log |G| \le \mathrm{KL}(q_M \| p_M) \; \text{ where p is invariant under G}

The first is that of any map (data processing). In the second q_C <= q_M and p_M = ``|G|`` p_C.

Reference: Riemannian Geometry (do Carmo, 1992), Chapter 8, https://doi.org/10.1007/978-1-4757-2201-7
"""

from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ppvae.distributions.center import center
from ppvae.manifolds.quotient import Quotient

__all__ = ["OnQuotient"]


class OnQuotient(TorchDistribution):
    r"""The law of the orbit of z, z ~ ``base``.

    The density is with respect to the volume of the quotient, total mass vol(C) / ``|G|`` where it is finite. Points
    are points of the cover, any of an orbit: all have one density. Draws and their gradients are those of the base.

    :param base: a law on the cover.
    :param quotient: M, which the law carries as its ``manifold``.
    :raises ValueError: for a base whose points are none of the cover, and, where arguments are validated, for a value
        off it.

    >>> import torch
    >>> from ppvae.distributions import HypersphericalUniform
    >>> from ppvae.manifolds import quotient
    >>> law = OnQuotient(HypersphericalUniform(3), quotient("projective"))
    >>> 1 / law.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp()  # half the area of the sphere
    tensor(6.2832)
    """

    arg_constraints: dict[str, Constraint] = {}

    def __init__(self, base: Distribution, quotient: Quotient, validate_args: bool | None = None):
        if len(base.event_shape) != quotient.support.event_dim:
            raise ValueError(
                f"expected a law on the cover {type(quotient.base).__name__}, whose points have "
                f"{quotient.support.event_dim} axes, got a {type(base).__name__} of event_shape "
                f"{tuple(base.event_shape)}; to_event(1) makes an event of a dimension of a batch"
            )
        self.base, self.manifold = base, quotient
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """The points of the cover."""
        return self.manifold.support

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch declares an attribute; here the base decides
        """Whether the base has pathwise gradients."""
        return self.base.has_rsample

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(OnQuotient, _instance)
        new.base, new.manifold = self.base.expand(Size(batch_shape)), self.manifold
        super(OnQuotient, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Points of shape ``sample_shape + batch_shape + event_shape``, with the gradients of the base."""
        return self.base.rsample(Size(sample_shape))

    def sample(self, sample_shape=Size()) -> Tensor:
        """Points without gradient."""
        return self.base.sample(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p_M in nats, shape ``(...)`` for points ``(..., *event)``, the same for all points of an orbit."""
        if self._validate_args:
            self._validate_sample(value)
        missing = len(self.batch_shape) + len(self.event_shape) - value.dim()
        value = value.reshape(*[1] * missing, *value.shape)  # so that the orbit is on the left of the batch
        return self.base.log_prob(self.manifold.orbit(value)).logsumexp(0)


@center.register
def _(law: OnQuotient) -> Tensor:
    return center(law.base)
