"""The battery of check_distribution over every law of the library: adding a law is adding a line to LAWS."""

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ppvae.distributions import (
    FrameAverage,
    HypersphericalUniform,
    MatrixFisher,
    OnQuotient,
    PowerSpherical,
    SO3Normal,
    SO3Uniform,
    TangentNormal,
    Uniform,
    VonMisesFisher,
    center,
)
from ppvae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppvae.manifolds import SO3, Box, ComplexProjective, Hyperboloid, Power, Sphere, Torus, quotient, so3
from ppvae.manifolds.hyperboloid import from_origin
from ppvae.manifolds.sphere import rotate_from_pole
from ppvae.testing import check_distribution

CONCENTRATIONS = torch.tensor([0.0, 1e-6, 1e-2, 1.0, 30.0, 1e3, 1e6])


def random_points(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


ROTATION = torch.matrix_exp(torch.tensor([[0.0, -1.0, 2.0], [1.0, 0.0, -0.5], [-2.0, 0.5, 0.0]]).double())


def uniform(m: int) -> dict:
    law, rotation = HypersphericalUniform(m, dtype=torch.float64), torch.linalg.qr(random_points(m, m))[0]
    return {
        "make": lambda like: HypersphericalUniform(m, (2,), dtype=like.dtype, device=like.device),
        "params": {"like": torch.zeros(())},
        "proposal": law if m > 3 else None,
        "isometry": (lambda z: z @ rotation.T, {}),
        "kl_to": [law],
    }


def around_loc(family: Callable, m: int, kl_to: list, antipode: bool) -> dict:
    """A law on S^{m-1} that is symmetric about ``loc``, the poles of the chart among the directions on the grid."""
    loc, rotation = random_points(3, m, seed=1), torch.linalg.qr(random_points(m, m))[0]
    concentration = torch.tensor([0.3, 3.0, 12.0] if m < 16 else [0.3, 2.0, 5.0])
    poles = torch.cat([torch.eye(m)[:2], -torch.eye(m)[:2]]).double()

    def points(law):
        tangent = rotate_from_pole(torch.eye(m)[1].to(law.loc), law.loc)
        return torch.stack([law.loc, tangent, -law.loc][: 3 if antipode else 2])

    return {
        "make": lambda loc, concentration: family(normalize(loc, dim=-1), concentration),
        "params": {"loc": loc, "concentration": concentration},
        "proposal": HypersphericalUniform(m, dtype=torch.float64) if m > 3 else None,
        "isometry": (lambda z: z @ rotation.T, {"loc": loc @ rotation.T}),
        "kl_to": kl_to,
        "points": points,
        "grid": [{"loc": poles.unsqueeze(1), "concentration": CONCENTRATIONS}],
    }


def concentrated(family: Callable, m: int, proposal: Callable | None) -> dict:
    """Where the law is far from the uniform one, its mass is taken over draws from another family, a little wider."""
    loc, concentration = random_points(3, m, seed=1), torch.tensor([30.0, 200.0, 1000.0]).double()
    return {
        "make": lambda loc, concentration: family(normalize(loc, dim=-1), concentration),
        "params": {"loc": loc, "concentration": concentration},
        "proposal": proposal and proposal(loc, concentration),
        "points": lambda law: law.loc[None],
        "skip": {"kl": "taken at low concentration", "isometry": "taken at low concentration"},
    }


def laws() -> dict[str, dict]:
    found = {}
    for m in (2, 3, 16):
        flat = HypersphericalUniform(m, dtype=torch.float64)
        bump = VonMisesFisher(random_points(m, seed=2), torch.tensor(2.0, dtype=torch.float64))
        found[f"HypersphericalUniform({m})"] = uniform(m)
        found[f"VonMisesFisher({m})"] = around_loc(VonMisesFisher, m, [flat, bump], antipode=True)
        # The density of the power spherical law is zero at the antipode, its logarithm not finite.
        found[f"PowerSpherical({m})"] = around_loc(PowerSpherical, m, [flat, bump], antipode=False)
    found["VonMisesFisher(3), concentrated"] = concentrated(VonMisesFisher, 3, None)
    found["PowerSpherical(3), concentrated"] = concentrated(PowerSpherical, 3, None)
    # A power spherical law of concentration 2k and a von Mises-Fisher law of concentration k have the same width.
    found["VonMisesFisher(16), concentrated"] = concentrated(
        VonMisesFisher, 16, lambda loc, k: PowerSpherical(loc, 1.4 * k)
    )
    found["PowerSpherical(16), concentrated"] = concentrated(
        PowerSpherical, 16, lambda loc, k: VonMisesFisher(loc, 0.35 * k)
    )
    found["SO3Uniform"] = {
        "make": lambda like: SO3Uniform((2,), dtype=like.dtype, device=like.device),
        "params": {"like": torch.zeros(())},
        "proposal": SO3Uniform(dtype=torch.float64),
        "isometry": (lambda z: ROTATION @ z @ ROTATION.T, {}),
        "kl_to": [SO3Uniform(dtype=torch.float64)],
    }
    f = (
        torch.tensor([1.0, 4.0]).double()[:, None, None]
        * ROTATION
        @ torch.diag(torch.tensor([1.0, 0.5, -0.2])).double()
    )
    found["FrameAverage"] = {
        "make": lambda concentration: FrameAverage(MatrixFisher(concentration)),
        "params": {"concentration": f},
        "proposal": SO3Uniform(dtype=torch.float64),
        "isometry": (lambda z: ROTATION @ z, {"concentration": ROTATION @ f}),
        "points": lambda law: law.base.mode[None],
        "num_samples": 2**12,
        "skip": {
            "argument validation": "its argument is a law",
            "moments": "has none",
            "entropy": "has none",
            "kl": "has none",
            "pathwise gradient": "samples carry none",
            "score": "a test of the law of its argument",
        },
    }
    found["ContinuousBernoulli"] = {
        "make": ContinuousBernoulli,
        "params": {"logits": torch.tensor([-6.0, -2.0, 0.0, 1e-3, 0.4, 4.0])},
        "proposal": dist.Uniform(torch.zeros(()).double(), torch.ones(()).double()),
        "isometry": (lambda z: 1 - z, {"logits": torch.tensor([6.0, 2.0, 0.0, -1e-3, -0.4, -4.0])}),
        "grid": [{"logits": torch.tensor([-1e4, -1e-8, 1e-8, 1e4])}],
        "points": lambda law: torch.linspace(0, 1, 5).to(law.logits)[:, None].expand(-1, *law.batch_shape),
        "skip": {"kl": "none is registered"},
    }
    return found


def uniform_on(manifold, like: Tensor) -> dict:
    """The uniform law of a manifold, held to itself moved by nothing: it has no parameters but its dtype."""
    return {
        "make": lambda like: Uniform(manifold, like, (2,)),
        "params": {"like": like},
        "proposal": Uniform(manifold, like),
        "kl_to": [Uniform(manifold, like)],
        "skip": dict.fromkeys(["isometry", "argument validation", "moments"], "it has no parameters"),
    }


def tangent_normal(manifold, like: Tensor, wide: bool = False, **options) -> dict:
    """About points of the lift, with full factors. ``wide``: held to a wider law, and not to the uniform one."""
    d, lift = manifold.intrinsic_dim(like), manifold.lift
    raw = torch.randn(2, d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 5
    raw = raw + torch.eye(d) * torch.tensor([0.7, 0.9])[:, None, None]
    start = lift.start(like)
    v = start + 0.1 * torch.randn(2, *start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def make(v, raw):
        L = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).abs())
        return TangentNormal(manifold, lift.point(v), L, num_wraps=1)

    far = TangentNormal(manifold, lift.point(v.mean(0)), 1.2 * torch.eye(d).double()) if wide else None
    return {
        "make": make,
        "params": {"v": v, "raw": raw},
        "proposal": far or Uniform(manifold, like),
        "points": lambda law: law.loc.unsqueeze(0),
        "grid": [{"v": v, "raw": torch.eye(d) * s} for s in (1e-3, 1.0)],
        "skip": {
            "argument validation": "one of its arguments is a manifold",
            "moments": "it has none in closed form",
            "entropy": "it has none in closed form",
            "kl": "none is registered",
            "isometry": "the frame need not follow it",
            **options,
        },
    }


def on_quotient(manifold, like: Tensor, family: Callable, proposal=None) -> dict:
    """A law on a cover by its point, two of them."""
    start = manifold.lift.start(like)
    v = start + 0.1 * torch.randn(2, *start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return {
        "make": lambda v: OnQuotient(family(manifold.lift.point(v)), manifold),
        "params": {"v": v},
        "proposal": Uniform(manifold, like),
        "points": lambda law: center(law).unsqueeze(0),
        "skip": {
            "argument validation": "one of its arguments is a law",
            "moments": "it has none in closed form",
            "entropy": "it has none in closed form",
            "kl": "none is registered",
            "isometry": "a test of the law of its argument",
        },
    }


def laws_on_manifolds() -> dict[str, dict]:
    found = {}
    turn, cylinder = so3.exp(torch.tensor([0.3, -0.7, 1.1]).double()), quotient("moebius").base
    on_cylinder = torch.cat([random_points(2), torch.tensor([0.4])])
    box = Box([True, False], 0.0, 4.0)
    inside, plane = torch.tensor([0.3, 0.9]).double(), from_origin(torch.tensor([0.3, 0.9]).double())
    for name, manifold, like in (
        ("Torus(2)", Torus(2), random_points(2, 2)),
        ("Sphere(3)", Sphere(), random_points(3)),
        ("SO3", SO3(), turn),
        ("Box", box, inside),
        ("Power(Sphere)", Power(Sphere(), 1), random_points(2, 3)),
        ("klein", quotient("klein"), random_points(2, 2)),
        ("projective", quotient("projective"), random_points(3)),
        ("ComplexProjective", ComplexProjective(), random_points(6).unflatten(-1, (3, 2))),
        ("axes", quotient("axes"), turn),
    ):
        found[f"Uniform({name})"] = uniform_on(manifold, like)
        found[f"TangentNormal({name})"] = tangent_normal(manifold, like, wide=manifold.intrinsic_dim(like) > 2)
    found["TangentNormal(Hyperboloid)"] = tangent_normal(Hyperboloid(), plane, wide=True)
    found["TangentNormal(cylinder)"] = tangent_normal(cylinder, on_cylinder, wide=True)
    found["TangentNormal(moebius)"] = tangent_normal(quotient("moebius"), on_cylinder, wide=True)
    found["OnQuotient(klein)"] = on_quotient(
        quotient("klein"),
        random_points(2, 2),
        lambda z: VonMisesFisher(z, torch.full_like(z[..., 0], 3.0)).to_event(1),
    )
    found["OnQuotient(axes)"] = on_quotient(
        quotient("axes"), turn, lambda z: SO3Normal(z, torch.full_like(z[..., 0], 0.5), num_wraps=2)
    )
    return found


LAWS = laws() | laws_on_manifolds()


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    report = check_distribution(**LAWS[law])
    # A check that is skipped without a word about it here tells that the list above leaves something out.
    expected = set(LAWS[law].get("skip", ())) | ({"argument validation"} if "Uniform" in law else set())
    assert {name for name, figure in report.items() if isinstance(figure, str)} == expected, report
