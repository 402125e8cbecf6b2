"""The HTML report: one file that opens anywhere, without a network, without scripts.

::

    from ppvae import report
    report.write("report.html", [report.Run("GaussianVAE", history=fit.history, images=x, reconstructions=x_hat, ...)])

It shows learning curves, reconstructions, samples, latents and a table of log-likelihoods with their errors. It takes
arrays and knows no VAE: :class:`Run` says what belongs to one model.
"""

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ppvae import diagnostics, io, plotting
from ppvae.version import __version__

try:
    import jinja2
except ImportError as error:
    raise ImportError('the report needs jinja2, which is not installed: pip install "ppvae[report]"') from error

__all__ = ["LogLikelihood", "Run", "paired_difference", "write"]


class LogLikelihood(Protocol):
    """What the report reads of a log-likelihood: one entry for each of N test data, in nats where it has a unit.

    :func:`ppvae.log_likelihood` returns such an object.

    >>> from types import SimpleNamespace
    >>> values, zeros = np.array([-24.0, -23.0]), np.zeros(2)
    >>> found: LogLikelihood = SimpleNamespace(
    ...     values=values, error=zeros, ess=zeros + 90, pareto_k=zeros, mean=-23.5, standard_error=0.5
    ... )
    >>> Run("mine", log_likelihood=found).log_likelihood.mean
    -23.5
    """

    @property
    def values(self) -> np.ndarray: ...

    @property
    def error(self) -> np.ndarray: ...

    @property
    def ess(self) -> np.ndarray: ...

    @property
    def pareto_k(self) -> np.ndarray: ...

    @property
    def mean(self) -> float: ...

    @property
    def standard_error(self) -> float: ...


