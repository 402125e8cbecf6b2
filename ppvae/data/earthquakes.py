r"""48,429 earthquakes of 1976 to 2017: places on S^2, and frames of their mechanisms in SO(3)/D_2.

The moment tensor M of an earthquake, a symmetric 3 x 3 matrix in the basis (up, south, east) of its place,
has orthogonal eigenvectors: the T axis (largest eigenvalue, tension), the B axis, the P axis (smallest,
pressure). They are axes, not arrows: turning the frame R = (T, B, P) by pi about any of them gives the same
earthquake, R ~ R d with d in D_2 = {1, diag(1, -1, -1), diag(-1, 1, -1), diag(-1, -1, 1)}.

References:
    [1] Determination of earthquake source parameters from waveform data (Dziewonski et al., 1981)
        https://doi.org/10.1029/JB086iB04p02825
    [2] The global CMT project 2004-2010 (Ekstrom et al., 2012)
        https://doi.org/10.1016/j.pepi.2012.04.002
"""

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppvae.data.dataset import DataSet, parts
from ppvae.data.files import locate

LABELS = ("latitude", "longitude", "depth", "magnitude", "year")


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    folders = [Path(__file__).parent]
    return locate("earthquakes", ["earthquakes.npz"], path=path, folders=folders, install="pip install ppvae")


def load(path: str | PathLike[str] | None = None) -> DataSet:
    """Places (n, 3), unit vectors; labels (n, 5): latitude and longitude in degrees, km, M_w, year."""
    arrays = _read(path)
    latitude, longitude = np.radians(arrays["latlon"].astype(np.float64)).T
    x = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
    return _by_time("earthquakes", np.stack(x, -1), arrays)


def load_mechanisms(path: str | PathLike[str] | None = None) -> DataSet:
    """Mechanisms of 48,429 earthquakes: frames (n, 3, 3), rotations with columns T, B, P; labels as above.

    Of the four frames of one earthquake this is the one nearest to the identity (greatest trace). That
    choice is not continuous, as none can be: a law for these data must give R and R d, d in D_2, the same
    density.
    """
    arrays = _read(path)
    rr, tt, pp, rt, rp, tp = arrays["mt"].astype(np.float64).T
    moment = np.stack([rr, rt, rp, rt, tt, tp, rp, tp, pp], -1).reshape(-1, 3, 3)
    frame = np.linalg.eigh(moment)[1][..., ::-1]
    frame[..., 2] *= np.linalg.det(frame)[:, None]
    d2 = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    diagonal = np.diagonal(frame, axis1=-2, axis2=-1)
    return _by_time("focal-mechanisms", frame * d2[(diagonal @ d2.T).argmax(-1)][:, None, :], arrays)


def _read(path: str | PathLike[str] | None) -> dict[str, NDArray]:
    (file,) = find(path)
    with np.load(file) as arrays:
        return dict(arrays)


def _by_time(name: str, x: NDArray, arrays: dict[str, NDArray]) -> DataSet:
    time = arrays["time"].astype("datetime64[s]")
    year = time.astype("datetime64[Y]").astype(int) + 1970
    columns = [*arrays["latlon"].T, arrays["depth"], arrays["mag"], year]
    labels = np.stack([column.astype(np.float64) for column in columns], -1)
    order = np.argsort(time, kind="stable")
    x, labels, year = x[order].astype(np.float32), labels[order], year[order]
    return DataSet(
        name=name,
        **parts(x, labels, train=year < 2010, validation=(year >= 2010) & (year < 2013), test=year >= 2013),
        label_names=LABELS,
        split="by time, for aftershocks leak at random: to 2009 train, 2010-2012 validation, then test",
        licence="CC0-1.0",
        source="Global CMT catalogue, Dziewonski et al. (1981) and Ekstrom et al. (2012), "
        "https://www.globalcmt.org, from the package usgs-strec 2.3.14, duplicates removed",
    )
