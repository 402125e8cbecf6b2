"""Gaussian, von Mises-Fisher, power spherical and product latents on MNIST: the table of Davidson et al. (2018).

MNIST, binarised anew in every step (the validation and test images once, with a fixed seed); encoder 784-256-128,
decoder 128-256-784; Adam, learning rate 1e-3; the KL weight rises to 1 over the first fifth of the epochs; the
weights of the best validation ELBO are kept. d is the intrinsic dimension: R^d against the sphere S^d in R^{d+1} and
against a product of d / 5 spheres S^5, each with a concentration of its own [2]. The log-likelihood is that of all test
images by importance sampling with 500 samples; kNN accuracy is that of the latents of the test images from 100, 600
and 1000 labelled training images (k = 5, mean of 20 draws of the labelled images).

    python benchmarks/svae_mnist.py                       # every run that has no result yet
    python benchmarks/svae_mnist.py --dims 2 5 --seeds 0  # some of them
    python benchmarks/svae_mnist.py --table               # the table, from the results

References:
    [1] Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), https://arxiv.org/abs/1804.00891
    [2] Increasing Expressivity of a Hyperspherical VAE (Davidson, Tomczak and Gavves, 2019)
        https://arxiv.org/abs/1910.02912
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from ppvae.models import VAE, GaussianVAE, SphericalVAE

import ppvae
from ppvae.latents import Spherical
from ppvae.metrics import knn_accuracy
from ppvae.nn import PowerSphericalHead
from ppvae.transforms import DynamicBinarization

RESULTS = Path(__file__).parent / "results" / "svae_mnist"
DIMS = (2, 5, 10, 20, 40)
FAMILIES = {
    "Gaussian": lambda d: GaussianVAE((1, 28, 28), d),
    "vMF": lambda d: SphericalVAE((1, 28, 28), d + 1),
    "product of S^5": lambda d: VAE((1, 28, 28), Spherical(6, copies=d // 5)),
    "power spherical": lambda d: SphericalVAE((1, 28, 28), d + 1, head=PowerSphericalHead(d + 1)),
}
# Test log-likelihood of the paper's Table 1 (mean of 10 runs), for d = 2, 5, 10, 20, 40.
PAPER = {"Gaussian": (-135.73, -110.21, -93.84, -88.90, -88.93), "vMF": (-132.50, -108.43, -93.16, -89.02, -90.87)}


def name_of(family: str, d: int, seed: int) -> str:
    """The name of the files of a run."""
    return f"{family.replace(' ', '-').replace('^', '').lower()}-d{d}-seed{seed}"


def run(
    family: str, d: int, seed: int, epochs: int, batch_size: int, num_samples: int, device: str, models: Path | None
) -> dict:
    data = ppvae.data.load("mnist")
    train, validation, test = (ppvae.data.scale(x, data.maximum) for x in (data.train, data.validation, data.test))
    x_test = ppvae.data.binarize(test, rng=0)
    torch.manual_seed(seed)
    vae = FAMILIES[family](d)
    start = time.perf_counter()
    fit = ppvae.fit(
        vae,
        train,
        validation=validation,
        transform=DynamicBinarization(),
        epochs=epochs,
        batch_size=batch_size,
        warmup=epochs / 5,
        seed=seed,
        device=device,
    )
    trained = time.perf_counter()
    if models is not None:
        models.mkdir(parents=True, exist_ok=True)
        ppvae.save(vae, models / f"{name_of(family, d, seed)}.safetensors")
    ll = ppvae.log_likelihood(vae, x_test, num_samples=num_samples, seed=0)
    x_train = ppvae.data.binarize(train, rng=1)
    z, z_test = ppvae.encode(vae, x_train), ppvae.encode(vae, x_test)
    rng = np.random.default_rng(seed)
    knn = {}
    for labelled in (100, 600, 1000):
        draws = [rng.choice(len(z), labelled, replace=False) for _ in range(20)]
        knn[labelled] = statistics.mean(
            knn_accuracy(z[rows], data.train_labels[rows], z_test, data.test_labels) for rows in draws
        )
    return {
        "family": family,
        "d": d,
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "num_samples": num_samples,
        "train_images": len(train),
        "best_epoch": fit.best_epoch,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "log_likelihood": ll.mean,
        "log_likelihood_standard_error": ll.standard_error,
        "monte_carlo_error_median": float(np.median(ll.error)),
        "ess_median": float(np.median(ll.ess)),
        "pareto_k_above_0.7": float((ll.pareto_k > 0.7).mean()),
        "validation": {name: value for name, value in fit.best.items() if name.startswith("valid_")},
        "knn": knn,
        "seconds": {"train": trained - start, "evaluate": time.perf_counter() - trained},
        "machine": {
            "torch": torch.__version__,
            "ppvae": ppvae.__version__,
            "device": device,
            "cpu": platform.machine(),
        },
    }


def table() -> str:
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "| d | latent | log-likelihood | paper | reconstruction | KL | kNN 100 / 600 / 1000 labels | epochs, seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for d in DIMS:
        for family in FAMILIES:
            runs = [r for r in results if r["family"] == family and r["d"] == d]
            if not runs:
                continue
            mean = {
                key: statistics.mean(f(r) for r in runs)
                for key, f in {
                    "ll": lambda r: r["log_likelihood"],
                    "re": lambda r: r["validation"]["valid_reconstruction"],
                    "kl": lambda r: r["validation"]["valid_kl"],
                }.items()
            }
            if len(runs) > 1:
                error = statistics.stdev(r["log_likelihood"] for r in runs) / len(runs) ** 0.5
            else:
                error = runs[0]["log_likelihood_standard_error"]
            paper = PAPER[family][DIMS.index(d)] if family in PAPER else None
            knn = " / ".join(f"{100 * statistics.mean(r['knn'][n] for r in runs):.1f}" for n in ("100", "600", "1000"))
            lines.append(
                f"| {d} | {family} | {mean['ll']:.2f} ± {error:.2f} | {'' if paper is None else f'{paper:.2f}'} | "
                f"{mean['re']:.2f} | "
                f"{mean['kl']:.2f} | {knn} | {runs[0]['epochs']}, {len(runs)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", type=Path, help="folder to keep the trained models in, for measurements to come")
    parser.add_argument("--table", action="store_true", help="print the table of the results and run nothing")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not args.table:
        for seed in args.seeds:
            for d in args.dims:
                for family in args.families:
                    path = RESULTS / f"{name_of(family, d, seed)}.json"
                    if path.exists() or (family.startswith("product") and d % 5):
                        continue
                    print(f"{family}, d = {d}, seed {seed}", flush=True)
                    options = (args.epochs, args.batch_size, args.num_samples, args.device, args.models)
                    result = run(family, d, seed, *options)
                    path.write_text(json.dumps(result, indent=1))
                    print(f"    log-likelihood {result['log_likelihood']:.2f}, {result['seconds']}", flush=True)
    print(table())


if __name__ == "__main__":
    main()
