"""The rules of a model/guide pair: which computation refuses which pair, through every way in."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch import nn, ones, tensor, zeros
from torch.distributions import constraints

import ppvae
from ppvae.distributions import HypersphericalUniform, VonMisesFisher, WrappedNormal
from ppvae.infer import (
    CIWAE_ELBO,
    ELBO,
    IWAE_ELBO,
    MIWAE_ELBO,
    PIWAE_ELBO,
    Beta_ELBO,
    Capacity_ELBO,
    DReG_ELBO,
    EnumeratedELBO,
    FreeBits_ELBO,
    InfoVAE_ELBO,
    Regularized,
    TotalCorrelation_ELBO,
)
from ppvae.infer.objectives import names
from ppvae.infer.sites import check_pair, number_of_data, per_datum
from ppvae.manifolds import Hyperboloid
from ppvae.nn import HyperbolicNormalHead, NormalLikelihood, UnimodalBetaHead, VonMisesFisherHead, register
from ppvae.random import seeded
from ppvae.vae import first_traces

N = 3


class Nothing:
    weight = 1.0

    def __call__(self, model, guide, *batch):
        return zeros(())


#: objective -> what it needs of the guide, and what else it refuses
OBJECTIVES: dict[str, tuple[Callable[[], Any], str]] = {
    "elbo": (ELBO, "bound"),
    "elbo, particles": (lambda: ELBO(2), "bound"),
    "beta": (Beta_ELBO, "bound"),
    "capacity": (Capacity_ELBO, "bound"),
    "free-bits": (FreeBits_ELBO, "bound"),
    "enumerated": (EnumeratedELBO, "bound"),
    "info": (lambda: InfoVAE_ELBO(alpha=0.5, lambda_=2.0), "bound"),
    "info, alpha 1": (lambda: InfoVAE_ELBO(alpha=1.0, lambda_=2.0), "draws"),
    "info, alpha 1 elsewhere": (lambda: InfoVAE_ELBO({}, alpha=1.0), "bound"),
    "total-correlation": (TotalCorrelation_ELBO, "bound"),
    "regularized": (lambda: Regularized(ELBO(), nothing=Nothing()), "bound"),
    "iwae": (lambda: IWAE_ELBO(2), "weights"),
    "dreg": (lambda: DReG_ELBO(2), "weights"),
    "miwae": (lambda: MIWAE_ELBO(4, 2), "weights"),
    "ciwae": (lambda: CIWAE_ELBO(0.5, 2), "weights"),
    "piwae": (lambda: PIWAE_ELBO(4, 2), "weights"),
}
MASKED = ("a mask of all", "masked laws", "a mask in the model", "a masked law in the guide")
NO_DIVERGENCE = ("one-hot | one-hot", "one-hot | point mass", "a latent of all data", *MASKED)
#: objective -> which pairs that keep its rules have no place in it, and what it says of them
MORE: dict[str, tuple[Callable[[str], bool], str]] = {
    "info": (NO_DIVERGENCE.__contains__, "no divergence of its aggregate posterior: .*(discrete|data plate|masked)"),
    "total-correlation": (
        lambda name: not name.startswith(("normal | ", "a scale of ", "a factor")),
        "no total correlation: .*(discrete|data plate|masked)|expected several coordinates or latents",
    ),
    "dreg": (MASKED.__contains__, "weights gradients of whole draws, and it is masked"),
    "piwae": (MASKED.__contains__, "weights gradients of whole draws, and it is masked"),
}
MORE["info, alpha 1"] = MORE["info"]


class Pair(nn.Module):
    """Model and guide as they are given, and a parameter for their device."""

    def __init__(self, model, guide):
        super().__init__()
        self.shape, self.nothing = torch.Size([2]), nn.Parameter(zeros(()))
        self._model, self._guide = model, guide

    def model(self, x):
        register(self)
        return self._model(x)

    def guide(self, x):
        register(self)
        return self._guide(x)


def observe(x):
    pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)


def pair(prior, law):
    """z ~ prior and z ~ law in the data plate."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", prior)
            observe(x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", law)

    return Pair(model, guide)


def normal(dim=2):
    return dist.Normal(zeros(dim), 1.0).to_event(1)


NO_DENSITY = r"site 'z': a deterministic encoder \(Delta\) has no density, and so neither a KL nor an importance weight"
MEASURES = r"site 'z': the guide's {} and the prior's {} are densities with respect to different measures, {} and {}"
LEAVES = "site 'z': the guide's {} on .* leaves the support of the prior's {}"
COVERS = "site 'z': the guide's {} on .* does not cover the support of the prior's {}"
POINT = tensor([1.0, 0.0])

#: pair -> what is said where draws, a bound and weights are asked for; None where the pair keeps the rules
PAIRS: dict[str, tuple[Callable[[], Pair], tuple[str | None, str | None, str | None]]] = {
    # rules kept
    "normal | normal": (lambda: pair(normal(), normal()), (None, None, None)),
    "sphere | sphere": (
        lambda: pair(HypersphericalUniform(3), VonMisesFisher(tensor([1.0, 0, 0]), tensor(2.0))),
        (None, None, None),
    ),
    "gamma | log-normal": (lambda: pair(dist.Gamma(2.0, 1.0), dist.LogNormal(0.0, 1.0)), (None, None, None)),
    "simplex | simplex": (lambda: pair(dist.Dirichlet(ones(3)), dist.Dirichlet(2 * ones(3))), (None, None, None)),
    "one-hot | one-hot": (
        lambda: pair(dist.OneHotCategorical(ones(2)), dist.OneHotCategoricalStraightThrough(ones(2))),
        (None, None, None),
    ),
    "angle | angle": (
        lambda: pair(dist.VonMises(tensor(0.0), tensor(1.0)), dist.VonMises(tensor(1.0), tensor(1.0))),
        (None, None, None),
    ),
    # rule 2
    "normal | circle": (
        lambda: pair(normal(), VonMisesFisher(POINT, tensor(5.0))),
        (MEASURES.format("VonMisesFisher", "Normal", "the surface of spheres", "Lebesgue measure"),) * 3,
    ),
    "circle | normal": (
        lambda: pair(HypersphericalUniform(2), normal()),
        (MEASURES.format("Normal", "HypersphericalUniform", "Lebesgue measure", "the surface of spheres"),) * 3,
    ),
    "normal | hyperbolic": (
        lambda: pair(normal(3), WrappedNormal(Hyperboloid(), tensor([1.0, 0, 0]), ones(2))),
        (MEASURES.format("WrappedNormal", "Normal", "the volume of hyperbolic space", "Lebesgue measure"),) * 3,
    ),
    "normal | angle": (
        lambda: pair(dist.Normal(0.0, 1.0), dist.VonMises(tensor(0.0), tensor(1.0))),
        (MEASURES.format("VonMises", "Normal", "the angle, modulo 2 pi", "Lebesgue measure"),) * 3,
    ),
    "one-hot | relaxed": (
        lambda: pair(dist.OneHotCategorical(ones(2)), dist.RelaxedOneHotCategorical(tensor(1.0), ones(2))),
        (MEASURES.format("RelaxedOneHotCategorical", "OneHotCategorical", r".*Simplex\(\)", "counts"),) * 3,
    ),
    "shapes": (
        lambda: pair(normal(2), normal(3)),
        (r"site 'z': the guide's Normal has points of shape \(3,\), and the prior's Normal of \(2,\)",) * 3,
    ),
    "shapes, point mass": (
        lambda: pair(normal(2), dist.Delta(zeros(3), event_dim=1)),
        (r"the guide's Delta has points of shape \(3,\)", NO_DENSITY, NO_DENSITY),
    ),
    # rule 3
    "normal | beta": (
        lambda: pair(normal(), dist.Beta(ones(2), 1.0).to_event(1)),
        (None, None, COVERS.format("Beta", "Normal")),
    ),
    "uniform | normal": (
        lambda: pair(dist.Uniform(zeros(2), 1.0).to_event(1), normal()),
        (None, LEAVES.format("Normal", "Uniform"), LEAVES.format("Normal", "Uniform")),
    ),
    "uniform | uniform, moved": (
        lambda: pair(
            dist.Uniform(0.0, 2.0),
            dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [dist.transforms.AffineTransform(1.5, 1.0)]),
        ),
        (None, *(LEAVES.format("TransformedDistribution", "Uniform"),) * 2),
    ),
    "uniform | uniform, narrower": (
        lambda: pair(dist.Uniform(0.0, 2.0), dist.Uniform(0.5, 1.0)),
        (None, None, COVERS.format("Uniform", "Uniform")),
    ),
    "one-hot | point mass": (
        lambda: pair(dist.OneHotCategorical(ones(2)), dist.Delta(POINT, event_dim=1)),
        (None, None, COVERS.format("Delta", "OneHotCategorical")),
    ),
    # rule 4
    "normal | point mass": (
        lambda: pair(normal(), dist.Delta(zeros(2), event_dim=1)),
        (None, NO_DENSITY, NO_DENSITY),
    ),
    "point mass | normal": (
        lambda: pair(dist.Delta(zeros(2), event_dim=1), normal()),
        (None, *(r"site 'z': the prior is a point mass \(Delta\) and has no density",) * 2),
    ),
}


