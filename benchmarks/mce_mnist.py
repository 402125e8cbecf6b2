"""MCE-VAE on turned MNIST: clusters, poses and invariance, against VAEs that know no pose.

The digits are turned by up to 90 degrees ("quarter"), by any angle ("full"), or by any angle and shifted by up to a
quarter of half the side ("roto-translated"), and binarised, afresh in every step; test images once, from seed 0, with
their angles kept.

    gaussian     GaussianVAE, z in R^13; k-means on its means
    mixture      GaussianMixtureVAE, z_c in R^13
    mce          MCEVAE, z_c in R^10 and z in R^3, with a canonicalizer of two directions; unsupervised
    one          the same with one direction
    term         the same without a canonicalizer: the pose is read off the encoder, and the mean squared change of z
                 and the canonical image under 4 random moves is a term of the objective, weight 1; in the paper it has
                 z_c too
    labels       as mce with 100 labels, the clusters enumerated
    canonical    as mce, the upright image of each training digit observed too: supervised

All have the perceptron 256-128 for an encoder and its reverse for a decoder, Adam at 1e-3, a KL weight that rises over
the first tenth of the epochs, and one Gaussian for q(z_c | x) save "labels". All others that have clusters place them
by k-means on the centres of q(z_c | x) after half of the epochs, as in VaDE. Test images are for the scores alone;
--held-out scores validation images instead and keeps nothing: for choosing between settings.

A known label weighs 10 times the number of images over the number of labels. Kingma et al. (2014) take 0.1 times that:
at this length of training the clusters then keep the names that they come by in the first epochs, before the labels
could have a say, as --label-weight 0.1 shows.

    python benchmarks/mce_mnist.py                             # every run that has no result yet
    python benchmarks/mce_mnist.py --moves full --models mce   # some of them
    python benchmarks/mce_mnist.py --images 50000 --epochs 60  # at more length
    python benchmarks/mce_mnist.py --table                     # the table, from the results

Reference: Invariance-based Multi-Clustering of Latent Space Embeddings for Equivariant Learning (Bajaj, Roy and Zhang,
2021), https://arxiv.org/abs/2107.11717, which shows pictures and no table.
"""

import argparse
import json
import math
import platform
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ppvae.models import MCEVAE, GaussianMixtureVAE, GaussianVAE
from pyro import poutine
from scipy.cluster.vq import kmeans2
from torch import Tensor

import ppvae
from ppvae.distributions import center
from ppvae.infer import EnumeratedELBO, Invariance, LabelTerm, Regularized, TensorELBO
from ppvae.manifolds import circle
from ppvae.metrics import (
    adjusted_rand_index,
    circular_correlation,
    clustering_accuracy,
    invariance_error,
    normalized_mutual_information,
)
from ppvae.nn import BernoulliLikelihood, Clusters, LabelledClusters, NormalHead, PolarCanonicalizer, Pose
from ppvae.nn.actions import RandomSimilarity, act, rotate
from ppvae.train import Fit

RESULTS = Path(__file__).parent / "results" / "mce_mnist"
MOVES = {
    "quarter": RandomSimilarity(turn=math.pi / 2),
    "full": RandomSimilarity(),
    "roto-translated": RandomSimilarity(shift=0.25),
}
MODELS = ("gaussian", "mixture", "mce", "one", "term", "labels", "canonical")
HIDDEN, DIM, CLUSTER_DIM, K = (256, 128), 3, 10, 10
TEST_IMAGES, NUM_SAMPLES, LABEL_WEIGHT = 2000, 50, 10.0
DIRECTIONS, PLACE = 2, 0.5
#: digits whose angle is to be told, those that look the same after half a turn, and the pair that are each other's
TOLD, DOUBLED, EACH_OTHERS = (2, 3, 4, 5, 7), (0, 1, 8), (6, 9)


