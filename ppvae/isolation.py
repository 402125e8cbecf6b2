"""Isolation from the global state of Pyro and torch: turns for threads, and a parameter store that stays as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro

from ppvae.nn.registration import unregistered
from ppvae.turns import Session, exclusive

__all__ = ["Session", "exclusive", "isolated_param_store"]


@contextmanager
def isolated_param_store() -> Iterator[None]:
    """Leave Pyro's parameter store as it was, and register no parameters: they are read from the module."""
    with pyro.get_param_store().scope(), unregistered():
        yield
