"""MCE-VAE on turned MNIST: clusters, poses and invariance, against VAEs that know no pose.

The digits are turned by up to 90 degrees ("quarter"), by any angle ("full"), or by any angle and shifted by up to a
quarter of half the side ("roto-translated"), afresh in every epoch; test images once, from seed 0, with their angles
kept. Means of 2 x 2 pixels halve the side where it is 14. Images are binarised afresh in every epoch, the test images
once.

    gaussian     GaussianVAE, z in R^13; k-means on its means
    mixture      GaussianMixtureVAE, z_c in R^13
    mce          MCEVAE, z_c in R^10 and z in R^3, with a canonicalizer; unsupervised
    labels       the same with 100 labels, the clusters enumerated
    canonical    the same, the upright image of each digit observed too: supervised

All have the perceptron 256-128 for an encoder and its reverse for a decoder, Adam at 1e-3, a KL weight that rises over
the first tenth of the epochs, and one Gaussian for q(z_c | x) save "labels". "mixture", "mce" and "canonical" place
their clusters by k-means on the codes after half of the epochs, as in VaDE. Nothing is chosen by labels of the test
set, save the assignment of clusters to classes that the accuracy is defined by.

    python benchmarks/mce_mnist.py                             # every run that has no result yet
    python benchmarks/mce_mnist.py --small                     # the full circle, 10,000 images, 16 epochs, one seed
    python benchmarks/mce_mnist.py --moves full --models mce   # some of them
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
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ppvae.models import MCEVAE, GaussianMixtureVAE, GaussianVAE
from scipy.cluster.vq import kmeans2
from torch import Tensor

import ppvae
from ppvae.infer import ELBO, EnumeratedELBO, LabelTerm, Regularized, TensorELBO
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

RESULTS = Path(__file__).parent / "results" / "mce_mnist"
MOVES = {
    "quarter": RandomSimilarity(turn=math.pi / 2),
    "full": RandomSimilarity(),
    "roto-translated": RandomSimilarity(shift=0.25),
}
MODELS = ("gaussian", "mixture", "mce", "labels", "canonical")
HIDDEN, DIM, CLUSTER_DIM, K = (256, 128), 3, 10, 10
#: digits whose angle is to be told, those that look the same after half a turn, and the pair that are each other's
TOLD, DOUBLED, EACH_OTHERS = (2, 3, 4, 5, 7), (0, 1, 8), (6, 9)


def build(model: str, shape: tuple[int, int, int], move: str):
    def mce(clusters: Clusters, canonical: BernoulliLikelihood | None = None) -> MCEVAE:
        pose = Pose(shift=0.25 if MOVES[move].shift else None)
        # On half the side there is less to see, and half the time.
        hidden, rays = ((64, 64), 32) if shape[1] == 28 else ((32, 32), 16)
        finder = PolarCanonicalizer(shape, hidden, rays, rings=shape[1] // 2)
        return MCEVAE(shape, DIM, clusters, pose, finder, HIDDEN, canonical=canonical)

    if model == "gaussian":
        return GaussianVAE(shape, DIM + CLUSTER_DIM, HIDDEN)
    if model == "mixture":
        return GaussianMixtureVAE(shape, Clusters(DIM + CLUSTER_DIM, K, NormalHead(DIM + CLUSTER_DIM)), HIDDEN)
    if model == "mce":
        return mce(Clusters(CLUSTER_DIM, K, NormalHead(CLUSTER_DIM)))
    if model == "labels":
        return mce(LabelledClusters(CLUSTER_DIM, K))
    return mce(Clusters(CLUSTER_DIM, K, NormalHead(CLUSTER_DIM)), BernoulliLikelihood())


class Moved:
    """What happens to the images of a batch: moved, made smaller, and binarised."""

    domain = RandomSimilarity.domain

    def __init__(self, move: RandomSimilarity, side: int):
        self.move, self.side = move, side

    def smaller(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 28 // self.side).clamp(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.bernoulli(self.smaller(self.move(x)))


def kmeans(z: np.ndarray, seed: int) -> np.ndarray:
    """The best of ten runs of k-means by its own criterion."""
    runs = [kmeans2(z, K, minit="++", iter=100, seed=1000 * seed + i) for i in range(10)]
    return min(runs, key=lambda run: ((z - run[0][run[1]]) ** 2).sum())[1]


def codes(vae, x: np.ndarray, given: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    found = ppvae.encode(vae, x, *given)
    return found if isinstance(found, dict) else {"z": found}


def turn_correlations(
    turn: np.ndarray, angle: np.ndarray, clusters: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """For each digit, the offset taken out of each of its clusters with 20 images or more."""
    t = np.arctan2(turn[:, 1], turn[:, 0])
    found = {}
    for digit in range(10):
        size = np.bincount(clusters[labels == digit], minlength=K)
        rows = (labels == digit) & (size[clusters] >= min(20, size.max()))
        times = 2 if digit in DOUBLED else 1
        found[str(digit)] = circular_correlation(times * t[rows], times * angle[rows], clusters[rows])
    return found


def run(model: str, move: str, seed: int, args: argparse.Namespace) -> dict:
    data = ppvae.data.load("mnist")
    train = ppvae.data.scale(data.train[: args.images], data.maximum)
    labels = data.test_labels[: args.test_images]
    shape, transform = (1, args.side, args.side), Moved(MOVES[move], args.side)

    # The test images, and the same turned once more by any angle, the shift left as it is.
    test = torch.tensor(ppvae.data.scale(data.test[: args.test_images], data.maximum))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        g = MOVES[move].draw(test, (len(test),))
        again = circle.exp(2 * math.pi * torch.rand(len(test)))
        grey = transform.smaller(act(test, g).clamp(0, 1))
        other = transform.smaller(rotate(act(test, g), again).clamp(0, 1))
        x_test = torch.bernoulli(grey).numpy()
    angle = torch.atan2(g[:, 1, 0], g[:, 0, 0]).numpy()

    torch.manual_seed(seed)
    vae = build(model, shape, move)
    known = np.zeros(len(train), bool)
    known[np.random.default_rng(seed).choice(len(train), 100, replace=False)] = True
    beside: tuple = {"labels": (data.train_labels[: len(train)], known)}.get(model, ())
    blank: tuple = {"labels": (np.zeros(len(test), int), np.zeros(len(test), bool))}.get(model, ())
    if model == "canonical":
        blank = (np.zeros_like(x_test),)

    objective: TensorELBO = ELBO()
    if model == "labels":
        objective = Regularized(EnumeratedELBO(), label=LabelTerm(weight=0.1 * len(train) / 100))

    def train_on(epochs: int, warmup: float, seed: int):
        """Epochs on images moved afresh: the transform changes their size, so that each epoch is a call."""
        history = None
        for epoch in range(epochs):
            with torch.random.fork_rng():
                torch.manual_seed(1000 * seed + epoch)
                x = transform(torch.tensor(train))
                upright = torch.bernoulli(transform.smaller(torch.tensor(train)))
            weight = min(1.0, (epoch + 1) / warmup) if warmup else 1.0
            objective.kl_weight = torch.tensor(weight)
            given = (upright,) if model == "canonical" else beside
            history = ppvae.fit(
                vae,
                (x, *given),
                objective=objective,
                epochs=1,
                optimizer=lambda _: adam,
                seed=1000 * seed + epoch,
                progress=False,
            ).history
        return history

    adam = torch.optim.Adam(vae.parameters(), 1e-3, fused=True)
    start = time.perf_counter()
    cpu = time.process_time()
    if model in ("mixture", "mce", "canonical"):
        train_on(args.epochs // 2, args.epochs / 10, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            x = transform(torch.tensor(train)).numpy()
        z = codes(vae, x, (np.zeros_like(x),) if model == "canonical" else ())
        z_c = z["z_c"] if "z_c" in z else z["z"]
        vae.clusters.place(z_c, kmeans(z_c, seed))
        history = train_on(args.epochs - args.epochs // 2, 0, seed + 500)
    else:
        history = train_on(args.epochs, args.epochs / 10, seed)
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}

    z = codes(vae, x_test, blank)
    z_grey, z_other = (codes(vae, x.numpy(), blank) for x in (grey, other))
    shown = [name for name in ("z_c", "z") if name in z]
    together = np.concatenate([z[name] for name in shown], 1)
    by_kmeans = kmeans(z[shown[0]], seed)
    if model == "gaussian":
        clusters = by_kmeans
    elif model == "labels":
        clusters = z["c"]
    else:
        with torch.no_grad():
            clusters = vae.clusters.law.cluster_probs(torch.tensor(z[shown[0]])).argmax(-1).numpy()
    result = {
        "model": model,
        "move": move,
        "seed": seed,
        **{name: getattr(args, name) for name in ("images", "test_images", "side", "epochs", "num_samples")},
        "elbo_train": history["elbo"][-1],
        "accuracy": clustering_accuracy(clusters, labels),
        "nmi": normalized_mutual_information(clusters, labels),
        "ari": adjusted_rand_index(clusters, labels),
        "accuracy_kmeans": clustering_accuracy(by_kmeans, labels),
        "accuracy_kmeans_all": clustering_accuracy(kmeans(together, seed), labels),
        "invariance": {name: invariance_error(z_grey[name], z_other[name]) for name in shown},
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
        *(np.concatenate([code[name] for name in shown], 1) for code in (z_grey, z_other))
    )
    if model == "labels":  # the clusters are the classes, by name
        result["accuracy_of_labels"] = float((clusters == labels).mean())
    if "turn" in z:
        result["turn_correlation"] = turn_correlations(z["turn"], angle, clusters, labels)
        result["turn_correlation_doubled"] = {
            str(d): circular_correlation(
                2 * np.arctan2(*z["turn"][labels == d].T[::-1]), 2 * angle[labels == d], clusters[labels == d]
            )
            for d in range(10)
        }
        with torch.no_grad():
            canonical = [
                vae.likelihood(vae.decoder(torch.tensor(np.concatenate([c["z_c"], c["z"]], 1))), 3).mean
                for c in (z_grey, z_other)
            ]
        result["invariance"]["canonical"] = invariance_error(*(c.numpy() for c in canonical))
    if model != "canonical":  # that is a law of two images
        ll = ppvae.log_likelihood(vae, x_test[:500], *(b[:500] for b in blank), num_samples=args.num_samples, seed=0)
        result |= {
            "log_likelihood": ll.mean,
            "log_likelihood_standard_error": ll.standard_error,
            "pareto_k_above_0.7": float((ll.pareto_k > 0.7).mean()),
        }
    return result


def table() -> str:
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    settings = sorted({tuple(r[k] for k in ("images", "side", "epochs")) for r in results})
    lines = []
    for setting in settings:
        some = [r for r in results if tuple(r[k] for k in ("images", "side", "epochs")) == setting]
        lines += [
            "{} images of side {}, {} epochs; mean (standard deviation) over seeds\n".format(*setting),
            "| move | model | seeds | accuracy | k-means on z_c | NMI | ARI | invariance error, z_c and z | "
            "canonical image "
            "| turn: 2, 3, 4, 5, 7 | 0, 1, 8 doubled | 6, 9 | log-likelihood |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for move in MOVES:
            for model in MODELS:
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
                    cell(lambda r: 100 * r["accuracy"], 1), cell(lambda r: 100 * r["accuracy_kmeans"], 1),
                    cell(lambda r: r["nmi"]), cell(lambda r: r["ari"]),
                    cell(lambda r: r["invariance"]["all"], 3), cell(lambda r: r["invariance"].get("canonical"), 3),
                    *(cell(turns(d)) for d in (TOLD, DOUBLED, EACH_OTHERS)),
                    cell(lambda r: r.get("log_likelihood"), 1),
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", nargs="+", default=list(MOVES), choices=list(MOVES))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=28, choices=(28, 14))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--num-samples", type=int, default=200, help="for the log-likelihood")
    parser.add_argument("--small", action="store_true", help="the setting for one CPU thread, in minutes")
    parser.add_argument("--table", action="store_true", help="print the table of the results and run nothing")
    args = parser.parse_args()
    if args.small:
        args.images, args.side, args.epochs, args.seeds, args.num_samples = 10_000, 28, 16, [0], 50
        args.moves = [move for move in args.moves if move == "full"]
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not args.table:
        for seed in args.seeds:
            for move in args.moves:
                for model in args.models:
                    path = (
                        RESULTS
                        / f"{move}-{model}-side{args.side}-images{args.images}-epochs{args.epochs}-seed{seed}.json"
                    )
                    if path.exists():
                        continue
                    print(f"{move}, {model}, seed {seed}", flush=True)
                    result = run(model, move, seed, args)
                    path.write_text(json.dumps(result, indent=1))
                    error, seconds = result["invariance"]["all"], result["seconds"]
                    print(f"    accuracy {result['accuracy']:.3f}, invariance error {error:.3f}, {seconds}", flush=True)
    print(table())


if __name__ == "__main__":
    main()
