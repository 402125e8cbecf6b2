"""Isolation from the global state of Pyro and torch: one thread at a time, with its own generator and parameter store.

Pyro's stack of handlers, its parameter store and its validation flags belong to the process, and so do torch's random
generators. Two threads that use them at once read each other's draws and handlers. Every public function of ppvae
therefore takes turns, in one queue for the whole process:

* a question to a trained pair, such as ``generate`` or ``log_likelihood``, is one turn;
* a training step is one turn, so that a run leaves the queue to others between its steps.

A run that is interrupted by another thread takes its generators and its parameter store with it and puts them back at
its next turn, so its numbers are those of a run that is alone. A turn costs 2 microseconds where no other thread waits,
and a change of the thread 60 microseconds. Code of the user's own that draws from torch's global generator, or runs
Pyro outside of ppvae, does not queue: give such code its own process, or hold :func:`exclusive` around it.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine

from ppvae.nn.networks import network_dtype
from ppvae.nn.registration import unregistered

__all__ = ["Session", "exclusive", "isolated_param_store", "matmul_precision"]


class _Queue:
    """A reentrant lock that threads get in the order in which they asked for it.

    ``threading.RLock`` knows no order: a thread that releases and asks again at once, as a training loop does, keeps it
    from all others.
    """

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.waiting: deque[tuple[int, threading.Event]] = deque()
        self.owner: int | None = None
        self.depth = 0

    def acquire(self) -> None:
        me = threading.get_ident()
        with self.guard:
            if self.owner in (None, me):  # the queue is empty whenever there is no owner
                self.owner, self.depth = me, self.depth + 1
                return
            turn = threading.Event()
            self.waiting.append((me, turn))
        try:
            turn.wait()
        except BaseException:  # Ctrl-C
            with self.guard:
                if not turn.is_set():
                    self.waiting.remove((me, turn))
                    raise
            self.release()
            raise

    def release(self) -> None:
        with self.guard:
            self.depth -= 1
            if self.depth:
                return
            self.owner = None
            if self.waiting:
                self.owner, turn = self.waiting.popleft()
                self.depth = 1
                turn.set()


#: The three parts of Pyro that have a switch for validation each.
_VALIDATORS: tuple[Any, ...] = (pyro.infer, pyro.distributions, poutine)

_queue = _Queue()
#: The run whose generator and store are in place, at its turn or between two of its turns.
_present: "Session | None" = None


def _renew() -> None:
    """In a forked child no other thread lives on, so none would ever leave the queue."""
    global _queue, _present
    _queue, _present = _Queue(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def exclusive() -> Iterator[None]:
    """Keep all other threads from the global state of Pyro and torch; a thread may nest it.

    >>> with exclusive():
    ...     pass
    """
    queue = _queue
    queue.acquire()
    try:
        if queue.depth == 1 and _present is not None:
            _present.leave()
        yield
    finally:
        queue.release()


class Session:
    """The global state in which one run trains: its generators, an empty parameter store, and no validation.

    ::

        with Session(seed=0) as session:
            for _ in range(steps):
                with session.turn():
                    step()

    Outside of its turns the state of the run stays in place until another thread takes a turn.

    :param seed: the seed of the run's generators. Without one the run draws from the global generators and moves them.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed
        self.store: Any = {"params": {}, "constraints": {}}
        self.generators: Any = None  #: of the run, while they are not in place
        self.outer: tuple[Any, ...] = ()  #: what was in place before the run
        self.below: Session | None = None  #: the run in whose turn this one began, in the same thread

    def __enter__(self) -> "Session":
        global _present
        self.contexts = ExitStack()
        self.contexts.enter_context(unregistered())
        with exclusive():
            self.below = _present
            self._install()
            if self.seed is not None:
                torch.manual_seed(self.seed)
        return self

    def __exit__(self, *exception: Any) -> None:
        global _present
        queue = _queue
        queue.acquire()  # not exclusive(): what is in place may be the state to be taken away
        try:
            if _present is self:
                self._uninstall()
                _present = self.below
        finally:
            queue.release()
            self.contexts.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One turn of the run, such as a training step."""
        queue = _queue
        queue.acquire()
        try:
            if _present is not self:
                if _present is not None:
                    _present.leave()
                self._install()
            yield
        finally:
            queue.release()

    def leave(self) -> None:
        """Give way to another thread."""
        global _present
        self._uninstall()
        _present = None

    def _install(self) -> None:
        global _present
        store = pyro.get_param_store()
        self.outer = (
            None if self.seed is None else _generators(),
            store.get_state(),
            [switch.is_validation_enabled() for switch in _VALIDATORS],
        )
        store.clear()
        store.set_state(self.store)
        for switch in _VALIDATORS:
            switch.enable_validation(False)
        if self.generators is not None:
            _set_generators(self.generators)
        _present = self

    def _uninstall(self) -> None:
        generators, state, validated = self.outer
        store = pyro.get_param_store()
        self.store = store.get_state()
        store.clear()
        store.set_state(state)
        for switch, enabled in zip(_VALIDATORS, validated, strict=True):
            switch.enable_validation(enabled)
        if self.seed is not None:
            self.generators = _generators()
            _set_generators(generators)


def _generators() -> tuple[Any, ...]:
    """The states of torch's global generators."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state_all(states[1])


@contextmanager
def isolated_param_store() -> Iterator[None]:
    """Leave Pyro's parameter store as it was, and register no parameters: they are read from the module."""
    with pyro.get_param_store().scope(), unregistered():
        yield


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply matrices in TensorFloat-32 on CUDA for ``"tf32"``, run networks in bfloat16 for ``"bf16"``.

    ``"float32"`` changes nothing.

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
