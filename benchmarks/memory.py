"""Does training keep its memory? Anonymous memory of the process over 100,000 steps of a tiny network.

    python benchmarks/memory.py            # compiled, 100,000 steps; --compile off --steps 20000: eager
    python benchmarks/memory.py --table    # the table of the last measurements

Linux tells the memory in /proc. What matters is the growth after the first tenth, in which caches and pools fill.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from ppvae.models import GaussianVAE

import ppvae

RESULTS = Path(__file__).parent / "results" / "memory.json"
STEPS = 1000  # of an epoch


def anonymous() -> float:
    """Megabytes that are of no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def table(results: dict) -> str:
    lines = [
        "| steps | compile | MB after a tenth | MB at the end | growth, bytes a step |",
        "|---:|---|---:|---:|---:|",
    ]
    for mode, run in results.items():
        start, end = run["megabytes"][len(run["megabytes"]) // 10], run["megabytes"][-1]
        growth = (end - start) * 2**20 / (0.9 * run["steps"])
        lines.append(f"| {run['steps']} | {mode} | {start:.1f} | {end:.1f} | {growth:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--compile", choices=["inductor", "off"], default="inductor")
    parser.add_argument("--table", action="store_true", help="print the table of the last runs and run nothing")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not args.table:
        torch.set_num_threads(1)
        x, seen = (torch.rand(8 * STEPS, 8) > 0.5).float(), []
        ppvae.fit(
            GaussianVAE((8,), 2, (8,)),
            x,
            epochs=args.steps // STEPS,
            batch_size=8,
            progress=False,
            compile=False if args.compile == "off" else args.compile,
            callbacks=[lambda fit: seen.append(anonymous())],
        )
        command = "python " + " ".join(["benchmarks/memory.py", *sys.argv[1:]])
        results[args.compile] = {"command": command, "steps": args.steps, "megabytes": seen}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
