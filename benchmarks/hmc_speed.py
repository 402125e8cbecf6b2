"""Samples per second of the Riemannian sampler, beside Pythae's RHVAESampler and Pyro's NUTS.

The latent has 16 dimensions, the centroids are draws from N(0, I), all precisions are the identity, lambda is 0.01 and
rho is the largest distance of a centroid to the nearest other one: then Pythae's metric and ours are the same function.

First table: the procedure of Pythae's defaults on both sides, a sample being the end of 100 transitions of 15 leapfrog
steps of 0.03 from a centroid, 500 chains at once; and the same trajectories in 3 steps of 0.15. A transition of Pythae
takes seconds: a few of each are timed and scaled to 100. Its acceptance is the part of the chains that moved.

Second table: effective samples per second of the proper target with the base law N(0, I), step sizes adapted, from the
scatter of the chains' means (the least over the coordinates), warm-up included in the time.

All times are of the CPU, one thread: the machine may be shared. Pythae 0.1.2 is measured where it can be imported.

    python benchmarks/hmc_speed.py            # measures, writes benchmarks/results/hmc_speed.json, prints the tables
    python benchmarks/hmc_speed.py --table    # prints the tables of the last measurement
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import Normal
from pyro.infer import MCMC, NUTS

import ppvae
from ppvae.diagnostics import convergence
from ppvae.infer import BatchedHMC, BatchedMCMC, Cycle, IndependenceMetropolis
from ppvae.manifolds import PosteriorCovarianceMetric
from ppvae.samplers import RiemannianVolume

DIM, TRANSITIONS, LEAPFROG, STEP, LAMBDA = 16, 100, 15, 0.03, 0.01


def make_metric(N: int) -> PosteriorCovarianceMetric:
    mu = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))
    return PosteriorCovarianceMetric(mu, torch.ones(N, DIM), regularization=LAMBDA)


def cpu_seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def pythae(metric: PosteriorCovarianceMetric, chains: int, transitions: int) -> dict | None:
    """Its sampler, on a model to which the metric is given."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pythae.models import RHVAE, RHVAEConfig
            from pythae.samplers import RHVAESampler, RHVAESamplerConfig
    except ImportError:
        return None
    model = RHVAE(RHVAEConfig(input_dim=(4,), latent_dim=DIM, temperature=metric.temperature, regularization=LAMBDA))
    c, M, eye = metric.centroids, torch.diag_embed(metric.precision), torch.eye(DIM)

    def G_inv(z: torch.Tensor) -> torch.Tensor:
        square = (c.unsqueeze(0) - z.unsqueeze(1)).norm(dim=-1) ** 2
        weights = torch.exp(-square / metric.temperature**2)
        return (M.unsqueeze(0) * weights[..., None, None]).sum(1) + LAMBDA * eye

    model.M_tens, model.centroids_tens, model.G_inv = M, c, G_inv
    model.G = lambda z: torch.inverse(G_inv(z))
    sampler = RHVAESampler(model, RHVAESamplerConfig(mcmc_steps_nbr=1, n_lf=LEAPFROG, eps_lf=STEP))
    seconds, moved = [], []
    for _ in range(transitions):
        start = time.process_time()
        z = sampler.hmc_sampling(chains)
        seconds.append(time.process_time() - start)
        moved.append(float((torch.cdist(z, c).amin(1) > 1e-4).float().mean()))  # it starts at centroids
    one = statistics.median(seconds)
    return {
        "sampler": f"Pythae RHVAESampler, {LEAPFROG} steps of {STEP}",
        "seconds a transition": one,
        "samples a second": chains / (TRANSITIONS * one),
        "acceptance": statistics.mean(moved),
        "transitions timed": transitions,
    }


def ours(metric: PosteriorCovarianceMetric, chains: int, transitions: int, num_steps: int = LEAPFROG) -> dict:
    volume = RiemannianVolume(metric, procedure="chadebec2022")  # the improper target of Pythae
    seconds, acceptance = [], 0.0
    for seed in range(3):
        kernel = BatchedHMC(
            value_and_grad=volume.value_and_grad,
            step_size=STEP * LEAPFROG / num_steps,
            num_steps=num_steps,
            jitter=0.0,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            seed=seed,
        )
        z = metric.centroids[torch.randint(len(metric.centroids), (chains,))]
        mcmc = BatchedMCMC(kernel, transitions, 0, {"z": z}, disable_progbar=True)
        seconds.append(cpu_seconds(mcmc.run))
        acceptance = float(kernel.sample_stats["acceptance_rate"].mean())
    one = statistics.median(seconds) / transitions
    return {
        "sampler": f"ppvae BatchedHMC, {num_steps} steps of {STEP * LEAPFROG / num_steps:.2g}",
        "seconds a transition": one,
        "samples a second": chains / (TRANSITIONS * one),
        "acceptance": acceptance,
        "transitions timed": 3 * transitions,
    }


