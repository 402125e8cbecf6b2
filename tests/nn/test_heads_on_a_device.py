"""Every head makes laws that can be traced and that wait for nothing: adding a head is adding a line."""

import pytest
import torch

from ppvae import nn
from ppvae.testing import check_distribution
from ppvae.testing.distribution import CHECKS

POSTERIORS = {
    "NormalHead": nn.NormalHead(3),
    "VonMisesFisherHead": nn.VonMisesFisherHead(4),
    "PowerSphericalHead": nn.PowerSphericalHead(4),
    "HyperbolicNormalHead": nn.HyperbolicNormalHead(4),
    "InverseAutoregressiveHead": nn.InverseAutoregressiveHead(3),
    "DeltaHead": nn.DeltaHead(3),
    "SphericalDeltaHead": nn.SphericalDeltaHead(3),
    "UnimodalBetaHead": nn.UnimodalBetaHead(2),
    "UnrolledCircleHead": nn.UnrolledCircleHead(2),
    "MoebiusHead": nn.MoebiusHead(),
    "KleinHead": nn.KleinHead(),
    "ProjectiveHead": nn.ProjectiveHead(3),
    "AxesHead": nn.AxesHead(),
    "CylinderHead": nn.CylinderHead(),
    "BoxHead": nn.BoxHead([True, False]),
    "ShapeHead": nn.ShapeHead(4),
    "GaussianMixtureHead": nn.GaussianMixtureHead(2, 3),
    **{
        f"SO3NormalHead({m.__name__})": nn.SO3NormalHead(m())
        for m in (nn.S2S2, nn.S2S1, nn.Polar, nn.Quaternion, nn.AxisAngle)
    },
}
LIKELIHOODS = {
    "BernoulliLikelihood": (nn.BernoulliLikelihood(), 2),
    "ContinuousBernoulliLikelihood": (nn.ContinuousBernoulliLikelihood(), 2),
    "PoissonLikelihood": (nn.PoissonLikelihood(), 2),
    "NegativeBinomialLikelihood": (nn.NegativeBinomialLikelihood(), 4),
}
SKIP = {name: "checked of the law itself" for name in CHECKS if name not in ("traceable", "on a device")}


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_head(name):
    head = POSTERIORS[name].double()
    h = torch.randn(2, head.features, generator=torch.Generator().manual_seed(0))
    # The trace of a rotation has thousands of nodes: one head shows it, and the battery of the laws traces the rest.
    skip = SKIP | ({"traceable": "takes long"} if "SO3" in name and "S2S2" not in name else {})
    report = check_distribution(lambda h: head.to(h)(h), {"h": h}, skip=skip)
    assert report["on a device"] == 0, report


# Draws of a CategoricalLikelihood wait, as torch.multinomial does; training draws none.
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_head(name):
    head, features = LIKELIHOODS[name]
    h = torch.randn(3, features, generator=torch.Generator().manual_seed(0))
    report = check_distribution(lambda h: head(h, 1), {"h": h}, skip=SKIP)
    assert report["on a device"] == 0, report
