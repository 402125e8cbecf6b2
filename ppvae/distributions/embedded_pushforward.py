r"""The law of f(z) on the manifold f(Z), for z of any law and any embedding f: embedding reparameterisation [1].

.. math::
    z \sim p(z) \text{ on } Z \subset R^n, \qquad x = f(z) \in R^m, \qquad
    p_M(f(z)) = p(z) \, (\det J^T J)^{-1/2}, \qquad J = \frac{\partial f}{\partial z}

    \mathrm{KL}(f_\# q \| f_\# p) = \mathrm{KL}(q \| p)

The second line holds for an injective f; for any other f the left side is smaller (data processing).

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), https://arxiv.org/abs/1812.05769
    [2] Learning Representations with Intermediate Latent Variables: InteL-VAE (Miao et al., 2022)
        https://arxiv.org/abs/2106.13746
"""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, kl_divergence
from torch.distributions.kl import register_kl

from ppvae.distributions.base import base_support
from ppvae.distributions.center import center
from ppvae.manifolds.embeddings import Embedding, image, invert, log_volume

__all__ = ["EmbeddedPushforward"]

_Interval = type(constraints.unit_interval)


class EmbeddedPushforward(TorchDistribution):
    r"""Law of x = f(z), z ~ ``base``, on the n-dimensional manifold f(Z) in R^m.

    The density is with respect to the n-dimensional volume that R^m induces on f(Z), whose total mass is
    :math:`\int_Z \sqrt{\det J^T J} \, dz`: 2 pi for the circle of :class:`ppvae.manifolds.embeddings.CircleEmbedding`,
    4 pi for the sphere. The density is right for an f that is injective up to a set of measure zero. It is infinite
    where J lacks full rank.

    A sample remembers its z, so that its density is exact. At any other point z = f^{-1}(x) is found by search
    (:func:`ppvae.manifolds.embeddings.invert`). A VAE avoids the search: it samples z from :attr:`base`, decodes f(z),
    and asks :meth:`log_prob_of` for the density on the manifold.

    :param base: law of z with event_shape (n,), on [0, 1]^n or R^n; gradients pass if it has rsample.
    :param embedding: f, anything with ``dim``, ``ambient`` and a call: :class:`ppvae.manifolds.embeddings.Embedding`.
    :raises ValueError: if base and embedding differ in n. With validated arguments also for a base whose box leaves [0,
        1]^n, and for a value off f(Z).

    >>> from pyro.distributions import Uniform
    >>> from ppvae.manifolds.embeddings import CircleEmbedding
    >>> law = EmbeddedPushforward(Uniform(0.0, torch.ones(1)).to_event(1), CircleEmbedding())
    >>> print(f"{law.log_prob(torch.tensor([0.0, 1.0])).exp():.4f}")  # uniform on a length of 2 pi
    0.1592

    Source: Golikov and Kretov (2018), appendix 5.1, https://arxiv.org/abs/1812.05769
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, base: Distribution, embedding: Embedding, validate_args=None):
        if tuple(base.event_shape) != (embedding.dim,):
            raise ValueError(
                f"expected a base law with event_shape ({embedding.dim},) for {type(embedding).__name__}, got "
                f"{tuple(base.event_shape)}; Uniform(0, 1) with {embedding.dim} entries on the right becomes one "
                "by .to_event(1)"
            )
        self.base, self.embedding = base, embedding
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, Size((embedding.ambient,)), validate_args=validate_args)
        if self._validate_args and isinstance(side := self._side, _Interval):
            low, high = torch.as_tensor(side.lower_bound), torch.as_tensor(side.upper_bound)
            if (low < 0).any() or (high > 1).any():
                raise ValueError(
                    f"expected a base law on [0, 1]^n or R^n, got one on [{float(low.min()):g}, "
                    f"{float(high.max()):g}]; take it on [0, 1]^n and scale in the embedding"
                )

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch declares an attribute; here the base decides
        """Whether the base law has pathwise gradients, which f carries on."""
        return self.base.has_rsample

    @property
    def _side(self) -> constraints.Constraint | None:
        """The support of one coordinate of z."""
        return base_support(self.base.support)

    @property
    def _bounded(self) -> bool:
        return isinstance(self._side, _Interval)

    @property
    def support(self) -> constraints.Constraint:
        """The points of f(Z)."""
        return image(self.embedding, self._bounded)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(EmbeddedPushforward, _instance)
        new.base, new.embedding, new._drawn = self.base.expand(Size(batch_shape)), self.embedding, None
        super(EmbeddedPushforward, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_drawn": None}  # a sample with its graph cannot be copied

    def rsample(self, sample_shape=()) -> Tensor:
        """f(z) of shape ``sample_shape + batch_shape + (m,)``, with the gradients of z and f."""
        return self._push(self.base.rsample(Size(sample_shape)))

    def sample(self, sample_shape=()) -> Tensor:
        """f(z) without gradient."""
        with torch.no_grad():
            return self._push(self.base.sample(Size(sample_shape)), detach=True)

    def _push(self, z: Tensor, detach: bool = False) -> Tensor:
        x = self.embedding(z)
        if detach:  # torch.jit.trace forgets no_grad
            x, z = x.detach(), z.detach()
        self._drawn = (x, z)
        return x

    def hidden(self, value: Tensor) -> Tensor:
        """z = f^{-1}(x) of shape (..., n). For the last sample it is the z that was drawn; else f is inverted."""
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        if self._validate_args:
            self._validate_sample(value)
        return invert(self.embedding, value, self._bounded)

    def log_prob(self, value: Tensor) -> Tensor:
        """log density in nats per volume of f(Z), shape ``(...)`` for points ``(..., m)``."""
        return self.log_prob_of(self.hidden(value))

    def log_prob_of(self, z: Tensor) -> Tensor:
        r"""log density at f(z), :math:`\log p(z) - \tfrac12 \log \det J^T J`, shape ``(...)`` for z ``(..., n)``."""
        return self.base.log_prob(z) - log_volume(self.embedding, z)


@center.register
def _(law: EmbeddedPushforward) -> Tensor:
    return law.embedding(center(law.base))


@register_kl(EmbeddedPushforward, EmbeddedPushforward)
def _kl_pushforward(q: EmbeddedPushforward, p: EmbeddedPushforward) -> Tensor:
    if q.embedding is not p.embedding:
        raise NotImplementedError("a KL between laws on the images of two embeddings is not known in closed form")
    return kl_divergence(q.base, p.base)
