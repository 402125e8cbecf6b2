"""Checks of laws, manifolds, latents and models, shipped so that users hold theirs to the library's tests."""

from ppvae.testing.distribution import check_distribution
from ppvae.testing.latent import check_latent
from ppvae.testing.manifold import check_manifold
from ppvae.testing.vae import check_vae

__all__ = ["check_distribution", "check_latent", "check_manifold", "check_vae"]
