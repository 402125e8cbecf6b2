"""Geometry of the latent spaces: constraint, exponential, logarithm and distance; one file per manifold."""

from ppvae.manifolds.angle import Angle
from ppvae.manifolds.box import Box
from ppvae.manifolds.circle import Circle
from ppvae.manifolds.complex_projective import ComplexProjective
from ppvae.manifolds.euclidean import Euclidean
from ppvae.manifolds.geodesics import Geodesics, RiemannianManifold
from ppvae.manifolds.hyperboloid import Hyperboloid, hyperboloid
from ppvae.manifolds.posterior_covariance import PosteriorCovarianceMetric, nearest_neighbour_distance
from ppvae.manifolds.power import Power
from ppvae.manifolds.product import Product
from ppvae.manifolds.protocol import Lift, Manifold, Unrolled, frechet_mean, tangent
from ppvae.manifolds.quotient import Quotient, quotient
from ppvae.manifolds.riemannian import InverseVolumeMetric, PullbackMetric, RiemannianMetric, as_metric
from ppvae.manifolds.so3 import SO3, rotation
from ppvae.manifolds.sphere import Sphere, log_area, rotate_from_pole, sphere
from ppvae.manifolds.torus import Torus

__all__ = [
    "SO3",
    "Angle",
    "Box",
    "Circle",
    "ComplexProjective",
    "Euclidean",
    "Geodesics",
    "Hyperboloid",
    "InverseVolumeMetric",
    "Lift",
    "Manifold",
    "PosteriorCovarianceMetric",
    "Power",
    "Product",
    "PullbackMetric",
    "Quotient",
    "RiemannianManifold",
    "RiemannianMetric",
    "Sphere",
    "Torus",
    "Unrolled",
    "as_metric",
    "frechet_mean",
    "hyperboloid",
    "log_area",
    "nearest_neighbour_distance",
    "quotient",
    "rotate_from_pole",
    "rotation",
    "sphere",
    "tangent",
]
