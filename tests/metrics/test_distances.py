"""Exact distances against integers and plain loops."""

import numpy as np
import pytest
import torch

from ppvae.metrics.distances import nearest_neighbours, within

rng = np.random.default_rng(0)


def differences(x, y):
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").numpy()


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("d", [1, 3, 100])
def test_neighbours_are_those_of_a_stable_sort(d, offset):
    """Coordinates of 0, 1, 2, so that many distances tie, and all are exact."""
    x, y = (torch.from_numpy(rng.integers(0, 3, (n, d)) + offset) for n in (30, 50))
    expected = differences(x, y)
    for k in (1, 4, 50):
        distance, row = nearest_neighbours(x, y, k, chunk=7)
        order = expected.argsort(1, kind="stable")[:, :k]
        assert np.array_equal(row, order)
        assert np.array_equal(distance, np.take_along_axis(expected, order, 1))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_distances_of_reals_are_those_of_differences(offset):
    x, y = (torch.from_numpy(rng.normal(size=(n, 40)) + offset) for n in (30, 50))
    expected = differences(x, y)
    distance, row = nearest_neighbours(x, y, 5, chunk=7)
    assert np.array_equal(distance, np.sort(expected, 1)[:, :5])
    assert np.array_equal(row, expected.argsort(1)[:, :5])


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_points_on_the_edge_of_a_ball_are_inside(offset):
    x, y = (torch.from_numpy(rng.integers(0, 3, (n, 20)) + offset) for n in (30, 50))
    expected = differences(x, y)
    radius_x, radius_y = (torch.from_numpy(rng.choice(expected.flatten(), n)) for n in (30, 50))
    inside = [torch.cat(parts).numpy() for parts in zip(*within(x, y, radius_x, radius_y, chunk=7), strict=True)]
    assert np.array_equal(inside[0], expected <= radius_x.numpy()[:, None])
    assert np.array_equal(inside[1], expected <= radius_y.numpy())
    assert (expected == radius_x.numpy()[:, None]).sum() > 30, "there are points on the edge"


def test_an_outlier_costs_no_accuracy():
    x = torch.from_numpy(np.concatenate([rng.normal(size=(20, 4)), np.full((1, 4), 1e7)]))
    expected = np.sort(differences(x, x), 1)
    assert np.array_equal(nearest_neighbours(x, x, 21)[0], expected)


def test_equal_points_and_numbers_whose_squares_overflow():
    x = torch.ones(5, 3, dtype=torch.float64)
    distance, row = nearest_neighbours(x, x, 2)
    assert (distance == 0).all() and (row == [0, 1]).all()
    with pytest.raises(ValueError, match="whose squares are finite"):
        nearest_neighbours(1e200 * torch.eye(3).double(), x, 1)
