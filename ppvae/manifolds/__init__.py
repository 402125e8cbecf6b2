"""Geometry of the latent spaces: constraint, exponential, logarithm and distance; one file per manifold."""

from ppvae.manifolds.circle import Circle
from ppvae.manifolds.protocol import Manifold
from ppvae.manifolds.so3 import SO3, rotation
from ppvae.manifolds.sphere import Sphere, log_area, rotate_from_pole, sphere
from ppvae.manifolds.torus import Torus

__all__ = ["SO3", "Circle", "Manifold", "Sphere", "Torus", "log_area", "rotate_from_pole", "rotation", "sphere"]
