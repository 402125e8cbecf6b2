"""Random generators, started from a seed for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppvae.turns import exclusive


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Start the random generators from a seed, and leave them as they were. Other threads wait (:mod:`ppvae.turns`).

    :param seed: if it is None, draws come from the global generators and move them.

    >>> with seeded(0):
    ...     first = torch.rand(3)
    >>> with seeded(0):
    ...     again = torch.rand(3)
    >>> torch.equal(first, again)
    True
    """
    with exclusive():
        if seed is None:
            yield
            return
        with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            torch.manual_seed(seed)
            yield
