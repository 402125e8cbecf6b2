r"""Samplers of one trained VAE on MNIST or Fashion-MNIST: is the Riemannian one better, and why?

The VAE of Chadebec and Allassonniere (2022): loss |x - f(z)|^2 + beta KL with beta = 0.01, that is a normal likelihood
of variance beta / 2, latent dimension 16; its networks are scaled to two cores (two convolutions of 16 and 32 channels
and a hidden layer of 256 each way, where theirs have four convolutions of 128 to 1024 channels), trained for 16 epochs
with the learning rate of Adam falling from 1e-3 to 0 along a cosine; the weights of the best validation ELBO are kept.

Each sampler draws 2,000 images, few enough for two cores, which are compared with the test images:

    distance    Fréchet distance of 64 features of a small classifier, trained here on the training images (its accuracy
                and seed stand in the results) from those of 5,000 test images, with a bootstrap interval; no number of
                another paper compares with it
    kernel      kernel distance (KID) of raw pixels, of the first 1,000 images, times 1000
    precision, recall, density, coverage
                with k = 5, of the classifier's features, against 2,000 test images
    copying     the probability that one of the first 200 images is nearer in pixels to a training image than a test
                image is; 1/2 for fresh data
    moved       mean distance of a latent from the embedding that its chain started from, or that it was drawn about
    R-hat       split R-hat of the worst coordinate, of 200 chains with all draws from the start on; 1 when mixed

The metric has 100 k-medoids as centroids and lambda = 0.01, as in the paper. ``published`` is the procedure described
there: 100 transitions of 10 leapfrog steps of 0.01 from random embeddings of training images. ``as published`` has the
momentum and the gradient of the code. Both are followed from 1 to 1000 transitions. ``volume^p`` is the law
det G^{p/2} within a box that holds all embeddings with half their range to spare, by chains of BatchedHMC mixed with
independence proposals.

    python benchmarks/riemannian_mnist.py --cache CACHE                       # MNIST: train, draw, measure
    python benchmarks/riemannian_mnist.py --cache CACHE --data fashion-mnist
    python benchmarks/riemannian_mnist.py --cache CACHE --figure              # the picture, from results and cache
    python benchmarks/riemannian_mnist.py --table                             # the tables, from the results

Reference: A Geometric Perspective on Variational Autoencoders (Chadebec and Allassonniere, 2022),
https://arxiv.org/abs/2209.07370
"""

import argparse
import json
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from ppvae.models import GaussianVAE
from pyro.ops.stats import split_gelman_rubin
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import ppvae
from ppvae import samplers
from ppvae.infer import BatchedHMC
from ppvae.metrics import Classifier, Features, classifier, data_copying, frechet_distance, kernel_distance, prdc
from ppvae.nn import NormalLikelihood
from ppvae.random import seeded
from ppvae.samplers import Samples
from ppvae.samplers.chadebec2022 import PublishedHMC

RESULTS = Path(__file__).parent / "results" / "riemannian_mnist"
BETA = 0.01
DIM = 16

# --- the VAE and the classifier --------------------------------------------------------------------------------------


