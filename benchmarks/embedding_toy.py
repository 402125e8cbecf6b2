"""A circle in R^2 sent to R^100 by a fixed random network: which latent finds it?

The toy task of Golikov and Kretov (2018, Table 1, https://arxiv.org/abs/1812.05769): s uniform on the unit circle, x =
g(s) with g a perceptron of one hidden layer of 100 ReLU units, Xavier-uniform weights and no biases, drawn anew for
each seed. All models have the same networks, each batch is fresh, and each model sees the same data.

(a) as in the paper: no noise, the standard deviation sigma of the likelihood is learned. The data lie on a curve, so
    that the evidence has no bound, and the ELBO says how small a sigma was reached in the given number of steps.
(b) x = g(s) + noise of standard deviation 0.1, sigma = 0.1 fixed. The evidence of the generating model, and that of
    every one-dimensional latent under its own decoder, is an integral over a line, taken here on a fine grid. Beside
    it stand the held-out ELBO and IWAE-5000; differences are paired over data.

Whether an encoder found the circle is measured on the loop of data g(s), s once round: how often the centres of
q(z | x) go round (the winding number, 1 for a homeomorphism), and how many turns they travel there and back (1 where
they never turn round).

    python benchmarks/embedding_toy.py a                    # results/embedding_toy_a.json; started again it goes on
    python benchmarks/embedding_toy.py b                    # results/embedding_toy_b.json
    python benchmarks/embedding_toy.py tables               # the tables of both
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
from ppvae.infer.objectives.divergences import InverseMultiquadric, mmd
from ppvae.infer.objectives.info_vae import InfoVAE_ELBO
from ppvae.manifolds import Circle
from ppvae.metrics import winding_number
from ppvae.nn import CircleEmbedding, NormalLikelihood, RotatePlanes, UnrolledCircleHead, invariance
from ppvae.vae import VAE

RESULTS = Path(__file__).parent / "results"
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


def models(f: nn.Module, learned: bool) -> dict[str, Callable[[], VAE]]:
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


def evidence(vae: VAE, x: Tensor, n: int = 8192) -> np.ndarray | None:
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


def course(vae: VAE, toy: Toy, n: int = 2000) -> tuple[float, float] | None:
    """How often the latents of the loop g(s) go round the circle, and how many turns they travel."""
    angle = 2 * math.pi * torch.arange(n) / n
    loop = toy.g(torch.stack([angle.cos(), angle.sin()], -1))
    with torch.no_grad():
        if isinstance(vae, ManifoldVAE):
            z = vae.latent(loop)
        elif isinstance(vae, SphericalVAE):
            z = ppvae.encode(vae, loop)
        else:
            return None
    z = z / z.norm(dim=-1, keepdim=True)  # a learned f leaves the unit circle a little
    travelled = Circle().dist(z, z.roll(-1, 0)).sum() / (2 * math.pi)
    return abs(float(winding_number(z))), float(travelled)


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


def run(seed: int, f: nn.Module, args: argparse.Namespace) -> list[dict]:
    noise, learned = (0.0, True) if args.part == "a" else (NOISE, False)
    toy = Toy(seed)
    test = toy.sample(args.held_out, noise, torch.Generator().manual_seed(20_000 + seed))
    valid = toy.sample(256, noise, torch.Generator().manual_seed(30_000 + seed))
    truth = true_evidence(toy, test).numpy() if args.part == "b" else None
    iwaes: dict[str, np.ndarray] = {}
    rows = []
    epochs = max(1, args.steps // 50)
    for name, make in models(f, learned).items():
        if args.models and name not in (OURS, *args.models):
            continue
        start = time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            vae = make()
        data = DataLoader(Stream(toy, noise, seed, min(args.steps, 50)), batch_size=None)
        ppvae.fit(
            vae,
            data,
            validation=valid,
            epochs=epochs,
            lr=args.lr,
            scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
            seed=seed,
            progress=False,
        )
        ll = ppvae.log_likelihood(vae, test, num_samples=args.samples if args.part == "b" else 500, seed=seed)
        elbo, iwae = ll.log_weights.mean(1), ll.values
        own = evidence(vae, test) if args.part == "b" else None
        iwaes[name] = iwae
        row = {
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
        if (way := course(vae, toy)) is not None:
            row |= {"winding": way[0], "travelled": way[1]}
        if own is not None:
            row |= {
                "own - truth": paired(own - truth),
                "iwae - own": paired(iwae - own),
                "elbo - own": paired(elbo - own),
            }
        rows.append(json.loads(json.dumps(row, default=float)))
        shown = f"ELBO {row['elbo']:.3f}, IWAE {row['iwae']:.3f}, {row['seconds']:.0f} s"
        print(f"({args.part}) seed {seed} {name}: {shown}", file=sys.stderr, flush=True)
    return rows


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


def rounds(rows: list[dict]) -> str:
    """The winding number of each seed's encoder, and the most turns that one travels."""
    if "winding" not in rows[0]:
        return ""
    numbers = ["torn" if math.isnan(row["winding"]) else f"{row['winding']:.0f}" for row in rows]
    return f"{' '.join(numbers)} ({max(row['travelled'] for row in rows):.2f})"


