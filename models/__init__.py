"""The VAEs: one file each, found by name or by class.

::

    from ppvae.models import SphericalVAE
    ppvae.models.find("spherical-vae")

``TABLE`` is the whole list. Another package adds its own through the entry-point group ``ppvae.models``, for example in
its ``pyproject.toml``: ``[project.entry-points."ppvae.models"]``, ``my-vae = "my_package.vae:MyVAE"``. A class, and
torch with it, is imported on first use.

A VAE that takes a posterior head says in its attribute ``space`` on which spaces the head's law may live, in the words
of :data:`ppvae.nn.registry.HEADS`.
"""

import ast
import difflib
import re
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ppvae.lazy import attach

#: name -> (file, class)
TABLE: dict[str, tuple[str, str]] = {
    "vae": ("vae", "VAE"),
    "gaussian-vae": ("gaussian_vae", "GaussianVAE"),
    "spherical-vae": ("spherical_vae", "SphericalVAE"),
    "hyperbolic-vae": ("hyperbolic_vae", "HyperbolicVAE"),
    "hamiltonian-vae": ("hamiltonian_vae", "HamiltonianVAE"),
    "vamp-vae": ("vamp_vae", "VampVAE"),
    "conditional-vae": ("conditional_vae", "ConditionalVAE"),
    "so3-vae": ("so3_vae", "SO3VAE"),
    "info-vae": ("info_vae", "InfoVAE"),
    "wasserstein-vae": ("wasserstein_vae", "WassersteinVAE"),
    "manifold-vae": ("manifold_vae", "ManifoldVAE"),
    "wasserstein-embedding": ("wasserstein_embedding", "WassersteinEmbedding"),
    "gaussian-mixture-vae": ("gaussian_mixture_vae", "GaussianMixtureVAE"),
    "mce-vae": ("mce_vae", "MCEVAE"),
}


def names() -> list[str]:
    """The names of all VAEs: those of ``TABLE`` in its order, then those of other packages.

    >>> names()[:2]
    ['vae', 'gaussian-vae']
    """
    return list(dict.fromkeys([*TABLE, *sorted(point.name for point in entry_points(group="ppvae.models"))]))


def find(name: str) -> type:
    """The class of the VAE ``name``.

    >>> find("spherical-vae").__name__
    'SphericalVAE'

    :param name: a name of :func:`names`.
    :raises ValueError: if no VAE has this name, or if several packages claim it.
    """
    module, _, cls = place(name).partition(":")
    return getattr(import_module(module), cls)


def place(name: str) -> str:
    """Where the class of the VAE ``name`` is, as ``package.module:Class``; nothing is imported.

    >>> place("spherical-vae")
    'ppvae.models.spherical_vae:SphericalVAE'

    :param name: a name of :func:`names`.
    :raises ValueError: if no VAE has this name, or if several packages claim it.
    """
    entry = _entry(name)
    if isinstance(entry, EntryPoint):
        return f"{entry.module}:{entry.attr}"
    return f"ppvae.models.{entry[0]}:{entry[1]}"


def summary(name: str) -> str:
    """The first line of the file of the VAE ``name``, read without running the file.

    >>> summary("spherical-vae")
    'Hyperspherical variational auto-encoder (S-VAE).'

    :param name: a name of :func:`names`.
    :raises ValueError: if no VAE has this name, or if several packages claim it.
    """
    entry = _entry(name)
    if isinstance(entry, EntryPoint):
        return f"{entry.value}, from another package"
    source = (Path(__file__).parent / f"{entry[0]}.py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source))
    if not doc:
        raise ValueError(f"models/{entry[0]}.py must open with a docstring, whose first line is its summary")
    return re.sub(r" \[[\d, ]+\]", "", doc.splitlines()[0])  # numbers of references mean nothing outside the file


def _entry(name: str) -> tuple[str, str] | EntryPoint:
    claims: list[Any] = [TABLE[name]] if name in TABLE else []
    claims += entry_points(group="ppvae.models", name=name)
    if not claims:
        near = difflib.get_close_matches(str(name), names(), n=3) or names()
        raise ValueError(f"no VAE is named {name!r}; did you mean {' or '.join(map(repr, near))}?")
    if len(claims) > 1:
        raise ValueError(f"{len(claims)} VAEs are named {name!r}: {claims}; uninstall or rename all but one")
    return claims[0]


__getattr__, __dir__ = attach(__name__, {cls: f"{__name__}.{file}" for file, cls in TABLE.values()})

__all__ = ["TABLE", "find", "names", "place", "summary", *(cls for _, cls in TABLE.values())]
