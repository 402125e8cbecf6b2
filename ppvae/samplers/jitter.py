r"""Embeddings with jitter: a kernel density of the embeddings,

.. math::
    z = \exp_{\mu(x_i)} \Bigl( s \sum_j \epsilon_j e_j \Bigr), \qquad \epsilon \sim N(0, I),

with e an orthonormal frame at the embedding; on R^d :math:`z = \mu(x_i) + s \epsilon`. It is the plainest sampler that
stays near the data, and so the baseline of every cleverer one.
"""

from typing import Any

import torch

from ppvae.inputs import integer
from ppvae.manifolds import tangent
from ppvae.random import seeded
from ppvae.samplers.samples import Samples, samples
from ppvae.samplers.space import embeddings
from ppvae.vae import VAE, check_vae_interface


def jitter(vae: VAE, data: Any, num_samples: int, *, scale: float = 0.5, seed: int | None = None) -> Samples:
    """Draw an embedding, with replacement, and move it by N(0, scale^2) in each direction.

    If the model is given more than x, each latent is decoded with what its datum was given.

    :param vae: a VAE with latents on any manifolds.
    :param data: the data x, shape (n, *vae.shape), or a tuple (x, *given) of arrays.
    :param num_samples: number of draws.
    :param scale: standard deviation s in units of the latent, radians on compact spaces; with 0 the draws are
        embeddings.
    :param seed: seed of the draws. Without one they come from the global generator and move it.
    :raises ValueError: if a latent is discrete.
    """
    check_vae_interface(vae)
    num_samples = integer("num_samples", num_samples)
    if not scale >= 0:
        raise ValueError(f"scale: expected a standard deviation of at least 0, got {scale}")
    space, mu, tensors = embeddings(vae, data, "jitter")
    M = space.product
    with seeded(seed):
        drawn = torch.randint(mu.shape[0], (num_samples,)).to(mu.device)
        z = mu[drawn]
        z = M.expmap(z, tangent(M, z, scale * z.new_empty(num_samples, M.intrinsic_dim(z)).normal_()))
    return samples(vae, space, z, *(tensor[drawn] for tensor in tensors[1:]))
