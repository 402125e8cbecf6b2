"""What every VAE class records: its parameters for Pyro, its options for a saved file."""

import difflib
import functools
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro
from torch import nn

_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_count = itertools.count()
_listening = ContextVar("_listening", default=True)


def register(module: nn.Module) -> None:
    """Give the trainable parameters of ``module`` to Pyro's parameter store, as ``pyro.module`` does.

    The name is unique to the instance, also to copies and unpickled instances. If two instances shared a name, the
    store would keep the parameters of the first, and plain SVI would never train the second, without a word.

    >>> with pyro.get_param_store().scope():
    ...     register(nn.Linear(1, 1))
    ...     [name.partition("$$$")[2] for name in pyro.get_param_store()]
    ['weight', 'bias']

    :param module: the VAE; call this first in its model and in its guide.
    """
    if not _listening.get():
        return
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_count)}"
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:  # pyro.module would warn of each frozen parameter at every call
            pyro.param(f"{_names[module]}$$${name}", parameter)


@contextmanager
def unregistered() -> Iterator[None]:
    """Make :func:`register` do nothing, for callers that take parameters from the module and not from Pyro's store.

    A message for each parameter in model and guide costs more than tracing their sample sites.

    >>> with pyro.get_param_store().scope(), unregistered():
    ...     register(nn.Linear(1, 1))
    ...     len(pyro.get_param_store())
    0
    """
    token = _listening.set(False)
    try:
        yield
    finally:
        _listening.reset(token)


def records_options(init: Callable[..., None]) -> Callable[..., None]:
    """Decorate ``__init__`` so that the instance keeps the options that built it, as ``options``.

    :func:`ppvae.save` writes them beside the weights, and :func:`ppvae.load` builds the instance from them. Options
    that have their default value are recorded too, so a later change of a default does not change a saved model.

    >>> class Scaled(nn.Module):
    ...     @records_options
    ...     def __init__(self, dim: int, scale: float = 1.0):
    ...         super().__init__()
    >>> Scaled(3).options
    {'dim': 3, 'scale': 1.0}
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in signature.parameters]
            near = [match for name in unknown for match in difflib.get_close_matches(name, signature.parameters, n=1)]
            hint = (
                f"; did you mean {near[0]!r}?"
                if near
                else f"; its options are {', '.join([*signature.parameters][1:])}"
            )
            raise TypeError(f"{type(self).__name__}: {error}{hint}") from None
        bound.apply_defaults()
        init(self, *args, **kwargs)
        if type(self).__init__ is recorded:  # a subclass with an __init__ of its own has other options
            self.options = dict(list(bound.arguments.items())[1:])

    return recorded