@dataclass
class Run:
    """What the report says of one trained model; what is None is left out, and its place says so.

    :param name: the name shown, different for every run of a report.
    :param history: as :func:`ppvae.fit` returns it, nats per datum.
    :param images: a few test data, shape ``(n, *shape)``.
    :param reconstructions: of ``images``, same shape.
    :param samples: data generated from the prior, shape ``(m, *shape)``.
    :param latents: site to the latent points of test data, each of shape ``(N, *event_shape)``.
    :param manifolds: site to the constraint that its points satisfy (``law.support``).
    :param labels: labels of the N test data whose latents are shown.
    :param log_likelihood: of the test data, from :func:`ppvae.log_likelihood`.
    :param elbo: ELBO of each test datum in nats, shape ``(N,)``.
    :param kl: KL(q(z | x) || p(z)) of each test datum in nats, shape ``(N,)``.
    :param test_data: what the log-likelihood was measured on, in words. Runs with the same words are compared datum
        by datum.
    :param options: what was run, name to value.
    :param chains: draws of a Markov chain in its latent space: what :func:`ppvae.diagnostics.convergence` reads, e.g.
        from :func:`ppvae.posterior` or :func:`ppvae.samplers.riemannian`.

    >>> history = {"epoch": [1, 2], "elbo": [-9.0, -8.0], "reconstruction": [-8.0, -7.0], "kl": [1.0, 1.0]}
    >>> Run("GaussianVAE", history=history, options={"dim": 2}).name
    'GaussianVAE'
    """

    name: str
    history: Mapping[str, Sequence[float]] | None = None
    images: np.ndarray | None = None
    reconstructions: np.ndarray | None = None
    samples: np.ndarray | None = None
    latents: Mapping[str, np.ndarray] = field(default_factory=dict)
    manifolds: Mapping[str, Any] = field(default_factory=dict)
    labels: np.ndarray | None = None
    log_likelihood: LogLikelihood | None = None
    elbo: np.ndarray | None = None
    kl: np.ndarray | None = None
    test_data: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    chains: Any = None


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    r"""Mean and standard error of ``second - first`` over the same data.

    .. math::
        \bar d = \frac{1}{N} \sum_n d_n, \qquad \mathrm{se} = \sqrt{\frac{1}{N (N - 1)} \sum_n (d_n - \bar d)^2}

    What is hard for one model is hard for the other, so this error is smaller than that of two means apart.

    :param first: values of the one model, shape ``(N,)`` with N >= 2.
    :param second: values of the other for the same data in the same order.
    :raises ValueError: if the shapes differ or N < 2.

    >>> mean, error = paired_difference([-3.0, -1.0, -2.0], [-2.0, -1.0, -1.5])
    >>> f"{mean:.2f} ± {error:.2f}"
    '0.50 ± 0.29'
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(f"expected two arrays of one shape (N,), N >= 2, got {first.shape} and {second.shape}")
    difference = second - first
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def write(path: str | os.PathLike[str], runs: Sequence[Run], title: str = "", command: str = "") -> Path:
    """Write the report of ``runs`` to the file ``path``.

    :param path: the HTML file; its folder is made, and an older file of this name is replaced in one step.
    :param runs: one or more models, compared where they were measured on the same test data.
    :param title: heading; by default the names of the models.
    :param command: how to make the runs again, shown as it is.
    :raises ValueError: if there is no run or two have one name.

    >>> history = {"epoch": [1, 2], "elbo": [-9.0, -8.0], "reconstruction": [-8.0, -7.0], "kl": [1.0, 1.0]}
    >>> write("report.html", [Run("GaussianVAE", history=history)]).name
    'report.html'
    """
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise ValueError(f"expected at least one run, each with a name of its own, got the names {names}")
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = template.from_string(files("ppvae").joinpath("report.html").read_text(encoding="utf-8")).render(
        title=title or ", ".join(names),
        rows=[_row(run) for run in runs],
        notes=_notes(runs),
        differences=_differences(runs),
        estimates=_estimates(runs),
        curves=_curves(runs),
        reconstructions=_reconstructions(runs),
        samples=[
            (run.name, _img(plotting.image_grid(run.samples), f"{len(run.samples)} samples of {run.name}"))
            for run in runs
            if run.samples is not None
        ],
        latents=[
            (run.name if len(run.latents) == 1 else f"{run.name}, site {site}", len(points), _latent(run, site))
            for run in runs
            for site, points in run.latents.items()
        ],
        sampling=[_sampling(run) for run in runs if run.chains is not None],
        coloured=any(run.labels is not None for run in runs),
        options=_options(runs),
        names=names,
        command=command,
        version=__version__,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a temporary file: a reader never meets half a report.
    io.write(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
    return path


def _row(run: Run) -> dict[str, str]:
    """The cells of one model in the table, as text."""
    ll = run.log_likelihood
    return {
        "name": run.name,
        "ll": "not evaluated" if ll is None else plus_minus(ll.mean, ll.standard_error),
        "elbo": "–" if run.elbo is None else plus_minus(*_mean(run.elbo)),
        "kl": "–" if run.kl is None else plus_minus(*_mean(run.kl)),
        "ess": "–" if ll is None else f"{np.median(ll.ess):.0f}",
        "k": "–" if ll is None else f"{np.mean(np.asarray(ll.pareto_k) > 0.7):.1%}",
    }


def _mean(values: np.ndarray) -> tuple[float, float]:
    values = np.asarray(values, float)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def plus_minus(value: float, error: float) -> str:
    """``-146.71 ± 0.94``: the error to two digits, the value to as many decimals."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.2f}".replace("-", "−")
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def _notes(runs: Sequence[Run]) -> list[str]:
    """On which data, and how large the Monte Carlo error is: once if all runs agree."""
    notes = {}
    for run in runs:
        if run.log_likelihood is not None:
            error = np.asarray(run.log_likelihood.error, float)
            monte_carlo = math.sqrt(float(np.square(error).sum())) / len(error)
            notes[run.name] = (run.test_data or f"{len(error)} data", monte_carlo)
    if not notes:
        return []
    errors = ", ".join(f"{name} {error:.2g}" for name, (_, error) in notes.items())
    data = {words for words, _ in notes.values()}
    measured = data.pop() if len(data) == 1 else "; ".join(f"{name}: {words}" for name, (words, _) in notes.items())
    return [f"Measured on: {measured}.", f"Monte Carlo standard error of the mean log-likelihood (nats): {errors}."]


