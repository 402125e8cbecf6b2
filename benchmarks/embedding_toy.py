"""A circle in R^2 sent to R^100 by a fixed random network: which latent finds it?

The toy task of Golikov and Kretov (2018, Table 1, https://arxiv.org/abs/1812.05769): s uniform on the unit circle, x =
g(s) with g a perceptron of one hidden layer of 100 ReLU units, Xavier-uniform weights and no biases, drawn anew for
each seed. All models have the same networks, each batch is fresh, and each model sees the same data.

(a) as in the paper: no noise, the standard deviation sigma of the likelihood is learned. The data lie on a curve, so
that the
    evidence has no bound, and the ELBO says how small a sigma was reached in the given number of steps.
(b) x = g(s) + noise of standard deviation 0.1, sigma = 0.1 fixed. The evidence of the generating model, and that of
every
    one-dimensional latent under its own decoder, is an integral over a line, taken here on a fine grid. Beside it
    stand the held-out ELBO and IWAE-5000; differences are paired over data.

    python benchmarks/embedding_toy.py                      # all seeds, results/embedding_toy.json
    python benchmarks/embedding_toy.py --table              # the tables of the results there
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ppvae.models import GaussianVAE, ManifoldVAE, SphericalVAE, WassersteinEmbedding
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, IterableDataset

import ppvae
from ppvae.infer.divergences import InverseMultiquadric, mmd
from ppvae.infer.info_vae import InfoVAE_ELBO
from ppvae.nn import CircleEmbedding, NormalLikelihood, RotatePlanes, UnrolledCircleHead, invariance

D, NOISE, BATCH = 100, 0.1, 256
OURS = "circle, von Mises-Fisher"
PAPER = {
    "Gaussian-1": "183.98 ± 11.66",
    "learned f, Beta": "197.19 ± 20.46",
    "f_proj, Beta": "193.40 ± 24.57",
    "learned f, Beta, group action": "259.03 ± 59.14",
    "Gaussian-2": "356.53 ± 22.96",
}


class Toy(nn.Module):
    """The generating model: p(s) uniform on the circle, x = g(s) + noise."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.g = nn.Sequential(nn.Linear(2, 100, bias=False), nn.ReLU(), nn.Linear(100, D, bias=False))
        for weight in self.g.parameters():
            nn.init.xavier_uniform_(weight, generator=generator)
        self.requires_grad_(False)

    def sample(self, n: int, noise: float, generator: torch.Generator) -> Tensor:
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        x = self.g(torch.stack([angle.cos(), angle.sin()], -1))
        return x + noise * torch.randn(x.shape, generator=generator)


class Stream(IterableDataset):
    """Fresh batches, the same for every model."""

    def __init__(self, toy: Toy, noise: float, seed: int, batches: int):
        self.toy, self.noise, self.batches = toy, noise, batches
        self.generator = torch.Generator().manual_seed(10_000 + seed)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.batches):
            yield self.toy.sample(BATCH, self.noise, self.generator)


def models(f: nn.Module, learned: bool) -> dict[str, Callable[[], nn.Module]]:
    def options() -> dict:
        return {"hidden": (100,), "likelihood": NormalLikelihood(NOISE, learned=learned)}

    shape, loose = (D,), math.inf  # a learned f is not invariant: how far off it is stands in the results
    return {
        OURS: lambda: SphericalVAE(shape, 2, **options()),
        "Gaussian-1": lambda: GaussianVAE(shape, 1, **options()),
        "learned f, Beta": lambda: ManifoldVAE(shape, f, **options()),
        "f_proj, Beta": lambda: ManifoldVAE(shape, **options()),
        "learned f, Beta, group action": lambda: ManifoldVAE(
            shape, f, action=RotatePlanes(), tolerance=loose, **options()
        ),
        "Gaussian-2": lambda: GaussianVAE(shape, 2, **options()),
        "f_proj, Beta, group action": lambda: ManifoldVAE(shape, action=RotatePlanes(), **options()),
        "f_proj, seamless": lambda: ManifoldVAE(shape, head=UnrolledCircleHead(1), **options()),
    }


