"""The contract over all VAEs: adding one is adding a line to VAES."""

import numpy as np
import pyro
import pytest
import torch
from ppvae.models import (
    MCEVAE,
    SO3VAE,
    ConditionalVAE,
    GaussianMixtureVAE,
    GaussianVAE,
    HamiltonianVAE,
    HyperbolicVAE,
    InfoVAE,
    ManifoldVAE,
    SphericalVAE,
    VampVAE,
    WassersteinEmbedding,
    WassersteinVAE,
)
from pyro.infer.inspect import get_model_relations
from torch import nn

import ppvae
from ppvae import models
from ppvae.infer import ELBO, EnumeratedELBO, InfoVAE_ELBO
from ppvae.nn import (
    MLP,
    S2S1,
    ActionDecoder,
    AxisAngle,
    BernoulliLikelihood,
    Clusters,
    CovariatesCondition,
    EnumeratedClusters,
    FlatTorusEmbedding,
    InverseAutoregressiveHead,
    LabelledClusters,
    MoebiusEmbedding,
    NormalHead,
    NormalLikelihood,
    OneHotCondition,
    Polar,
    PolarCanonicalizer,
    Pose,
    PowerSphericalHead,
    Quaternion,
    RotatePlanes,
    SO3NormalHead,
    UnrolledCircleHead,
    VonMisesFisherHead,
)
from ppvae.testing import check_vae

BINARY = (torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
MIDDLE = BINARY * nn.functional.pad(torch.ones(4, 4), (2, 2, 2, 2))
REAL = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))


def convolutions(features):
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(64, features))


def deconvolutions(dim):
    return nn.Sequential(
        nn.Linear(dim, 64), nn.Unflatten(-1, (4, 4, 4)), nn.SiLU(), nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)
    )


def rotation(head, decoder):
    return lambda: SO3VAE(
        (5,), hidden=(16,), decoder=decoder(), likelihood=NormalLikelihood(0.5), head=SO3NormalHead(head())
    )


