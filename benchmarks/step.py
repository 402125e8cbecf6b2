"""Time of one training step: ours, hand-written PyTorch, Pyro's SVI, and the trainers of Pythae and Lightning.

Networks: a perceptron 784-512-16-512-784 with batches of 128, a convolutional one on the same data, and a tiny one,
8-8-2-8-8 with batches of 8, whose step is all overhead. The likelihood is Bernoulli, the latent Gaussian, or vMF on the
sphere S^15; the bound is the ELBO, or IWAE with 50 samples. Adam's learning rate is 1e-3 everywhere; ours is fused, as
in ppvae.fit.

Blocks of steps of all variants of a case alternate, each on the same data in memory. A block is timed twice: CPU time
of the process, which other work on the machine disturbs less, and wall time. A ratio is the median over the blocks of
the ratio to the hand-written loop with torch's default Adam in the same block, with its quartiles. Compilation and the
first block are left out; their seconds are told. On CUDA, wall time is all that counts.

    python benchmarks/step.py             # measures, writes benchmarks/results/step.json, prints the table
    python benchmarks/step.py --table     # prints the table of the last measurement

Pythae 0.1.2 and Lightning are measured where they are installed.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from ppvae.models import GaussianVAE, SphericalVAE
from torch import Tensor, nn
from torch.optim import Adam

from ppvae.infer import ELBO, IWAE_ELBO
from ppvae.nn.registration import unregistered
from ppvae.train.batches import MemoryBatches
from ppvae.train.compiled import Graph, make_step, resolve_compile_mode
from ppvae.train.step import EpochTotals, Gradients
from ppvae.turns import Session

Block = Callable[[], None]  # runs all steps of a block
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
K = 50  # samples of the IWAE
#: network and number of samples
CASES = {
    "tiny": ("tiny", 1),
    "MLP": ("MLP", 1),
    "conv": ("conv", 1),
    "MLP, IWAE-50": ("MLP", K),
    "conv, IWAE-50": ("conv", K),
}


def networks(name: str) -> dict[str, Any]:
    """Shape of a datum, size of a batch, and functions that make encoder (to n features) and decoder (from n)."""
    if name == "conv":
        return {
            "shape": (1, 28, 28),
            "batch": 128,
            "dim": 16,
            "encoder": lambda n: nn.Sequential(
                nn.Conv2d(1, 32, 4, 2, 1),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(64 * 49, n),
            ),
            "decoder": lambda n: nn.Sequential(
                nn.Linear(n, 64 * 49),
                nn.ReLU(),
                nn.Unflatten(1, (64, 7, 7)),
                nn.ConvTranspose2d(64, 32, 4, 2, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(32, 1, 4, 2, 1),
            ),
        }
    d, h, dim, batch = (784, 512, 16, 128) if name == "MLP" else (8, 8, 2, 8)
    return {
        "shape": (d,),
        "batch": batch,
        "dim": dim,
        "encoder": lambda n: nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, n)),
        "decoder": lambda n: nn.Sequential(nn.Linear(n, h), nn.ReLU(), nn.Linear(h, d)),
    }


class HandWritten(nn.Module):
    """Network and loss in plain PyTorch."""

    def __init__(self, net: dict[str, Any], samples: int = 1):
        super().__init__()
        self.encoder, self.decoder, self.samples = net["encoder"](2 * net["dim"]), net["decoder"](net["dim"]), samples

    def forward(self, x: Tensor) -> Tensor:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        if self.samples == 1:
            z = loc + log_scale.exp() * torch.randn_like(loc)
            reconstruction = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
            return (kl - reconstruction) / len(x)
        eps = torch.randn(self.samples, *loc.shape, device=x.device)
        z = loc + log_scale.exp() * eps
        h = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        log_w = -F.binary_cross_entropy_with_logits(h, x.expand_as(h), reduction="none").flatten(2).sum(-1)
        log_w = log_w + (0.5 * (eps.square() - z.square()) + log_scale).sum(-1)
        return -torch.logsumexp(log_w, 0).mean()


def hand_written(net: dict[str, Any], x: Tensor, fused: bool, compiled: bool = False, samples: int = 1) -> Block:
    module = HandWritten(net, samples).to(DEVICE)
    loss = torch.compile(module, dynamic=False) if compiled else module
    optimizer = Adam(module.parameters(), 1e-3, fused=fused)

    def block() -> None:
        for rows in torch.randperm(len(x), device=DEVICE).split(net["batch"]):
            optimizer.zero_grad(set_to_none=True)
            loss(x[rows]).backward()
            optimizer.step()

    return block


def captured(net: dict[str, Any], x: Tensor, samples: int = 1) -> Block:
    """The hand-written step with fused Adam, from the rows of its batch on, in a CUDA graph."""
    module = HandWritten(net, samples).to(DEVICE)
    optimizer = Adam(module.parameters(), 1e-3, fused=True, capturable=True)
    rows = torch.arange(net["batch"], device=DEVICE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(x[rows]).backward()
        optimizer.step()

    # Libraries choose their kernels, and Adam makes its state, on a stream of their own before the capture.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def block() -> None:
        for batch in torch.randperm(len(x), device=DEVICE).split(net["batch"]):
            rows.copy_(batch)
            graph.replay()

    return block


def model(net: dict[str, Any], law: str) -> Any:
    dim = net["dim"]
    if law == "vMF":
        return SphericalVAE(net["shape"], dim, encoder=net["encoder"](dim + 1), decoder=net["decoder"](dim)).to(DEVICE)
    return GaussianVAE(net["shape"], dim, encoder=net["encoder"](2 * dim), decoder=net["decoder"](dim)).to(DEVICE)


def ours(net: dict[str, Any], x: Tensor, law: str, mode: Any, samples: int = 1) -> Block:
    """The step of ppvae.fit, with its sums for the history and its test of the loss."""
    vae = model(net, law).train()
    optimizer = Adam(vae.parameters(), 1e-3, fused=True)
    batches = MemoryBatches((x,), net["batch"], None, shuffle=True)
    announce = partial(print, file=sys.stderr)
    objective = IWAE_ELBO(samples) if samples > 1 else ELBO()
    objective.kl_weight = objective.kl_weight.to(DEVICE)
    mode = resolve_compile_mode(mode, vae, optimizer, 0, announce)
    gradients = Gradients(vae, objective, [*vae.parameters()], None)
    step = make_step(mode, gradients, batches, optimizer, None, EpochTotals(), announce)

    def block() -> None:
        with unregistered(), Session() as session:
            step.clear()
            with session.turn():
                keys = iter(batches)
            for key in keys:
                with session.turn():
                    step(*key)
            step.mean()
        run = step if isinstance(step, Graph) else step.gradients
        if getattr(run, "refused", False) or getattr(run, "compiled", run) is None:
            raise RuntimeError(f"{law} {mode}: measured nothing, as the step was not compiled")

    return block


def svi(net: dict[str, Any], x: Tensor, samples: int = 1) -> Block:
    vae = model(net, "Gaussian")
    loss: Any = pyro.infer.Trace_ELBO()
    if samples > 1:
        loss = pyro.infer.RenyiELBO(alpha=0, num_particles=samples, max_plate_nesting=1, vectorize_particles=True)
    trainer = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss)

    def block() -> None:
        for rows in torch.randperm(len(x), device=DEVICE).split(net["batch"]):
            trainer.step(x[rows])

    return block


def pythae(net: dict[str, Any], x: Tensor, samples: int = 1) -> Block:
    """An epoch of BaseTrainer on the same networks, whose decoder ends in probabilities, not logits."""
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = net["encoder"](2 * net["dim"])

        def forward(self, x: Tensor) -> Any:
            loc, log_covariance = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_covariance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = net["decoder"](net["dim"])

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    logging.disable(logging.INFO)
    about = {"input_dim": net["shape"], "latent_dim": net["dim"], "reconstruction_loss": "bce"}
    made = (
        IWAE(IWAEConfig(number_samples=samples, **about), Encoder(), Decoder())
        if samples > 1
        else VAE(VAEConfig(**about), Encoder(), Decoder())
    )
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=net["batch"],
        optimizer_cls="Adam",
        learning_rate=1e-3,
    )
    data = BaseDataset(x.cpu(), torch.zeros(len(x)))
    trainer = BaseTrainer(made, train_dataset=data, training_config=settings)
    trainer.prepare_training()
    trainer.callback_handler.callbacks = []  # no progress bar
    return lambda: trainer.train_step(1)


def lightning(net: dict[str, Any], x: Tensor, samples: int = 1) -> tuple[Block, list[float]]:
    """An epoch of the Trainer on the hand-written loss, from a DataLoader of whole batches, nothing logged."""
    import lightning

    marks: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = HandWritten(net, samples)

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            return self.net(batch)

        def configure_optimizers(self) -> Any:
            return Adam(self.parameters(), 1e-3)

        def on_train_epoch_start(self) -> None:
            marks[:] = clocks()

        def on_train_epoch_end(self) -> None:
            marks[:] = [b - a for a, b in zip(marks, clocks(), strict=True)]

    module = Module()

    def block() -> None:
        batches = list(x[torch.randperm(len(x))].split(net["batch"]))
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator=DEVICE,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]

    return block, marks


def clocks() -> list[float]:
    """Seconds of CPU and of the wall."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return [time.process_time(), time.perf_counter()]


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


