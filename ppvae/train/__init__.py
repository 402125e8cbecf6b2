"""Training: :func:`fit` with its steps, batches, checkpoints and callbacks.

Every name below is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppvae.train.callbacks import HistoryCSV, TensorBoard
    from ppvae.train.fitting import fit
    from ppvae.train.result import Callback, Fit

__all__ = ["Callback", "Fit", "HistoryCSV", "TensorBoard", "fit"]

_FILES = {
    "fit": "fitting",
    "Fit": "result",
    "Callback": "result",
    "HistoryCSV": "callbacks",
    "TensorBoard": "callbacks",
}


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(import_module(f"ppvae.train.{_FILES[name]}"), name)
    raise AttributeError(f"module 'ppvae.train' has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    return sorted(__all__)
