r"""What a trained VAE is asked for: encode, decode, reconstruct, generate, log-likelihood. One function each, for all.

They see a VAE only through its traces, run in eval mode without gradients, take and return numpy arrays (tensors for
tensors), and leave the mode of the VAE, Pyro's parameter store and, where a seed is given, the random generators as
they were.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import is_dependent

from ppvae.distributions import center
from ppvae.distributions.base import base_law
from ppvae.infer import ELBO, CenterMessenger
from ppvae.infer.objectives.iwae import LogWeights
from ppvae.infer.sites import data_first, data_last, latents, plate_nesting
from ppvae.inputs import check_finite, check_support, integer, on_disk, read_rows, to_tensors
from ppvae.tracing import Compiled, compile_function, log_line
from ppvae.vae import VAE, check_vae_interface, device_and_dtype, first_traces, quiet

Array = Any  # numpy array, or tensor where x was one


def encode(vae: VAE, x: Array, *given: Array, batch_size: int = 4096) -> Any:
    """The centre of q(z | x) for each datum: deterministic, and on the latent's manifold.

    If the model makes its latents into a point that the decoder reads, as ``ManifoldVAE`` does, the code is that point.

    :param x: data of shape (n, *vae.shape); ``given`` is what the model is conditioned on.
    :return: array (n, *event) of the latent site, or a dict of such arrays where there are several sites.
    :raises ValueError: if x has another shape or dtype than the VAE reads, or values that are not finite.
    """
    batch_size = integer("batch_size", batch_size)
    parts: dict[str, list[Tensor]] = {}
    with quiet(vae), CenterMessenger():
        for batch in _prepared(vae, (x, *given), batch_size):
            for site in _code_sites(vae, batch):
                parts.setdefault(site["name"], []).append(data_first(site))
    codes = {name: _like(torch.cat(values), x) for name, values in parts.items()}
    return next(iter(codes.values())) if len(codes) == 1 else codes


def guide_laws(vae: VAE, x: Array, *given: Array) -> dict[str, Any]:
    """The laws q(z | x) of the guide, one for each latent site: distributions of batch shape (n,).

    Where a law depends on another latent of the guide, it is that at the centre of the other.

    :param x: data of shape (n, *vae.shape); ``given`` is what the model is conditioned on.
    :raises ValueError: if x has another shape or dtype than the VAE reads, or values that are not finite.
    """
    with quiet(vae), CenterMessenger():
        data = to_tensors(vae, (x, *given))
        check_finite(data[0])
        trace = poutine.trace(vae.guide).get_trace(*data)
    return {site["name"]: site["fn"] for site in latents(trace)}


def decode(
    vae: VAE, z: Any, *given: Array, sample: bool = False, seed: int | None = None, batch_size: int = 4096
) -> Array:
    """The mean of p(x | z) at latents z, or with ``sample`` a draw from it.

    ``decode(vae, encode(vae, x))`` is ``reconstruct(vae, x)``. For categorical data it is the mode in place of the
    mean, for points of a curved space the centre.

    :param z: latents as :func:`encode` returns them: an array (n, *event), or a dict of such arrays by site.
    :param given: what the model is conditioned on, n rows each.
    :param seed: seed of the draws. Without one they come from the global generator and move it.
    :return: array (n, *vae.shape), a tensor where z is one.
    :raises ValueError: if a latent is missing or unknown, has another shape than its site, is not finite, or lies off
        its manifold.
    """
    if isinstance(z, dict) and not z:
        raise ValueError("z: expected the latents by site, got an empty dict")
    batch_size = integer("batch_size", batch_size)
    first = next(iter(z.values())) if isinstance(z, dict) else z
    # Latents that a code site stands for are drawn and not read: they must not move the global generator.
    with quiet(vae, seed if sample else 0):
        device, dtype = device_and_dtype(vae)
        blank = torch.zeros((len(first), *vae.shape), dtype=dtype, device=device)
        data = to_tensors(vae, (blank, *given))
        codes = _codes(vae, z, data)
        out = []
        for start in range(0, len(blank), batch_size):
            rows = slice(start, start + batch_size)
            values = {name: data_last(code[rows], site) for name, (code, site) in codes.items()}
            batch = tuple(tensor[rows] for tensor in data)
            out.append(_observation(_Coded(values)(vae.model), batch, sample))
    return _like(torch.cat(out), first)


def reconstruct(vae: VAE, x: Array, *given: Array, sample: bool = False, batch_size: int = 4096) -> Array:
    """The mean of p(x | z) at the centre of q(z | x), or with ``sample`` a draw from it; shape of x.

    For categorical data it is the mode in place of the mean, for points of a curved space the centre.

    :raises ValueError: if x has another shape or dtype than the VAE reads, or values that are not finite.
    """
    batch_size = integer("batch_size", batch_size)
    out = []
    with quiet(vae):
        for batch in _prepared(vae, (x, *given), batch_size):
            with CenterMessenger():
                guide_trace = poutine.trace(vae.guide).get_trace(*batch)
            out.append(_observation(poutine.replay(vae.model, trace=guide_trace), batch, sample))
    return _like(torch.cat(out), x)


def generate(
    vae: VAE, n: int, *given: Array, sample: bool = False, seed: int | None = None, batch_size: int = 4096
) -> np.ndarray:
    """n data from the model: the mean of p(x | z) at draws z ~ p(z), or with ``sample`` draws of x too.

    For categorical data it is the mode in place of the mean, for points of a curved space the centre.

    :param n: number of data.
    :param given: what the model is conditioned on, n rows each.
    :param seed: seed of the draws. Without one they come from the global generator and move it.
    :return: array (n, *vae.shape).
    """
    n, batch_size = integer("n", n), integer("batch_size", batch_size)
    with quiet(vae, seed):
        device, dtype = device_and_dtype(vae)
        blank = torch.zeros((n, *vae.shape), dtype=dtype, device=device)
        batches = _batches(to_tensors(vae, (blank, *given)), batch_size)
        return torch.cat([_observation(vae.model, batch, sample) for batch in batches]).cpu().numpy()


@dataclass(frozen=True)
class LogLikelihood:
    """An importance sampling estimate of log p(x) in nats, and how far it can be trusted.

    :param log_weights: log p(x, z_s) / q(z_s | x), shape (n, num_samples).
    """

    log_weights: np.ndarray

    @cached_property
    def values(self) -> np.ndarray:
        """log (1/S) sum_s w_s for each datum, shape (n,). Its expectation is at most log p(x)."""
        top = self._top
        with np.errstate(divide="ignore"):  # the log of weights that are all zero is -inf
            return top[:, 0] + np.log(np.exp(self.log_weights - top).mean(1))

    @property
    def _top(self) -> np.ndarray:
        """The largest log weight of each datum, 0 where all weights are zero: what is subtracted must be finite."""
        top = self.log_weights.max(1, keepdims=True)
        return np.where(np.isneginf(top), 0.0, top)

    @cached_property
    def _weights(self) -> np.ndarray:
        """The normalised weights; all zero where all weights are."""
        weights = np.exp(self.log_weights - self._top)
        total = weights.sum(1, keepdims=True)
        return weights / np.where(total > 0, total, 1)

    @cached_property
    def error(self) -> np.ndarray:
        """Monte Carlo standard error of each value, by the delta method: sd(w) / (sqrt(S) mean(w)), shape (n,).

        It is NaN for one sample, and infinite for a datum whose weights are all zero.
        """
        n, S = self.log_weights.shape
        if S == 1:
            return np.full(n, np.nan)
        error = np.sqrt(S / (S - 1) * ((self._weights - 1 / S) ** 2).sum(1))
        return np.where(np.isneginf(self.values), np.inf, error)

    @cached_property
    def ess(self) -> np.ndarray:
        """Effective sample size 1 / sum_s w_s^2 of the normalised weights, shape (n,): between 1 and S, 0 where all
        weights are zero."""
        squares = (self._weights**2).sum(1)
        return np.where(squares > 0, 1 / np.where(squares > 0, squares, 1), 0.0)

    @cached_property
    def pareto_k(self) -> np.ndarray:
        """Pareto k-hat of the weights, shape (n,): above 0.7 the guide is too narrow, and the value too low.

        Source: Vehtari et al. (2024), https://www.jmlr.org/papers/v25/19-556.html
        """
        from ppvae.diagnostics import pareto_k

        return pareto_k(self.log_weights)

    @property
    def mean(self) -> float:
        """Mean of the values over the data, nats per datum."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean for the population that the data are a sample of; Monte Carlo error included."""
        return float(self.values.std(ddof=1) / math.sqrt(len(self.values))) if len(self.values) > 1 else math.nan

    def __str__(self) -> str:
        n, S = self.log_weights.shape
        return (
            f"log p(x) = {self.mean:.3f} ± {self.standard_error:.3f} nats per datum ({n} data, {S} samples each; "
            f"median Monte Carlo error {np.median(self.error):.3f}, median ESS {np.median(self.ess):.0f}, "
            f"Pareto k > 0.7 for {(self.pareto_k > 0.7).mean():.1%})"
        )

    __repr__ = __str__