def rows_of(results: dict) -> dict[str, list[dict]]:
    """The rows of each model, those of the paper first."""
    found: dict[str, list[dict]] = {}
    for row in results["rows"]:
        found.setdefault(row["model"], []).append(row)
    return {name: found[name] for name in [*PAPER, *found] if name in found}


def table_a(results: dict) -> list[str]:
    settings = results["settings"]
    lines = [
        f"### (a) no noise, sigma learned, {settings['steps']} steps, learning rate {settings['lr']:g}",
        "",
        f"`{results['command']}`",
        "",
        "Held-out nats per datum, mean ± standard deviation over seeds; higher is better, and there is no ceiling. "
        "Winding: that of each seed's encoder on the loop of the data, 1 for a homeomorphism of the circle, and the "
        "most turns that one of them travels there and back, 1.00 where it never turns round.",
        "",
        "| model | published ELBO | ELBO | IWAE-500 | sigma reached | winding |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in rows_of(results).items():
        cells = [name, PAPER.get(name, ""), *(spread([row[key] for row in rows]) for key in ("elbo", "iwae"))]
        cells += [f"{np.mean([row['sigma'] for row in rows]):.4f}", rounds(rows)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def table_b(results: dict) -> list[str]:
    models = rows_of(results)
    truth = spread([row["truth"] for row in models[OURS]])
    settings = results["settings"]
    lines = [
        f"### (b) noise 0.1, sigma fixed at 0.1, {settings['steps']} steps, learning rate {settings['lr']:g}",
        "",
        f"`{results['command']}`",
        "",
        f"The evidence of the generating model is {truth} nats per datum (standard deviation over seeds). Held-out "
        f"differences in nats per datum, paired, mean ± standard error over seeds; IWAE has "
        f"{settings['samples']} samples. Excess: the largest, over the seeds, of IWAE over the exact "
        "evidence of the model's own decoder, in standard errors of Monte Carlo. A learned f is not invariant under "
        "rotations: with it and a group action ELBO and IWAE bound nothing.",
        "",
        "| model | ELBO - truth | IWAE - truth | own evidence - truth | IWAE - own evidence | excess | circle - model, "
        "IWAE | winding |",
        "|---" * 8 + "|",
    ]
    for name, rows in models.items():
        cells = [
            over_seeds([row[key] for row in rows]) if key in rows[0] else ""
            for key in ("elbo - truth", "iwae - truth", "own - truth", "iwae - own", "circle - model")
        ]
        excess = [row["iwae - own"][0] / row["iwae_monte_carlo_error"] for row in rows if "iwae - own" in row]
        cells.insert(-1, f"{max(excess):.1f}" if excess else "")
        lines.append("| " + " | ".join([name, *cells, rounds(rows)]) + " |")
    return [*lines, ""]


def table_of_embeddings(reports: list[dict]) -> list[str]:
    lines = ["### The learned embeddings of the circle", ""]
    lines += ["| seed | " + " | ".join(reports[0]) + " |", "|---" * (len(reports[0]) + 1) + "|"]
    lines += [
        f"| {seed} | " + " | ".join(f"{figure:.3g}" for figure in report.values()) + " |"
        for seed, report in enumerate(reports)
    ]
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["a", "b", "tables"], help="the part to run, or tables: print those of both")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="training steps of 256 fresh data")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of Adam, which falls to 0 as a cosine")
    parser.add_argument("--held-out", type=int, default=200, help="data for the table, per seed")
    parser.add_argument("--samples", type=int, default=5000, help="importance samples in part b")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="rows of the tables; all where not given")
    parser.add_argument("--embedding-epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, help="results/embedding_toy_PART.json where not given")
    args = parser.parse_args()
    if args.part == "tables":
        a, b = (json.loads((RESULTS / f"embedding_toy_{name}.json").read_text()) for name in "ab")
        print("\n".join([*table_a(a), *table_b(b), *table_of_embeddings(b["embeddings"])]))
        return
    torch.set_num_threads(1)
    results: dict = {
        "command": " ".join(["python benchmarks/embedding_toy.py", *sys.argv[1:]]),
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()},
        "settings": {k: v for k, v in vars(args).items() if k not in ("seeds", "out")} | {"batch": BATCH},
        "embeddings": [],
        "rows": [],
    }
    out = args.out or RESULTS / f"embedding_toy_{args.part}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and (old := json.loads(out.read_text()))["settings"] == results["settings"]:
        results["rows"], results["embeddings"] = old["rows"], old["embeddings"]
    for seed in range(1 + max([row["seed"] for row in results["rows"]], default=-1), args.seeds):
        f: nn.Module = CircleEmbedding()
        if not args.models or any(name.startswith("learned") for name in args.models):
            f, report = learn_embedding(seed, args.embedding_epochs)
            results["embeddings"].append(report)
        results["rows"] += run(seed, f, args)
        out.write_text(json.dumps(results))
    print("\n".join(table_a(results) if args.part == "a" else table_b(results)))


if __name__ == "__main__":
    main()
