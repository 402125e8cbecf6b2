"""From stored values to those of a likelihood."""

import numpy as np
import pytest

from ppvae.data import binarize, scale
from ppvae.data.dataset import split_at_random


def test_scale_divides_by_what_a_pixel_can_be():
    x = np.array([[0, 4], [8, 15]], np.uint8)
    np.testing.assert_array_equal(scale(x, 16), np.array([[0, 0.25], [0.5, 0.9375]], np.float32))
    assert scale(x, 16).dtype == np.float32
    assert scale(x, 16, np.float64).dtype == np.float64
    assert scale(np.array([1 / 3]), 1, np.float64) == 1 / 3


@pytest.mark.parametrize("x", [[17], [-1], [np.nan]])
def test_scale_refuses_other_values(x):
    with pytest.raises(ValueError, match=r"expected values in \[0, 16\]"):
        scale(x, 16)


def test_dynamic_binarisation_draws_each_pixel_from_its_intensity():
    intensity = np.linspace(0, 1, 11, dtype=np.float32)
    rng = np.random.default_rng(0)
    draws = np.stack([binarize(intensity, rng) for _ in range(4000)])
    assert draws.dtype == np.float32 and set(np.unique(draws)) == {0, 1}
    np.testing.assert_allclose(draws.mean(0), intensity, atol=4 * 0.5 / np.sqrt(4000))
    assert (draws[:, 0] == 0).all() and (draws[:, -1] == 1).all()
    np.testing.assert_array_equal(binarize(intensity, 7), binarize(intensity, np.random.default_rng(7)))


def test_threshold():
    np.testing.assert_array_equal(binarize(np.array([0, 0.5, 0.51, 1]), how="threshold"), [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.array([255], np.uint8), {"rng": 0}, "got uint8; call scale"),
        (np.array([2.0]), {"rng": 0}, r"got \[2.0, 2.0\]; call scale"),
        (np.array([0.5]), {}, "give rng="),
        (np.array([0.5]), {"rng": 0, "how": "threshold"}, "leave rng out"),
        (np.array([0.5]), {"how": "round"}, "'dynamic' or 'threshold', got 'round'"),
    ],
)
def test_binarize_refuses(x, options, message):
    with pytest.raises(ValueError, match=message):
        binarize(x, **options)


def test_random_split_is_a_partition_and_stays_the_same():
    split = split_at_random(25)
    assert [len(part) for part in split] == [20, 2, 3]
    assert sorted(np.concatenate(split).tolist()) == list(range(25))
    assert split[2].tolist() == np.sort(np.random.default_rng(0).permutation(25)[22:]).tolist()
