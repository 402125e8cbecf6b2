r"""The posterior of single data by Hamiltonian Monte Carlo, and how far the guide is from it.

    p(z | x) = p(z) p(x | z) / p(x)

A latent of R^d is sampled as it is. A latent of the sphere S^{m-1} is the direction of a vector n of R^m,

    z = n / |n|,   n with the density  N(n; 0, I) p(z | x) / u(z),   u uniform on the sphere

whose direction has the law p(z | x): without the factor it would be uniform, and the factor knows nothing of |n|. A
latent of hyperbolic space is exp_o(v), by the volume of exp_o.

    log p(x) - ELBO = KL(q(z | x) || p(z | x))          the gap of the guide, in nats

References:
    [1] Inference Suboptimality in Variational Autoencoders (Cremer, Li and Duvenaud, 2018)
        https://arxiv.org/abs/1801.03558
    [2] MCMC using Hamiltonian dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from typing import Any, Literal, get_args

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer import HMC, MCMC, NUTS
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from ppvae.arrays import VAE, check_pair, check_support, evaluating, own_store, to_tensors
from ppvae.diagnostics import Convergence, convergence, to_inference_data
from ppvae.infer import BatchedHMC, BatchedMCMC
from ppvae.infer.elbo import latents
from ppvae.manifolds import hyperboloid, log_area, sphere
from ppvae.manifolds.hyperboloid import from_origin, log_sinhc, to_origin
from ppvae.predict import Array, LogLikelihood, log_likelihood
from ppvae.random import seeded

Method = Literal["batched-hmc", "nuts", "hmc"]


@dataclass(frozen=True)
class Posterior:
    """Draws of p(z | x) for each of n data, and what they say of themselves and of the guide.

    ``posterior[i]`` and ``posterior[i:j]`` are those of some of the data.

    :param draws: for each latent site its points on the manifold, shape (n, chains, draws, *event).
    :param sample_stats: statistics of the sampler, each of shape (n, chains, draws).
    :param log_likelihood: of the data, by importance sampling with the guide; None where the guide has no density.
    :param method: the sampler.
    """

    draws: dict[str, NDArray]
    sample_stats: dict[str, NDArray]
    log_likelihood: LogLikelihood | None
    method: str

    def __len__(self) -> int:
        return next(iter(self.draws.values())).shape[0]

    def __getitem__(self, rows: int | slice) -> "Posterior":
        if not isinstance(rows, slice):
            rows = index(rows)
            if not -len(self) <= rows < len(self):
                raise IndexError(f"posterior of {len(self)} data: no datum {rows}")
            rows = slice(rows, rows + 1 or None)
        ll = self.log_likelihood
        return replace(
            self,
            draws={name: value[rows] for name, value in self.draws.items()},
            sample_stats={name: value[rows] for name, value in self.sample_stats.items()},
            log_likelihood=None if ll is None else LogLikelihood(ll.log_weights[rows]),
        )

    @property
    def z(self) -> Any:
        """The draws, shape (n, chains, draws, *event); a dict of such arrays where there are several sites."""
        return next(iter(self.draws.values())) if len(self.draws) == 1 else self.draws

    @cached_property
    def inference_data(self) -> Any:
        """The draws for ArviZ: dimensions chain, draw, datum and those of the event.

        A chain is there a draw of all data at once: its energy and log density are the sums over the data, and it
        diverges where one of them does.
        """
        joint: dict[str, Any] = {"energy": np.sum, "lp": np.sum, "diverging": np.any}
        return to_inference_data(
            {name: np.moveaxis(value, 0, 2) for name, value in self.draws.items()},
            sample_stats={name: joint.get(name, np.mean)(value, axis=0) for name, value in self.sample_stats.items()},
            dims={
                name: ["datum", *(f"{name}_dim_{i}" for i in range(value.ndim - 3))]
                for name, value in self.draws.items()
            },
        )

    @cached_property
    def convergence(self) -> Convergence:
        """Whether the chains have mixed, over all data and coordinates."""
        return convergence(self.inference_data)

    @cached_property
    def r_hat(self) -> NDArray:
        """The largest R-hat of each datum over the coordinates of its latents, shape (n,).

        Coordinates are those of the manifold, not of the vectors that the chains move in: of a point of the sphere the
        m of its unit vector.
        """
        by_site, start = [], 0
        for value in self.draws.values():
            size = math.prod(value.shape[3:])
            by_site.append(self.convergence.r_hat[start : start + len(self) * size].reshape(len(self), size))
            start += len(self) * size
        return np.concatenate(by_site, 1).max(1)

    @property
    def elbo(self) -> NDArray:
        """E_q [log p(x, z) - log q(z | x)] of each datum in nats, shape (n,)."""
        return self._estimated().log_weights.mean(1)

    @property
    def gap(self) -> NDArray:
        """log p(x) - ELBO = KL(q(z | x) || p(z | x)) of each datum in nats, shape (n,), by importance sampling.

        It is the sum of what the family of the guide cannot express and what amortisation loses of it. Where
        :attr:`pareto_k` exceeds 0.7 it is not to be trusted, and too small more often than too large.
        """
        return self._estimated().values - self.elbo

    @property
    def gap_error(self) -> NDArray:
        """Monte Carlo standard error of :attr:`gap` in nats, by the delta method, shape (n,)."""
        log_w = self._estimated().log_weights
        w = np.exp(log_w - log_w.max(1, keepdims=True))
        influence = w / w.mean(1, keepdims=True) - log_w
        return influence.std(1, ddof=1) / math.sqrt(log_w.shape[1])

    @property
    def pareto_k(self) -> NDArray:
        """Pareto k-hat of the importance weights p(x, z) / q(z | x) of each datum, shape (n,)."""
        return self._estimated().pareto_k

    def _estimated(self) -> LogLikelihood:
        if self.log_likelihood is None:
            raise ValueError("the guide is deterministic (Delta): it has no density, and no gap in nats")
        return self.log_likelihood

    def __str__(self) -> str:
        words = f"p(z | x) of {len(self)} data by {self.method}: {self.convergence}"
        if len(self) > 1 and (self.r_hat > 1.01).any():
            words += f" R-hat is above 1.01 for {(self.r_hat > 1.01).sum()} of {len(self)} data."
        if self.log_likelihood is not None:
            words += (
                f" The guide is {np.median(self.gap):.3g} nats from it in the median, {self.gap.max():.3g} at most; "
                f"Pareto k > 0.7 for {(self.pareto_k > 0.7).mean():.1%}."
            )
        return words

    __repr__ = __str__


def posterior(
    vae: VAE,
    x: Array,
    *given: Array,
    method: Method = "batched-hmc",
    num_samples: int = 500,
    warmup: int = 500,
    num_chains: int = 4,
    importance_samples: int = 500,
    seed: int | None = None,
    chunk: int = 10_000,
    progress: bool = False,
    **options: Any,
) -> Posterior:
    """Draws of p(z | x) for each datum, by Hamiltonian Monte Carlo; chains begin at draws of the guide.

    ``"batched-hmc"`` runs the chains of all data at once (:class:`ppvae.infer.BatchedHMC`), each datum with a step size
    and a mass of its own. ``"nuts"`` and ``"hmc"`` are Pyro's kernels on all data jointly, one chain after the other,
    as ``NUTS(vae.model)`` would be: exact too, and slow for more than a few data.

    Chains that begin at the guide do not see a mode that it misses, nor does R-hat.

    :param x: data of shape (n, *vae.shape); ``given`` is what the model is conditioned on.
    :param num_samples: draws of each chain.
    :param warmup: transitions before them, in which step size and mass are adapted.
    :param num_chains: chains of each datum.
    :param importance_samples: of the guide for each datum, for its gap and k-hat.
    :param seed: seed of all draws; where None the global generator is used and moved.
    :param chunk: how many (datum, chain) pairs go through the decoder at once; memory is proportional to it.
    :param progress: whether Pyro's progress bar is shown.
    :param options: of the kernel, e.g. ``num_steps=20`` of BatchedHMC or ``max_tree_depth=8`` of NUTS.
    :raises ValueError: if a latent is of none of R^d, spheres, products of spheres and hyperbolic space, if it is
        outside the data plate, or if x is not what the VAE reads.

    Source: Neal (2011), https://arxiv.org/abs/1206.1901
    """
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    for name, count, least in (("num_samples", num_samples, 1), ("warmup", warmup, 0), ("num_chains", num_chains, 1)):
        if count < least:
            raise ValueError(f"{name}: expected at least {least}, got {count}")
    check_pair(vae)
    data = to_tensors(vae, (x, *given))
    check_support(vae, data)
    charts, has_density = _latents(vae, data)
    draws: dict[str, list[NDArray]] = {}
    stats: dict[str, list[NDArray]] = {}
    n = data[0].shape[0]
    size = max(1, chunk // num_chains) if method == "batched-hmc" else n
    with own_store(), evaluating(vae), pyro.validation_enabled(False), seeded(seed):
        for start in range(0, n, size):
            # The chains of one datum are rows of a batch, one after the other.
            rows = tuple(tensor[start : start + size].repeat_interleave(num_chains, 0) for tensor in data)
            target = _Target(vae, rows, charts)
            run = _batched if method == "batched-hmc" else _joint
            kernel = {"nuts": NUTS, "hmc": HMC, "batched-hmc": BatchedHMC}[method]
            found, said = run(target, kernel, rows[0].shape[0] // num_chains, num_samples, warmup, progress, options)
            for parts, values in ((draws, found), (stats, said)):
                for name, value in values.items():
                    value = value.reshape(-1, num_chains, *value.shape[1:])
                    parts.setdefault(name, []).append(value.detach().cpu().numpy())
    ll = None
    if has_density:
        ll = log_likelihood(vae, *data, num_samples=importance_samples, seed=seed)
    return Posterior(
        {name: np.concatenate(parts) for name, parts in draws.items()},
        {name: np.concatenate(parts) for name, parts in stats.items()},
        ll,
        method,
    )


class _Plane:
    """R^d, as it is."""

    @staticmethod
    def start(z: Tensor) -> Tensor:
        """Where a chain begins whose latent is z."""
        return z.clone()

    @staticmethod
    def point(v: Tensor) -> Tensor:
        """The latent."""
        return v

    @staticmethod
    def log_volume(v: Tensor) -> Tensor:
        """Log density of the chain's law at v over that of the latent at its point: the sum is over all numbers."""
        return torch.zeros_like(v)


