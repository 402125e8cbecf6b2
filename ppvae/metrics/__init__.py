"""Metrics of latents and samples: functions of arrays, which know no VAE."""

from ppvae.metrics.classification import knn_accuracy

__all__ = ["knn_accuracy"]
