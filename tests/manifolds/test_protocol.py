"""The laws of the protocol over every manifold: adding a manifold is adding a line to MANIFOLDS."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize

from ppvae.manifolds import (
    SO3,
    Angle,
    Box,
    Circle,
    ComplexProjective,
    Euclidean,
    Hyperboloid,
    Power,
    Product,
    RiemannianManifold,
    Sphere,
    Torus,
    circle,
    frechet_mean,
    quotient,
    so3,
)
from ppvae.manifolds.hyperboloid import from_origin
from ppvae.testing import check_manifold
from ppvae.testing.manifold import CHECKS

F64 = torch.float64


def point(*shape: int) -> torch.Tensor:
    return normalize(torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(0)), dim=-1)


def complex_point(m: int) -> torch.Tensor:
    return point(2 * m).unflatten(-1, (m, 2))


def valley(z: torch.Tensor) -> torch.Tensor:
    """A metric of the plane that is stretched along (sin z_1 / 2, z_2)."""
    a = torch.stack([z[..., 0].sin() / 2, z[..., 1]], -1)
    return torch.eye(2, dtype=z.dtype) + 0.3 * a.unsqueeze(-1) * a.unsqueeze(-2)


V, TURN = torch.tensor([0.3, -0.7, 1.1], dtype=F64), so3.exp(torch.tensor([0.3, -0.7, 1.1], dtype=F64))
CYLINDER = Product([Circle(), Euclidean()], [(2,), (1,)])
ON_CYLINDER = torch.cat([point(2), V[:1]])
LOW, HIGH = torch.tensor([0.0, -1.0], dtype=F64), 2.0
NUMERICAL = RiemannianManifold(valley, segments=8, steps=16)

#: name -> (manifold, one of its points, options of check_manifold)
MANIFOLDS = {
    "Euclidean": (Euclidean(), V, {}),
    "Angle": (Angle(), V[0], {}),
    "Circle": (Circle(), point(2), {}),
    "Sphere(3)": (Sphere(), point(3), {}),
    "Sphere(5)": (Sphere(), point(5), {}),
    "Torus(2)": (Torus(2), point(2, 2), {}),
    "SO3": (SO3(), TURN, {}),
    "Hyperboloid(3)": (Hyperboloid(), from_origin(V[:2]), {}),
    "Hyperboloid(5)": (Hyperboloid(), from_origin(point(4)), {"num_samples": 2**16}),
    "Box, open": (Box(low=LOW, high=HIGH), V[:2], {}),
    "Box, glued": (Box(glued=True), V[:2].abs(), {}),
    "Box, mixed": (Box(glued=[True, False], low=LOW, high=HIGH), V[:2].abs(), {}),
    "Power(Sphere)": (Power(Sphere(), 1), point(2, 3), {}),
    "Power(SO3)": (Power(SO3(), 1), torch.stack([TURN, TURN.mT]), {}),
    "cylinder": (CYLINDER, ON_CYLINDER, {}),
    "moebius": (quotient("moebius"), ON_CYLINDER, {}),
    "klein": (quotient("klein"), point(2, 2), {}),
    "projective": (quotient("projective"), point(3), {}),
    "axes": (quotient("axes"), TURN, {}),
    "ComplexProjective(1)": (ComplexProjective(), complex_point(2), {}),
    "ComplexProjective(3)": (ComplexProjective(), complex_point(4), {}),
    "RiemannianManifold": (NUMERICAL, V[:2], {"slack": 1e4, "num_points": 4, "skip": ["lift", "chart"]}),
}


@pytest.mark.parametrize("manifold, like, options", MANIFOLDS.values(), ids=MANIFOLDS)
def test_manifold(manifold, like, options):
    report = check_manifold(manifold, like, **options)
    said = {name for name, figure in report.items() if isinstance(figure, str)}
    # A check that is skipped without a word about it here tells that the list above leaves something out.
    expected = set(options.get("skip", ()))
    expected |= {"chart"} if manifold.chart is None else set()
    expected |= set() if hasattr(manifold, "preimages") else {"preimages"}
    expected |= {"total volume"} if "infinite" in str(report["total volume"]) else set()
    assert said == expected, report


@pytest.mark.slow
def test_the_lift_of_a_numerical_manifold():
    skip = [name for name in CHECKS if name not in ("lift", "chart")]
    check_manifold(NUMERICAL, V[:2], slack=1e4, num_points=4, num_samples=2**11, skip=skip)


@pytest.mark.parametrize(
    "name, volume",
    [
        ("Angle", 2 * math.pi),
        ("Circle", 2 * math.pi),
        ("Sphere(3)", 4 * math.pi),
        ("Sphere(5)", 8 * math.pi**2 / 3),
        ("Torus(2)", 4 * math.pi**2),
        ("SO3", 8 * math.pi**2),
        ("Box, open", 6),
        ("Box, glued", 1),
        ("Power(Sphere)", 16 * math.pi**2),
        ("klein", 2 * math.pi**2),
        ("projective", 2 * math.pi),
        ("axes", 2 * math.pi**2),
        ("ComplexProjective(1)", math.pi),
        ("ComplexProjective(3)", math.pi**3 / 6),
        ("moebius", math.inf),
        ("Hyperboloid(3)", math.inf),
    ],
)
def test_total_volumes(name, volume):
    manifold, like, _ = MANIFOLDS[name]
    assert math.exp(manifold.log_total_volume(like)) == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_mean_stays_on_the_manifold_however_many_steps_it_takes(dtype):
    """A point off the sphere by one rounding has a logarithm that is off its tangent plane by more."""
    torch.manual_seed(0)
    x = normalize(torch.randn(12, 3, dtype=dtype) + torch.tensor([2.0, 0, 0], dtype=dtype), dim=-1)
    means = [frechet_mean(Sphere(), x, iterations=n) for n in (32, 64, 512)]
    for a, b in pairwise(means):
        assert (a - b).abs().max() < 20 * torch.finfo(dtype).eps


def test_the_mean_of_angles_is_that_of_the_circle():
    t = torch.tensor([3.0, -3.0, 2.5], dtype=F64)
    assert torch.allclose(circle.exp(Angle().mean(t)), Circle().mean(circle.exp(t)))
