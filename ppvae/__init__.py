"""ppvae: variational autoencoders as Pyro model/guide pairs, with latents on manifolds.

Every name below is imported on first use, so ``import ppvae`` is instant and loads no torch.
"""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppvae.diagnostics import to_inference_data
    from ppvae.io import load, save
    from ppvae.predict import decode, encode, generate, guide_laws, log_likelihood, reconstruct
    from ppvae.samplers.metric import riemannian_metric
    from ppvae.samplers.posterior import posterior
    from ppvae.train import fit

__version__ = "0.1.0"

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

#: function -> the module that has it
_FUNCTIONS = {
    "fit": "train",
    "encode": "predict",
    "decode": "predict",
    "generate": "predict",
    "guide_laws": "predict",
    "reconstruct": "predict",
    "log_likelihood": "predict",
    "posterior": "samplers.posterior",
    "riemannian_metric": "samplers.metric",
    "save": "io",
    "load": "io",
    "to_inference_data": "diagnostics",
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module(f"ppvae.{_FUNCTIONS[name]}"), name)
    if name in _modules():
        return import_module(f"ppvae.{name}")
    near = difflib.get_close_matches(name, __dir__(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module 'ppvae' has no attribute {name!r}{hint}", name=name)


def __dir__() -> list[str]:
    return sorted(["__version__", *_FUNCTIONS, *_modules()])


def _modules() -> set[str]:
    """The modules of ppvae. In a checkout models lies beside this folder, not in it."""
    from pkgutil import iter_modules

    return {"models"} | {module.name for module in iter_modules(__path__) if not module.name.startswith("_")}
