"""What a sampler returns, and what samplers ask of a VAE."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ppvae.predict import decode
from ppvae.samplers.space import Space
from ppvae.vae import VAE


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


def samples(vae: VAE, space: Space, z: Tensor, *given: Any) -> Samples:
    """Latents in one vector each, and what they decode to."""
    parts = space.split(z)
    x = decode(vae, parts, *given).cpu().numpy()
    if isinstance(parts, dict):
        return Samples(x, {name: part.cpu().numpy() for name, part in parts.items()})
    return Samples(x, parts.cpu().numpy())
