r"""A latent z_c with clusters: its sites in model and guide.

    p(c) = Categorical(w),   p(z_c | c) = N(m_c, diag s_c^2)             learned
    q(c | x), q(z_c | x, c)                                              of the same form, from features of x

:class:`Clusters` sums c out of both: p(z_c) and q(z_c | x) are mixtures, z_c has pathwise gradients, and every
objective applies.
:class:`EnumeratedClusters` keeps c as a site, over which :class:`ppvae.infer.EnumeratedELBO` sums exactly. With the
same laws its bound is the lower of the two, because KL(q(c, z_c | x) || p(c, z_c)) is at least KL(q(z_c | x) ||
p(z_c)).
:class:`LabelledClusters` takes labels c of some data.

References:
    [1] Variational Deep Embedding (Jiang et al., 2017), https://arxiv.org/abs/1611.05148
    [2] Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders (Dilokthanakul et al., 2016)
        https://arxiv.org/abs/1611.02648
    [3] Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014), https://arxiv.org/abs/1406.5298
"""

import math

import pyro
import torch
from pyro.distributions import Categorical, Normal, constraints
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from ppvae.distributions import GaussianMixture
from ppvae.nn.heads import PosteriorHead, _split
from ppvae.nn.registration import records_options


class GaussianMixtureHead(nn.Module):
    """q(z | h) = sum_k w_k N(m_k, diag s_k^2) on R^dim, with softmax weights and scales that are exp of features.

    >>> head = GaussianMixtureHead(2, clusters=3)
    >>> head.features
    15
    >>> head(torch.zeros(15)).mean
    tensor([0., 0.])

    :param dim: dimension of z.
    :param clusters: K.
    """

    @records_options
    def __init__(self, dim: int, clusters: int):
        super().__init__()
        self.dim, self.clusters = dim, clusters
        self.features = clusters * (1 + 2 * dim)

    def forward(self, h: Tensor) -> GaussianMixture:
        K, d = self.clusters, self.dim
        logits, loc, log_scale = _split(self, h, (K, K * d, K * d))
        return GaussianMixture(logits, loc.unflatten(-1, (K, d)), log_scale.unflatten(-1, (K, d)).exp())


class Clusters(nn.Module):
    """z_c with a learned mixture of Gaussians as prior, and c summed out.

    If the Gaussians of a mixture in the guide differ and yet overlap in many dimensions, its pathwise gradient has
    heavy tails. One Gaussian in the guide, or enumerated clusters, train with far less noise.

    >>> clusters = Clusters(2, clusters=3)
    >>> clusters.law.event_shape, clusters.features
    (torch.Size([2]), 15)

    :param dim: dimension of z_c.
    :param clusters: number of clusters K.
    :param head: posterior head q(z_c | features) on R^dim, by default a mixture of K Gaussians. With
        ``NormalHead(dim)`` the guide has one Gaussian, as in [1].
    :raises ValueError: if the head has another dimension.
    """

    space = ("R^d", "points of R^d")

    given: tuple[constraints.Constraint, ...] = ()

    @records_options
    def __init__(self, dim: int = 10, clusters: int = 10, head: PosteriorHead | None = None):
        super().__init__()
        self.dim, self.clusters = dim, clusters
        self.head: PosteriorHead = head or GaussianMixtureHead(dim, clusters)
        other = getattr(self.head, "dim", dim)
        if other != dim:
            raise ValueError(f"head: expected a law on R^{dim}, got {type(self.head).__name__}({other})")
        self.features: int = self.head.features
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.loc = nn.Parameter(torch.randn(clusters, dim))
        self.log_scale = nn.Parameter(torch.zeros(clusters, dim))

    @property
    def law(self) -> GaussianMixture:
        """p(z_c)."""
        return GaussianMixture(self.logits, self.loc, self.log_scale.exp())

    @torch.no_grad()
    def place(self, z_c: Tensor, c: Tensor) -> None:
        """Set weight, mean and scale of each cluster to those of its points.

        A mixture that learns from scratch together with the latent often leaves clusters unused. [1] trains for some
        epochs first, and starts the clusters from a clustering of the codes.

        >>> clusters = Clusters(1, clusters=2)
        >>> clusters.place(torch.tensor([[0.0], [2.0], [5.0], [9.0]]), torch.tensor([0, 0, 1, 1]))
        >>> clusters.law.cluster_probs(torch.tensor([1.0])).argmax()
        tensor(0)

        :param z_c: samples of q(z_c | x), (n, dim); not its centres, which lack the width of q: a cluster as narrow as
            they are costs hundreds of nats.
        :param c: their clusters, integers from 0 to K - 1, (n,).
        :raises ValueError: if a cluster has fewer than two points, if all points of a cluster agree in a coordinate, or
            if c has another integer.
        """
        z_c, c = torch.as_tensor(z_c).to(self.loc), torch.as_tensor(c).to(self.loc.device)
        parts = [z_c[c == k] for k in range(self.clusters)]
        if sum(map(len, parts)) < len(z_c):
            raise ValueError(f"c: expected clusters 0 to {self.clusters - 1}, got {int(c.min())} to {int(c.max())}")
        for k, points in enumerate(parts):
            if len(points) < 2:
                raise ValueError(
                    f"expected at least two points in each of {self.clusters} clusters, got {len(points)} in {k}"
                )
            if (points.std(0) == 0).any():
                raise ValueError(f"z_c: expected a spread in every coordinate, got none in cluster {k}")
        for k, points in enumerate(parts):
            self.logits[k] = math.log(len(points) / len(z_c))
            self.loc[k], self.log_scale[k] = points.mean(0), points.std(0).log()

    def prior(self) -> Tensor:
        """Sample z_c in the model."""
        return pyro.sample("z_c", self.law)

    def posterior(self, h: Tensor) -> Tensor:
        """Sample z_c in the guide, from features of x."""
        return pyro.sample("z_c", self.head(h))


