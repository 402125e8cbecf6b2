r"""InfoVAE: does a divergence of the aggregate posterior do what it is for?

``mixture``: data 1/2 N((-5, 3), I) + 1/2 N((5, 3), I), one latent dimension, prior N(0, 1), networks of 2 x 100 tanh,
diagonal normal encoder and decoder. A model whose codes leave a gap between the halves of the latent line draws data
from the gap. Measured on 200,000 draws of each model, for several seeds:

    between   the mass at |x_1| < 2; 0.13% for the true law
    beyond    the mass more than 3 sd from both means; 1.11% for the true law
    I(x; z)   mutual information of data and codes under the encoder in nats, E log q(z | x) - E log q(z),
              of 2,000 data, so at most log 2000 = 7.6

``mnist``: ELBO, beta-VAE, InfoVAE with MMD and energy distance, and WAE on R^d and on the sphere. The encoder of an
InfoVAE or WAE is no approximation of the posterior, so importance sampling from it would say little about the model:
for every objective alike the decoder is frozen after training, a new encoder is trained by the ELBO, and log p(x)
estimated with that as proposal. MMD and energy distance compare the codes of the test images (one draw of the
objective's own encoder each) with the prior.

    python benchmarks/info_vae.py mixture --seeds 3        # results/info_vae_mixture.json and .png
    python benchmarks/info_vae.py mixture --seeds 2 --recipes 1 --objectives "InfoVAE, energy" \
        --out info_vae_mixture_long
    python benchmarks/info_vae.py mnist                    # results/info_vae_mnist.json, small enough for one core
    python benchmarks/info_vae.py mnist --train 50000 --epochs 100 --proposal-epochs 50 --test 10000 --samples 500
"""

import argparse
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ppvae.models import GaussianVAE, InfoVAE, SphericalVAE, WassersteinVAE
from pyro import poutine
from torch import Tensor

import ppvae
from ppvae.infer import ELBO, Beta_ELBO, InfoVAE_ELBO, TensorELBO, energy_distance
from ppvae.infer.objectives.divergences import find
from ppvae.isolation import isolated_param_store
from ppvae.metrics import knn_accuracy
from ppvae.nn import PowerSphericalHead, SphericalDeltaHead
from ppvae.random import seeded

RESULTS = Path(__file__).parent / "results"

# --- two Gaussians ----------------------------------------------------------------------------------------------------

MEANS = torch.tensor([[-5.0, 3.0], [5.0, 3.0]])


def draw(n: int) -> Tensor:
    return MEANS[torch.randint(2, (n,))] + torch.randn(n, 2)


def between(x: Tensor) -> float:
    return (x[:, 0].abs() < 2).float().mean().item()


def beyond(x: Tensor) -> float:
    return (torch.cdist(x, MEANS).amin(1) > 3).float().mean().item()


def sample(vae: InfoVAE, n: int) -> Tensor:
    return torch.from_numpy(ppvae.generate(vae, n, sample=True, seed=1))


def codes(vae: Any, x: Tensor) -> tuple[Tensor, Any]:
    """One draw from q(z | x) for each datum, and the laws."""
    with isolated_param_store(), torch.no_grad(), seeded(1):
        site = poutine.trace(vae.guide).get_trace(x).nodes["z"]
    return site["value"], site["fn"]


def mutual_information(vae: Any, x: Tensor) -> float:
    """E log q(z | x) - E log q(z) in nats, q(z) the mixture over all of x; at most log len(x)."""
    z, law = codes(vae, x)
    with torch.no_grad():
        log_q = torch.cat([law.log_prob(part.unsqueeze(1)) for part in z.split(512)])  # (n, n): z_i under q(. | x_j)
    return (log_q.diagonal() - torch.logsumexp(log_q, 1) + math.log(len(x))).mean().item()


#: recipe -> steps, learning rate, and whether it is the long one: new data in each step, lambda rising from 10 to 1000
#: in the first 30% of the steps, the learning rate falling to 0 in the second half
RECIPES = {
    "512 data, 2000 steps, lambda 10": (2000, 1e-3, False),
    "512 new data a step, 30000 steps, lambda 10 to 1000": (30_000, 3e-3, True),
}
OBJECTIVES: dict[str, Callable[[], TensorELBO]] = {
    "ELBO": ELBO,
    "InfoVAE, MMD": lambda: InfoVAE_ELBO("mmd", alpha=1, lambda_=10),
    "InfoVAE, energy": lambda: InfoVAE_ELBO("energy", alpha=1, lambda_=10),
}


