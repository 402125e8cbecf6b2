"""The manifold of every law of ppvae, Pyro and torch, and which support contains which."""

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import ones, tensor, zeros
from torch.distributions import constraints

import ppvae.distributions as ours
from ppvae.infer.spaces import contains, manifold_of, measure_of
from ppvae.manifolds import (
    SO3,
    Angle,
    Box,
    Circle,
    Euclidean,
    Hyperboloid,
    Power,
    Product,
    Quotient,
    Sphere,
    Torus,
    quotient,
)
from ppvae.manifolds.embeddings import CircleEmbedding, SwissRollEmbedding
from ppvae.nn import InverseAutoregressiveHead
from ppvae.random import seeded

EYE, POLE = torch.eye(3), tensor([1.0, 0.0, 0.0])
T = dist.transforms
R, POSITIVE, UNIT = (-math.inf, math.inf), (0, math.inf), (0, 1)


def transformed(law, *transforms):
    return dist.TransformedDistribution(law, list(transforms))


def mixture(components):
    return dist.MixtureSameFamily(dist.Categorical(ones(2)), components)


def normals(*shape):
    return dist.Normal(zeros(shape), 1.0).to_event(len(shape))


#: a law -> its manifold, and for a part of R^d the least and the greatest number; None for counts, or a space that
#: ppvae has no manifold for, with the words of its measure
LAWS: dict[str, tuple[Callable, type | None, tuple | str | None]] = {
    # all of R^d
    "Normal": (lambda: dist.Normal(0.0, 1.0), Euclidean, R),
    "Normal, vector": (lambda: normals(3), Euclidean, R),
    "Normal, matrix": (lambda: normals(2, 3), Euclidean, R),
    "Normal, masked": (lambda: normals(3).mask(tensor(True)), Euclidean, R),
    "Normal, expanded": (lambda: dist.ExpandedDistribution(dist.Normal(0.0, 1.0), (3,)), Euclidean, R),
    "MultivariateNormal": (lambda: dist.MultivariateNormal(zeros(2), torch.eye(2)), Euclidean, R),
    "AVFMultivariateNormal": (
        lambda: dist.AVFMultivariateNormal(zeros(2), torch.eye(2), zeros(2, 1, 2)),
        Euclidean,
        R,
    ),
    "OMTMultivariateNormal": (lambda: dist.OMTMultivariateNormal(zeros(2), torch.eye(2)), Euclidean, R),
    "LowRankMultivariateNormal": (
        lambda: dist.LowRankMultivariateNormal(zeros(2), ones(2, 1), ones(2)),
        Euclidean,
        R,
    ),
    "NanMaskedNormal": (lambda: dist.NanMaskedNormal(0.0, 1.0), Euclidean, R),
    "NanMaskedMultivariateNormal": (
        lambda: dist.NanMaskedMultivariateNormal(zeros(2), torch.eye(2)),
        Euclidean,
        R,
    ),
    "Laplace": (lambda: dist.Laplace(0.0, 1.0), Euclidean, R),
    "AsymmetricLaplace": (lambda: dist.AsymmetricLaplace(0.0, 1.0, 1.0), Euclidean, R),
    "SoftLaplace": (lambda: dist.SoftLaplace(0.0, 1.0), Euclidean, R),
    "SoftAsymmetricLaplace": (lambda: dist.SoftAsymmetricLaplace(0.0, 1.0, 1.0), Euclidean, R),
    "Cauchy": (lambda: dist.Cauchy(0.0, 1.0), Euclidean, R),
    "StudentT": (lambda: dist.StudentT(3.0), Euclidean, R),
    "MultivariateStudentT": (lambda: dist.MultivariateStudentT(3.0, zeros(2), torch.eye(2)), Euclidean, R),
    "Gumbel": (lambda: dist.Gumbel(0.0, 1.0), Euclidean, R),
    "Logistic": (lambda: dist.Logistic(0.0, 1.0), Euclidean, R),
    "SkewLogistic": (lambda: dist.SkewLogistic(0.0, 1.0), Euclidean, R),
    "Stable": (lambda: dist.Stable(1.5, 0.0), Euclidean, R),
    "StableWithLogProb": (lambda: dist.StableWithLogProb(1.5, 0.0), Euclidean, R),
    "GaussianScaleMixture": (
        lambda: dist.GaussianScaleMixture(ones(3), zeros(2), ones(2)),
        Euclidean,
        R,
    ),
    "MixtureOfDiagNormals": (
        lambda: dist.MixtureOfDiagNormals(zeros(2, 3), ones(2, 3), zeros(2)),
        Euclidean,
        R,
    ),
    "MixtureOfDiagNormalsSharedCovariance": (
        lambda: dist.MixtureOfDiagNormalsSharedCovariance(zeros(2, 3), ones(3), zeros(2)),
        Euclidean,
        R,
    ),
    "MixtureSameFamily": (lambda: mixture(dist.Normal(zeros(2), 1.0)), Euclidean, R),
    "MixtureSameFamily, vector": (lambda: mixture(dist.Normal(zeros(2, 3), 1.0).to_event(1)), Euclidean, R),
    "MaskedMixture": (
        lambda: dist.MaskedMixture(tensor(True), dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)),
        Euclidean,
        R,
    ),
    "Delta": (lambda: dist.Delta(zeros(2), event_dim=1), Euclidean, R),
    "ImproperUniform": (lambda: dist.ImproperUniform(constraints.real, (), ()), Euclidean, R),
    "GaussianMixture": (lambda: ours.GaussianMixture(zeros(2), zeros(2, 3), ones(2, 3)), Euclidean, R),
    "InverseAutoregressive": (
        lambda: InverseAutoregressiveHead(2, 1, 4, 2)(zeros(1, InverseAutoregressiveHead(2, 1, 4, 2).features)),
        Euclidean,
        R,
    ),
    "HamiltonianFlow": (
        lambda: ours.HamiltonianFlow(zeros(2), ones(2), lambda z: -z.square().sum(-1), ones(2), tensor(1.0), 1),
        Euclidean,
        R,
    ),
    # transformed laws: the image of the base under all transforms
    "transformed by a flow": (lambda: transformed(normals(2), T.planar(2)), Euclidean, R),
    "transformed by a spline": (lambda: transformed(normals(2), T.spline(2)), Euclidean, R),
    "affine of Normal": (lambda: transformed(dist.Normal(0.0, 1.0), T.AffineTransform(1.0, 2.0)), Euclidean, R),
    "logistic by its quantiles": (
        lambda: transformed(dist.Uniform(0.0, 1.0), T.SigmoidTransform().inv, T.AffineTransform(1.0, -2.0)),
        Euclidean,
        R,
    ),
    "affine of Uniform": (
        lambda: transformed(dist.Uniform(0.0, 1.0), T.AffineTransform(1.0, 2.0)),
        Euclidean,
        (1, 3),
    ),
    "affine of Beta, falling": (
        lambda: transformed(dist.Beta(ones(3), 1.0).to_event(1), T.AffineTransform(1.0, -2.0)),
        Box,
        (-1, 1),
    ),
    "affine of Gamma, falling": (
        lambda: transformed(dist.Gamma(1.0, 1.0), T.AffineTransform(1.0, -2.0)),
        Euclidean,
        (-math.inf, 1),
    ),
    "affine of Gamma": (
        lambda: transformed(dist.Gamma(1.0, 1.0), T.AffineTransform(1.0, 2.0)),
        Euclidean,
        (1, math.inf),
    ),
    "exponential of Normal": (lambda: transformed(dist.Normal(0.0, 1.0), T.ExpTransform()), Euclidean, POSITIVE),
    "exponential of Uniform": (
        lambda: transformed(dist.Uniform(0.0, 1.0), T.ExpTransform()),
        Euclidean,
        (1, math.e),
    ),
    "sigmoid of Normal": (lambda: transformed(dist.Normal(0.0, 1.0), T.SigmoidTransform()), Euclidean, UNIT),
    "tanh of Normal": (lambda: transformed(dist.Normal(0.0, 1.0), T.TanhTransform()), Euclidean, (-1, 1)),
    "ordered": (lambda: transformed(normals(3), T.OrderedTransform()), Euclidean, None),
    "stacked": (
        lambda: transformed(normals(2), T.StackTransform([T.ExpTransform(), T.AffineTransform(0.0, 1.0)], -1)),
        Euclidean,
        None,
    ),
    # a half line
    "HalfNormal": (lambda: dist.HalfNormal(1.0), Euclidean, POSITIVE),
    "HalfCauchy": (lambda: dist.HalfCauchy(1.0), Euclidean, POSITIVE),
    "FoldedDistribution": (lambda: dist.FoldedDistribution(dist.Normal(0.0, 1.0)), Euclidean, POSITIVE),
    "Exponential": (lambda: dist.Exponential(1.0), Euclidean, POSITIVE),
    "Gamma": (lambda: dist.Gamma(1.0, 1.0), Euclidean, POSITIVE),
    "InverseGamma": (lambda: dist.InverseGamma(1.0, 1.0), Euclidean, POSITIVE),
    "Chi2": (lambda: dist.Chi2(1.0), Euclidean, POSITIVE),
    "LogNormal": (lambda: dist.LogNormal(0.0, 1.0), Euclidean, POSITIVE),
    "Weibull": (lambda: dist.Weibull(1.0, 1.0), Euclidean, POSITIVE),
    "FisherSnedecor": (lambda: dist.FisherSnedecor(1.0, 1.0), Euclidean, POSITIVE),
    "Pareto": (lambda: dist.Pareto(2.0, 1.0), Euclidean, (2, math.inf)),
    # an interval
    "Uniform": (lambda: dist.Uniform(-1.0, 2.0), Euclidean, (-1, 2)),
    "Beta": (lambda: dist.Beta(1.0, 1.0), Euclidean, UNIT),
    "Beta, vector": (lambda: dist.Beta(ones(3), 1.0).to_event(1), Box, UNIT),
    "AffineBeta": (
        lambda: dist.AffineBeta(tensor(1.0), tensor(1.0), tensor(1.0), tensor(2.0)),
        Euclidean,
        (1, 3),
    ),
    "Kumaraswamy": (lambda: dist.Kumaraswamy(1.0, 1.0), Euclidean, UNIT),
    "ContinuousBernoulli": (lambda: dist.ContinuousBernoulli(0.3), Euclidean, UNIT),
    "RelaxedBernoulli": (lambda: dist.RelaxedBernoulli(tensor(1.0), tensor(0.3)), Euclidean, UNIT),
    "RelaxedBernoulliStraightThrough": (
        lambda: dist.RelaxedBernoulliStraightThrough(tensor(1.0), tensor(0.3)),
        Euclidean,
        UNIT,
    ),
    "TruncatedPolyaGamma": (lambda: dist.TruncatedPolyaGamma(ones(1)), Euclidean, (0, 2.5)),
    "mixture of Beta": (lambda: mixture(dist.Beta(ones(2), 1.0)), Euclidean, UNIT),
    "mixture of Uniform": (
        lambda: mixture(dist.Uniform(tensor([0.0, 1.0]), tensor([1.5, 2.0]))),
        Euclidean,
        (0, 2),
    ),
    "UnimodalBeta": (lambda: ours.UnimodalBeta(tensor(0.5), tensor(2.0)), Euclidean, UNIT),
    "UnrolledCircle": (
        lambda: ours.UnrolledCircle(ours.VonMisesFisher(tensor([1.0, 0.0]), tensor(2.0))),
        Euclidean,
        UNIT,
    ),
    # angles
    "VonMises": (lambda: dist.VonMises(tensor(0.0), tensor(1.0)), Angle, None),
    "VonMises, vector": (lambda: dist.VonMises(zeros(2), ones(2)).to_event(1), Angle, None),
    "VonMises, masked": (lambda: dist.VonMises(zeros(2), ones(2)).mask(tensor([True, False])), Angle, None),
    "mixture of VonMises": (lambda: mixture(dist.VonMises(zeros(2), ones(2))), Angle, None),
    "SineBivariateVonMises": (
        lambda: dist.SineBivariateVonMises(*(tensor(value) for value in (0.0, 0.0, 1.0, 1.0, 0.1))),
        Angle,
        None,
    ),
    "SineSkewed": (
        lambda: dist.SineSkewed(dist.VonMises(zeros(2), ones(2)).to_event(1), tensor([0.1, 0.1])),
        Angle,
        None,
    ),
    "moved VonMises": (
        lambda: transformed(dist.VonMises(tensor(0.0), tensor(1.0)), T.AffineTransform(0.0, 2.0)),
        None,
        "the measure of TransformedDistribution",
    ),
    # curved
    "ProjectedNormal": (lambda: dist.ProjectedNormal(ones(3)), Sphere, None),
    "VonMises3D": (lambda: dist.VonMises3D(tensor([0.0, 0.0, 2.0])), Sphere, None),
    "mixture of ProjectedNormal": (lambda: mixture(dist.ProjectedNormal(torch.eye(3)[:2])), Sphere, None),
    "VonMisesFisher": (lambda: ours.VonMisesFisher(POLE, tensor(2.0)), Sphere, None),
    "PowerSpherical": (lambda: ours.PowerSpherical(POLE, tensor(2.0)), Sphere, None),
    "HypersphericalUniform": (lambda: ours.HypersphericalUniform(3), Sphere, None),
    "HypersphericalUniform, several": (
        lambda: ours.HypersphericalUniform(3).expand([4]).to_event(1),
        Sphere,
        None,
    ),
    "Mixture": (lambda: ours.Mixture(ones(2), ours.HypersphericalUniform(3).expand([2])), Sphere, None),
    "Uniform on a sphere": (lambda: ours.Uniform(Sphere(), (3,)), Sphere, None),
    "TangentNormal": (lambda: ours.TangentNormal(Sphere(), POLE, torch.eye(2)), Sphere, None),
    "OnQuotient": (
        lambda: ours.OnQuotient(ours.HypersphericalUniform(3), quotient("projective")),
        Quotient,
        None,
    ),
    "ProductLaw": (
        lambda: ours.ProductLaw(
            [ours.HypersphericalUniform(2), dist.Normal(zeros(1), 1.0).to_event(1)],
            Product([Circle(), Euclidean()], [(2,), (1,)]),
        ),
        Product,
        None,
    ),
    "WrappedNormal, circle": (lambda: ours.WrappedNormal(Circle(), POLE[:2], ones(1)), Circle, None),
    "WrappedNormal, torus": (lambda: ours.WrappedNormal(Torus(2), torch.eye(2), ones(2)), Torus, None),
    "WrappedNormal, sphere": (lambda: ours.WrappedNormal(Sphere(), POLE, ones(2)), Sphere, None),
    "WrappedNormal": (lambda: ours.WrappedNormal(Hyperboloid(), POLE, ones(2)), Hyperboloid, None),
    "EmbeddedPushforward": (
        lambda: ours.EmbeddedPushforward(dist.Uniform(zeros(1), 1.0).to_event(1), CircleEmbedding()),
        Circle,
        None,
    ),
    "SO3Uniform": (lambda: ours.SO3Uniform(), SO3, None),
    "SO3Normal": (lambda: ours.SO3Normal(EYE, ones(3)), SO3, None),
    "SO3Pushforward": (lambda: ours.SO3Pushforward(normals(3), EYE), SO3, None),
    "IsotropicGaussianSO3": (lambda: ours.IsotropicGaussianSO3(EYE, tensor(0.5)), SO3, None),
    "MatrixFisher": (lambda: ours.MatrixFisher(EYE), SO3, None),
    "FrameAverage": (lambda: ours.FrameAverage(ours.MatrixFisher(EYE)), SO3, None),
    # counts and classes
    "Bernoulli": (lambda: dist.Bernoulli(0.3), None, "counts"),
    "Categorical": (lambda: dist.Categorical(ones(3)), None, "counts"),
    "OneHotCategorical": (lambda: dist.OneHotCategorical(ones(3)), None, "counts"),
    "OneHotCategoricalStraightThrough": (
        lambda: dist.OneHotCategoricalStraightThrough(ones(3)),
        None,
        "counts",
    ),
    "OrderedLogistic": (lambda: dist.OrderedLogistic(tensor(0.0), tensor([0.0, 1.0])), None, "counts"),
    "Binomial": (lambda: dist.Binomial(5, tensor(0.3)), None, "counts"),
    "BetaBinomial": (lambda: dist.BetaBinomial(tensor(1.0), tensor(1.0), 5), None, "counts"),
    "Multinomial": (lambda: dist.Multinomial(5, ones(3)), None, "counts"),
    "DirichletMultinomial": (lambda: dist.DirichletMultinomial(ones(3), 5), None, "counts"),
    "Poisson": (lambda: dist.Poisson(1.0), None, "counts"),
    "Geometric": (lambda: dist.Geometric(0.3), None, "counts"),
    "NegativeBinomial": (lambda: dist.NegativeBinomial(tensor(2.0), tensor(0.3)), None, "counts"),
    "GammaPoisson": (lambda: dist.GammaPoisson(tensor(1.0), tensor(1.0)), None, "counts"),
    "LogNormalNegativeBinomial": (
        lambda: dist.LogNormalNegativeBinomial(tensor(2.0), tensor(0.0), tensor(0.3)),
        None,
        "counts",
    ),
    "ZeroInflatedPoisson": (
        lambda: dist.ZeroInflatedPoisson(tensor(1.0), gate=tensor(0.3)),
        None,
        "counts",
    ),
    "ZeroInflatedNegativeBinomial": (
        lambda: dist.ZeroInflatedNegativeBinomial(tensor(2.0), probs=tensor(0.3), gate=tensor(0.3)),
        None,
        "counts",
    ),
    "mixture of Poisson": (lambda: mixture(dist.Poisson(ones(2))), None, "counts"),
    # no manifold of ppvae
    "Dirichlet": (lambda: dist.Dirichlet(ones(3)), None, "the measure of Simplex()"),
    "RelaxedOneHotCategorical": (
        lambda: dist.RelaxedOneHotCategorical(tensor(1.0), ones(3)),
        None,
        "the measure of Simplex()",
    ),
    "LogisticNormal": (lambda: dist.LogisticNormal(zeros(2), ones(2)), None, "the measure of Simplex()"),
    "stick breaking": (
        lambda: transformed(normals(2), T.StickBreakingTransform()),
        None,
        "the measure of Simplex()",
    ),
    "LKJ": (lambda: dist.LKJ(3, 1.0), None, "the measure of CorrMatrix()"),
    "LKJCholesky": (lambda: dist.LKJCholesky(3, 1.0), None, "the measure of CorrCholesky()"),
    "Wishart": (lambda: dist.Wishart(tensor(4.0), EYE), None, "the measure of PositiveDefinite()"),
    "EmbeddedPushforward, roll": (
        lambda: ours.EmbeddedPushforward(dist.Uniform(zeros(2), 1.0).to_event(1), SwissRollEmbedding()),
        None,
        "the measure of Image of SwissRollEmbedding",
    ),
    "Empirical": (lambda: dist.Empirical(zeros(3), zeros(3)), None, "the measure of Empirical"),
    "MaskedMixture of angles and numbers": (
        lambda: dist.MaskedMixture(tensor(True), dist.VonMises(tensor(0.0), tensor(1.0)), dist.Normal(0.0, 1.0)),
        None,
        "the measure of MaskedMixture",
    ),
}


