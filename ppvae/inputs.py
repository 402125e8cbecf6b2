"""From the user's arrays to the tensors of a VAE, checked once."""

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.distributions.base import base_law
from ppvae.infer.sites import Needs
from ppvae.vae import VAE, device_and_dtype, first_traces


def to_tensors(vae: VAE, data: Any, announce: bool = False, compact: bool = False) -> tuple[Tensor, ...]:
    """The batch ``(x, *given)`` on the device of the VAE, x in its dtype; labels (integers, booleans) keep theirs.

    :param data: an array x of shape (n, *vae.shape), or a tuple (x, *given) of arrays with equal n.
    :param announce: whether a change of dtype is printed to standard error.
    :param compact: whether x of unsigned bytes keeps its dtype, a quarter of the memory, for the caller to cast.
    :raises ValueError: for a wrong shape, a wrong dtype, no data, arrays of unequal length, or given arrays that do not
        keep to the constraints ``vae.given``, where the VAE has them.
    """
    device, dtype = device_and_dtype(vae)
    arrays = data if isinstance(data, (tuple, list)) else (data,)
    if not arrays:
        raise ValueError("x: expected an array of data, got an empty list")
    tensors = []
    for i, array in enumerate(arrays):
        name = "x" if i == 0 else f"given[{i - 1}]"
        tensor = _tensor(name, array)
        # To the host, torch would not wait for the copy either.
        tensor = tensor.to(device, non_blocking=device.type == "cuda")
        if (i == 0 or tensor.is_floating_point()) and tensor.dtype != dtype:
            if announce and i == 0:
                print(f"ppvae: {name} is cast from {tensor.dtype} to the model's {dtype}", file=sys.stderr)
            tensor = tensor if compact and i == 0 and tensor.dtype == torch.uint8 else tensor.to(dtype)
        tensors.append(tensor)
    x = tensors[0]
    shape = tuple(vae.shape)
    if x.dim() == 0 or tuple(x.shape[1:]) != shape:
        raise ValueError(
            f"x: expected shape (n, {', '.join(map(str, shape))}), got {tuple(x.shape)}"
            f"{_hint(x, shape, isinstance(data, list))}"
        )
    if not x.shape[0]:
        raise ValueError(f"x: expected at least one datum, got none, shape {tuple(x.shape)}")
    for i, tensor in enumerate(tensors[1:]):
        if tensor.shape[:1] != x.shape[:1]:
            raise ValueError(f"given[{i}]: expected {x.shape[0]} rows as in x, got shape {tuple(tensor.shape)}")
    expected = getattr(vae, "given", None)
    if expected is not None and len(expected) != len(tensors) - 1:
        advice = "pass the data alone, without labels" if not expected else "pass them after x, as (x, *given)"
        raise ValueError(
            f"given: {type(vae).__name__} expected {len(expected)} arrays beside x, got {len(tensors) - 1}; {advice}"
        )
    for i, (constraint, tensor) in enumerate(zip(expected or (), tensors[1:], strict=False)):
        if tensor.dim() != constraint.event_dim + 1:
            raise ValueError(
                f"given[{i}]: expected shape (n,{' ...' * constraint.event_dim}), got {tuple(tensor.shape)}"
            )
        inside = constraint.check(tensor) & torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
        if not inside.all():
            raise ValueError(
                f"given[{i}]: expected {_words(constraint)}, got {_range(tensor)}, first in row {_first(inside)}"
            )
    return tuple(tensors)


def integer(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least`` as Python's ``int``; numpy's integers count.

    :raises ValueError: for anything else, True and False included.

    >>> integer("batch_size", np.int64(8))
    8
    >>> integer("batch_size", -1)
    Traceback (most recent call last):
    ValueError: batch_size: expected a whole number of at least 1, got -1
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def on_disk(data: Any) -> bool:
    """Whether one of the arrays is a memory map of numpy, as ``numpy.load(file, mmap_mode="r")`` returns."""
    return any(isinstance(array, np.memmap) for array in (data if isinstance(data, (tuple, list)) else (data,)))


def read_rows(data: Any, rows: Any) -> tuple[Any, ...]:
    """Some rows of each array, as arrays in memory.

    :raises ValueError: for arrays of unequal length.
    """
    arrays = data if isinstance(data, (tuple, list)) else (data,)
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"expected arrays with as many rows as x, {lengths[0]}, got {lengths[1:]}")
    return tuple(np.asarray(array[rows]) if isinstance(array, np.ndarray) else array[rows] for array in arrays)


def _tensor(name: str, array: Any) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name}: expected an array without a mask, got a masked one; fill it, e.g. array.filled(0)")
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected numbers, got an array of dtype {array.dtype}")
        # torch takes neither a foreign byte order nor negative strides, and warns of memory that it may not write.
        array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
        return torch.as_tensor(array if array.flags.writeable else array.copy())
    if isinstance(array, (int, float)):
        raise ValueError(
            f"{name}: expected an array, got the number {array}; give options by name, such as num_samples={array}"
        )
    if not isinstance(array, Tensor):
        raise ValueError(
            f"{name}: expected a numpy array or a torch tensor, got {type(array).__name__}; "
            "convert it with numpy.asarray"
        )
    if array.layout != torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got layout {array.layout}; convert it with x.to_dense()")
    if array.is_complex():
        raise ValueError(f"{name}: expected real numbers, got {array.dtype}")
    return array.detach()


