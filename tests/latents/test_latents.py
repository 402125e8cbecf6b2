"""The contract over all latents: adding a latent is adding a line to LATENTS."""

import pytest

from ppvae import latents, manifolds
from ppvae.latents import (
    Box,
    Cylinder,
    Gaussian,
    GaussianMixture,
    Hyperbolic,
    Quotient,
    Rotation,
    Shape,
    Spherical,
    Torus,
    Vamp,
)
from ppvae.manifolds.embeddings import CircleEmbedding, FlatTorusEmbedding, MoebiusEmbedding
from ppvae.nn import KleinHead, PowerSphericalHead, UnrolledCircleHead
from ppvae.testing import check_latent


def klein(x):
    """(t, p) -> (t + pi, -p)."""
    return manifolds.quotient("klein").group[1](x)


def itself(x):
    return x


def invariants(x):
    return manifolds.quotient("klein").embed(x)


LATENTS = {
    "Gaussian": lambda: Gaussian(3),
    "GaussianMixture": lambda: GaussianMixture(2, clusters=4),
    "Hyperbolic": lambda: Hyperbolic(3),
    "Spherical(2)": lambda: Spherical(2),
    "Spherical(2, 3)": lambda: Spherical(2, copies=3),
    "Spherical(3)": lambda: Spherical(3),
    "Spherical(6, 4)": lambda: Spherical(6, copies=4),
    "Spherical, power spherical": lambda: Spherical(3, head=PowerSphericalHead(3)),
    "Torus(2)": lambda: Torus(2),
    "Rotation": lambda: Rotation(),
    "Cylinder": lambda: Cylinder(),
    "Box": lambda: Box(CircleEmbedding()),
    "Box, glued": lambda: Box(FlatTorusEmbedding(2), UnrolledCircleHead(2)),
    "Box, one side glued": lambda: Box(MoebiusEmbedding(), glued=[False, True]),
    "Shape(3)": lambda: Shape(3),
    "Shape(5)": lambda: Shape(5),
    "Quotient, moebius": lambda: Quotient("moebius"),
    "Quotient, klein": lambda: Quotient(Torus(2), "klein"),
    "Quotient, projective": lambda: Quotient(Spherical(4), "projective"),
    "Quotient, axes": lambda: Quotient(Rotation(), "axes"),
    "Quotient of one's own": lambda: Quotient(Torus(2), [itself, klein], head=KleinHead(), embed=invariants),
    "Vamp": lambda: Vamp((5,), Spherical(3), pseudo_inputs=4),
    "Vamp of a quotient": lambda: Vamp((5,), Quotient("klein"), pseudo_inputs=4),
}


@pytest.mark.parametrize("name", LATENTS)
def test_latent(name):
    report = check_latent(LATENTS[name])
    assert not [said for said in report.values() if said.startswith("skipped")], report


def test_every_latent_is_in_the_list():
    classes = {type(make()).__name__ for make in LATENTS.values()}
    assert classes == {name for name in latents.__all__ if isinstance(getattr(latents, name), type)} - {"Latent"}
