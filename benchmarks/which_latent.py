"""Which symmetry is in the data? Latents of six shapes on data of five, by held-out log-likelihood.

Golikov and Kretov (2018, https://arxiv.org/abs/1812.05769) propose to fit VAEs whose latents differ in shape and to
read off the likelihoods which shape the data have. Here the answer is known: s lies on a line, a plane, a circle, a
torus or a sphere, and x = g(s) + 0.1 noise in R^20, with g a fixed random perceptron with smooth units that is
drawn anew for each seed. All models have the same hidden layers and the same likelihood N(decoder(z), 0.1^2). Each
sees the same data, log p(x) of the same held-out data is taken by importance sampling, and differences to the right
latent are paired. The evidence of the generating model, on a grid over s, is the most that any model can reach in
the mean.

The second part takes data whose shape is known from elsewhere: backbone torsions of proteins (a torus) and places
of earthquakes (the sphere), each as unit vectors with noise of standard deviation 0.1 added, without which a
density on a surface has no bound.

    python benchmarks/which_latent.py                      # results/which_latent.json, and two maps beside it
    python benchmarks/which_latent.py --table              # the tables of the results there
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ppvae.models import GaussianVAE, ManifoldVAE, SphericalVAE
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import ppvae
from ppvae.nn import CircleEmbedding, FlatTorusEmbedding, NormalLikelihood, SphereEmbedding, UnrolledCircleHead

NOISE, D = 0.1, 20
RIGHT = {
    "line": "Gaussian-1",
    "plane": "Gaussian-2",
    "circle": "circle",
    "torus": "torus",
    "sphere": "sphere",
    "torsion angles": "torus",
    "earthquakes": "sphere",
}


def latents(shape: tuple[int, ...], hidden: int) -> dict[str, Callable[[], nn.Module]]:
    def options() -> dict:
        return {"hidden": (hidden, hidden), "likelihood": NormalLikelihood(NOISE)}

    return {
        "Gaussian-1": lambda: GaussianVAE(shape, 1, **options()),
        "Gaussian-2": lambda: GaussianVAE(shape, 2, **options()),
        "Gaussian-3": lambda: GaussianVAE(shape, 3, **options()),
        "circle": lambda: SphericalVAE(shape, 2, **options()),
        "torus": lambda: ManifoldVAE(shape, FlatTorusEmbedding(2), head=UnrolledCircleHead(2), **options()),
        "sphere": lambda: SphericalVAE(shape, 3, **options()),
    }


def grid(shape: str, n: int = 200) -> tuple[Tensor, Tensor]:
    """Points s of a latent space and their log weights under its prior."""
    middle = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    if shape in ("line", "plane"):
        s = 12 * middle - 6
        log_weight = -s.square() / 2 - math.log(2 * math.pi) / 2 + math.log(12 / n)
        if shape == "line":
            return s[:, None], log_weight
        return torch.cartesian_prod(s, s), torch.cartesian_prod(log_weight, log_weight).sum(-1)
    if shape == "circle":
        return CircleEmbedding()(middle[:, None]), torch.full((n,), -math.log(n), dtype=torch.float64)
    f = FlatTorusEmbedding(2) if shape == "torus" else SphereEmbedding()
    return f(torch.cartesian_prod(middle, middle)), torch.full((n * n,), -2 * math.log(n), dtype=torch.float64)


class Source:
    """The generating model of one shape and seed."""

    def __init__(self, shape: str, seed: int):
        self.shape, self.generator = shape, torch.Generator().manual_seed(seed)
        m = {"line": 1, "plane": 2, "circle": 2, "torus": 4, "sphere": 3}[shape]
        W, b = self._normal(m, 64), self._normal(64)
        V = self._normal(64, D) / 8
        self.g = lambda s: torch.tanh(s @ W + b) @ V

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def sample(self, n: int) -> np.ndarray:
        if self.shape in ("line", "plane"):
            s = self._normal(n, 1 if self.shape == "line" else 2)
        elif self.shape == "torus":
            s = FlatTorusEmbedding(2)(torch.rand(n, 2, generator=self.generator, dtype=torch.float64))
        else:
            s = self._normal(n, 2 if self.shape == "circle" else 3)
            s = s / s.norm(dim=-1, keepdim=True)
        return (self.g(s) + NOISE * self._normal(n, D)).float().numpy()

    def evidence(self, x: np.ndarray) -> np.ndarray:
        s, log_weight = grid(self.shape)
        mean = self.g(s)
        rows = []
        for part in torch.as_tensor(x).double().split(50):
            square = torch.cdist(part, mean, compute_mode="donot_use_mm_for_euclid_dist").square()
            rows.append(torch.logsumexp(-square / (2 * NOISE**2) + log_weight, -1))
        return (torch.cat(rows) - D * math.log(NOISE * math.sqrt(2 * math.pi))).numpy()


def noisy(x: np.ndarray, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = x[rng.choice(len(x), min(n, len(x)), replace=False)]
    return (x + NOISE * rng.standard_normal(x.shape)).reshape(len(x), -1).astype(np.float32)


def real(name: str, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = ppvae.data.load("torsions" if name == "torsion angles" else "earthquakes")
    return noisy(data.train, n, seed), noisy(data.validation, 500, seed), noisy(data.test, 1000, seed)


def run(name: str, seed: int, args: argparse.Namespace) -> tuple[list[dict], dict[str, nn.Module]]:
    if name in ("torsion angles", "earthquakes"):
        train, valid, test = real(name, seed, args.n)
        truth = None
    else:
        source = Source(name, seed)
        train, valid, test = source.sample(args.n), source.sample(500), source.sample(args.held_out)
        truth = source.evidence(test)
    rows: list[dict] = []
    values: dict[str, np.ndarray] = {}
    trained: dict[str, nn.Module] = {}
    for latent, make in latents(train.shape[1:], args.hidden).items():
        start = time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            vae = make()
        ppvae.fit(
            vae,
            train,
            validation=valid,
            epochs=args.epochs,
            batch_size=args.batch,
            lr=3e-3,
            scheduler=lambda optimizer: CosineAnnealingLR(optimizer, args.epochs),
            warmup=args.epochs / 10,
            seed=seed,
            progress=False,
        )
        ll = ppvae.log_likelihood(vae, test, num_samples=args.samples, seed=seed)
        values[latent], trained[latent] = ll.values, vae
        rows.append(
            {
                "data": name,
                "seed": seed,
                "latent": latent,
                "log_likelihood": ll.mean,
                "monte_carlo_error": float(np.sqrt((ll.error**2).sum()) / len(test)),
                "pareto_k_above_0.7": float((ll.pareto_k > 0.7).mean()),
                "seconds": time.perf_counter() - start,
            }
        )
        print(f"{name}, seed {seed}, {latent}: {ll.mean:.3f} nats", file=sys.stderr, flush=True)
    for row in rows:
        row["right - this"] = paired(values[RIGHT[name]] - values[row["latent"]])
        if truth is not None:
            row["truth - this"] = paired(truth - values[row["latent"]])
    return rows, trained


def paired(difference: np.ndarray) -> tuple[float, float]:
    """Mean over data and its standard error."""
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def pooled(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean over the seeds, and the larger of its two standard errors: from the spread of the seeds, and from the
    data.
    """
    means, errors = np.array(pairs).T
    data = float(np.sqrt((errors**2).sum()) / len(errors))
    seeds = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else 0.0
    return float(means.mean()), max(data, seeds)


