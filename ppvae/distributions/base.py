"""What a law is beneath its wrappers."""

from typing import Any

from pyro.distributions import Delta, ExpandedDistribution, MaskedDistribution
from torch.distributions import Independent

__all__ = ["base_law", "base_support", "is_deterministic"]


def base_law(law: Any) -> Any:
    """The law without the wrappers that say which dimensions belong to an event, which data count, and how many.

    >>> import pyro.distributions as dist
    >>> base_law(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    Normal(loc: torch.Size([3]), scale: torch.Size([3]))
    """
    while isinstance(law, (Independent, MaskedDistribution, ExpandedDistribution)):
        law = law.base_dist
    return law


def base_support(support: Any) -> Any:
    """The constraint on the smallest part of an event: ``real`` of ``independent(real, 2)``.

    >>> from torch.distributions import constraints
    >>> base_support(constraints.real_vector)
    Real()
    """
    while hasattr(support, "base_constraint"):  # of independent coordinates, and of a mixture's components
        support = support.base_constraint
    return support


def is_deterministic(law: Any) -> bool:
    """Whether the law is a point mass, which has no density with respect to a volume.

    >>> import torch
    >>> import pyro.distributions as dist
    >>> import torch
    >>> is_deterministic(dist.Delta(torch.zeros(2)).to_event(1)), is_deterministic(dist.Normal(0.0, 1.0))
    (True, False)
    """
    while hasattr(law, "base_dist"):
        law = law.base_dist
    return isinstance(law, Delta)
