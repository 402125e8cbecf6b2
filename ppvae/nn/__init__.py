"""Networks, posterior heads and likelihood heads."""

from ppvae.nn.heads import DeltaHead, NormalHead, PowerSphericalHead, SphericalDeltaHead, VonMisesFisherHead
from ppvae.nn.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    NormalLikelihood,
    PoissonLikelihood,
)
from ppvae.nn.networks import MLP, Batched, channels
from ppvae.nn.registration import records_options, register, unregistered
from ppvae.nn.rotation_heads import S2S1, S2S2, AxisAngle, Polar, Quaternion, SO3NormalHead
from ppvae.nn.wigner import ActionDecoder, WignerD, spherical_harmonics

__all__ = [
    "MLP",
    "S2S1",
    "S2S2",
    "ActionDecoder",
    "AxisAngle",
    "Batched",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "DeltaHead",
    "Likelihood",
    "NegativeBinomialLikelihood",
    "NormalHead",
    "NormalLikelihood",
    "PoissonLikelihood",
    "Polar",
    "PowerSphericalHead",
    "Quaternion",
    "SO3NormalHead",
    "SphericalDeltaHead",
    "VonMisesFisherHead",
    "WignerD",
    "channels",
    "records_options",
    "register",
    "spherical_harmonics",
    "unregistered",
]
