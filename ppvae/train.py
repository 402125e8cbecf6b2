"""Train a VAE: one function, one loop."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ppvae.arrays import VAE, check_support, evaluating, home, own_store, seeded, to_tensors
from ppvae.infer import ELBO, TensorELBO


@dataclass
class Fit:
    """What :func:`fit` returns and callbacks see.

    ``history`` has one list entry for each epoch. All but ``epoch``, ``kl_weight`` and ``seconds`` are nats per datum:
    ``loss`` (at the KL weight of the epoch), ``reconstruction`` = E log p(x|z), ``kl``, ``elbo`` = reconstruction - kl, further terms
    of the objective by their names, and the same with ``valid_`` in front, where ``valid_loss`` is at full KL weight.
    """

    vae: VAE
    history: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None  #: the epoch whose weights the VAE holds
    stopped: str = ""  #: why training ended: "epochs", "patience", "interrupted", or what a callback said
    seconds: float = 0.0

    @property
    def best(self) -> dict[str, float]:
        """The history at the best epoch."""
        if self.best_epoch is None:
            return {}
        row = self.history["epoch"].index(self.best_epoch)
        return {name: values[row] for name, values in self.history.items()}

    def __repr__(self) -> str:
        shown = ", ".join(f"{k} {v:.2f}" for k, v in self.best.items() if k.endswith(("elbo", "loss")))
        return f"Fit({len(self.history.get('epoch', []))} epochs, stopped by {self.stopped}, best epoch {self.best_epoch}: {shown})"


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
    objective: TensorELBO | None = None,
    lr: float = 1e-3,
    optimizer: Callable[[Iterable[Tensor]], Optimizer] | None = None,
    warmup: float = 0,
    patience: int | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    """Train a VAE; it holds the best weights afterwards.

    Best is the smallest loss on the validation data at full KL weight (for the default objective: the largest
    validation ELBO), or the smallest training loss where there are no validation data. An interrupt (Ctrl-C) ends training with the
    best weights in hand.

    :param vae: a module with ``model(x, *given)``, ``guide(x, *given)`` and ``shape``.
    :param data: an array (numpy or tensor) of shape (n, *vae.shape), a tuple ``(x, *given)`` of arrays, a ``Dataset`` or a
        ``DataLoader`` of such. Arrays are moved to the device once and sliced there.
    :param validation: held-out data of the same kind.
    :param epochs: passes over the data.
    :param batch_size: data a step; the last batch of an epoch may be smaller. A DataLoader has its own.
    :param objective: what is optimised; the ELBO where None.
    :param lr: learning rate of Adam, where no optimizer is given.
    :param optimizer: makes a torch optimizer from the parameters, e.g. ``lambda p: torch.optim.SGD(p, 0.1)``.
    :param warmup: epochs in which the KL weight rises linearly from 0 to 1.
    :param patience: epochs without a better validation loss after which training stops; never where None.
    :param seed: seed of the order of the data and of all draws; the global generators are left as they were.
        Where None they are used and moved.
    :param device: where to train, e.g. ``"cuda"``; the VAE is moved there. Where None it stays.
    :param dtype: dtype to train in; the VAE is converted. Where None it stays.
    :param progress: whether to show a progress bar on the standard error.
    :param callbacks: called after each epoch.
    :return: history and summary of the training.
    :raises ValueError: if shapes, dtypes or values do not fit the VAE, or arguments are out of range.
    :raises FloatingPointError: if the loss is NaN or infinite; the message names epoch, step and site.
    """
    for name, value, low in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("warmup", warmup, 0),
        ("patience", patience, 1),
    ):
        if value is not None and value < low:
            raise ValueError(f"{name}: expected at least {low}, got {value}")
    if optimizer is None and not lr > 0:
        raise ValueError(f"lr: expected a positive learning rate, got {lr}")
    if patience is not None and validation is None:
        raise ValueError("patience: early stopping watches the validation loss; pass validation=...")
    vae.to(device=device, dtype=dtype)
    with own_store(), seeded(seed):
        return _fit(
            vae,
            _batches(vae, data, batch_size, shuffle=True, say=progress),
            None if validation is None else _batches(vae, validation, batch_size, shuffle=False, say=False),
            objective or ELBO(),
            (optimizer or _adam(lr))([p for p in vae.parameters() if p.requires_grad]),
            epochs,
            warmup,
            patience,
            progress,
            callbacks,
        )


def _fit(
    vae: VAE,
    batches: "Batches",
    validation: "Batches | None",
    objective: TensorELBO,
    optimizer: Optimizer,
    epochs: int,
    warmup: float,
    patience: int | None,
    progress: bool,
    callbacks: Sequence[Callback],
) -> Fit:
    result = Fit(vae)
    best, weights = math.inf, _copy(vae)
    full_weight = objective.kl_weight
    objective.kl_weight = full_weight.to(home(vae)[0]).clone()
    vae.train()
    start = time.perf_counter()
    bar = tqdm(
        total=epochs * len(batches) if len(batches) else None,
        disable=not progress,
        unit="step",
        file=sys.stderr,
    )
    try:
        for epoch in range(1, epochs + 1):
            sums = Sums()
            for i, batch in enumerate(batches):
                done = epoch - 1 + i / max(len(batches), 1)
                objective.kl_weight.copy_(full_weight * (min(1.0, done / warmup) if warmup else 1.0))
                with pyro.validation_enabled(epoch == 1 and i == 0):
                    terms = objective.all_terms(vae.model, vae.guide, *batch)
                loss = terms["loss"] / batch[0].shape[0]
                if not math.isfinite(loss.item()):
                    raise FloatingPointError(_blame(vae, objective, batch, epoch, i + 1))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                sums.add(terms, batch[0].shape[0])
                bar.update()
            record = {"epoch": float(epoch), **sums.mean(), "kl_weight": float(objective.kl_weight)}
            if validation is not None:
                objective.kl_weight.copy_(full_weight)
                record |= {
                    f"valid_{name}": value for name, value in _evaluate(vae, objective, validation).items()
                }
            record["seconds"] = time.perf_counter() - start
            for name, value in record.items():
                result.history.setdefault(name, []).append(value)
            bar.set_postfix_str(_postfix(record))
            score = record["loss" if validation is None else "valid_loss"]
            if score < best:
                best, weights, result.best_epoch = score, _copy(vae), epoch
            elif patience is not None and epoch - (result.best_epoch or 0) >= patience:
                result.stopped = "patience"
            for callback in callbacks:
                callback(result)
            if result.stopped:
                break
        result.stopped = result.stopped or "epochs"
    except KeyboardInterrupt:
        result.stopped = "interrupted"
        print(f"\nppvae: interrupted; the weights of epoch {result.best_epoch} are kept", file=sys.stderr)
    finally:
        bar.close()
        objective.kl_weight = full_weight
        vae.load_state_dict(weights)
        vae.eval()
        result.seconds = time.perf_counter() - start
    return result


class Batches(Protocol):
    """Batches of one epoch, prepared for the VAE."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]: ...


