"""Train a VAE: one function, one loop."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ppvae import parallel
from ppvae.checkpoint import Checkpoint, Generators, checksums, fingerprint, outline
from ppvae.infer import ELBO, TensorELBO
from ppvae.inputs import check_domain, check_support, on_disk, read_rows, to_tensors
from ppvae.isolation import isolated_param_store, matmul_precision
from ppvae.random import seeded
from ppvae.steps import (
    NotFiniteError,
    Source,
    Step,
    Sums,
    Transform,
    make_step,
    narrate,
    settle,
    transformed,
)
from ppvae.vae import VAE, check_vae_interface, device_and_dtype, evaluating

LR = 1e-3


@dataclass
class Fit:
    """What :func:`fit` returns and callbacks see.

    ``history`` has one list entry for each epoch. All but ``epoch``, ``kl_weight``, ``lr`` and ``seconds`` are nats per
    datum: ``loss`` (at the KL weight of the epoch), ``reconstruction`` = E log p(x|z), ``kl``, ``elbo`` =
    reconstruction - kl, further terms of the objective by their names, and the same with ``valid_`` in front, where
    ``valid_loss`` is at full KL weight. ``lr`` is there with a scheduler, and is that of the epoch.
    """

    vae: VAE
    history: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None  #: the epoch whose weights the VAE holds in the end
    best_loss: float = math.inf  #: its loss, with which later epochs are compared
    best_weights: dict[str, Tensor] = field(default_factory=dict, repr=False)  #: its weights, until the VAE holds them
    stopped: str = ""  #: why training ended: "epochs", "patience", "interrupted", or what a callback said
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return len(self.history.get("epoch", ()))

    @property
    def best(self) -> dict[str, float]:
        """The history at the best epoch."""
        if self.best_epoch is None:
            return {}
        row = self.history["epoch"].index(self.best_epoch)
        return {name: values[row] for name, values in self.history.items()}

    def state_dict(self) -> dict[str, Any]:
        """All but the VAE."""
        return {name: value for name, value in vars(self).items() if name != "vae"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state_dict`."""
        vars(self).update(state)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k} {v:.2f}" for k, v in self.best.items() if k.endswith(("elbo", "loss")))
        return f"Fit({self.epochs} epochs, stopped by {self.stopped}, best epoch {self.best_epoch}: {shown})"


class Callback(Protocol):
    """Called after each epoch with the state of training; setting ``fit.stopped`` to a reason ends it."""

    def __call__(self, fit: Fit) -> None: ...


