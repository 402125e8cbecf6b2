r"""Multi-clustering equivariant VAE (MCE-VAE) [1]: what is in an image, its cluster, and how it was moved.

    p(z_c)   = sum_k w_k N(m_k, diag s_k^2)              the clusters, learned
    p(z)     = N(0, I)                                   what varies within them
    p(tau)   = U(S^1) N(0, sigma_b^2 I) N(0, sigma_s^2)  turn, shift and log-scale, a product of sites
    p(x | z_c, z, tau) = likelihood(g(tau) f(z_c, z))    a canonical image, then moved
    z_aug    = e(x)                                      the augmented encoder, deterministic
    q(z_c | z_aug) = sum_k w_k N(m_k, diag s_k^2),   q(z | z_aug) Normal,   q(tau | z_aug) von Mises-Fisher and Normal

Differentiable resampling moves the canonical image f as features of the likelihood, which for a Bernoulli law are
logits. Beyond the edge of f the features are learned. Every law has its own measure and normaliser, and the ELBO is a
lower bound of log p(x). The objective of [1] is no bound: its turn is Normal, and it uses Jensen's inequality in the
wrong direction for the mixture.

Nothing above keeps the pose out of z and z_c: f can draw a turned image as well as g can turn one. Three remedies can
be combined. A canonicalizer moves x back by the centre of q(tau | x) before x is encoded [2]; the loss of [1] is a term
of the objective; or canonical images x_0 are known [1]:

    MCEVAE(shape, canonicalizer=PolarCanonicalizer(shape))
    fit(MCEVAE(shape), x, objective=Regularized(ELBO(), invariance=Invariance(RandomSimilarity())))
    fit(MCEVAE(shape, canonical=BernoulliLikelihood()), (x, x_0, known))

A canonicalizer with one direction leaves some images upside down, as their guide starts on the wrong side. With several
directions the objective weighs them:

    vae = MCEVAE(shape, pose=Pose(directions=2), canonicalizer=PolarCanonicalizer(shape, directions=2))
    fit(vae, x, objective=EnumeratedELBO())

For enumerated or partly labelled clusters see :class:`ppvae.nn.EnumeratedClusters` and
:class:`ppvae.nn.LabelledClusters`.

References:
    [1] Invariance-based Multi-Clustering of Latent Space Embeddings for Equivariant Learning (Bajaj, Roy and Zhang,
    2021)
        https://arxiv.org/abs/2107.11717
    [2] Equivariance with Learned Canonicalization Functions (Kaba et al., 2023)
        https://arxiv.org/abs/2211.06489
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Size, Tensor, nn

from ppvae.manifolds import sim2
from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    Clusters,
    Likelihood,
    NormalHead,
    Pose,
    channels,
    records_options,
    register,
)
from ppvae.nn.actions import act


class MCEVAE(nn.Module):
    """VAE of images with clusters z_c, a Gaussian z, and a pose tau = (turn, shift, log_scale).

    :param shape: shape of an image, (C, H, W).
    :param dim: dimension of z.
    :param clusters: the latent z_c with its laws, by default ``Clusters(dim=10, clusters=10)``. If it reads labels,
        model and guide take them.
    :param pose: the laws of the pose, by default a turn alone, ``Pose()``.
    :param canonicalizer: network from the image to the features of the pose; the centre of the pose then moves the
        image back before it is encoded. By default the augmented encoder gives the pose, as in [1].
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network from images to the features of z_c, of z and, without a canonicalizer, of the pose, one
        after the other; by default a perceptron.
    :param decoder: network from (z_c, z) to the features of the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli.
    :param canonical: likelihood head of canonical images x_0. Model and guide then take two more arrays, as the last:
        x_0 (n, *shape), and whether each is known, booleans (n,). An unknown x_0 may be any image.
    :raises ValueError: if the shape is not that of an image.

    >>> from pyro import poutine
    >>> vae = MCEVAE((1, 8, 8), dim=2, clusters=Clusters(3, clusters=4))
    >>> trace = poutine.trace(vae.guide).get_trace(torch.zeros(5, 1, 8, 8))
    >>> {name: tuple(trace.nodes[name]["value"].shape) for name in ("turn", "z_c", "z")}
    {'turn': (5, 2), 'z_c': (5, 3), 'z': (5, 2)}
    """

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 3,
        clusters: Clusters | None = None,
        pose: Pose | None = None,
        canonicalizer: nn.Module | None = None,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        canonical: Likelihood | None = None,
    ):
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"shape: expected that of an image, (C, H, W), got {tuple(shape)}")
        self.shape, self.dim = Size(shape), dim
        self.clusters, self.pose, self.head = clusters or Clusters(), pose or Pose(), NormalHead(dim)
        self.likelihood, self.canonical = likelihood or BernoulliLikelihood(), canonical
        self.given = (*self.clusters.given, *self.likelihood.given)
        if canonical is not None:
            self.given += (constraints.independent(constraints.real, len(shape)), constraints.boolean)
        self.canonicalizer = (
            None if canonicalizer is None else Batched(canonicalizer, len(shape), (self.pose.features,))
        )
        self.features = [self.clusters.features, self.head.features]
        self.features += [self.pose.features] if canonicalizer is None else []
        inputs, outputs = channels(shape, self.likelihood.in_features), channels(shape, self.likelihood.features)
        self.encoder = Batched(encoder or MLP(inputs, (sum(self.features),), hidden), len(shape), (sum(self.features),))
        self.decoder = Batched(decoder or MLP((self.clusters.dim + dim,), outputs, hidden[::-1]), 1, outputs)
        # Most images are dark around the edge, so the feature starts there; for a probability it is the logit.
        dark = -4.0 if isinstance(self.likelihood, BernoulliLikelihood) else 0.0
        self.background = nn.Parameter(torch.full((outputs[0], 1, 1), dark))

    def split(self, given: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """The arrays beside x: those of the clusters, those of the likelihood, and canonical images."""
        n, m = len(self.clusters.given), len(self.clusters.given) + len(self.likelihood.given)
        return given[:n], given[n:m], given[m:]

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z_c, z, tau) for a batch x of shape (batch, *shape)."""
        register(self)
        labels, beside, canonical = self.split(given)
        with pyro.plate("data", x.shape[0]):
            g = self.pose.prior(x)
            z_c = self.clusters.prior(*labels)
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.dim), 1.0).to_event(1))
            z_c, z = (a.expand(*torch.broadcast_shapes(z_c.shape[:-1], z.shape[:-1]), -1) for a in (z_c, z))
            f = self.decoder(torch.cat([z_c, z], -1))
            pyro.deterministic(
                "canonical", self.likelihood(f, len(self.shape), *beside).mean, event_dim=len(self.shape)
            )
            if self.canonical is not None:
                x_0, known = canonical
                pyro.sample("x_0", self.canonical(f, len(self.shape)).mask(known > 0), obs=x_0)
            moved = act(f, g, self.background)
            return pyro.sample("x", self.likelihood(moved, len(self.shape), *beside), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> None:
        """q(z_c, z, tau | x)."""
        register(self)
        labels, *_ = self.split(given)
        with pyro.plate("data", x.shape[0]):
            x = self.likelihood.inputs(x, len(self.shape))
            if self.canonicalizer is None:
                h_c, h, h_tau = self.encoder(x).split(self.features, -1)
                self.pose.posterior(h_tau)
            else:
                # By the centre, not a sample: the image that is encoded then holds nothing of the pose.
                g = self.pose.posterior(self.canonicalizer(x))
                h_c, h = self.encoder(act(x, sim2.inverse(g))).split(self.features, -1)
            self.clusters.posterior(h_c, *labels)
            pyro.sample("z", self.head(h))
