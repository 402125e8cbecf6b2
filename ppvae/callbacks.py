"""The callbacks of :mod:`ppvae.train.callbacks` under their short name."""

from ppvae.train.callbacks import HistoryCSV, TensorBoard

__all__ = ["HistoryCSV", "TensorBoard"]