def log_normal(x: Tensor, mean: Tensor, scale: float) -> Tensor:
    """log N(x; mean, scale^2 I) of shape (len(x), len(mean))."""
    square = torch.cdist(x.double(), mean.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    return -square / (2 * scale**2) - D * (math.log(scale) + math.log(2 * math.pi) / 2)


def evidence(vae: nn.Module, x: Tensor, n: int = 8192) -> np.ndarray | None:
    """log p(x) under the model's own decoder, on a grid of n points of a one-dimensional latent."""
    middle = (torch.arange(n) + 0.5).unsqueeze(-1) / n
    log_weight = torch.full((n,), -math.log(n), dtype=torch.float64)
    with torch.no_grad():
        if isinstance(vae, ManifoldVAE):
            z = vae.embedding(middle)
        elif isinstance(vae, SphericalVAE):
            z = CircleEmbedding()(middle)
        elif isinstance(vae, GaussianVAE) and vae.dim == 1:
            z = 18 * middle - 9
            log_weight = (-z.double().square() / 2).squeeze(-1) + math.log(18 / n / math.sqrt(2 * math.pi))
        else:
            return None
        return torch.logsumexp(log_normal(x, vae.decode(z).mean, NOISE) + log_weight, -1).numpy()


def true_evidence(toy: Toy, x: Tensor, n: int = 8192) -> Tensor:
    angle = 2 * math.pi * torch.arange(n) / n
    mean = toy.g(torch.stack([angle.cos(), angle.sin()], -1))
    return torch.logsumexp(log_normal(x, mean, NOISE), -1) - math.log(n)


def learn_embedding(seed: int, epochs: int) -> tuple[nn.Module, dict]:
    """f from 4096 points of the circle, and what it is like."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(4096, generator=generator)
    points = torch.stack([angle.cos(), angle.sin()], -1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        f = WassersteinEmbedding(1, 2)
    ppvae.fit(
        f,
        points,
        objective=InfoVAE_ELBO(partial(mmd, kernel=InverseMultiquadric(1 / 12)), alpha=1, lambda_=1000),
        epochs=epochs,
        batch_size=256,
        lr=1e-2,
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
        seed=seed,
        progress=False,
    )
    report = ppvae.metrics.embedding_report(
        f,
        points.numpy(),
        distance=lambda x: np.abs(np.linalg.norm(x, axis=-1) - 1),
        num_samples=1000,
        permutations=200,
        seed=seed,
    )
    off, change = invariance(f, RotatePlanes(), points)
    return f, {**report.as_dict(), "invariance_off": off, "invariance_nats": change}


def run(
    part: str, seed: int, f: nn.Module, steps: int, held_out: int, samples: int, chosen: list[str] | None
) -> Iterator[dict]:
    noise, learned = (0.0, True) if part == "a" else (NOISE, False)
    toy = Toy(seed)
    test = toy.sample(held_out, noise, torch.Generator().manual_seed(20_000 + seed))
    valid = toy.sample(256, noise, torch.Generator().manual_seed(30_000 + seed))
    truth = true_evidence(toy, test).numpy() if part == "b" else None
    iwaes: dict[str, np.ndarray] = {}
    epochs = max(1, steps // 50)
    for name, make in models(f, learned).items():
        if chosen and name not in (OURS, *chosen):
            continue
        start = time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            vae = make()
        data = DataLoader(Stream(toy, noise, seed, min(steps, 50)), batch_size=None)
        ppvae.fit(
            vae,
            data,
            validation=valid,
            epochs=epochs,
            lr=3e-3,
            scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
            seed=seed,
            progress=False,
        )
        ll = ppvae.log_likelihood(vae, test, num_samples=samples if part == "b" else 500, seed=seed)
        elbo, iwae = ll.log_weights.mean(1), ll.values
        own = evidence(vae, test) if part == "b" else None
        iwaes[name] = iwae
        row = {
            "part": part,
            "seed": seed,
            "model": name,
            "elbo": elbo.mean(),
            "iwae": iwae.mean(),
            "iwae_monte_carlo_error": np.sqrt((ll.error**2).sum()) / len(iwae),
            "pareto_k_above_0.7": (ll.pareto_k > 0.7).mean(),
            "sigma": float(vae.state_dict()["likelihood.log_scale"].exp()),
            "circle - model": paired(iwaes[OURS] - iwae),
            "seconds": time.perf_counter() - start,
        }
        if truth is not None:
            row |= {"truth": truth.mean(), "elbo - truth": paired(elbo - truth), "iwae - truth": paired(iwae - truth)}
        if own is not None:
            row |= {
                "own - truth": paired(own - truth),
                "iwae - own": paired(iwae - own),
                "elbo - own": paired(elbo - own),
            }
        yield json.loads(json.dumps(row, default=float))


def paired(difference: np.ndarray) -> tuple[float, float]:
    """Mean over data and its standard error."""
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def over_seeds(pairs: list[tuple[float, float]]) -> str:
    """Mean of the seeds' means and its standard error from their spread, which has the data, the networks and the
    training in it.
    """
    means = np.array([mean for mean, _ in pairs])
    if len(means) == 1:
        return f"{means[0]:.3f} ± {pairs[0][1]:.3f} (one seed)"
    return f"{means.mean():.3f} ± {means.std(ddof=1) / math.sqrt(len(means)):.3f}"


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) if len(values) > 1 else math.nan:.2f}"


def table(results: dict) -> str:
    rows = results["rows"]
    names = list(dict.fromkeys(row["model"] for row in rows))
    names = [*(name for name in PAPER if name in names), *(name for name in names if name not in PAPER)]

    def of(part: str, name: str) -> list[dict]:
        return [row for row in rows if row["part"] == part and row["model"] == name]

    lines = [f"`{results['command']}`", ""]
    if any(row["part"] == "a" for row in rows):
        lines += [
            "### (a) no noise, sigma learned",
            "",
            "Held-out nats per datum, mean ± standard deviation over seeds; higher is better, and there is no ceiling.",
            "",
            "| model | published ELBO | ELBO | IWAE | sigma reached |",
            "|---|---|---|---|---|",
        ]
        for name in names:
            some = of("a", name)
            cells = [PAPER.get(name, ""), *(spread([row[key] for row in some]) for key in ("elbo", "iwae"))]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {np.mean([row['sigma'] for row in some]):.4f} |")
        lines.append("")
    if any(row["part"] == "b" for row in rows):
        truth = spread([row["truth"] for row in of("b", OURS)])
        lines += [
            "### (b) noise 0.1, sigma fixed at 0.1",
            "",
            f"The evidence of the generating model is {truth} nats per datum (standard deviation over seeds). "
            "Held-out differences",
            "in nats per datum, paired, mean ± standard error over seeds. Last column: the largest excess of "
            "IWAE over the exact",
            "evidence of the model's own decoder, in standard errors of Monte Carlo, over the seeds.",
            "",
            "| model | ELBO - truth | IWAE - truth | own evidence - truth | IWAE - own evidence | circle - "
            "model, IWAE | excess |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in names:
            some = of("b", name)
            cells = [
                over_seeds([row[key] for row in some]) if key in some[0] else ""
                for key in ("elbo - truth", "iwae - truth", "own - truth", "iwae - own", "circle - model")
            ]
            excess = [row["iwae - own"][0] / row["iwae_monte_carlo_error"] for row in some if "iwae - own" in row]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {f'{max(excess):.1f}' if excess else ''} |")
        lines.append("")
    if not results["embeddings"]:
        return "\n".join(lines)
    lines += ["### The learned embeddings of the circle", ""]
    keys = list(results["embeddings"][0])
    lines += ["| seed | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for seed, report in enumerate(results["embeddings"]):
        lines.append(f"| {seed} | " + " | ".join(f"{report[key]:.3g}" for key in keys) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="training steps of 256 fresh data")
    parser.add_argument("--held-out", type=int, default=200, help="data for the table, per seed")
    parser.add_argument("--samples", type=int, default=5000, help="importance samples")
    parser.add_argument("--parts", default="ba")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="rows of the tables; all where not given")
    parser.add_argument("--embedding-epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "embedding_toy.json")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and train nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.out.read_text())))
        return
    torch.set_num_threads(1)
    results: dict = {
        "command": "python benchmarks/embedding_toy.py " + " ".join(sys.argv[1:]),
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()},
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "table")} | {"batch": BATCH, "threads": 1},
        "embeddings": [],
        "rows": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    embeddings: list[nn.Module] = []
    for seed in range(args.seeds):
        if args.models and not any(name.startswith("learned") for name in args.models):
            embeddings.append(CircleEmbedding())  # not used
            continue
        f, report = learn_embedding(seed, args.embedding_epochs)
        embeddings.append(f)
        results["embeddings"].append(report)
        print(f"seed {seed}: {report}", file=sys.stderr, flush=True)
    for part in args.parts:
        for seed in range(args.seeds):
            for row in run(part, seed, embeddings[seed], args.steps, args.held_out, args.samples, args.models):
                results["rows"].append(row)
                shown = f"ELBO {np.mean(row['elbo']):.3f}, IWAE {np.mean(row['iwae']):.3f}, {row['seconds']:.0f} s"
                print(f"({part}) seed {seed} {row['model']}: {shown}", file=sys.stderr, flush=True)
                args.out.write_text(json.dumps(results))
    print(table(results))


if __name__ == "__main__":
    main()
