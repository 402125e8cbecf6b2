"""Find the files of a data set, and read IDX."""

import gzip
import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def package_folders(package: str, inside: str = "") -> list[Path]:
    """Folders ``inside`` an installed package, never imported: it may be old or lack dependencies."""
    spec = find_spec(package)
    return [Path(root) / inside for root in (spec.submodule_search_locations or [])] if spec else []


def locate(
    name: str,
    files: Sequence[str],
    *,
    path: str | PathLike[str] | None,
    folders: Iterable[Path],
    install: str,
) -> list[Path]:
    """Paths of all ``files`` of a data set, in their order.

    An explicit path wins over the environment variable ``PPVAE_DATA_<NAME>``, which wins over ``folders``.
    A file may also be there with ``.gz`` behind its name.

    :param name: the data set's name.
    :param path: a folder that has the files, or the file itself where there is one only.
    :param folders: where to look when neither path nor variable is given, e.g. :func:`package_folders`.
    :param install: the command that brings the files.
    :raises FileNotFoundError: if a file is missing; says where it was looked for, and ``install``.
    """
    variable = "PPVAE_DATA_" + name.upper().replace("-", "_")
    if path is not None:
        places = [Path(path)]
    elif variable in os.environ:
        places = [Path(os.environ[variable])]
    else:
        places = list(folders)
    for place in places:
        if len(files) == 1 and place.is_file():
            return [place]
        found = [[p for p in (place / file, place / f"{file}.gz") if p.is_file()] for file in files]
        if all(found):
            return [paths[0] for paths in found]
    looked = " or ".join(str(place) for place in places) or "any installed package"
    raise FileNotFoundError(
        f"the data set {name!r} ({', '.join(files)}) is not in {looked}. Install it with\n    {install}\n"
        f"or name its folder by path= or by the environment variable {variable}"
    )


def read_idx(path: Path) -> NDArray:
    """The array of an IDX file, plain or gzipped: the format of MNIST.

    Two zero bytes, the type, the number of axes, the length of each axis as a big-endian int32, then the
    values.

    :raises ValueError: if the file is not IDX of bytes, or has another length than it declares.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if raw[:3] != b"\0\0\x08":
        raise ValueError(
            f"expected an IDX file of unsigned bytes, opening with 00 00 08, got {raw[:3].hex(' ')}: {path}"
        )
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, 4).tolist()
    values = np.frombuffer(raw, np.uint8, -1, 4 + 4 * axes)
    if values.size != np.prod(shape):
        raise ValueError(f"expected {np.prod(shape)} values, got {values.size}: {path} is damaged")
    return values.reshape(shape)
