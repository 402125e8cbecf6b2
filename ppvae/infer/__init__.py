"""Objectives, effect handlers and MCMC kernels: they see traces and know no VAE.

Every name is imported on first use, so the table of objectives can be read without torch.
"""

from typing import TYPE_CHECKING

from ppvae.lazy import attach

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
else:
    __getattr__, __dir__ = attach(__name__)

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
