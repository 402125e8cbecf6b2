"""Pyro laws on manifolds, one family a file. Densities are with respect to the Riemannian volume."""

from ppvae.distributions.center import center
from ppvae.distributions.hyperspherical_uniform import HypersphericalUniform
from ppvae.distributions.power_spherical import PowerSpherical
from ppvae.distributions.so3_uniform import SO3Uniform
from ppvae.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "HypersphericalUniform",
    "PowerSpherical",
    "SO3Uniform",
    "VonMisesFisher",
    "center",
]
