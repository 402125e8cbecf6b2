"""From the user's arrays to the tensors of a VAE, checked once."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn import unregistered
from ppvae.nn.networks import network_dtype
from ppvae.random import seeded

VAE = Any  # an nn.Module with model, guide and shape


def check_pair(vae: VAE) -> None:
    """Raise a ValueError if ``vae`` is not a module with ``model``, ``guide`` and ``shape``."""
    if not (isinstance(vae, nn.Module) and all(hasattr(vae, name) for name in ("model", "guide", "shape"))):
        raise ValueError(f"vae: expected a torch module with model, guide and shape, got {type(vae).__name__}")


def home(vae: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the parameters of a VAE."""
    parameter = next(p for p in vae.parameters() if p.is_floating_point())
    return parameter.device, parameter.dtype


def to_tensors(vae: VAE, data: Any, say: bool = False, compact: bool = False) -> tuple[Tensor, ...]:
    """The batch ``(x, *given)`` on the device of the VAE, x in its dtype; labels (integers, booleans) keep theirs.

    :param data: an array x of shape (n, *vae.shape), or a tuple (x, *given) of arrays with equal n.
    :param say: whether a change of dtype is told on the standard error.
    :param compact: whether x of unsigned bytes stays so, a quarter of the memory, for the caller to cast by batches.
    :raises ValueError: for a wrong shape, a wrong dtype, no data, arrays of unequal length, or given arrays that do not
        keep to the constraints ``vae.given``, where the VAE has them.
    """
    device, dtype = home(vae)
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
            if say and i == 0:
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


def check_support(vae: VAE, data: tuple[Tensor, ...], row: int = 0, chunk: int = 4096) -> None:
    """Raise a ValueError if a value of x is outside the support of the likelihood at the observed site.

    The law is that of the first datum: the support of a likelihood does not depend on the latent. ``row`` is the number
    of the first datum, for messages.
    """
    check_finite(data[0], row)
    # Pyro's own checks would speak of what the encoder makes of values that it cannot read.
    with torch.no_grad(), evaluating(vae), own_store(), seeded(0), pyro.validation_enabled(False):
        guide_trace = poutine.trace(vae.guide).get_trace(*(t[:1] for t in data))
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*(t[:1] for t in data))
    if "x" not in model_trace or not model_trace.nodes["x"]["is_observed"]:
        raise ValueError("the model has no observed site 'x'; expected pyro.sample('x', law, obs=x) in it")
    law = model_trace.nodes["x"]["fn"]
    if tuple(law.event_shape) != tuple(vae.shape):
        raise ValueError(
            f"site 'x': expected a law with the event shape {tuple(vae.shape)} of one datum, got "
            f"{tuple(law.event_shape)}; say which dimensions belong to a datum with .to_event(len(shape))"
        )
    base = law
    while hasattr(base, "base_dist"):
        base = base.base_dist
    likelihood = type(base).__name__
    for start in range(0, data[0].shape[0], chunk):
        x = data[0][start : start + chunk]
        inside = law.support.check(x)
        if not inside.all():
            raise ValueError(
                f"x: expected values in the support of the {likelihood} likelihood ({_words(base.support)}), got "
                f"{_range(data[0])}, first in row {row + start + _first(inside)}. {_advice(likelihood, data[0])}"
            )


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


@contextmanager
def evaluating(vae: nn.Module) -> Iterator[None]:
    """Set eval mode, and restore the mode of every submodule."""
    modes = [(module, module.training) for module in vae.modules()]
    vae.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def own_store() -> Iterator[None]:
    """Leave Pyro's parameter store as it was, and send it no parameters: a VAE's are taken from the module."""
    with pyro.get_param_store().scope(), unregistered():
        yield


@contextmanager
def precise(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply matrices in ``"tf32"`` on CUDA, or run networks in ``"bf16"``; do nothing for ``"float32"``.

    :raises ValueError: for another precision, or for tf32 on another device.
    """
    if precision == "bf16":
        with network_dtype(torch.bfloat16):
            yield
    elif precision == "tf32":
        if device.type != "cuda":
            raise ValueError(f"precision: 'tf32' is a format of CUDA devices, got a model on {device}; choose 'bf16'")
        backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        before = [backend.allow_tf32 for backend in backends]
        try:
            for backend in backends:
                backend.allow_tf32 = True
            yield
        finally:
            for backend, allowed in zip(backends, before, strict=True):
                backend.allow_tf32 = allowed
    elif precision == "float32":
        yield
    else:
        raise ValueError(f"precision: expected 'float32', 'tf32' or 'bf16', got {precision!r}")
