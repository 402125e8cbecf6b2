"""fit refuses a pair whose numbers would mean nothing before the first step, whatever Pyro's validation setting."""

import numpy as np
import pyro
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from torch.utils.data import DataLoader, TensorDataset

import ppvae
from ppvae.infer import (
    ELBO,
    IWAE_ELBO,
    Beta_ELBO,
    Capacity_ELBO,
    CodeNorm,
    DReG_ELBO,
    EnumeratedELBO,
    FreeBits_ELBO,
    InfoVAE_ELBO,
    Regularized,
    TotalCorrelation_ELBO,
)
from ppvae.nn import (
    DeltaHead,
    HyperbolicNormalHead,
    NormalHead,
    SphericalDeltaHead,
    UnimodalBetaHead,
    VonMisesFisherHead,
)

X = (torch.rand(30, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


@pytest.fixture(params=[True, False], ids=["validated", "not validated"], autouse=True)
def validation(request):
    with pyro.validation_enabled(request.param):
        yield


def fit(vae, x=X, **options):
    return ppvae.fit(vae, x, **{"epochs": 1, "batch_size": 15, "progress": False, "seed": 0} | options)


def refused(vae, words, **options):
    vae.decoder.register_forward_hook(lambda *_: trained.append(1) if vae.training else None)
    trained, before = [], [p.clone() for p in vae.parameters()]
    with pytest.raises(ValueError, match=words):
        fit(vae, **options)
    assert not trained
    assert all(torch.equal(p, q) for p, q in zip(before, vae.parameters(), strict=True))


HEADS = {
    "von Mises-Fisher": (VonMisesFisherHead, r"the surface of spheres and Lebesgue measure"),
    "hyperbolic": (HyperbolicNormalHead, r"the volume of hyperbolic space and Lebesgue measure"),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("objective", [ELBO, lambda: InfoVAE_ELBO(alpha=0.5), IWAE_ELBO], ids=["elbo", "info", "iwae"])
def test_a_guide_on_another_space_than_the_prior(head, objective):
    make, words = HEADS[head]
    refused(GaussianVAE((6,), 2, (8,), head=make(2)), f"site 'z': .*{words}", objective=objective())


def test_a_normal_guide_of_a_prior_on_the_sphere():
    vae = SphericalVAE((6,), 3, (8,))
    vae.head, vae.encoder = NormalHead(3), torch.nn.Linear(6, 6)
    refused(vae, r"site 'z': .*Lebesgue measure and the surface of spheres")


class TestTheSupport:
    def make(self):
        return GaussianVAE((6,), 2, (8,), head=UnimodalBetaHead(2))

    def test_a_beta_guide_under_a_normal_prior_is_a_bound(self):
        assert np.isfinite(fit(self.make()).history["elbo"]).all()

    @pytest.mark.parametrize("objective", [IWAE_ELBO, DReG_ELBO, lambda K: Regularized(IWAE_ELBO(K), code=CodeNorm(1))])
    def test_and_no_importance_sampler(self, objective):
        refused(self.make(), "does not cover the support of the prior", objective=objective(4))


DELTA = {
    "elbo": ELBO,
    "beta": Beta_ELBO,
    "capacity": Capacity_ELBO,
    "free bits": FreeBits_ELBO,
    "enumerated": EnumeratedELBO,
    "iwae": IWAE_ELBO,
    "dreg": DReG_ELBO,
    "info": lambda: InfoVAE_ELBO(alpha=0.5),
    "info of none": lambda: InfoVAE_ELBO({}, alpha=1.0),
    "total correlation": TotalCorrelation_ELBO,
    "penalised": lambda: Regularized(Beta_ELBO(), code=CodeNorm(0.1)),
}


@pytest.mark.parametrize("objective", DELTA)
def test_a_deterministic_guide_has_no_kl(objective):
    words = r"site 'z': a deterministic encoder \(Delta\) has no density"
    refused(GaussianVAE((6,), 2, (8,), head=DeltaHead(2)), words, objective=DELTA[objective]())


def test_a_deterministic_guide_of_the_sphere_has_no_kl_either():
    refused(SphericalVAE((6,), 3, (8,), head=SphericalDeltaHead(3)), "a deterministic encoder")


@pytest.mark.parametrize("objective", [lambda: InfoVAE_ELBO(alpha=1.0), lambda: InfoVAE_ELBO(alpha=1.0, lambda_=0.0)])
def test_a_deterministic_guide_is_trained_without_a_kl(objective):
    vae = GaussianVAE((6,), 2, (8,), head=DeltaHead(2))
    assert np.isfinite(fit(vae, objective=objective()).history["loss"]).all()


@pytest.mark.parametrize("kind", ["loader", "data set", "memory map", "bytes"])
def test_data_of_every_kind_are_refused_alike(kind, tmp_path):
    np.save(tmp_path / "x.npy", X)
    data = {
        "loader": lambda: DataLoader(TensorDataset(X), batch_size=15),
        "data set": lambda: TensorDataset(X),
        "memory map": lambda: np.load(tmp_path / "x.npy", mmap_mode="r"),
        "bytes": lambda: X.numpy().astype(np.uint8),
    }
    for head in (VonMisesFisherHead(2), DeltaHead(2)):
        refused(GaussianVAE((6,), 2, (8,), head=head), "site 'z'", x=data[kind]())
