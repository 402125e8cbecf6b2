"""check_manifold passes right manifolds, and names the law that a wrong one breaks."""

import math

import pytest
import torch

from ppvae.manifolds import Circle, Euclidean, Quotient, Sphere, Torus, circle
from ppvae.manifolds.sphere import Direction
from ppvae.testing import check_manifold
from ppvae.testing.manifold import CHECKS

F64 = torch.float64
POLE = torch.tensor([0.0, 0.6, 0.8], dtype=F64)


class OffTheSphere(Sphere):
    def expmap(self, x, u):
        return x + u


class SkewFrame(Sphere):
    def frame(self, x):
        return 2 * super().frame(x)


class OtherCoordinates(Sphere):
    def coordinates(self, x, u):
        return super().coordinates(x, u).flip(-1)


class HalfLogarithm(Sphere):
    def logmap(self, x, y):
        return super().logmap(x, y) / 2


class Chord(Sphere):
    logmap = Sphere().logmap

    def dist(self, x, y):
        return (x - y).norm(dim=-1)


class Flat(Sphere):
    def logvolume(self, x, u):
        return torch.zeros_like(u[..., 0])


class FirstPoint(Sphere):
    def mean(self, x, weights=None):
        return x[0]


class Unweighted(Sphere):
    def mean(self, x, weights=None):
        return super().mean(x)


class Projection(Sphere):
    def embed(self, x):
        return x[..., :1]


class Area(Sphere):
    def log_total_volume(self, x):
        return math.log(2 * math.pi)


class Cap(Sphere):
    def uniform(self, like):
        return Direction().point(torch.randn_like(like) + 0.2)


class Corner(Sphere):
    def dist(self, x, y):
        return (x * y).sum(-1).clamp(-1, 1).acos()


class OfAnother(Direction):
    def log_volume(self, v):
        return super().log_volume(v) - math.log(2)


class Tilted(Direction):
    def point(self, v):
        return super().point(v + torch.ones_like(v))


class WrongLift(Sphere):
    lift = OfAnother()


class OtherPoint(Sphere):
    lift = Tilted()


class OneRow(Sphere):
    def logvolume(self, x, u):
        return super().logvolume(x, u)[:1].expand(u.shape[:-1])


@pytest.mark.parametrize(
    "manifold, check",
    [
        (OffTheSphere, "points"),
        (OneRow, "shapes"),
        (SkewFrame, "frame"),
        (OtherCoordinates, "coordinates"),
        (HalfLogarithm, "exponential"),
        (Chord, "distance"),
        (Flat, "volume"),
        (FirstPoint, "mean"),
        (Unweighted, "mean"),
        (Projection, "embedding"),
        (WrongLift, "lift"),
        (OtherPoint, "lift"),
        (Area, "total volume"),
        (Cap, "uniform"),
    ],
)
def test_a_wrong_manifold_is_caught(manifold, check):
    others = [name for name in CHECKS if name != check]
    with pytest.raises(AssertionError, match=f"{manifold.__name__}: {check}: expected"):
        check_manifold(manifold(), POLE, skip=others)
    assert check_manifold(Sphere(), POLE, skip=others)


def test_a_gradient_that_is_not_finite_is_caught():
    skip = [name for name in CHECKS if name != "gradients"]
    with pytest.raises(AssertionError, match="gradients: expected a finite gradient of dist at y = x"):
        check_manifold(Corner(), POLE, skip=skip)


def turned(z):
    """(t, p) -> (t + pi, -p)."""
    return z * torch.tensor([[-1.0, -1.0], [1.0, -1.0]], dtype=z.dtype)


def quarter(z):
    """(t, p) -> (t + pi / 2, p), of order four."""
    return torch.stack([torch.stack([-z[..., 0, 1], z[..., 0, 0]], -1), z[..., 1, :]], -2)


def fourfold(c):
    """The point at four times the angle."""
    return circle.exp(4 * circle.log(c))


def nothing(z):
    return z


@pytest.mark.parametrize(
    "group, embed, words",
    [
        ([nothing, turned], lambda z: z.flatten(-2), "the same numbers for all points of an orbit"),
        ([nothing, quarter], lambda z: torch.cat([fourfold(z[..., 0, :]), z[..., 1, :]], -1), "a group to"),
        ([nothing, nothing], lambda z: z.flatten(-2), "a group that moves every point"),
    ],
)
def test_a_wrong_quotient_is_caught(group, embed, words):
    others = [name for name in CHECKS if name != "embedding"]
    with pytest.raises(AssertionError, match=f"embedding: expected ({words})"):
        check_manifold(Quotient(Torus(2), group, embed), torch.eye(2, dtype=F64), skip=others)


def test_what_is_asked_for_is_checked():
    with pytest.raises(ValueError, match=r"skip: expected names of checks, .*, got mass"):
        check_manifold(Sphere(), POLE, skip=["mass"])
    with pytest.raises(ValueError, match="a point in float64"):
        check_manifold(Sphere(), POLE.float())
    report = check_manifold(Euclidean(), POLE, skip=["mean"])
    assert report["mean"] == "skipped: by the caller" and "infinite" in report["total volume"]
    state = torch.get_rng_state()
    assert check_manifold(Circle(), POLE[1:]) == check_manifold(Circle(), POLE[1:])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_right_manifold_passes_from_any_seed(seed):
    check_manifold(Sphere(), POLE, seed)
