"""What a prior, a posterior and a bound are each worth: one pair of networks on MNIST, everything else exchanged.

10,000 images to train on, binarised anew in every batch, 2,000 to keep the best epoch by and 2,000 to test, both
binarised once. Perceptrons with two hidden layers of 200 each way, a latent of 20 dimensions, batches of 100, Adam at
5e-4. Bounds of several samples have K = 8, in two of four where they are grouped.

    log p(x)    by 500 importance samples of the guide, mean over test images: nats, and the higher the better
    ELBO        of the same draws
    gain        log p(x) less that of the first row with the same seed
    above 0.7   share of test images whose Pareto k-hat is above 0.7: for those 500 samples are too few, and log p(x) is
                a lower bound that depends on the guide

    python benchmarks/family.py              # measures, writes benchmarks/results/family.json; started again it goes on
    python benchmarks/family.py --models "normal, ELBO" --seeds 0 1
    python benchmarks/family.py --table      # prints the table of the results
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from ppvae.models import GaussianVAE, HamiltonianVAE, VampVAE
from torch import nn

import ppvae
from ppvae.infer import CIWAE_ELBO, ELBO, IWAE_ELBO, MIWAE_ELBO, PIWAE_ELBO, DReG_ELBO, TensorELBO
from ppvae.nn import MLP, InverseAutoregressiveHead
from ppvae.transforms import DynamicBinarization
from ppvae.vae import VAE

SHAPE, DIM, HIDDEN = (1, 28, 28), 20, (200, 200)


def normal() -> VAE:
    return GaussianVAE(SHAPE, DIM, HIDDEN)


def smooth() -> VAE:
    """The networks of the Hamiltonian VAE, whose dynamics need a second derivative."""
    encoder, decoder = MLP(SHAPE, (2 * DIM,), HIDDEN, nn.SiLU), MLP((DIM,), SHAPE, HIDDEN, nn.SiLU)
    return GaussianVAE(SHAPE, DIM, encoder=encoder, decoder=decoder)


def autoregressive() -> VAE:
    return GaussianVAE(SHAPE, DIM, HIDDEN, head=InverseAutoregressiveHead(DIM))


def vamp(x: NDArray) -> VAE:
    vae = VampVAE(SHAPE, DIM, 100, HIDDEN)
    vae.place(x, seed=0)
    return vae


#: name -> (the pair, given the data, and its objective)
MODELS: dict[str, tuple[Callable[[NDArray], VAE], Callable[[], TensorELBO]]] = {
    "normal, ELBO": (lambda x: normal(), ELBO),
    "normal, IWAE": (lambda x: normal(), lambda: IWAE_ELBO(8)),
    "normal, MIWAE": (lambda x: normal(), lambda: MIWAE_ELBO(8, 2)),
    "normal, CIWAE": (lambda x: normal(), lambda: CIWAE_ELBO(0.5, 8)),
    "normal, PIWAE": (lambda x: normal(), lambda: PIWAE_ELBO(8, 2)),
    "normal, DReG": (lambda x: normal(), lambda: DReG_ELBO(8)),
    "autoregressive posterior, ELBO": (lambda x: autoregressive(), ELBO),
    "normal, smooth units, ELBO": (lambda x: smooth(), ELBO),
    "Hamiltonian posterior, smooth units, ELBO": (lambda x: HamiltonianVAE(SHAPE, DIM, HIDDEN), ELBO),
    "VampPrior, ELBO": (lambda x: vamp(x), ELBO),
    "VampPrior, DReG": (lambda x: vamp(x), lambda: DReG_ELBO(8)),
}


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    data = ppvae.data.load("mnist")
    train, valid = (ppvae.data.scale(part, data.maximum) for part in (data.train[: args.train], data.train[-2000:]))
    valid = ppvae.data.binarize(valid, rng=0)
    test = ppvae.data.binarize(ppvae.data.scale(data.test[:2000], data.maximum), rng=0)
    make, objective = MODELS[name]
    torch.manual_seed(seed)
    vae = make(train)
    wall, cpu = time.perf_counter(), time.process_time()
    fit = ppvae.fit(
        vae,
        train,
        validation=valid,
        transform=DynamicBinarization(),
        objective=objective(),
        epochs=args.epochs,
        batch_size=100,
        lr=5e-4,
        seed=seed,
        progress=False,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = ppvae.log_likelihood(vae, test, num_samples=500, seed=0)
    return {
        "model": name,
        "seed": seed,
        "log_likelihood": float(found.values.mean()),
        "error": found.standard_error,
        "elbo": float(found.log_weights.mean()),
        "pareto_k_above_0.7": float((found.pareto_k > 0.7).mean()),
        "best_epoch": fit.best_epoch,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
    }


def table(result: dict[str, Any]) -> str:
    rows, settings = result["rows"], result["settings"]
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"{settings['train']:,} images, {settings['epochs']} epochs, {len(seeds)} seeds; mean (standard deviation) "
        "over seeds",
        "",
        "| posterior or prior, objective | log p(x), nats | gain, nats | ELBO, nats | Pareto k > 0.7, % "
        "| CPU s an epoch |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    first = next(iter(MODELS))
    start = {row["seed"]: row["log_likelihood"] for row in rows if row["model"] == first}

    def cell(values: list[float], digits: int) -> str:
        spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    for name in MODELS:
        some = [row for row in rows if row["model"] == name]
        gains = [row["log_likelihood"] - start[row["seed"]] for row in some if row["seed"] in start]
        if some:
            cells = [
                name,
                cell([row["log_likelihood"] for row in some], 2),
                cell(gains, 2) if gains and name != first else "",
                cell([row["elbo"] for row in some], 2),
                cell([100 * row["pareto_k_above_0.7"] for row in some], 0),
                cell([row["cpu_seconds"] / settings["epochs"] for row in some], 1),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "family.json")
    parser.add_argument("--table", action="store_true", help="print the table of the results and train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.train > 48_000:
        parser.error("--train: expected at most 48,000, as the last 2,000 of 50,000 images are those to validate by")
    if not args.table:
        settings = {"epochs": args.epochs, "train": args.train}
        result: dict[str, Any] = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": {"python": platform.python_version(), "torch": torch.__version__, "cpu": platform.machine()},
            "settings": settings,
            "rows": [],
        }
        if args.out.exists():
            old = json.loads(args.out.read_text())
            if old["settings"] != settings:
                parser.error(f"{args.out} has other settings, {old['settings']}; name another --out")
            result["rows"] = old["rows"]
        for seed in args.seeds:
            for name in args.models:
                if (name, seed) not in {(row["model"], row["seed"]) for row in result["rows"]}:
                    row = run(name, seed, args)
                    result["rows"].append(row)
                    args.out.write_text(json.dumps(result, indent=1))
                    found, best = row["log_likelihood"], row["best_epoch"]
                    print(f"{name}, seed {seed}: log p(x) {found:.2f} nats, best epoch {best}", flush=True)
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
