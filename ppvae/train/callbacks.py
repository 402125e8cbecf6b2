"""Callbacks of :func:`ppvae.fit`: functions of the state of training, called after each epoch.

::

    fit(vae, x, callbacks=[HistoryCSV("runs/a/history.csv"), TensorBoard("runs/a/tensorboard")])

Any function of one argument serves: ``lambda fit: print(fit.history["elbo"][-1])``. It ends training by setting
``fit.stopped`` to a reason.
"""

import csv
import io
import os
from pathlib import Path
from typing import Any

from ppvae.io import write
from ppvae.train.result import Fit


class HistoryCSV:
    """Write the history to a CSV file, one row for each epoch, whole or not at all.

    The columns are those of :class:`ppvae.train.Fit`'s history. A continued run replaces the file by the whole history.

    :param path: the file; its folder is made where it does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __call__(self, fit: Fit) -> None:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(fit.history)
        writer.writerows(zip(*fit.history.values(), strict=True))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, lambda temporary: Path(temporary).write_text(table.getvalue(), encoding="utf-8"))


class TensorBoard:
    """Write the history for TensorBoard, one scalar for each column and epoch.

    A continued run takes the place of what an earlier one wrote after its checkpoint.

    :param folder: where to; made at the first epoch.
    :raises ImportError: if tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard: expected the package tensorboard: pip install 'ppvae[tensorboard]'"
            ) from error
        self.make, self.folder = SummaryWriter, str(folder)
        self.writer: Any = None

    def __call__(self, fit: Fit) -> None:
        epoch = int(fit.history["epoch"][-1])
        if self.writer is None:
            self.writer = self.make(self.folder, purge_step=epoch)
        for name, values in fit.history.items():
            if name != "epoch":
                self.writer.add_scalar(name, values[-1], epoch)
        self.writer.flush()
