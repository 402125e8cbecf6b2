"""What a loader returns, and the explicit steps from stored values to those of a likelihood."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False, kw_only=True)
class DataSet:
    """Arrays as stored, their split, and where they come from.

    The first axis of every array is the datum. Points of manifolds are unit vectors and matrices, as
    everywhere in ppvae. Labels are an integer class ``(n,)``, or several known factors ``(n,
    len(label_names))``, or what the loader says.

    :param name: its name in :func:`ppvae.data.names`.
    :param train: data to fit, ``(n, *shape)``; images are ``(n, channels, height, width)``.
    :param validation: data to stop and choose by, or None where the set has no such part.
    :param test: data seen once, at the end.
    :param split: the rule that made the parts, in one sentence.
    :param licence: of the data, or that none is stated.
    :param source: who published the data and where, and the package that carries them.
    :param maximum: the greatest value that a stored pixel can have, or None where the data are not images.
    :param label_names: names of the classes, or of the columns of the labels.

    >>> points = np.eye(3)
    >>> DataSet(name="axes", train=points[:2], test=points[2:], split="by hand", licence="CC0-1.0", source="none")
    DataSet('axes': train 2, test 1; each (3,) float64)
    """

    name: str
    train: NDArray
    test: NDArray
    split: str
    licence: str
    source: str
    validation: NDArray | None = None
    train_labels: NDArray | None = None
    validation_labels: NDArray | None = None
    test_labels: NDArray | None = None
    label_names: tuple[str, ...] = ()
    maximum: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one datum, the first argument of a VAE."""
        return self.train.shape[1:]

    def __repr__(self) -> str:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        sizes = ", ".join(f"{part} {len(x):,}" for part, x in parts.items() if x is not None)
        return f"DataSet({self.name!r}: {sizes}; each {self.shape} {self.train.dtype})"


def parts(x: NDArray, labels: NDArray, **rows: Any) -> dict[str, Any]:
    """The fields of a :class:`DataSet` for ``train``, ``validation`` and ``test`` rows of data and labels."""
    return {part: x[chosen] for part, chosen in rows.items()} | {
        f"{part}_labels": labels[chosen] for part, chosen in rows.items()
    }


def split_at_random(n: int, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Indices of 80 % for training, 10 % for validation and the rest for the test, each ascending.

    For sets that come without a split. The permutation is that of ``numpy.random.default_rng(seed)``.

    >>> [len(rows) for rows in split_at_random(25)]
    [20, 2, 3]
    """
    order = np.random.default_rng(seed).permutation(n)
    train, validation, test = np.split(order, [n * 8 // 10, n * 9 // 10])
    return np.sort(train), np.sort(validation), np.sort(test)


def scale(x: ArrayLike, maximum: float, dtype: type[np.floating] = np.float32) -> NDArray:
    """x / maximum, from stored pixels to intensities in [0, 1].

    :param x: pixels of any shape.
    :param maximum: the greatest value that a stored pixel can have (``DataSet.maximum``), not the greatest
        in ``x``.
    :raises ValueError: if a value lies outside [0, maximum].

    >>> scale([0, 4, 16], 16).tolist()
    [0.0, 0.25, 1.0]
    """
    x = np.asarray(x)
    if x.size and not (x.min() >= 0 and x.max() <= maximum):
        raise ValueError(
            f"expected values in [0, {maximum}], got [{x.min()}, {x.max()}]; give the greatest a pixel can be"
        )
    return np.divide(x, maximum, dtype=dtype, casting="unsafe")


def binarize(
    x: ArrayLike,
    rng: np.random.Generator | int | None = None,
    how: Literal["dynamic", "threshold"] = "dynamic",
) -> NDArray:
    """Black and white images from intensities, of the same shape and dtype.

    ``"dynamic"`` draws x_i ~ Bernoulli(intensity_i), anew at every call (Salakhutdinov and Murray, 2008,
    https://doi.org/10.1145/1390156.1390266): likelihoods of different draws are of different data.
    ``"threshold"`` is 1 where the intensity exceeds 1/2.

    :param x: intensities in [0, 1], of any shape.
    :param rng: a generator, or the seed of one; required by ``"dynamic"``, refused by ``"threshold"``.
    :raises ValueError: if a value lies outside [0, 1], or rng does not go with ``how``.

    >>> binarize(np.array([0.1, 0.5, 0.9]), how="threshold").tolist()
    [0.0, 0.0, 1.0]
    >>> float(binarize(np.full(10_000, 0.3), rng=0).mean().round(2))
    0.3
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"expected floating point intensities, got {x.dtype}; call scale(x, maximum) first")
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"expected intensities in [0, 1], got [{x.min()}, {x.max()}]; call scale(x, maximum) first")
    if how == "dynamic":
        if rng is None:
            raise ValueError("dynamic binarisation draws at random: give rng=np.random.default_rng(seed)")
        return (np.random.default_rng(rng).random(x.shape, dtype=np.float32) < x).astype(x.dtype)
    if how == "threshold":
        if rng is not None:
            raise ValueError("a threshold draws nothing: leave rng out")
        return (x > 0.5).astype(x.dtype)
    raise ValueError(f"expected how='dynamic' or 'threshold', got {how!r}")
