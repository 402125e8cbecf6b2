"""Pyro laws on manifolds, one family a file. Densities are with respect to the Riemannian volume."""

from ppvae.distributions.center import center
from ppvae.distributions.embedded_pushforward import EmbeddedPushforward
from ppvae.distributions.frame_average import FrameAverage
from ppvae.distributions.gaussian_mixture import GaussianMixture
from ppvae.distributions.hamiltonian import HamiltonianFlow
from ppvae.distributions.hyperspherical_uniform import HypersphericalUniform
from ppvae.distributions.inverse_autoregressive import InverseAutoregressive
from ppvae.distributions.isotropic_gaussian_so3 import IsotropicGaussianSO3
from ppvae.distributions.matrix_fisher import MatrixFisher
from ppvae.distributions.mixture import Mixture
from ppvae.distributions.on_quotient import OnQuotient
from ppvae.distributions.power_spherical import PowerSpherical
from ppvae.distributions.product_law import ProductLaw
from ppvae.distributions.so3_pushforward import SO3Normal, SO3Pushforward
from ppvae.distributions.so3_uniform import SO3Uniform
from ppvae.distributions.tangent_normal import TangentNormal
from ppvae.distributions.uniform import Uniform
from ppvae.distributions.unimodal_beta import UnimodalBeta
from ppvae.distributions.unrolled_circle import UnrolledCircle
from ppvae.distributions.von_mises_fisher import VonMisesFisher
from ppvae.distributions.wrapped_normal import WrappedNormal

__all__ = [
    "EmbeddedPushforward",
    "FrameAverage",
    "GaussianMixture",
    "HamiltonianFlow",
    "HypersphericalUniform",
    "InverseAutoregressive",
    "IsotropicGaussianSO3",
    "MatrixFisher",
    "Mixture",
    "OnQuotient",
    "PowerSpherical",
    "ProductLaw",
    "SO3Normal",
    "SO3Pushforward",
    "SO3Uniform",
    "TangentNormal",
    "Uniform",
    "UnimodalBeta",
    "UnrolledCircle",
    "VonMisesFisher",
    "WrappedNormal",
    "center",
]