def _differences(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Paired differences to the first run, or why there is none."""
    measured = [(run, run.log_likelihood) for run in runs if run.log_likelihood is not None]
    lines = []
    for run, ll in measured[1:]:
        base, base_ll = measured[0]
        if run.test_data != base.test_data or len(ll.values) != len(base_ll.values):
            lines.append((f"{run.name} − {base.name}", "", "not measured on the same test data, so not compared"))
            continue
        mean, error = paired_difference(base_ll.values, ll.values)
        better, errors = run.name if mean > 0 else base.name, abs(mean) / error if error > 0 else math.inf
        words = f"{better} gives the test data a higher likelihood, by {errors:.1f} standard errors"
        if errors < 2:
            words = f"no clear difference: {errors:.1f} standard errors from 0"
        lines.append((f"{run.name} − {base.name}", ("+" if mean > 0 else "") + plus_minus(mean, error), words))
    return lines


def _estimates(runs: Sequence[Run]) -> str:
    measured = {run.name: run.log_likelihood for run in runs if run.log_likelihood is not None}
    if len(measured) < 2:
        return ""
    means = {name: ll.mean for name, ll in measured.items()}
    errors = {name: ll.standard_error for name, ll in measured.items()}
    values = {run.name: means.get(run.name) for run in runs}  # all of them, so that colours are those of the curves
    figure = plotting.plot_estimates(values, errors, "log-likelihood (nats per datum)")
    words = "; ".join(f"{name} {plus_minus(means[name], errors[name])}" for name in means)
    return _img(figure, f"Log-likelihood with bars of two standard errors: {words}")


def _curves(runs: Sequence[Run]) -> str:
    histories = {run.name: run.history for run in runs if run.history is not None}
    if not histories:
        return ""
    last = "; ".join(
        f"{name} ends at ELBO {history['elbo'][-1]:.1f}, reconstruction {history['reconstruction'][-1]:.1f}, "
        f"KL {history['kl'][-1]:.1f}"
        for name, history in histories.items()
    )
    return _img(plotting.learning_curves(histories), f"ELBO, reconstruction and KL by epoch, training data: {last}")


def _reconstructions(runs: Sequence[Run]) -> list[str]:
    """One picture for all runs that show the same images, one above the other."""
    groups: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    for run in runs:
        if run.images is None or run.reconstructions is None:
            continue
        for images, rows in groups:
            if np.array_equal(images, run.images):
                rows[run.name] = run.reconstructions
                break
        else:
            groups.append((run.images, {"test data": run.images, run.name: run.reconstructions}))
    return [
        _img(plotting.image_rows(rows), f"First row: {len(images)} test data. Below: {' and '.join(list(rows)[1:])}")
        for images, rows in groups
    ]


def _latent(run: Run, site: str) -> str:
    points, manifold = run.latents[site], run.manifolds.get(site)
    classes = "" if run.labels is None else " by class"
    return _img(
        plotting.plot_latent(points, run.labels, manifold),
        f"The posterior centres of {len(points)} test data in the latent space of {run.name}{classes}",
    )


def _sampling(run: Run) -> dict[str, Any]:
    """The words, the worst coordinates and the pictures of a run's chains."""
    found = diagnostics.convergence(run.chains)
    worst = np.argsort(-np.nan_to_num(found.r_hat), kind="stable")[:8]
    data = diagnostics.worst_coordinates(run.chains)
    pictures = [
        _img(plotting.plot_trace(data), f"Densities and traces of the chains of {run.name}"),
        _img(plotting.plot_rank(data), f"Ranks of the draws of each chain of {run.name} among all"),
    ]
    if "energy" in getattr(data, "sample_stats", ()):
        pictures.append(_img(plotting.plot_energy(data), f"Energy of {run.name}, and its change from draw to draw"))
    return {
        "name": run.name,
        "words": str(run.chains) if hasattr(run.chains, "convergence") else str(found),
        "mixed": found.mixed,
        "rows": [
            (
                found.names[i],
                plus_minus(float(found.mean[i]), float(found.error[i])),
                f"{found.sd[i]:.3g}",
                "–" if np.isnan(found.ess[i]) else f"{found.ess[i]:.0f}",
                "–" if np.isnan(found.r_hat[i]) else f"{found.r_hat[i]:.3f}",
            )
            for i in worst
        ],
        "of": len(found.names),
        "shown": min(found.chains, 8),
        "pictures": pictures,
    }


def _options(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Rows of the table of options: name, then its value in every run."""
    every = dict.fromkeys(name for run in runs for name in run.options)
    return [(name, [str(run.options.get(name, "–")) for run in runs]) for name in every]


def _img(figure: Any, alt: str) -> Any:
    """An ``img`` element with the picture inside; half its pixels wide, so that it is sharp on fine screens."""
    width = round(float(figure.get_figwidth()) * 96)
    data = base64.b64encode(plotting.png(figure, dpi=192)).decode()
    markup = f'<img src="data:image/png;base64,{data}" width="{width}" alt="{html.escape(alt, quote=True)}">'
    return jinja2.utils.markupsafe.Markup(markup)
