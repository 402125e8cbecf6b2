"""What a turn costs, and how many answers other threads get beside a running fit.

Printed are medians over repetitions on one thread of torch's:

* the CPU time of a turn without another thread, which every training step costs;
* that of a turn after another thread's, in which a run puts its generators and its parameter store back;
* the wall time from a turn of one run to the next turn, of another run in another thread;
* steps of a fit and answers of ``generate`` in a second, each alone and both at once, in two threads.

    python benchmarks/threads.py             # 2 s for each rate
    python benchmarks/threads.py --seconds 10
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from ppvae.models import GaussianVAE

import ppvae
from ppvae.turns import Session, _queue, exclusive


def turn_alone(n: int = 20_000) -> float:
    """Microseconds of CPU of a turn that no other thread waits for."""
    with Session(0) as session:
        start = time.process_time()
        for _ in range(n):
            with session.turn():
                pass
        return 1e6 * (time.process_time() - start) / n


def turn_after_another(n: int = 2000) -> float:
    """Microseconds of CPU of a turn of a run after a question's, in which the state of the run is put back."""
    with Session(0) as session:
        start = time.process_time()
        for _ in range(n):
            with exclusive():
                pass
            with session.turn():
                pass
        both = time.process_time() - start
    start = time.process_time()
    for _ in range(n):
        with exclusive():
            pass
    return 1e6 * (both - (time.process_time() - start)) / n


def handover(n: int = 500) -> float:
    """Microseconds from a turn of one of two runs to the next of the other, each of which waits for the other's."""
    running = [2]

    def loop() -> None:
        with Session(0) as session:
            for _ in range(n):
                with session.turn():
                    while running[0] == 2 and not _queue.waiting:  # the other thread is not there yet
                        time.sleep(0)
        running[0] -= 1

    threads = [threading.Thread(target=loop) for _ in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1e6 * (time.perf_counter() - start) / (2 * n)


def answers(vae: Any, done: Callable[[], bool]) -> int:
    """How many times 16 images are generated before ``done``."""
    number = 0
    while not done():
        ppvae.generate(vae, 16, seed=number)
        number += 1
    return number


def rates(train: bool, ask: bool, seconds: float) -> tuple[float, float]:
    """Steps and answers in a second, of a perceptron 784-512-16 with batches of 128."""
    asked = GaussianVAE((784,), 16, (512,))
    trained = GaussianVAE((784,), 16, (512,))
    x = (torch.rand(1280, 784) > 0.5).float()
    found = [0.0, 0.0]
    end = time.perf_counter() + seconds

    def over() -> bool:
        return time.perf_counter() > end

    def stop(fit: Any) -> None:
        fit.stopped = "seconds" if over() else ""

    def run_fit() -> None:
        start = time.perf_counter()
        fit = ppvae.fit(trained, x, epochs=10**6, seed=0, compile=False, progress=False, callbacks=[stop])
        found[0] = 10 * fit.epochs / (time.perf_counter() - start)

    def run_answers() -> None:
        start = time.perf_counter()
        found[1] = answers(asked, over) / (time.perf_counter() - start)

    threads = [threading.Thread(target=f) for f, wanted in ((run_fit, train), (run_answers, ask)) if wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="length of each measurement of rates")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rates(True, True, 0.5)  # what is imported and allocated at first use
    for words, measure in (
        ("a turn, no other thread", turn_alone),
        ("a turn of a run after another's turn", turn_after_another),
        ("from turn to turn of two runs", handover),
    ):
        print(f"{words}: {statistics.median(measure() for _ in range(5)):.1f} microseconds")
    steps, _ = rates(True, False, args.seconds)
    _, alone = rates(False, True, args.seconds)
    both = rates(True, True, args.seconds)
    print(f"a fit alone: {steps:.0f} steps a second; answers alone: {alone:.0f} a second")
    print(f"both at once: {both[0]:.0f} steps and {both[1]:.0f} answers a second")


if __name__ == "__main__":
    main()
