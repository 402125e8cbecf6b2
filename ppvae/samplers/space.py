"""The space of all latents of a VAE: the product of the manifolds of its sites."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor

from ppvae.infer.sites import data_first, in_data_plate, latents, manifold_of
from ppvae.inputs import check_finite, to_tensors
from ppvae.manifolds import Manifold, Product
from ppvae.predict import encode
from ppvae.vae import VAE, first_traces


@dataclass(frozen=True)
class Space:
    """The latents of a VAE by site, and their product, in which a point is one vector.

    :param manifolds: the manifold of each site.
    :param shapes: the shape of a point of each.
    """

    manifolds: Mapping[str, Manifold]
    shapes: Mapping[str, Size]

    @property
    def product(self) -> Product:
        """The product of the manifolds."""
        return Product(list(self.manifolds.values()), list(self.shapes.values()))

    def join(self, z: Any) -> Tensor:
        """Latents as ``encode`` returns them, in one vector each: (n, N)."""
        parts = z if isinstance(z, Mapping) else dict.fromkeys(self.manifolds, z)
        return self.product.join([torch.as_tensor(parts[name]) for name in self.manifolds])

    def split(self, z: Tensor) -> Any:
        """The inverse of :meth:`join`: an array, or a dict of arrays by site where there are several."""
        parts = dict(zip(self.manifolds, self.product.split(z), strict=True))
        return parts if len(parts) > 1 else next(iter(parts.values()))


def space_of(vae: VAE, data: tuple[Tensor, ...], asks: str) -> Space:
    """The space of the latents.

    :param data: the batch ``(x, *given)`` as tensors of the VAE.
    :param asks: who asks, for the message.
    :raises ValueError: if a latent is discrete, on no manifold of ppvae or outside the data plate, or there is none.
    """
    model_trace, _ = first_traces(vae, data)
    manifolds, shapes = {}, {}
    for site in latents(model_trace):
        name, law = site["name"], site["fn"]
        manifold = manifold_of(law)
        if manifold is None or not in_data_plate(site):
            why = (
                "it is outside the data plate" if manifold is not None else f"its support {law.support} is no manifold"
            )
            raise ValueError(
                f"{asks}: expected latents on manifolds, got site {name!r}: {why}; prior and aggregate_posterior draw "
                "from latents of any kind"
            )
        manifolds[name], shapes[name] = manifold, data_first(site).shape[1:]
    if not manifolds:
        raise ValueError(f"{asks}: expected a VAE with a latent, got none")
    return Space(manifolds, shapes)


def embeddings(vae: VAE, data: Any, asks: str) -> tuple[Space, Tensor, tuple[Tensor, ...]]:
    """The space of the latents, the centres of q(z | x) of the data in one vector each, and the data as tensors.

    :param data: x, or a tuple (x, *given).
    """
    tensors = to_tensors(vae, data)
    check_finite(tensors[0])
    space = space_of(vae, tensors, asks)
    return space, space.join(encode(vae, *tensors)), tensors