def fit(
    vae: VAE,
    data: Any,
    *,
    validation: Any = None,
    epochs: int = 100,
    batch_size: int = 128,
    transform: Transform | None = None,
    objective: TensorELBO | None = None,
    lr: float = LR,
    optimizer: Callable[[Iterable[Tensor]], Optimizer] | None = None,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    clip_norm: float | None = None,
    warmup: float = 0,
    patience: int | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    compile: Literal["auto", "graph", "inductor", False] = "auto",
    precision: Literal["float32", "tf32", "bf16"] = "float32",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    """Train a VAE; it holds the best weights afterwards.

    Best is the smallest loss on the validation data at full KL weight (for the default objective: the largest
    validation ELBO). Where there are no validation data it is the smallest training loss of the epochs at full KL
    weight. An interrupt (Ctrl-C) ends training with the best weights in hand, as does an error. Training starts from
    the weights that the VAE has; ``torch.manual_seed`` before it is built fixes them.

    In a process group of torch.distributed, as torchrun makes it, all processes call it with the same data, and each
    trains on its share of every batch (:mod:`ppvae.parallel`); the first writes, shows progress and calls back.

    :param vae: a module with ``model(x, *given)``, ``guide(x, *given)`` and ``shape``.
    :param data: an array (numpy or tensor) of shape (n, *vae.shape), a tuple ``(x, *given)`` of arrays, a ``Dataset``
        or a ``DataLoader`` of such. Arrays are moved to the device once and sliced there. What does not fit is read
        batch by batch, and never whole, from ``numpy.load(file, mmap_mode="r")``.
    :param validation: held-out data of the same kind.
    :param epochs: passes over the data.
    :param batch_size: data a step; the last batch of an epoch may be smaller. A DataLoader has its own.
    :param transform: applied to x of each batch in each step, on the device, e.g.
        ``ppvae.transforms.DynamicBinarization()``. Validation data are transformed once, from seed 0, so that the
        validation losses of all epochs, and of all runs, are of the same data.
    :param objective: what is optimised; the ELBO where None.
    :param lr: learning rate of Adam, where no optimizer is given.
    :param optimizer: makes a torch optimizer from the parameters, e.g. ``lambda p: torch.optim.SGD(p, 0.1)``.
        Parameters on manifolds (geoopt) need one of ``geoopt.optim``.
    :param scheduler: makes a scheduler of the learning rate from the optimizer, e.g.
        ``lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100)``; it is stepped after each epoch,
        ``ReduceLROnPlateau`` with the loss that decides which epoch is best.
    :param clip_norm: greatest norm of the gradient of all parameters together; larger ones are scaled down to it.
    :param warmup: epochs in which the KL weight rises linearly from 0 to 1.
    :param patience: epochs without a better validation loss, counted from the end of the warm-up at the earliest, after
        which training stops; never where None.
    :param seed: seed of the order of the data and of all draws; the global generators are left as they were.
        Where None they are used and moved.
    :param device: where to train, e.g. ``"cuda"``; the VAE is moved there. Where None it stays.
    :param dtype: dtype to train in; the VAE is converted. Where None it stays.
    :param compile: how a step is run. "graph" captures it in a CUDA graph; "inductor" compiles the loss and its
        gradients, which takes seconds; False leaves it to Python. "auto" is "graph" on CUDA, and on a CPU "inductor"
        where at least 40000 steps are to come, twice the number that earns the compilation back, but for networks of
        images, whose convolutions gain nothing. Draws are the same;
        numbers differ in rounding. What cannot be traced is told, and runs as it is (:mod:`ppvae.steps`). Numbers of
        Python, such as an objective's ``beta``, are those of the first steps: where a callback changes one, take False.
        Several processes take "auto" or False, which is then False.
    :param precision: how networks compute. "tf32" multiplies matrices in TensorFloat-32, on CUDA; "bf16" runs the
        networks that :class:`ppvae.nn.Batched` wraps, as those of all models are, under autocast to bfloat16. "float32"
        leaves torch's settings as they are, by which convolutions on CUDA take TensorFloat-32. Weights,
        laws and densities stay in the dtype of training. On a CPU without bfloat16 units it is slower than float32.
    :param checkpoint: file to write the state of training to, before the first and after each epoch, whole or not at
        all.
    :param resume: whether to continue from the checkpoint, where there is one: a run on arrays comes to exactly the
        numbers that it would have come to without a stop. Data and options must be the same, save ``epochs``. Where
        there is none training starts from the beginning.
    :param progress: whether to show a progress bar on the standard error.
    :param callbacks: called after each epoch; :mod:`ppvae.callbacks` has some.
    :return: history and summary of the training.
    :raises ValueError: if shapes, dtypes or values do not fit the VAE, arguments are out of range, or the checkpoint is
        of another run.
    :raises FileExistsError: if there is a checkpoint and it is not to be continued.
    :raises FloatingPointError: if a loss is NaN or infinite, the message names epoch, step and site; or if the mean
        loss of an epoch is a thousand times that of the first step.
    """
    for name, value, low in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("warmup", warmup, 0),
        ("patience", patience, 1),
    ):
        if value is not None and not value >= low:
            raise ValueError(f"{name}: expected at least {low}, got {value}")
    for name, rate in (("lr", lr), ("clip_norm", clip_norm)):
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {rate}")
    if optimizer is not None and (isinstance(optimizer, PyroOptim) or not callable(optimizer)):
        raise ValueError(
            "optimizer: expected a function from the parameters to a torch optimizer, such as "
            f"lambda p: torch.optim.SGD(p, 0.1), got {type(optimizer).__name__}"
        )
    if optimizer is not None and lr != LR:
        raise ValueError(f"lr: {lr} would not be used, since an optimizer is given; give it its learning rate there")
    if patience is not None and validation is None:
        raise ValueError("patience: early stopping watches the validation loss; pass validation=...")
    if compile not in ("auto", "graph", "inductor", False):
        raise ValueError(f"compile: expected 'auto', 'graph', 'inductor' or False, got {compile!r}")
    if resume and checkpoint is None:
        raise ValueError("resume: name the file to continue from: checkpoint=...")
    if objective is not None and not isinstance(objective, TensorELBO):
        raise ValueError(
            f"objective: expected an object of ppvae.infer such as ELBO(), got {objective!r}; "
            "Pyro's own objectives are trained with Pyro's SVI"
        )
    check_vae_interface(vae)
    found = checkpoint is not None and Path(checkpoint).exists()
    if found and not resume:
        raise FileExistsError(f"{checkpoint} exists; continue it with resume=True, or choose another file")
    processes, order = parallel.group(), 0
    if processes is not None:
        if compile in ("graph", "inductor"):
            raise ValueError(f"compile: several processes train without compilation, got {compile!r}")
        compile, progress = False, progress and processes.rank == 0
        seed = order = processes.share(int(torch.randint(2**31, ())) if seed is None else seed)
        processes.wait()  # before the first of them writes the checkpoint that others look for

    vae.to(device=device, dtype=dtype)
    with (
        isolated_param_store(),
        seeded(seed),
        pyro.validation_enabled(False),
        matmul_precision(precision, device_and_dtype(vae)[0]),
    ):
        batches = _batches(vae, data, batch_size, transform, training=True, say=progress)
        held_out = None
        if validation is not None:
            held_out = _batches(vae, validation, batch_size, transform, training=False, say=False)
        if processes is not None:
            batches = _dealt(batches, processes, order)
            _check_last_batch(vae, batches.batches.n, batch_size, processes.size)
            held_out = held_out and _dealt(held_out, processes, 0)
        objective = objective or ELBO()
        parameters = [p for p in vae.parameters() if p.requires_grad]
        stepper = _adam(lr)(parameters) if optimizer is None else optimizer(parameters)
        if not isinstance(stepper, Optimizer):
            raise ValueError(f"optimizer: expected it to make a torch optimizer, got {type(stepper).__name__} from it")
        _check_manifolds(vae, stepper)
        groups = [{k: v for k, v in group.items() if k != "params"} for group in stepper.param_groups]
        schedule = None if scheduler is None else scheduler(stepper)
        result = Fit(vae, best_weights=_copy(vae))
        saved = None
        if checkpoint is not None:
            settings = {
                "data": batches.fingerprint(),
                "validation": None if held_out is None else held_out.fingerprint(),
                "batch_size": batch_size,
                "transform": outline(transform),
                "objective": outline(objective),
                "optimizer": {"type": type(stepper).__qualname__, "groups": outline(groups)},
                "scheduler": schedule and {"type": type(schedule).__qualname__, **outline(schedule.state_dict())},
                "clip_norm": clip_norm,
                "warmup": warmup,
                "patience": patience,
                "seed": seed,
                "dtype": str(device_and_dtype(vae)[1]),
                **({} if precision == "float32" else {"precision": precision}),
                **({} if processes is None else {"processes": processes.size}),
            }
            parts: dict[str, Any] = {
                "fit": result,
                "vae": vae,
                "optimizer": stepper,
                "generators": Generators(device_and_dtype(vae)[0]),
            }
            if schedule is not None:
                parts["scheduler"] = schedule
            saved = Checkpoint(checkpoint, vae, settings, parts)
            if found:
                saved.load()
                if result.epochs > epochs:
                    raise ValueError(f"epochs: {checkpoint} has done {result.epochs} already, got {epochs}")
                if progress:
                    print(f"ppvae: {checkpoint} continues after epoch {result.epochs}", file=sys.stderr)
                if isinstance(batches, parallel.Share):
                    batches.epoch = result.epochs
            elif processes is None or not processes.rank:
                saved.save()
        longest = epochs if patience is None else min(epochs, math.ceil(warmup) + patience + 1)
        say = narrate if progress or compile != "auto" else lambda message: None
        mode = settle(compile, vae, stepper, len(batches) * (longest - result.epochs), say)
        if isinstance(batches, parallel.Share):
            step = parallel.make_step(vae, objective, stepper, batches, clip_norm)
        else:
            step = make_step(mode, vae, objective, stepper, batches, clip_norm, say)
        return _train(
            result,
            step,
            batches,
            held_out,
            objective,
            stepper,
            schedule,
            epochs,
            warmup,
            patience,
            saved,
            progress,
            callbacks,
            processes,
        )


