"""What a sampler returns, and what samplers ask of a VAE."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ppvae.infer.sites import latents, manifold_of
from ppvae.inputs import check_finite, to_tensors
from ppvae.manifolds import Euclidean
from ppvae.predict import encode
from ppvae.vae import VAE, first_traces


@dataclass(frozen=True)
class Samples:
    """Data generated from latents, and the latents.

    :param x: the mean of p(x | z) at each latent, shape (n, *shape).
    :param z: the latents, shape (n, *event), or a dict of such arrays where there are several sites.
    :param chains: the ``pyro.infer.MCMC`` that drew the latents, for diagnosis; None where they are independent draws.
    """

    x: np.ndarray
    z: np.ndarray | dict[str, np.ndarray]
    chains: Any = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        z = self.z if isinstance(self.z, dict) else {"z": self.z}
        latent = ", ".join(f"{name} {value.shape}" for name, value in z.items())
        how = "independent draws" if self.chains is None else f"{getattr(self.chains, 'num_chains', 1)} chains"
        return f"Samples(x {self.x.shape}, {latent}; {how})"


def embeddings(vae: VAE, data: Any, sampler: str) -> Tensor:
    """The centres of q(z | x) of the data, shape (n, dim), of a VAE whose only latent is a vector of R^dim.

    :param data: x, or a tuple (x, *given).
    :param sampler: the name of the sampler that asks, for the message.
    :raises ValueError: if the latent is not Euclidean, or there are several.
    """
    tensors = to_tensors(vae, data)
    check_finite(tensors[0])
    model_trace, _ = first_traces(vae, tensors)
    sites = {site["name"]: site["fn"] for site in latents(model_trace)}
    flat = [law for law in sites.values() if is_vector_space(law)]
    if len(sites) != 1 or not flat:
        found = ", ".join(f"{name} on {law.support}" for name, law in sites.items())
        raise ValueError(
            f"{sampler}: expected a VAE with one latent, a vector of R^dim, got {type(vae).__name__} with {found}; "
            "prior and aggregate_posterior draw from latents of any kind"
        )
    return encode(vae, *tensors)


def is_vector_space(law: Any) -> bool:
    """Whether the law's points are the vectors of R^d, all of them."""
    manifold = manifold_of(law)
    return isinstance(manifold, Euclidean) and manifold.is_whole and len(law.event_shape) == 1
