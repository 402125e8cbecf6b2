r"""Manifold-latent VAE by embedding reparameterisation, for any manifold that can be sampled [1].

    p(z_hid) = Uniform([0, 1]^n)                 and z = f(z_hid) on the n-manifold f([0, 1]^n) in R^m
    p(x | z) = likelihood(decoder(z))            Bernoulli on logits by default
    q(z_hid | x) = product of Betas              each with one mode
    KL(q(z | x) || p(z)) = KL(q(z_hid | x) || p(z_hid))        for an injective f

f is any embedding: a closed form of ``ppvae.manifolds.embeddings``, five lines of your own, or a trained
``WassersteinEmbedding``, whose parameters are frozen here. f is never inverted. If f is not injective, the left KL is
the smaller one: the bound still holds for the prior f#U, but it is looser than necessary [2].

No product of Betas on a box covers a closed manifold without a seam. There are three remedies. First, a group action
encoder a(x) [1] turns z:

    z = a(x) f(z_hid),      p(x) = int p(x | g f(z_hid)) dz_hid  for every element g

The second equation, and with it the KL and every log-likelihood, holds if and only if f#U is invariant under the group;
the VAE checks this when it is built. Second, on circles and tori ``head=UnrolledCircleHead(n)`` is a posterior without
a seam. Third, an atlas suits every closed manifold: ``cells`` cuts [0, 1]^n into K boxes, the charts, so that the
posterior is a mixture of Betas that can lie on both sides of a seam,

    p(c) = 1 / K,    q(c, z_hid | x) = q(c | x) q(z_hid | x, c),    z = f((corner_c + z_hid) / cells)

and f need be smooth only within each cell. Train with ``objective=EnumeratedELBO()``, which sums over the chart c. Like
every mixture it has local optima: if sigma is small, one chart can take a datum before the others have come near.

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), https://arxiv.org/abs/1812.05769
    [2] Learning Representations with Intermediate Latent Variables: InteL-VAE (Miao et al., 2022)
        https://arxiv.org/abs/2106.13746
"""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.ops.indexing import Vindex
from torch import Size, Tensor, nn

from ppvae.distributions import center
from ppvae.manifolds.embeddings import CircleEmbedding, Embedding
from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    GroupAction,
    Likelihood,
    PosteriorHead,
    UnimodalBetaHead,
    channels,
    invariance,
    records_options,
    register,
)


