"""One step of training, run eagerly.

A step takes a batch, differentiates the loss of the objective, clips the gradients and moves the parameters. The terms
of the objective are added up for the history.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppvae.infer import TensorELBO
from ppvae.vae import VAE

Transform = Callable[[Tensor], Tensor]
#: The terms of the objective for a batch, and the number of data that they are sums over.
Measured = tuple[dict[str, Tensor], Tensor | float]

#: A step that does not wait for the device asks it after this many steps whether all losses were finite.
CHECK_EVERY = 100
#: It asks earlier where the batches that it keeps until then take this many bytes.
MAX_BYTES_KEPT = 2**28


class Source(Protocol):
    """Where batches come from. An iteration gives their keys, which are small where the data lie on the device."""

    transform: Transform | None

    def batch(self, *key: Tensor) -> tuple[Tensor, ...]:
        """The batch of a key, before the transform."""


class NotFiniteError(Exception):
    """The loss of a step is NaN or infinite; steps are counted from 1 in each epoch."""

    def __init__(self, step: int, batch: tuple[Tensor, ...]):
        super().__init__(step)
        self.step, self.batch = step, batch


def transformed(transform: Transform | None, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The batch as model and guide get it."""
    return batch if transform is None else (transform(batch[0]), *batch[1:])


class EpochTotals:
    """Sums of the terms over an epoch, kept on the device until they are read, for means over its data.

    A batch counts by its rows, of however many data its terms are sums: a subsampled plate, or ``poutine.scale`` with
    a number, lets each row stand for several. A tensor of scales weighs the rows, and a batch then counts by its
    weights.
    """

    WEIGHTS = " weights"  #: their sum is kept among those of the terms, under a name that no term has

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.rows = 0

    def add(self, terms: Mapping[str, Tensor | float], number_of_data: Tensor | float, rows: int) -> None:
        """Add the terms of one batch; the caller adds its rows to ``rows``."""
        factor = 1.0
        if isinstance(number_of_data, Tensor):
            terms = {**terms, self.WEIGHTS: number_of_data}
        else:
            factor = rows / number_of_data
        for name, value in terms.items():
            value = value if factor == 1 else value * factor
            if isinstance(value, float):
                self.sums[name] = self.sums.get(name, 0.0) + value
            elif name in self.sums:
                self.sums[name].add_(value.detach())
            else:
                self.sums[name] = value.detach().clone()

    def clear(self) -> None:
        """Start again from zero, in the same tensors."""
        self.sums = {name: v.zero_() if isinstance(v, Tensor) else 0.0 for name, v in self.sums.items()}
        self.rows = 0

    def mean(self) -> dict[str, float]:
        """Means in nats per datum, and ``elbo`` = reconstruction - kl if the objective has both."""
        sums = {name: float(value) for name, value in self.sums.items()}
        count = sums.pop(self.WEIGHTS, self.rows)
        mean = {name: value / count for name, value in sums.items()}
        elbo = {"elbo": mean["reconstruction"] - mean["kl"]} if {"reconstruction", "kl"} <= mean.keys() else {}
        return {"loss": mean.pop("loss"), **elbo, **mean}


class Gradients:
    """Computes the terms of the objective for a batch, and the gradients of its loss per datum in the parameters."""

    def __init__(self, vae: VAE, objective: TensorELBO, parameters: list[nn.Parameter], transform: Transform | None):
        self.vae, self.objective, self.parameters, self.transform = vae, objective, parameters, transform
        self.checked = False

    def measure(self, *batch: Tensor) -> Measured:
        """The terms for a batch before the transform, and the number of data that they are sums over."""
        return self.objective.measure(self.vae.model, self.vae.guide, *transformed(self.transform, batch))

    def __call__(self, *batch: Tensor) -> Measured:
        # Pyro's own checks cost as much as its traces: they are made in the first step only.
        with nullcontext() if self.checked else pyro.validation_enabled(True):
            terms, number_of_data = self.measure(*batch)
        self.checked = True
        for parameter in self.parameters:
            parameter.grad = None
        (terms["loss"] / number_of_data).backward()
        return terms, number_of_data