VAES = {
    "gaussian": (lambda: GaussianVAE((1, 8, 8), 2, (16,)), BINARY),
    "gaussian, tabular, fixed scale": (lambda: GaussianVAE((5,), 2, (16,), likelihood=NormalLikelihood(0.5)), REAL),
    "gaussian, tabular, learned scale": (
        lambda: GaussianVAE((5,), 2, (16,), likelihood=NormalLikelihood(0.5, learned=True)),
        REAL,
    ),
    "gaussian, convolutions": (
        lambda: GaussianVAE((1, 8, 8), 2, encoder=convolutions(4), decoder=deconvolutions(2)),
        BINARY,
    ),
    "gaussian, autoregressive posterior": (
        lambda: GaussianVAE(
            (5,), 3, (16,), likelihood=NormalLikelihood(0.5), head=InverseAutoregressiveHead(3, 2, 8, 4)
        ),
        REAL,
    ),
    "hamiltonian": (lambda: HamiltonianVAE((1, 8, 8), 2, (16,)), BINARY),
    "hamiltonian, tabular": (lambda: HamiltonianVAE((5,), 2, (16,), 2, likelihood=NormalLikelihood(0.5)), REAL),
    "vamp": (lambda: VampVAE((1, 8, 8), 2, 4, (16,)), BINARY),
    "vamp, sphere": (
        lambda: VampVAE((5,), 3, 4, (16,), likelihood=NormalLikelihood(0.5), head=VonMisesFisherHead(3)),
        REAL,
    ),
    "circle": (lambda: SphericalVAE((1, 8, 8), 2, (16,)), BINARY),
    "sphere": (lambda: SphericalVAE((1, 8, 8), 3, (16,)), BINARY),
    "sphere, 10": (lambda: SphericalVAE((1, 8, 8), 10, (16,)), BINARY),
    "sphere, power spherical": (lambda: SphericalVAE((1, 8, 8), 3, (16,), head=PowerSphericalHead(3)), BINARY),
    "sphere, convolutions": (
        lambda: SphericalVAE((1, 8, 8), 3, encoder=convolutions(4), decoder=deconvolutions(3)),
        BINARY,
    ),
    "hyperbolic": (lambda: HyperbolicVAE((1, 8, 8), 3, (16,)), BINARY),
    "hyperbolic, 10": (
        lambda: HyperbolicVAE((5,), 10, (16,), prior_scale=2.0, likelihood=NormalLikelihood(0.5)),
        REAL,
    ),
    "gaussian mixture": (lambda: GaussianMixtureVAE((1, 8, 8), Clusters(3, 4), (16,)), BINARY),
    "gaussian mixture, one Gaussian in the guide": (
        lambda: GaussianMixtureVAE((5,), Clusters(3, 4, NormalHead(3)), (16,), likelihood=NormalLikelihood(0.5)),
        REAL,
    ),
    "mce": (lambda: MCEVAE((1, 8, 8), 2, Clusters(3, 4), hidden=(16,)), BINARY),
    "mce, similarities": (
        lambda: MCEVAE((1, 8, 8), 2, Clusters(3, 4), Pose(0.25, 0.2, PowerSphericalHead(2)), hidden=(16,)),
        BINARY,
    ),
    "mce, canonicalizer": (
        lambda: MCEVAE(
            (1, 8, 8), 2, Clusters(3, 4), Pose(0.25, 0.2), PolarCanonicalizer((1, 8, 8), (8,), 16, 4), (16,)
        ),
        MIDDLE,
    ),
    "info": (lambda: InfoVAE((5,), 2, (16,)), REAL),
    "wasserstein": (lambda: WassersteinVAE((1, 8, 8), 2, (16,)), BINARY),
    "manifold": (lambda: ManifoldVAE((1, 8, 8), hidden=(16,)), BINARY),
    "manifold, group action": (
        lambda: ManifoldVAE((5,), hidden=(16,), likelihood=NormalLikelihood(0.5), action=RotatePlanes()),
        REAL,
    ),
    "manifold, seamless torus": (
        lambda: ManifoldVAE((1, 8, 8), FlatTorusEmbedding(2), (16,), head=UnrolledCircleHead(2)),
        BINARY,
    ),
    "manifold, Möbius band": (lambda: ManifoldVAE((1, 8, 8), MoebiusEmbedding(), (16,)), BINARY),
    "wasserstein embedding": (lambda: WassersteinEmbedding(2, 5, (16,), scale=0.5), REAL),
    "rotation": (lambda: SO3VAE((1, 8, 8), 2, 3, (16,)), BINARY),
    **{
        f"rotation, {head.__name__}": (
            rotation(head, decoder),
            REAL,
        )
        for head, decoder in (
            (Polar, lambda: ActionDecoder(nn.Linear(8, 5), 1, 2)),
            (Quaternion, lambda: MLP((3, 3), (5,), (8,))),
            (AxisAngle, lambda: ActionDecoder(nn.Linear(8, 5), 1, 2)),
            (S2S1, lambda: MLP((3, 3), (5,), (8,))),
        )
    },
}


@pytest.mark.parametrize("name", VAES)
def test_contract(name):
    make, x = VAES[name]
    objective = auto_encoder if name.startswith("wasserstein") else ELBO
    assert len(check_vae(make, x, objective=objective)) == 10


def auto_encoder(num_particles):
    return InfoVAE_ELBO(alpha=1, num_particles=num_particles)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions, self.last = convolutions(8), nn.Linear(8 + 4, 4)

    def forward(self, x, c):
        return self.last(torch.cat([self.convolutions(x), c], -1))


