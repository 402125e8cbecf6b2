"""Train a VAE: arguments in, :class:`Fit` out."""

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppvae.infer import ELBO, TensorELBO
from ppvae.nn.networks import network_dtype
from ppvae.nn.registration import unregistered
from ppvae.tracing import log_line
from ppvae.train import distributed
from ppvae.train.batches import Batches, DataCheck, check_batch_sizes, make_batches
from ppvae.train.checkpoint import Checkpoint, Generators, summarize
from ppvae.train.compiled import Graph, make_step, resolve_compile_mode
from ppvae.train.distributed import Group, Shard, ShardGradients, shard
from ppvae.train.loop import Loop, copy_weights
from ppvae.train.result import Callback, Fit
from ppvae.train.settings import Settings
from ppvae.train.step import Gradients, Step, Transform
from ppvae.turns import Session, exclusive
from ppvae.vae import VAE, check_vae_interface, device_and_dtype

LR = 1e-3


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
    validation ELBO). Without validation data it is the smallest training loss of the epochs at full KL weight. Ctrl-C
    ends training with the best weights in hand, as does an error. Training starts from the weights that the VAE has;
    ``torch.manual_seed`` before it is built fixes them.

    Threads may train and ask at the same time (:mod:`ppvae.turns`): other threads get their answers between the steps.
    In a process group of torch.distributed, as torchrun makes it, all processes call ``fit`` with the same data, and
    each trains on its shard of every batch (:mod:`ppvae.train.distributed`); the first writes, shows progress and calls
    back.

    :param vae: a module with ``model(x, *given)``, ``guide(x, *given)`` and ``shape``.
    :param data: an array (numpy or tensor) of shape (n, *vae.shape), a tuple ``(x, *given)`` of arrays, a ``Dataset``
        or a ``DataLoader`` of such. Arrays are moved to the device once and sliced there. An array that is too large
        for that is read batch by batch, and never whole, from ``numpy.load(file, mmap_mode="r")``.
    :param validation: held-out data of the same kind.
    :param epochs: passes over the data.
    :param batch_size: data a step; the last batch of an epoch may be smaller. A DataLoader has its own.
    :param transform: applied to x of each batch in each step, on the device, e.g.
        ``ppvae.transforms.DynamicBinarization()``. Validation data are transformed once, from seed 0, so that the
        validation losses of all epochs, and of all runs, are of the same data.
    :param objective: what is optimised; by default the ELBO.
    :param lr: learning rate of Adam, the default optimizer.
    :param optimizer: makes a torch optimizer from the parameters, e.g. ``lambda p: torch.optim.SGD(p, 0.1)``.
        Parameters on manifolds (geoopt) need one of ``geoopt.optim``.
    :param scheduler: makes a scheduler of the learning rate from the optimizer, e.g.
        ``lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100)``; it is stepped after each epoch,
        ``ReduceLROnPlateau`` with the loss that decides which epoch is best.
    :param clip_norm: greatest norm of the gradient of all parameters together; larger ones are scaled down to it.
    :param warmup: epochs in which the KL weight rises linearly from 0 to 1.
    :param patience: training stops after this many epochs without a better validation loss, counted from the end of
        the warm-up at the earliest. By default it does not.
    :param seed: seed of the order of the data and of all draws; the global generators are left as they were. Without a
        seed they are used and moved.
    :param device: where to train, e.g. ``"cuda"``; the VAE is moved there. By default it stays where it is.
    :param dtype: dtype to train in; the VAE is converted. By default it keeps its own.
    :param compile: how a step runs. "graph" captures it in a CUDA graph. "inductor" compiles the loss and its
        gradients, which takes seconds. False runs it eagerly. "auto" is "graph" on CUDA; on a CPU it is "inductor" if
        at least 40000 steps are to come, twice the number that earns the compilation back, and no network convolves,
        since convolutions gain nothing. Draws are the same in all modes; numbers differ in rounding. If a step cannot
        be traced, fit says so and runs it eagerly (:mod:`ppvae.train.compiled`). A compiled step keeps the numbers of
        Python that the first steps had, such as an objective's ``beta``; if a callback changes one, take False. Several
        processes take "auto" or False, which is then False.
    :param precision: how networks compute. "tf32" multiplies matrices in TensorFloat-32, on CUDA; "bf16" runs the
        networks that :class:`ppvae.nn.Batched` wraps, as those of all models are, under autocast to bfloat16. "float32"
        leaves torch's settings as they are, by which convolutions on CUDA take TensorFloat-32. Weights,
        laws and densities stay in the dtype of training. On a CPU without bfloat16 units it is slower than float32.
    :param checkpoint: file to write the state of training to, before the first and after each epoch, whole or not at
        all.
    :param resume: whether to continue from the checkpoint, if there is one; else training starts from the beginning. A
        run on arrays that continues comes to exactly the numbers that it would have come to without a stop. Data and
        options must be the same, save ``epochs``.
    :param progress: whether to show a progress bar on the standard error.
    :param callbacks: called after each epoch with the :class:`ppvae.train.Fit`; :mod:`ppvae.callbacks` has some. A
        callback ends training by setting ``fit.stopped`` to a reason.
    :return: history and summary of the training.
    :raises ValueError: if shapes, dtypes or values do not fit the VAE, the guide does not fit the prior and the
        objective, arguments are out of range, or the checkpoint is of another run.
    :raises FileExistsError: if there is a checkpoint and it is not to be continued.
    :raises FloatingPointError: if a loss or a parameter is NaN or infinite, the message names epoch, step and site; or
        if the loss, of an epoch in the mean or after its last step, is a thousand times that of the first step. The VAE
        then holds the best weights of the epochs before, or those that it had at the start.

    >>> import torch
    >>> from ppvae.models import GaussianVAE
    >>> x = torch.eye(8).repeat(8, 1)
    >>> result = fit(GaussianVAE((8,), dim=2, hidden=(16,)), x, epochs=2, batch_size=32, seed=0, progress=False)
    >>> result.epochs, sorted(result.history)
    (2, ['elbo', 'epoch', 'kl', 'kl_weight', 'loss', 'reconstruction', 'seconds'])
    """
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        transform=transform,
        objective=ELBO() if objective is None else objective,
        lr=lr,
        optimizer=optimizer,
        scheduler=scheduler,
        clip_norm=clip_norm,
        warmup=warmup,
        patience=patience,
        seed=seed,
        device=device,
        dtype=dtype,
        compile=compile,
        precision=precision,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        callbacks=callbacks,
    )
    check_vae_interface(vae)
    if patience is not None and validation is None:
        raise ValueError("patience: early stopping watches the validation loss; pass validation=...")
    if optimizer is not None and settings.lr != LR:
        raise ValueError(f"lr: {lr} would not be used, since an optimizer is given; give it its learning rate there")
    processes = distributed.group()
    if processes is not None:
        settings.join(processes)
        processes.barrier()  # before the first process writes the checkpoint that the others look for
    networks = network_dtype(torch.bfloat16) if precision == "bf16" else nullcontext()
    with torch.inference_mode(False), unregistered(), networks:
        _move(vae, settings)
        batches = _batches(vae, data, settings, processes, training=True)
        held_out = None if validation is None else _batches(vae, validation, settings, processes, training=False)
        with Session(settings.seed, tf32=precision == "tf32") as session:
            with session.turn():
                loop = _prepare(vae, batches, held_out, settings, session, processes)
            return loop.run()


def _move(vae: VAE, settings: Settings) -> None:
    """Move the VAE to the device and the dtype of the settings."""
    with exclusive():
        vae.to(device=settings.device, dtype=settings.dtype)
    device = device_and_dtype(vae)[0]
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision: 'tf32' is a format of CUDA devices, got a model on {device}; choose 'bf16'")


def _batches(vae: VAE, data: Any, settings: Settings, processes: Group | None, training: bool) -> Batches:
    """The batches of training or validation data, or the shard of this process, checked."""
    check = DataCheck(vae, settings.transform, settings.objective.needs)
    batches = make_batches(data, settings.batch_size, check, training, announce=training and settings.progress)
    dealt = batches if processes is None else shard(batches, processes, (settings.seed or 0) if training else 0)
    check_batch_sizes(vae, settings.objective, batches, training, 1 if processes is None else processes.size)
    return dealt


def _prepare(
    vae: VAE,
    batches: Batches,
    held_out: Batches | None,
    settings: Settings,
    session: Session,
    processes: Group | None,
) -> Loop:
    """The loop with its optimizer, its step and its checkpoint, which is continued if there is one."""
    optimizer = _make_optimizer(vae, settings)
    summary = _summary(vae, batches, held_out, settings, optimizer, processes)
    schedule = None if settings.scheduler is None else settings.scheduler(optimizer)
    fit = Fit(vae, best_weights=copy_weights(vae))
    loop = Loop(fit, settings, session, batches, held_out, optimizer, schedule, processes)
    if settings.checkpoint is not None:
        if schedule is not None:
            summary["scheduler"] = {"type": type(schedule).__qualname__, **summarize(schedule.state_dict())}
        loop.checkpoint = _open_checkpoint(loop, summary)
    loop.step = _make_step(loop)
    return loop


def _make_optimizer(vae: VAE, settings: Settings) -> Optimizer:
    parameters = [p for p in vae.parameters() if p.requires_grad]
    if settings.optimizer is None:
        optimizer: Optimizer = Adam(parameters, settings.lr, fused=True)
    else:
        optimizer = settings.optimizer(parameters)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer: expected it to make a torch optimizer, got {type(optimizer).__name__} from it")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer: {type(optimizer).__name__} evaluates the loss several times in a step; expected an optimizer "
            "that takes the gradients of one evaluation, such as torch.optim.Adam"
        )
    _check_manifolds(vae, optimizer)
    return optimizer


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


def _summary(
    vae: VAE,
    batches: Batches,
    held_out: Batches | None,
    settings: Settings,
    optimizer: Optimizer,
    processes: Group | None,
) -> dict[str, Any]:
    """What must be the same where a run is continued, as JSON."""
    if settings.checkpoint is None:
        return {}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return {
        "data": batches.fingerprint(),
        "validation": None if held_out is None else held_out.fingerprint(),
        **settings.summary(),
        "optimizer": {"type": type(optimizer).__qualname__, "groups": summarize(groups)},
        "scheduler": None,
        "dtype": str(device_and_dtype(vae)[1]),
        **({} if processes is None else {"processes": processes.size}),
    }


def _open_checkpoint(loop: Loop, summary: dict[str, Any]) -> Checkpoint:
    """The checkpoint of a run, which is brought to its state, or written for the first time."""
    settings, fit = loop.settings, loop.fit
    parts: dict[str, Any] = {
        "fit": fit,
        "vae": fit.vae,
        "optimizer": loop.optimizer,
        "generators": Generators(device_and_dtype(fit.vae)[0]),
    }
    if loop.scheduler is not None:
        parts["scheduler"] = loop.scheduler
    assert settings.checkpoint is not None
    checkpoint = Checkpoint(settings.checkpoint, fit.vae, summary, parts)
    if settings.continues:
        checkpoint.load()
        if fit.epochs > settings.epochs:
            raise ValueError(f"epochs: {settings.checkpoint} has done {fit.epochs} already, got {settings.epochs}")
        if isinstance(loop.batches, Shard):
            loop.batches.epoch = fit.epochs
        if settings.progress:
            log_line(f"{settings.checkpoint} continues after epoch {fit.epochs}")
    elif loop.first_process:
        checkpoint.save()
    return checkpoint


def _make_step(loop: Loop) -> Step | Graph:
    """The step of a loop, compiled where the settings say so."""
    settings, batches, optimizer, vae = loop.settings, loop.batches, loop.optimizer, loop.fit.vae
    announced = settings.progress or settings.compile != "auto"
    announce = loop.progress.log if announced else lambda message: None
    epochs = settings.epochs
    if settings.patience is not None:
        epochs = min(epochs, math.ceil(settings.warmup) + settings.patience + 1)
    steps = len(batches) * (epochs - loop.fit.epochs)
    mode = resolve_compile_mode(settings.compile, vae, optimizer, steps, announce)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(batches, Shard):
        gradients: Gradients = ShardGradients(vae, settings.objective, parameters, batches)
    else:
        gradients = Gradients(vae, settings.objective, parameters, settings.transform)
    return make_step(mode, gradients, batches, optimizer, settings.clip_norm, loop.totals(), announce)