def effective(metric: PosteriorCovarianceMetric, chains: int, draws: int, nuts: tuple[int, int]) -> list[dict]:
    volume = RiemannianVolume(metric, base=Normal(torch.zeros(DIM), 1.0).to_event(1))

    def starts(n: int) -> torch.Tensor:
        return metric.centroids[torch.randint(len(metric.centroids), (n,))]

    def hmc() -> BatchedHMC:
        return BatchedHMC(value_and_grad=volume.value_and_grad, step_size=0.1, num_steps=5)

    def independence() -> IndependenceMetropolis:
        return IndependenceMetropolis(volume.potential_fn, {"z": volume.proposal()})

    kernels = {
        f"BatchedHMC, {chains} chains": hmc,
        f"independence proposals, {chains} chains": independence,
        f"mixed, {chains} chains": lambda: Cycle([hmc(), independence()]),
    }
    rows = []
    for name, make in kernels.items():
        mcmc = BatchedMCMC(make(), draws, draws, {"z": starts(chains)}, disable_progbar=True)
        rows.append({"sampler": name, "seconds": cpu_seconds(mcmc.run), "draws": chains * draws} | verdict(mcmc))
    nuts_chains, nuts_draws = nuts
    parts, seconds = [], 0.0
    for _ in range(nuts_chains):
        single = MCMC(
            NUTS(potential_fn=volume.potential_fn),
            nuts_draws,
            nuts_draws,
            {"z": starts(1)[0]},
            disable_progbar=True,
        )
        seconds += cpu_seconds(single.run)
        parts.append(single.get_samples()["z"])
    row = {"sampler": f"Pyro NUTS, {nuts_chains} chains in turn", "seconds": seconds, "draws": nuts_chains * nuts_draws}
    return [*rows, row | verdict({"z": torch.stack(parts)})]


def verdict(chains: Any) -> dict:
    found = convergence(chains)
    return {"ess": float(found.ess.min()), "r_hat": float(found.r_hat.max())}


def measure(args: argparse.Namespace) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    last = json.loads(args.out.read_text()) if args.out.exists() else {}
    speed, ess = last.get("speed", {}), last.get("effective", {})
    for N in map(str, args.centroids):
        metric = make_metric(int(N))
        if "speed" in args.only:
            mine = [ours(metric, args.chains, args.transitions, num_steps) for num_steps in (LEAPFROG, 3)]
            speed[N] = [*mine, pythae(metric, args.chains, args.pythae)]
        if "effective" in args.only:
            ess[N] = effective(metric, args.chains, args.draws, tuple(args.nuts))
    machine = {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}
    settings = {"dim": DIM, "chains": args.chains, "draws": args.draws, "nuts": args.nuts, "threads": 1}
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine,
        "ppvae": ppvae.__version__,
        "settings": settings,
        "speed": speed,
        "effective": ess,
    }


def table(result: dict) -> str:
    lines = [
        "| centroids | sampler | CPU s a transition | samples a CPU second | times Pythae | acceptance |",
        "|---|---|---|---|---|---|",
    ]
    for N, rows in result["speed"].items():
        theirs = rows[-1]
        for row in filter(None, rows):
            times = f"{row['samples a second'] / theirs['samples a second']:.0f}" if theirs else "not measured"
            lines.append(
                f"| {N} | {row['sampler']} | {row['seconds a transition']:.3g} | {row['samples a second']:.3g} | "
                f"{times} | {row['acceptance']:.3f} |"
            )
    lines += [
        "",
        "| centroids | sampler | CPU s | draws | effective draws | effective draws a CPU second | R-hat |",
        "|---|---|---|---|---|---|---|",
    ]
    for N, rows in result["effective"].items():
        for row in rows:
            lines.append(
                f"| {N} | {row['sampler']} | {row['seconds']:.1f} | {row['draws']} | {row['ess']:.0f} | "
                f"{row['ess'] / row['seconds']:.1f} | {row['r_hat']:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--centroids", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--chains", type=int, default=500)
    parser.add_argument("--draws", type=int, default=100, help="of each chain, for effective samples")
    parser.add_argument("--nuts", type=int, nargs=2, default=[16, 40], help="chains and draws of NUTS")
    parser.add_argument("--transitions", type=int, default=20, help="transitions of ours that are timed, three times")
    parser.add_argument("--pythae", type=int, default=2, help="transitions of Pythae that are timed")
    parser.add_argument("--only", nargs="+", default=["speed", "effective"], help="which table; the other one stays")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hmc_speed.json")
    parser.add_argument("--table", action="store_true", help="print the tables of the last run and time nothing")
    args = parser.parse_args()
    if not args.table:
        if set(args.only) - {"speed", "effective"}:
            parser.error(f"--only: expected speed or effective, got {' '.join(args.only)}")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(measure(args), indent=1))
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