def make(name):
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript of Pyro's flows
        return LAWS[name][0]()


@pytest.mark.parametrize("name", LAWS)
def test_the_manifold_of_a_law(name):
    _, kind, what = LAWS[name]
    law = make(name)
    manifold = manifold_of(law)
    while isinstance(manifold, Power):  # a product of copies
        manifold = manifold.base
    assert type(manifold) is (kind or type(None))
    measure, event = measure_of(law)
    assert event == law.event_shape
    if kind is None:
        assert what is None or measure == what
    elif kind in (Euclidean, Box):
        assert measure == "Lebesgue measure" and getattr(manifold, "is_whole", False) == (what == R)
        if what not in (R, None):
            least, most = what
            inside, outside = [], []
            for end, step in ((least, -0.01), (most, 0.01)):
                if math.isfinite(end):
                    inside.append(end - step)
                    outside.append(end + step)
            inside, outside = (torch.tensor(points)[:, *[None] * len(event)] for points in (inside, outside))
            check = manifold.support.check
            shape = (-1, *event)
            assert check(inside.expand(shape)).all() and not check(outside.expand(shape)).any()


@pytest.mark.parametrize(
    "name",
    [name for name, (_, kind, _) in LAWS.items() if kind and name not in ("ImproperUniform", "VonMises3D")],
)
def test_draws_lie_on_the_manifold(name):
    with seeded(1):
        z = make(name).sample(torch.Size([20]))
    assert manifold_of(make(name)).support.check(z).all()


