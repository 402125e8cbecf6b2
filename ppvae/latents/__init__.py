"""Latents: one object for each space, that samples its site in the model and in the guide; they multiply."""

from typing import TYPE_CHECKING

from ppvae.lazy import attach

if TYPE_CHECKING:
    from ppvae.latents.box import Box
    from ppvae.latents.cylinder import Cylinder
    from ppvae.latents.gaussian import Gaussian
    from ppvae.latents.hyperbolic import Hyperbolic
    from ppvae.latents.mixture import GaussianMixture
    from ppvae.latents.protocol import Latent
    from ppvae.latents.quotient import Quotient
    from ppvae.latents.rotation import Rotation
    from ppvae.latents.shape import Shape
    from ppvae.latents.spherical import Spherical
    from ppvae.latents.torus import Torus
    from ppvae.latents.vamp import Vamp
    from ppvae.latents.words import from_words
else:
    __getattr__, __dir__ = attach(__name__)

__all__ = [
    "Box",
    "Cylinder",
    "Gaussian",
    "GaussianMixture",
    "Hyperbolic",
    "Latent",
    "Quotient",
    "Rotation",
    "Shape",
    "Spherical",
    "Torus",
    "Vamp",
    "from_words",
]
