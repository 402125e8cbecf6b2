"""Diagnostics of importance weights and of Markov chains, by ArviZ 0.x or 1.x, which is imported when it is needed."""

import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppvae.checks import count, real

#: With at least so many chains, the error of a mean is taken from the scatter of the chains' means.
_MANY_CHAINS = 16


def pareto_k(log_weights: ArrayLike) -> NDArray:
    """Pareto k-hat of importance weights, one for each row of ``log_weights`` (n, S), shape (n,).

    Below 0.5 the weights have a finite variance; above 0.7 an importance sampling estimate is not to be trusted. k-hat
    is the exponent of a generalised Pareto law fitted to the M = min(S/5, 3 sqrt S) largest weights.

    It is infinite for S < 25, and if fewer than five weights are positive; so it is if all are 0. It is NaN if the M
    largest weights are equal: such a tail has no exponent, and nothing speaks against the weights.

    :param log_weights: logarithms of the weights, shape (n, S); -inf for a weight of 0.
    :raises ValueError: if one is NaN or +inf, or the shape is another.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), https://www.jmlr.org/papers/v25/19-556.html

    >>> u = (np.arange(1000) + 0.5) / 1000
    >>> pareto_k([-0.2 * np.log(u), -0.9 * np.log(u), np.full(1000, -np.inf)]).round(1)
    array([0.2, 0.8, inf])
    """
    ordered = real("log_weights", log_weights).astype(np.float64)
    if ordered.ndim != 2 or not ordered.shape[1]:
        raise ValueError(f"log_weights: expected shape (n, S), got {ordered.shape}; of one row take log_weights[None]")
    wrong = np.isnan(ordered) | (ordered == np.inf)
    if wrong.any():
        raise ValueError(
            f"log_weights: expected numbers or -inf, got {wrong.sum()} NaN or +inf, first in row "
            f"{wrong.any(1).argmax()}; a density of the model or of the guide is not finite there, leave such rows out"
        )
    ordered.sort(1)
    n, S = ordered.shape
    if S < 25:
        return np.full(n, np.inf)
    M = math.ceil(min(S / 5, 3 * math.sqrt(S)))
    k = np.where(np.isneginf(ordered[:, -1]), np.inf, np.nan)
    rows = np.flatnonzero(np.isfinite(ordered[:, -1]))
    # Both lines of ArviZ want numbers; beside the largest weight one this small is 0.
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
        warnings.simplefilter("ignore")  # ArviZ warns of its own future when it is imported
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            import arviz

            return np.asarray(arviz.psislw(log_weights)[1])
        return np.asarray(array_stats.psislw(-log_weights)[1])  # 1.x takes log likelihoods for LOO, and negates them


