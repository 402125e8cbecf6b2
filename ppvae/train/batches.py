"""Batches of the user's data: from tensors in memory, from memory-mapped files, from a DataLoader."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ppvae.infer import TensorELBO
from ppvae.infer.sites import Needs
from ppvae.inputs import check_domain, check_support, on_disk, read_rows, to_tensors
from ppvae.random import seeded
from ppvae.train.checkpoint import checksums, fingerprint
from ppvae.train.step import Source, Transform
from ppvae.vae import VAE, device_and_dtype

Keys = Generator[tuple[Tensor, ...], None, None]  # its ``close`` ends what reads ahead

#: Data that are checked, or transformed for a check, at once.
CHUNK = 4096


class Batches(Source, Protocol):
    """The batches of an epoch; an iteration gives their keys."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Keys: ...

    def extent(self) -> tuple[int, int] | None:
        """The number of data and the size of a batch, where they are known before an epoch."""

    def fingerprint(self) -> Any:
        """A description of the data as JSON, by which a continued run is recognised as the same."""


@dataclass
class DataCheck:
    """Checks of all data: the domain of the transform, the support of the likelihood, the rules of the pair.

    :param needs: what the objective needs of the guide, see :func:`ppvae.infer.sites.check_pair`.
    """

    vae: VAE
    transform: Transform | None
    needs: Callable[[str], Needs]

    def __call__(self, tensors: tuple[Tensor, ...], row: int = 0) -> None:
        """Raise a ValueError if a datum breaks a rule; ``row`` is the number of the first datum."""
        if self.transform is None:
            check_support(self.vae, tensors, row, needs=self.needs)
            return
        check_domain(self.transform, tensors[0], row)
        with seeded(0):
            for start in range(0, tensors[0].shape[0], CHUNK):
                x, *given = (t[start : start + CHUNK] for t in tensors)
                y = self.transform(x)
                if y.shape != x.shape:
                    raise ValueError(f"transform: expected the shape {tuple(x.shape)} to stay, got {tuple(y.shape)}")
                check_support(self.vae, (y, *given), row + start, needs=self.needs)


class MemoryBatches:
    """Batches of tensors in memory; a key has the rows of a batch.

    :param shuffle: whether each epoch has a new random order.
    :param dtype: the dtype of x in a batch, where it is stored in another.
    """

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

    def extent(self) -> tuple[int, int]:
        """The number of data and the size of a batch."""
        return self.n, self.batch_size

    def __iter__(self) -> Keys:
        order = torch.randperm(self.n) if self.shuffle else torch.arange(self.n)
        return self.keys(order.to(self.tensors[0].device).split(self.batch_size))

    def keys(self, rows_of_batches: Iterable[Tensor]) -> Keys:
        """The keys of batches of these rows."""
        return ((rows.to(self.tensors[0].device),) for rows in rows_of_batches)

    def batch(self, *key: Tensor) -> tuple[Tensor, ...]:
        """The batch of a key, before the transform."""
        x, *given = (t.index_select(0, *key) for t in self.tensors)
        return (x.to(self.dtype), *given)

    def fingerprint(self) -> Any:
        """Shapes, dtypes and checksums of the arrays."""
        return fingerprint(self.tensors)


class MappedBatches:
    """Batches of memory-mapped arrays; each is read while the one before it is used. A key is a batch.

    All values are checked, chunk by chunk, when the object is made. The order is that of the same arrays in memory.
    """

    def __init__(self, data: Any, batch_size: int, shuffle: bool, check: DataCheck, announce: bool):
        self.data, self.batch_size, self.shuffle = data, batch_size, shuffle
        self.vae, self.transform = check.vae, check.transform
        self.n = len(data[0] if isinstance(data, (tuple, list)) else data)
        sums: list[int] = []
        for start in range(0, max(self.n, 1), CHUNK):
            rows = read_rows(data, slice(start, start + CHUNK))
            tensors = to_tensors(self.vae, rows, announce=announce and not start)
            check(tensors, start)
            sums = checksums(tensors, sums)
        self.identity = [
            f"{(self.n, *t.shape[1:])} {t.dtype} crc32 {total:08x}" for t, total in zip(tensors, sums, strict=True)
        ]

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def extent(self) -> tuple[int, int]:
        """The number of data and the size of a batch."""
        return self.n, self.batch_size

    def __iter__(self) -> Keys:
        order = torch.randperm(self.n) if self.shuffle else torch.arange(self.n)
        return self.keys(order.split(self.batch_size))

    def keys(self, rows_of_batches: Iterable[Tensor]) -> Keys:
        """The batches of these rows, each read while the one before it is used."""
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for rows in rows_of_batches:
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

    def batch(self, *key: Tensor) -> tuple[Tensor, ...]:
        """The batch of a key, before the transform."""
        return key

    def fingerprint(self) -> Any:
        """Shapes, dtypes and checksums of the arrays."""
        return self.identity


