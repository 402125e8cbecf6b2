"""1,797 handwritten digits of 8 x 8 pixels, inside this package.

Reference: Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), https://doi.org/10.24432/C50P49
"""

from os import PathLike
from pathlib import Path

import numpy as np

from ppvae.data.dataset import DataSet, parts
from ppvae.data.files import locate


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate("digits", ["digits.npz"], path=path, folders=[Path(__file__).parent], install="pip install ppvae")


def load(path: str | PathLike[str] | None = None) -> DataSet:
    """Images (n, 1, 8, 8), uint8 from 0 to 16; labels 0 to 9.

    >>> load().train_labels[:5].tolist()
    [0, 1, 2, 3, 4]
    """
    (file,) = find(path)
    with np.load(file) as arrays:
        x, labels = arrays["images"][:, None], arrays["labels"].astype(np.int64)
    return DataSet(
        name="digits",
        **parts(x, labels, train=slice(1197), validation=slice(1197, 1397), test=slice(1397, None)),
        label_names=tuple("0123456789"),
        maximum=16,
        split="in the order of the file: the first 1,197 train, the next 200 validation, the last 400 test",
        licence="CC BY 4.0 (the data); BSD-3-Clause (the copy in scikit-learn)",
        source="Alpaydin and Kaynak (1998), https://doi.org/10.24432/C50P49, the test half",
    )