def build(model: str, shape: tuple[int, int, int], move: str, several: int = DIRECTIONS):
    def mce(clusters: Clusters, canonical: BernoulliLikelihood | None = None, directions: int = several) -> MCEVAE:
        pose = Pose(shift=0.25 if MOVES[move].shift else None, directions=directions)
        finder = PolarCanonicalizer(shape, rings=14, directions=directions)
        return MCEVAE(shape, DIM, clusters, pose, finder, HIDDEN, canonical=canonical)

    if model == "gaussian":
        return GaussianVAE(shape, DIM + CLUSTER_DIM, HIDDEN)
    if model == "mixture":
        return GaussianMixtureVAE(shape, Clusters(DIM + CLUSTER_DIM, K, NormalHead(DIM + CLUSTER_DIM)), HIDDEN)
    if model in ("mce", "one"):
        return mce(Clusters(CLUSTER_DIM, K, NormalHead(CLUSTER_DIM)), directions=1 if model == "one" else several)
    if model == "term":
        pose = Pose(shift=0.25 if MOVES[move].shift else None)
        return MCEVAE(shape, DIM, Clusters(CLUSTER_DIM, K, NormalHead(CLUSTER_DIM)), pose, hidden=HIDDEN)
    if model == "labels":
        return mce(LabelledClusters(CLUSTER_DIM, K))
    return mce(Clusters(CLUSTER_DIM, K, NormalHead(CLUSTER_DIM)), BernoulliLikelihood())


@dataclass(frozen=True)
class Moved:
    """Images moved at random, then binarised."""

    move: RandomSimilarity
    domain = RandomSimilarity.domain

    def __call__(self, x: Tensor) -> Tensor:
        return torch.bernoulli(self.move(x))


def name(model: str, args: argparse.Namespace) -> str:
    """The name of a row."""
    other = model == "labels" and args.label_weight != LABEL_WEIGHT
    return f"{model}, weight {args.label_weight:g}" if other else model


def kmeans(z: np.ndarray, seed: int) -> np.ndarray:
    """The best of ten runs of k-means by its own criterion."""
    runs = [kmeans2(z, K, minit="++", iter=100, seed=1000 * seed + i) for i in range(10)]
    return min(runs, key=lambda run: ((z - run[0][run[1]]) ** 2).sum())[1]


