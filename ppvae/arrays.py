"""From the user's arrays to the tensors of a VAE, checked once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn import unregistered

VAE = Any  # an nn.Module with model, guide and shape: see ppvae.protocol


def home(vae: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the parameters of a VAE."""
    parameter = next(p for p in vae.parameters() if p.is_floating_point())
    return parameter.device, parameter.dtype


def to_tensors(vae: VAE, data: Any, say: bool = False) -> tuple[Tensor, ...]:
    """The batch ``(x, *given)`` on the device of the VAE, x in its dtype; labels (integers, booleans) keep theirs.

    :param data: an array x of shape (n, *vae.shape), or a tuple (x, *given) of arrays with equal n.
    :param say: whether a change of dtype is told on the standard error.
    :raises ValueError: for a wrong shape, a wrong dtype, no data, or arrays of unequal length.
    """
    device, dtype = home(vae)
    arrays = data if isinstance(data, (tuple, list)) else (data,)
    tensors = []
    for i, array in enumerate(arrays):
        name = "x" if i == 0 else f"given[{i - 1}]"
        if not isinstance(array, (Tensor, np.ndarray)):
            raise ValueError(f"{name}: expected a numpy array or a torch tensor, got {type(array).__name__}")
        if isinstance(array, np.ndarray) and array.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected numbers, got an array of dtype {array.dtype}")
        tensor = torch.as_tensor(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array.detach()
        if tensor.is_complex():
            raise ValueError(f"{name}: expected real numbers, got {tensor.dtype}")
        if (i == 0 or tensor.is_floating_point()) and tensor.dtype != dtype:
            if say and i == 0:
                print(f"ppvae: {name} is cast from {tensor.dtype} to the model's {dtype}", file=sys.stderr)
            tensor = tensor.to(dtype)
        tensors.append(tensor.to(device))
    x = tensors[0]
    shape = tuple(vae.shape)
    if tuple(x.shape[1:]) != shape or x.dim() == 0:
        hint = ""
        if x.numel() and tuple(x.shape[1:]) == shape[1:] and shape[:1] == (1,):
            hint = "; add the channel with x[:, None]"
        elif tuple(x.shape) == shape:
            hint = "; for one datum use x[None]"
        raise ValueError(f"x: expected shape (n, {', '.join(map(str, shape))}), got {tuple(x.shape)}{hint}")
    if not x.shape[0]:
        raise ValueError(f"x: expected at least one datum, got shape {tuple(x.shape)}")
    for i, tensor in enumerate(tensors[1:]):
        if tensor.shape[:1] != x.shape[:1]:
            raise ValueError(f"given[{i}]: expected {x.shape[0]} rows as in x, got shape {tuple(tensor.shape)}")
    return tuple(tensors)


def check_support(vae: VAE, data: tuple[Tensor, ...], chunk: int = 4096) -> None:
    """Raise a ValueError if a value of x is outside the support of the likelihood at the observed site.

    The law is that of the first datum: the support of a likelihood does not depend on the latent.
    """
    with torch.no_grad(), evaluating(vae), own_store(), seeded(0):
        guide_trace = poutine.trace(vae.guide).get_trace(*(t[:1] for t in data))
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*(t[:1] for t in data))
    law = model_trace.nodes["x"]["fn"]
    x = data[0]
    for start in range(0, x.shape[0], chunk):
        part = x[start : start + chunk]
        inside = law.support.check(part)
        if not inside.all():
            row = start + int((~inside).nonzero()[0, 0])
            if not torch.isfinite(part).all():
                what = "NaN or infinite values"
            else:
                what = f"values from {float(x.min()):.4g} to {float(x.max()):.4g}"
            base = law
            while hasattr(base, "base_dist"):
                base = base.base_dist
            raise ValueError(
                f"x: expected values in the support of the {type(base).__name__} likelihood ({_describe(base.support)}), got "
                f"{what}, first in row {row}. {_advice(type(base).__name__, x)}"
            )


def _describe(support: Any) -> str:
    return {"Boolean": "0 or 1", "_Boolean": "0 or 1", "_Real": "real numbers"}.get(
        type(support).__name__, str(support)
    )


def _advice(likelihood: str, x: Tensor) -> str:
    if not torch.isfinite(x).all():
        return "Remove or impute these rows."
    if likelihood == "Bernoulli":
        return (
            "Binarise the data (ppvae.data.binarize; for grey values 0 to 255 or 0 to 16 scale them to [0, 1] first), or choose "
            "a likelihood for grey values, e.g. likelihood=ppvae.nn.NormalLikelihood(scale=0.1)."
        )
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
def seeded(seed: int | None) -> Iterator[None]:
    """Start the random generators from a seed, and leave them as they were; do nothing where the seed is None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        yield
