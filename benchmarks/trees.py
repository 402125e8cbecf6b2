"""Is a hyperbolic latent better for data of a tree? A branching diffusion, against the exact evidence.

The tree is binary, of depth 6: 127 nodes in R^50, each its parent plus N(0, I), as in the branching diffusion of
Mathieu et al. (2019). A datum is a node, chosen evenly, plus N(0, I): p(x) is a mixture of 127 Gaussians, and the
evidence of the generating model is known exactly. Each seed has a tree, data and a start of its own: 4,000 data to
train on, 500 to keep the best epoch by, 500 to test. All models have a latent of two dimensions, one hidden layer of
200 each way, the likelihood N(f(z), I), and see the same data.

    nats from truth     log p(x) by importance sampling with the guide less the exact log p(x), both in the mean over
                        test data; negative, and the nearer to 0 the better
    tree distances      Pearson correlation of the distances of encoded nodes in the latent with the number of edges
                        between them, over all pairs

    python benchmarks/trees.py             # measures, writes benchmarks/results/trees.json; started again it goes on
    python benchmarks/trees.py --figure    # trains two models of seed 0 and draws their latents with the tree
    python benchmarks/trees.py --table     # prints the table of the results

Reference: Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu et al., 2019)
https://arxiv.org/abs/1901.06033
"""

import argparse
import json
import math
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ppvae.models import GaussianVAE, HyperbolicVAE, SphericalVAE
from scipy.special import logsumexp
from torch import Tensor

import ppvae
from ppvae.manifolds import Hyperboloid, Sphere
from ppvae.nn import NormalLikelihood
from ppvae.vae import VAE

DIM, DEPTH = 50, 6


def hyperbolic(s: float) -> HyperbolicVAE:
    return HyperbolicVAE((DIM,), 3, (200,), prior_scale=s, likelihood=NormalLikelihood(1.0))


MODELS: dict[str, Callable[[], VAE]] = {
    "plane": lambda: GaussianVAE((DIM,), 2, (200,), likelihood=NormalLikelihood(1.0)),
    "sphere": lambda: SphericalVAE((DIM,), 3, (200,), likelihood=NormalLikelihood(1.0)),
    **{f"hyperbolic plane, s = {s:g}": partial(hyperbolic, s) for s in (0.1, 0.5, 1.0, 2.0, 3.0)},
}


