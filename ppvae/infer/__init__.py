"""Objectives and effect handlers: they see traces and know no VAE."""

from ppvae.infer.elbo import ELBO, TensorELBO
from ppvae.infer.handlers import CenterMessenger
from ppvae.infer.iwae import IWAE_ELBO

__all__ = ["ELBO", "CenterMessenger", "IWAE_ELBO", "TensorELBO"]