#: laws of time series, trees and matchings, and classes that are no law of their own
NO_LATENTS = {
    "CoalescentTimes",
    "CoalescentTimesWithRate",
    "DiscreteHMM",
    "ExtendedBetaBinomial",
    "ExtendedBinomial",
    "ExponentialFamily",
    "GammaGaussianHMM",
    "GaussianHMM",
    "GaussianMRF",
    "GeneralizedPareto",
    "GroupedNormalNormal",
    "Independent",
    "IndependentHMM",
    "LKJCorrCholesky",
    "LinearHMM",
    "MaskedDistribution",
    "OneOneMatching",
    "OneTwoMatching",
    "Rejector",
    "RelaxedOneHotCategoricalStraightThrough",
    "SpanningTree",
    "TorchDistribution",
    "TransformedDistribution",
    "Unit",
    "ZeroInflatedDistribution",
}


def test_every_law_is_in_the_table():
    found = {type(law).__name__ for law in map(make, LAWS)} | set(LAWS)
    for package in (dist, ours):
        for name in package.__all__:
            cls = getattr(package, name)
            if inspect.isclass(cls) and issubclass(cls, torch.distributions.Distribution):
                assert name in found or (package is dist and name in NO_LATENTS), name


class Silent(dist.Normal):
    """A law that does not state its support."""

    @property
    def support(self):
        raise NotImplementedError


