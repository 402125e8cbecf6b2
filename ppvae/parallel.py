"""Training on several processes: each takes its share of every batch, and the gradients are averaged.

The processes are a group of torch.distributed, as ``torchrun`` makes it and ``ppvae fit --devices`` does. A batch of N
data is dealt out to W of them, all in the same order; with L_r the loss of the share of process r, a sum over its data,
each gets

    grad = (1 / W) sum_r grad (W / N) L_r

by ``DistributedDataParallel``, which is the gradient of one process for the whole batch where the loss is a sum over
the data. What is taken over a batch is taken over shares: the statistics of BatchNorm, the divergences of InfoVAE, what
an objective compares with the mean of a batch, as free bits and a capacity. Noise is drawn from generators that differ
by process, so a run is that of one process in law and not number by number. Means over an epoch are over the data of
all processes, and buffers are those of the first, so that all of them keep the same best weights and stop together.
"""

from collections.abc import Iterator
from typing import Any

import pyro
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ppvae.infer import TensorELBO
from ppvae.random import seeded
from ppvae.steps import DeviceStep, Gradients, Step, Sums, Transform
from ppvae.vae import VAE

__all__ = ["Group", "Share", "SharedGradients", "SharedSums", "group", "make_step"]


class Group:
    """The processes that train together."""

    def __init__(self) -> None:
        self.size, self.rank = dist.get_world_size(), dist.get_rank()

    def share(self, value: Any) -> Any:
        """What the first process has for this value."""
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def level(self, vae: VAE) -> None:
        """Give all processes the buffers of the first."""
        for buffer in vae.buffers():
            dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        """Until all processes are here."""
        dist.barrier()


def group() -> Group | None:
    """The group that this process belongs to, None where it is alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return Group()


class Share:
    """The share of one process in batches of rows; each epoch has its own order, and each process its own noise.

    :param batches: has ``n`` data, ``batch_size``, ``transform`` and ``shuffle``, and makes ``keys`` of rows.
    :param seed: of order and noise, the same in all processes.
    """

    def __init__(self, batches: Any, processes: Group, seed: int):
        self.batches, self.processes, self.seed = batches, processes, seed
        self.transform: Transform | None = batches.transform
        self.epoch = 0  #: how many are done
        self.whole = 0  #: data in the batch of all processes
        n, size, W = batches.n, batches.batch_size, processes.size
        if min(size, n) < W or (batches.shuffle and 0 < n % size < W):
            raise ValueError(
                f"batch_size: {n} data in batches of {size} leave a batch of fewer data than there are processes, {W}; "
                "choose another batch_size"
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rank, n = self.processes.rank, self.batches.n
        order = torch.arange(n)
        noise = self.seed
        if self.batches.shuffle:
            self.epoch += 1
            generator = torch.Generator().manual_seed(self.seed)
            noise = int(torch.randint(2**62, (self.epoch,), generator=generator)[-1])
            order = torch.randperm(n, generator=generator.manual_seed(noise))
        # Of held-out data a process may have none of the last ones.
        dealt = [(len(rows), rows[rank :: self.processes.size]) for rows in order.split(self.batches.batch_size)]
        dealt = [(whole, rows) for whole, rows in dealt if len(rows)]
        with seeded(noise + rank):
            keys = self.batches.keys(rows for _, rows in dealt)
            for (whole, _), key in zip(dealt, keys, strict=True):
                self.whole = whole
                yield key

    def take(self, *key: Tensor) -> tuple[Tensor, ...]:
        """The batch of a key, before the transform."""
        return self.batches.take(*key)

    def fingerprint(self) -> Any:
        """What tells these data from others, as JSON."""
        return self.batches.fingerprint()


class _Terms(nn.Module):
    """The terms of the objective as the output of a module, whose backward pass averages gradients."""

    def __init__(self, vae: VAE, gradients: "SharedGradients"):
        super().__init__()
        self.vae, self.terms = vae, gradients.terms

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        return self.terms(*batch)


class SharedGradients(Gradients):
    """Terms of the share of this process; the gradients put into the parameters are those of the whole batch."""

    def __init__(self, vae: VAE, objective: TensorELBO, parameters: list[nn.Parameter], share: Share):
        super().__init__(vae, objective, parameters, share.transform)
        self.share = share
        self.module = DistributedDataParallel(_Terms(vae, self))

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        with pyro.validation_enabled(not self.checked):
            terms = self.module(*batch)
        self.checked = True
        for parameter in self.parameters:
            parameter.grad = None
        (terms["loss"] * (self.share.processes.size / self.share.whole)).backward()
        return terms


class SharedSums(Sums):
    """Sums whose mean is over the data of all processes."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def mean(self) -> dict[str, float]:
        values = [float(value) for value in self.total.values()]
        sums = torch.tensor([*values, self.n], dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        whole = Sums()
        *totals, whole.n = sums.tolist()
        whole.total = dict(zip(self.total, totals, strict=True))
        return whole.mean()


def make_step(vae: VAE, objective: TensorELBO, optimizer: Optimizer, share: Share, clip_norm: float | None) -> Step:
    """A step on the batches of all processes."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    device = parameters[0].device
    kind = Step if device.type == "cpu" else DeviceStep
    step = kind(SharedGradients(vae, objective, parameters, share), share, optimizer, clip_norm)
    step.sums = SharedSums(device)
    return step
