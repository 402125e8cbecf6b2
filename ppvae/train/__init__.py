"""Training: :func:`fit` with its steps, batches, checkpoints and callbacks.

Every name below is imported on first use.
"""

from typing import TYPE_CHECKING

from ppvae.lazy import attach

if TYPE_CHECKING:
    from ppvae.train.callbacks import HistoryCSV, TensorBoard
    from ppvae.train.fitting import fit
    from ppvae.train.result import Callback, Fit
else:
    __getattr__, __dir__ = attach(__name__)

__all__ = ["Callback", "Fit", "HistoryCSV", "TensorBoard", "fit"]
