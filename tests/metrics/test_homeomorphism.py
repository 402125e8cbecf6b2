"""Metrics of encoders on loops with known answers."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ppvae.manifolds import SO3, Circle, so3
from ppvae.metrics import (
    automorphism,
    closed_geodesics,
    discontinuity,
    equivariance_error,
    rotation_class,
    winding_number,
)


def circle(turns, n=200):
    t = 2 * np.pi * turns * np.arange(n) / n
    return np.stack([np.cos(t), np.sin(t)], -1)


def rotations(n, seed=0):
    return Rotation.random(n, random_state=seed).as_matrix()


def test_closed_geodesics_are_closed_and_of_equal_steps():
    loops = closed_geodesics(5, 100, seed=1)
    assert loops.shape == (5, 100, 3, 3)
    assert so3.rotation.check(torch.tensor(loops)).all()
    steps = np.einsum("lnij,lnik->lnjk", loops, np.roll(loops, -1, 1))
    angles = Rotation.from_matrix(steps.reshape(-1, 3, 3)).magnitude()
    assert np.allclose(angles, 2 * math.pi / 100, atol=1e-7), "the step back to the first point too"
    assert np.array_equal(closed_geodesics(5, 100, seed=1), loops)
    before = torch.random.get_rng_state()
    closed_geodesics(1, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_discontinuity_is_one_at_constant_speed_and_grows_with_n_when_torn():
    loops = closed_geodesics(4, 300)
    assert np.allclose(discontinuity(loops, SO3().dist, 2), 1, atol=1e-6)
    assert np.allclose(discontinuity(circle(2), Circle().dist), 1)
    # A chart: the angle itself, in R, jumps by 2 pi - 2 pi / n at the seam: n - 1 steps of 2 pi / n and that one.
    for n in (100, 1000):
        angle = 2 * np.pi * np.arange(n)[:, None] / n
        found = discontinuity(angle, lambda x, y: (x - y).norm(dim=-1))
        assert found == pytest.approx(n / 2)


def test_logarithms_of_a_closed_geodesic_are_torn():
    loops = torch.tensor(closed_geodesics(10, 500))
    torn = discontinuity(so3.log(loops), lambda x, y: (x - y).norm(dim=-1))
    assert (torn > 50).all(), "each generator of the fundamental group crosses the cut at angle pi"


def test_equivariance_error_and_automorphism():
    z, g, s, c = rotations(200, 0), rotations(200, 1), rotations(1, 2)[0], rotations(1, 3)[0]
    assert equivariance_error(z, g @ z, g).max() < 1e-7
    turned = s @ z @ c  # an encoder that is equivariant in a frame of its own: enc(g x) = (S g S^T) enc(x)
    moved = s @ g @ z @ c
    assert np.allclose(automorphism(turned, moved, g), s, atol=1e-10)
    assert equivariance_error(turned, moved, s @ g @ s.T).max() < 1e-7
    # Unrelated rotations: the mean of the angle under Haar's measure, (1 - cos t) / pi dt, is pi / 2 + 2 / pi.
    error = equivariance_error(rotations(4000, 4), rotations(4000, 5), rotations(4000, 6))
    assert error.mean() == pytest.approx(math.pi / 2 + 2 / math.pi, abs=4 * error.std() / 4000**0.5)
    off = Rotation.from_rotvec([0, 0.3, 0]).as_matrix()
    assert np.allclose(equivariance_error(z, g @ z @ off, g), 0.3)
    assert equivariance_error(z.astype("f"), (g @ z).astype("f"), g.astype("f")).max() < 1e-6


@pytest.mark.parametrize("turns", [-3, -1, 0, 1, 2])
def test_winding_number(turns):
    noise = 0.05 * np.random.default_rng(0).standard_normal((200, 2))
    x = circle(turns) + noise
    assert winding_number(x / np.linalg.norm(x, axis=-1, keepdims=True)) == turns


def test_a_torn_loop_has_no_class():
    x = circle(1)
    x[150:] = circle(0.25)[150:]
    assert np.isnan(winding_number(np.stack([x, circle(1)]))).tolist() == [True, False]
    loop = closed_geodesics(1, 100)[0]
    torn = loop.copy()
    torn[50:] = torn[50:] @ Rotation.from_rotvec([0, 3.0, 0]).as_matrix()
    assert np.isnan(rotation_class(np.stack([torn, loop]))).tolist() == [True, False]


def test_class_on_so3_is_that_of_the_double_cover():
    loops = closed_geodesics(6, 200)
    assert (rotation_class(loops) == 1).all()
    t = 2 * np.pi * np.arange(400) / 400
    for turns in range(-3, 4):
        loop = Rotation.from_rotvec(turns * t[:, None] * np.array([[0.6, 0, 0.8]])).as_matrix()
        assert rotation_class(loop) == abs(turns) % 2
    # z -> z z doubles the class, conjugation keeps it, and a loop that comes back on its way is contractible.
    assert (rotation_class(loops @ loops) == 0).all()
    assert (rotation_class(np.swapaxes(loops, -1, -2)) == 1).all()
    there_and_back = np.concatenate([loops[:, :100], loops[:, 100:0:-1]], 1)
    assert (rotation_class(there_and_back) == 0).all()


def test_errors():
    with pytest.raises(ValueError, match="at least 3 points"):
        discontinuity(circle(1)[:2], Circle().dist)
    with pytest.raises(ValueError, match=r"rotations of shape \(\.\.\., 3, 3\)"):
        rotation_class(np.zeros((5, 3, 2)))
