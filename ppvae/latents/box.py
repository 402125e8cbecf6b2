r"""Points of an embedded manifold f([0, 1]^n) by their place in the box: embedding reparameterisation [1].

    p(z_hid)     = Uniform([0, 1]^n)
    q(z_hid | x) = a law of each side: Beta with one mode, or one of the circle where the ends are glued
    read(z_hid)  = f(z_hid)

The site holds z_hid. Where f is periodic along a side, ``glued`` takes the two ends of it for one point, and the
posterior can lie on both sides of the seam.

Reference: [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
(Golikov and Kretov, 2018), https://arxiv.org/abs/1812.05769
"""

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from ppvae import manifolds
from ppvae.distributions import ProductLaw, Uniform
from ppvae.latents.protocol import Encode
from ppvae.manifolds.embeddings import Embedding
from ppvae.nn import BoxHead, PosteriorHead, UnimodalBetaHead, UnrolledCircleHead, records_options

__all__ = ["Box"]


class Box(nn.Module):
    """z_hid in [0, 1]^n, read as f(z_hid).

    :param embedding: f, e.g. ``CircleEmbedding()``; its parameters, where it has any, are frozen.
    :param head: posterior head with values in [0, 1]^n; by default a Beta law on each open side, and a von Mises-Fisher
        law on each glued one.
    :param glued: whether the ends of a side are one point: one answer for all, or one for each side; where not given,
        as the head has them, and open without a head.
    :raises ValueError: where ``glued`` does not fit the embedding.

    >>> from ppvae.manifolds.embeddings import TorusEmbedding
    >>> Box(TorusEmbedding(), glued=True).reads
    (3,)
    """

    given = ()

    @records_options
    def __init__(
        self, embedding: Embedding, head: PosteriorHead | None = None, glued: bool | Sequence[bool] | None = None
    ):
        super().__init__()
        self.embedding, self.dim = embedding, embedding.dim
        if isinstance(embedding, nn.Module):
            embedding.requires_grad_(False)
        if glued is None:
            glued = getattr(head, "glued", isinstance(head, UnrolledCircleHead))
        sides = [glued] * self.dim if isinstance(glued, bool) else [bool(side) for side in glued]
        if len(sides) != self.dim:
            raise ValueError(
                f"glued: expected one answer, or one for each of the {self.dim} sides of the box, got {len(sides)}"
            )
        self.head: PosteriorHead = head or _head(sides)
        self.manifold = manifolds.Box(glued=tuple(sides))
        self.features, self.reads = self.head.features, (embedding.ambient,)

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """z_hid ~ Uniform([0, 1]^n)."""
        return pyro.sample(name, Uniform(self.manifold, (self.dim,), dtype=like.dtype, device=like.device))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """z_hid ~ q(z_hid | h)."""
        law = self.head(h)
        # Laws of numbers in an interval do not know whether its ends are one point: this one says so.
        return pyro.sample(name, law if hasattr(law, "manifold") else ProductLaw([law], self.manifold))

    def read(self, z: Tensor) -> Tensor:
        """f(z_hid)."""
        return self.embedding(z)


def _head(sides: list[bool]) -> PosteriorHead:
    if all(sides):
        return UnrolledCircleHead(len(sides))
    return BoxHead(sides) if any(sides) else UnimodalBetaHead(len(sides))
