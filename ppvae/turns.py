"""Turns: one thread at a time uses the global state of Pyro and torch.

Pyro's stack of handlers, its parameter store and its validation flags belong to the process, and so do torch's random
generators. Two threads that use them at once read each other's draws and handlers. Every public function of ppvae
therefore takes turns, in one queue for the whole process:

* a question to a trained pair, such as ``generate`` or ``log_likelihood``, is one turn;
* a training step is one turn, so that a run leaves the queue to others between its steps.

A run that another thread interrupts takes its generators and its parameter store with it, and puts them back at its
next turn. Its numbers are those of a run that is alone. ``benchmarks/threads.py`` prints what turns cost.

Three things remain with the user:

* Code of the user's own that draws from torch's global generator, or runs Pyro outside of ppvae, does not queue. Hold
  :func:`exclusive` around such code, or give it a process of its own.
* A turn must not wait for another thread that asks for one: a callback of ``fit`` may ask a VAE anything itself, but it
  must not start a thread that asks and wait for it.
* A ``fit`` within a turn, such as a callback's, is part of this turn: other threads wait until it ends.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import runtime

__all__ = ["Session", "exclusive", "reseed"]


class _Queue:
    """A reentrant lock that threads get in the order in which they asked for it.

    ``threading.RLock`` knows no order: a thread that releases and asks again at once, as a training loop does, keeps it
    from all others.
    """

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.waiting: dict[int, threading.Event] = {}  #: threads in the order in which they asked
        self.owner: int | None = None
        self.depth = 0

    def depth_here(self) -> int:
        """How many turns this thread is in, one within another."""
        return self.depth if self.owner == threading.get_ident() else 0

    def enter(self) -> None:
        """Wait for a turn, and begin it."""
        here = threading.get_ident()
        with self.guard:
            if self.owner is None or self.owner == here:
                self.owner, self.depth = here, self.depth + 1
                return
            turn = self.waiting[here] = threading.Event()
        while self.owner != here:
            turn.wait(1.0)  # not for ever, since Ctrl-C can keep the owner from setting the event

    def leave(self, depth: int) -> None:
        """Go back to ``depth`` turns; the thread that has waited longest then takes over from one that has none left.

        Ctrl-C can come at any moment, also while this thread waits. Hence a depth to go back to, not a count of ends.
        """
        here = threading.get_ident()
        with self.guard:
            self.waiting.pop(here, None)
            if self.owner != here:
                return
            if depth:
                self.depth = depth
                return
            longest = next(iter(self.waiting), None)
            self.owner, self.depth = longest, 0 if longest is None else 1
            if longest is not None:
                self.waiting.pop(longest).set()

    def renew(self) -> bool:
        """Forget all other threads, and say whether one of them had the turn."""
        elsewhere = self.owner not in (None, threading.get_ident())
        self.guard, self.waiting = threading.Lock(), {}
        if elsewhere:
            self.owner, self.depth = None, 0
        return elsewhere


#: The three parts of Pyro that have a switch for validation each.
_VALIDATORS: tuple[Any, ...] = (pyro.infer, pyro.distributions, poutine)

_queue = _Queue()
#: The session whose state is in place, at its turn or between two of its turns.
_present: "Session | None" = None


def _after_fork() -> None:
    """In a forked child only the thread that forked lives on: no other would ever end its turn.

    The handlers of a thread that was amid its turn would stay on Pyro's stack.
    """
    if _queue.renew():
        runtime._PYRO_STACK.clear()
        runtime._DIM_ALLOCATOR._stack.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def exclusive() -> Iterator[None]:
    """Keep all other threads from the global state of Pyro and torch; a thread may nest it.

    >>> with exclusive():
    ...     pass
    """
    depth = _queue.depth_here()
    try:
        _queue.enter()
        if not depth and _present is not None:
            _present.leave()
        yield
    finally:
        _queue.leave(depth)


class Session:
    """The global state in which one run trains: its generators, an empty parameter store, and no validation.

    ::

        with Session(seed=0) as session:
            for _ in range(steps):
                with session.turn():
                    step()

    Outside of its turns the state of the run stays in place until another thread takes a turn.

    :param seed: the seed of the run's generators. Without one the run draws from the global generators and moves them.
    :param tf32: whether matrices are multiplied in TensorFloat-32 on CUDA.
    """

    def __init__(self, seed: int | None = None, tf32: bool = False):
        self.seed, self.tf32 = seed, tf32
        self.store: Any = {"params": {}, "constraints": {}}
        self.generators: Any = None  #: of the run, while they are not in place
        self.outer: tuple[Any, ...] = ()  #: what was in place before the run
        self.below: Session | None = None  #: the run in whose turn this one began, in the same thread
        self.depth = 0  #: how many turns the thread was in when the run began

    def __enter__(self) -> "Session":
        self.depth = _queue.depth_here()
        try:
            with exclusive():
                self.below = _present
                self._install()
                if self.seed is not None:
                    torch.manual_seed(self.seed)
        except BaseException:  # a seed that torch does not take, or Ctrl-C
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        global _present
        try:
            _queue.enter()  # not exclusive(): what is in place may be the state to be taken away
            if _present is self:
                self._uninstall()
                _present = self.below
        finally:
            _queue.leave(self.depth)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One turn of the run, such as a training step."""
        depth = _queue.depth_here()
        try:
            _queue.enter()
            if _present is not self:
                if _present is not None:
                    _present.leave()
                self._install()
            yield
        finally:
            _queue.leave(depth)

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
            [backend.allow_tf32 for backend in _backends()] if self.tf32 else [],
        )
        _present = self
        store.clear()
        store.set_state(self.store)
        for switch in _VALIDATORS:
            switch.enable_validation(False)
        if self.tf32:
            for backend in _backends():
                backend.allow_tf32 = True
        if self.generators is not None:
            _set_generators(self.generators)

    def _uninstall(self) -> None:
        generators, state, validated, allowed = self.outer
        store = pyro.get_param_store()
        self.store = store.get_state()
        store.clear()
        store.set_state(state)
        for switch, enabled in zip(_VALIDATORS, validated, strict=True):
            switch.enable_validation(enabled)
        if self.tf32:
            for backend, allow in zip(_backends(), allowed, strict=True):
                backend.allow_tf32 = allow
        if self.seed is not None:
            self.generators = _generators()
            _set_generators(generators)


def reseed(seed: int) -> None:
    """Start the generators of the session whose turn it is from another seed."""
    torch.manual_seed(seed)


def _backends() -> list[Any]:
    """What multiplies matrices on CUDA."""
    return [torch.backends.cuda.matmul, torch.backends.cudnn]


def _generators() -> tuple[Any, ...]:
    """The states of torch's global generators."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state_all(states[1])