def to_inference_data(
    chains: Any,
    *,
    sample_stats: Mapping[str, Any] | None = None,
    max_chains: int | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
    **groups: Mapping[str, Any],
) -> Any:
    r"""The draws of a sampler in the form of ArviZ, with the dimensions chain and draw.

    Statistics of the sampler are kept beside the draws. Of :class:`ppvae.infer.BatchedHMC` these are
    ``acceptance_rate``, ``step_size``, ``energy``, ``lp`` and ``diverging`` of each chain and draw. Pyro's HMC and NUTS
    keep less: ``diverging``, the step size if there is one chain, and the acceptance rate of each chain, which becomes
    an attribute of the group.

    :param chains: a ``pyro.infer.MCMC`` that has run, :class:`ppvae.samplers.Samples` that came from one, the result of
        :func:`ppvae.posterior`, or a dict of arrays (chains, draws, \*event).
    :param sample_stats: further statistics of shape (chains, draws); they replace those of the sampler by name.
    :param max_chains: how many chains to keep, evenly spaced, because pictures of hundreds are slow. By default all.
    :param coords: names of the values of dimensions, as in ArviZ.
    :param dims: names of the dimensions of each variable beyond chain and draw, as in ArviZ.
    :param groups: further groups of ArviZ's schema, e.g. ``log_likelihood={"x": array}``.
    :return: ``arviz.InferenceData``, or an ``xarray.DataTree`` of ArviZ 1.x.
    :raises ValueError: if there are no chains, or arrays differ in their numbers of chains and draws, have a mask, or
        are complex.

    >>> data = to_inference_data({"z": np.zeros((4, 100, 2))}, max_chains=2)
    >>> data.posterior["z"].dims, data.posterior["z"].shape
    (('chain', 'draw', 'z_dim_0'), (2, 100, 2))
    """
    chains = getattr(chains, "inference_data", chains)
    if hasattr(chains, "posterior") and not groups and sample_stats is None and max_chains is None:
        return chains
    draws, stats, attributes = _read(chains)
    if sample_stats is not None:
        stats = stats | {name: real(f"sample_stats[{name!r}]", value) for name, value in sample_stats.items()}
    C = _check_shapes(draws | stats)
    kept = np.linspace(0, C - 1, C if max_chains is None else min(C, count("max_chains", max_chains)))
    kept = kept.round().astype(int)
    every: dict[str, Any] = {"posterior": {name: value[kept] for name, value in draws.items()}}
    if stats:
        every["sample_stats"] = {name: value[kept] for name, value in stats.items()}
    per_draw = {"log_likelihood", "posterior_predictive", "log_prior", "warmup_posterior", "warmup_sample_stats"}
    for group, arrays in groups.items():
        values = {name: real(f"{group}[{name!r}]", value) for name, value in arrays.items()}
        if group in per_draw and {value.shape[:1] for value in values.values()} - {(C,)}:
            shapes = {name: value.shape for name, value in values.items()}
            raise ValueError(f"{group}: expected arrays of the {C} chains, (chains, draws, ...), got {shapes}")
        every[group] = {name: value[kept] for name, value in values.items()} if group in per_draw else values
    given: dict[str, Any] = {"coords": {"chain": kept} | dict(coords or {}), "dims": dict(dims or {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ warns of its own future, and of more chains than draws
        import arviz

        if int(arviz.__version__.split(".")[0]) >= 1:
            data = arviz.from_dict(every, **given)
        else:
            data = arviz.from_dict(**every, **given)
    if stats:
        data["sample_stats"].attrs.update(attributes)
    return data


def _check_shapes(arrays: Mapping[str, NDArray]) -> int:
    """The number of chains of arrays (chains, draws, ...)."""
    shapes = {name: value.shape for name, value in arrays.items()}
    if len({shape[:2] for shape in shapes.values()}) != 1 or any(len(s) < 2 or 0 in s[:2] for s in shapes.values()):
        raise ValueError(
            "chains: expected arrays (chains, draws, ...) of one number of chains and draws, got "
            f"{shapes or 'none'}; of a single chain take draws[None]"
        )
    return next(iter(shapes.values()))[0]


def _read(chains: Any) -> tuple[dict[str, NDArray], dict[str, NDArray], dict[str, Any]]:
    """Draws and statistics (chains, draws, ...) by name, and attributes."""
    chains = getattr(chains, "inference_data", chains)
    if hasattr(chains, "posterior"):  # ArviZ's own
        own, kept = chains.posterior, getattr(chains, "sample_stats", None)
        stats = {} if kept is None else {str(name): kept[name].values for name in kept.data_vars}
        return {str(name): own[name].values for name in own.data_vars}, stats, {} if kept is None else dict(kept.attrs)
    if isinstance(chains, Mapping):
        return {name: real(f"chains[{name!r}]", value) for name, value in chains.items()}, {}, {}
    if hasattr(chains, "chains"):  # samples
        if chains.chains is None:
            raise ValueError(
                "chains: expected the draws of a Markov chain, got independent draws, which need no diagnosis; "
                "use them as they are"
            )
        return _read(chains.chains)
    if not hasattr(chains, "get_samples"):
        raise ValueError(
            "chains: expected a pyro.infer.MCMC, Samples of a Markov chain, or a dict of arrays (chains, draws, ...), "
            f"got {type(chains).__name__}; of an array z take {{'z': z}}"
        )
    draws = {name: real(name, value) for name, value in chains.get_samples(group_by_chain=True).items()}
    C, S = next(iter(draws.values())).shape[:2]
    kept = getattr(chains.kernel, "sample_stats", None)
    if kept:
        stats = {name: real(name, value) for name, value in kept.items()}
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


@dataclass(frozen=True)
class Convergence:
    r"""Whether several chains have mixed, by their draws: the result of :func:`convergence`.

    Arrays have one entry for each coordinate of the variables, in the order of ``names``.

    :param mean: mean of all draws.
    :param sd: their standard deviation.
    :param error: Monte Carlo standard error of the mean. With 16 chains or more it is the standard deviation of the
        chains' means over the root of the number of chains, which assumes nothing about what goes on within a chain.
        With fewer it is ArviZ's.
    :param ess: effective sample size, (sd / error)^2. ArviZ's own can be too large for many short chains whose draws
        alternate.
    :param r_hat: rank-normalised split R-hat [1]; the halves of a single chain count as two. NaN with fewer than 4
        draws. It asks whether each chain alone is long enough. Chains of a few dozen draws exceed 1.01, though the mean
        of hundreds of them can be as good as its error says.
    :param moved: root mean square distance of draws half a chain apart, over that of independent draws: 1 for a chain
        that forgets where it began, 0 for one that stands still.
    :param stuck: for each chain, whether all its draws are equal.
    :param draws: number of draws of each chain.
    :param divergences: for each chain, how many of its transitions diverged; None if the sampler does not say.
    :param acceptance: for each chain, its mean acceptance; None if the sampler does not say.

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
        """What speaks against the draws, in words; an empty list if nothing does."""
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
                f"R-hat is above 1.01 at {high.sum()} of {len(self.names)} coordinates, {self.r_hat[worst]:.3f} at "
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
        """Whether nothing speaks against mixing. Chains that all missed one mode look as if they had mixed."""
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

    :param chains: an argument or a result of :func:`to_inference_data`.
    :raises ValueError: as of :func:`to_inference_data`.

    >>> z = np.random.default_rng(0).normal(size=(4, 1000, 1))
    >>> found = convergence({"z": z})
    >>> found.mixed, f"{found.r_hat[0]:.2f}", bool(found.ess[0] > 3000)
    (True, '1.00', True)
    >>> z[0] += 1
    >>> convergence({"z": z}).problems
    ['R-hat is above 1.01 at 1 of 1 coordinates, 1.093 at z[0]']
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
    """The n coordinates with the largest R-hat, as scalar variables of a few chains to look at.

    Plot them with :func:`ppvae.plotting.plot_trace`.

    :param chains: an argument or a result of :func:`to_inference_data`.
    :param n: how many coordinates.
    :param max_chains: how many chains to keep, evenly spaced.
    :return: as of :func:`to_inference_data`.

    >>> z = np.random.default_rng(0).normal(size=(4, 100, 3))
    >>> z[0, :, 1] += 1
    >>> list(worst_coordinates({"z": z}, n=1).posterior.data_vars)
    ['z[1]']
    """
    count("n", n)
    draws, stats, _ = _read(chains)
    names, z = _coordinates(draws)
    order = np.argsort(-np.nan_to_num(convergence(chains).r_hat), kind="stable")[:n]
    return to_inference_data(
        {names[i]: z[..., i] for i in sorted(order)}, sample_stats=stats or None, max_chains=max_chains
    )


def _coordinates(draws: Mapping[str, NDArray]) -> tuple[list[str], NDArray]:
    """Names of all coordinates of the variables, and their draws (chains, draws, n)."""
    _check_shapes(draws)
    names = [
        name + (f"[{','.join(map(str, index))}]" if index else "")
        for name, value in draws.items()
        for index in product(*map(range, value.shape[2:]))
    ]
    return names, np.concatenate([v.reshape(*v.shape[:2], -1) for v in draws.values()], -1).astype(float)


def _attribute(attributes: Mapping[str, Any], name: str) -> NDArray | None:
    return np.atleast_1d(np.asarray(attributes[name], float)) if name in attributes else None


def _arviz(name: str, z: NDArray, **options: Any) -> NDArray:
    """``rhat`` or ``ess`` of ArviZ for each coordinate of z, (chains, draws, n)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ warns of its own future, and of more chains than draws
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            import arviz

            data = arviz.convert_to_dataset({"z": z})
            return np.asarray(getattr(arviz, name)(data, **options)["z"])
        return np.asarray(getattr(array_stats, name)(z, chain_axis=0, draw_axis=1, **options))
