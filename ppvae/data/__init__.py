"""Real data, and the two steps between the values as stored and a likelihood.

::

    digits = ppvae.data.load("digits")
    x = scale(digits.train, digits.maximum)               # [0, 1]
    x = binarize(x, np.random.default_rng(0))             # {0, 1}, drawn anew at every call

Nothing is downloaded: each set lies in this package, in another package of a registry, or where you put it.
A set is looked for at ``path=``, then at the environment variable ``PPVAE_DATA_<NAME>``, then in the
installed package (which is never imported), then where Debian puts it; the error of a missing set is the
command that installs it.
"""

import difflib
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from ppvae.data.dataset import DataSet, binarize, scale

#: name -> (module of ppvae.data, function)
TABLE = {
    "digits": ("digits", "load"),
    "mnist": ("mnist", "load"),
    "fashion-mnist": ("fashion_mnist", "load"),
    "dsprites": ("dsprites", "load"),
    "cifar10": ("cifar10", "load"),
    "earthquakes": ("earthquakes", "load"),
    "focal-mechanisms": ("earthquakes", "load_mechanisms"),
    "torsions": ("torsions", "load"),
    "circular": ("circular", "load"),
    "nouns": ("nouns", "load"),
    "pbmc68k": ("pbmc68k", "load"),
    "meshes": ("meshes", "load"),
    "land": ("land", "load"),
}

__all__ = ["TABLE", "DataSet", "binarize", "find", "load", "names", "scale", "summary"]


def names() -> list[str]:
    """The names of all data sets.

    >>> "digits" in names()
    True
    """
    return list(TABLE)


def load(name: str, path: str | PathLike[str] | None = None, **options: Any) -> DataSet:
    """Read a data set.

    :param name: a name of :func:`names`, e.g. ``"mnist"``.
    :param path: the file, or the folder of the files, where they lie somewhere unusual.
    :param options: those of the set's own loader, e.g. ``load("circular", which="fisher/B19")``.
    :returns: the arrays as stored, neither scaled nor binarised, with their split, licence and source.
    :raises ValueError: if no data set has this name, or a file is not what it should be.
    :raises FileNotFoundError: if the data are not on this machine; the message has the command that
        installs them.

    >>> load("digits")
    DataSet('digits': train 1,197, validation 200, test 400; each (1, 8, 8) uint8)
    """
    module, function = _entry(name)
    return getattr(module, function)(path=path, **options)


def find(name: str, path: str | PathLike[str] | None = None) -> list[Path]:
    """The files of a data set, which are found but not read.

    :param name: a name of :func:`names`.
    :param path: as in :func:`load`.
    :raises ValueError: if no data set has this name.
    :raises FileNotFoundError: if the data are not on this machine; the message has the command that installs them.

    >>> [file.name for file in find("digits")]
    ['digits.npz']
    """
    return _entry(name)[0].find(path)


def summary(name: str) -> str:
    """What a data set is, in one line.

    :param name: a name of :func:`names`.
    :raises ValueError: if no data set has this name.

    >>> summary("digits")
    '1,797 handwritten digits of 8 x 8 pixels, inside this package.'
    """
    module, function = _entry(name)
    return ((module if function == "load" else getattr(module, function)).__doc__ or "").split("\n")[0]


def _entry(name: str) -> tuple[ModuleType, str]:
    if name not in TABLE:
        near = difflib.get_close_matches(str(name), TABLE, n=3) or names()
        raise ValueError(f"no data set is named {name!r}; did you mean {' or '.join(map(repr, near))}?")
    module, function = TABLE[name]
    return import_module(f"ppvae.data.{module}"), function