class Encoder(nn.Sequential):
    """28 x 28 to 14 x 14 to 7 x 7, and a hidden layer."""

    def __init__(self, features: int, width: int = 16):
        super().__init__(
            nn.Conv2d(1, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(-3),
            nn.Linear(2 * width * 49, 256),
            nn.ReLU(),
            nn.Linear(256, features),
        )


class Decoder(nn.Sequential):
    """The same backwards, to pixels in (0, 1)."""

    def __init__(self, dim: int, width: int = 16):
        super().__init__(
            nn.Linear(dim, 256),
            nn.ReLU(),
            nn.Linear(256, 2 * width * 49),
            nn.ReLU(),
            nn.Unflatten(-1, (2 * width, 7, 7)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
            nn.Sigmoid(),
        )


def build(seed: int) -> GaussianVAE:
    torch.manual_seed(seed)
    # log N(x; m, beta / 2) - KL = -(|x - m|^2 + beta KL) / beta + constant
    likelihood = NormalLikelihood((BETA / 2) ** 0.5)
    return GaussianVAE((1, 28, 28), DIM, encoder=Encoder(2 * DIM), decoder=Decoder(DIM), likelihood=likelihood)


def fitted(name: str, train: NDArray, validation: NDArray, seed: int, epochs: int, cache: Path) -> GaussianVAE:
    """The VAE, from the cache where it is there."""
    file, vae = cache / f"vae-{name}-seed{seed}-epochs{epochs}.safetensors", build(seed)
    if file.exists():
        return ppvae.load(file, into=vae)
    fit = ppvae.fit(
        vae,
        train,
        validation=validation,
        epochs=epochs,
        batch_size=100,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs),
        seed=seed,
    )
    ppvae.save(vae, file, {"best": fit.best, "best_epoch": fit.best_epoch, "seconds": fit.seconds, "epochs": epochs})
    return vae


def judge(name: str, data: Any, train: NDArray, test: NDArray, seed: int, cache: Path) -> Features:
    """Features of the classifier, from the cache where it is there."""
    file = cache / f"classifier-{name}-seed{seed}.safetensors"
    if not file.exists():
        network, accuracy = classifier(train, data.train_labels, test, data.test_labels, seed=seed)
        words = f"classifier trained here on {name} (seed {seed}, {accuracy:.2%} of the test images right)"
        save_file(network.state_dict(), file, {"name": words})
    with safe_open(file, "pt") as stored:
        network = Classifier((1, 28, 28), 10)
        network.load_state_dict({key: stored.get_tensor(key) for key in stored.keys()})
        return Features(stored.metadata()["name"], network.eval().features)


# --- what is compared -------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """The VAE, its training images, and what samplers make of them."""

    vae: GaussianVAE
    x: NDArray

    @cached_property
    def z(self) -> Tensor:
        """The embeddings."""
        return torch.as_tensor(ppvae.encode(self.vae, self.x))

    @cached_property
    def metric(self) -> Any:
        return ppvae.riemannian_metric(self.vae, self.x, num_centroids=100, regularization=0.01, seed=0)


Draw = Callable[[Trained, int], tuple[Samples, dict[str, Any]]]  #: samples, and what else is known of them


def about(scale: float) -> Draw:
    """Embeddings with jitter; in 16 dimensions it moves them by scale * E chi_16."""

    def draw(t: Trained, n: int) -> tuple[Samples, dict[str, Any]]:
        mean = 2**0.5 * math.exp(math.lgamma(DIM / 2 + 0.5) - math.lgamma(DIM / 2))
        return samplers.jitter(t.vae, t.x, n, scale=scale, seed=1), {"moved": scale * mean}

    return draw


REFERENCES = ("training images", "reconstructions of test images")
SAMPLERS: dict[str, Draw] = {
    "prior": lambda t, n: (samplers.prior(t.vae, n, seed=1), {}),
    "Gaussian mixture, 10": lambda t, n: (samplers.mixture(t.vae, t.x, n, seed=1), {}),
    "aggregate posterior": lambda t, n: (samplers.aggregate_posterior(t.vae, t.x, n, seed=1), {}),
    "embeddings": about(0.0),
    "jitter 0.25": about(0.25),
    "jitter 0.5": about(0.5),
    "jitter 1": about(1.0),
}


# --- the Riemannian samplers ------------------------------------------------------------------------------------------


def box(z: Tensor) -> Any:
    """Uniform on the range of the embeddings and half of it more."""
    low, high = z.amin(0), z.amax(0)
    return dist.Uniform(low - (high - low) / 4, high + (high - low) / 4).to_event(1)


def volume(power: float) -> Draw:
    def draw(t: Trained, n: int) -> tuple[Samples, dict[str, Any]]:
        target = samplers.RiemannianVolume(t.metric, power=power, base=box(t.z))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            drawn = samplers.riemannian(t.vae, target, n, kernel="mixed", num_draws=100, seed=1)
        chains = drawn.chains.get_samples(group_by_chain=True)["z"]
        return drawn, {
            "r_hat": float(split_gelman_rubin(chains, 0, 1).max()),
            "background": target.mass().background,
            "warnings": [str(w.message) for w in said],
        }

    return draw


SAMPLERS |= {f"volume^{p}": volume(p) for p in (1, 2, 4, 7)}
SAMPLERS["flow"] = lambda t, n: (samplers.flow(t.vae, t.x, n, epochs=10, seed=1), {})
KERNELS: dict[str, Callable[[Any], Any]] = {
    "published": lambda metric: BatchedHMC(
        value_and_grad=samplers.RiemannianVolume(metric, procedure="chadebec2022").value_and_grad,
        step_size=0.01,
        num_steps=10,
        jitter=0.0,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    ),
    "as published": PublishedHMC,
}
LENGTHS = (1, 10, 30, 100, 300, 1000)


def followed(
    trained: Trained, kernel: Any, lengths: list[int], n: int, seed: int
) -> Iterator[tuple[int, NDArray, dict[str, Any]]]:
    """Images after each number of transitions, of n chains from random embeddings, and what is known of the chains."""
    with seeded(seed):
        start = trained.z[torch.randint(len(trained.z), (n,))]
        kernel.initial_params = params = {"z": start}
        kernel.setup(0)
        kept = [start[:200]]
        for t in range(1, max(lengths) + 1):
            params = kernel.sample(params)
            kept.append(params["z"][:200])
            if t in lengths:
                r_hat = split_gelman_rubin(torch.stack(kept[1:], 1), 0, 1).max().item() if t >= 4 else None
                about = {
                    "moved": (params["z"] - start).norm(dim=1).mean().item(),
                    "r_hat": r_hat,
                    "acceptance": kernel.diagnostics()["acceptance rate"],
                }
                yield t, ppvae.decode(trained.vae, params["z"]).numpy(), about


# --- measures ---------------------------------------------------------------------------------------------------------


class Measures:
    """All measures against the same test images."""

    def __init__(self, train: NDArray, test: NDArray, features: Features):
        self.train, self.test, self.features = train, test, features
        self.of_test = features(test)

    def __call__(self, x: NDArray) -> dict[str, Any]:
        of_x = self.features(x)
        found = prdc(self.of_test[:2000], of_x[:2000])
        estimates = {
            "distance": frechet_distance(self.of_test[:5000], of_x),
            "kernel": kernel_distance(self.test[:1000], x[:1000]),
            **vars(found),
            "copying": data_copying(x[:200], self.train, self.test[:200]),
        }
        return {name: [e.value, e.low, e.high] for name, e in estimates.items()} | {"images": len(x)}


def run(name: str, seed: int, epochs: int, n: int, cache: Path, only: list[str] | None) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    data = ppvae.data.load(name)
    train, validation, test = (ppvae.data.scale(x, data.maximum) for x in (data.train, data.validation, data.test))
    vae = fitted(name, train, validation, seed, epochs, cache)
    subject = Trained(vae, train)
    features = judge(name, data, train, test, seed, cache)
    measure = Measures(train, test, features)
    file = RESULTS / f"{name}.json"
    result = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    result |= {
        "data": name,
        "features": str(features),
        "settings": {"beta": BETA, "dim": DIM, "seed": seed, "epochs": epochs, "train_images": len(train)},
        "command": f"python benchmarks/riemannian_mnist.py --cache CACHE --data {name}",
        "machine": {
            "torch": torch.__version__,
            "ppvae": ppvae.__version__,
            "cpu": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }

    def missing(label: str) -> bool:
        return label not in result["rows"] and (not only or label in only)

    def record(label: str, x: NDArray, about: dict[str, Any], start: float) -> None:
        drawn = time.perf_counter() - start
        np.savez(cache / f"images-{name}-{label.replace(' ', '-').replace(',', '')}.npz", x=x[:40])
        result["rows"][label] = measure(x) | about | {"seconds": drawn}
        file.write_text(json.dumps(result, indent=1))
        print(label, result["rows"][label], f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    chosen = np.random.default_rng(seed).choice(len(train), n, replace=False)
    references = dict(zip(REFERENCES, (lambda: train[chosen], lambda: ppvae.reconstruct(vae, test[:n])), strict=True))
    for label in filter(missing, (*references, *SAMPLERS)):
        start = time.perf_counter()
        if label in references:
            record(label, references[label](), {}, start)
        else:
            drawn, about = SAMPLERS[label](subject, n)
            record(label, drawn.x, about, start)
    for kind, kernel in KERNELS.items():
        lengths = [t for t in LENGTHS if missing(f"{kind}, {t}")]
        if lengths:
            start = time.perf_counter()
            for t, x, about in followed(subject, kernel(subject.metric), lengths, n, seed=1):
                record(f"{kind}, {t}", x, about, start)


# --- what is shown ----------------------------------------------------------------------------------------------------


def table() -> str:
    parts = []
    for name in ("mnist", "fashion-mnist"):
        file = RESULTS / f"{name}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        parts += [
            f"{name}, {result['settings']['epochs']} epochs; features of the {result['features']}:",
            "",
            "| images | distance | kernel x 1000 | precision | recall | density | coverage | copying | moved | R-hat |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        order = [*REFERENCES, *SAMPLERS, *(f"{kind}, {t}" for kind in KERNELS for t in LENGTHS)]
        for label in filter(result["rows"].__contains__, order):
            row = result["rows"][label]
            d, low, high = row["distance"]
            cells = [f"{d:.1f} [{low:.1f}, {high:.1f}]", f"{1000 * row['kernel'][0]:.1f}"]
            cells += [f"{row[key][0]:.2f}" for key in ("precision", "recall", "density", "coverage", "copying")]
            cells += ["" if row.get(key) is None else f"{row[key]:.2f}" for key in ("moved", "r_hat")]
            parts.append(f"| {label} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).strip()


def figure(name: str, cache: Path) -> None:
    """Distance against the length of the chain, beside samplers without chains; and images of each."""
    from matplotlib.figure import Figure

    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    page = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = page.subplots(1, 2, width_ratios=[1.1, 1])
    for kind, color, marker in (("published", "#332288", "o"), ("as published", "#CC6677", "s")):
        at = [t for t in LENGTHS if f"{kind}, {t}" in rows]
        d = np.array([rows[f"{kind}, {t}"]["distance"] for t in at])
        errors = np.abs(d[:, 1:] - d[:, :1]).T
        left.errorbar(at, d[:, 0], errors, color=color, marker=marker, capsize=3, label=kind)
    level = {
        "prior": ("#555555", "-"),
        "Gaussian mixture, 10": ("#DDAA33", "--"),
        "flow": ("#117733", "-."),
        "jitter 0.5": ("#88CCEE", ":"),
        "jitter 1": ("#44AA99", (0, (5, 1, 1, 1, 1, 1))),
        "embeddings": ("#AA4499", (0, (1, 3))),
    }
    for label, (color, line) in level.items():
        if label in rows:
            d = rows[label]["distance"]
            left.axhline(d[0], color=color, linestyle=line, label=label)
            left.axhspan(*d[1:], color=color, alpha=0.12, linewidth=0)
    left.set(xscale="log", yscale="log", xlabel="transitions of the chain", ylabel="Fréchet distance of features")
    left.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    left.set_yticks([10, 30, 100, 300], ["10", "30", "100", "300"])
    left.minorticks_off()
    left.set_title(f"{name}, with 95% intervals", fontsize=10)
    left.legend(fontsize=8, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, 0.74))
    shown = [
        "prior",
        "Gaussian mixture, 10",
        "flow",
        "jitter 0.5",
        "published, 100",
        "as published, 100",
        "published, 1000",
    ]
    shown = [label for label in [*shown, "volume^1", "volume^7"] if label in rows]
    strips = []
    for label in shown:
        x = np.load(cache / f"images-{name}-{label.replace(' ', '-').replace(',', '')}.npz")["x"][:12, 0]
        strips.append(np.concatenate(list(x), 1))
    right.imshow(np.concatenate(strips), cmap="gray_r", vmin=0, vmax=1)
    right.set(xticks=[], yticks=[28 * i + 14 for i in range(len(shown))])
    right.set_yticklabels(shown, fontsize=8)
    right.tick_params(length=0)
    for side in right.spines.values():
        side.set_visible(False)
    page.savefig(RESULTS / f"{name}.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["mnist", "fashion-mnist"], default="mnist")
    parser.add_argument("--cache", type=Path, help="folder for weights and images, outside the repository")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--only", nargs="+", help="these rows alone")
    parser.add_argument("--figure", action="store_true", help="draw the picture of the results and the cached images")
    parser.add_argument("--table", action="store_true", help="print the tables of the results and run nothing")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    if args.cache is None:
        parser.error("--cache: name a folder for weights and images")
    if args.figure:
        figure(args.data, args.cache)
        return
    run(args.data, args.seed, args.epochs, args.images, args.cache, args.only)


if __name__ == "__main__":
    main()
