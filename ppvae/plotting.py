"""Plots: arrays in, matplotlib figures out.

Every function returns a :class:`matplotlib.figure.Figure` that belongs to no window and to no global state: nothing is
shown, no file is written and no setting of matplotlib changes. :func:`png` turns a figure into bytes, and a notebook
shows it as it is.

:func:`plot_latent` chooses the picture by the manifold on which the points lie; :func:`register_plot` adds one.

References:
    [1] Colour schemes (Tol, 2021), the scheme "muted" for colour-blind readers
        https://sronpersonalpages.nl/~pault/
    [2] Map projections, a working manual (Snyder, 1987), Lambert azimuthal equal-area, page 182
        https://doi.org/10.3133/pp1395
"""

import io
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch.distributions import constraints

from ppvae.manifolds import SO3, Angle, Box, Circle, Euclidean, Hyperboloid, Sphere, Torus, so3
from ppvae.manifolds.hyperboloid import to_origin
from ppvae.manifolds.supports import manifold_of_support

try:
    from matplotlib import patheffects
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError('plots need matplotlib, which is not installed: pip install "ppvae[report]"') from error

__all__ = [
    "image_grid",
    "image_rows",
    "learning_curves",
    "plot_energy",
    "plot_estimates",
    "plot_field",
    "plot_latent",
    "plot_rank",
    "plot_trace",
    "png",
    "register_plot",
]

#: Nine hues of scheme "muted" [1] and a dark grey: ten classes.
COLORS = (
    "#332288", "#CC6677", "#117733", "#DDAA33", "#88CCEE",
    "#882255", "#44AA99", "#999933", "#AA4499", "#555555",
)  # fmt: skip
#: A marker for each class, so that no class is told by its colour alone; 10 and 7 have no common factor.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_INK, _LIGHT = "#222222", "#c8c8c8"

LatentPlot = Callable[[np.ndarray, np.ndarray | None], Figure]
_PLOTS: dict[type, LatentPlot] = {}


def register_plot(manifold: Any, function: LatentPlot) -> LatentPlot:
    """Draw latents on ``manifold`` by ``function`` from now on.

    :param manifold: a manifold, e.g. ``Sphere()``, or the ``support`` of a law; all manifolds of its class are meant.
    :param function: ``function(points, labels)`` returns a figure; points have shape ``(N, *event_shape)``, labels
        shape ``(N,)`` or are None.

    >>> class Square(constraints.Constraint):
    ...     event_dim = 1
    >>> def scatter(points, labels):
    ...     figure = Figure()
    ...     figure.subplots().scatter(*points.T)
    ...     return figure
    >>> _ = register_plot(Square(), scatter)
    >>> plot_latent(np.random.default_rng(0).random((20, 2)), manifold=Square())
    <Figure size 640x480 with 1 Axes>
    """
    _PLOTS[type(_manifold(manifold))] = function
    return function


def plot_latent(points: Any, labels: Any = None, manifold: Any = None) -> Figure:
    """The latent points of data, in colours by their labels; several sites side by side.

    :param points: array of shape ``(N, *event_shape)``, or a dict of such arrays by site.
    :param labels: array of shape ``(N,)``: classes (integers, strings) or a continuous quantity (floats), or None.
    :param manifold: the manifold of the points, or the ``support`` of a law; for several sites a dict of them. Without
        one, points of shape (2,) are drawn as a plane. If no plot is registered for the manifold, the first two
        principal coordinates are drawn.
    :raises ValueError: if there are no points, or if the labels are not one per point.

    >>> angle = np.linspace(0, 6, 20)
    >>> z = np.stack([np.cos(angle), np.sin(angle)], -1)  # points of the circle
    >>> plot_latent(z, labels=np.arange(20) % 3, manifold=Circle()).axes
    [<PolarAxes: xlabel='angle of $z$ (radians)'>]
    """
    if isinstance(points, Mapping):
        return _side_by_side(points, labels, manifold or {})
    points = np.asarray(points)
    if points.ndim < 2 or len(points) == 0:
        raise ValueError(f"expected latent points of shape (N, *event_shape) with N >= 1, got shape {points.shape}")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != points.shape[:1]:
            raise ValueError(f"expected one label per point, shape {points.shape[:1]}, got shape {labels.shape}")
    if manifold is None:
        return real_plot(points, labels) if points.shape[1:] == (2,) else principal_plot(points, labels)
    found = _manifold(manifold, points.shape[1:])
    for cls in type(found).__mro__:
        if cls in _PLOTS:
            return _PLOTS[cls](points, labels)
    if hasattr(found, "embed"):
        points = found.embed(torch.as_tensor(points)).numpy()
    return principal_plot(points, labels)


