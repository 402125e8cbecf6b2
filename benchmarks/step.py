"""Time of one training step: ours against a hand-written PyTorch loop, in pairs.

The network is 784-512-16-512-784 with a Gaussian latent and a Bernoulli likelihood, batch 128, one thread. Blocks of
steps of each variant alternate, so that a change of the machine's speed meets all of them; the ratio is the median
over the pairs.

    python benchmarks/step.py            # measures, writes benchmarks/results/step.json, prints the table
    python benchmarks/step.py --table    # prints the table of the last measurement
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
import torch.nn.functional as F
from ppvae.models import GaussianVAE, SphericalVAE
from torch import Tensor, nn
from torch.optim import Adam

import ppvae

BATCH, PIXELS = 128, 784
Block = Callable[[], float]  # runs some steps, returns the seconds they took


class HandWritten(nn.Module):
    """The same network and loss in plain PyTorch."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, 2 * dim))
        self.decoder = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        reconstruction = -F.binary_cross_entropy_with_logits(self.decoder(z), x.flatten(1), reduction="sum")
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
        return (kl - reconstruction) / len(x)


def hand_written(fused: bool, dim: int, hidden: int, x: Tensor) -> Block:
    net = HandWritten(dim, hidden)
    optimizer = Adam(net.parameters(), 1e-3, fused=fused)

    def block() -> float:
        start = time.perf_counter()
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            net(x[rows]).backward()
            optimizer.step()
        return time.perf_counter() - start

    return block


def ours(vae: nn.Module, x: Tensor) -> Block:
    """The second of two epochs of :func:`ppvae.fit`, so that start-up checks and the optimizer's first step are not
    in it."""

    def block() -> float:
        seconds = ppvae.fit(vae, x, epochs=2, batch_size=BATCH, progress=False).history["seconds"]
        return seconds[1] - seconds[0]

    return block


def svi(vae: nn.Module, x: Tensor) -> Block:
    trainer = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())

    def block() -> float:
        start = time.perf_counter()
        for rows in torch.randperm(len(x)).split(BATCH):
            trainer.step(x[rows])
        return time.perf_counter() - start

    return block


def measure(blocks: int, steps: int, dim: int, hidden: int) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = (torch.rand(BATCH * steps, 1, 28, 28) > 0.5).float()
    shape, widths = (1, 28, 28), (hidden,)
    variants = {
        "hand-written, Adam": hand_written(False, dim, hidden, x),
        "hand-written, fused Adam": hand_written(True, dim, hidden, x),
        "ppvae GaussianVAE, fused Adam": ours(GaussianVAE(shape, dim, widths), x),
        "ppvae SphericalVAE (vMF), fused Adam": ours(SphericalVAE(shape, dim, widths), x),
        "Pyro SVI, Trace_ELBO, pyro.optim.Adam": svi(GaussianVAE(shape, dim, widths), x),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for block in range(blocks + 1):
        for name, run in variants.items():
            seconds = run()
            if block:  # the first block warms up
                times[name].append(seconds / steps * 1e3)
    rows = []
    for name, values in times.items():
        ratio = [
            statistics.median(a / b for a, b in zip(values, times[base], strict=True))
            for base in ("hand-written, Adam", "hand-written, fused Adam")
        ]
        rows.append({"variant": name, "ms": statistics.median(values), "ratio": ratio})
    machine = {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}
    settings = {"batch": BATCH, "hidden": hidden, "dim": dim, "threads": 1, "blocks": blocks, "steps": steps}
    return {"machine": machine, **settings, "rows": rows}


def table(result: dict) -> str:
    lines = [
        "| step of 784-{hidden}-{dim}, batch {batch}, one thread | ms | of Adam | of fused Adam |".format(**result),
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(f"| {row['variant']} | {row['ms']:.2f} | {row['ratio'][0]:.2f} | {row['ratio'][1]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=15, help="alternations")
    parser.add_argument("--steps", type=int, default=50, help="steps in a block")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step.json")
    parser.add_argument("--table", action="store_true", help="print the table of the last run and time nothing")
    args = parser.parse_args()
    if not args.table:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(measure(args.blocks, args.steps, args.dim, args.hidden), indent=1))
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
