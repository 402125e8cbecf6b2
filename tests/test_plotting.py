"""Plots: what is drawn where, read back from the figures, and no trace left in matplotlib."""

import ast
import importlib.util
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from torch.distributions import constraints

import ppvae
from ppvae import plotting
from ppvae.manifolds import hyperboloid, rotation, so3, sphere
from ppvae.manifolds.hyperboloid import from_origin

rng = np.random.default_rng(0)
LABELS = np.arange(60) % 10


def unit(m: int, n: int = 60) -> np.ndarray:
    x = rng.normal(size=(n, m))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def drawn(figure) -> np.ndarray:
    """All scattered points of a figure."""
    offsets = [c.get_offsets() for axes in figure.axes for c in axes.collections if len(c.get_offsets())]
    return np.concatenate(offsets)


def history(epochs: int = 5, valid: bool = True) -> dict[str, list[float]]:
    epoch = [float(e) for e in range(1, epochs + 1)]
    values = {"elbo": [-9 + e for e in epoch], "reconstruction": [-8 + e for e in epoch], "kl": [1.0 for e in epoch]}
    return {"epoch": epoch, **values} | ({f"valid_{k}": v for k, v in values.items()} if valid else {})


@pytest.mark.parametrize(
    ("points", "manifold"),
    [
        (rng.normal(size=(60, 1)), constraints.real_vector),
        (rng.normal(size=(60, 2)), constraints.real_vector),
        (rng.normal(size=(60, 5)), constraints.real_vector),
        (unit(2), sphere),
        (unit(3), sphere),
        (unit(7), sphere),
        (np.stack([unit(2), unit(2)], 1), constraints.independent(sphere, 1)),
        (rng.normal(size=(60, 3, 3)), None),
        (rng.normal(size=(60, 1)), None),
        (np.ones((60, 4)), None),
    ],
    ids=lambda value: str(np.shape(value)) if isinstance(value, np.ndarray) else type(value).__name__,
)
@pytest.mark.parametrize("labels", [None, LABELS.astype(str), rng.normal(size=60)], ids=["", "classes", "quantity"])
def test_every_latent_space_has_a_picture(points, manifold, labels):
    picture = plotting.png(plotting.plot_latent(points, labels, manifold), dpi=40)
    assert picture.startswith(b"\x89PNG")


def test_the_plane_shows_the_points_as_they_are():
    z = rng.normal(size=(60, 2))
    shown = drawn(plotting.plot_latent(z, None, constraints.real_vector))
    np.testing.assert_allclose(shown, z)


def test_the_two_hemispheres_show_each_point_once_and_keep_areas():
    z = unit(3, 20_000)
    disks = [
        np.concatenate([c.get_offsets() for c in axes.collections])
        for axes in plotting.plot_latent(z, None, sphere).axes
    ]
    assert sum(map(len, disks)) == len(z)
    for disk in disks:
        radius2 = np.square(disk).sum(1)
        assert radius2.max() <= 1 + 1e-9
        # Equal areas: uniform points on the sphere have uniform squared radii in the disk, mean 1/2 and variance 1/12.
        assert abs(radius2.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(disk))


def test_a_hemisphere_has_its_axes_where_an_observer_sees_them():
    """From +z1 with z3 up, +z2 is to the right; from -z1 it is to the left."""
    front, back = plotting.plot_latent(np.array([[0.6, 0.8, 0.0], [-0.6, 0.8, 0.0]]), None, sphere).axes
    (right,), (left,) = front.collections[-1].get_offsets(), back.collections[-1].get_offsets()
    assert right[0] > 0.5 and left[0] < -0.5
    assert right[1] == left[1] == 0


def test_the_ring_shows_angles():
    z = unit(2)
    shown = drawn(plotting.plot_latent(z, None, sphere))
    np.testing.assert_allclose(shown[:, 0], np.arctan2(z[:, 1], z[:, 0]))