def _manifold(manifold: Any, event_shape: Sequence[int] = ()) -> Any:
    """The manifold of a support; of a constraint that no manifold has, the constraint itself."""
    if not isinstance(manifold, constraints.Constraint):
        return manifold
    base = manifold
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    found = manifold_of_support(manifold, event_shape or (3,) * manifold.event_dim)
    return base if found is None else found


def _pixels(figure: Figure) -> Any:
    """A finished figure as an image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.buffer_rgba()


def _side_by_side(points: Mapping[str, Any], labels: Any, manifolds: Mapping[str, Any]) -> Figure:
    """The pictures of several sites in one figure."""
    if not points:
        raise ValueError("expected the latent points of at least one site, got an empty dict")
    figure = Figure(figsize=(5.4 * len(points), 4.8), layout="constrained")
    panels = np.atleast_1d(np.asarray(figure.subfigures(1, len(points))))
    for panel, (name, values) in zip(panels, points.items(), strict=True):
        token = _panel.set(panel)
        try:
            drawn = plot_latent(values, labels, manifolds.get(name))
        finally:
            _panel.reset(token)
        if drawn is not panel:  # a plot of the user's that makes a figure of its own
            axes = panel.subplots()
            axes.imshow(np.asarray(_pixels(drawn)))
            axes.set_axis_off()
        panel.suptitle(name, fontsize=11, color=_INK)
    return figure


def real_plot(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """R^1 as a histogram, R^2 as a plane, R^m as its first two principal coordinates."""
    if points.shape[1:] == (1,):
        return _histogram(points[:, 0], labels)
    if points.shape[1:] != (2,):
        return principal_plot(points, labels)
    figure, axes = _axes(6.2, 5.2)
    _scatter(axes, points, labels)
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    axes.set_aspect("equal", adjustable="datalim")
    _legend(figure, labels)
    return figure


def sphere_plot(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """S^1 as a ring, S^2 as two hemispheres, S^{m-1} as its first two principal coordinates."""
    if points.shape[1:] == (2,):
        return _ring(points, labels)
    if points.shape[1:] == (3,):
        return _hemispheres(points, labels)
    return principal_plot(points, labels)


def angle_plot(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """Angles in radians as points of a ring."""
    return _ring(np.stack([np.cos(points), np.sin(points)], -1), labels)


def torus_plot(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """T^1 as a ring, T^2 by its angles, T^n as its first two principal coordinates."""
    if points.shape[1] == 1:
        return _ring(points[:, 0], labels)
    return _torus(points, labels) if points.shape[1] == 2 else principal_plot(points, labels)


def hyperbolic_plot(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """The hyperbolic plane as the Poincaré disc with circles of radius 1, 2, ...; H^{m-1} by log_o, as R^{m-1}."""
    if points.shape[1:] != (3,):
        return real_plot(to_origin(torch.as_tensor(points)).numpy(), labels)
    figure, axes = _axes(6.2, 5.2)
    rim = np.linspace(0, 2 * np.pi, 361)
    for radius in (1, 2, 3, 4):
        axes.plot(*(np.tanh(radius / 2) * np.stack([np.cos(rim), np.sin(rim)])), color=_LIGHT, linewidth=0.6, zorder=0)
    axes.fill(np.cos(rim), np.sin(rim), facecolor="#f7f7f5", edgecolor="#888888", linewidth=0.9, zorder=-1)
    _scatter(axes, points[:, 1:] / (1 + points[:, :1]), labels, names=False)
    axes.set(xlim=(-1.04, 1.04), ylim=(-1.04, 1.04), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.set(xlabel="$z_2 / (1 + z_1)$", ylabel="$z_3 / (1 + z_1)$")
    axes.set_aspect("equal")
    _legend(figure, labels)
    return figure


def rotation_plot(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """SO(3) as the ball of radius pi: the rotation vectors, in three projections.

    Opposite points of the ball's surface are one rotation: a path may leave there and come in on the other side.
    """
    vectors = so3.log(torch.as_tensor(points)).numpy()
    figure = _figure(10.4, 3.9)
    rim = np.linspace(0, 2 * np.pi, 361)
    for axes, (i, j) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        _style(axes)
        axes.plot(np.pi * np.cos(rim), np.pi * np.sin(rim), color="#888888", linewidth=0.9, zorder=0)
        _scatter(axes, vectors[:, [i, j]], labels, names=False)
        axes.set(xlabel=f"$v_{i + 1}$ (radians)", ylabel=f"$v_{j + 1}$", xlim=(-3.4, 3.4), ylim=(-3.4, 3.4))
        axes.set_aspect("equal")
    _legend(figure, labels)
    return figure


def principal_plot(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """The first two principal coordinates of the points, with their share of the variance."""
    flat = points.reshape(len(points), -1).astype(float)
    centred = flat - flat.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = np.zeros((len(flat), 2))
    k = min(2, len(s))
    coordinates[:, :k] = u[:, :k] * s[:k]
    total = np.square(s).sum()
    share = [float(s[i] ** 2 / total) if i < k and total > 0 else 0.0 for i in range(2)]
    figure, axes = _axes(6.2, 5.2)
    _scatter(axes, coordinates, labels)
    axes.set(
        xlabel=f"principal coordinate 1 ({share[0]:.0%} of the variance)",
        ylabel=f"principal coordinate 2 ({share[1]:.0%})",
    )
    axes.set_aspect("equal", adjustable="datalim")
    _legend(figure, labels)
    return figure


def _histogram(values: np.ndarray, labels: np.ndarray | None) -> Figure:
    figure, axes = _axes(6.2, 3.6)
    edges = np.histogram_bin_edges(values, bins=min(60, max(10, len(values) // 20))).tolist()
    if labels is None or _continuous(labels):
        axes.hist(values, edges, color=COLORS[0])
        labels = None
    else:
        classes = np.unique(labels)
        colors = [COLORS[i % len(COLORS)] for i in range(len(classes))]
        axes.hist([values[labels == c] for c in classes], edges, stacked=True, color=colors)
    axes.set(xlabel="$z$", ylabel="data per bin")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, labels)
    return figure


def _ring(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """Each class on a ring of its own, as points on one circle would hide each other."""
    figure = _figure(5.6, 5.2)
    axes: Any = figure.add_subplot(projection="polar")
    angle = np.arctan2(points[:, 1], points[:, 0])
    rings = np.zeros(len(points))
    if labels is not None and not _continuous(labels):
        rings = np.unique(labels, return_inverse=True)[1].astype(float)
    count = rings.max() + 1
    radius = 1 + rings / max(count, 4)
    for ring in np.unique(radius):
        axes.plot(np.linspace(0, 2 * np.pi, 361), np.full(361, ring), color=_LIGHT, linewidth=0.6, zorder=0)
    _scatter(axes, np.stack([angle, radius], -1), labels, names=False)
    axes.set_ylim(0, radius.max() + 0.12)
    axes.set_yticks([])
    axes.set_xticks(np.arange(8) * np.pi / 4)
    axes.set_xticklabels(["0", "π/4", "π/2", "3π/4", "π", "−3π/4", "−π/2", "−π/4"])
    axes.spines["polar"].set_visible(False)
    axes.grid(color=_LIGHT, linewidth=0.5)
    axes.set_xlabel("angle of $z$ (radians)")
    _legend(figure, labels)
    return figure


def _torus(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    figure, axes = _axes(6.2, 5.2)
    _scatter(axes, np.arctan2(points[..., 1], points[..., 0]), labels, names=False)
    ticks, names = np.linspace(-np.pi, np.pi, 5), ["−π", "−π/2", "0", "π/2", "π"]
    axes.set(xlim=(-np.pi, np.pi), ylim=(-np.pi, np.pi), xticks=ticks, yticks=ticks)
    axes.set_xticklabels(names)
    axes.set_yticklabels(names)
    axes.set(xlabel="angle of $z_1$ (radians)", ylabel="angle of $z_2$ (radians)")
    axes.set_aspect("equal")
    _legend(figure, labels)
    return figure


def _hemispheres(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """The sphere seen from +z_1 and from -z_1 with z_3 up, in Lambert's projection: equal areas stay equal [2]."""
    figure = _figure(8.8, 4.3)
    panels = figure.subplots(1, 2)
    longitude, latitude = np.linspace(-90, 90, 181), np.linspace(-90, 90, 181)
    rim = np.linspace(0, 2 * np.pi, 361)
    for axes, side in zip(panels, (1.0, -1.0), strict=True):
        for degrees in range(-60, 90, 30):
            axes.plot(*_lambert(_point(longitude, degrees)).T, color=_LIGHT, linewidth=0.6, zorder=0)
            axes.plot(*_lambert(_point(degrees, latitude)).T, color=_LIGHT, linewidth=0.6, zorder=0)
        axes.fill(np.cos(rim), np.sin(rim), facecolor="#f7f7f5", edgecolor="#888888", linewidth=0.9, zorder=-1)
        here = points[:, 0] * side >= 0
        # The back is turned by pi about z_3, as an observer sees it who walks round.
        turned = points[here] * np.array([side, side, 1.0])
        _scatter(axes, _lambert(turned), labels, here)
        axes.set_aspect("equal")
        axes.set(xlim=(-1.1, 1.1), ylim=(-1.14, 1.14))
        axes.set_axis_off()
        axes.set_title(f"seen from ${'' if side > 0 else '-'}z_1$", fontsize=10, color=_INK)
        for x, y, name in ((0, 1.03, "$z_3$"), (1.04, 0, f"${'' if side > 0 else '-'}z_2$")):
            axes.text(x, y, name, ha="center" if x == 0 else "left", va="bottom" if x == 0 else "center", fontsize=9)
    _legend(figure, labels)
    return figure


