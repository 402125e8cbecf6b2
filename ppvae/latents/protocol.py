"""What a latent is: one object that samples its site in the model and in the guide."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.distributions.constraints import Constraint

__all__ = ["Encode", "Latent", "law_of"]

#: From what the encoder reads, (k, *shape), to a latent's slice of its features, (k, features).
Encode = Callable[[Tensor], Tensor]


class Latent(Protocol):
    """A latent space with its prior and its posterior family: a torch module that owns neither encoder nor decoder.

    Sites are sampled under ``name``, and further ones under names that begin with it (``name_c``), so that two latents
    of one kind do not collide.
    """

    features: int  #: how many numbers the latent needs of an encoder
    reads: tuple[int, ...]  #: shape of what a decoder gets
    given: tuple[Constraint, ...]  #: what the latent is given beside x, such as labels

    @property
    def manifold(self) -> Any:
        """Where z lives, a :class:`ppvae.manifolds.Manifold`."""
        ...

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """Sample z in the model.

        :param like: a tensor of the dtype and device of the model.
        :param encode: the encoder, for a prior that is made of posteriors.
        """
        ...

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """Sample z in the guide, from features (..., features)."""
        ...

    def read(self, z: Tensor) -> Tensor:
        """What the decoder reads of points z: (..., \\*event) to (..., \\*reads)."""
        ...


def law_of(prior: Any) -> Any:
    """The law of a prior of the user's: a law as it is, or what a module without arguments returns."""
    return prior if hasattr(prior, "log_prob") else prior()