class ManifoldVAE(nn.Module):
    """VAE with z = f(z_hid) on an embedded manifold, a uniform prior and a Beta posterior on z_hid in [0, 1]^n.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param embedding: f, by default the circle in R^2. Its parameters, if any, are frozen.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network from data of shape ``shape`` to ``head.features`` features, and after them
        ``action.features`` if there is an action; by default a perceptron.
    :param decoder: network from z of shape (m,) to the features of the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.
    :param head: posterior head q(z_hid | features) with values in [0, 1]^n, by default a product of Betas.
    :param action: group whose element a(x) turns f(z_hid), e.g. ``RotatePlanes()`` on the circle; by default none.
    :param cells: number of parts into which each side of [0, 1]^n is cut, e.g. ``(2, 3)``: the charts of an atlas. The
        encoder then ends in ``head.features`` for every chart, the action's features, and a logit for every chart.
    :param tolerance: how far f#U may be from invariant under the group: bound on the change of its log density in nats,
        which bounds the error of log-likelihoods, and on the distance from f(Z) in sizes of f(Z).
    :raises ValueError: if f and the group do not fit, or f#U is not invariant within the tolerance.

    >>> vae = ManifoldVAE((1, 8, 8), CircleEmbedding())
    >>> vae.latent(torch.zeros(5, 1, 8, 8)).detach().norm(dim=-1).round(decimals=4)
    tensor([1., 1., 1., 1., 1.])
    """

    #: What stands for the latents: the point of the manifold, which knows the chart and the group element too.
    code_site = "z"
    space = ("box", "torus")

    cells: Tensor
    corners: Tensor

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        embedding: Embedding | None = None,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        head: PosteriorHead | None = None,
        action: GroupAction | None = None,
        cells: Sequence[int] | None = None,
        tolerance: float = 1e-3,
    ):
        super().__init__()
        self.embedding = CircleEmbedding() if embedding is None else embedding
        if isinstance(self.embedding, nn.Module):
            self.embedding.requires_grad_(False)
        self.shape, self.dim = Size(shape), self.embedding.dim
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = self.likelihood.given
        self.head: PosteriorHead = head or UnimodalBetaHead(self.dim)
        self.action = action
        inputs, outputs = channels(shape, self.likelihood.in_features), channels(shape, self.likelihood.features)
        if cells is not None and (len(cells) != self.dim or min(cells) < 1):
            raise ValueError(
                f"cells: expected {self.dim} numbers of at least 1, one for each side of the box, got {cells}"
            )
        self.charts = math.prod(cells) if cells else 1
        self.register_buffer("cells", torch.tensor([float(n) for n in cells]) if cells else None)
        corners = torch.cartesian_prod(*[torch.arange(float(n)) for n in cells]) if cells else None
        self.register_buffer("corners", None if corners is None else corners.reshape(-1, self.dim))
        self.sizes = (self.charts * self.head.features, action.features if action else 0, self.charts if cells else 0)
        self.encoder = Batched(encoder or MLP(inputs, (sum(self.sizes),), hidden), len(shape))
        self.decoder = Batched(decoder or MLP((self.embedding.ambient,), outputs, hidden[::-1]), 1)
        if action:
            self._check_invariance(action, tolerance)

    def _check_invariance(self, action: GroupAction, tolerance: float) -> None:
        if action.ambient != self.embedding.ambient:
            raise ValueError(
                f"action: expected a group on R^{self.embedding.ambient}, where f(z_hid) lies, got one on "
                f"R^{action.ambient}"
            )
        like = next(iter([*getattr(self.embedding, "parameters", list)(), torch.empty(0)]))
        off, change = invariance(self.embedding, action, like)
        if not max(off, change) <= tolerance:
            raise ValueError(
                f"action: expected f#U invariant under {type(action).__name__} within tolerance={tolerance:g}, but its "
                f"log density changes by up to {change:.3g} nats and the manifold is left by {off:.3g} of its size; "
                "without invariance the KL and log-likelihoods are wrong by as much: take another f or group, or a "
                "tolerance you accept"
            )

    def embed(self, z_hid: Tensor, g: Tensor, c: Tensor | None = None) -> Tensor:
        """z of shape (..., m): f(z_hid) in chart c, turned by the group element of the features g if there is any."""
        z = self.embedding(z_hid if c is None else (self.corners[c] + z_hid) / self.cells)
        return self.action(g, z) if self.action else z

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the head, (..., charts, head.features), of the action, and logits of the charts."""
        h, g, logits = self.encoder(self.likelihood.inputs(x, len(self.shape))).split(self.sizes, -1)
        return h.unflatten(-1, (self.charts, -1)), g, logits

    def latent(self, x: Tensor) -> Tensor:
        """The centre of q(z | x) on the manifold, shape (..., m); of an atlas that in the most probable chart."""
        h, g, logits = self.encode(x)
        c = logits.argmax(-1) if self.cells is not None else None
        return self.embed(center(self.head(_chart(h, c))), g, c)

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for points z of the manifold, shape (..., m)."""
        return self.likelihood(self.decoder(z), len(self.shape), *given)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z_hid) for a batch x of shape (batch, *shape). Only a(x) reads x itself."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            c = self._sample_chart(x.new_zeros(self.charts))
            z_hid = pyro.sample("z_hid", dist.Uniform(x.new_zeros(self.dim), x.new_ones(self.dim)).to_event(1))
            g = self.encode(x)[1] if self.action else x
            z = pyro.deterministic("z", self.embed(z_hid, g, c), event_dim=1)
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z_hid | x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            h, _, logits = self.encode(x)
            c = self._sample_chart(logits)
            return pyro.sample("z_hid", self.head(_chart(h, c)))

    def _sample_chart(self, logits: Tensor) -> Tensor | None:
        if self.cells is None:
            return None
        return pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


def _chart(h: Tensor, c: Tensor | None) -> Tensor:
    """The features of chart c; if c is None, those of the only chart."""
    return h.squeeze(-2) if c is None else Vindex(h)[..., c, :]