def test_the_hyperbolic_plane_is_drawn_as_a_disc():
    v = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -3.0], [2.0, 2.0]], dtype=torch.float64)
    shown = drawn(plotting.plot_latent(from_origin(v).numpy(), None, hyperboloid))
    np.testing.assert_allclose(
        shown, [[0, 0], [np.tanh(0.5), 0], [0, -np.tanh(1.5)], [np.tanh(8**0.5 / 2) / 2**0.5] * 2]
    )
    solid = torch.tensor(rng.normal(size=(60, 3)))
    shown = drawn(plotting.plot_latent(from_origin(solid).numpy(), LABELS, hyperboloid))
    np.testing.assert_allclose(shown, drawn(plotting.plot_latent(solid.numpy(), LABELS, constraints.real_vector)))


def test_rotations_are_drawn_by_their_rotation_vectors():
    vectors = np.array([[0.3, -1.0, 0.5], [0.0, 0.0, 3.1], [2.0, 1.0, 0.0]])
    figure = plotting.plot_latent(so3.exp(torch.tensor(vectors)).numpy(), None, rotation)
    for axes, pair in zip(figure.axes, ([0, 1], [0, 2], [1, 2]), strict=True):
        assert np.allclose(axes.collections[0].get_offsets(), vectors[:, pair], atol=1e-6)


def test_principal_coordinates_keep_the_distances_of_a_plane_in_space():
    plane = rng.normal(size=(60, 2)) * [3, 1]
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0][:, :2]
    shown = drawn(plotting.plot_latent(plane @ turn.T))
    np.testing.assert_allclose(
        np.linalg.norm(shown[0] - shown[1:], axis=1), np.linalg.norm(plane[0] - plane[1:], axis=1)
    )


def test_classes_differ_in_colour_and_marker_and_are_named():
    figure = plotting.plot_latent(rng.normal(size=(60, 2)), LABELS, constraints.real_vector)
    assert len(set(plotting.COLORS)) == 10
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [str(k) for k in range(10)]
    looks = {(plotting.COLORS[i % 10], plotting.MARKERS[i % len(plotting.MARKERS)]) for i in range(70)}
    assert len(looks) == 70


def test_more_classes_than_colours_can_tell_have_no_names_in_the_picture():
    figure = plotting.plot_latent(rng.normal(size=(60, 2)), np.arange(60) // 2, constraints.real_vector)
    assert not figure.legends and not figure.axes[0].texts


def test_a_registered_plot_is_used_also_under_independent(monkeypatch):
    monkeypatch.setattr(plotting, "_PLOTS", dict(plotting._PLOTS))

    class Somewhere(constraints.Constraint):
        event_dim = 1

    seen = []

    def plot(points, labels):
        seen.append((points.shape, labels))
        return plotting.principal_plot(points, labels)

    plotting.register_plot(Somewhere(), plot)
    plotting.plot_latent(rng.normal(size=(5, 3)), None, constraints.independent(Somewhere(), 1))
    assert seen == [((5, 3), None)]


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros(3)])
def test_latents_of_another_shape_are_refused(points):
    with pytest.raises(ValueError, match="expected latent points of shape"):
        plotting.plot_latent(points)


def test_labels_must_be_one_per_point():
    with pytest.raises(ValueError, match=r"expected one label per point, shape \(60,\), got shape \(59,\)"):
        plotting.plot_latent(unit(3), LABELS[1:], sphere)


def test_learning_curves_show_elbo_reconstruction_and_kl_apart():
    histories = {"A": history(), "B": history(3, valid=False)}
    figure = plotting.learning_curves(histories)
    for axes, key in zip(figure.axes, ("elbo", "reconstruction", "kl"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert set(lines) == {"A, training", "A, validation", "B, training"}
        np.testing.assert_array_equal(lines["A, training"].get_ydata(), histories["A"][key])
        np.testing.assert_array_equal(lines["A, validation"].get_ydata(), histories["A"][f"valid_{key}"])
        assert axes.get_xlabel() == "epoch" and axes.get_ylabel() == "nats per datum"
    assert plotting.png(figure, dpi=40)


def test_learning_curves_want_an_epoch():
    with pytest.raises(ValueError, match="at least one epoch"):
        plotting.learning_curves({"A": {"epoch": [], "elbo": []}})


def test_error_bars_are_two_standard_errors():
    figure = plotting.plot_estimates({"A": -3.0, "left out": None, "B": -2.0}, {"A": 0.5, "B": 0.25}, "nats")
    bars = [segment for container in figure.axes[0].containers for segment in container[2][0].get_segments()]
    np.testing.assert_allclose([bar[:, 0] for bar in bars], [[-4.0, -2.0], [-2.5, -1.5]])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["A", "B"]


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8), (5,), (2, 4, 4)])
def test_rows_and_grids_take_images_and_anything_else(shape):
    x = rng.random((6, *shape))
    assert plotting.png(plotting.image_rows({"data": x, "reconstruction": 1 - x}), dpi=40)
    assert plotting.png(plotting.image_grid(x), dpi=40)


