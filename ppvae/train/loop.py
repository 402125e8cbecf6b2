"""The loop of training: epochs of steps, validation, the best weights, schedule, callbacks and checkpoint."""

import itertools
import math
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ppvae.random import seeded
from ppvae.train.batches import Batches
from ppvae.train.checkpoint import Checkpoint
from ppvae.train.compiled import Graph
from ppvae.train.distributed import Group, ShardTotals
from ppvae.train.divergence import explain_loss
from ppvae.train.progress import Progress
from ppvae.train.result import Fit
from ppvae.train.settings import Settings
from ppvae.train.step import EpochTotals, NotFiniteError, Step, transformed
from ppvae.turns import Session
from ppvae.vae import VAE, device_and_dtype, evaluating

Key = tuple[Tensor, ...]


class Loop:
    """A run of training. Every step, every batch of validation data and every callback is a turn of its session.

    :param fit: the state of training, which is that of a checkpoint where the run is continued.
    :param session: whose global state the steps run in.
    :param held_out: the validation data.
    :param processes: those that train together; the first of them alone calls back and writes.
    """

    checkpoint: Checkpoint | None = None
    step: Step | Graph

    def __init__(
        self,
        fit: Fit,
        settings: Settings,
        session: Session,
        batches: Batches,
        held_out: Batches | None,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        processes: Group | None,
    ):
        self.fit, self.settings, self.session = fit, settings, session
        self.batches, self.held_out = batches, held_out
        self.optimizer, self.scheduler, self.processes = optimizer, scheduler, processes
        self.first_process = processes is None or processes.rank == 0
        self.progress = Progress(settings.progress)
        self.objective, self.device = settings.objective, device_and_dtype(fit.vae)[0]
        self.full_weight = float(self.objective.kl_weight)
        self.kl_weight = self.objective.kl_weight.to(self.device).clone()  # a captured step reads it there

    def totals(self) -> EpochTotals:
        """Totals of an epoch, over the data of all processes."""
        return EpochTotals() if self.processes is None else ShardTotals(self.device)

    def run(self) -> Fit:
        """Train to the end; the VAE then holds the best weights, also after an error or Ctrl-C."""
        fit, first = self.fit, self.fit.epochs + 1
        self.start = time.perf_counter() - fit.seconds
        steps = len(self.batches)
        self.progress.start(self.settings.epochs * steps or None, fit.epochs * steps)
        try:
            with self._turn():
                fit.vae.train()
            for epoch in range(first, first if fit.stopped else self.settings.epochs + 1):
                self._run_epoch(epoch)
                if fit.stopped:
                    break
            fit.stopped = fit.stopped or "epochs"
        except KeyboardInterrupt:
            fit.stopped = "interrupted"
            kept = f"weights of epoch {fit.best_epoch}" if fit.best_epoch else "initial weights"
            print(f"\nppvae: interrupted; the {kept} are kept", file=sys.stderr)
        finally:
            self.progress.close()
            with self._turn():
                fit.vae.load_state_dict(fit.best_weights)
                fit.vae.eval()
            fit.best_weights = {}
        return fit

    @contextmanager
    def _turn(self, session: Session | None = None) -> Iterator[None]:
        """A turn of the run's session, or of another; the objective has the KL weight of this run meanwhile."""
        with (session or self.session).turn():
            own, self.objective.kl_weight = self.objective.kl_weight, self.kl_weight
            try:
                yield
            finally:
                self.objective.kl_weight = own

    def _run_epoch(self, epoch: int) -> None:
        lr = float(self.optimizer.param_groups[0]["lr"])
        try:
            terms, last = self._train(epoch)
        except NotFiniteError as error:
            with self._turn():
                raise self._not_finite(error.batch, f"epoch {epoch}, step {error.step}") from None
        record = {"epoch": float(epoch), **terms, "kl_weight": float(self.kl_weight)}
        self._check_size(record["loss"], f"in epoch {epoch}")
        self._check_last_step(epoch, last)
        if self.processes is not None:
            self.processes.broadcast_buffers(self.fit.vae)
        if self.held_out is not None:
            record |= {f"valid_{name}": value for name, value in self._validate(epoch, self.held_out).items()}
        self.fit.seconds = record["seconds"] = time.perf_counter() - self.start
        if self.scheduler is not None:
            record["lr"] = lr
        for name, value in record.items():
            self.fit.history.setdefault(name, []).append(value)
        self.progress.describe(record)
        score = record["loss" if self.held_out is None else "valid_loss"]
        self._keep_best(epoch, score)
        self._schedule(score)
        self._report()

    def _train(self, epoch: int) -> tuple[dict[str, float], Key]:
        """The steps of an epoch: means of the terms over the data, and the key of the last batch."""
        self.step.clear()
        last: Key = ()
        with self._turn():
            keys = iter(self.batches)  # which may draw the order of the data
        with closing(keys):
            for i in itertools.count():
                with self._turn():
                    key = next(keys, None)
                    if key is None:
                        break
                    self._warm_up(epoch, i)
                    self.step(*key)
                    last = key
                    if self.fit.first_loss is None:
                        self.fit.first_loss = self.step.mean()["loss"]
                self.progress.update()
        return self.step.mean(), last

    def _warm_up(self, epoch: int, step: int) -> None:
        """Set the KL weight of a step."""
        warmup = self.settings.warmup
        if epoch - 1 <= warmup:
            done = epoch - 1 + step / max(len(self.batches), 1)
            self.kl_weight.fill_(self.full_weight * (min(1.0, done / warmup) if warmup else 1.0))

    def _check_last_step(self, epoch: int, key: Key) -> None:
        """Evaluate the loss once more on the last batch: the last step of an epoch moved the weights after its loss.

        Without this, an epoch could end with useless weights and a good mean loss. The networks are in training mode,
        as BatchNorm's running statistics mean little after a few steps; the buffers stay as they were.
        """
        vae, totals = self.fit.vae, self.totals()
        with self._turn(), torch.no_grad(), _unchanged_buffers(vae), seeded(0):
            batch = transformed(self.batches.transform, self.batches.batch(*key))
            terms, number_of_data = self.objective.measure(vae.model, vae.guide, *batch)
            totals.add(terms, number_of_data, batch[0].shape[0])
            totals.rows += batch[0].shape[0]
            loss = totals.mean()["loss"]
            finite = torch.stack([torch.isfinite(p).all() for p in vae.parameters()]).all()
            if not (math.isfinite(loss) and finite):
                raise self._not_finite(batch, f"epoch {epoch}, after its last step")
        self._check_size(loss, f"after the last step of epoch {epoch}")

    def _not_finite(self, batch: tuple[Tensor, ...], when: str) -> FloatingPointError:
        return FloatingPointError(explain_loss(self.fit.vae, batch, when))

    def _check_size(self, loss: float, when: str) -> None:
        # Neither chance nor the KL's warm-up raises a loss a thousandfold; steps that are too long do.
        first = self.fit.first_loss
        if first is not None and loss > 1000 * max(1.0, abs(first)):
            raise FloatingPointError(
                f"the loss rose from {first:.4g} in the first step to {loss:.4g} {when} (nats per datum): training "
                "diverges; lower the learning rate (lr=) or set clip_norm="
            )

    def _validate(self, epoch: int, held_out: Batches) -> dict[str, float]:
        """Means of the terms over the validation data, at full KL weight."""
        vae, totals = self.fit.vae, self.totals()
        self.kl_weight.fill_(self.full_weight)
        # The same draws each epoch: the validation losses of two epochs then differ by the weights alone.
        with Session(0, self.session.tf32) as session, torch.no_grad():
            with self._turn(session):
                keys = iter(held_out)
            while True:
                with self._turn(session), evaluating(vae):
                    key = next(keys, None)
                    if key is None:
                        return totals.mean()
                    batch = transformed(held_out.transform, held_out.batch(*key))
                    terms, number_of_data = self.objective.measure(vae.model, vae.guide, *batch)
                    totals.add(terms, number_of_data, batch[0].shape[0])
                    totals.rows += batch[0].shape[0]
                    if not math.isfinite(terms["loss"].item()):
                        raise self._not_finite(batch, f"epoch {epoch}, in the validation data")

    def _keep_best(self, epoch: int, score: float) -> None:
        """Copy the weights if they are the best so far, or end training if patience is lost."""
        fit, settings = self.fit, self.settings
        # Training losses at different KL weights do not compare: the last epoch stands for the best of them.
        rising = self.held_out is None and epoch - 1 < settings.warmup
        if rising or score < fit.best_loss:
            fit.best_loss = math.inf if rising else score
            fit.best_weights, fit.best_epoch = copy_weights(fit.vae), epoch
        elif settings.patience is not None:
            if epoch - max(fit.best_epoch or 0, math.ceil(settings.warmup)) >= settings.patience:
                fit.stopped = "patience"

    def _schedule(self, score: float) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(score)
        elif self.scheduler is not None:
            self.scheduler.step()

    def _report(self) -> None:
        """Call back and write the checkpoint, by the first process alone."""
        if self.first_process:
            for callback in self.settings.callbacks:
                with self._turn():
                    callback(self.fit)
            if self.checkpoint is not None:
                with self._turn():
                    self.checkpoint.save()
        if self.processes is not None:
            self.fit.stopped = self.processes.broadcast(self.fit.stopped)


def copy_weights(vae: VAE) -> dict[str, Tensor]:
    """A copy of all tensors of a VAE."""
    return {name: value.detach().clone() for name, value in vae.state_dict().items()}


@contextmanager
def _unchanged_buffers(vae: VAE) -> Iterator[None]:
    """Put the buffers back to what they were."""
    before = [(buffer, buffer.clone()) for buffer in vae.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