def _point(longitude: Any, latitude: Any) -> np.ndarray:
    longitude, latitude = np.broadcast_arrays(np.radians(longitude), np.radians(latitude))
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1)


def _lambert(points: np.ndarray) -> np.ndarray:
    """Points of the half z_1 >= 0 to the unit disk, areas in proportion: (z_2, z_3) / sqrt(1 + z_1)."""
    return points[:, 1:] / np.sqrt(1 + points[:, :1])


def plot_field(
    field: Any,
    extent: tuple[float, float, float, float],
    points: Mapping[str, Any] | None = None,
    curves: Mapping[str, Any] | None = None,
    label: str = "log volume",
) -> Figure:
    """A function of the plane in grey, with points on it, one panel for each name, and with curves, all in each panel.

    :param field: values on a grid, shape (rows, columns): z_2 from low to high, then z_1 from low to high.
    :param extent: the ends of the grid: z_1 low, z_1 high, z_2 low, z_2 high.
    :param points: name to points of shape (N, 2).
    :param curves: name to curves of shape (n, T, 2).
    :param label: what the field is.

    >>> field = np.outer(np.linspace(-1, 1, 20), np.linspace(-1, 1, 30))
    >>> figure = plot_field(field, (-2, 2, -1, 1), {"embeddings": np.zeros((5, 2))})
    >>> figure.axes[0].get_title()
    'embeddings'
    """
    field = np.asarray(field)
    if field.ndim != 2:
        raise ValueError(f"field: expected values on a grid, shape (rows, columns), got shape {field.shape}")
    panels = {"": np.empty((0, 2))} if not points else {name: np.asarray(p) for name, p in points.items()}
    figure = _figure(1.0 + 3.1 * len(panels), 3.6)
    row = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, values) in zip(row, panels.items(), strict=True):
        picture = axes.imshow(field, extent=extent, origin="lower", cmap="Greys", alpha=0.75, aspect="auto")
        axes.scatter(*values.T, s=7, color=COLORS[1], linewidths=0)
        for i, (kind, paths) in enumerate((curves or {}).items()):
            style = {"color": COLORS[(0, 3, 2, 5)[i % 4]], "linestyle": ("-", "--", ":", "-.")[i % 4]}
            for j, path in enumerate(np.asarray(paths)):
                axes.plot(*path.T, linewidth=1.8, label=kind if j == 0 else None, **style)
        axes.set(xlim=extent[:2], ylim=extent[2:], xlabel="$z_1$")
        axes.set_title(name, fontsize=10, color=_INK)
    row[0].set_ylabel("$z_2$")
    figure.colorbar(picture, ax=list(row), label=label)
    if curves:
        handles, names = row[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def learning_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """ELBO, reconstruction and KL by epoch, in nats per datum: one colour per model, validation solid, training dashed.

    :param histories: name of the model to its history as :func:`ppvae.fit` returns it: ``"epoch"``, ``"elbo"``,
        ``"reconstruction"``, ``"kl"`` and, with validation data, the same with ``"valid_"`` in front.
    :raises ValueError: if there is no history or one has no epoch.

    >>> history = {"epoch": [1, 2], "elbo": [-9.0, -8.0], "reconstruction": [-8.0, -7.0], "kl": [1.0, 1.0]}
    >>> learning_curves({"GaussianVAE": history}).axes[0].get_title()
    'ELBO'
    """
    if not histories or any(len(history["epoch"]) == 0 for history in histories.values()):
        raise ValueError("expected at least one history of at least one epoch; train with epochs >= 1")
    panels = (("elbo", "ELBO"), ("reconstruction", "reconstruction  E log p(x | z)"), ("kl", "KL( q(z | x) ‖ p(z) )"))
    figure = _figure(10.2, 3.5)
    for axes, (key, title) in zip(figure.subplots(1, 3), panels, strict=True):
        for i, (name, history) in enumerate(histories.items()):
            epoch, color = np.asarray(history["epoch"]), COLORS[i % len(COLORS)]
            valid = history.get(f"valid_{key}")
            marker = MARKERS[i % len(MARKERS)] if len(epoch) < 40 else None
            style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 3, "linewidth": 1.5}
            axes.plot(
                epoch,
                history[key],
                label=f"{name}, training",
                **(style | {"linestyle": (0, (3, 1.6))} if valid else style),
            )
            if valid:
                axes.plot(epoch, valid, label=f"{name}, validation", **style)
        _style(axes)
        axes.set(title=title, xlabel="epoch", ylabel="nats per datum")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=9)
    return figure


