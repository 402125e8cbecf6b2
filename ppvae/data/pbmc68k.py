"""700 single cells of human blood with 765 variable genes and 10 cell types.

Reference: Massively parallel digital transcriptional profiling of single cells (Zheng et al., 2017)
https://doi.org/10.1038/ncomms14049
"""

from os import PathLike
from pathlib import Path

import numpy as np

from ppvae.data.dataset import DataSet, parts, split_at_random
from ppvae.data.files import locate, package_folders


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate(
        "pbmc68k",
        ["10x_pbmc68k_reduced.h5ad"],
        path=path,
        folders=package_folders("scanpy", "datasets"),
        install="pip install --no-deps scanpy==1.11.5",
    )


def load(path: str | PathLike[str] | None = None, seed: int = 0) -> DataSet:
    """Expressions (n, 765), float32, each gene centred and divided by its deviation; labels 0 to 9, the
    cell type.

    :param seed: of the random split.
    """
    (file,) = find(path)
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the cells lie in an HDF5 file: pip install h5py", name=error.name) from error
    with h5py.File(file) as f:
        x = f["X"][:]
        labels = f["obs"][:]["bulk_labels"].astype(np.int64)
        names = tuple(name.decode() for name in f["uns/bulk_labels_categories"][:])
    train, validation, test = split_at_random(len(x), seed)
    return DataSet(
        name="pbmc68k",
        **parts(x, labels, train=train, validation=validation, test=test),
        label_names=names,
        split=f"none is published: 80, 10 and 10 % at random, seed {seed}",
        licence="BSD-3-Clause (the package that carries the data)",
        source="Zheng et al. (2017), https://doi.org/10.1038/ncomms14049, reduced in scanpy 1.11.5",
    )
