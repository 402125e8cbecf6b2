"""The prior: ancestral sampling, z ~ p(z), x = E p(x | z)."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.infer import PriorMessenger
from ppvae.infer.sites import data_first, latents
from ppvae.inputs import integer, to_tensors
from ppvae.predict import decode
from ppvae.samplers.samples import Samples
from ppvae.vae import VAE, device_and_dtype, first_traces, quiet


def prior(vae: VAE, num_samples: int, *given: Any, seed: int | None = None, batch_size: int = 4096) -> Samples:
    """Draw from the prior: the data of ``ppvae.generate`` with the same seed, and their latents.

    :param vae: a VAE with latents of any kind.
    :param num_samples: number of draws n.
    :param given: what the model is conditioned on, n rows each.
    :param seed: seed of the draws. Without one they come from the global generator and move it.
    """
    num_samples, batch_size = integer("num_samples", num_samples), integer("batch_size", batch_size)
    device, dtype = device_and_dtype(vae)
    blank = torch.zeros((num_samples, *vae.shape), dtype=dtype, device=device)
    data = to_tensors(vae, (blank, *given))
    parts: dict[str, list[Tensor]] = {}
    names = [site["name"] for site in latents(first_traces(vae, data)[0])]
    with quiet(vae, seed):
        for start in range(0, num_samples, batch_size):
            with PriorMessenger(names, poutine.Trace()) as drawn:
                vae.model(*(tensor[start : start + batch_size] for tensor in data))
            for name in names:
                parts.setdefault(name, []).append(data_first(drawn.sites[name]))
    z = {name: torch.cat(values).cpu().numpy() for name, values in parts.items()}
    return Samples(decode(vae, z, *given, batch_size=batch_size), next(iter(z.values())) if len(z) == 1 else z)
