"""From ``--data``, ``--test``, ``--maximum`` and ``--binarize`` to the arrays that a likelihood reads."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppvae import data
from ppvae.data import DataSet, binarize, scale
from ppvae.nn import BernoulliLikelihood, CategoricalLikelihood, NegativeBinomialLikelihood, PoissonLikelihood
from ppvae.transforms import DynamicBinarization

#: All models are tested on one draw of the test data, whatever their seed.
TEST_SEED = 2
#: Likelihoods of whole numbers.
COUNTS = (CategoricalLikelihood, NegativeBinomialLikelihood, PoissonLikelihood)


def open_data(name: str, test: int | None) -> DataSet:
    """The data set ``name`` of :mod:`ppvae.data`, or a file of the user's own, with ``test`` data to test on.

    Where the set's own test part has at least ``test`` data, its first ``test`` are taken. Where it has not, all data
    are split anew in their order: the last ``test`` to test, a tenth of that before them to validate, the rest to
    train. A file is shuffled by a fixed seed first; a tenth of it is for the test and a tenth for validation where
    nothing else is said.
    """
    if Path(name).suffix in (".npy", ".npz"):
        x, labels = _read(Path(name))
        order = np.random.default_rng(0).permutation(len(x))
        labels = None if labels is None else labels[order]
        held = len(x) // 10 if test is None else test
        about: dict[str, Any] = {"name": name, "licence": "that of the file", "source": name}
        return _split(x[order], labels, held, held if test is None else held // 10, "shuffled by a fixed seed", about)
    try:
        found = data.load(name)
    except ValueError as error:
        raise ValueError(f"--data: {error} Or a file, FILE.npy or FILE.npz") from None
    if test is None:
        return found
    if 0 < test <= len(found.test):
        first = None if found.test_labels is None else found.test_labels[:test]
        return dataclasses.replace(found, test=found.test[:test], test_labels=first)
    parts = [part for part in ("train", "validation", "test") if getattr(found, part) is not None]
    every = [getattr(found, f"{part}_labels") for part in parts]
    labels = None if any(part is None for part in every) else np.concatenate(every)
    about = {field: getattr(found, field) for field in ("name", "licence", "source", "maximum", "label_names")}
    x = np.concatenate([getattr(found, part) for part in parts])
    return _split(x, labels, test, test // 10, "in the set's own order", about)


def _split(
    x: NDArray, labels: NDArray | None, test: int, validation: int, order: str, about: dict[str, Any]
) -> DataSet:
    validation = max(1, validation)
    train = len(x) - test - validation
    if test < 1 or train < 1:
        raise ValueError(
            f"--test {test}: {about['name']} has {len(x)} data, some of which must be left to train on and to test"
        )
    cuts = [train, train + validation]
    about = about | dict(zip(("train", "validation", "test"), np.split(x, cuts), strict=True))
    if labels is not None:
        names = ("train_labels", "validation_labels", "test_labels")
        about = about | dict(zip(names, np.split(labels, cuts), strict=True))
    return DataSet(**about, split=f"{order}: first {train} train, next {validation} validation, last {test} test")


def _read(path: Path) -> tuple[NDArray, NDArray | None]:
    """x and labels of a .npy or .npz file; pickled objects are refused."""
    if not path.is_file():
        raise FileNotFoundError(f"--data: no file {path}")
    content = np.load(path, allow_pickle=False)
    labels = None
    if isinstance(content, np.ndarray):
        x = content
    else:
        with content:
            if "x" not in content:
                raise ValueError(
                    f"--data: {path} has the keys {', '.join(content)}; expected x, and labels if there are any"
                )
            x, labels = content["x"], content["labels"] if "labels" in content else None
    if x.ndim < 2 or (labels is not None and labels.shape[:1] != x.shape[:1]):
        shapes = f"x {x.shape}" + ("" if labels is None else f" and labels {labels.shape}")
        raise ValueError(f"--data: expected x of shape (n, *shape) and as many labels if any, got {shapes} in {path}")
    return x, labels


def settle(source: DataSet, vae: Any, options: argparse.Namespace) -> tuple[float | None, str]:
    """``--maximum`` and ``--binarize`` as they were asked for, else what suits a Bernoulli likelihood."""
    likelihood = getattr(vae, "likelihood", None)
    bernoulli, counts = isinstance(likelihood, BernoulliLikelihood), isinstance(likelihood, COUNTS)
    maximum = options.maximum
    if maximum is None and not counts:  # which are the stored values themselves
        maximum = source.maximum
    how = options.binarize or ("dynamic" if bernoulli and source.maximum is not None else "none")
    low, high = source.train.min(), source.train.max()
    if how != "none" and maximum is None and (source.train.dtype.kind != "f" or high > 1 or low < 0):
        raise ValueError(
            f"--binarize {how} needs values in [0, 1]; say the greatest value of a pixel, e.g. --maximum 255"
        )
    if bernoulli and how == "none" and not np.isin(source.train, (0, maximum or 1)).all():
        other = "" if low < 0 else "--binarize dynamic, or --binarize threshold, or "
        raise ValueError(
            f"the Bernoulli likelihood needs data of 0 and 1, and those of {options.data} run from {low:g} to "
            f"{high:g}: add {other}--likelihood Normal"
        )
    return maximum, how


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data as the likelihood reads them, but for what ``transform`` does to those of each training step.

    :param labels: labels of the parts "train", "validation" and "test", None where there are none.
    :param said: what was done, in lines for the user.
    :param test_data: what the test data are, in words; the same words for the same data.
    """

    train: NDArray
    validation: NDArray | None
    test: NDArray
    labels: dict[str, NDArray | None]
    transform: DynamicBinarization | None
    said: tuple[str, ...]
    test_data: str


def prepare(source: DataSet, maximum: float | None, how: str, name: str) -> Prepared:
    """Scale and binarise, and say so."""
    parts: dict[str, Any] = {"train": source.train, "validation": source.validation, "test": source.test}
    sizes = ", ".join(f"{len(x):,} {part}" for part, x in parts.items() if x is not None)
    said, words = [f"{name}: {sizes}; each of shape {source.shape}"], ""
    if maximum is not None:
        parts = {part: None if x is None else scale(x, maximum) for part, x in parts.items()}
        said.append(f"  values are divided by {maximum:g}, to [0, 1]")
        words = f", divided by {maximum:g}"
    if how == "threshold":
        parts = {part: None if x is None else binarize(x, how="threshold") for part, x in parts.items()}
        said.append("  and become 1 above 1/2, else 0 (--binarize threshold)")
        words = ", binarised at 1/2"
    if how == "dynamic":
        parts["test"] = binarize(parts["test"], TEST_SEED)
        said.append(
            "  and binarised at random, pixel ~ Bernoulli(value), for training anew at every step (--binarize dynamic)"
        )
        words = f", binarised at random with seed {TEST_SEED}"
    return Prepared(
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        labels={part: getattr(source, f"{part}_labels") for part in parts},
        transform=DynamicBinarization() if how == "dynamic" else None,
        said=tuple(said),
        test_data=f"{len(source.test):,} test data of {name}{words}",
    )
