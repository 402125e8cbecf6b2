"""Metrics of latents and of generated data: functions of arrays, which know no VAE."""

from ppvae.metrics.classification import knn_accuracy
from ppvae.metrics.clustering import (
    adjusted_rand_index,
    circular_correlation,
    clustering_accuracy,
    normalized_mutual_information,
)
from ppvae.metrics.embedding import EmbeddingReport, embedding_report, permutation_test
from ppvae.metrics.features import Classifier, Features, classifier, efficientnet_lite0, inception_v3
from ppvae.metrics.generation import (
    PRDC,
    Estimate,
    data_copying,
    frechet_distance,
    kernel_distance,
    nearest,
    prdc,
)
from ppvae.metrics.homeomorphism import (
    automorphism,
    closed_geodesics,
    discontinuity,
    equivariance_error,
    rotation_class,
    winding_number,
)
from ppvae.metrics.invariance import invariance_error

__all__ = [
    "PRDC",
    "Classifier",
    "EmbeddingReport",
    "Estimate",
    "Features",
    "adjusted_rand_index",
    "automorphism",
    "circular_correlation",
    "classifier",
    "closed_geodesics",
    "clustering_accuracy",
    "data_copying",
    "discontinuity",
    "efficientnet_lite0",
    "embedding_report",
    "equivariance_error",
    "frechet_distance",
    "inception_v3",
    "invariance_error",
    "kernel_distance",
    "knn_accuracy",
    "nearest",
    "normalized_mutual_information",
    "permutation_test",
    "prdc",
    "rotation_class",
    "winding_number",
]