class _Sliced:
    """Batches sliced from tensors in memory, in a new random order each epoch."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int, shuffle: bool):
        self.tensors, self.batch_size, self.shuffle = tensors, batch_size, shuffle

    def __len__(self) -> int:
        return -(-self.tensors[0].shape[0] // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n = self.tensors[0].shape[0]
        order = torch.randperm(n).to(self.tensors[0].device) if self.shuffle else None
        for start in range(0, n, self.batch_size):
            if order is None:
                yield tuple(t[start : start + self.batch_size] for t in self.tensors)
            else:
                rows = order[start : start + self.batch_size]
                yield tuple(t.index_select(0, rows) for t in self.tensors)


class _Loaded:
    """Batches of a DataLoader, prepared one by one; the support is checked in the first epoch."""

    def __init__(self, vae: VAE, loader: Any, say: bool):
        self.vae, self.loader, self.say, self.checked = vae, loader, say, False

    def __len__(self) -> int:
        try:
            return len(self.loader)
        except TypeError:  # an iterable dataset has no length
            return 0

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n = 0
        for batch in self.loader:
            tensors = to_tensors(self.vae, batch, say=self.say)
            self.say = False
            if not self.checked:
                check_support(self.vae, tensors)
            yield tensors
            n += 1
        if not n:
            raise ValueError("data: expected at least one batch from the DataLoader, got none")
        self.checked = True


def _batches(vae: VAE, data: Any, batch_size: int, shuffle: bool, say: bool) -> Batches:
    if isinstance(data, DataLoader):
        return _Loaded(vae, data, say)
    if isinstance(data, Dataset):
        iterable = isinstance(data, torch.utils.data.IterableDataset)
        return _Loaded(vae, DataLoader(data, batch_size, shuffle=shuffle and not iterable), say)
    tensors = to_tensors(vae, data, say=say)
    check_support(vae, tensors)
    return _Sliced(tensors, batch_size, shuffle)


class Sums:
    """Sums of the terms over an epoch, kept on the device until they are read."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.n = 0

    def add(self, terms: dict[str, Tensor], n: int) -> None:
        for name, value in terms.items():
            self.total[name] = self.total.get(name, 0) + value.detach()
        self.n += n

    def mean(self) -> dict[str, float]:
        """Means in nats per datum, with ``elbo`` = reconstruction - kl."""
        mean = {name: float(value) / self.n for name, value in self.total.items()}
        return {"loss": mean.pop("loss"), "elbo": mean["reconstruction"] - mean["kl"], **mean}


