r"""Groups that act on a latent manifold, and the element g = a(x) that features choose.

An action is a module that says how many features an element takes and turns points: ``action(h, z) = g(h) z``. Standard
normal features give a uniform (Haar) element.

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), section 3, https://arxiv.org/abs/1812.05769
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from ppvae.manifolds import circle, so3
from ppvae.manifolds.embeddings import Embedding, invert, log_volume
from ppvae.nn.registration import records_options
from ppvae.nn.rotation_heads import S2S2

__all__ = ["GroupAction", "RotatePlanes", "RotateSpace", "invariance"]


class GroupAction(Protocol):
    """What :class:`ppvae.models.ManifoldVAE` needs of a group G of isometries of R^m; one of your own is a few lines.

    >>> class Reflect(nn.Module):
    ...     '''The reflection of the plane in its first axis, or none, by the sign of a feature.'''
    ...     ambient, features = 2, 1
    ...     def forward(self, h, z):
    ...         return torch.cat([z[..., :1], h.sign() * z[..., 1:]], -1)
    >>> Reflect()(torch.tensor([-0.3]), torch.tensor([0.6, 0.8]))
    tensor([ 0.6000, -0.8000])
    """

    ambient: int  #: m
    features: int  #: numbers that choose an element

    def __call__(self, h: Tensor, z: Tensor) -> Tensor:
        """g(h) z of shape (..., m) for features (..., features) and points (..., m); batch shapes broadcast."""
        ...


class RotatePlanes(nn.Module):
    r"""SO(2)^n on R^{2n} turns the circle (n = 1) and the flat torus: each plane by the direction of two features.

    >>> RotatePlanes()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))  # a quarter turn
    tensor([0., 1.])

    :param n: number of planes.
    """

    @records_options
    def __init__(self, n: int = 1):
        super().__init__()
        self.n, self.features, self.ambient = n, 2 * n, 2 * n

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        g = h.unflatten(-1, (self.n, 2))
        g = g / g.norm(dim=-1, keepdim=True)
        return circle.act(g, z.unflatten(-1, (self.n, 2))).flatten(-2)


class RotateSpace(nn.Module):
    """SO(3) on R^3 turns the sphere, by the rotation that :class:`S2S2` makes of six features.

    >>> h = torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0, 0.0])  # the images of the first two axes
    >>> RotateSpace()(h, torch.tensor([1.0, 0.0, 0.0]))
    tensor([0., 1., 0.])
    """

    features, ambient = 6, 3

    @records_options
    def __init__(self) -> None:
        super().__init__()
        self.rotation = S2S2()

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        return so3.act(self.rotation(h), z)


def invariance(embedding: Embedding, action: GroupAction, like: Tensor, n: int = 512) -> tuple[float, float]:
    r"""How far the law f#U, U uniform on [0, 1]^n, is from invariant under the group, over random z and g.

    >>> from ppvae.manifolds.embeddings import CircleEmbedding, TorusEmbedding
    >>> off, change = invariance(CircleEmbedding(), RotatePlanes(), torch.empty(0))
    >>> off < 1e-6, change < 1e-6
    (True, True)
    >>> off, change = invariance(TorusEmbedding(), RotateSpace(), torch.empty(0))
    >>> off > 0.1  # a turned torus of revolution is another torus
    True

    :param like: a tensor of the dtype and device of f.
    :param n: number of draws, from a generator of their own.
    :return: the largest distance of g f(z) from f(Z), relative to the size of f(Z); and the largest change in nats of
        the log density from f(z) to g f(z). The latter bounds the error of every log-likelihood that assumes f#U to be
        invariant.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(n, embedding.dim, generator=generator).to(like)
    h = torch.randn(n, action.features, generator=generator).to(like)
    with torch.no_grad():
        x = embedding(z)
        moved = action(h, x)
        back = invert(embedding, moved)
        off = (embedding(back) - moved).norm(dim=-1).max() / x.norm(dim=-1).max()
        change = (log_volume(embedding, back) - log_volume(embedding, z)).abs().max()
    return float(off), float(change)