def log_likelihood(
    vae: VAE,
    x: Array,
    *given: Array,
    num_samples: int = 500,
    seed: int | None = None,
    chunk: int | None = None,
    compile: bool = False,
) -> LogLikelihood:
    r"""log p(x) of each datum in nats, by importance sampling with the guide as proposal.

    .. math::
        \log p(x) \approx \log \frac1S \sum_s \frac{p(x, z_s)}{q(z_s \mid x)}, \qquad z_s \sim q(\cdot \mid x)

    The densities of data and latents are complete (no constant is dropped), so values are comparable across latents and
    models with the same likelihood family. Beyond the result, n by S numbers in float64, memory is that of one chunk.

    :param x: data of shape (n, *vae.shape), binarised where the likelihood is binary.
    :param num_samples: S.
    :param seed: seed of the draws. Without one they come from the global generator and move it.
    :param chunk: how many (datum, sample) pairs go through the decoder at once; memory is proportional to it. By
        default as many as make four million numbers of data: more at once leave the caches of a CPU and take longer.
    :param compile: whether the densities of a chunk are compiled first. This takes several seconds and pays for many
        chunks. The draws stay the same. If the densities cannot be compiled, a line says so and they run eagerly.
    :raises ValueError: if x is outside the support of the likelihood, a site is outside the data plate, or the guide
        has no density that covers the prior (rules 2 to 5 of :func:`ppvae.infer.sites.check_pair`).

    Source: Burda, Grosse and Salakhutdinov (2016), https://arxiv.org/abs/1509.00519
    """
    num_samples = integer("num_samples", num_samples)
    check_vae_interface(vae)
    chunk = max(1, min(50_000, 2**22 // math.prod(vae.shape))) if chunk is None else integer("chunk", chunk)
    particles = min(num_samples, chunk)
    log_weights, row = np.empty((len(x), num_samples)), 0
    weigh: dict[int, Callable[..., Tensor]] = {}

    def check(tensors: tuple[Tensor, ...], row: int = 0) -> None:
        traces = check_support(vae, tensors, row, needs="weights")
        if not weigh:
            for K in {particles, num_samples % particles}:
                weigh[K] = partial(_log_weights, vae, K, plate_nesting(*traces))
            if compile:
                build = partial(compile_function, vae, weigh[particles])
                weigh[particles] = Compiled(weigh[particles], build, "the likelihood", log_line)

    with quiet(vae, seed):
        for batch in _prepared(vae, (x, *given), max(1, chunk // particles), check):
            rows = slice(row, row + batch[0].shape[0])
            for start in range(0, num_samples, particles):
                K = min(particles, num_samples - start)
                log_weights[rows, start : start + K] = weigh[K](*batch).cpu().numpy()
            row = rows.stop
    return LogLikelihood(log_weights)


def _log_weights(vae: VAE, K: int, nesting: int, *batch: Tensor) -> Tensor:
    """log p(x, z_k) / q(z_k | x) for K draws, shape (batch, K)."""
    objective = ELBO(K, max_plate_nesting=nesting)
    model_trace, guide_trace = objective.traces(vae.model, vae.guide, *batch)
    return LogWeights(model_trace, guide_trace, objective.max_plate_nesting, K).log_w().mT


def _code_sites(vae: VAE, batch: tuple[Tensor, ...]) -> list[Any]:
    """The sites whose values are the code of a datum: the latents of the guide, or what the model makes of them."""
    guide_trace = poutine.trace(vae.guide).get_trace(*batch)
    name = getattr(vae, "code_site", None)
    if name is None:
        return list(latents(guide_trace))
    return [poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*batch).nodes[name]]


class _Coded(Messenger):
    """Give sites their values: latents, and deterministic sites, which replaying leaves as the model makes them."""

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def _observation(model: Any, batch: tuple[Tensor, ...], sample: bool) -> Tensor:
    if sample:
        return poutine.trace(poutine.uncondition(model)).get_trace(*batch).nodes["x"]["value"]
    law = base_law(poutine.trace(model).get_trace(*batch).nodes["x"]["fn"])
    registered = center.dispatch(type(law)) is not center.dispatch(object)
    if not registered and type(law).mean is not Distribution.mean:
        return law.mean  # of counts or of a part of R^d, whose mean need not lie in the support
    return center(law)


def _codes(vae: VAE, z: Any, data: tuple[Tensor, ...]) -> dict[str, tuple[Tensor, Any]]:
    """The latents by site, checked against the laws of the model, each with its site."""
    model_trace, guide_trace = first_traces(vae, data)
    coded = getattr(vae, "code_site", None)
    sites: dict[str, Any] = {
        str(site["name"]): site for site in ([model_trace.nodes[coded]] if coded else latents(model_trace))
    }
    auxiliary = {site["name"] for site in latents(guide_trace)} - set(sites)  # of the guide alone, as encode has them
    if not isinstance(z, dict):
        if len(sites) > 1:
            raise ValueError(f"z: expected a dict of the latents {', '.join(sites)}, got {type(z).__name__}")
        z = dict.fromkeys(sites, z)
    if set(z) - auxiliary != set(sites):
        raise ValueError(f"z: expected the latents {', '.join(sites)}, got {', '.join(map(str, z))}")
    codes = {}
    for name, site in sites.items():
        # A deterministic site has the law of a point, whose support says nothing of the manifold.
        like, support = data_first(site), None if coded else site["fn"].support
        code = torch.as_tensor(z[name])
        code = code.to(like.device, like.dtype if code.is_floating_point() else code.dtype)
        if code.shape != (data[0].shape[0], *like.shape[1:]):
            event = "".join(f", {size}" for size in like.shape[1:])
            raise ValueError(f"z: expected shape ({data[0].shape[0]}{event}) at site {name}, got {tuple(code.shape)}")
        inside = torch.isfinite(code).reshape(len(code), -1).all(1)
        if support is not None and not is_dependent(support):
            inside = inside & support.check(code)
        if not inside.all():
            row = int((~inside).nonzero()[0, 0])
            raise ValueError(f"z: expected points of {support} at site {name}, got another first in row {row}")
        codes[name] = code, site
    return codes


def _finite(data: tuple[Tensor, ...], row: int = 0) -> None:
    check_finite(data[0], row)


def _prepared(
    vae: VAE, data: tuple[Array, ...], batch_size: int, check: Callable[..., None] = _finite
) -> Iterator[tuple[Tensor, ...]]:
    """Batches as tensors of the VAE, checked: all at once in memory, batch by batch where the arrays are on disk."""
    if not on_disk(data):
        tensors = to_tensors(vae, data)
        check(tensors)
        yield from _batches(tensors, batch_size)
        return
    for start in range(0, len(data[0]), batch_size):
        tensors = to_tensors(vae, read_rows(data, slice(start, start + batch_size)))
        check(tensors, start)
        yield tensors


def _batches(data: tuple[Tensor, ...], batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, data[0].shape[0], batch_size):
        yield tuple(tensor[start : start + batch_size] for tensor in data)


def _like(value: Tensor, x: Array) -> Array:
    value = value.detach()
    return value if isinstance(x, Tensor) else value.cpu().numpy()