def cases(chosen: list[str]) -> dict[str, dict[str, Any]]:
    """Variants by name for each case; the first is the hand-written loop that the others are compared with."""
    modes = {"compiled": "inductor", "eager": False} if DEVICE == "cpu" else {"graph": "graph", "eager": False}
    found = {}
    for name in chosen:
        network, samples = CASES[name]
        net = networks(network)
        made: dict[str, Any] = {
            "hand-written, Adam": partial(hand_written, net, fused=False, samples=samples),
            "hand-written, fused Adam": partial(hand_written, net, fused=True, samples=samples),
            "hand-written, torch.compile": partial(hand_written, net, fused=True, compiled=True, samples=samples),
        }
        if DEVICE == "cuda":
            made["hand-written, CUDA graph"] = partial(captured, net, samples=samples)
        for words, mode in modes.items():
            made[f"ppvae Gaussian, {words}"] = partial(ours, net, law="Gaussian", mode=mode, samples=samples)
            if network != "tiny":
                made[f"ppvae vMF, {words}"] = partial(ours, net, law="vMF", mode=mode, samples=samples)
        made["Pyro SVI"] = partial(svi, net, samples=samples)
        if network != "tiny":
            made["Pythae BaseTrainer"] = partial(pythae, net, samples=samples)
            made["Lightning Trainer"] = partial(lightning, net, samples=samples)
        found[name] = {"net": net, "variants": made}
    return found


