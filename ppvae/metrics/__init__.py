"""Metrics of latents and samples: functions of arrays, which know no VAE."""

from ppvae.metrics.classification import knn_accuracy
from ppvae.metrics.clustering import (
    adjusted_rand_index,
    circular_correlation,
    clustering_accuracy,
    normalized_mutual_information,
)
from ppvae.metrics.embedding import EmbeddingReport, embedding_report, permutation_test
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
    "EmbeddingReport",
    "adjusted_rand_index",
    "automorphism",
    "circular_correlation",
    "closed_geodesics",
    "clustering_accuracy",
    "discontinuity",
    "embedding_report",
    "equivariance_error",
    "invariance_error",
    "knn_accuracy",
    "normalized_mutual_information",
    "permutation_test",
    "rotation_class",
    "winding_number",
]