def _train(
    result: Fit,
    step: Step,
    batches: "Batches",
    held_out: "Batches | None",
    objective: TensorELBO,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    epochs: int,
    warmup: float,
    patience: int | None,
    checkpoint: Checkpoint | None,
    progress: bool,
    callbacks: Sequence[Callback],
    processes: "parallel.Group | None",
) -> Fit:
    vae = result.vae
    full_weight = objective.kl_weight
    whole = float(full_weight)
    objective.kl_weight = full_weight.to(device_and_dtype(vae)[0]).clone()  # a captured step reads it there
    vae.train()
    start = time.perf_counter() - result.seconds
    first = result.epochs + 1
    start_loss, limit = 0.0, math.inf
    steps = len(batches)
    bar = tqdm(
        total=epochs * steps or None,
        initial=result.epochs * steps,
        disable=not progress,
        unit="step",
        file=sys.stderr,
    )
    try:
        for epoch in range(first, first if result.stopped else epochs + 1):
            step.clear()
            lr = float(optimizer.param_groups[0]["lr"])
            for i, key in enumerate(batches):
                if epoch - 1 <= warmup:
                    done = epoch - 1 + i / max(steps, 1)
                    objective.kl_weight.fill_(whole * (min(1.0, done / warmup) if warmup else 1.0))
                step(*key)
                if epoch == 1 and i == 0:
                    # Neither chance nor the KL's warm-up raises a loss a thousandfold; steps that are too long do.
                    start_loss = step.mean()["loss"]
                    limit = 1000 * max(1.0, abs(start_loss))
                bar.update()
            record = {"epoch": float(epoch), **step.mean(), "kl_weight": float(objective.kl_weight)}
            if record["loss"] > limit:
                raise FloatingPointError(
                    f"the loss rose from {start_loss:.4g} in the first step to {record['loss']:.4g} in epoch {epoch} "
                    "(nats per datum): training diverges; lower the learning rate (lr=) or set clip_norm="
                )
            if processes is not None:
                processes.level(vae)
            if held_out is not None:
                objective.kl_weight.fill_(whole)
                sums = Sums() if processes is None else parallel.SharedSums(device_and_dtype(vae)[0])
                valid = _evaluate(vae, objective, held_out, epoch, sums)
                record |= {f"valid_{name}": value for name, value in valid.items()}
            result.seconds = record["seconds"] = time.perf_counter() - start
            if scheduler is not None:
                record["lr"] = lr
            for name, value in record.items():
                result.history.setdefault(name, []).append(value)
            bar.set_postfix_str(_postfix(record))

            score = record["loss" if held_out is None else "valid_loss"]
            # Training losses at different KL weights do not compare: the last epoch stands for the best of them.
            rising = held_out is None and epoch - 1 < warmup
            if rising or score < result.best_loss:
                result.best_loss = math.inf if rising else score
                result.best_weights, result.best_epoch = _copy(vae), epoch
            elif patience is not None and epoch - max(result.best_epoch or 0, math.ceil(warmup)) >= patience:
                result.stopped = "patience"
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(score)
            elif scheduler is not None:
                scheduler.step()
            if processes is None or not processes.rank:  # the first process alone calls, shows and writes
                for callback in callbacks:
                    callback(result)
                if checkpoint is not None:
                    checkpoint.save()
            if processes is not None:
                result.stopped = processes.share(result.stopped)
            if result.stopped:
                break
        result.stopped = result.stopped or "epochs"
    except NotFiniteError as error:
        raise FloatingPointError(_blame(vae, error.batch, f"epoch {epoch}, step {error.step}")) from None
    except KeyboardInterrupt:
        result.stopped = "interrupted"
        kept = f"weights of epoch {result.best_epoch}" if result.best_epoch else "initial weights"
        print(f"\nppvae: interrupted; the {kept} are kept", file=sys.stderr)
    finally:
        bar.close()
        objective.kl_weight = full_weight
        vae.load_state_dict(result.best_weights)
        vae.eval()
        result.best_weights = {}
    return result


