"""ppvae: variational autoencoders as Pyro model/guide pairs, with latents on manifolds.

Every name is imported on first use, so ``import ppvae`` is instant and loads no torch.
"""

from typing import TYPE_CHECKING

from ppvae.lazy import attach
from ppvae.version import __version__ as __version__

if TYPE_CHECKING:
    from ppvae.diagnostics import to_inference_data
    from ppvae.io import load, save
    from ppvae.predict import decode, encode, generate, guide_laws, log_likelihood, reconstruct
    from ppvae.samplers.metric import riemannian_metric
    from ppvae.samplers.posterior import posterior
    from ppvae.train import fit

__getattr__, __dir__ = attach(__name__, modules=["models"])  # in a checkout models/ lies beside this folder

__all__ = [
    "decode",
    "encode",
    "fit",
    "generate",
    "guide_laws",
    "load",
    "log_likelihood",
    "posterior",
    "reconstruct",
    "riemannian_metric",
    "save",
    "to_inference_data",
]