def train_mixture(objective: TensorELBO, seed: int, steps: int, lr: float, long: bool, n: int = 512) -> InfoVAE:
    """The first recipe is that of the figure that is reproduced; the long one is what it took to do better.

    The long recipe was chosen among about ten at seed 0 by the two bars that it is measured with here: what it reaches
    at seed 0 is the best of a search, and only other seeds test it.

    With lambda at 1000 from the start the noise of D drowns the first steps, and the codes never come to say anything.
    """
    with seeded(seed), isolated_param_store():
        vae, x = InfoVAE((2,), dim=1, hidden=(100, 100)), draw(n)
        optimizer = torch.optim.Adam(vae.parameters(), lr, fused=True)
        for step in range(steps):
            if long:
                x = draw(n)
                optimizer.param_groups[0]["lr"] = lr * min(1, 2 * (1 - step / steps))
                if isinstance(objective, InfoVAE_ELBO):
                    objective.lambda_ = 10 * 100 ** min(1, step / (0.3 * steps))
            optimizer.zero_grad(set_to_none=True)
            (objective.differentiable_loss(vae.model, vae.guide, x) / n).backward()
            optimizer.step()
    return vae.eval()


def mixture(args: argparse.Namespace) -> None:
    with seeded(0):
        truth = draw(2_000_000)
        x = draw(2000)
    print(f"{'true law':70} between {between(truth):6.2%}  beyond {beyond(truth):6.2%}")
    rows, pictures = [], {}
    for i, name in itertools.product(args.recipes, args.objectives):
        recipe = list(RECIPES)[i]
        for seed in range(args.seeds):
            start = time.perf_counter()
            vae = train_mixture(OBJECTIVES[name](), seed, *RECIPES[recipe])
            generated = sample(vae, 200_000)
            row = {
                "recipe": recipe,
                "objective": name,
                "seed": seed,
                "between": between(generated),
                "beyond": beyond(generated),
                "mutual information": mutual_information(vae, x),
                "seconds": time.perf_counter() - start,
            }
            rows.append(row)
            if seed == 0:
                pictures[recipe, name] = (generated[:2000], codes(vae, x)[0][:, 0])
            print(
                f"{recipe:52} {name:17} seed {seed}  between {row['between']:6.2%}  beyond {row['beyond']:6.2%}  "
                f"I(x; z) {row['mutual information']:.2f} nats  {row['seconds']:.0f} s",
                flush=True,
            )
            bars = {"between": 0.01, "beyond": [0.0011, 0.0211]}
            true = {"between": between(truth), "beyond": beyond(truth)}
            write(args.out, {"true": true, "bars": bars, "rows": rows, "summary": summary(rows)})
    print("\n".join(json.dumps(line) for line in summary(rows)))
    draw_mixture(x, pictures, args.out)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and range over the seeds, and how many seeds keep both bars."""
    out = []
    for key in dict.fromkeys((row["recipe"], row["objective"]) for row in rows):
        these = [row for row in rows if (row["recipe"], row["objective"]) == key]
        line: dict[str, Any] = {"recipe": key[0], "objective": key[1], "seeds": len(these)}
        for name in ("between", "beyond", "mutual information"):
            values = [row[name] for row in these]
            line[name] = [statistics.median(values), min(values), max(values)]
        line["within bars"] = sum(row["between"] <= 0.01 and abs(row["beyond"] - 0.0111) <= 0.01 for row in these)
        out.append(line)
    return out


def draw_mixture(x: Tensor, pictures: dict[Any, Any], out: str) -> None:
    """One column for each recipe and objective: draws of the model over data, and codes over the prior."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(pictures), 5.2), layout="constrained")
    axes = figure.subplots(2, len(pictures), squeeze=False, height_ratios=[3, 1.4])
    grid = torch.linspace(-4, 4, 200)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi)
    left = x[:, 0] < 0
    for ((recipe, name), (generated, z)), top, bottom in zip(pictures.items(), *axes, strict=True):
        top.scatter(*x.T, s=2, color="#c8c8c8", label="data")
        top.scatter(*generated.T, s=2, color="#332288", label="draws of the model")
        top.axvspan(-2, 2, color="#CC6677", alpha=0.15, lw=0)
        top.set(xlim=(-10, 10), ylim=(-2, 8), xlabel="$x_1$", ylabel="$x_2$")
        top.set_title("\n".join([name, *recipe.split(", ", 1)]), fontsize=10)
        parts, labels = [z[left].numpy(), z[~left].numpy()], ["codes of the left mode", "codes of the right mode"]
        colors = ["#117733", "#DDAA33"]
        bottom.hist(parts, np.linspace(-4, 4, 81), stacked=True, density=True, color=colors, label=labels)
        bottom.plot(grid, density, color="#222222", lw=1, label="prior")
        bottom.set(xlim=(-4, 4), ylim=(0, 1), xlabel="$z$", yticks=[])
    axes[0][0].legend(loc="lower center", markerscale=4, fontsize=8)
    axes[1][0].legend(loc="upper left", fontsize=7)
    figure.savefig(RESULTS / f"{out}.png", dpi=80)
    print(f"Wrote {RESULTS / f'{out}.png'}")


