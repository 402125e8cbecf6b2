"""Fashion-MNIST: 70,000 pictures of clothes, 28 x 28 pixels.

Reference: Fashion-MNIST (Xiao et al., 2017), https://arxiv.org/abs/1708.07747
"""

from os import PathLike
from pathlib import Path

from ppvae.data.dataset import DataSet
from ppvae.data.files import locate, read_idx

FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]

LABELS = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate(
        "fashion-mnist",
        FILES,
        path=path,
        folders=[Path("/usr/share/datasets/fashion-mnist")],
        install="apt install dataset-fashion-mnist",
    )


def load(path: str | PathLike[str] | None = None) -> DataSet:
    """Images (n, 1, 28, 28), uint8 from 0 to 255; labels 0 to 9 in the order of ``label_names``."""
    files = find(path)
    x, labels, test, test_labels = (read_idx(file) for file in files)
    return DataSet(
        name="fashion-mnist",
        train=x[:50_000, None],
        validation=x[50_000:, None],
        test=test[:, None],
        train_labels=labels[:50_000].astype("int64"),
        validation_labels=labels[50_000:].astype("int64"),
        test_labels=test_labels.astype("int64"),
        label_names=LABELS,
        maximum=255,
        split="the published test file; of the 60,000 training images the last 10,000 are validation",
        licence="MIT",
        source="Xiao et al. (2017), https://arxiv.org/abs/1708.07747, in Debian's dataset-fashion-mnist",
    )
