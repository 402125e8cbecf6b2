import csv
import sys
import types

import numpy as np
import pytest
import torch
from ppvae.models import GaussianVAE

import ppvae
from ppvae.callbacks import HistoryCSV, TensorBoard

X = (np.random.default_rng(0).random((20, 5)) > 0.5).astype(np.float32)


def fit(epochs=3, **options):
    torch.manual_seed(0)
    return ppvae.fit(GaussianVAE((5,), 2, (4,)), X, epochs=epochs, seed=0, progress=False, **options)


def test_the_history_is_written_after_each_epoch(tmp_path):
    rows = []

    def read(fit):
        with open(tmp_path / "runs" / "history.csv", newline="") as stream:
            rows.append(list(csv.DictReader(stream)))

    result = fit(validation=X, callbacks=[HistoryCSV(tmp_path / "runs" / "history.csv"), read])
    assert [len(table) for table in rows] == [1, 2, 3]
    for name, values in result.history.items():
        assert [float(row[name]) for row in rows[-1]] == values, name


def test_a_continued_run_writes_the_whole_history(tmp_path):
    history = HistoryCSV(tmp_path / "history.csv")
    fit(2, checkpoint=tmp_path / "c", callbacks=[history])
    (tmp_path / "history.csv").unlink()
    result = fit(4, checkpoint=tmp_path / "c", resume=True, callbacks=[history])
    with open(tmp_path / "history.csv", newline="") as stream:
        assert [float(row["loss"]) for row in csv.DictReader(stream)] == result.history["loss"]


def test_a_callback_ends_training():
    def enough(fit):
        if fit.epochs == 2:
            fit.stopped = "enough"

    result = fit(5, callbacks=[enough])
    assert result.epochs == 2 and result.stopped == "enough"


def test_a_callback_sees_the_model_and_leaves_training_as_it_was():
    codes = []
    plain = fit()
    watched = fit(callbacks=[lambda fit: codes.append(ppvae.encode(fit.vae, X))])
    assert len(codes) == 3 and not np.array_equal(codes[0], codes[2])
    assert plain.history["loss"] == watched.history["loss"]


def test_a_missing_tensorboard_is_said_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'ppvae\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_tensorboard_gets_every_column_at_its_epoch(monkeypatch, tmp_path):
    written, made = [], []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            pass

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    board = TensorBoard(tmp_path)
    assert not made  # nothing is written before the first epoch
    result = fit(2, callbacks=[board])
    assert made == [(str(tmp_path), 1)]
    want = [(name, values[i], i + 1) for i in range(2) for name, values in result.history.items() if name != "epoch"]
    assert written == want


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard")
    fit(2, callbacks=[TensorBoard(tmp_path)])
    assert any("tfevents" in file.name for file in tmp_path.iterdir())
