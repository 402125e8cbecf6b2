"""Metrics of latents and samples: functions of arrays, which know no VAE."""

from ppvae.metrics.classification import knn_accuracy
from ppvae.metrics.clustering import (
    adjusted_rand_index,
    circular_correlation,
    clustering_accuracy,
    normalized_mutual_information,
)
from ppvae.metrics.embedding import EmbeddingReport, embedding_report, permutation_test
from ppvae.metrics.invariance import invariance_error

__all__ = [
    "EmbeddingReport",
    "adjusted_rand_index",
    "circular_correlation",
    "clustering_accuracy",
    "embedding_report",
    "invariance_error",
    "knn_accuracy",
    "normalized_mutual_information",
    "permutation_test",
]
