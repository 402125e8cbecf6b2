"""What a sampler returns, and what samplers ask of a VAE."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppvae.arrays import VAE, check_finite, evaluating, own_store, to_tensors
from ppvae.infer.elbo import latents
from ppvae.predict import encode
from ppvae.random import seeded


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


def check_count(num_samples: int) -> None:
    """Raise a ValueError if no samples are asked for."""
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}")


def embeddings(vae: VAE, data: Any, sampler: str) -> Tensor:
    """The centres of q(z | x) of the data, shape (n, dim), of a VAE whose only latent is a vector of R^dim.

    :param data: x, or a tuple (x, *given).
    :param sampler: the name of the sampler that asks, for the message.
    :raises ValueError: if the latent is not Euclidean, or there are several.
    """
    tensors = to_tensors(vae, data)
    check_finite(tensors[0])
    with own_store(), evaluating(vae), torch.no_grad(), seeded(0):
        one = tuple(tensor[:1] for tensor in tensors)
        guide_trace = poutine.trace(vae.guide).get_trace(*one)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*one)
    sites = {site["name"]: site["fn"].support for site in latents(model_trace)}
    flat = [support for support in sites.values() if _is_vector_space(support)]
    if len(sites) != 1 or not flat:
        found = ", ".join(f"{name} on {support}" for name, support in sites.items())
        raise ValueError(
            f"{sampler}: expected a VAE with one latent, a vector of R^dim, got {type(vae).__name__} with {found}; "
            "prior and aggregate_posterior draw from latents of any kind"
        )
    return encode(vae, *tensors)


def _is_vector_space(support: Any) -> bool:
    return (
        isinstance(support, constraints.independent)
        and isinstance(support.base_constraint, type(constraints.real))
        and support.event_dim == 1
    ) or support is constraints.real_vector