def _hint(x: Tensor, shape: tuple[int, ...], listed: bool) -> str:
    """What was probably meant by x of a shape that is not (n, *shape)."""
    if tuple(x.shape) == shape:
        return "; put a list of data together with numpy.stack" if listed else "; for one datum use x[None]"
    if x.numel() and shape[:1] == (1,) and tuple(x.shape[1:]) == shape[1:]:
        return "; add the channel with x[:, None]"
    if len(shape) == 3 and tuple(x.shape[1:]) == (*shape[1:], shape[0]):
        return "; put the channels first with numpy.moveaxis(x, -1, 1)"
    if x.dim() > 1 and math.prod(x.shape[1:]) == math.prod(shape):
        return f"; use x.reshape(-1, {', '.join(map(str, shape))}) if its numbers are in that order"
    return "; the VAE was built for another shape"


def check_finite(x: Tensor, row: int = 0) -> None:
    """Raise a ValueError if a value of x is NaN or infinite; ``row`` is the number of the first datum."""
    finite = torch.isfinite(x).reshape(x.shape[0], -1).all(1)
    if not finite.all():
        raise ValueError(
            f"x: expected finite numbers, got {_range(x)}, first in row {row + _first(finite)}. "
            "Remove or impute these rows."
        )


def check_support(
    vae: VAE,
    data: tuple[Tensor, ...],
    row: int = 0,
    chunk: int = 4096,
    needs: Needs | Callable[[str], Needs] = "draws",
) -> tuple[Trace, Trace]:
    """Raise a ValueError if the pair breaks a rule, or a value of x is outside the support of the likelihood.

    The likelihood is the law at the observed site for the first datum: its support does not depend on the latent.

    :param row: the number of the first datum, for messages.
    :param needs: what will be computed, see :func:`ppvae.infer.sites.check_pair`.
    :return: the traces of model and guide on the first datum.
    """
    check_finite(data[0], row)
    model_trace, guide_trace = first_traces(vae, data, needs)
    law: Any = model_trace.nodes["x"]["fn"]
    if tuple(law.event_shape) != tuple(vae.shape):
        raise ValueError(
            f"site 'x': expected a law with the event shape {tuple(vae.shape)} of one datum, got "
            f"{tuple(law.event_shape)}; say which dimensions belong to a datum with .to_event(len(shape))"
        )
    base = base_law(law)
    likelihood = type(base).__name__
    for start in range(0, data[0].shape[0], chunk):
        x = data[0][start : start + chunk]
        inside = law.support.check(x)
        if not inside.all():
            raise ValueError(
                f"x: expected values in the support of the {likelihood} likelihood ({_words(base.support)}), got "
                f"{_range(data[0])}, first in row {row + start + _first(inside)}. {_advice(likelihood, data[0])}"
            )
    return model_trace, guide_trace


def check_domain(transform: Callable[[Tensor], Tensor], x: Tensor, row: int = 0) -> None:
    """Raise a ValueError if a value of x is outside ``transform.domain``, where it has one; ``row`` is the number of
    the first datum."""
    domain = getattr(transform, "domain", None)
    if domain is None:
        return
    inside = domain.check(x)
    if not inside.all():
        advice = "Remove or impute these rows." if not torch.isfinite(x).all() else _scaling(x)
        raise ValueError(
            f"x: {type(transform).__name__} expected values in {_words(domain)}, got {_range(x)}, first in row "
            f"{row + _first(inside)}. {advice}"
        )


def _first(inside: Tensor) -> int:
    return int((~inside).nonzero()[0, 0])


def _range(x: Tensor) -> str:
    finite = torch.isfinite(x)
    if not finite.all():
        return f"{int((~finite).sum())} NaN or infinite values"
    return f"values from {float(x.min()):.4g} to {float(x.max()):.4g}"


def _words(support: Any) -> str:
    words = {
        "_Boolean": "0 or 1",
        "_Real": "real numbers",
        "_IntegerGreaterThan": "counts 0, 1, 2, ...",
        "_GreaterThan": f"numbers above {getattr(support, 'lower_bound', 0)}",
        "_IntegerInterval": f"classes {getattr(support, 'lower_bound', 0)} to {getattr(support, 'upper_bound', 0)}",
        "_Interval": f"[{getattr(support, 'lower_bound', 0):g}, {getattr(support, 'upper_bound', 0):g}]",
    }
    return words.get(type(support).__name__, str(support))


def _scaling(x: Tensor) -> str:
    if x.min() < 0:
        return "Map them to [0, 1]."
    return f"Divide by the greatest value that can be stored, e.g. ppvae.data.scale(x, {255 if x.max() > 16 else 16})."


def _advice(likelihood: str, x: Tensor) -> str:
    if likelihood == "Bernoulli":
        scaling = "Binarise" if 0 <= x.min() and x.max() <= 1 else f"{_scaling(x)} Then binarise"
        return (
            f"{scaling} grey values in [0, 1], e.g. fit(..., transform=ppvae.transforms.DynamicBinarization()) "
            "or choose a likelihood for them, e.g. likelihood=ppvae.nn.ContinuousBernoulliLikelihood()."
        )
    if likelihood == "ContinuousBernoulli":
        return _scaling(x)
    return "Transform the data, or choose another likelihood head from ppvae.nn."
