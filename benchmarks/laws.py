"""Samples and log densities per second of each law, against scipy, torch and the package power_spherical, in pairs.

One law is asked for many points at once (``--points``), in float32, on one thread, by processor time. Rounds of all
implementations alternate, so that a change of the machine's speed meets all of them, and the ratio to ours is the
median over the rounds. A gradient is a sample and its log density with the derivatives of both by the parameters, where
the law has them; scipy has none, and works in float64. On a GPU (``--device cuda``) time is that of the clock, until
the device has finished.

    python benchmarks/laws.py            # measures, writes benchmarks/results/laws.json, prints the table
    python benchmarks/laws.py --table    # prints the table of the last measurement
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import scipy.stats
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ppvae.distributions import (
    EmbeddedPushforward,
    FrameAverage,
    GaussianMixture,
    HypersphericalUniform,
    IsotropicGaussianSO3,
    MatrixFisher,
    PowerSpherical,
    SO3Normal,
    SO3Uniform,
    UnimodalBeta,
    UnrolledCircle,
    VonMisesFisher,
    WrappedNormal,
)
from ppvae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppvae.manifolds import Circle, Torus
from ppvae.manifolds.embeddings import TorusEmbedding
from ppvae.manifolds.sphere import Sphere

Params = dict[str, Tensor]
Tasks = dict[str, Callable[[int], object]]  # what is done -> a function of the number of points


def ours(make: Callable[..., Any], params: Params) -> Tasks:
    """Tasks of a law of ours, or of any law with torch's interface."""
    law = make(**params)
    z = law.sample((1,))

    def points(n: int) -> Tensor:
        return z.expand(n, *z.shape[1:]).contiguous()

    def gradient(n: int) -> None:
        leaves = [p.clone().requires_grad_() for p in params.values()]
        q = make(**dict(zip(params, leaves, strict=True)))
        x = q.rsample((n,))
        torch.autograd.grad(x.sum() + q.log_prob(x).sum(), leaves)

    tasks: Tasks = {"samples": lambda n: law.sample((n,)), "densities": lambda n: law.log_prob(points(n))}
    return {**tasks, "gradients": gradient} if law.has_rsample and params else tasks


def of_scipy(law: Any, z: np.ndarray) -> Tasks:
    density = getattr(law, "logpdf", None)
    tasks: Tasks = {"samples": lambda n: law.rvs(n)}
    if density is not None:
        tasks["densities"] = lambda n: density(np.broadcast_to(z, (n, *z.shape)))
    return tasks