def plot_estimates(values: Mapping[str, float | None], errors: Mapping[str, float], xlabel: str) -> Figure:
    """One point per model with a bar of two standard errors to each side.

    :param values: name of the model to its estimate; None is left out, and keeps its colour from the others.
    :param errors: name of the model to its standard error, in the same unit.
    :param xlabel: what was estimated, and its unit.

    >>> figure = plot_estimates({"plane": -24.6, "sphere": -24.1}, {"plane": 0.5, "sphere": 0.4}, "log p(x) (nats)")
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['plane', 'sphere']
    """
    shown = [(i, name, value) for i, (name, value) in enumerate(values.items()) if value is not None]
    figure, axes = _axes(6.6, 0.95 + 0.42 * len(shown))
    for row, (i, name, value) in enumerate(shown):
        look: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        axes.errorbar(value, row, xerr=2 * errors[name], capsize=4, **look)
    axes.set(yticks=range(len(shown)), xlabel=xlabel, ylim=(len(shown) - 0.5, -0.5))
    axes.set_yticklabels([name for _, name, _ in shown])
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    return figure


def plot_trace(data: Any) -> Figure:
    """Density and trace of each variable, one line for each chain; ticks below are divergent transitions. By ArviZ.

    Chains that have mixed lie on one another, and a trace shows no trend.

    :param data: of :func:`ppvae.to_inference_data`, few chains of few scalar variables: see
        :func:`ppvae.diagnostics.worst_coordinates`.

    >>> from ppvae.diagnostics import to_inference_data
    >>> chains = to_inference_data({"z": np.random.default_rng(0).normal(size=(4, 100))})
    >>> plot_trace(chains)  # doctest: +ELLIPSIS
    <Figure size ... with ... Axes>
    """
    names = [str(name) for name in data.posterior.data_vars]
    figure, axes = _by_arviz("plot_trace", data, len(names), 2, (9.0, 0.5 + 1.7 * len(names)))
    for row, name in zip(axes, names, strict=False):
        row[0].set(title="", xlabel=name, ylabel="density")
        row[1].set(title="", xlabel="draw", ylabel=name)
    return figure