# rule 1


def named(model_names, guide_names, observed=("x",), **infer):
    def model(x):
        with pyro.plate("data", x.shape[0]):
            for name in model_names:
                pyro.sample(name, normal())
            for name in observed:
                pyro.sample(name, dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            for name in guide_names:
                pyro.sample(name, normal(), infer=infer if name not in model_names else None)

    return Pair(model, guide)


def outside(x):
    pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(2), obs=x)


PAIRS |= {
    "a latent that the guide misses": (
        lambda: named("zw", "w"),
        ("site 'z': a latent of the model that the guide does not sample; the guide samples w",) * 3,
    ),
    "a latent of the guide alone": (
        lambda: named("z", "zu"),
        ("site 'u': the guide samples it, and the model does not; .* infer={'is_auxiliary': True}",) * 3,
    ),
    "an observation that the guide samples": (
        lambda: named("z", "zy", "xy"),
        ("site 'y': the guide samples what the model observes",) * 3,
    ),
    "no x": (lambda: named("z", "z", "y"), ("the model has no observed site 'x'",) * 3),
    "x as a latent": (lambda: named("zx", "zx", "y"), ("the model has no observed site 'x'",) * 3),
    "x outside the plate": (
        lambda: Pair(lambda x: (pyro.sample("z", normal()), outside(x)), lambda x: pyro.sample("z", normal())),
        (r"site 'x': expected it in the data plate \(dim -1\), found it outside",) * 3,
    ),
}


