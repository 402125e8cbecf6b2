"""Every law refuses parameters that are infinite or not a number, by the name of the parameter."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, constraints, transform_to

from ppvae import distributions
from ppvae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppvae.distributions.finite import Finite, log_weights
from ppvae.distributions.negative_binomial import NegativeBinomial
from ppvae.manifolds import Circle, Hyperboloid, Sphere, Torus

E = torch.eye(3)
#: law -> how it is made, and valid parameters
LAWS = {
    "ContinuousBernoulli": (ContinuousBernoulli, {"logits": torch.tensor([0.5, -3.0])}),
    "GaussianMixture": (
        distributions.GaussianMixture,
        {"logits": torch.zeros(4), "loc": torch.zeros(4, 2), "scale": torch.ones(4, 2)},
    ),
    "HamiltonianFlow": (
        lambda **p: distributions.HamiltonianFlow(
            log_joint=lambda z: -z.square().sum(-1), steps=2, validate_args=True, **p
        ),
        {
            "loc": torch.zeros(2),
            "scale": torch.ones(2),
            "step_size": torch.full((2,), 0.1),
            "beta_0": torch.tensor(0.5),
        },
    ),
    "InverseAutoregressive": (
        lambda **p: distributions.InverseAutoregressive(layers=(), validate_args=True, **p),
        {"loc": torch.zeros(2), "scale": torch.ones(2), "context": torch.zeros(3)},
    ),
    "IsotropicGaussianSO3": (distributions.IsotropicGaussianSO3, {"loc": E, "scale": torch.tensor([0.5, 1.0])}),
    "MatrixFisher": (distributions.MatrixFisher, {"concentration": 3 * E}),
    "Mixture": (
        lambda logits: distributions.Mixture(logits, dist.Normal(torch.zeros(4), 1.0), validate_args=True),
        {"logits": torch.zeros(4)},
    ),
    "NegativeBinomial": (
        NegativeBinomial,
        {"total_count": torch.tensor([0.5, 2.0]), "logits": torch.tensor(0.3)},
    ),
    "PowerSpherical": (distributions.PowerSpherical, {"loc": E, "concentration": torch.tensor(2.0)}),
    "SO3Normal": (distributions.SO3Normal, {"loc": E, "scale": torch.ones(3)}),
    "SO3Pushforward": (
        lambda loc: distributions.SO3Pushforward(dist.Normal(torch.zeros(3), 1.0).to_event(1), loc, validate_args=True),
        {"loc": E},
    ),
    "TangentNormal": (
        lambda **p: distributions.TangentNormal(Sphere(), validate_args=True, **p),
        {"loc": E, "scale_tril": torch.eye(2).repeat(3, 1, 1)},
    ),
    "UnimodalBeta": (distributions.UnimodalBeta, {"p": torch.tensor([0.0, 2.0]), "q": torch.tensor(3.0)}),
    "VonMisesFisher": (distributions.VonMisesFisher, {"loc": E, "concentration": torch.tensor([0.0, 1.0, 9.0])}),
    **{
        f"WrappedNormal on {type(manifold).__name__}": (
            lambda loc, scale, manifold=manifold: distributions.WrappedNormal(manifold, loc, scale, validate_args=True),
            {"loc": loc, "scale": scale},
        )
        for manifold, loc, scale in (
            (Circle(), E[0, :2], torch.ones(1)),
            (Torus(2), E[:2, :2], torch.ones(2)),
            (Sphere(), E, torch.ones(2)),
            (Hyperboloid(), E[0], torch.ones(2)),
        )
    },
}
#: laws without a parameter of their own
WITHOUT = {
    "EmbeddedPushforward",
    "FrameAverage",
    "HypersphericalUniform",
    "OnQuotient",
    "ProductLaw",
    "SO3Uniform",
    "Uniform",
    "UnrolledCircle",
}


@pytest.mark.parametrize("law", LAWS)
def test_a_parameter_that_is_not_finite_is_refused_by_its_name(law):
    make, parameters = LAWS[law]
    make(**parameters)
    for name, value in parameters.items():
        for bad in (math.inf, -math.inf, math.nan):
            if name == "logits" and law in ("Mixture", "GaussianMixture") and bad == -math.inf:
                continue
            spoilt = value.clone()
            spoilt.view(-1)[-1] = bad
            with pytest.raises(ValueError, match=rf"parameter {name}\b"):
                make(**{**parameters, name: spoilt})


def test_no_law_is_forgotten():
    laws = {n for n in distributions.__all__ if isinstance(getattr(distributions, n), type)}
    assert laws | {"ContinuousBernoulli", "NegativeBinomial"} == WITHOUT | {name.split(" ")[0] for name in LAWS}


@pytest.mark.parametrize("family", ["Mixture", "GaussianMixture"])
def test_a_weight_may_be_zero_but_not_all(family):
    make, parameters = LAWS[family]
    make(**{**parameters, "logits": torch.tensor([-math.inf, 0.0, -math.inf, 1.0])})
    with pytest.raises(ValueError, match=r"parameter logits\b"):
        make(**{**parameters, "logits": torch.full((4,), -math.inf)})


def test_constraints_have_the_transforms_of_their_base():
    x = torch.tensor([-2.0, 0.0, 3.0])
    for registry in (biject_to, transform_to):
        assert torch.equal(registry(Finite(constraints.positive))(x), x.exp())
        assert torch.equal(registry(constraints.independent(Finite(constraints.real), 1))(x), x)
        assert torch.equal(registry(log_weights)(x), x)
