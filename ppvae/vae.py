"""The contract: what a model/guide pair is, and how the rest of the library asks it.

A VAE is any torch module with ``model(x, *given)``, ``guide(x, *given)`` and ``shape``; there is no base class.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Size, Tensor, nn
from torch.distributions.constraints import Constraint

from ppvae.infer.sites import Needs, check_pair
from ppvae.isolation import exclusive, isolated_param_store
from ppvae.random import seeded

__all__ = ["VAE", "check_vae_interface", "device_and_dtype", "evaluating", "first_traces", "quiet"]


class VAE(Protocol):
    """A torch module that is a Pyro model and its guide.

    The methods of ``torch.nn.Module`` that the library calls are listed, since a protocol cannot inherit from a class.
    """

    shape: Size  #: of one datum
    given: Sequence[Constraint]  #: what model and guide are given beside x, one constraint for each array

    # Optional: ``code_site``, the name of a deterministic site of the model that stands for its latents. ``encode``
    # returns its value and ``decode`` takes it; without one both speak of the latents themselves.

    def model(self, x: Tensor, *given: Tensor) -> Any:
        """p(x, z): the data in ``pyro.plate("data", x.shape[0])`` at dim -1, observed at the site "x"."""

    def guide(self, x: Tensor, *given: Tensor) -> Any:
        """q(z | x): a sample site for each latent of the model."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def buffers(self, recurse: bool = True) -> Iterator[Tensor]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, *args: Any, **kwargs: Any) -> Any: ...


def check_vae_interface(vae: Any) -> None:
    """Raise a ValueError if ``vae`` is not a module with ``model``, ``guide`` and ``shape``.

    >>> check_vae_interface(nn.Linear(2, 2))
    Traceback (most recent call last):
    ValueError: vae: expected a torch module with model, guide and shape, got Linear without model, guide, shape
    """
    missing = [name for name in ("model", "guide", "shape") if not hasattr(vae, name)]
    if isinstance(vae, type):
        got, advice = f"the class {vae.__name__}", f"; make an instance of it, e.g. {vae.__name__}(shape=(1, 28, 28))"
    else:
        got, advice = type(vae).__name__, f" without {', '.join(missing)}" if missing else ", which is no torch module"
    if missing or not isinstance(vae, nn.Module):
        raise ValueError(f"vae: expected a torch module with model, guide and shape, got {got}{advice}")


def device_and_dtype(vae: Any) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the parameters of a VAE.

    :raises ValueError: if it has no floating point parameter.

    >>> device_and_dtype(nn.Linear(2, 2))
    (device(type='cpu'), torch.float32)
    """
    for parameter in vae.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    raise ValueError(f"vae: expected a module with parameters, got {type(vae).__name__} without any")


@contextmanager
def evaluating(vae: Any) -> Iterator[None]:
    """Set eval mode, and restore the mode of every submodule."""
    modes = [(module, module.training) for module in vae.modules()]
    vae.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def quiet(vae: VAE, seed: int | None = None) -> Iterator[None]:
    """The context in which everything is asked of a trained pair.

    Other threads wait (:mod:`ppvae.isolation`); Pyro's parameter store is left as it was; the VAE is in eval mode;
    gradients are off, and so is Pyro's validation, whose messages would be about what the encoder makes of values that
    it cannot read.

    :param seed: seed of the draws, after which the global generators are as they were. Without one they are used and
        moved.
    :raises ValueError: if ``vae`` is no pair.
    """
    check_vae_interface(vae)
    with exclusive(), isolated_param_store(), evaluating(vae), torch.no_grad():
        with pyro.validation_enabled(False), seeded(seed):
            yield


def first_traces(
    vae: VAE, data: Sequence[Tensor], needs: Needs | Callable[[str], Needs] = "draws"
) -> tuple[Trace, Trace]:
    """Traces of model and guide on the first datum, after the rules of :func:`ppvae.infer.sites.check_pair`.

    The random generators stay as they were.

    :param data: the batch ``(x, *given)`` as tensors of the VAE.
    :param needs: what will be computed.
    :return: model trace and guide trace.
    :raises ValueError: if the pair breaks a rule.
    """
    one = tuple(tensor[:1] for tensor in data)
    with quiet(vae, seed=0):
        guide_trace = poutine.trace(vae.guide).get_trace(*one)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*one)
    check_pair(model_trace, guide_trace, needs)
    return model_trace, guide_trace