class Step:
    """One step of training, and the totals of the steps since ``clear``.

    :param gradients: returns what :class:`Gradients` does, and puts the gradients into the parameters.
    :param source: gives the batch of a key.
    :param optimizer: moves the parameters.
    :param clip_norm: greatest norm of all gradients together.
    :param totals: add up the terms.
    """

    def __init__(
        self,
        gradients: Callable[..., Measured],
        source: Source,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        totals: EpochTotals | None = None,
    ):
        self.gradients, self.source, self.optimizer, self.clip_norm = gradients, source, optimizer, clip_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.totals, self.steps = totals or EpochTotals(), 0

    def __call__(self, *key: Tensor) -> None:
        """Train on the batch of a key.

        :raises NotFiniteError: if the loss is not finite; on a CPU the parameters are then those before the step.
        """
        self.steps += 1
        batch = self.source.batch(*key)
        # On a CPU a value is read faster than an operator runs.
        measured, number_of_data = self.gradients(*batch)
        terms = {name: value.item() for name, value in measured.items()}
        if not math.isfinite(terms["loss"]):
            raise NotFiniteError(self.steps, transformed(self.source.transform, batch))
        self._move()
        rows = batch[0].shape[0]
        self.totals.add(terms, number_of_data, rows)
        self.totals.rows += rows

    def _move(self) -> None:
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()

    def mean(self) -> dict[str, float]:
        """Means of the terms over the steps since ``clear``."""
        return self.totals.mean()

    def clear(self) -> None:
        """Start the totals and the count of steps again from zero."""
        self.totals.clear()
        self.steps = 0


class DeviceStep(Step):
    """A step that does not wait for the device.

    The device keeps the number of the first step whose loss is not finite. It is asked for it every
    :data:`CHECK_EVERY` steps; until then the keys of the batches are kept. From the bad step on a fused optimizer
    leaves the parameters where they are, as it does for a gradient scaler.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        number = {"dtype": torch.float32, "device": self.parameters[0].device}  # as fused kernels read them
        self.finite = torch.ones((), **number)  #: 1 until a loss is not finite, then 0
        self.good = torch.zeros((), **number)  #: how many steps came before that
        self.not_finite = torch.zeros((), **number)
        self.keys: list[tuple[Tensor, ...]] = []
        self.bytes_kept = 0
        if all(group.get("fused") for group in self.optimizer.param_groups):
            self.optimizer.found_inf = self.not_finite  # type: ignore[attr-defined]

    def launch(self, *key: Tensor) -> None:
        """The part of a step that runs on the device."""
        batch = self.source.batch(*key)
        terms, number_of_data = self.gradients(*batch)
        self.finite.mul_(torch.isfinite(terms["loss"].detach()))
        self.good.add_(self.finite)
        self.not_finite.copy_(1 - self.finite)
        self._move()
        self.totals.add(terms, number_of_data, batch[0].shape[0])

    def __call__(self, *key: Tensor) -> None:
        self.launch(*key)
        self.count(*key)

    def count(self, *key: Tensor) -> None:
        """The part of a step that runs in Python."""
        self.steps += 1
        self.totals.rows += key[0].shape[0]
        self.keys.append(key)
        self.bytes_kept += sum(t.nbytes for t in key)
        if len(self.keys) == CHECK_EVERY or self.bytes_kept > MAX_BYTES_KEPT:
            self.check()

    def check(self) -> None:
        """Ask the device whether all losses were finite.

        :raises NotFiniteError: if one was not.
        """
        if not self.finite.item():
            step = int(self.good.item()) + 1
            batch = self.source.batch(*self.keys[step - 1 - self.steps + len(self.keys)])
            raise NotFiniteError(step, transformed(self.source.transform, batch))
        self.keys.clear()
        self.bytes_kept = 0

    def mean(self) -> dict[str, float]:
        self.check()
        return super().mean()

    def clear(self) -> None:
        super().clear()
        self.keys.clear()
        self.bytes_kept = 0
        self.good.zero_()
