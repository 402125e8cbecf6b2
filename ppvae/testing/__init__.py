"""Checks of laws, manifolds and models, shipped so that users hold their own classes to the library's tests."""

from ppvae.testing.distribution import check_distribution
from ppvae.testing.manifold import check_manifold
from ppvae.testing.vae import check_vae

__all__ = ["check_distribution", "check_manifold", "check_vae"]