CONDITIONAL = {
    "labels": (lambda: ConditionalVAE((1, 8, 8), 2, OneHotCondition(4), (16,)), BINARY, torch.arange(16) % 4),
    "labels, convolutions": (
        lambda: ConditionalVAE((1, 8, 8), 2, OneHotCondition(4), encoder=TwoInputs(), decoder=deconvolutions(6)),
        BINARY,
        torch.arange(16) % 4,
    ),
    "covariates": (
        lambda: ConditionalVAE((5,), 2, CovariatesCondition(2), (16,), likelihood=NormalLikelihood(0.5)),
        REAL,
        REAL[:, :2].flip(0),
    ),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_contract_of_a_conditional_vae(name):
    make, x, y = CONDITIONAL[name]
    assert len(check_vae(make, x, given=(y,))) == 10


LABELS = (torch.arange(16) % 4, torch.arange(16) < 6)
ENUMERATED = {
    "gaussian mixture": (lambda: GaussianMixtureVAE((1, 8, 8), EnumeratedClusters(3, 4), (16,)), ()),
    "gaussian mixture, labels": (lambda: GaussianMixtureVAE((1, 8, 8), LabelledClusters(3, 4), (16,)), LABELS),
    "mce, two directions, labels": (
        lambda: MCEVAE(
            (1, 8, 8),
            2,
            LabelledClusters(3, 4),
            Pose(0.25, directions=2),
            PolarCanonicalizer((1, 8, 8), (8,), 16, 4, directions=2),
            (16,),
        ),
        LABELS,
    ),
}


@pytest.mark.parametrize("name", ENUMERATED)
def test_contract_with_latents_that_are_enumerated(name):
    make, given = ENUMERATED[name]
    assert len(check_vae(make, MIDDLE, given=given, objective=EnumeratedELBO)) == 10


# Where a group acts, p(x | z_hid) turns with a(x).
@pytest.mark.parametrize("name", [name for name in VAES if "group action" not in name])
def test_the_centre_of_the_guide_decodes_to_the_reconstruction(name):
    make, x = VAES[name]
    vae = make()
    decoded = ppvae.decode(vae, ppvae.encode(vae, x))
    assert np.allclose(decoded, ppvae.reconstruct(vae, x), atol=1e-5)


def test_every_model_of_the_table_is_checked():
    classes = {type(make()) for make, *_ in [*VAES.values(), *CONDITIONAL.values()]}
    assert {models.find(name) for name in models.TABLE} <= classes


def test_an_encoder_with_the_wrong_number_of_features_says_so():
    vae = SphericalVAE((1, 8, 8), 3, encoder=convolutions(7))
    with pytest.raises(ValueError, match=r"VonMisesFisherHead expected features of shape \(\.\.\., 4\), got \(16, 7\)"):
        ppvae.encode(vae, BINARY)


def test_a_decoder_with_another_output_says_so():
    with pytest.raises(
        ValueError, match=r"Linear: expected an output of shape \(1, 8, 8\) .* nn.Unflatten\(1, \(1, 8, 8\)\)"
    ):
        ppvae.fit(SphericalVAE((1, 8, 8), 3, decoder=nn.Linear(3, 64)), BINARY, epochs=1, progress=False)
    with pytest.raises(
        ValueError, match=r"expected an output of shape \(5,\) for each input of shape \(2,\), got \(6,\)"
    ):
        ppvae.generate(GaussianVAE((5,), 2, decoder=nn.Linear(2, 6), likelihood=NormalLikelihood()), 3)


def test_the_ambient_dimension_of_a_sphere_is_at_least_two():
    with pytest.raises(ValueError, match=r"dim: expected the ambient dimension, at least 2 \(2 is the circle\), got 1"):
        SphericalVAE((1, 8, 8), dim=1)


@pytest.mark.parametrize("make", [VAES["gaussian"][0], VAES["sphere"][0]])
def test_pyro_sees_the_graph_of_the_model(make):
    """What ``pyro.render_model`` draws, without graphviz."""
    vae = make()
    with pyro.get_param_store().scope():
        model = get_model_relations(vae.model, (BINARY,))
        guide = get_model_relations(vae.guide, (BINARY,))
    assert list(model["sample_dist"]) == ["z", "x"] and model["observed"] == ["x"]
    assert "z" in model["sample_sample"]["x"] and model["plate_sample"] == {"data": ["z", "x"]}
    assert guide["plate_sample"] == {"data": ["z"]}


def test_encode_is_deterministic_and_on_the_sphere():
    vae = SphericalVAE((1, 8, 8), 3, (16,))
    z = ppvae.encode(vae, BINARY.numpy())
    assert (z == ppvae.encode(vae, BINARY.numpy())).all()
    assert abs((z**2).sum(-1) - 1).max() < 1e-6


def test_options_are_recorded():
    vae = SphericalVAE((1, 8, 8), dim=4, likelihood=NormalLikelihood(0.2))
    assert vae.options["shape"] == (1, 8, 8) and vae.options["dim"] == 4 and vae.options["hidden"] == (256, 128)
    assert vae.options["likelihood"].options == {"scale": 0.2, "learned": False}
    assert BernoulliLikelihood().options == {}