def _evaluate(vae: VAE, objective: TensorELBO, batches: Batches) -> dict[str, float]:
    sums = Sums()
    # The same draws each epoch: the validation losses of two epochs then differ by the weights alone.
    with torch.no_grad(), evaluating(vae), seeded(0), pyro.validation_enabled(False):
        for batch in batches:
            sums.add(objective.all_terms(vae.model, vae.guide, *batch), batch[0].shape[0])
    return sums.mean()


def _adam(lr: float) -> Callable[[Iterable[Tensor]], Optimizer]:
    return lambda parameters: Adam(parameters, lr, fused=True)


def _copy(vae: VAE) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in vae.state_dict().items()}


def _postfix(record: dict[str, float]) -> str:
    shown = f"epoch {record['epoch']:.0f}, ELBO {record['elbo']:.2f}"
    return shown + (f", validation {record['valid_elbo']:.2f} nats" if "valid_elbo" in record else " nats")


def _blame(vae: VAE, objective: TensorELBO, batch: tuple[Tensor, ...], epoch: int, step: int) -> str:
    """Say where a loss that is not finite comes from: parameters, or the first site whose value or density is not."""
    where = f"the loss is not finite at epoch {epoch}, step {step}: "
    broken = [name for name, p in vae.named_parameters() if not torch.isfinite(p).all()]
    if broken:
        return f"{where}the parameter {broken[0]} became NaN or infinite in the step before; lower the learning rate (lr=)"
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(vae.guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*batch)
        for trace, side in ((guide_trace, "guide"), (model_trace, "model")):
            for name, site in trace.nodes.items():
                if site["type"] != "sample":
                    continue
                if not torch.isfinite(site["value"]).all():
                    return f"{where}the guide draws NaN or infinite values at site {name!r} from {site['fn']}; lower the learning rate (lr=)"
                density = site["fn"].log_prob(site["value"])
                if not torch.isfinite(density).all():
                    return f"{where}log density of {density[~torch.isfinite(density)][0].item()} at site {name!r} of the {side}; lower the learning rate (lr=)"
    return f"{where}no single site shows it on a second draw; lower the learning rate (lr=)"
