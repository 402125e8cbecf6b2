"""Which symmetry is in the data? Latents of six shapes on data of five, by held-out log-likelihood.

Golikov and Kretov (2018, https://arxiv.org/abs/1812.05769) propose to fit VAEs whose latents differ in shape and to
read off the likelihoods which shape the data have. Here the answer is known: s lies on a line, a plane, a circle, a
torus or a sphere, and x = g(s) + 0.1 noise in R^20, with g a fixed random perceptron with smooth units that is
drawn anew for each seed. All models have the same hidden layers and the same likelihood N(decoder(z), 0.1^2), and see
the same data. log p(x) of the same held-out data is taken over draws of the prior, so that a guide that misses part
of the posterior spoils nothing, and by importance sampling with the guide; differences to the right latent are
paired. The evidence of the generating model, on a grid over s, is the most that any model can reach in the mean.

The second part takes data whose shape is known from elsewhere: backbone torsions of proteins (a torus) and places
of earthquakes (the sphere), each as unit vectors with noise of standard deviation 0.1 added, without which a
density on a surface has no bound.

    python benchmarks/which_latent.py                      # results/which_latent.json; started again it goes on
    python benchmarks/which_latent.py --maps               # the maps of torsions and earthquakes, beside it
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
from typing import Any

import numpy as np
import torch
from ppvae.models import GaussianVAE, ManifoldVAE, SphericalVAE
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import ppvae
from ppvae.metrics import winding_number
from ppvae.nn import CircleEmbedding, FlatTorusEmbedding, NormalLikelihood, SphereEmbedding, UnrolledCircleHead
from ppvae.vae import VAE

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
REAL = {"torsion angles": "torsions", "earthquakes": "earthquakes"}


def latents(shape: tuple[int, ...], hidden: int) -> dict[str, Callable[[], VAE]]:
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
        parts = [log_normal(part, mean) + log_weight for part in torch.as_tensor(x).double().split(50)]
        return torch.cat([part.logsumexp(-1) for part in parts]).numpy()

    def degree(self, vae: VAE, n: int = 200) -> float | None:
        """How often the latents of g(s) cover the latent manifold, s all over its own: 1 for a homeomorphism, NaN for a
        torn encoder; None for a line and a plane.
        """
        turn = torch.arange(n, dtype=torch.float64) / n
        if self.shape == "circle":
            return abs(float(winding_number(self._encode(vae, CircleEmbedding()(turn[:, None])))))
        if self.shape == "torus":  # its two loops, each by how often it goes round either circle of the latent
            chart = torch.stack([torch.stack([turn, 0 * turn], -1), torch.stack([0 * turn, turn], -1)])
            loops = self._encode(vae, FlatTorusEmbedding(2)(chart)).unflatten(-1, (2, 2)).transpose(1, 2)
            return abs(float(np.linalg.det(winding_number(loops))))
        if self.shape == "sphere":
            height = torch.linspace(0, 1, n + 1, dtype=torch.float64)
            z = self._encode(vae, SphereEmbedding()(torch.cartesian_prod(height, turn)).unflatten(0, (n + 1, n)))
            return abs(covered(z))
        return None

    def _encode(self, vae: VAE, s: Tensor) -> Tensor:
        x = self.g(s).float()
        with torch.no_grad():
            flat = x.flatten(0, -2)
            z = vae.latent(flat) if isinstance(vae, ManifoldVAE) else ppvae.encode(vae, flat)
        return z.unflatten(0, x.shape[:-1]).double()


def covered(z: Tensor) -> float:
    """How often a map of the sphere to the sphere covers it, from its values (n + 1, n, 3) on a grid of heights and
    longitudes: the signed areas of the triangles' images over 4 pi (van Oosterom and Strackee, 1983,
    https://doi.org/10.1109/TBME.1983.325207). NaN where neighbours are torn apart.
    """
    east = z.roll(-1, 1)
    area = 0.0
    for a, b, c in ((z[:-1], east[:-1], east[1:]), (z[:-1], east[1:], z[1:])):
        dots = torch.stack([(p * q).sum(-1) for p, q in ((a, b), (b, c), (c, a))])
        if dots.min() < 0:
            return math.nan
        volume = (a * torch.linalg.cross(b, c)).sum(-1)
        area += float(2 * torch.atan2(volume, 1 + dots.sum(0)).sum())
    return round(area / (4 * math.pi))


def noisy(x: np.ndarray, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = x[rng.choice(len(x), min(n, len(x)), replace=False)]
    return (x + NOISE * rng.standard_normal(x.shape)).reshape(len(x), -1).astype(np.float32)


def load(name: str, seed: int, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, Source | None]:
    """Data for training, validation and test, and what generated them where it is known."""
    if name in REAL:
        data = ppvae.data.load(REAL[name])
        return (
            noisy(data.train, args.n, seed),
            noisy(data.validation, 500, seed),
            noisy(data.test, args.held_out, seed),
            None,
        )
    source = Source(name, seed)
    return source.sample(args.n), source.sample(500), source.sample(args.held_out), source


def train(latent: str, x: np.ndarray, valid: np.ndarray, seed: int, args: argparse.Namespace) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = latents(x.shape[1:], args.hidden)[latent]()
    epochs = max(1, round(args.steps * args.batch / len(x)))
    ppvae.fit(
        vae,
        x,
        validation=valid,
        epochs=epochs,
        batch_size=args.batch,
        lr=args.lr,
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
        warmup=epochs / 10,
        seed=seed,
        progress=False,
    )
    return vae


def log_evidence(vae: VAE, x: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """log p(x) under the model from draws of its prior, which no guide can spoil, and their Monte Carlo errors."""
    total = square = torch.full((len(x),), -math.inf, dtype=torch.float64)
    for mean in torch.as_tensor(ppvae.generate(vae, draws, seed=seed)).split(2**13):
        log_p = log_normal(torch.as_tensor(x), mean).double()
        total, square = torch.logaddexp(total, log_p.logsumexp(-1)), torch.logaddexp(square, (2 * log_p).logsumexp(-1))
    return (total - math.log(draws)).numpy(), (square / 2 - total).exp().numpy()


def log_normal(x: Tensor, mean: Tensor) -> Tensor:
    """log N(x; mean, NOISE^2 I) of shape (len(x), len(mean))."""
    constant = -x.shape[1] * math.log(NOISE * math.sqrt(2 * math.pi))
    along = torch.addmm(-mean.square().sum(-1) / 2, x, mean.T) - x.square().sum(-1, keepdim=True) / 2
    return along / NOISE**2 + constant


def run(name: str, seed: int, args: argparse.Namespace) -> list[dict]:
    x, valid, test, source = load(name, seed, args)
    rows: list[dict] = []
    values: dict[str, np.ndarray] = {}
    for latent in latents(x.shape[1:], args.hidden):
        start = time.perf_counter()
        vae = train(latent, x, valid, seed, args)
        values[latent], error = log_evidence(vae, test, args.draws, seed)
        ll = ppvae.log_likelihood(vae, test, num_samples=args.samples, seed=seed)
        row: dict[str, Any] = {
            "data": name,
            "seed": seed,
            "latent": latent,
            "evidence": float(values[latent].mean()),
            "monte_carlo_error": float(np.sqrt((error**2).sum()) / len(test)),
            "iwae - evidence": paired(ll.values - values[latent]),
            "pareto_k_above_0.7": float((ll.pareto_k > 0.7).mean()),
            "seconds": time.perf_counter() - start,
        }
        if latent == RIGHT[name] and source is not None and (degree := source.degree(vae)) is not None:
            row["degree"] = degree
        rows.append(row)
        print(f"{name}, seed {seed}, {latent}: {row['evidence']:.3f} nats", file=sys.stderr, flush=True)
    truth = None if source is None else source.evidence(test)
    for row in rows:
        row["right - this"] = paired(values[RIGHT[name]] - values[row["latent"]])
        if truth is not None:
            row["truth - this"] = paired(truth - values[row["latent"]])
    return rows


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


def occupied(name: str, share: float = 0.9, n: int = 36) -> float:
    """The least part of the manifold that holds a share of the data, by n x n cells of equal area."""
    x = torch.as_tensor(ppvae.data.load(REAL[name]).train).flatten(1)
    chart = (FlatTorusEmbedding(2) if RIGHT[name] == "torus" else SphereEmbedding()).inverse(x)
    first, second = chart.T.numpy()
    counts = np.sort(np.histogram2d(first, second, bins=n, range=((0, 1), (0, 1)))[0].ravel())[::-1]
    return float((np.cumsum(counts) < share * counts.sum()).sum() + 1) / n**2


def table(results: dict) -> str:
    rows = results["rows"]
    names = list(dict.fromkeys(row["latent"] for row in rows))
    shapes = list(dict.fromkeys(row["data"] for row in rows))

    def of(data: str, name: str) -> list[dict]:
        return [row for row in rows if row["data"] == data and row["latent"] == name]

    seeds = len({row["seed"] for row in rows})
    lines = [
        f"`{results['command']}`",
        "",
        f"Seeds: {seeds}. Nats per held-out datum by which the evidence of each latent falls short of the right one's "
        "(bold: its evidence), paired, mean over seeds ± standard error (the larger of that over data and that over "
        "seeds); * beats the right latent by two errors. Covers: how often the right encoder covers its latent "
        "manifold, by seeds, 1 for a homeomorphism.",
        "",
        "| data | " + " | ".join(names) + " | truth - right | covers |",
        "|---" * (len(names) + 3) + "|",
    ]
    for data in shapes:
        cells = []
        for name in names:
            mean, error = pooled([row["right - this"] for row in of(data, name)])
            cells.append(f"{mean:.2f} ± {error:.2f}" + ("*" if mean < -2 * error else ""))
        right = of(data, RIGHT[data])
        cells[names.index(RIGHT[data])] = f"**{np.mean([row['evidence'] for row in right]):.2f}**"
        known = "truth - this" in right[0]
        cells.append("{:.2f} ± {:.2f}".format(*pooled([row["truth - this"] for row in right])) if known else "")
        cells.append(", ".join(f"{row['degree']:.0f}" for row in right if "degree" in row).replace("nan", "torn"))
        lines.append(f"| {data} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Nats per datum by which IWAE with the guide falls short of the same evidence, mean over seeds, and the share "
        "of data with Pareto k above 0.7.",
        "",
        "| data | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for data in shapes:
        cells = []
        for name in names:
            some = of(data, name)
            short = -np.mean([row["iwae - evidence"][0] for row in some])
            cells.append(f"{short:.2f} ({np.mean([row['pareto_k_above_0.7'] for row in some]):.0%})")
        lines.append(f"| {data} | " + " | ".join(cells) + " |")
    worst = max(row["monte_carlo_error"] for row in rows)
    lines += ["", f"Largest Monte Carlo error of a mean evidence: {worst:.3f} nats."]
    lines += [f"Nine tenths of the {name} lie on {occupied(name):.1%} of the {RIGHT[name]}." for name in REAL]
    return "\n".join(lines)


def density(vae: VAE, x: np.ndarray, area: np.ndarray, draws: int) -> np.ndarray:
    """log p(x) at points of a surface, normalised over it: nats per unit of ``area``, which is that of their cells."""
    log_p = log_evidence(vae, x.reshape(area.size, -1).astype(np.float32), draws, seed=0)[0].reshape(area.shape)
    return log_p - np.log((np.exp(log_p) * area).sum())


def maps(args: argparse.Namespace) -> None:
    """The densities of the right latents on the torus and on the globe, over the data that they are tested on."""
    from matplotlib.figure import Figure

    vaes = {}
    for name in REAL:
        x, valid, _, _ = load(name, 0, args)
        vaes[name] = train(RIGHT[name], x, valid, 0, args)

    turn = (np.arange(args.side) + 0.5) / args.side
    angle = 2 * np.pi * turn - np.pi
    phi, psi = np.meshgrid(angle, angle)
    points = np.stack([np.stack([np.cos(a), np.sin(a)], -1) for a in (phi, psi)], -2)
    values = density(vaes["torsion angles"], points, np.full(phi.shape, (2 * np.pi / args.side) ** 2), args.draws)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.pcolormesh(np.degrees(angle), np.degrees(angle), values, vmin=values.max() - 8, cmap="viridis")
    test = ppvae.data.load("torsions").test
    axes.plot(*np.degrees(np.arctan2(test[..., 1], test[..., 0])).T, ".", color="white", markersize=1.5, alpha=0.6)
    axes.set(xlabel="phi (degrees)", ylabel="psi (degrees)", xlim=(-180, 180), ylim=(-180, 180), aspect="equal")
    figure.colorbar(drawn, label="log density, nats per square radian", extend="min")
    figure.savefig(args.out.parent / "which_latent_torsions.png", dpi=110)

    longitude, latitude = np.meshgrid(angle, np.pi * turn - np.pi / 2)
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1
    )
    area = 2 * np.pi**2 / args.side**2 * np.cos(latitude)
    values = density(vaes["earthquakes"], points, area, args.draws)
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    drawn = axes.pcolormesh(longitude, latitude, values, vmin=values.max() - 8, cmap="viridis", rasterized=True)
    coastlines(axes)
    x, y, z = ppvae.data.load("earthquakes").test[:1000].T
    axes.plot(np.arctan2(y, x), np.arcsin(z), ".", color="tab:red", markersize=1.5, alpha=0.6)
    axes.set(xticklabels=[], yticklabels=[])
    figure.colorbar(drawn, label="log density, nats per steradian", shrink=0.7, extend="min")
    figure.savefig(args.out.parent / "which_latent_earthquakes.png", dpi=110)


def coastlines(axes: Any) -> None:
    try:
        from global_land_mask import globe
    except ImportError:
        print("no coastlines are drawn: pip install --no-deps global-land-mask==1.0.0", file=sys.stderr)
        return
    longitude, latitude = np.meshgrid(np.arange(-179.5, 180), np.arange(-89.5, 90))
    land = globe.is_land(latitude, longitude)
    axes.contour(np.radians(longitude), np.radians(latitude), land, [0.5], colors="white", linewidths=0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=20_000, help="training data, at most")
    parser.add_argument("--held-out", type=int, default=200, help="test data")
    parser.add_argument("--steps", type=int, default=1000, help="training steps")
    parser.add_argument("--lr", type=float, default=1e-2, help="learning rate of Adam, which falls to 0 as a cosine")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--draws", type=int, default=2**16, help="draws of the prior for the evidence")
    parser.add_argument("--samples", type=int, default=200, help="importance samples for IWAE")
    parser.add_argument("--side", type=int, default=90, help="points on a side of the maps")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "which_latent.json")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and train nothing")
    parser.add_argument("--maps", action="store_true", help="train for the maps alone and draw them beside --out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        print(table(json.loads(args.out.read_text())))
        return
    if args.maps:
        maps(args)
        return
    results: dict = {
        "command": " ".join(["python benchmarks/which_latent.py", *sys.argv[1:]]),
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()},
        "settings": {k: v for k, v in vars(args).items() if k not in ("seeds", "out", "table", "maps", "side")},
        "rows": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.exists() and (old := json.loads(args.out.read_text()))["settings"] == results["settings"]:
        results["rows"] = old["rows"]
    done = {(row["data"], row["seed"]) for row in results["rows"]}
    for seed in range(args.seeds):
        for name in RIGHT:
            if (name, seed) not in done:
                results["rows"] += run(name, seed, args)
                args.out.write_text(json.dumps(results))
    print(table(results))


if __name__ == "__main__":
    main()