# rules 5 and 6


def shared():
    def latent(x):
        pyro.sample("z", normal())

    def model(x):
        latent(x)
        with pyro.plate("data", x.shape[0]):
            observe(x)

    return Pair(model, latent)


def factor_outside():
    vae = named("z", "z")

    def model(x):
        pyro.factor("f", zeros(()))
        vae._model(x)

    return Pair(model, vae._guide)


def around(model=None, guide=None):
    """The pair of normal laws, with handlers around its latents."""

    def model_(x):
        with pyro.plate("data", x.shape[0]):
            with model or poutine.mask(mask=True):
                pyro.sample("z", normal())
            observe(x)

    def guide_(x):
        with pyro.plate("data", x.shape[0]), guide or poutine.mask(mask=True):
            pyro.sample("z", normal())

    return Pair(model_, guide_)


def masked_laws(both):
    def latent(x, mask):
        return pyro.sample("z", normal().expand([x.shape[0]]).mask(mask))

    def model(x):
        with pyro.plate("data", x.shape[0]):
            latent(x, MASK[: x.shape[0]] if both else True)
            observe(x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            latent(x, MASK[: x.shape[0]])

    return Pair(model, guide)


OUTSIDE = r"site '[zf]': expected every site in the data plate \(dim -1\)"
SCALES = "site 'z': expected one scale in model and guide, got "
MASKS = "site 'z': expected one mask in model and guide, got "
MASK: Any = tensor([False, True, True])
PAIRS |= {
    "a latent of all data": (shared, (None, None, OUTSIDE)),
    "a factor outside the plate": (factor_outside, (None, None, OUTSIDE)),
    "a scale in the model": (lambda: around(poutine.scale(scale=10.0)), (None, *(SCALES + "10.0 and 1.0",) * 2)),
    "a scale in the guide": (
        lambda: around(None, poutine.scale(scale=tensor(10.0))),
        (None, *(SCALES + "1.0 and 10.0",) * 2),
    ),
    "a scale of the latents": (
        lambda: around(poutine.scale(scale=10.0), poutine.scale(scale=10.0)),
        (None, None, "expected one scale for all sites, got .*; weight the latent terms with kl_weight"),
    ),
    "a scale of all": (
        lambda: Pair(*(poutine.scale(fn, tensor(10.0)) for fn in (named("z", "z")._model, named("z", "z")._guide))),
        (None, None, None),
    ),
    "a mask in the model": (lambda: around(poutine.mask(mask=MASK)), (None, MASKS, MASKS)),
    "a mask of all": (lambda: around(poutine.mask(mask=MASK), poutine.mask(mask=MASK.clone())), (None, None, None)),
    "a masked law in the guide": (lambda: masked_laws(False), (None, MASKS, MASKS)),
    "masked laws": (lambda: masked_laws(True), (None, None, None)),
}


@pytest.fixture(autouse=True)
def _seed():
    with seeded(0):
        yield


def traces(vae, n=N):
    guide_trace = poutine.trace(vae.guide).get_trace(zeros(n, 2))
    return poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(zeros(n, 2)), guide_trace


@pytest.mark.parametrize("needs", ["draws", "bound", "weights"])
@pytest.mark.parametrize("name", PAIRS)
def test_each_rule(name, needs):
    make, messages = PAIRS[name]
    message = messages[("draws", "bound", "weights").index(needs)]
    found = traces(make())
    if message is None:
        check_pair(*found, needs)
    else:
        with pytest.raises(ValueError, match=message):
            check_pair(*found, needs)
        with pytest.raises(ValueError, match=message):
            check_pair(*found, lambda site: needs)


def test_needs_may_differ_between_latents():
    vae = named("zw", "zw")

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Delta(zeros(2), event_dim=1))
            pyro.sample("w", normal())

    found = traces(Pair(vae._model, guide))
    check_pair(*found, lambda name: "draws" if name == "z" else "weights")
    with pytest.raises(ValueError, match=NO_DENSITY):
        check_pair(*found, lambda name: "bound" if name == "z" else "draws")


