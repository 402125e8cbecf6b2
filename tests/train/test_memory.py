"""Memory of what reads large arrays: flat in the size of the file and in the number of samples."""

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

# Pages of a mapped file belong to its cache, which the system takes back: what counts is anonymous memory.
PEAK = """
import sys, threading, time
import numpy as np, torch
import ppvae
ppvae.__path__.append('.')
from ppvae.models import GaussianVAE

torch.set_num_threads(1)
def anonymous():
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('RssAnon')) / 1024

peak, done = [0.0], threading.Event()
def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], anonymous())

vae = GaussianVAE((1, 28, 28), 4, (16,))
ppvae.fit(vae, np.zeros((300, 1, 28, 28), np.float32), epochs=1, progress=False)
ppvae.log_likelihood(vae, np.zeros((300, 1, 28, 28), np.float32), num_samples=100)
start = anonymous()
threading.Thread(target=watch, daemon=True).start()
x = np.load(sys.argv[1], mmap_mode='r')
{work}
done.set()
print(peak[0] - start)
"""


def megabytes(work: str, *args: str) -> float:
    """How much the work adds to the memory of a process, at its peak."""
    command = [sys.executable, "-c", PEAK.replace("{work}", work), *args]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Binary images, 5 MB and 78 MB of them; 20 and 314 MB in float32."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc, which this system lacks")
    folder, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    found = {}
    for n in (6_400, 100_000):
        found[n] = folder / f"{n}.npy"
        np.save(found[n], rng.integers(0, 2, (n, 1, 28, 28), np.uint8))
    return found


@pytest.mark.slow
def test_training_on_a_memory_map_never_loads_it(files):
    work = "ppvae.fit(vae, x, epochs=1, batch_size=500, progress=False)"
    # What the allocator keeps differs between runs by tens of megabytes: the middle one of three.
    small, large = (statistics.median(megabytes(work, str(files[n])) for _ in range(3)) for n in (6_400, 100_000))
    assert large < small + 50  # the bytes of the file are 73 MB more, the numbers made of them 294


@pytest.mark.slow
def test_the_memory_of_log_likelihood_is_that_of_a_chunk_and_of_the_result(files):
    def work(n, S):
        return f"ppvae.log_likelihood(vae, x[:{n}], num_samples={S}, seed=0)"

    def grows(n, S, m, T):
        """Megabytes of T samples for m data beyond those of S for n, less those of the larger result."""
        return sum(
            sign * (megabytes(work(a, b), str(files[6_400])) - 8 * a * b / 2**20)
            for sign, a, b in ((1, m, T), (-1, n, S))
        )

    # Traces are freed by the collector of cycles: a few chunks wait for it, tens of megabytes, and then no more. Images
    # for all samples at once would be more than a thousand.
    assert grows(10, 80_000, 10, 240_000) < 120
    assert grows(2_000, 100, 6_400, 100) < 120