class LoaderBatches:
    """Batches of a DataLoader; their values are checked in the first epoch. A key is a batch."""

    def __init__(self, loader: Any, check: DataCheck, announce: bool):
        self.loader, self.check, self.announce, self.checked = loader, check, announce, False
        self.vae, self.transform = check.vae, check.transform

    def __len__(self) -> int:
        try:
            return len(self.loader)
        except TypeError:  # an iterable dataset has no length
            return 0

    def extent(self) -> tuple[int, int] | None:
        """The number of data and the size of a batch, if the loader makes its batches of a sampler of known length."""
        size = self.loader.batch_size
        try:
            n = len(self.loader.sampler)
        except TypeError:
            return None
        return None if size is None else (n - n % size if self.loader.drop_last else n, size)

    def __iter__(self) -> Keys:
        n = 0
        for batch in self.loader:
            tensors = to_tensors(self.vae, batch, announce=self.announce)
            self.announce = False
            if not self.checked:
                self.check(tensors)
            yield tensors
            n += 1
        if not n:
            raise ValueError("data: expected at least one batch from the DataLoader, got none")
        self.checked = True

    def batch(self, *key: Tensor) -> tuple[Tensor, ...]:
        """The batch of a key, before the transform."""
        return key

    def fingerprint(self) -> Any:
        """The class of the data and the number of batches."""
        return f"{type(self.loader.dataset).__qualname__}, {len(self)} batches"


def make_batches(data: Any, batch_size: int, check: DataCheck, training: bool, announce: bool) -> Batches:
    """Batches of an array, a tuple of arrays, a memory map, a Dataset or a DataLoader.

    :param training: whether to shuffle, and to transform x anew in each step. Held-out data in memory are transformed
        once, from seed 0.
    :param announce: whether a change of dtype is printed to standard error.
    """
    if isinstance(data, DataLoader):
        return LoaderBatches(data, check, announce)
    if isinstance(data, Dataset):
        shuffle = training and not isinstance(data, IterableDataset)
        pinned = device_and_dtype(check.vae)[0].type == "cuda"
        return LoaderBatches(DataLoader(data, batch_size, shuffle=shuffle, pin_memory=pinned), check, announce)
    if on_disk(data):
        return MappedBatches(data, batch_size, training, check, announce)
    tensors = to_tensors(check.vae, data, announce=announce, compact=training)
    dtype = device_and_dtype(check.vae)[1]
    n = tensors[0].shape[0]
    chunk = CHUNK if tensors[0].dtype == torch.uint8 else n  # bytes grow when they are cast
    for start in range(0, n, chunk):
        x, *given = (t[start : start + chunk] for t in tensors)
        check((x.to(dtype), *given), start)
    if training:
        return MemoryBatches(tensors, batch_size, check.transform, shuffle=True, dtype=dtype)
    if check.transform is not None:
        with seeded(0):
            tensors = (check.transform(tensors[0]), *tensors[1:])
    return MemoryBatches(tensors, batch_size, None, shuffle=False)


def check_batch_sizes(vae: VAE, objective: TensorELBO, batches: Batches, training: bool, processes: int = 1) -> None:
    """Raise a ValueError if the networks or the objective cannot take a batch, where its size is known before an epoch.

    :param processes: how many processes share each batch.
    """
    n, size = batches.extent() or (0, 1)
    whole = {rows for rows in (min(n, size), n % size) if rows}
    sizes = {rows for N in whole for rows in (N // processes, -(-N // processes)) if rows}
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in vae.modules())
    if training and normalised and 1 in sizes:
        what = "a batch of one datum" if processes == 1 else f"one of {processes} processes a single datum"
        raise ValueError(
            f"batch_size: {n} data in batches of {size} leave {what}, on which BatchNorm cannot train; choose another "
            "batch_size"
        )
    for rows in sorted(sizes):
        try:
            objective.check_batch_size(rows)
        except ValueError as error:
            of = "validation data" if not training else "data"
            raise ValueError(f"batch_size: {n} {of} in batches of {size}: {error}") from None