def laws(device: str) -> Iterator[tuple[str, dict[str, Tasks]]]:
    """The name of each law, and its implementations: ours is the first."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def number(*values: float) -> Tensor:
        return torch.tensor(values if len(values) > 1 else values[0], device=device)

    host = device == "cpu"
    rotation = torch.linalg.matrix_exp(torch.tensor([[0.0, -1.0, 2.0], [1.0, 0.0, -0.5], [-2.0, 0.5, 0.0]])).to(device)
    for m in (2, 3, 16):
        loc, k = normalize(normal(m), dim=-1), number(4.0 * m)
        tasks = {"ppvae": ours(VonMisesFisher, {"loc": loc, "concentration": k})}
        if host:
            mu = normalize(loc.double(), dim=-1).numpy()
            angle = math.atan2(mu[1], mu[0])
            fisher = scipy.stats.vonmises_fisher(mu, 4.0 * m)
            tasks["scipy"] = (
                of_scipy(scipy.stats.vonmises(4.0 * m, angle), np.array(0.3)) if m == 2 else of_scipy(fisher, mu)
            )
        yield f"VonMisesFisher, S^{m - 1}, k = {4 * m}", tasks
    for m in (3, 16):
        loc, k = normalize(normal(m), dim=-1), number(4.0 * m)
        tasks = {"ppvae": ours(PowerSpherical, {"loc": loc, "concentration": k})}
        if find_spec("power_spherical"):
            import power_spherical

            peer = power_spherical.PowerSpherical
            tasks["power_spherical"] = ours(lambda loc, scale, peer=peer: peer(loc, scale), {"loc": loc, "scale": k})
        yield f"PowerSpherical, S^{m - 1}, k = {4 * m}", tasks
    tasks = {"ppvae": ours(lambda: HypersphericalUniform(16, device=device), {})}
    if host:
        tasks["scipy"] = of_scipy(scipy.stats.uniform_direction(16), np.eye(16)[0])
    yield "HypersphericalUniform, S^15", tasks
    tasks = {"ppvae": ours(lambda: SO3Uniform(device=device), {})}
    if host:
        tasks["scipy"] = of_scipy(scipy.stats.special_ortho_group(3), np.eye(3))
    yield "SO3Uniform", tasks
    sigma = number(0.3, 0.5, 0.4)
    yield "SO3Normal", {"ppvae": ours(SO3Normal, {"loc": rotation, "scale": sigma})}
    yield "IsotropicGaussianSO3", {"ppvae": ours(IsotropicGaussianSO3, {"loc": rotation, "scale": number(0.5)})}
    yield "MatrixFisher", {"ppvae": ours(MatrixFisher, {"concentration": 4 * rotation})}
    yield (
        "FrameAverage of MatrixFisher",
        {
            "ppvae": ours(
                lambda concentration: FrameAverage(MatrixFisher(concentration)), {"concentration": 4 * rotation}
            )
        },
    )
    circle, torus = normalize(normal(2), dim=-1), normalize(normal(3, 2), dim=-1)
    yield (
        "WrappedNormal, circle",
        {
            "ppvae": ours(
                lambda loc, scale: WrappedNormal(Circle(), loc, scale), {"loc": circle, "scale": number(0.5)[None]}
            )
        },
    )
    yield (
        "WrappedNormal, torus T^3",
        {"ppvae": ours(lambda loc, scale: WrappedNormal(Torus(3), loc, scale), {"loc": torus, "scale": sigma})},
    )
    yield (
        "WrappedNormal, S^2",
        {
            "ppvae": ours(
                lambda loc, scale: WrappedNormal(Sphere(), loc, scale),
                {"loc": normalize(normal(3), dim=-1), "scale": sigma[:2]},
            )
        },
    )
    yield (
        "UnrolledCircle of VonMisesFisher",
        {"ppvae": ours(lambda loc, k: UnrolledCircle(VonMisesFisher(loc, k)), {"loc": circle, "k": number(8.0)})},
    )
    p, q = number(3.0), number(1.5)
    tasks = {
        "ppvae": ours(UnimodalBeta, {"p": p, "q": q}),
        "torch": ours(lambda p, q: dist.Beta(1 + p, 1 + q), {"p": p, "q": q}),
    }
    if host:
        tasks["scipy"] = of_scipy(scipy.stats.beta(4.0, 2.5), np.array(0.3))
    yield "UnimodalBeta", tasks
    pair = {"p": number(3.0, 2.0), "q": number(1.5, 4.0)}
    yield (
        "EmbeddedPushforward, torus in R^3",
        {"ppvae": ours(lambda p, q: EmbeddedPushforward(UnimodalBeta(p, q).to_event(1), TorusEmbedding()), pair)},
    )
    mixture = {"logits": normal(10), "loc": normal(10, 8), "scale": normal(10, 8).exp()}
    tasks = {"ppvae": ours(GaussianMixture, mixture)}
    of_torch = ours(
        lambda logits, loc, scale: dist.MixtureSameFamily(
            dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1)
        ),
        mixture,
    )
    yield "GaussianMixture, 10 in R^8", {**tasks, "torch": of_torch}
    tasks = {"ppvae": ours(ContinuousBernoulli, {"logits": number(1.5)})}
    yield (
        "ContinuousBernoulli",
        {**tasks, "torch": ours(lambda logits: dist.ContinuousBernoulli(logits=logits), {"logits": number(1.5)})},
    )


def seconds(task: Callable[[int], object], n: int, device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        task(n)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    task(n)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(points: int, rounds: int, device: str) -> dict:
    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.manual_seed(0)
    rows = []
    for name, implementations in laws(device):
        for what in ("samples", "densities", "gradients"):
            tasks = {who: t[what] for who, t in implementations.items() if what in t}
            times: dict[str, list[float]] = {who: [] for who in tasks}
            for i in range(rounds + 1):
                for who, task in tasks.items():
                    value = seconds(task, points, device)
                    if i:  # the first round warms up
                        times[who].append(value)
            for who, values in times.items():
                ratio = statistics.median(a / b for a, b in zip(values, times["ppvae"], strict=True))
                rows.append(
                    {
                        "law": name,
                        "by": who,
                        "what": what,
                        "per_second": points / statistics.median(values),
                        "time_of_ours": ratio,
                    }
                )
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scipy": scipy.__version__,
        "processor": platform.machine() if device == "cpu" else torch.cuda.get_device_name(),
        "power_spherical": version("power_spherical") if find_spec("power_spherical") else "not installed",
        "hyperspherical_vae": "not installed: it is in no package index",
    }
    return {"machine": machine, "device": device, "points": points, "rounds": rounds, "rows": rows}


def table(result: dict) -> str:
    lines = [
        "| law, {points} points at once, {device} | by | samples | log densities | samples with gradients |".format(
            **result
        ),
        "|---|---|---:|---:|---:|",
    ]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in result["rows"]:
        ratio = "" if row["by"] == "ppvae" else f" (x{1 / row['time_of_ours']:.2g})"
        found.setdefault((row["law"], row["by"]), {})[row["what"]] = f"{row['per_second']:,.0f}{ratio}"
    for (law, by), cells in found.items():
        values = " | ".join(cells.get(what, "") for what in ("samples", "densities", "gradients"))
        lines.append(f"| {law if by == 'ppvae' else ''} | {by} | {values} |")
    lines += ["", "; ".join(f"{name}: {value}" for name, value in result["machine"].items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "laws.json")
    parser.add_argument("--table", action="store_true", help="print the table of the last run and time nothing")
    args = parser.parse_args()
    if not args.table:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(measure(args.points, args.rounds, args.device), indent=1))
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
