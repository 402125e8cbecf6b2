"""``ppvae fit --devices N``: the same command in N processes of ``torchrun``, which train together.

See :mod:`ppvae.train.distributed` for what each does.
"""

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout


def launched() -> bool:
    """Whether this process is one of several that :func:`launch` started."""
    return "PPVAE_PROCESSES" in os.environ and "LOCAL_RANK" in os.environ


def first() -> bool:
    """Whether this process is the one that writes."""
    return not launched() or os.environ["RANK"] == "0"


def launch(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Run the command in several processes, and wait for them.

    :raises ValueError: for fewer processes than one, or more than there are GPUs to train on.
    :raises ChildProcessError: if one of them failed.
    """
    n = options.devices
    if n < 1:
        raise ValueError(f"--devices: expected at least 1, got {n}")
    if str(options.device).startswith("cuda"):
        import torch

        if n > torch.cuda.device_count():
            raise ValueError(f"--devices: expected at most the number of GPUs, {torch.cuda.device_count()}, got {n}")
    threads = str(max(1, (os.cpu_count() or 1) // n))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PPVAE_PROCESSES": str(n)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    code = subprocess.run([*torchrun, "-m", "ppvae", *words], env=environment).returncode
    if code:
        raise ChildProcessError(f"fit: one of the {n} processes failed, with the message above")


@contextmanager
def joined(options: argparse.Namespace) -> Iterator[None]:
    """Be one of the processes: on a GPU of its own with ``--device cuda``, silent but for the first."""
    import torch
    import torch.distributed as dist

    cuda = str(options.device).startswith("cuda")
    if cuda:
        options.device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(options.device)
    dist.init_process_group("nccl" if cuda else "gloo", device_id=torch.device(options.device) if cuda else None)
    try:
        with open(os.devnull, "w") as nowhere, nullcontext() if first() else redirect_stdout(nowhere):
            yield
    finally:
        # DistributedDataParallel is part of a cycle and holds the group. Threads of the group that outlive the
        # interpreter abort the process.
        gc.collect()
        dist.destroy_process_group()
