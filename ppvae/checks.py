"""Checks of the arrays and counts that metrics and diagnostics are given.

Each function returns its argument in one form, or raises a ValueError that names the argument, says what was expected
and what came, and what to do.
"""

import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["classes", "count", "numbers", "real"]


def real(name: str, value: Any) -> NDArray:
    """An array of real numbers or booleans in its own dtype, from an array, a tensor on any device, or a list.

    :raises ValueError: for a mask, complex or other dtypes, sparse tensors, or lists that are no array.

    >>> real("x", [[1, 2], [3, 4]]).dtype
    dtype('int64')
    >>> real("x", [1 + 2j])
    Traceback (most recent call last):
    ...
    ValueError: x: expected real numbers, got complex128; take the real part, the imaginary part or the modulus
    """
    array = _array(name, value)
    if array.dtype.kind == "c":
        raise ValueError(
            f"{name}: expected real numbers, got {array.dtype}; take the real part, the imaginary part or the modulus"
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name}: expected numbers, got {type(value).__name__} of dtype {array.dtype}; convert it, e.g. with "
            "numpy.asarray(array, float), or .toarray() of a sparse matrix"
        )
    return array


def numbers(name: str, value: Any, least: int = 1) -> NDArray:
    r"""Finite numbers in float64, shape (n, \*event), with n at least ``least``.

    >>> numbers("z", [0, 1])
    array([0., 1.])
    >>> numbers("z", [0.0, float("nan")])
    Traceback (most recent call last):
    ...
    ValueError: z: expected finite numbers, got 1 NaN or infinite, first in row 1; remove or impute such rows
    """
    array = real(name, value).astype(np.float64)
    if array.ndim < 1 or array.shape[0] < least:
        raise ValueError(f"{name}: expected shape (n, ...) with n at least {least}, got {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.flatnonzero(~finite.reshape(len(array), -1).all(1))[0])
        raise ValueError(
            f"{name}: expected finite numbers, got {(~finite).sum()} NaN or infinite, first in row {row}; "
            "remove or impute such rows"
        )
    return array


def classes(name: str, value: Any, n: int | None = None) -> NDArray:
    """Names of classes, shape (n,): integers or strings. Floating numbers without a fraction become integers.

    :param n: how many there must be; any number above 0 by default.

    >>> classes("labels", [0.0, 2.0]).tolist(), classes("labels", ["cat", "dog"]).tolist()
    ([0, 2], ['cat', 'dog'])
    >>> classes("labels", [0.0, 0.3])
    Traceback (most recent call last):
    ...
    ValueError: labels: expected classes, got the number 0.3 in row 1; round it, or divide the range with numpy.digitize
    """
    array = _array(name, value)
    if array.dtype.kind == "O" and all(isinstance(entry, str) for entry in array.flat):
        array = array.astype(str)  # a column of pandas
    if array.dtype.kind not in "fiubUS":
        raise ValueError(
            f"{name}: expected classes, integers or strings, got dtype {array.dtype}; convert it with .astype(int) or "
            ".astype(str)"
        )
    if array.ndim != 1 or not len(array):
        advice = "; of one-hot rows take .argmax(1)" if array.ndim == 2 else ""
        raise ValueError(f"{name}: expected one class for each datum, shape (n,) with n > 0, got {array.shape}{advice}")
    if n is not None and len(array) != n:
        raise ValueError(f"{name}: expected one class for each of the {n} data, got {len(array)}; pass equally many")
    if array.dtype.kind == "f":
        array = numbers(name, array)
        fraction = np.flatnonzero(array % 1)
        if len(fraction):
            raise ValueError(
                f"{name}: expected classes, got the number {array[fraction[0]]:g} in row {fraction[0]}; round it, or "
                "divide the range with numpy.digitize"
            )
        array = array.astype(np.int64)
    return array


def count(name: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """An integer of any integer type, at least ``low`` and at most ``high``.

    >>> count("k", 3, 1, 5)
    3
    >>> count("k", 2.5, 1, 5)
    Traceback (most recent call last):
    ...
    ValueError: k: expected an integer from 1 to 5, got 2.5
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: expected an integer {limits}, got {value!r}")
    return number


def _array(name: str, value: Any) -> NDArray:
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise ValueError(
            f"{name}: expected an array without a mask, got a masked one; drop the masked rows, or fill them, e.g. "
            "array.filled(0)"
        )
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise ValueError(f"{name}: expected a dense tensor, got layout {value.layout}; convert it with .to_dense()")
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length, tensors that require gradients
        raise ValueError(
            f"{name}: expected an array, got a {type(value).__name__} that numpy refuses: {error}"
        ) from None
