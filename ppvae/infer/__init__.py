"""Objectives, effect handlers and MCMC kernels: they see traces and know no VAE.

Every name is imported on first use, so the table of objectives can be read without torch.
"""

from typing import TYPE_CHECKING

from ppvae.lazy import attach

if TYPE_CHECKING:
    from ppvae.infer.batched_hmc import BatchedHMC, BatchedMCMC
    from ppvae.infer.beta import Beta_ELBO, Capacity_ELBO, FreeBits_ELBO
    from ppvae.infer.divergences import (
        InverseMultiquadric,
        Laplace,
        SquaredExponential,
        energy_distance,
        mmd,
        sliced_wasserstein,
    )
    from ppvae.infer.dreg import DReG_ELBO
    from ppvae.infer.elbo import ELBO, TensorELBO
    from ppvae.infer.enumerated import EnumeratedELBO
    from ppvae.infer.equivariance import Continuity, Equivariance
    from ppvae.infer.handlers import CenterMessenger, PriorMessenger
    from ppvae.infer.independence import Cycle, IndependenceMetropolis
    from ppvae.infer.info_vae import InfoVAE_ELBO
    from ppvae.infer.invariance import Invariance
    from ppvae.infer.iwae import IWAE_ELBO
    from ppvae.infer.labels import LabelTerm
    from ppvae.infer.miwae import CIWAE_ELBO, MIWAE_ELBO, PIWAE_ELBO
    from ppvae.infer.rae import CodeNorm, DecoderGradient
    from ppvae.infer.regularized import Regularized
    from ppvae.infer.total_correlation import TotalCorrelation_ELBO
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
