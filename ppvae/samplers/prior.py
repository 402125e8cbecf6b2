"""The prior: ancestral sampling, z ~ p(z), x = E p(x | z)."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.arrays import VAE, check_pair, evaluating, home, own_store, to_tensors
from ppvae.infer import PriorMessenger
from ppvae.infer.elbo import latents
from ppvae.predict import decode
from ppvae.random import seeded
from ppvae.samplers.samples import Samples, check_count


def prior(vae: VAE, num_samples: int, *given: Any, seed: int | None = None, batch_size: int = 4096) -> Samples:
    """Draw from the prior: the data of ``ppvae.generate`` with the same seed, and their latents.

    :param vae: a VAE with latents of any kind.
    :param num_samples: number of draws n.
    :param given: what the model is conditioned on, n rows each.
    :param seed: seed of the draws; where None the global generator is used and moved.
    """
    check_pair(vae)
    check_count(num_samples)
    device, dtype = home(vae)
    blank = torch.zeros((num_samples, *vae.shape), dtype=dtype, device=device)
    data = to_tensors(vae, (blank, *given))
    parts: dict[str, list[Tensor]] = {}
    with own_store(), evaluating(vae), torch.no_grad():
        with seeded(0):
            names = [site["name"] for site in latents(poutine.trace(vae.model).get_trace(*(t[:1] for t in data)))]
        with seeded(seed):
            for start in range(0, num_samples, batch_size):
                with PriorMessenger(names, poutine.Trace()) as drawn:
                    vae.model(*(tensor[start : start + batch_size] for tensor in data))
                for name in names:
                    parts.setdefault(name, []).append(drawn.sites[name]["value"])
    z = {name: torch.cat(values).cpu().numpy() for name, values in parts.items()}
    return Samples(decode(vae, z, *given, batch_size=batch_size), next(iter(z.values())) if len(z) == 1 else z)
