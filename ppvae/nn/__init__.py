"""Networks, posterior heads and likelihood heads."""

from ppvae.nn.heads import NormalHead, PowerSphericalHead, VonMisesFisherHead
from ppvae.nn.likelihoods import BernoulliLikelihood, Likelihood, NormalLikelihood
from ppvae.nn.networks import MLP, Batched, channels
from ppvae.nn.registration import records_options, register, unregistered

__all__ = [
    "MLP",
    "Batched",
    "BernoulliLikelihood",
    "Likelihood",
    "NormalHead",
    "NormalLikelihood",
    "PowerSphericalHead",
    "VonMisesFisherHead",
    "channels",
    "records_options",
    "register",
    "unregistered",
]
