r"""The posterior of single data by Hamiltonian Monte Carlo, and how far the guide is from it.

    p(z | x) = p(z) p(x | z) / p(x)

A chain moves in the coordinates v that the manifold of each latent has (its ``lift``, :mod:`ppvae.manifolds.protocol`),

    z = point(v),   v with the density  p(z | x) exp(log_volume(v))

R^d is sampled as it is. A point of a sphere, a circle or a torus is the direction of a vector, a rotation that of a
quaternion, a point of hyperbolic space exp_o(v), one of an interval a sigmoid. On a product they stand side by side; on
a quotient the chain moves in the cover.

    log p(x) - ELBO = KL(q(z | x) || p(z | x))          the gap of the guide, in nats

References:
    [1] Inference Suboptimality in Variational Autoencoders (Cremer, Li and Duvenaud, 2018)
        https://arxiv.org/abs/1801.03558
    [2] MCMC using Hamiltonian dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
"""

import difflib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor

from ppvae.diagnostics import Convergence, convergence, to_inference_data
from ppvae.infer import BatchedHMC, BatchedMCMC
from ppvae.infer.sites import (
    check_pair,
    data_first,
    data_last,
    in_data_plate,
    latents,
    manifold_of,
    observations,
    per_datum,
    plate_nesting,
)
from ppvae.inputs import check_support, integer, to_tensors
from ppvae.manifolds import Lift
from ppvae.predict import Array, LogLikelihood, log_likelihood
from ppvae.vae import VAE, check_vae_interface, first_traces, quiet

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
            raise ValueError(
                "the guide has no gap in nats: it is deterministic (Delta), or has no density that covers the prior"
            )
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
    :param seed: seed of all draws. Without one they come from the global generator and move it.
    :param chunk: how many (datum, chain) pairs go through the decoder at once; memory is proportional to it.
    :param progress: whether Pyro's progress bar is shown.
    :param options: of the kernel, e.g. ``num_steps=20`` of BatchedHMC or ``max_tree_depth=8`` of NUTS.
    :raises ValueError: if a latent is discrete or outside the data plate, or if x is not what the VAE reads.

    Source: Neal (2011), https://arxiv.org/abs/1206.1901
    """
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    num_samples, num_chains = integer("num_samples", num_samples), integer("num_chains", num_chains)
    warmup, chunk = integer("warmup", warmup, 0), integer("chunk", chunk)
    kernel = {"nuts": NUTS, "hmc": HMC, "batched-hmc": BatchedHMC}[method]
    _check_options(kernel, options)
    check_vae_interface(vae)
    data = to_tensors(vae, (x, *given))
    check_support(vae, data)
    lifts, nesting, has_density = _lifts(vae, data)
    draws: dict[str, list[NDArray]] = {}
    stats: dict[str, list[NDArray]] = {}
    n = data[0].shape[0]
    size = max(1, chunk // num_chains) if method == "batched-hmc" else n
    with quiet(vae, seed), torch.enable_grad():
        for start in range(0, n, size):
            # The chains of one datum are rows of a batch, one after the other.
            rows = tuple(tensor[start : start + size].repeat_interleave(num_chains, 0) for tensor in data)
            target = _Target(vae, rows, lifts, nesting)
            run = _batched if method == "batched-hmc" else _joint
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


def _check_options(kernel: Any, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for options that the kernel does not have, or that ``posterior`` sets."""
    known = set(inspect.signature(kernel).parameters) - {"model", "potential_fn", "value_and_grad"}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known))}"
            raise ValueError(f"posterior: {kernel.__name__} has no option {name}{hint}")


def _lifts(vae: VAE, data: tuple[Tensor, ...]) -> tuple[dict[str, tuple[Lift, Any]], int, bool]:
    """For each latent of the model the coordinates of its chains and its site; how deep plates are nested; and whether
    the guide has a density that covers the prior."""
    model_trace, guide_trace = first_traces(vae, data)
    lifts = {}
    for site in latents(model_trace):
        name, law = site["name"], site["fn"]
        manifold = manifold_of(law)
        if manifold is None:
            raise ValueError(
                f"posterior: expected latents on manifolds, got site {name!r} with values in {law.support}, on which "
                "no Hamiltonian chain moves; sum a discrete latent out of the model, as ppvae.nn.Clusters does"
            )
        if not in_data_plate(site):
            raise ValueError(f"posterior: expected every latent in the data plate (dim -1), got {name!r} outside")
        lifts[name] = (manifold.lift, site)
    if not lifts:
        raise ValueError("posterior: expected a model with a latent, got none")
    try:
        check_pair(model_trace, guide_trace, "weights")
        covers = True
    except ValueError:  # chains do without a density of the guide, its gap does not
        covers = False
    return lifts, plate_nesting(model_trace, guide_trace), covers


class _Target:
    """-log p(x, z) of each row, as a function of vectors of R^d; plate scales are left out."""

    def __init__(self, vae: VAE, rows: tuple[Tensor, ...], lifts: Mapping[str, Any], nesting: int):
        self.vae, self.rows, self.lifts, self.nesting = vae, rows, lifts, nesting

    def start(self) -> dict[str, Tensor]:
        """Draws of the guide, (rows, ...)."""
        with torch.no_grad():
            trace = poutine.trace(self.vae.guide).get_trace(*self.rows)
        return {name: lift.start(data_first(trace.nodes[name])) for name, (lift, _) in self.lifts.items()}

    def points(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The latents themselves, (rows, ...)."""
        return {name: self.lifts[name][0].point(value) for name, value in params.items()}

    def __call__(self, params: Mapping[str, Tensor]) -> Tensor:
        values = {name: data_last(z, self.lifts[name][1]) for name, z in self.points(params).items()}
        trace = poutine.trace(poutine.condition(self.vae.model, values)).get_trace(*self.rows)
        N = self.rows[0].shape[0]
        U = torch.zeros(())
        for site in (*latents(trace), *observations(trace)):
            log_p = per_datum(trace, site, self.nesting)
            U = U - log_p.expand(*log_p.shape[:-1], N).reshape(-1, N).sum(0)
        for name, (lift, _) in self.lifts.items():
            U = U - lift.log_volume(params[name]).reshape(N, -1).sum(1)
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
        one = _Target(target.vae, tuple(t[rows.to(t.device)] for t in target.rows), target.lifts, target.nesting)
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