class Dependent(dist.Normal):
    support: Any = constraints.dependent


class Nowhere(dist.Normal):
    support: Any = None


@pytest.mark.parametrize("kind", [Silent, Dependent, Nowhere])
def test_a_law_that_states_no_support_has_no_manifold(kind):
    law = kind(0.0, 1.0)
    assert manifold_of(law) is None and measure_of(law) == (None, ())
    assert contains(law, dist.Normal(0.0, 1.0)) is None and contains(dist.Normal(0.0, 1.0), law) is None


def test_the_law_s_own_manifold_wins():
    class Glued(dist.Uniform):
        manifold = Angle()

    law = Glued(zeros(2), 1.0)
    assert manifold_of(law) is manifold_of(law.to_event(1)).base is Glued.manifold


def test_transforms_that_remember_a_draw_keep_it():
    move = T.AffineTransform(1.0, 2.0, cache_size=1)
    law = transformed(dist.Uniform(0.0, 1.0), move)
    z = law.rsample()
    assert manifold_of(law) is not None and move._cached_x_y[1] is z


@pytest.mark.parametrize(
    "outer, inner, expected",
    [
        ("Normal", "Normal", True),
        ("Normal", "Beta", True),
        ("Beta", "Normal", False),
        ("Beta", "Kumaraswamy", True),
        ("Gamma", "LogNormal", True),
        ("LogNormal", "Gamma", True),
        ("Gamma", "Pareto", True),
        ("Pareto", "Gamma", False),
        ("Uniform", "Beta", True),
        ("Beta", "Uniform", False),
        ("affine of Uniform", "Beta", False),
        ("affine of Uniform", "AffineBeta", True),
        ("mixture of Uniform", "Beta", True),
        ("Beta", "mixture of Uniform", False),
        ("Beta", "sigmoid of Normal", True),
        ("Normal, vector", "ordered", True),
        ("ordered", "Normal, vector", False),
        ("ordered", "ordered", True),
        ("stacked", "stacked", None),
        ("Poisson", "Categorical", True),
        ("Categorical", "Poisson", False),
        ("Categorical", "Bernoulli", True),
        ("Binomial", "Categorical", True),
        ("OneHotCategorical", "OneHotCategorical", None),
        ("VonMisesFisher", "PowerSpherical", None),
        ("Dirichlet", "RelaxedOneHotCategorical", None),
    ],
)
def test_which_support_contains_which(outer, inner, expected):
    assert contains(make(outer), make(inner)) is expected


def test_bounds_of_each_datum_are_compared():
    prior = dist.Uniform(zeros(3), tensor([1.0, 2.0, 3.0]))
    assert contains(prior, dist.Uniform(zeros(3), tensor([1.0, 2.0, 2.9])))
    assert contains(prior, dist.Uniform(zeros(3), tensor([1.0, 2.1, 3.0]))) is False
    assert contains(prior, mixture(dist.Uniform(zeros(3, 2), tensor([[0.5, 1.0], [1.0, 2.0], [3.0, 1.0]]))))
    assert contains(prior, mixture(dist.Uniform(zeros(3, 2), tensor([[0.5, 1.0], [1.0, 2.5], [3.0, 1.0]])))) is False


def test_a_transform_that_rises_for_some_and_falls_for_others_is_not_read():
    law = transformed(dist.Uniform(zeros(2), 1.0), T.AffineTransform(zeros(2), tensor([1.0, -1.0])))
    assert manifold_of(law) is None and contains(dist.Normal(0.0, 1.0), law) is None
