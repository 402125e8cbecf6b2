r"""Embeddings with jitter: a kernel density of the embeddings,

.. math::
    z = \mu(x_i) + s \, \epsilon, \qquad \epsilon \sim N(0, I),

the plainest sampler that stays near the data, and so the baseline of every cleverer one.
"""

from typing import Any

import torch

from ppvae.inputs import integer, to_tensors
from ppvae.predict import decode
from ppvae.random import seeded
from ppvae.samplers.samples import Samples, embeddings
from ppvae.vae import VAE, check_vae_interface


def jitter(vae: VAE, data: Any, num_samples: int, *, scale: float = 0.5, seed: int | None = None) -> Samples:
    """Draw an embedding, with replacement, and add N(0, scale^2) to each coordinate.

    Of a VAE whose model is given more than x, each latent is decoded with what its datum was given.

    :param vae: a VAE with one latent, a vector of R^dim.
    :param data: the data x, shape (n, *vae.shape), or a tuple (x, *given) of arrays.
    :param num_samples: number of draws.
    :param scale: standard deviation s in units of the latent; with 0 the draws are embeddings.
    :param seed: seed of the draws. Without one they come from the global generator and move it.
    :raises ValueError: if the latent is not Euclidean.
    """
    check_vae_interface(vae)
    num_samples = integer("num_samples", num_samples)
    if not scale >= 0:
        raise ValueError(f"scale: expected a standard deviation of at least 0, got {scale}")
    tensors = to_tensors(vae, data)
    mu = embeddings(vae, tensors, "jitter")
    with seeded(seed):
        drawn = torch.randint(mu.shape[0], (num_samples,)).to(mu.device)
        z = mu[drawn]
        z = z + scale * torch.randn_like(z)
    return Samples(decode(vae, z, *(tensor[drawn] for tensor in tensors[1:])).cpu().numpy(), z.cpu().numpy())
