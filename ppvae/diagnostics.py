"""Diagnostics by ArviZ, imported when they are asked for; both of its lines (0.x and 1.x) are served."""

import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: From as many chains on, the error of a mean is taken from the scatter of the chains' means.
_MANY_CHAINS = 16


def pareto_k(log_weights: NDArray) -> NDArray:
    """Pareto k-hat of importance weights, one for each row of ``log_weights`` (n, S).

    Below 0.5 the weights have a finite variance, above 0.7 an importance sampling estimate is not to be trusted. It is
    fitted to the M = min(S/5, 3 sqrt S) largest weights. It is infinite where fewer than five of them are there to fit,
    as for S < 25 or where all others are 0 beside them, and NaN where they are all equal or one is infinite or NaN.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), https://www.jmlr.org/papers/v25/19-556.html
    """
    ordered = np.sort(np.asarray(log_weights, float), axis=1)
    n, S = ordered.shape
    if S < 25:
        return np.full(n, np.inf)
    M = math.ceil(min(S / 5, 3 * math.sqrt(S)))
    k = np.full(n, np.nan)
    rows = np.flatnonzero(np.isfinite(ordered[:, -1]))  # NaN is sorted to the end
    # A weight of 0 stays 0, and both lines of ArviZ get numbers.
    ordered = np.maximum(ordered[rows] - ordered[rows, -1:], 2 * math.log(sys.float_info.min))
    few = ordered[:, -5] < math.log(sys.float_info.min)
    k[rows[few]] = np.inf
    rows, ordered = rows[~few], ordered[~few]
    differ = ordered[:, -M] < ordered[:, -1]
    if differ.any():
        k[rows[differ]] = _fit(ordered[differ])
    return k


def _fit(log_weights: NDArray) -> NDArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ about itself, when it is imported
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            import arviz

            return np.asarray(arviz.psislw(log_weights)[1])
        return np.asarray(array_stats.psislw(-log_weights)[1])  # 1.x takes the negative, as of log likelihoods for LOO