class _Direction:
    """A sphere, as the direction of v: of all v of one direction the length is that of a normal law."""

    @staticmethod
    def start(z: Tensor) -> Tensor:
        return z * math.sqrt(z.shape[-1])  # near 0 the steps that fit are tiny

    @staticmethod
    def point(v: Tensor) -> Tensor:
        return v / v.norm(dim=-1, keepdim=True)

    @staticmethod
    def log_volume(v: Tensor) -> Tensor:
        m = v.shape[-1]
        log_normal = -(v * v).sum(-1) / 2 - m / 2 * math.log(2 * math.pi)
        return log_normal + log_area(m)  # log u(z) is minus the log of the area


class _Exponential:
    """Hyperbolic space, as exp_o(v)."""

    @staticmethod
    def start(z: Tensor) -> Tensor:
        return to_origin(z)

    @staticmethod
    def point(v: Tensor) -> Tensor:
        return from_origin(v)

    @staticmethod
    def log_volume(v: Tensor) -> Tensor:
        return (v.shape[-1] - 1) * log_sinhc(v.square().sum(-1))


CHARTS: dict[type, Any] = {
    type(constraints.real): _Plane,
    type(sphere): _Direction,
    type(hyperboloid): _Exponential,
}


def _latents(vae: VAE, data: tuple[Tensor, ...]) -> tuple[dict[str, Any], bool]:
    """For each latent of the model the coordinates of its chains; and whether the guide has a density."""
    one = tuple(tensor[:1] for tensor in data)
    with own_store(), evaluating(vae), torch.no_grad(), seeded(0), pyro.validation_enabled(False):
        guide_trace = poutine.trace(vae.guide).get_trace(*one)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*one)
    charts = {}
    for site in latents(model_trace):
        name, support = site["name"], site["fn"].support
        base = support
        while isinstance(base, constraints.independent):
            base = base.base_constraint
        if type(base) not in CHARTS:
            raise ValueError(
                f"posterior: expected latents of R^d, of spheres, of products of spheres or of hyperbolic space, got "
                f"site {name!r} with values in {support}"
            )
        if not any(frame.vectorized and frame.dim == -1 for frame in site["cond_indep_stack"]):
            raise ValueError(f"posterior: expected every latent in the data plate (dim -1), got {name!r} outside")
        charts[name] = CHARTS[type(base)]
    if not charts:
        raise ValueError("posterior: expected a model with a latent, got none")
    laws: list[Any] = [site["fn"] for site in latents(guide_trace)]
    for i, law in enumerate(laws):
        while hasattr(law, "base_dist"):
            law = law.base_dist
        laws[i] = law
    return charts, not any(isinstance(law, Delta) for law in laws)