# --- MNIST ------------------------------------------------------------------------------------------------------------


def gaussian(args: argparse.Namespace, kind: str, decoder: Any = None) -> Any:
    options: dict[str, Any] = {"dim": args.dim, "hidden": (args.hidden, args.hidden), "decoder": decoder}
    return (WassersteinVAE if kind == "deterministic" else GaussianVAE)((1, 28, 28), **options)


def spherical(args: argparse.Namespace, kind: str, decoder: Any = None) -> Any:
    # One dimension more of space is as many dimensions of sphere as the Gaussian latent has.
    dim = args.dim + 1
    head = SphericalDeltaHead(dim) if kind == "deterministic" else PowerSphericalHead(dim)
    return SphericalVAE((1, 28, 28), dim=dim, hidden=(args.hidden, args.hidden), decoder=decoder, head=head)


def mnist(args: argparse.Namespace) -> None:
    from ppvae.data import binarize, load, scale

    data = load("mnist")
    rng = np.random.default_rng(0)
    x = torch.from_numpy(binarize(scale(data.train[: args.train], 255), rng))
    x_test = torch.from_numpy(binarize(scale(data.test[: args.test], 255), rng))
    assert data.train_labels is not None and data.test_labels is not None
    labels, test_labels = data.train_labels[: args.train], data.test_labels[: args.test]
    objectives: dict[str, tuple[str, Callable[[], TensorELBO]]] = {
        "ELBO": ("random", ELBO),
        "beta-VAE, beta 4": ("random", lambda: Beta_ELBO(4.0)),
        "InfoVAE, MMD": ("random", lambda: InfoVAE_ELBO("mmd", alpha=args.alpha, lambda_=args.lambda_mmd)),
        "InfoVAE, energy": ("random", lambda: InfoVAE_ELBO("energy", alpha=args.alpha, lambda_=args.lambda_energy)),
        # The squared exponential has no gradient for codes far from the prior, and nothing else brings them near.
        "WAE, MMD-IMQ": ("deterministic", lambda: InfoVAE_ELBO("mmd-imq", alpha=1, lambda_=args.lambda_mmd)),
    }
    rows: list[dict[str, Any]] = []
    latents = {"Gaussian": gaussian, "spherical": spherical}
    for seed, (latent, make), (name, (kind, objective)) in itertools.product(
        range(args.seeds), latents.items(), objectives.items()
    ):
        start = time.perf_counter()
        with seeded(seed):
            vae = make(args, kind)
        ppvae.fit(vae, x, epochs=args.epochs, batch_size=args.batch, objective=objective(), seed=seed, progress=False)
        z, law = codes(vae, x_test)
        prior = prior_sample(vae, x_test)
        z_train, z_test = (ppvae.encode(vae, part) for part in (x, x_test))
        decoder = vae.decoder.requires_grad_(False)
        with seeded(seed):
            proposal = make(args, "random", decoder.module)
        ppvae.fit(proposal, x, epochs=args.proposal_epochs, batch_size=args.batch, seed=seed, progress=False)
        ll = ppvae.log_likelihood(proposal, x_test, num_samples=args.samples, seed=0)
        mmd = find("mmd", law.support if kind == "random" else proposal_support(proposal, x_test), z.shape[1:])
        rows.append(
            {
                "latent": latent,
                "objective": name,
                "seed": seed,
                "log-likelihood": float(ll.mean),
                "standard error": float(ll.standard_error),
                "pareto k > 0.7": float((ll.pareto_k > 0.7).mean()),
                "mmd": mmd(prior, z).item(),
                "energy": energy_distance(prior, z, paired=True).item(),
                "accuracy": knn_accuracy(z_train, labels, z_test, test_labels, k=10),
                "seconds": time.perf_counter() - start,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        settings = {k: v for k, v in vars(args).items() if k != "command"}
        write("info_vae_mnist", {"settings": settings, "rows": rows, "summary": mnist_summary(rows)})
    print(table(mnist_summary(rows)))


def prior_sample(vae: Any, x: Tensor) -> Tensor:
    with isolated_param_store(), torch.no_grad(), seeded(2):
        return poutine.trace(vae.model).get_trace(x).nodes["z"]["fn"].sample()


def proposal_support(proposal: Any, x: Tensor) -> Any:
    return codes(proposal, x[:2])[1].support


def mnist_summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the seeds, and their standard deviation."""
    out = []
    for key in dict.fromkeys((row["latent"], row["objective"]) for row in rows):
        these = [row for row in rows if (row["latent"], row["objective"]) == key]
        line: dict[str, Any] = {"latent": key[0], "objective": key[1], "seeds": len(these)}
        for name in ("log-likelihood", "mmd", "energy", "accuracy"):
            values = [row[name] for row in these]
            line[name] = [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None]
        out.append(line)
    return out


def table(lines: list[dict[str, Any]]) -> str:
    columns = ("log-likelihood", "mmd", "energy", "accuracy")
    rows = [f"| latent | objective | {' | '.join(columns)} |", "|---|---|" + "---:|" * len(columns)]
    for line in lines:
        means = [line[column] for column in columns]
        cells = [f"{mean:.4g}" if sd is None else f"{mean:.4g} ± {sd:.1g}" for mean, sd in means]
        rows.append(f"| {line['latent']} | {line['objective']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def tables(_: argparse.Namespace) -> None:
    print("| mixture: recipe | objective | seeds | between | beyond | I(x; z), nats |\n|---|---|---|---|---|---|")
    print("| the law itself | | | 0.13% | 1.11% | |")
    for file in sorted(RESULTS.glob("info_vae_mixture*.json")):
        for line in json.loads(file.read_text())["summary"]:
            cells = [
                f"{median:.2%} ({low:.2%} to {high:.2%})" for median, low, high in (line["between"], line["beyond"])
            ]
            cells.append(f"{line['mutual information'][0]:.2f}")
            print(f"| {line['recipe']} | {line['objective']} | {line['seeds']} | {' | '.join(cells)} |")
    result = json.loads((RESULTS / "info_vae_mnist.json").read_text())
    of = "MNIST, {train} images, {epochs} epochs, {seeds} seeds, mean and standard deviation".format(
        **result["settings"]
    )
    print(f"\n{of}:\n\n{table(result['summary'])}")


def write(name: str, content: dict[str, Any]) -> None:
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    part = commands.add_parser("mixture")
    part.add_argument("--seeds", type=int, default=5)
    part.add_argument("--recipes", type=int, nargs="+", default=[0], help="0: as published, 1: the long one")
    part.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    part.add_argument("--out", default="info_vae_mixture", help="name of the files in results/")
    part = commands.add_parser("mnist")
    part.add_argument("--train", type=int, default=10_000, help="training images")
    part.add_argument("--test", type=int, default=1000, help="test images")
    part.add_argument("--epochs", type=int, default=10)
    part.add_argument("--proposal-epochs", type=int, default=5, help="training of the proposal for log p(x)")
    part.add_argument("--samples", type=int, default=100, help="importance samples for each test image")
    part.add_argument("--seeds", type=int, default=3)
    part.add_argument("--batch", type=int, default=128)
    part.add_argument("--dim", type=int, default=10, help="dimension of the latent manifold")
    part.add_argument("--hidden", type=int, default=128)
    part.add_argument("--alpha", type=float, default=0.5, help="of the two InfoVAEs")
    # In a batch of 128 the noise of D has sd 0.002 for the MMD and 0.014 for the energy distance: 0.2 and 0.1 nats.
    part.add_argument("--lambda-mmd", type=float, default=100.0)
    part.add_argument("--lambda-energy", type=float, default=10.0)
    commands.add_parser("tables", help="print the tables of the results and run nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"mixture": mixture, "mnist": mnist, "tables": tables}[args.command](args)


if __name__ == "__main__":
    main()