def to_inference_data(
    chains: Any,
    *,
    sample_stats: Mapping[str, Any] | None = None,
    max_chains: int | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
    **groups: Mapping[str, Any],
) -> Any:
    """The draws of a sampler as ArviZ keeps them, with the dimensions chain and draw.

    Beside the draws there is what the sampler tells of them: of :class:`ppvae.infer.BatchedHMC` ``acceptance_rate``,
    ``step_size``, ``energy``, ``lp`` and ``diverging`` of each chain and draw; Pyro's HMC and NUTS keep no more than
    ``diverging``, the step size of a run of one chain, and the acceptance rate of a run, which is an attribute of the
    group.

    :param chains: a ``pyro.infer.MCMC`` that has run, :class:`ppvae.samplers.Samples` that came from one, the result of
        :func:`ppvae.posterior`, or a dict of arrays (chains, draws, \\*event).
    :param sample_stats: statistics of shape (chains, draws) beside or in place of those of the sampler.
    :param max_chains: how many chains to keep, evenly spaced; all where None. Pictures of hundreds are slow.
    :param coords: names of the values of dimensions, as in ArviZ.
    :param dims: names of the dimensions of each variable beyond chain and draw, as in ArviZ.
    :param groups: further groups of ArviZ's schema, e.g. ``log_likelihood={"x": array}``.
    :return: ``arviz.InferenceData``, of ArviZ 1.x an ``xarray.DataTree``.
    :raises ValueError: if there are no chains, or arrays do not agree in their numbers of chains and draws.

    >>> draws = np.random.default_rng(0).normal(size=(4, 100, 2))  # of four chains in the plane
    >>> dict(to_inference_data({"z": draws}).posterior["z"].sizes)
    {'chain': 4, 'draw': 100, 'z_dim_0': 2}
    """
    chains = getattr(chains, "inference_data", chains)
    if hasattr(chains, "posterior") and not groups and sample_stats is None and max_chains is None:
        return chains
    draws, stats, attributes = _read(chains)
    if sample_stats is not None:
        stats = stats | {name: _array(value) for name, value in sample_stats.items()}
    shapes = {name: value.shape[:2] for name, value in (draws | stats).items()}
    if not draws or len(set(shapes.values())) > 1:
        raise ValueError(
            f"chains: expected arrays of one number of chains and draws, (chains, draws, ...), got {shapes}"
        )
    C = next(iter(draws.values())).shape[0]
    kept = np.linspace(0, C - 1, min(C, max_chains or C)).round().astype(int)
    every: dict[str, Any] = {"posterior": {name: value[kept] for name, value in draws.items()}}
    if stats:
        every["sample_stats"] = {name: value[kept] for name, value in stats.items()}
    per_draw = {"log_likelihood", "posterior_predictive", "log_prior", "warmup_posterior", "warmup_sample_stats"}
    for group, arrays in groups.items():
        every[group] = {name: _array(a)[kept] if group in per_draw else _array(a) for name, a in arrays.items()}
    given: dict[str, Any] = {"coords": {"chain": kept} | dict(coords or {}), "dims": dict(dims or {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ about itself, and of more chains than draws
        import arviz

        if int(arviz.__version__.split(".")[0]) >= 1:
            data = arviz.from_dict(every, **given)
        else:
            data = arviz.from_dict(**every, **given)
    if stats:
        data["sample_stats"].attrs.update(attributes)
    return data


def _read(chains: Any) -> tuple[dict[str, NDArray], dict[str, NDArray], dict[str, Any]]:
    """Draws and statistics (chains, draws, ...) by name, and attributes."""
    chains = getattr(chains, "inference_data", chains)
    if hasattr(chains, "posterior"):  # ArviZ's own
        own, kept = chains.posterior, getattr(chains, "sample_stats", None)
        stats = {} if kept is None else {str(name): kept[name].values for name in kept.data_vars}
        return {str(name): own[name].values for name in own.data_vars}, stats, {} if kept is None else dict(kept.attrs)
    if isinstance(chains, Mapping):
        return {name: _array(value) for name, value in chains.items()}, {}, {}
    if hasattr(chains, "chains"):  # samples
        if chains.chains is None:
            raise ValueError(
                "chains: expected the draws of a Markov chain, got independent draws, which need no diagnosis"
            )
        return _read(chains.chains)
    if not hasattr(chains, "get_samples"):
        raise ValueError(
            "chains: expected a pyro.infer.MCMC, Samples of a Markov chain, or a dict of arrays (chains, draws, ...), "
            f"got {type(chains).__name__}"
        )
    draws = {name: _array(value) for name, value in chains.get_samples(group_by_chain=True).items()}
    C, S = next(iter(draws.values())).shape[:2]
    kept = getattr(chains.kernel, "sample_stats", None)
    if kept:
        stats = {name: _array(value) for name, value in kept.items()}
        if next(iter(stats.values())).shape != (C, S):  # Pyro's own MCMC took the chains for a dimension of the draws
            if C > 1:
                raise ValueError(
                    "chains: expected num_chains=1 of a kernel whose parameters have the chains as a dimension, "
                    f"got {C}; use ppvae.infer.BatchedMCMC"
                )
            draws = {name: value[0].swapaxes(0, 1) for name, value in draws.items()}
        return draws, stats, {}
    found = chains.diagnostics()
    stats, attributes = {}, {}
    if "divergences" in found:
        stats["diverging"] = np.zeros((C, S), bool)
        for i in range(C):  # by number: sorted as words, chain 10 comes before chain 2
            stats["diverging"][i, found["divergences"][f"chain {i}"]] = True
    step_size = getattr(chains.kernel, "step_size", None)
    if C == 1 and isinstance(step_size, float):  # of several chains the kernel has the last one's
        stats["step_size"] = np.full((C, S), step_size)
    if "acceptance rate" in found:
        attributes["acceptance_rate"] = [float(found["acceptance rate"][f"chain {i}"]) for i in range(C)]
    return draws, stats, attributes


def _array(value: Any) -> NDArray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


@dataclass(frozen=True)
class Convergence:
    r"""What the draws of several chains say about whether these have mixed: the result of :func:`convergence`.

    One entry for each coordinate of the variables, named in ``names``.

    :param mean: mean of all draws.
    :param sd: their standard deviation.
    :param error: Monte Carlo standard error of the mean. With 16 chains or more it is the standard deviation of the
        chains' means, over the root of the number of chains, which assumes nothing about what goes on within a chain;
        with fewer it is ArviZ's.
    :param ess: effective sample size, (sd / error)^2. ArviZ's own can be too large for many short chains whose
        draws alternate.
    :param r_hat: rank-normalised split R-hat [1]; a single chain is taken for two. NaN with fewer than 4 draws.
        It asks whether each chain by itself is long enough: chains of a few dozen draws exceed 1.01, and yet the mean
        of hundreds of them can be as good as its error says.
    :param moved: root mean square distance of draws half a chain apart, in units of that of independent draws: 1 where
        the chain forgets its beginning, 0 where it stands.
    :param stuck: for each chain, whether all its draws are equal.
    :param divergences: for each chain, how many of its transitions diverged; None where the sampler does not say.
    :param acceptance: for each chain, its mean acceptance; None where the sampler does not say.

    Source: [1] Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), https://doi.org/10.1214/20-BA1221
    """

    names: list[str]
    mean: NDArray
    sd: NDArray
    error: NDArray
    ess: NDArray
    r_hat: NDArray
    moved: float
    stuck: NDArray
    draws: int
    divergences: NDArray | None = None
    acceptance: NDArray | None = None

    @property
    def chains(self) -> int:
        """Number of chains."""
        return len(self.stuck)

    @cached_property
    def problems(self) -> list[str]:
        """What speaks against the draws, in words; empty where nothing does."""
        found = []
        if not np.isfinite(self.mean).all():
            return [
                f"{(~np.isfinite(self.mean)).sum()} of {len(self.names)} coordinates have draws that are not finite"
            ]
        if self.draws < 4:
            found.append(f"R-hat needs 4 draws of each chain, there are {self.draws}")
        high = self.r_hat > 1.01
        if high.any():
            worst = int(np.nanargmax(self.r_hat))
            found.append(
                f"R-hat is above 1.01 at {high.sum()} of {len(self.names)} coordinates, {self.r_hat[worst]:.3g} at "
                f"{self.names[worst]}"
            )
        if self.moved < 0.7:
            found.append(
                f"half a run moves a chain {self.moved:.2g} times as far as independent draws are apart, so that the "
                "draws still depend on where the chains began"
            )
        if self.stuck.any():
            found.append(f"{self.stuck.sum()} of {self.chains} chains never moved")
        if self.divergences is not None and self.divergences.any():
            total = int(self.divergences.sum())
            found.append(
                f"{total} of {self.chains * self.draws} transitions diverged, in {(self.divergences > 0).sum()} of "
                f"{self.chains} chains: where the energy changes fast the draws are too few; take a smaller step"
            )
        return found

    @property
    def mixed(self) -> bool:
        """Whether nothing speaks against it; chains that all missed the same mode look as if they had mixed."""
        return not self.problems

    def __str__(self) -> str:
        numbers = [
            f"{_count(self.chains, 'chain')} of {_count(self.draws, 'draw')}, {_count(len(self.names), 'coordinate')}"
        ]
        if np.isfinite(self.r_hat).any():
            numbers.append(f"R-hat at most {np.nanmax(self.r_hat):.3f}")
        if np.isfinite(self.ess).any():
            numbers.append(f"at least {np.nanmin(self.ess):.0f} effective draws")
        if self.acceptance is not None:
            numbers.append(f"acceptance {self.acceptance.mean():.2f}")
        if self.divergences is not None:
            numbers.append(f"{_count(int(self.divergences.sum()), 'divergence')}")
        verdict = "No sign that the chains have not mixed." if self.mixed else f"Not mixed: {'; '.join(self.problems)}."
        return f"{'; '.join(numbers)}. {verdict}"

    __repr__ = __str__


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def convergence(chains: Any) -> Convergence:
    """Whether chains have mixed: R-hat, effective draws, errors of the means, distance moved, divergences.

    ::

        print(ppvae.diagnostics.convergence(mcmc))

    :param chains: what :func:`to_inference_data` takes, or what it returns.
    """
    draws, stats, attributes = _read(chains)
    names, z = _coordinates(draws)
    C, S, _ = z.shape
    mean, sd = z.mean((0, 1)), z.std((0, 1), ddof=1) if C * S > 1 else np.full(z.shape[2], np.nan)
    r_hat = np.full(z.shape[2], np.nan)
    error = np.full(z.shape[2], np.nan)
    varies = np.isfinite(mean) & (sd > 0)
    if S >= 4 and varies.any():
        halves = z if C > 1 else z[:, : S // 2 * 2].reshape(2, S // 2, -1)
        r_hat[varies] = _arviz("rhat", halves[..., varies])
    if C >= _MANY_CHAINS:
        error = z.mean(1).std(0, ddof=1) / math.sqrt(C)
    elif S >= 4 and varies.any():
        error[varies] = sd[varies] / np.sqrt(_arviz("ess", z[..., varies], method="mean"))
    half = S // 2
    apart = ((z[:, half:] - z[:, : S - half])[..., varies] / sd[varies]) ** 2 / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ess = np.where(varies, (sd / error) ** 2, np.nan)
    acceptance = stats.get("acceptance_rate")
    return Convergence(
        names,
        mean,
        sd,
        error,
        ess,
        r_hat,
        moved=float(np.sqrt(apart.mean())) if half and varies.any() else math.nan,
        stuck=(z == z[:, :1]).all((1, 2)) & (S > 1),
        draws=S,
        divergences=stats["diverging"].sum(1) if "diverging" in stats else None,
        acceptance=acceptance.mean(1) if acceptance is not None else _attribute(attributes, "acceptance_rate"),
    )


def worst_coordinates(chains: Any, n: int = 3, max_chains: int = 8) -> Any:
    """The n coordinates with the largest R-hat as scalar variables of few chains, to be looked at.

    ::

        data = ppvae.diagnostics.worst_coordinates(mcmc)
        ppvae.plotting.plot_trace(data)

    :param chains: what :func:`to_inference_data` takes, or what it returns.
    :param max_chains: how many chains to keep, evenly spaced.
    :return: as of :func:`to_inference_data`.
    """
    draws, stats, _ = _read(chains)
    names, z = _coordinates(draws)
    order = np.argsort(-np.nan_to_num(convergence(chains).r_hat), kind="stable")[:n]
    return to_inference_data(
        {names[i]: z[..., i] for i in sorted(order)}, sample_stats=stats or None, max_chains=max_chains
    )


def _coordinates(draws: Mapping[str, NDArray]) -> tuple[list[str], NDArray]:
    """Names of all coordinates of the variables, and their draws (chains, draws, n)."""
    names = [
        name + (f"[{','.join(map(str, index))}]" if index else "")
        for name, value in draws.items()
        for index in product(*map(range, value.shape[2:]))
    ]
    return names, np.concatenate([v.reshape(*v.shape[:2], -1) for v in draws.values()], -1).astype(float)


def _attribute(attributes: Mapping[str, Any], name: str) -> NDArray | None:
    return np.atleast_1d(np.asarray(attributes[name], float)) if name in attributes else None


def _arviz(name: str, z: NDArray, **options: Any) -> NDArray:
    """``rhat`` or ``ess`` of ArviZ for each of the last dimension of z, (chains, draws, n)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ about itself, and of more chains than draws
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            import arviz

            data = arviz.convert_to_dataset({"z": z})
            return np.asarray(getattr(arviz, name)(data, **options)["z"])
        return np.asarray(getattr(array_stats, name)(z, chain_axis=0, draw_axis=1, **options))
