r"""Shapes of k landmarks in the plane: what is left of them when they are moved, scaled and turned [1].

    p(z)     = Uniform(CP^{k-2})                 total volume pi^(k-2) / (k-2)!
    q(z | x) = TangentNormal(mu(x), diag sigma(x)^2)

References:
    [1] Shape Manifolds, Procrustean Metrics, and Complex Projective Spaces (Kendall, 1984)
        https://doi.org/10.1112/blms/16.2.81
    [2] Statistical Shape Analysis (Dryden and Mardia, 2016), https://doi.org/10.1002/9781119072492
"""

from typing import Any

import pyro
from torch import Tensor, nn

from ppvae.distributions import Uniform
from ppvae.latents.protocol import Encode, law_of
from ppvae.manifolds import ComplexProjective
from ppvae.nn import PosteriorHead, ShapeHead, records_options

__all__ = ["Shape"]


class Shape(nn.Module):
    """z in CP^{k-2}, as vectors of C^{k-1} of length one, (k - 1, 2), their phase left free.

    :func:`ppvae.manifolds.complex_projective.landmarks` makes landmarks of them, and ``preshape`` points of landmarks.

    :param landmarks: k, at least 3.
    :param head: posterior head with values in CP^{k-2}; :class:`ppvae.nn.ShapeHead` by default.
    :param prior: a law of the points, or a module that returns one; uniform by default.
    :raises ValueError: for fewer landmarks.

    >>> Shape(5).reads
    (16,)
    """

    given = ()

    @records_options
    def __init__(self, landmarks: int = 4, head: PosteriorHead | None = None, prior: Any = None):
        super().__init__()
        if landmarks < 3:
            raise ValueError(f"landmarks: expected at least 3, got {landmarks}")
        self.landmarks, self.head, self.prior_law = landmarks, head or ShapeHead(landmarks), prior
        self.features, self.reads = self.head.features, ((landmarks - 1) ** 2,)

    @property
    def manifold(self) -> ComplexProjective:
        """Where z lives."""
        return ComplexProjective()

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z ~ p(z)."""
        uniform = Uniform(self.manifold, (self.landmarks - 1, 2), dtype=like.dtype, device=like.device)
        return pyro.sample(name, uniform if self.prior_law is None else law_of(self.prior_law))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z ~ q(z | h)."""
        return pyro.sample(name, self.head(h))

    def read(self, z: Tensor) -> Tensor:
        """The (k - 1)^2 real numbers of (k - 1) z z^*, which no turn changes, of size 1 under the prior."""
        return (self.landmarks - 1) * self.manifold.embed(z)
