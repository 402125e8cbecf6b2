"""Objectives, effect handlers and MCMC kernels: they see traces and know no VAE.

Every name below is imported on first use, so the table of objectives can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppvae.infer.batched_hmc import BatchedHMC, BatchedMCMC
    from ppvae.infer.handlers import CenterMessenger, PriorMessenger
    from ppvae.infer.independence import Cycle, IndependenceMetropolis
    from ppvae.infer.objectives.base import TensorELBO
    from ppvae.infer.objectives.beta import Beta_ELBO
    from ppvae.infer.objectives.capacity import Capacity_ELBO
    from ppvae.infer.objectives.divergences import (
        InverseMultiquadric,
        Laplace,
        SquaredExponential,
        energy_distance,
        mmd,
        sliced_wasserstein,
    )
    from ppvae.infer.objectives.dreg import DReG_ELBO
    from ppvae.infer.objectives.elbo import ELBO
    from ppvae.infer.objectives.enumerated import EnumeratedELBO
    from ppvae.infer.objectives.free_bits import FreeBits_ELBO
    from ppvae.infer.objectives.info_vae import InfoVAE_ELBO
    from ppvae.infer.objectives.iwae import IWAE_ELBO
    from ppvae.infer.objectives.miwae import CIWAE_ELBO, MIWAE_ELBO, PIWAE_ELBO
    from ppvae.infer.objectives.regularized import Regularized
    from ppvae.infer.objectives.terms.equivariance import Continuity, Equivariance
    from ppvae.infer.objectives.terms.invariance import Invariance
    from ppvae.infer.objectives.terms.labels import LabelTerm
    from ppvae.infer.objectives.terms.rae import CodeNorm, DecoderGradient
    from ppvae.infer.objectives.total_correlation import TotalCorrelation_ELBO

__all__ = [
    "CIWAE_ELBO",
    "ELBO",
    "IWAE_ELBO",
    "MIWAE_ELBO",
    "PIWAE_ELBO",
    "BatchedHMC",
    "BatchedMCMC",
    "Beta_ELBO",
    "Capacity_ELBO",
    "CenterMessenger",
    "CodeNorm",
    "Continuity",
    "Cycle",
    "DReG_ELBO",
    "DecoderGradient",
    "EnumeratedELBO",
    "Equivariance",
    "FreeBits_ELBO",
    "IndependenceMetropolis",
    "InfoVAE_ELBO",
    "Invariance",
    "InverseMultiquadric",
    "LabelTerm",
    "Laplace",
    "PriorMessenger",
    "Regularized",
    "SquaredExponential",
    "TensorELBO",
    "TotalCorrelation_ELBO",
    "energy_distance",
    "mmd",
    "sliced_wasserstein",
]

_FILES = {
    "batched_hmc": ("BatchedHMC", "BatchedMCMC"),
    "handlers": ("CenterMessenger", "PriorMessenger"),
    "independence": ("Cycle", "IndependenceMetropolis"),
    "objectives.base": ("TensorELBO",),
    "objectives.beta": ("Beta_ELBO",),
    "objectives.capacity": ("Capacity_ELBO",),
    "objectives.divergences": (
        "InverseMultiquadric",
        "Laplace",
        "SquaredExponential",
        "energy_distance",
        "mmd",
        "sliced_wasserstein",
    ),
    "objectives.dreg": ("DReG_ELBO",),
    "objectives.elbo": ("ELBO",),
    "objectives.enumerated": ("EnumeratedELBO",),
    "objectives.free_bits": ("FreeBits_ELBO",),
    "objectives.info_vae": ("InfoVAE_ELBO",),
    "objectives.iwae": ("IWAE_ELBO",),
    "objectives.miwae": ("CIWAE_ELBO", "MIWAE_ELBO", "PIWAE_ELBO"),
    "objectives.regularized": ("Regularized",),
    "objectives.terms.equivariance": ("Continuity", "Equivariance"),
    "objectives.terms.invariance": ("Invariance",),
    "objectives.terms.labels": ("LabelTerm",),
    "objectives.terms.rae": ("CodeNorm", "DecoderGradient"),
    "objectives.total_correlation": ("TotalCorrelation_ELBO",),
}


def __getattr__(name: str) -> Any:
    for file, members in _FILES.items():
        if name in members:
            return getattr(import_module(f"ppvae.infer.{file}"), name)
    raise AttributeError(f"module 'ppvae.infer' has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    return sorted(__all__)
