"""Training on several processes: each takes its shard of every batch, and the gradients are averaged.

The processes are a group of torch.distributed, as ``torchrun`` makes it and ``ppvae fit --devices`` does. All
processes deal out a batch of N data in the same order to the W of them. With L_r the loss of the shard of process r, a
sum over its data, each process gets

    grad = (1 / W) sum_r grad (W / N) L_r

by ``DistributedDataParallel``. This is the gradient of one process for the whole batch, if the loss is a sum over the
data. Under a plate scale L_r is taken per datum first, and each shard counts by its share of the batch.

A quantity of a batch becomes one of a shard: the statistics of BatchNorm, the divergences of InfoVAE, the mean KL that
free bits and a capacity compare. Each process draws noise from a generator of its own, so a run equals that of one
process in law, not number by number. Means over an epoch are over the data of all processes, and buffers are those of
the first process, so all of them keep the same best weights and stop together.
"""

from contextlib import closing
from typing import Any

import pyro
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ppvae.infer import TensorELBO
from ppvae.train.batches import Batches, Keys, MappedBatches, MemoryBatches
from ppvae.train.step import EpochTotals, Gradients, Measured, Transform
from ppvae.turns import reseed
from ppvae.vae import VAE

__all__ = ["Group", "Shard", "ShardGradients", "ShardTotals", "group", "shard"]


class Group:
    """The processes that train together."""

    def __init__(self) -> None:
        self.size, self.rank = dist.get_world_size(), dist.get_rank()

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def broadcast_buffers(self, vae: VAE) -> None:
        """Give all processes the buffers of the first."""
        for buffer in vae.buffers():
            dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        dist.barrier()


def group() -> Group | None:
    """The group that this process belongs to; None if it is alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return Group()


class Shard:
    """The rows of this process in batches of rows. Each epoch has its own order, and each process its own noise.

    An iteration starts the generators of the session (:mod:`ppvae.turns`) from the seed of its epoch and process.

    :param batches: has ``n`` data, ``batch_size``, ``transform`` and ``shuffle``, and makes ``keys`` of rows.
    :param seed: of order and noise, the same in all processes.
    """

    def __init__(self, batches: Any, processes: Group, seed: int):
        self.batches, self.processes, self.seed = batches, processes, seed
        self.transform: Transform | None = batches.transform
        self.epoch = 0  #: how many epochs are done
        self.batch_rows = 0  #: number of data in the current batch of all processes together
        n, size, W = batches.n, batches.batch_size, processes.size
        if min(size, n) < W or (batches.shuffle and 0 < n % size < W):
            raise ValueError(
                f"batch_size: {n} data in batches of {size} leave a batch of fewer data than there are processes, {W}; "
                "choose another batch_size"
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Keys:
        rank, n = self.processes.rank, self.batches.n
        order = torch.arange(n)
        noise = self.seed
        if self.batches.shuffle:
            self.epoch += 1
            generator = torch.Generator().manual_seed(self.seed)
            noise = int(torch.randint(2**62, (self.epoch,), generator=generator)[-1])
            order = torch.randperm(n, generator=generator.manual_seed(noise))
        dealt = [(len(rows), rows[rank :: self.processes.size]) for rows in order.split(self.batches.batch_size)]
        dealt = [(size, rows) for size, rows in dealt if len(rows)]  # the last batch of held-out data may lack one
        reseed(noise + rank)
        with closing(self.batches.keys(rows for _, rows in dealt)) as keys:
            for (size, _), key in zip(dealt, keys, strict=True):
                self.batch_rows = size
                yield key

    def batch(self, *key: Tensor) -> tuple[Tensor, ...]:
        """The batch of a key, before the transform."""
        return self.batches.batch(*key)

    def extent(self) -> tuple[int, int]:
        """The number of data and the size of a batch, of all processes together."""
        return self.batches.n, self.batches.batch_size

    def fingerprint(self) -> Any:
        """A description of the data as JSON, by which a continued run is recognised as the same."""
        return self.batches.fingerprint()


def shard(batches: Batches, processes: Group, seed: int) -> Shard:
    """The shard of this process.

    :raises ValueError: for batches of a DataLoader, which are not dealt out.
    """
    if not isinstance(batches, (MemoryBatches, MappedBatches)):
        raise ValueError(
            "data: several processes take their shards of arrays, in memory or memory-mapped, not of what a DataLoader "
            "or a Dataset makes; save it as .npy and pass numpy.load(file, mmap_mode='r'), or train in one process"
        )
    return Shard(batches, processes, seed)


class _Terms(nn.Module):
    """The terms of the objective as the output of a module, whose backward pass averages gradients."""

    def __init__(self, vae: VAE, gradients: "ShardGradients"):
        super().__init__()
        self.vae, self.measure = vae, gradients.measure

    def forward(self, *batch: Tensor) -> Measured:
        return self.measure(*batch)


class ShardGradients(Gradients):
    """The terms are those of the shard of this process, the gradients those of the whole batch."""

    def __init__(self, vae: VAE, objective: TensorELBO, parameters: list[nn.Parameter], batches: Shard):
        super().__init__(vae, objective, parameters, batches.transform)
        self.batches = batches
        self.module = DistributedDataParallel(_Terms(vae, self))

    def __call__(self, *batch: Tensor) -> Measured:
        with pyro.validation_enabled(not self.checked):
            terms, number_of_data = self.module(*batch)
        self.checked = True
        for parameter in self.parameters:
            parameter.grad = None
        (terms["loss"] * self._factor(batch[0].shape[0], number_of_data)).backward()
        return terms, number_of_data

    def _factor(self, rows: int, number_of_data: Tensor | float) -> Tensor | float:
        """What makes the mean over the processes of their losses the loss of the whole batch per datum."""
        W = self.batches.processes.size
        if isinstance(number_of_data, Tensor):  # weights of the data
            total = number_of_data.detach().clone()
            dist.all_reduce(total)
            return W / total
        return (W / self.batches.batch_rows) * (rows / number_of_data)


class ShardTotals(EpochTotals):
    """Totals whose mean is over the data of all processes."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def mean(self) -> dict[str, float]:
        values = [float(value) for value in self.sums.values()]
        sums = torch.tensor([*values, self.rows], dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        whole = EpochTotals()
        *totals, whole.rows = sums.tolist()
        whole.sums = dict(zip(self.sums, totals, strict=True))
        return whole.mean()
