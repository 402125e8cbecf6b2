r"""Points of a quotient M = C / G: orbits [z] of points z of another latent's space C, its cover.

    p([z])     = sum_g p_C(g z)                  p_C the prior of the cover's latent
    q([z] | x) = sum_g q_C(g z | x)              q_C the law of a head that is continuous on M
    read([z])  = functions of z that are equal on an orbit

=============  ============================  ==========================================================
name           cover                         what the decoder reads
=============  ============================  ==========================================================
``moebius``    ``Cylinder()``, (t, v)        cos 2t, sin 2t, v cos t, v sin t
``klein``      ``Torus(2)``, (t, p)          cos 2t, sin 2t, cos p, cos t sin p, sin t sin p
``projective`` ``Spherical(m)``              z_i z_j, i <= j
``axes``       ``Rotation()``                r_i r_i^T of the three columns
=============  ============================  ==========================================================

A head that is not built for the quotient must tear it, or learn one sheet of the cover alone: see
:mod:`ppvae.nn.quotient_heads`.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), https://arxiv.org/abs/1807.04689
    [2] Diffusion Variational Autoencoders (Pérez Rey, Menkovski and Portegies, 2019)
        https://arxiv.org/abs/1901.08991
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppvae import manifolds
from ppvae.distributions import OnQuotient
from ppvae.latents.cylinder import Cylinder
from ppvae.latents.protocol import Encode
from ppvae.latents.rotation import Rotation
from ppvae.latents.spherical import Spherical
from ppvae.latents.torus import Torus
from ppvae.nn import AxesHead, KleinHead, MoebiusHead, PosteriorHead, ProjectiveHead, records_options
from ppvae.random import seeded

__all__ = ["Quotient"]

#: name -> (makes a latent of the cover, its class, the head for it)
NAMED: dict[str, tuple[Callable[[], Any], type, Callable[[Any], Any]]] = {
    "moebius": (Cylinder, Cylinder, lambda base: MoebiusHead()),
    "klein": (lambda: Torus(2), Torus, lambda base: KleinHead()),
    "projective": (lambda: Spherical(3), Spherical, lambda base: ProjectiveHead(base.dim)),
    "axes": (Rotation, Rotation, lambda base: AxesHead()),
}


class Quotient(nn.Module):
    """z up to a finite group of isometries; points are points of the cover, any of an orbit.

    :param base: a latent of the cover, of which the prior is taken and its own head is not used; or the name of a
        quotient, for the latent of the table above.
    :param group: the name of a quotient, or the isometries of a group, the identity first.
    :param head: posterior head whose law is on the cover, and is to be continuous on the quotient; of a named quotient
        the one of :mod:`ppvae.nn.quotient_heads`.
    :param embed: functions of a point that are equal on an orbit and tell orbits apart, ``(..., k)``; of a named
        quotient those of :func:`ppvae.manifolds.quotient`.
    :raises ValueError: for another name, a base that is not its cover, or a group of one's own without head and embed.

    >>> Quotient(Torus(2), "klein").reads
    (5,)
    >>> Quotient("moebius").features
    8
    """

    given = ()

    @records_options
    def __init__(
        self,
        base: Any,
        group: str | Sequence[Callable[[Tensor], Tensor]] | Any = None,
        head: PosteriorHead | Any = None,
        embed: Callable[[Tensor], Tensor] | Any = None,
    ):
        super().__init__()
        base, group = (None, base) if isinstance(base, str) and group is None else (base, group)
        if isinstance(group, str):
            base, head = _named(group, base, head)
            named = manifolds.quotient(group, base.manifold)
            self.manifold = named if embed is None else manifolds.Quotient(named.base, named.group, embed)
        else:
            _check_own(base, group, head, embed)
            self.manifold = manifolds.Quotient(base.manifold, group, embed)
        self.base, self.head = base, head
        self.features = self.head.features
        with seeded(0):
            point = self._cover("z", torch.zeros(())).sample()
        self.reads = tuple(self.manifold.embed(point).shape[-1:])

    def _cover(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Any:
        """The prior of the cover."""
        with pyro.poutine.block(), pyro.poutine.trace() as tape:
            self.base.prior(name, like, *given, encode=encode)
        return tape.trace.nodes[name]["fn"]

    def prior(self, name: str, like: Tensor, *given: Tensor, encode: Encode | None = None) -> Tensor:
        """[z] ~ p([z])."""
        return pyro.sample(name, OnQuotient(self._cover(name, like, *given, encode=encode), self.manifold))

    def posterior(self, name: str, h: Tensor, *given: Tensor) -> Tensor:
        """[z] ~ q([z] | h)."""
        law = self.head(h)
        return pyro.sample(name, law if isinstance(law, OnQuotient) else OnQuotient(law, self.manifold))

    def read(self, z: Tensor) -> Tensor:
        """The invariants of z."""
        return self.manifold.embed(z)


def _named(name: str, base: Any, head: Any) -> tuple[Any, Any]:
    if name not in NAMED:
        raise ValueError(
            f"Quotient: expected one of {', '.join(NAMED)}, got {name!r}; a quotient of your own is "
            "Quotient(base, [isometries, the identity first], head=..., embed=...)"
        )
    make, cover, head_of = NAMED[name]
    base = make() if base is None else base
    if type(base) is not cover or getattr(base, "n", 2) != 2 or getattr(base, "copies", 1) != 1:
        raise ValueError(f"Quotient: {name} has the cover {_words(make())}, got {_words(base)}")
    return base, head or head_of(base)


def _words(latent: Any) -> str:
    sizes = [str(getattr(latent, name)) for name in ("dim", "n", "copies") if hasattr(latent, name)]
    return f"{type(latent).__name__}({', '.join(sizes)})"


def _check_own(base: Any, group: Any, head: Any, embed: Any) -> None:
    if not hasattr(base, "prior") or not hasattr(base, "manifold"):
        raise ValueError(f"Quotient: expected a latent of the cover, or one of {', '.join(NAMED)}, got {base!r}")
    missing = [word for word, it in (("the group", group), ("head=", head), ("embed=", embed)) if it is None]
    if missing:
        raise ValueError(
            f"Quotient: one of your own needs {' and '.join(missing)} too: the isometries, with the identity first; a "
            "posterior head that is continuous on the quotient, since another would tear it; functions of a point that "
            "are equal on an orbit, for the decoder to read"
        )