def measure(chosen: list[str], blocks: int, seconds: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    results = {}
    for name, case in cases(chosen).items():
        net = case["net"]
        steps = {"tiny": 200, "MLP": 40, "conv, IWAE-50": 2}.get(name, 8)
        x = (torch.rand(steps * net["batch"], *net["shape"]) > 0.5).float().to(DEVICE)
        runs: dict[str, tuple[Block, list[float]]] = {}
        start_up: dict[str, float] = {}
        for variant, make in case["variants"].items():
            torch.manual_seed(0)
            try:
                with quiet():
                    made = make(x=x)
                    run, marks = made if isinstance(made, tuple) else (made, [])
                    before = clocks()
                    run()
                    start_up[variant] = clocks()[1] - before[1]
                runs[variant] = run, marks
            except ImportError as error:
                print(f"{name}, {variant}: not measured: {error}", file=sys.stderr)
        times: dict[str, list[list[float]]] = {variant: [] for variant in runs}
        end = time.perf_counter() + seconds
        done = 0
        while done < blocks and time.perf_counter() < end:
            done += 1
            for variant, (run, marks) in runs.items():
                before = clocks()
                with quiet():
                    run()
                taken = marks or [b - a for a, b in zip(before, clocks(), strict=True)]
                times[variant].append([1e3 * t / steps for t in taken])
        print(f"{name}: {done} blocks of {steps} steps", file=sys.stderr)
        base = next(iter(times.values()))
        results[name] = {
            "batch": net["batch"],
            "steps": steps,
            "blocks": done,
            "rows": [
                {
                    "variant": variant,
                    "cpu_ms": statistics.median(t[0] for t in values),
                    "wall_ms": statistics.median(t[1] for t in values),
                    "cpu_ratio": quartiles([a[0] / b[0] for a, b in zip(values, base, strict=True)]),
                    "wall_ratio": quartiles([a[1] / b[1] for a, b in zip(values, base, strict=True)]),
                    "first_block_s": start_up[variant],
                    "blocks_cpu_ms": [t[0] for t in values],
                    "blocks_wall_ms": [t[1] for t in values],
                }
                for variant, values in times.items()
            ],
        }
    return results


def quartiles(values: list[float]) -> list[float]:
    """Median, lower and upper quartile."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return [median, low, high]


def machine() -> dict[str, Any]:
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": cpu,
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "threads": 1,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def table(result: dict[str, Any]) -> str:
    gpu = result["machine"]["device"] != "cpu"
    kind = "wall" if gpu else "cpu"
    lines = [
        f"| step on {result['machine']['device'] if gpu else 'one thread'} | {'wall' if gpu else 'CPU'} ms "
        "| of hand-written, Adam (quartiles) |",
        "|---|---:|---:|",
    ]
    for name, case in result["cases"].items():
        for row in case["rows"]:
            median, low, high = row[f"{kind}_ratio"]
            ratio = f"{median:.2f}" if low == high else f"{median:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {name}: {row['variant']} | {row[f'{kind}_ms']:.2f} | {ratio} |")
    pairs = [
        (case, a, b)
        for case, a, b in (
            *(
                (case, *(text.format(mode) for text in pair))
                for case in CASES
                for pair in (("ppvae vMF, {}", "ppvae Gaussian, {}"), ("Pythae BaseTrainer", "ppvae Gaussian, {}"))
                for mode in ("eager", "compiled", "graph")
            ),
            *((case, "Pyro SVI", "ppvae Gaussian, graph") for case in ("MLP", "conv")),
            *((case, "ppvae Gaussian, graph", "hand-written, CUDA graph") for case in ("MLP", "conv")),
        )
        if {a, b}
        <= {row["variant"] for row in result["cases"].get(case, {"rows": []})["rows"] if "blocks_cpu_ms" in row}
    ]
    if pairs:
        lines += ["", "| one step over another, in the same block | ratio (quartiles) |", "|---|---:|"]
    for case, a, b in pairs:
        times = {row["variant"]: row[f"blocks_{kind}_ms"] for row in result["cases"][case]["rows"]}
        median, low, high = quartiles([x / y for x, y in zip(times[a], times[b], strict=True)])
        lines.append(f"| {case}: {a} / {b} | {median:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), default=list(CASES), help="what to measure; the rest stays"
    )
    parser.add_argument("--blocks", type=int, default=15, help="most alternations of a case")
    parser.add_argument("--seconds", type=float, default=600, help="after which a case begins no further alternation")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step.json")
    parser.add_argument("--table", action="store_true", help="print the table of the last run and time nothing")
    args = parser.parse_args()
    if not args.table:
        before = json.loads(args.out.read_text()).get("cases", {}) if args.out.exists() else {}
        for name in args.cases:  # each is written when it is done
            before |= measure([name], args.blocks, args.seconds)
            ordered = {key: before[key] for key in CASES if key in before}
            args.out.parent.mkdir(parents=True, exist_ok=True)
            command = f"python benchmarks/step.py --blocks {args.blocks} --seconds {args.seconds:g}"
            args.out.write_text(
                json.dumps({"command": command, "machine": machine(), "cases": ordered}, indent=1) + "\n"
            )
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
