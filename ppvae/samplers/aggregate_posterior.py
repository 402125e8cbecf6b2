r"""The aggregate posterior: the law of the latents of the data,

.. math::
    q(z) = \frac1N \sum_i q(z \mid x_i),

which is drawn from exactly: a datum at random, then a latent of it.

Reference: ELBO surgery (Hoffman and Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
"""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.infer.sites import data_first, latents
from ppvae.inputs import check_finite, integer, to_tensors
from ppvae.predict import decode
from ppvae.samplers.samples import Samples
from ppvae.vae import VAE, check_vae_interface, quiet


def aggregate_posterior(
    vae: VAE, data: Any, num_samples: int, *, seed: int | None = None, batch_size: int = 4096
) -> Samples:
    """Draw a datum, with replacement, and a latent from its q(z | x).

    Of a VAE whose model is given more than x, each latent is decoded with what its datum was given.

    :param vae: a VAE with latents of any kind.
    :param data: the data x, shape (n, *vae.shape), or a tuple (x, *given) of arrays.
    :param num_samples: number of draws.
    :param seed: seed of the draws. Without one they come from the global generator and move it.
    """
    check_vae_interface(vae)
    num_samples, batch_size = integer("num_samples", num_samples), integer("batch_size", batch_size)
    tensors = to_tensors(vae, data)
    check_finite(tensors[0])
    parts: dict[str, list[Tensor]] = {}
    with quiet(vae, seed):
        drawn = torch.randint(tensors[0].shape[0], (num_samples,)).to(tensors[0].device)
        for rows in drawn.split(batch_size):
            for site in latents(poutine.trace(vae.guide).get_trace(*(tensor[rows] for tensor in tensors))):
                parts.setdefault(site["name"], []).append(data_first(site))
    z = {name: torch.cat(values).cpu().numpy() for name, values in parts.items()}
    x = decode(vae, z, *(tensor[drawn] for tensor in tensors[1:]), batch_size=batch_size)
    return Samples(x, next(iter(z.values())) if len(z) == 1 else z)