def table(results: dict) -> str:
    rows = results["rows"]
    names = list(dict.fromkeys(row["latent"] for row in rows))
    lines = [
        f"`{results['command']}`",
        "",
        "Nats per held-out datum that each latent falls short of the right one, paired, mean over seeds ± "
        "standard error (the larger",
        "of that over data and that over seeds); what beats the right latent by two errors is marked with *. "
        "Last: what the right",
        "one falls short of the generating model.",
        "",
        "| data | " + " | ".join(names) + " | truth - right |",
        "|---" * (len(names) + 2) + "|",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        cells = []
        for name in names:
            some = [row for row in rows if row["data"] == data and row["latent"] == name]
            if name == RIGHT[data]:
                cells.append(f"**{np.mean([row['log_likelihood'] for row in some]):.2f}**")
                gap = [row["truth - this"] for row in some if "truth - this" in row]
                continue
            mean, error = pooled([row["right - this"] for row in some])
            cells.append(f"{mean:.2f} ± {error:.2f}" + ("*" if mean < -2 * error else ""))
        last = "{:.2f} ± {:.2f}".format(*pooled(gap)) if gap else ""
        lines.append(f"| {data} | " + " | ".join(cells) + f" | {last} |")
    worst = max(row["pareto_k_above_0.7"] for row in rows)
    lines += ["", f"Largest share of data with Pareto k above 0.7: {worst:.1%}.", ""]
    return "\n".join(lines)


def density(vae: nn.Module, x: np.ndarray, samples: int) -> np.ndarray:
    return ppvae.log_likelihood(vae, x.reshape(len(x), -1).astype(np.float32), num_samples=samples, seed=0).values


def maps(torus: nn.Module, sphere: nn.Module, folder: Path, samples: int, side: int) -> None:
    """log p(x) of the two fitted models at the points of the torus and of the globe, and the data that they were
    tested on.
    """
    from matplotlib.figure import Figure

    angle = (np.arange(side) + 0.5) / side * 2 * np.pi - np.pi
    phi, psi = np.meshgrid(angle, angle)
    points = np.stack([np.stack([np.cos(a), np.sin(a)], -1) for a in (phi, psi)], -2).reshape(-1, 4)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    values = density(torus, points, samples).reshape(phi.shape)
    drawn = axes.pcolormesh(np.degrees(angle), np.degrees(angle), values, vmin=values.max() - 8, cmap="viridis")
    test = ppvae.data.load("torsions").test
    angles = np.degrees(np.arctan2(test[..., 1], test[..., 0]))
    axes.plot(*angles.T, ".", color="white", markersize=1.5, alpha=0.6)
    axes.set(xlabel="phi (degrees)", ylabel="psi (degrees)", xlim=(-180, 180), ylim=(-180, 180), aspect="equal")
    figure.colorbar(drawn, label="log p(x), nats per unit volume of R^4")
    figure.savefig(folder / "which_latent_torsions.png", dpi=110)

    longitude, height = (
        (np.arange(2 * side) + 0.5) / side * np.pi - np.pi,
        (np.arange(side) + 0.5) / side * np.pi - np.pi / 2,
    )
    a, b = np.meshgrid(longitude, height)
    points = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], -1).reshape(-1, 3)
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    values = density(sphere, points, samples).reshape(a.shape)
    drawn = axes.pcolormesh(longitude, height, values, vmin=values.max() - 8, cmap="viridis", rasterized=True)
    try:
        land = np.radians(ppvae.data.load("land", n=20_000).train_labels)
        axes.plot(land[:, 1], land[:, 0], ".", color="white", markersize=1.2, alpha=0.35)
    except FileNotFoundError as error:
        print(f"no land is drawn: {error}", file=sys.stderr)
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    figure.colorbar(drawn, label="log p(x), nats per unit volume of R^3", shrink=0.7)
    figure.savefig(folder / "which_latent_earthquakes.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=4096, help="training data")
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--samples", type=int, default=500, help="importance samples")
    parser.add_argument("--side", type=int, default=60, help="points on a side of the maps")
    parser.add_argument("--data", nargs="+", default=list(RIGHT), choices=list(RIGHT))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "which_latent.json")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and train nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.out.read_text())))
        return
    torch.set_num_threads(1)
    results: dict = {
        "command": "python benchmarks/which_latent.py " + " ".join(sys.argv[1:]),
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()},
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "table")} | {"threads": 1},
        "rows": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    fitted = {}
    for name in args.data:
        for seed in range(args.seeds):
            rows, trained = run(name, seed, args)
            results["rows"] += rows
            fitted[name] = trained[RIGHT[name]]
            args.out.write_text(json.dumps(results, default=float))
    if "torsion angles" in fitted and "earthquakes" in fitted:
        maps(fitted["torsion angles"], fitted["earthquakes"], args.out.parent, args.samples, args.side)
    print(table(results))


if __name__ == "__main__":
    main()