def test_a_latent_that_the_guide_observes_is_refused_by_pyro():
    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", normal(), obs=x)

    with pytest.raises(RuntimeError, match="site z must be sampled in trace"):
        ELBO().loss(named("z", "z")._model, guide, zeros(N, 2))


def test_every_objective_is_asked():
    assert set(names()) <= set(OBJECTIVES)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", PAIRS)
def test_each_objective_refuses_the_pairs_that_break_its_rules(name, objective):
    pair_of, messages = PAIRS[name]
    make, needs = OBJECTIVES[objective]
    message = messages[("draws", "bound", "weights").index(needs)]
    vae = pair_of()
    with pyro.validation_enabled(True):
        if message is not None:
            with pytest.raises(ValueError, match=message):
                make().loss(vae.model, vae.guide, zeros(N, 2))
            return
        has_no_place, more = MORE.get(objective, (lambda name: False, ""))
        if has_no_place(name):
            with pytest.raises(ValueError, match=more):
                make().loss(vae.model, vae.guide, zeros(N, 2))
        else:
            assert torch.isfinite(make().loss(vae.model, vae.guide, zeros(N, 2)))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_point_masses_are_refused_without_validation_too(objective):
    make, needs = OBJECTIVES[objective]
    vae = PAIRS["normal | point mass"][0]()
    with pyro.validation_enabled(False):
        if needs == "draws":
            assert torch.isfinite(make().loss(vae.model, vae.guide, zeros(N, 2)))
        else:
            with pytest.raises(ValueError, match=NO_DENSITY):
                make().loss(vae.model, vae.guide, zeros(N, 2))


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_what_asks_a_trained_pair_refuses_it_whatever_the_validation(name, validation):
    make, (draws, bound, weights) = PAIRS[name]
    vae = make()
    with pyro.validation_enabled(validation):
        for needs, message in (("draws", draws), ("bound", bound), ("weights", weights)):
            if message is None:
                first_traces(vae, (zeros(N, 2),), needs)
            else:
                with pytest.raises(ValueError, match=message):
                    first_traces(vae, (zeros(N, 2),), needs)
        if weights is None:
            values = ppvae.log_likelihood(vae, zeros(N, 2), num_samples=3, seed=0).values
            assert values.shape == (N,)
        else:
            with pytest.raises(ValueError, match=weights):
                ppvae.log_likelihood(vae, zeros(N, 2), num_samples=3, seed=0)
        if draws is not None:
            with pytest.raises(ValueError, match=draws):
                ppvae.posterior(vae, zeros(N, 2), num_samples=2, warmup=2, num_chains=2, seed=0)