def codes(vae, x: np.ndarray, given: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    found = ppvae.encode(vae, x, *given)
    return found if isinstance(found, dict) else {"z": found}


def turn_correlations(
    turn: np.ndarray, angle: np.ndarray, clusters: np.ndarray, labels: np.ndarray, doubled: tuple[int, ...]
) -> dict[str, float]:
    """For each digit, the offset taken out of each of its clusters with 20 images or more; of some digits doubled."""
    t = np.arctan2(turn[:, 1], turn[:, 0])
    found = {}
    for digit in range(10):
        size = np.bincount(clusters[labels == digit], minlength=K)
        rows = (labels == digit) & (size[clusters] >= min(20, size.max()))
        times = 2 if digit in doubled else 1
        found[str(digit)] = circular_correlation(times * t[rows], times * angle[rows], clusters[rows])
    return found


def run(model: str, move: str, seed: int, args: argparse.Namespace) -> dict:
    data = ppvae.data.load("mnist")
    train = ppvae.data.scale(data.train[: args.images], data.maximum)
    test, labels = (data.validation, data.validation_labels) if args.held_out else (data.test, data.test_labels)
    test, labels = test[: args.test_images], labels[: args.test_images]
    shape, transform = (1, 28, 28), Moved(MOVES[move])

    # The test images, and the same turned once more by any angle, about the middle of the image.
    test = torch.tensor(ppvae.data.scale(test, data.maximum))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        g = MOVES[move].draw(test, (len(test),))
        again = circle.exp(2 * math.pi * torch.rand(len(test)))
        grey = act(test, g).clamp(0, 1)
        other = rotate(grey, again).clamp(0, 1)
        x_test = torch.bernoulli(grey).numpy()
    angle = torch.atan2(g[:, 1, 0], g[:, 0, 0]).numpy()

    torch.manual_seed(seed)
    vae = build(model, shape, move, args.directions)
    known = np.zeros(len(train), bool)
    known[np.random.default_rng(seed).choice(len(train), 100, replace=False)] = True
    given: tuple = ()
    blank: tuple = ()
    if model == "labels":
        given = (data.train_labels[: len(train)], known)
        blank = (np.zeros(len(test), int), np.zeros(len(test), bool))
    elif model == "canonical":
        given = ((train > 0.5).astype(np.float32), np.ones(len(train), bool))
        blank = (np.zeros_like(x_test), np.zeros(len(test), bool))

    objective: TensorELBO = EnumeratedELBO()  # without a latent that is enumerated, the ELBO
    if model == "labels":
        objective = Regularized(objective, label=LabelTerm(weight=args.label_weight * len(train) / 100))
    elif model == "term":
        objective = Regularized(objective, invariance=Invariance(MOVES[move], ("z", "canonical"), num_moves=4))

    def place(fit: Fit) -> None:
        if fit.epochs == int(args.place * args.epochs) < args.epochs:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(seed)
                x = transform(torch.tensor(train))
                beside = tuple(torch.tensor(a) for a in given)
                trace = poutine.trace(vae.guide).get_trace(x, *beside)
            z_c = trace.nodes["z_c" if "z_c" in trace else "z"]
            vae.clusters.place(z_c["value"], kmeans(center(z_c["fn"]).numpy(), seed))

    start, cpu = time.perf_counter(), time.process_time()
    history = ppvae.fit(
        vae,
        (train, *given),
        transform=transform,
        objective=objective,
        epochs=args.epochs,
        warmup=args.epochs / 10,
        callbacks=[] if model in ("gaussian", "labels") else [place],
        seed=seed,
        progress=args.progress,
    ).history
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}

    z = codes(vae, x_test, blank)
    z_grey, z_other = (codes(vae, x.numpy(), blank) for x in (grey, other))
    shown = [site for site in ("z_c", "z") if site in z]
    together = np.concatenate([z[site] for site in shown], 1)
    by_kmeans = kmeans(z[shown[0]], seed)
    if model == "gaussian":
        clusters = by_kmeans
    elif model == "labels":
        clusters = z["c"]
    else:
        with torch.no_grad():
            clusters = vae.clusters.law.cluster_probs(torch.tensor(z[shown[0]])).argmax(-1).numpy()
    result = {
        "model": name(model, args),
        "move": move,
        "seed": seed,
        **{key: getattr(args, key) for key in ("images", "test_images", "epochs", "num_samples")},
        "elbo_train": history["elbo"][-1],
        "accuracy": clustering_accuracy(clusters, labels),
        "nmi": normalized_mutual_information(clusters, labels),
        "ari": adjusted_rand_index(clusters, labels),
        "accuracy_kmeans": clustering_accuracy(by_kmeans, labels),
        "accuracy_kmeans_all": clustering_accuracy(kmeans(together, seed), labels),
        "invariance": {site: invariance_error(z_grey[site], z_other[site]) for site in shown},
        "seconds": seconds,
        "command": shlex.join(["python", *sys.argv]),
        "machine": {
            "torch": torch.__version__,
            "ppvae": ppvae.__version__,
            "cpu": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
    result["invariance"]["all"] = invariance_error(
        *(np.concatenate([code[site] for site in shown], 1) for code in (z_grey, z_other))
    )
    if model == "labels":  # the clusters are the classes, by name
        result["accuracy_of_labels"] = float((clusters == labels).mean())
    if "turn" in z:
        result["turn_correlation"] = turn_correlations(z["turn"], angle, clusters, labels, DOUBLED)
        result["turn_correlation_doubled"] = turn_correlations(z["turn"], angle, clusters, labels, tuple(range(10)))
        with torch.no_grad():
            canonical = [
                vae.likelihood(vae.decoder(torch.tensor(np.concatenate([c["z_c"], c["z"]], 1))), 3).mean
                for c in (z_grey, z_other)
            ]
        result["invariance"]["canonical"] = invariance_error(*(c.numpy() for c in canonical))
    ll = ppvae.log_likelihood(vae, x_test[:500], *(b[:500] for b in blank), num_samples=args.num_samples, seed=0)
    return result | {
        "log_likelihood": ll.mean,
        "log_likelihood_standard_error": ll.standard_error,
        "pareto_k_above_0.7": float((ll.pareto_k > 0.7).mean()),
    }


def table() -> str:
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    keys = ("images", "epochs", "test_images", "num_samples")
    settings = sorted({tuple(r[key] for key in keys) for r in results}, reverse=True)
    lines = []
    for setting in settings:
        some = [r for r in results if tuple(r[key] for key in keys) == setting]
        names = sorted({r["model"] for r in some}, key=lambda name: (MODELS.index(name.partition(",")[0]), name))
        lines += [
            "{:,} images, {} epochs; {:,} test images, {} samples for the log-likelihood; "
            "mean (standard deviation) over seeds\n".format(*setting),
            "| move | model | seeds | accuracy | by name | k-means on z_c | NMI | ARI | invariance error, z_c and z | "
            "canonical image "
            "| turn: 2, 3, 4, 5, 7 | 0, 1, 8 doubled | 6, 9 | log-likelihood | Pareto k > 0.7, % |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for move in MOVES:
            for model in names:
                runs = [r for r in some if (r["move"], r["model"]) == (move, model)]
                if not runs:
                    continue

                def cell(f, digits=2, runs=runs):
                    values = [f(r) for r in runs]
                    if any(v is None for v in values):
                        return ""
                    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
                    return f"{statistics.mean(values):.{digits}f}{spread}"

                def turns(digits):
                    def each(result, digits=digits):
                        found = result.get("turn_correlation")
                        return found and statistics.mean(found[str(d)] for d in digits)

                    return each

                cells = [
                    move, model, str(len(runs)),
                    cell(lambda r: 100 * r["accuracy"], 1),
                    cell(lambda r: 100 * r["accuracy_of_labels"] if "accuracy_of_labels" in r else None, 1),
                    cell(lambda r: 100 * r["accuracy_kmeans"], 1),
                    cell(lambda r: r["nmi"]), cell(lambda r: r["ari"]),
                    cell(lambda r: r["invariance"]["all"], 3), cell(lambda r: r["invariance"].get("canonical"), 3),
                    *(cell(turns(d)) for d in (TOLD, DOUBLED, EACH_OTHERS)),
                    cell(lambda r: r["log_likelihood"], 1), cell(lambda r: 100 * r["pareto_k_above_0.7"], 0),
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *asked(some), ""]
    return "\n".join(lines)


def asked(results: list[dict]) -> list[str]:
    """What was asked for on the full circle, seed by seed."""
    of = {(r["model"], r["seed"]): r for r in results if r["move"] == "full"}
    seeds = sorted(seed for model, seed in of if model == "mce" and ("gaussian", seed) in of)
    if not seeds:
        return []
    pairs = [(of["mce", seed], of["gaussian", seed]) for seed in seeds]
    rows = {
        "accuracy of mce less k-means on the Gaussian VAE, points": [
            100 * (a["accuracy"] - b["accuracy_kmeans"]) for a, b in pairs
        ],
        "turn, mean over 2, 3, 4, 5, 7": [
            statistics.mean(a["turn_correlation"][str(d)] for d in TOLD) for a, _ in pairs
        ],
        "invariance error over the Gaussian VAE's": [a["invariance"]["all"] / b["invariance"]["all"] for a, b in pairs],
    }
    bars = ("at least 15", "at least 0.8", "at most 0.2")
    lines = [
        "| full circle | asked for | mean | " + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "|---|---|" + "---|" * (len(seeds) + 1),
    ]
    for (name, values), bar in zip(rows.items(), bars, strict=True):
        digits = 1 if "points" in name else 3
        cells = [f"{v:.{digits}f}" for v in (statistics.mean(values), *values)]
        lines.append(f"| {name} | {bar} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", nargs="+", default=list(MOVES), choices=list(MOVES))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=TEST_IMAGES)
    parser.add_argument("--epochs", type=int, default=48)
    parser.add_argument("--label-weight", type=float, default=LABEL_WEIGHT, help="of a label, times images over labels")
    parser.add_argument("--num-samples", type=int, default=NUM_SAMPLES, help="for the log-likelihood")
    parser.add_argument("--held-out", action="store_true", help="score the validation images; write nothing")
    parser.add_argument("--directions", type=int, default=DIRECTIONS, help="of a canonicalizer; with --held-out")
    parser.add_argument(
        "--place", type=float, default=PLACE, help="share of epochs before clusters are placed, 1: never; --held-out"
    )
    parser.add_argument("--progress", action="store_true", help="show a bar for each training")
    parser.add_argument("--table", action="store_true", help="print the table of the results and run nothing")
    args = parser.parse_args()
    if (args.directions, args.place) != (DIRECTIONS, PLACE) and not args.held_out:
        parser.error("--directions and --place are for trials: add --held-out")
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not args.table:
        for seed in args.seeds:
            for move in args.moves:
                for model in args.models:
                    words = [move, name(model, args).replace(", ", "-").replace(" ", ""), f"images{args.images}"]
                    words += [f"epochs{args.epochs}", f"seed{seed}"]
                    words += [f"test{args.test_images}"] if args.test_images != TEST_IMAGES else []
                    words += [f"samples{args.num_samples}"] if args.num_samples != NUM_SAMPLES else []
                    path = RESULTS / f"{'-'.join(words)}.json"
                    if path.exists() and not args.held_out:
                        continue
                    print(f"{move}, {model}, seed {seed}", flush=True)
                    result = run(model, move, seed, args)
                    if args.held_out:
                        print(json.dumps(result, indent=1))
                    else:
                        path.write_text(json.dumps(result, indent=1))
                    error, seconds = result["invariance"]["all"], result["seconds"]
                    print(f"    accuracy {result['accuracy']:.3f}, invariance error {error:.3f}, {seconds}", flush=True)
    if not args.held_out:
        print(table())


if __name__ == "__main__":
    main()