def plot_rank(data: Any) -> Figure:
    """Histogram of the ranks of each chain's draws among all, one panel a variable. By ArviZ, whose 1.x draws ECDFs.

    Chains that have mixed have flat histograms.

    :param data: as in :func:`plot_trace`.

    Source: Vehtari et al. (2021), https://doi.org/10.1214/20-BA1221

    >>> from ppvae.diagnostics import to_inference_data
    >>> chains = to_inference_data({"z": np.random.default_rng(0).normal(size=(4, 100))})
    >>> plot_rank(chains)  # doctest: +ELLIPSIS
    <Figure size ... with ... Axes>
    """
    names = [str(name) for name in data.posterior.data_vars]
    chains = data.posterior.sizes["chain"]
    size = (9.0, 1.1 + 0.28 * chains)
    figure, axes = _by_arviz("plot_rank", data, 1, len(names), size, colors=[COLORS[i % 10] for i in range(chains)])
    for panel, name in zip(axes.ravel(), names, strict=False):
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("rank among all draws", fontsize=10)
        panel.set_ylabel("chain", fontsize=10)
        panel.tick_params(labelsize=9)
    return figure


def plot_energy(data: Any) -> Figure:
    """The law of the energy, and of its change from draw to draw. By ArviZ.

    Where the change is much narrower than the law, the chains need many draws to visit all energies.

    :param data: of :func:`ppvae.to_inference_data`, with ``energy`` in its sample_stats.

    Source: Betancourt (2016), https://arxiv.org/abs/1604.00695

    >>> from ppvae.diagnostics import to_inference_data
    >>> rng = np.random.default_rng(0)
    >>> energy = {"energy": rng.chisquare(2, size=(4, 100))}
    >>> plot_energy(to_inference_data({"z": rng.normal(size=(4, 100))}, sample_stats=energy))  # doctest: +ELLIPSIS
    <Figure size ... with ... Axes>
    """
    figure, axes = _by_arviz("plot_energy", data, 1, 1, (6.2, 3.2), fill_color=(COLORS[0], COLORS[1]), bfmi=False)
    for panel in axes.ravel():
        panel.set(xlabel="energy − mean energy (nats)", ylabel="density", yticks=[])
    return figure