# --- what the rules prevent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [VonMisesFisherHead(2), HyperbolicNormalHead(2)])
def test_a_head_of_another_space_is_refused(head):
    """The mean ELBO of a vMF guide under a normal prior lies above log p(x): it is no bound."""
    x = torch.rand(6, 1, 4, 4).round()
    vae = GaussianVAE((1, 4, 4), 2, (8,), head=head)
    with pytest.raises(ValueError, match="densities with respect to different measures"):
        ppvae.fit(vae, x, epochs=1, progress=False)
    with pytest.raises(ValueError, match="densities with respect to different measures"):
        ppvae.log_likelihood(vae, x)


def test_without_rule_2_the_bound_is_none():
    """x near the circle with noise 0.01: log p(x) = log N(x; 0, 1.0001 I) < -2.3, and the "ELBO" is above it."""
    s, x = 0.01, tensor([[1.0, 0.0]])

    def model(x):
        with pyro.plate("data", 1):
            z = pyro.sample("z", normal())
            pyro.sample("x", dist.Normal(z, s).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 1):
            pyro.sample("z", VonMisesFisher(x, tensor(1 / s**2)))

    evidence = dist.Normal(0.0, math.sqrt(1 + s**2)).log_prob(x).sum()
    with pyro.validation_enabled(False):
        found = -ELBO(2000).loss(model, guide, x)
    assert found > evidence + 3


def test_a_head_within_the_prior_s_support_has_a_bound_and_no_weights():
    x = torch.rand(6, 1, 4, 4).round()
    with seeded(0):
        vae = GaussianVAE((1, 4, 4), 2, (8,), head=UnimodalBetaHead(2))
    ppvae.fit(vae, x, epochs=1, progress=False)
    with pytest.raises(ValueError, match=COVERS.format("UnimodalBeta", "Normal")):
        ppvae.log_likelihood(vae, x)


# --- Pyro's autoguides ------------------------------------------------------------------------------------------------


def two_latents(x):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(a * b, 1.0), obs=x)


@pytest.mark.parametrize("make", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal])
def test_an_autoguide_has_the_bound_that_pyro_gives_it(make):
    """Its Delta sites are functions of one auxiliary draw, with the volume of the function as their density."""
    x = tensor([0.5, 1.0])
    guide = make(two_latents, init_scale=0.3)
    guide(x)
    theirs = pyro.infer.Trace_ELBO(1)
    for seed in range(3):
        with seeded(seed):
            expected = theirs.loss(two_latents, guide, x)
        with seeded(seed), pyro.validation_enabled(True):
            ours = ELBO()
            found = ours.all_terms(two_latents, guide, x)
        if make is AutoNormal:  # its KL of "a" is in closed form
            assert found["loss"].isfinite()
        else:
            assert found["loss"].item() == pytest.approx(expected, rel=1e-5)


# --- sites ------------------------------------------------------------------------------------------------------------


def test_the_number_of_data_and_the_density_of_one():
    """Of 50 data 10 are seen, in 3 parts each: N is 50, and one datum has the density of its 3 parts, unscaled."""

    def model(x):
        with pyro.plate("data", 50, subsample=x), pyro.plate("parts", 3, dim=-2):
            pyro.sample("z", dist.Normal(zeros(3, 10), 1.0))
            pyro.sample("x", dist.Normal(zeros(3, 10), 1.0), obs=x.expand(3, 10))

    trace = poutine.trace(model).get_trace(torch.arange(10.0))
    z = trace.nodes["z"]
    assert float(number_of_data(trace.nodes["x"])) == 50
    each = per_datum(trace, z, 2)
    assert each.shape == (1, 10)
    torch.testing.assert_close(each[0], dist.Normal(0.0, 1.0).log_prob(z["value"]).sum(0))
    assert per_datum(trace, z, 1).shape == (3, 10)


def test_a_support_that_depends_on_the_law_is_no_obstacle():
    class Own(dist.Normal):
        support = constraints.dependent

    vae = pair(dist.Normal(0.0, 1.0), Own(0.0, 1.0))
    check_pair(*traces(vae), "weights")


def test_the_likelihood_s_scale_is_that_of_the_weights():
    vae = GaussianVAE((2,), 2, (4,), likelihood=NormalLikelihood(1.0))
    with pytest.raises(ValueError, match="expected one scale for all sites"), pyro.validation_enabled(False):
        IWAE_ELBO(2).loss(poutine.scale(vae.model, 2.0), vae.guide, zeros(N, 2))