def test_a_grid_keeps_every_pixel():
    x = rng.random((5, 1, 8, 8))
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 1
    pixels = plotting.image_grid(x, columns=2).axes[0].images[0].get_array()
    np.testing.assert_allclose(pixels[:8, :8, 0], x[0, 0])
    np.testing.assert_allclose(pixels[18:26, :8, 2], x[4, 0])
    assert pixels.shape == (26, 17, 3)


def test_rows_must_agree():
    with pytest.raises(ValueError, match="rows of one shape"):
        plotting.image_rows({"a": np.zeros((2, 4, 4)), "b": np.zeros((3, 4, 4))})


def test_no_global_state_of_matplotlib_is_touched():
    before = matplotlib.rcParams.copy()
    plotting.png(plotting.plot_latent(unit(3), LABELS, sphere), dpi=40)
    assert matplotlib.rcParams.copy() == before
    imported = [
        ast.unparse(n) for n in ast.walk(ast.parse(Path(plotting.__file__).read_text())) if "Import" in type(n).__name__
    ]
    assert not [line for line in imported if "pyplot" in line or "matplotlib.use" in line]


def test_a_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    spec = importlib.util.spec_from_file_location("plotting_again", plotting.__file__)
    with pytest.raises(ImportError, match=r'pip install "ppvae\[report\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def chains(C=3, S=50):
    z = {"z[0]": rng.normal(size=(C, S)), "z[1]": 5 + rng.normal(size=(C, S))}
    diverging = np.zeros((C, S), bool)
    diverging[1, 7] = True
    return ppvae.to_inference_data(z, sample_stats={"energy": rng.normal(size=(C, S)) ** 2, "diverging": diverging})


def test_pictures_of_chains_are_arvizs_and_leave_no_window():
    from matplotlib import pyplot

    data = chains()
    trace = plotting.plot_trace(data)
    assert [axes.get_xlabel() for axes in trace.axes] == ["z[0]", "draw", "z[1]", "draw"]
    assert np.allclose(trace.axes[3].get_lines()[0].get_ydata(), data.posterior["z[1]"].values[0])
    rank = plotting.plot_rank(data)
    assert [axes.get_title() for axes in rank.axes] == ["z[0]", "z[1]"]
    assert sum(patch.get_height() for patch in rank.axes[0].patches) > 0
    energy = plotting.plot_energy(data)
    assert "nats" in energy.axes[0].get_xlabel()
    for figure in (trace, rank, energy):
        assert plotting.png(figure, dpi=40).startswith(b"\x89PNG")
    assert not pyplot.get_fignums()


def test_a_field_has_points_in_panels_and_curves_in_all():
    field = np.outer(np.arange(5.0), np.ones(4))
    points = {"prior": np.zeros((3, 2)), "flow": np.ones((2, 2))}
    curves = {"geodesic": np.zeros((2, 7, 2)), "straight line": np.ones((1, 7, 2))}
    figure = plotting.plot_field(field, (-1, 1, -2, 2), points, curves)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["prior", "flow"]
    for axes, values in zip(panels, points.values(), strict=True):
        assert np.array_equal(axes.collections[0].get_offsets(), values)
        assert len(axes.lines) == 3
        assert np.array_equal(axes.images[0].get_array(), field) and axes.images[0].origin == "lower"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)
    assert plotting.png(plotting.plot_field(field, (-1, 1, -2, 2)), dpi=40)
    with pytest.raises(ValueError, match="field: expected values on a grid"):
        plotting.plot_field(np.zeros(3), (-1, 1, -2, 2))