class _Target:
    """-log p(x, z) of each row, as a function of vectors of R^d."""

    def __init__(self, vae: VAE, rows: tuple[Tensor, ...], charts: Mapping[str, Any]):
        self.vae, self.rows, self.charts = vae, rows, charts

    def start(self) -> dict[str, Tensor]:
        """Draws of the guide."""
        with torch.no_grad():
            trace = poutine.trace(self.vae.guide).get_trace(*self.rows)
        return {name: chart.start(trace.nodes[name]["value"]) for name, chart in self.charts.items()}

    def points(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The latents themselves."""
        return {name: self.charts[name].point(value) for name, value in params.items()}

    def __call__(self, params: Mapping[str, Tensor]) -> Tensor:
        model = poutine.condition(self.vae.model, self.points(params))
        trace = poutine.trace(model).get_trace(*self.rows)
        trace.compute_log_prob()
        N = self.rows[0].shape[0]
        U = torch.zeros(())
        for site in trace.nodes.values():
            if site["type"] == "sample" and not site_is_subsample(site):
                U = U - site["log_prob"].expand(*site["log_prob"].shape[:-1], N).reshape(-1, N).sum(0)
        for name, chart in self.charts.items():
            U = U - chart.log_volume(params[name]).reshape(N, -1).sum(1)
        return U


Draws = tuple[dict[str, Tensor], dict[str, Tensor]]


def _batched(
    target: _Target, kernel: Any, n: int, num_samples: int, warmup: int, progress: bool, options: Mapping[str, Any]
) -> Draws:
    """Points and statistics of shape (rows, draws, ...)."""
    run = kernel(potential_fn=target, **{"num_targets": n} | dict(options))
    mcmc = BatchedMCMC(run, num_samples, warmup, target.start(), disable_progbar=not progress)
    mcmc.run()
    return target.points(mcmc.get_samples(group_by_chain=True)), run.sample_stats


def _joint(
    target: _Target, kernel: Any, n: int, num_samples: int, warmup: int, progress: bool, options: Mapping[str, Any]
) -> Draws:
    """The same by a kernel of Pyro, a chain of all data after the other."""
    start = target.start()
    N = target.rows[0].shape[0]
    if kernel is HMC:  # a quarter of the period of a Gaussian: a whole one, Pyro's choice, comes back to its beginning
        options = {"trajectory_length": math.pi / 2} | dict(options)
    points: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for chain in range(N // n):
        rows = torch.arange(chain, N, N // n)
        one = _Target(target.vae, tuple(t[rows.to(t.device)] for t in target.rows), target.charts)
        run = kernel(potential_fn=lambda params, one=one: one(params).sum(), **options)
        first = {name: value[rows.to(value.device)] for name, value in start.items()}
        mcmc = MCMC(run, num_samples, warmup, initial_params=first, disable_progbar=not progress)
        mcmc.run()
        samples = mcmc.get_samples()
        with torch.no_grad():
            lp = torch.stack([-one({name: value[s] for name, value in samples.items()}) for s in range(num_samples)], 1)
        diverging = torch.zeros((n, num_samples), dtype=torch.bool)
        diverging[:, mcmc.diagnostics()["divergences"]["chain 0"]] = True
        step_size = torch.full((n, num_samples), float(run.step_size))
        found = {name: value.transpose(0, 1) for name, value in one.points(samples).items()}
        for kept, values in ((points, found), (stats, {"lp": lp, "diverging": diverging, "step_size": step_size})):
            for name, value in values.items():
                if name not in kept:
                    kept[name] = value.new_empty((N, *value.shape[1:]))
                kept[name][rows.to(value.device)] = value
    return points, stats