class Batches(Source, Protocol):
    """Batches of one epoch: their keys, from which a step takes them."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]: ...

    def fingerprint(self) -> Any:
        """What tells these data from others, as JSON."""


class _Sliced:
    """Batches of tensors in memory, for training in a new random order each epoch; a key has the rows of one. x may be
    stored in another dtype than the one that it is taken in."""

    def __init__(
        self,
        tensors: tuple[Tensor, ...],
        batch_size: int,
        transform: Transform | None,
        shuffle: bool,
        dtype: torch.dtype | None = None,
    ):
        self.tensors, self.batch_size, self.transform, self.shuffle = tensors, batch_size, transform, shuffle
        self.n, self.dtype = tensors[0].shape[0], dtype or tensors[0].dtype

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(self.n) if self.shuffle else torch.arange(self.n)
        return self.keys(order.to(self.tensors[0].device).split(self.batch_size))

    def keys(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """The keys of batches of these rows."""
        return ((rows.to(self.tensors[0].device),) for rows in batches)

    def take(self, *key: Tensor) -> tuple[Tensor, ...]:
        x, *given = (t.index_select(0, *key) for t in self.tensors)
        return (x.to(self.dtype), *given)

    def fingerprint(self) -> Any:
        return fingerprint(self.tensors)


class _Loaded:
    """Batches of a DataLoader, prepared one by one; their values are checked in the first epoch. A key is a batch."""

    def __init__(self, vae: VAE, loader: Any, transform: Transform | None, say: bool):
        self.vae, self.loader, self.transform, self.say, self.checked = vae, loader, transform, say, False

    def __len__(self) -> int:
        try:
            return len(self.loader)
        except TypeError:  # an iterable dataset has no length
            return 0

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n = 0
        for batch in self.loader:
            tensors = to_tensors(self.vae, batch, announce=self.say)
            self.say = False
            if not self.checked:
                _check_values(self.vae, tensors, self.transform)
            yield tensors
            n += 1
        if not n:
            raise ValueError("data: expected at least one batch from the DataLoader, got none")
        self.checked = True

    def take(self, *key: Tensor) -> tuple[Tensor, ...]:
        return key

    def fingerprint(self) -> Any:
        return f"{type(self.loader.dataset).__qualname__}, {len(self)} batches"


class _OnDisk:
    """Batches of memory-mapped arrays: each is read while the one before it is used. A key is a batch.

    All values are checked, chunk by chunk, when it is made. The order is that of the same arrays in memory.
    """

    def __init__(self, vae: VAE, data: Any, batch_size: int, transform: Transform | None, shuffle: bool, say: bool):
        self.vae, self.data, self.batch_size, self.transform, self.shuffle = vae, data, batch_size, transform, shuffle
        self.n, chunk = len(data[0] if isinstance(data, (tuple, list)) else data), 4096
        sums: list[int] = []
        for start in range(0, max(self.n, 1), chunk):
            tensors = to_tensors(vae, read_rows(data, slice(start, start + chunk)), announce=say and not start)
            _check_values(vae, tensors, transform, start)
            sums = checksums(tensors, sums)
        self.identity = [
            f"{(self.n, *t.shape[1:])} {t.dtype} crc32 {total:08x}" for t, total in zip(tensors, sums, strict=True)
        ]

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(self.n) if self.shuffle else torch.arange(self.n)
        return self.keys(order.split(self.batch_size))

    def keys(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """The keys of batches of these rows, each read while the one before it is used."""
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for rows in batches:
                ready, ahead = ahead, reader.submit(self._read, rows.numpy())
                if ready is not None:
                    yield to_tensors(self.vae, ready.result())
            assert ahead is not None
            yield to_tensors(self.vae, ahead.result())

    def _read(self, rows: np.ndarray) -> tuple[Any, ...]:
        arrays = read_rows(self.data, rows)
        if device_and_dtype(self.vae)[0].type != "cuda":
            return arrays
        return tuple(torch.as_tensor(array).pin_memory() for array in arrays)

    def take(self, *key: Tensor) -> tuple[Tensor, ...]:
        return key

    def fingerprint(self) -> Any:
        return self.identity


def _batches(vae: VAE, data: Any, batch_size: int, transform: Transform | None, training: bool, say: bool) -> Batches:
    if isinstance(data, DataLoader):
        return _Loaded(vae, data, transform, say)
    if isinstance(data, Dataset):
        iterable = isinstance(data, torch.utils.data.IterableDataset)
        pinned = device_and_dtype(vae)[0].type == "cuda"
        loader = DataLoader(data, batch_size, shuffle=training and not iterable, pin_memory=pinned)
        return _Loaded(vae, loader, transform, say)
    if on_disk(data):
        mapped = _OnDisk(vae, data, batch_size, transform, training, say)
        if training:
            _check_last_batch(vae, mapped.n, batch_size)
        return mapped
    tensors = to_tensors(vae, data, announce=say, compact=training)
    dtype = device_and_dtype(vae)[1]
    n, chunk = tensors[0].shape[0], 4096 if tensors[0].dtype == torch.uint8 else tensors[0].shape[0]
    for start in range(0, n, chunk):
        x, *given = (t[start : start + chunk] for t in tensors)
        _check_values(vae, (x.to(dtype), *given), transform, start)
    if training:
        _check_last_batch(vae, n, batch_size)
        return _Sliced(tensors, batch_size, transform, shuffle=True, dtype=dtype)
    if transform is not None:
        with seeded(0):
            tensors = (transform(tensors[0]), *tensors[1:])
    return _Sliced(tensors, batch_size, None, shuffle=False)


def _dealt(batches: Batches, processes: "parallel.Group", seed: int) -> "parallel.Share":
    if not isinstance(batches, (_Sliced, _OnDisk)):
        raise ValueError(
            "data: several processes take their shares of arrays, in memory or memory-mapped, not of what a "
            "DataLoader or a Dataset makes; save it as .npy and pass numpy.load(file, mmap_mode='r'), or train in one "
            "process"
        )
    return parallel.Share(batches, processes, seed)


def _check_last_batch(vae: VAE, n: int, batch_size: int, processes: int = 1) -> None:
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in vae.modules())
    sizes = [min(n, batch_size), n % batch_size or batch_size]
    if normalised and min(sizes) // processes == 1:
        what = "a batch of one datum" if processes == 1 else f"one of {processes} processes a single datum"
        raise ValueError(
            f"batch_size: {n} data in batches of {batch_size} leave {what}, "
            "on which BatchNorm cannot train; choose another batch_size"
        )


def _check_values(
    vae: VAE, tensors: tuple[Tensor, ...], transform: Transform | None, row: int = 0, chunk: int = 4096
) -> None:
    """Check all data against the domain of the transform and, once transformed, the support of the likelihood; ``row``
    is the number of the first datum."""
    if transform is None:
        check_support(vae, tensors, row)
        return
    check_domain(transform, tensors[0], row)
    with seeded(0):
        for start in range(0, tensors[0].shape[0], chunk):
            x, *given = (t[start : start + chunk] for t in tensors)
            y = transform(x)
            if y.shape != x.shape:
                raise ValueError(f"transform: expected the shape {tuple(x.shape)} to stay, got {tuple(y.shape)}")
            check_support(vae, (y, *given), row + start)


def _check_manifolds(vae: VAE, optimizer: Optimizer) -> None:
    """A parameter on a manifold must have a Riemannian optimizer, which keeps it there."""
    if "geoopt" not in sys.modules:  # then no parameter is one of geoopt's
        return
    import geoopt

    curved = [name for name, p in vae.named_parameters() if isinstance(p, geoopt.ManifoldParameter)]
    if curved and not isinstance(optimizer, geoopt.optim.mixin.OptimMixin):
        raise ValueError(
            f"optimizer: the parameter {curved[0]} lies on a manifold, which {type(optimizer).__name__} would leave; "
            "pass optimizer=lambda p: geoopt.optim.RiemannianAdam(p, lr=1e-3)"
        )


def _evaluate(vae: VAE, objective: TensorELBO, batches: Batches, epoch: int, sums: Sums) -> dict[str, float]:
    # The same draws each epoch: the validation losses of two epochs then differ by the weights alone.
    with torch.no_grad(), evaluating(vae), seeded(0), pyro.validation_enabled(False):
        for key in batches:
            batch = transformed(batches.transform, batches.take(*key))
            terms = objective.all_terms(vae.model, vae.guide, *batch)
            sums.add(terms)
            sums.n += batch[0].shape[0]
            if not math.isfinite(terms["loss"].item()):
                raise FloatingPointError(_blame(vae, batch, f"epoch {epoch}, in the validation data"))
    return sums.mean()


def _adam(lr: float) -> Callable[[Iterable[Tensor]], Optimizer]:
    return lambda parameters: Adam(parameters, lr, fused=True)


def _copy(vae: VAE) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in vae.state_dict().items()}


def _postfix(record: dict[str, float]) -> str:
    name, word = ("elbo", "ELBO") if "elbo" in record else ("loss", "loss")
    shown = f"epoch {record['epoch']:.0f}, {word} {record[name]:.2f}"
    return shown + (f", validation {record[f'valid_{name}']:.2f} nats" if f"valid_{name}" in record else " nats")


def _blame(vae: VAE, batch: tuple[Tensor, ...], when: str) -> str:
    """Say where a loss that is not finite comes from: parameters, or the first site whose value or density is not."""
    where = f"the loss is not finite at {when}: "
    advice = "lower the learning rate (lr=), or clip gradients (clip_norm=)"
    broken = [name for name, p in vae.named_parameters() if not torch.isfinite(p).all()]
    if broken:
        return f"{where}the parameter {broken[0]} became NaN or infinite in an earlier step; {advice}"
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(vae.guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*batch)
        for trace, side in ((guide_trace, "guide"), (model_trace, "model")):
            for name, site in trace.nodes.items():
                if site["type"] != "sample":
                    continue
                law = type(site["fn"]).__name__
                if not torch.isfinite(site["value"]).all():
                    return f"{where}the {side}'s {law} at site {name!r} draws NaN or infinite values; {advice}"
                density = site["fn"].log_prob(site["value"])
                if not torch.isfinite(density).all():
                    worst = density[~torch.isfinite(density)][0].item()
                    return f"{where}the {side}'s {law} at site {name!r} has a log density of {worst}; {advice}"
    return f"{where}no single site shows it on a second draw; {advice}"
