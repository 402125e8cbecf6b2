"""Samplers: where in the latent space of a trained VAE to generate from. Each is a function of any model/guide pair.

::

    samples = ppvae.samplers.mixture(vae, x_train, 64, seed=0)
    samples.x  # the decoded means, (64, *vae.shape)
    samples.z  # the latents, (64, dim)

The prior p(z) is where the model was told to put its data. The others draw near where the guide did put them, the
aggregate posterior q(z) = E_x q(z | x), which of a trained VAE differs from p(z); the Riemannian sampler draws where
the volume of a metric is large, by Markov chains that come back with the samples.
"""

from ppvae.samplers.aggregate_posterior import aggregate_posterior
from ppvae.samplers.centroid_mixture import CentroidMixture
from ppvae.samplers.flow import fit_flow, flow
from ppvae.samplers.interpolation import Interpolation, interpolate
from ppvae.samplers.jitter import jitter
from ppvae.samplers.metric import pullback_metric, riemannian_metric
from ppvae.samplers.mixture import fit_mixture, mixture
from ppvae.samplers.posterior import Posterior, posterior
from ppvae.samplers.prior import prior
from ppvae.samplers.riemannian_sampler import riemannian
from ppvae.samplers.samples import Samples
from ppvae.samplers.volume import Mass, RiemannianVolume

__all__ = [
    "CentroidMixture",
    "Interpolation",
    "Mass",
    "Posterior",
    "RiemannianVolume",
    "Samples",
    "aggregate_posterior",
    "fit_flow",
    "fit_mixture",
    "flow",
    "interpolate",
    "jitter",
    "mixture",
    "posterior",
    "prior",
    "pullback_metric",
    "riemannian",
    "riemannian_metric",
]