class Tree:
    """Nodes in R^50 and what is known of them."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        nodes, self.parent = [np.zeros(DIM)], [-1]
        for i in range(2**DEPTH - 1):
            for _ in range(2):
                nodes.append(nodes[i] + self.rng.standard_normal(DIM))
                self.parent.append(i)
        self.nodes = np.array(nodes)

    def draw(self, n: int) -> NDArray:
        x = self.nodes[self.rng.integers(len(self.nodes), size=n)]
        return (x + self.rng.standard_normal(x.shape)).astype(np.float32)

    def log_prob(self, x: NDArray) -> NDArray:
        square = ((x[:, None].astype(float) - self.nodes) ** 2).sum(-1)
        return logsumexp(-square / 2, 1) - math.log(len(self.nodes)) - DIM / 2 * math.log(2 * math.pi)

    def edges(self) -> NDArray:
        """The number of edges between each two nodes."""
        above: list[set[int]] = []
        for i, parent in enumerate(self.parent):
            above.append({i} | (above[parent] if parent >= 0 else set()))
        return np.array([[len(a ^ b) for b in above] for a in above])


def distances(vae: VAE, z: Tensor) -> NDArray:
    z = z.double()
    if isinstance(vae, HyperbolicVAE):
        return Hyperboloid().dist(z[:, None], z).numpy()
    if isinstance(vae, SphericalVAE):
        z = z / z.norm(dim=-1, keepdim=True)
        return Sphere().dist(z[:, None], z).numpy()
    return torch.cdist(z, z).numpy()


def train(name: str, seed: int, args: argparse.Namespace) -> tuple[VAE, Tree, NDArray]:
    tree = Tree(seed)
    x, valid, test = (tree.draw(n) for n in (4000, 500, 500))
    torch.manual_seed(seed)
    vae = MODELS[name]()
    ppvae.fit(vae, x, validation=valid, epochs=args.epochs, batch_size=64, seed=seed, progress=False)
    return vae, tree, test


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    cpu = time.process_time()
    vae, tree, test = train(name, seed, args)
    cpu = time.process_time() - cpu
    found = ppvae.log_likelihood(vae, test, num_samples=args.samples, seed=0)
    z = torch.as_tensor(ppvae.encode(vae, tree.nodes.astype(np.float32)))
    pairs = np.triu_indices(len(tree.nodes), 1)
    return {
        "model": name,
        "seed": seed,
        "nats_from_truth": float(found.values.mean() - tree.log_prob(test).mean()),
        "elbo_from_truth": float(found.log_weights.mean() - tree.log_prob(test).mean()),
        "pareto_k_above_0.7": float((found.pareto_k > 0.7).mean()),
        "tree_distances": float(np.corrcoef(tree.edges()[pairs], distances(vae, z)[pairs])[0, 1]),
        "cpu_seconds": cpu,
    }


def table(result: dict[str, Any]) -> str:
    rows = result["rows"]
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"{result['settings']['epochs']} epochs, {len(seeds)} trees; mean (standard deviation) over trees",
        "",
        "| latent | nats from truth | ELBO, nats from truth | less the plane, nats | tree distances "
        "| Pareto k > 0.7, % | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    plane = {row["seed"]: row["nats_from_truth"] for row in rows if row["model"] == "plane"}
    for name in MODELS:
        some = [row for row in rows if row["model"] == name]
        if not some:
            continue

        def cell(values: list[float], digits: int) -> str:
            spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
            return f"{statistics.mean(values):.{digits}f}{spread}"

        gain = [row["nats_from_truth"] - plane[row["seed"]] for row in some if row["seed"] in plane]
        cells = [
            name,
            cell([row["nats_from_truth"] for row in some], 1),
            cell([row["elbo_from_truth"] for row in some], 1),
            cell(gain, 1) if name != "plane" else "",
            cell([row["tree_distances"] for row in some], 2),
            cell([100 * row["pareto_k_above_0.7"] for row in some], 0),
            cell([row["cpu_seconds"] for row in some], 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(args: argparse.Namespace) -> None:
    """Encoded nodes and the edges between them: geodesics of the latent."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    made = Figure(figsize=(9.6, 4.9), layout="constrained", dpi=160)
    colors = ["#DDAA33", "#CC6677", "#882255", "#AA4499", "#332288", "#117733", "#44AA99"]
    for axes, name in zip(made.subplots(1, 2), ("plane", "hyperbolic plane, s = 2"), strict=True):
        vae, tree, _ = train(name, 0, args)
        z = torch.as_tensor(ppvae.encode(vae, tree.nodes.astype(np.float32))).double()
        start, end = z[tree.parent[1:]], z[1:]
        t = torch.linspace(0, 1, 60, dtype=z.dtype)[:, None, None]
        if name == "plane":
            line, points = start + t * (end - start), z
            axes.set(xlabel="$z_1$", ylabel="$z_2$")
        else:
            line = Hyperboloid().expmap(start, t * Hyperboloid().logmap(start, end))
            line, points = (a[..., 1:] / (1 + a[..., :1]) for a in (line, z))
            rim = np.linspace(0, 2 * np.pi, 361)
            axes.plot(np.cos(rim), np.sin(rim), color="#888888", linewidth=0.9)
            axes.set(xlabel="$z_2 / (1 + z_1)$", ylabel="$z_3 / (1 + z_1)$", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axes.add_collection(
            LineCollection(list(line.movedim(1, 0).numpy()), colors="#b0b0b0", linewidths=0.7, zorder=1)
        )
        level = np.floor(np.log2(np.arange(1, len(tree.nodes) + 1))).astype(int)
        for depth in range(DEPTH + 1):
            here = level == depth
            axes.scatter(
                *points[here].T, s=70 / (1 + depth) + 6, color=colors[depth], edgecolors="white", linewidths=0.4,
                zorder=2, label=str(depth) if name == "plane" else None,
            )  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim" if name == "plane" else "box")
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    made.legend(loc="outside right center", frameon=False, title="depth", fontsize=9)
    made.savefig(args.out.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--samples", type=int, default=1000, help="importance samples")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "trees.json")
    parser.add_argument("--figure", action="store_true", help="draw the latents beside --out and measure nothing")
    parser.add_argument("--table", action="store_true", help="print the table of the results and train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.figure:
        figure(args)
        return
    if not args.table:
        settings = {"epochs": args.epochs, "samples": args.samples}
        result: dict[str, Any] = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": {"python": platform.python_version(), "torch": torch.__version__, "cpu": platform.machine()},
            "settings": settings,
            "rows": [],
        }
        if args.out.exists() and (old := json.loads(args.out.read_text()))["settings"] == settings:
            result["rows"] = old["rows"]
        done = {(row["model"], row["seed"]) for row in result["rows"]}
        for seed in range(args.seeds):
            for name in MODELS:
                if (name, seed) not in done:
                    row = run(name, seed, args)
                    result["rows"].append(row)
                    args.out.write_text(json.dumps(result, indent=1))
                    print(f"{name}, tree {seed}: {row['nats_from_truth']:.2f} nats from truth", flush=True)
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
