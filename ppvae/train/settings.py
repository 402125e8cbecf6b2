"""The settings of a training run: the arguments of :func:`ppvae.fit`, checked."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppvae.infer import TensorELBO
from ppvae.inputs import integer
from ppvae.train.checkpoint import summarize
from ppvae.train.distributed import Group
from ppvae.train.result import Callback
from ppvae.train.step import Transform
from ppvae.turns import exclusive


@dataclass
class Settings:
    """How a VAE is trained; see :func:`ppvae.fit` for each.

    :raises ValueError: if a setting is out of range, or two of them contradict each other.
    :raises FileExistsError: if there is a checkpoint and it is not to be continued.
    """

    epochs: int
    batch_size: int
    transform: Transform | None
    objective: TensorELBO
    lr: float
    optimizer: Callable[[Iterable[Tensor]], Optimizer] | None
    scheduler: Callable[[Optimizer], LRScheduler] | None
    clip_norm: float | None
    warmup: float
    patience: int | None
    seed: int | None
    device: str | torch.device | None
    dtype: torch.dtype | None
    compile: str | bool
    precision: str
    checkpoint: str | os.PathLike[str] | None
    resume: bool
    progress: bool
    callbacks: Sequence[Callback]

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_objects()
        if self.precision not in ("float32", "tf32", "bf16"):
            raise ValueError(f"precision: expected 'float32', 'tf32' or 'bf16', got {self.precision!r}")
        if self.device is not None and torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device: torch finds no CUDA device here, got {str(self.device)!r}; choose 'cpu'")
        self.continues = self.checkpoint is not None and Path(self.checkpoint).exists()
        if self.resume and self.checkpoint is None:
            raise ValueError("resume: name the file to continue from: checkpoint=...")
        if self.continues and not self.resume:
            raise FileExistsError(f"{self.checkpoint} exists; continue it with resume=True, or choose another file")

    def _check_numbers(self) -> None:
        self.epochs = integer("epochs", self.epochs)
        self.batch_size = integer("batch_size", self.batch_size)
        if self.patience is not None:
            self.patience = integer("patience", self.patience)
        if self.seed is not None:
            self.seed = integer("seed", self.seed, least=-(2**63))
        self.warmup = _number(self.warmup)
        if not 0 <= self.warmup < math.inf:
            raise ValueError(f"warmup: expected a number of at least 0, got {self.warmup}")
        self.lr = _positive("lr", self.lr)
        if self.clip_norm is not None:
            self.clip_norm = _positive("clip_norm", self.clip_norm)

    def _check_objects(self) -> None:
        if self.optimizer is not None and (isinstance(self.optimizer, PyroOptim) or not callable(self.optimizer)):
            raise ValueError(
                "optimizer: expected a function from the parameters to a torch optimizer, such as "
                f"lambda p: torch.optim.SGD(p, 0.1), got {type(self.optimizer).__name__}"
            )
        if not isinstance(self.objective, TensorELBO):
            raise ValueError(
                f"objective: expected an object of ppvae.infer such as ELBO(), got {self.objective!r}; "
                "Pyro's own objectives are trained with Pyro's SVI"
            )
        if self.compile not in ("auto", "graph", "inductor", False):
            raise ValueError(f"compile: expected 'auto', 'graph', 'inductor' or False, got {self.compile!r}")

    def join(self, processes: Group) -> None:
        """Be the settings of one of several processes: all with the seed of the first, which alone shows progress.

        :raises ValueError: if the steps are to be compiled.
        """
        if self.compile in ("graph", "inductor"):
            raise ValueError(f"compile: several processes train without compilation, got {self.compile!r}")
        self.compile, self.progress = False, self.progress and processes.rank == 0
        with exclusive():
            seed = int(torch.randint(2**31, ())) if self.seed is None else self.seed
        self.seed = processes.broadcast(seed)

    def summary(self) -> dict[str, Any]:
        """What must be the same where a run is continued, as JSON; data, optimizer and scheduler come beside it."""
        return {
            "batch_size": self.batch_size,
            "transform": summarize(self.transform),
            "objective": summarize(self.objective),
            "clip_norm": self.clip_norm,
            "warmup": self.warmup,
            "patience": self.patience,
            "seed": self.seed,
            **({} if self.precision == "float32" else {"precision": self.precision}),
        }


def _number(value: Any) -> Any:
    """A number of numpy's as one of Python's, which a checkpoint can store."""
    return value.item() if isinstance(value, np.generic) else value


def _positive(name: str, value: Any) -> float:
    number = _number(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return number
