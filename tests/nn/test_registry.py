"""The tables of parts: what is in them, what fits a model, and that they are read without torch."""

import subprocess
import sys
from pathlib import Path

import ppvae.models
import pytest
import torch
from pyro.distributions import constraints
from torch import nn

import ppvae.nn
from ppvae import io
from ppvae.cli.signatures import signature
from ppvae.manifolds import Box, Circle, ComplexProjective, Euclidean, Product, hyperboloid, quotient, sphere
from ppvae.manifolds.so3 import rotation
from ppvae.nn import registry

SAVED = Path(__file__).parents[1] / "saved"
PARTS = {part.cls: part for table in [*registry.TABLES.values(), registry.NETWORKS] for part in table.values()}


def test_the_tables_are_read_without_torch():
    code = "import sys, ppvae.nn.registry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_is_where_its_table_says_and_public(part):
    assert part.load() is getattr(ppvae.nn, part.cls) is registry.named(part.cls)
    assert part.space and part.reads


def test_every_module_whose_options_a_file_can_hold_is_in_a_table():
    classes = [getattr(ppvae.nn, name) for name in ppvae.nn.__all__]
    modules = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, nn.Module)]
    assert {cls.__name__ for cls in modules} - {"Batched", "MLP"} == set(PARTS)


def test_every_part_is_in_a_saved_file():
    def heads(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        own = {value["head"]} if isinstance(value, dict) and isinstance(value.get("head"), str) else set()
        return own.union(*map(heads, inner))

    found = set().union(*(heads(io.read(file)[0]) for file in SAVED.glob("*.safetensors")))
    parts = {*PARTS, *(part.cls for part in registry.LATENTS.values())}
    assert found == parts - {"WignerD"}  # which alone is no network of a VAE


SPACES = {
    "R^d": constraints.real_vector,
    "points of R^d": constraints.real_vector,
    "sphere": sphere,
    "points of the sphere": sphere,
    "hyperboloid": hyperboloid,
    "rotations": rotation,
    "box": constraints.independent(constraints.unit_interval, 1),
    "torus": constraints.independent(constraints.half_open_interval(0.0, 1.0), 1),
}
#: Spaces whose points are those of another one, or of a product.
COVERED = {
    "cylinder": Product([Circle(), Euclidean()], [(2,), (1,)]).support,
    "box with glued sides": Box(glued=(True, False)).support,
    "Möbius strip": quotient("moebius").support,
    "Klein bottle": quotient("klein").support,
    "projective space": quotient("projective").support,
    "rotations, up to the signs of axes": quotient("axes").support,
    "shapes of landmarks": ComplexProjective().support,
}
OPTIONS = {"dim": 3, "clusters": 3, "glued": (True, False), "landmarks": 4}


@pytest.mark.parametrize("name", registry.HEADS)
def test_the_law_of_a_head_lives_on_the_space_that_the_table_says(name):
    part = registry.HEADS[name]
    required = [option.name for option in signature(f"ppvae.{part.module}:{part.cls}").options.values()]
    head = part.load()(**{option: value for option, value in OPTIONS.items() if option in required})
    law = head(torch.randn(4, head.features, generator=torch.Generator().manual_seed(0)))
    draws = law.sample((100,))
    assert law.batch_shape == (4,) and {**SPACES, **COVERED}[part.space].check(draws).all()
    if part.space in COVERED:
        return
    others = {"sphere", "hyperboloid", "rotations", "box"} - {part.space, part.space.removeprefix("points of the ")}
    for other in others - ({"box"} if part.space == "torus" else set()):
        if SPACES[other].event_dim == len(law.event_shape):
            assert not SPACES[other].check(draws).all(), other
    assert (type(law).__name__ == "Delta") == part.space.startswith("points")


@pytest.mark.parametrize("name", ppvae.models.TABLE)
def test_a_model_that_takes_a_head_says_where_it_may_live(name):
    model = signature(ppvae.models.place(name))
    heads = registry.fitting(model.space)
    assert bool(heads) == ("head" in model.options)
    if not heads:
        return
    assert model.space == ppvae.models.find(name).space
    vae = ppvae.models.find(name)((6,))
    assert f"{type(vae.head).__name__.removesuffix('Head')}" in heads


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("gaussian-vae", ["Normal", "InverseAutoregressive", "GaussianMixture", "Delta"]),
        ("spherical-vae", ["PowerSpherical", "VonMisesFisher", "SphericalDelta"]),
        ("so3-vae", ["SO3Normal"]),
        ("manifold-vae", ["UnimodalBeta", "UnrolledCircle"]),
        ("hyperbolic-vae", []),
    ],
)
def test_the_heads_that_fit(name, heads):
    assert registry.fitting(signature(ppvae.models.place(name)).space) == heads


def test_the_nested_heads_of_clusters_and_poses():
    assert registry.fitting(ppvae.nn.Clusters.space)[0] == "Normal"
    assert registry.fitting(ppvae.nn.Pose.space) == ["PowerSpherical", "VonMisesFisher", "SphericalDelta"]