class EnumeratedClusters(Clusters):
    """z_c with its cluster c as a site of its own; train it with :class:`ppvae.infer.EnumeratedELBO`.

    >>> from pyro import poutine
    >>> list(poutine.trace(EnumeratedClusters(2, 3).prior).get_trace().stochastic_nodes)
    ['c', 'z_c']

    :param dim: dimension of z_c.
    :param clusters: number of clusters K.
    """

    @records_options
    def __init__(self, dim: int = 10, clusters: int = 10):
        super().__init__(dim, clusters)

    def prior(self, *labels: Tensor) -> Tensor:
        """Sample c and z_c in the model."""
        return self._sample(self.law, *labels)

    def posterior(self, h: Tensor, *labels: Tensor) -> Tensor:
        """Sample c and z_c in the guide, from features of x."""
        return self._sample(self.head(h), *labels)

    def _sample(self, law: GaussianMixture, *labels: Tensor) -> Tensor:
        c = pyro.sample("c", self._cluster(law.logits, *labels), infer={"enumerate": "parallel"})
        m, s = Vindex(law.loc)[..., c, :], Vindex(law.scale)[..., c, :]
        return pyro.sample("z_c", Normal(m, s).to_event(1))

    def _cluster(self, logits: Tensor, *labels: Tensor) -> Categorical:
        return Categorical(logits=logits)


class LabelledClusters(EnumeratedClusters):
    """z_c with clusters that are classes, for data some of which are labelled.

    Model and guide take two arrays beside x: the labels, (n,), and whether each is known, booleans (n,). Labels are
    integers from 0 to K - 1; the value at an unknown label has no effect. With e_y the point mass at y,

        p(c) = known e_y + (1 - known) w,    q(c | x) = known e_y + (1 - known) q(c | x),

    and p has a factor w_y if y is known. The bound is then one of log p(x, y), and otherwise one of log p(x). If y is
    known, the bound does not depend on q(c | x); to train q(c | x) on labels add :class:`ppvae.infer.LabelTerm`.

    >>> from pyro import poutine
    >>> y, known = torch.tensor([2, 0]), torch.tensor([True, False])
    >>> trace = poutine.trace(LabelledClusters(2, 3).prior).get_trace(y, known)
    >>> trace.nodes["c"]["fn"].probs.detach()
    tensor([[0.0000, 0.0000, 1.0000],
            [0.3333, 0.3333, 0.3333]])

    :param dim: dimension of z_c.
    :param clusters: number of classes K.
    """

    @records_options
    def __init__(self, dim: int = 10, clusters: int = 10):
        super().__init__(dim, clusters)
        self.given = (constraints.integer_interval(0, clusters - 1), constraints.boolean)

    def prior(self, *labels: Tensor) -> Tensor:
        """Sample c and z_c in the model, with a factor w_y for each known label."""
        y, known = labels
        pyro.factor("y", known * self.logits.log_softmax(-1)[y])
        return super().prior(*labels)

    def _cluster(self, logits: Tensor, *labels: Tensor) -> Categorical:
        y, known = labels
        other = y.unsqueeze(-1) != torch.arange(self.clusters, device=y.device)
        # exp(-1000) is 0 in every dtype. Minus infinity would turn the other terms into 0 times infinity.
        sure = -1000 * other.to(logits.dtype)
        return Categorical(logits=torch.where(known.unsqueeze(-1) > 0, sure, logits))
