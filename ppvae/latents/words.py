"""Latents in words: the grammar of ``--latent`` on the command line, and of ``compare``.

    [SITE=]KIND[:NUMBER[:NUMBER]]

``klein`` is ``Quotient("klein")``, ``gaussian:8`` is ``Gaussian(8)``,
``spherical:6:8`` is ``Spherical(6, copies=8)``, ``pose=rotation`` is a rotation at
the site "pose". Several words are a product, joined by ``+`` in one word: ``rotation+gaussian:4``.

This file is read without torch.
"""

import difflib
from collections.abc import Sequence
from typing import Any

from ppvae.nn.registry import Part

__all__ = ["KINDS", "from_words", "parse"]

#: kind -> the class, and the names of its numbers
KINDS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "gaussian": (Part("latents.gaussian", "Gaussian", "R^d", "a vector"), ("dim",)),
    "spherical": (
        Part("latents.spherical", "Spherical", "spheres", "points of S^{dim-1}, or of several"),
        ("dim", "copies"),
    ),
    "torus": (Part("latents.torus", "Torus", "torus", "n points of the circle"), ("n",)),
    "rotation": (Part("latents.rotation", "Rotation", "rotations", "a rotation of space"), ()),
    "hyperbolic": (Part("latents.hyperbolic", "Hyperbolic", "hyperboloid", "a point of H^{dim-1}"), ("dim",)),
    "cylinder": (Part("latents.cylinder", "Cylinder", "cylinder", "a point of circle x R"), ()),
    "shape": (Part("latents.shape", "Shape", "shapes", "landmarks in the plane, up to similarity"), ("landmarks",)),
    **{
        name: (Part("latents.quotient", "Quotient", name, "a point of a quotient"), ())
        for name in ("moebius", "klein", "projective", "axes")
    },
    "mixture": (Part("latents.mixture", "GaussianMixture", "R^d", "a vector with clusters"), ("dim", "clusters")),
}


def parse(word: str) -> tuple[str | None, Part, dict[str, Any]]:
    """The site, the class and the options that a word says.

    >>> site, part, options = parse("style=gaussian:8")
    >>> site, part.cls, options
    ('style', 'Gaussian', {'dim': 8})

    :raises ValueError: for a kind that there is not, and numbers that it does not take.
    """
    site, equals, rest = word.rpartition("=")
    kind, *numbers = rest.split(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f" (there are {', '.join(KINDS)})"
        raise ValueError(f"no latent {kind!r}{hint}")
    part, names = KINDS[kind]
    if len(numbers) > len(names) or not all(number.isdigit() for number in numbers):
        form = ":".join([kind, *map(str.upper, names)])
        raise ValueError(f"latent {word!r}: expected {form} with whole numbers")
    options: dict[str, Any] = dict(zip(names, map(int, numbers), strict=False))
    if part.cls == "Quotient":
        options["base"] = kind
    return site if equals else None, part, options


def from_words(words: Sequence[str]) -> Any:
    """One latent, or a dict of them by site.

    A latent without a site is called after its kind if there are several.

    >>> sorted(from_words(["pose=rotation", "gaussian:8"]))
    ['gaussian', 'pose']

    :raises ValueError: as :func:`parse`, and for two latents of one site.
    """
    parsed = [parse(word) for joined in words for word in joined.split("+")]
    if len(parsed) == 1 and parsed[0][0] is None:
        return parsed[0][1].load()(**parsed[0][2])
    named: dict[str, Any] = {}
    for site, part, options in parsed:
        name = site or next(kind for kind, (other, _) in KINDS.items() if other is part)
        if name in named:
            raise ValueError(f"two latents at the site {name!r}; give them names, as in a={name} b={name}")
        named[name] = part.load()(**options)
    return named
