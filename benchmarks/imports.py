"""Time of the first imports, in fresh interpreters: the processor time that each asks for.

The rows are what a user types. Those of torch and Pyro alone tell how much of a row is the library's own. The variants
alternate, so that a change of the machine's speed meets all of them.

    python benchmarks/imports.py            # measures, writes benchmarks/results/imports.json, prints the table
    python benchmarks/imports.py --table    # prints the table of the last measurement
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROWS = {
    "import torch": "import torch",
    "import torch, pyro": "import torch, pyro",
    "import ppvae": "import ppvae",
    "from ppvae.models import GaussianVAE": "from ppvae.models import GaussianVAE",
    "from ppvae.models import SphericalVAE": "from ppvae.models import SphericalVAE",
}
TIMED = "import time; start = time.process_time(); {}; print(time.process_time() - start)"


def seconds(statement: str) -> float:
    command = [sys.executable, "-c", TIMED.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(repeats: int) -> dict:
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for repeat in range(repeats + 1):
        for name, statement in ROWS.items():
            value = seconds(statement)
            if repeat:  # the first round compiles the sources and warms the disk's cache
                times[name].append(value)
    rows = [{"import": n, "median": statistics.median(v), "least": min(v), "most": max(v)} for n, v in times.items()]
    machine = {
        "python": platform.python_version(),
        "torch": version("torch"),
        "pyro": version("pyro-ppl"),
        "processor": platform.machine(),
    }
    return {"machine": machine, "repeats": repeats, "rows": rows}


def table(result: dict) -> str:
    lines = [
        "| processor time of {repeats} fresh interpreters, s | median | least | most |".format(**result),
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(f"| `{row['import']}` | {row['median']:.3f} | {row['least']:.3f} | {row['most']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "imports.json")
    parser.add_argument("--table", action="store_true", help="print the table of the last run and time nothing")
    args = parser.parse_args()
    if not args.table:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(measure(args.repeats), indent=1))
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