def _by_arviz(
    name: str, data: Any, rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, np.ndarray]:
    """A picture of ArviZ, and its axes where ArviZ 0.x drew them; options are of ArviZ 0.x."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ about itself, and about matplotlib
        import arviz

        if int(arviz.__version__.split(".")[0]) >= 1:
            draw = getattr(arviz, {"plot_trace": "plot_trace_dist"}.get(name, name))
            figure = draw(data, backend="matplotlib").viz["figure"].item()
            sys.modules["matplotlib.pyplot"].close(figure)  # by which ArviZ 1.x has made a window of it
            return figure, np.empty((0, 0), object)
        figure = _figure(*size)
        axes = figure.subplots(rows, columns, squeeze=False)
        target = {"plot_trace": {"axes": axes}, "plot_rank": {"ax": axes[0]}}.get(name, {"ax": axes[0, 0]})
        getattr(arviz, name)(data, **target, **options)
        return figure, axes


def image_rows(rows: Mapping[str, Any]) -> Figure:
    """Rows of data, one above the other: images, or a heat map where the data are no images.

    :param rows: title of a row to its data, each of shape ``(N, *shape)`` with one N and one shape for all.
        Images have shape (h, w), (1, h, w) or (3, h, w); grey runs from the smallest value shown (black) to the
        largest.
    :raises ValueError: if the rows differ in shape or hold nothing.

    >>> x = np.random.default_rng(0).random((6, 1, 8, 8))
    >>> [axes.texts[0].get_text() for axes in image_rows({"data": x, "reconstruction": x.round()}).axes]
    ['data', 'reconstruction']
    """
    data = {title: np.asarray(row) for title, row in rows.items()}
    shapes = {row.shape for row in data.values()}
    if len(shapes) != 1 or 0 in next(iter(shapes)):
        raise ValueError(f"expected rows of one shape (N, *shape) that hold something, got {sorted(shapes)}")
    shape = shapes.pop()
    every = np.stack(list(data.values()))
    low, high = float(every.min()), float(every.max())
    if not _is_image(shape[1:]):
        return _heat_maps({title: row.reshape(shape[0], -1) for title, row in data.items()}, low, high)
    strips = [_tile(row, shape[0], low, high) for row in data.values()]
    height, width = strips[0].shape[:2]
    figure = _figure(9.4, 9.0 * len(strips) * height / width + 0.1 * len(strips))
    for axes, (title, strip) in zip(
        figure.subplots(len(strips), 1, squeeze=False)[:, 0], zip(data, strips, strict=True), strict=True
    ):
        _image(axes, strip)
        axes.text(-0.008, 0.5, title, transform=axes.transAxes, ha="right", va="center", fontsize=9, color=_INK)
    return figure


def image_grid(images: Any, columns: int | None = None) -> Figure:
    """Images in a grid, or a heat map where the data are no images.

    :param images: shape ``(N, h, w)``, ``(N, 1, h, w)`` or ``(N, 3, h, w)``; any other shape is drawn as a heat map.
    :param columns: images per row; by default the grid is about square.

    >>> x = np.random.default_rng(0).random((6, 1, 8, 8))
    >>> image_grid(x, columns=3).axes[0].images[0].get_array().shape  # two rows of three, with lines between them
    (17, 26, 3)
    """
    images = np.asarray(images)
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"expected images of shape (N, *shape) that hold something, got shape {images.shape}")
    low, high = float(images.min()), float(images.max())
    if not _is_image(images.shape[1:]):
        return _heat_maps({"": images.reshape(len(images), -1)}, low, high)
    tiles = _tile(images, columns or math.ceil(math.sqrt(len(images))), low, high)
    figure = _figure(6.0, 6.0 * tiles.shape[0] / tiles.shape[1])
    _image(figure.subplots(), tiles)
    return figure


def _is_image(shape: tuple[int, ...]) -> bool:
    return (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))) and min(shape[-2:]) > 1


def _tile(images: np.ndarray, columns: int, low: float, high: float) -> np.ndarray:
    """Images (N, [c,] h, w) to one RGB picture with white lines between them."""
    images = (images.astype(float) - low) / (high - low) if high > low else np.zeros(images.shape)
    if images.ndim == 3:
        images = images[:, None]
    images = np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)
    columns = min(columns, len(images))
    n, h, w, _ = images.shape
    gap = max(1, h // 12)
    rows = math.ceil(n / columns)
    tiles = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3))
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        tiles[top : top + h, left : left + w] = image
    return tiles


def _image(axes: Axes, pixels: np.ndarray) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()


def _heat_maps(panels: Mapping[str, np.ndarray], low: float, high: float) -> Figure:
    figure = _figure(1.2 + 3.6 * len(panels), 3.4)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, values) in zip(row, panels.items(), strict=True):
        picture = axes.imshow(values, vmin=low, vmax=high, aspect="auto", interpolation="nearest", cmap="cividis")
        axes.set(title=title, xlabel="component")
        axes.title.set_fontsize(10)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    row[0].set_ylabel("datum")
    figure.colorbar(picture, ax=list(row), label="value")
    return figure


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file.

    >>> png(image_grid(np.eye(8)[None]))[:4]
    b'\\x89PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


#: Where a plot is drawn while several stand side by side.
_panel: ContextVar[Any] = ContextVar("_panel", default=None)


def _figure(width: float, height: float) -> Any:
    return _panel.get() or Figure(figsize=(width, height), layout="constrained")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.grid(color=_LIGHT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)


def _continuous(labels: np.ndarray) -> bool:
    return labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels))


def _scatter(
    axes: Axes, points: np.ndarray, labels: np.ndarray | None, where: np.ndarray | None = None, names: bool = True
) -> None:
    """Points (N, 2) in the colours and markers of all ``labels``, of which ``where`` says which are drawn here."""
    style: dict[str, Any] = {"s": 13 if len(points) < 3000 else 5, "linewidths": 0.3, "edgecolors": "white"}
    if labels is None:
        axes.scatter(*points.T, color=COLORS[0], **style)
        return
    here = labels if where is None else labels[where]
    if _continuous(labels):
        low, high = labels.min(), labels.max()
        axes.scatter(points[:, 0], points[:, 1], c=here, vmin=low, vmax=high, cmap="viridis", **style)
        return
    names = names and len(np.unique(labels)) <= 20
    for i, name in enumerate(np.unique(labels)):
        chosen = points[here == name]
        axes.scatter(*chosen.T, color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], **style)
        # A name at the middle of few points in one of two panels would say little.
        if names and len(chosen) >= max(3, 0.25 * (labels == name).sum()):
            x, y = np.median(chosen, 0)
            axes.text(
                x, y, str(name), color=_INK, fontsize=13, fontweight="bold",
                ha="center", va="center", path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            )  # fmt: skip


def _legend(figure: Figure, labels: np.ndarray | None) -> None:
    """What the colours mean: classes and markers, a colour bar for a quantity, nothing for more than 20 classes."""
    if labels is None:
        return
    if _continuous(labels):
        scale = ScalarMappable(Normalize(labels.min(), labels.max()), "viridis")
        figure.colorbar(scale, ax=figure.axes, label="label", shrink=0.8)
        return
    classes = np.unique(labels)
    if len(classes) > 20:
        return
    axes = figure.axes[0]
    handles = [
        axes.scatter([], [], color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], s=30, label=str(name))
        for i, name in enumerate(classes)
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, title="class", fontsize=9)


register_plot(Euclidean(), real_plot)
register_plot(Box(), real_plot)
register_plot(Sphere(), sphere_plot)
register_plot(Circle(), sphere_plot)
register_plot(Torus(2), torus_plot)
register_plot(Angle(), angle_plot)
register_plot(Hyperboloid(), hyperbolic_plot)
register_plot(SO3(), rotation_plot)
