r"""Wasserstein auto-encoder (WAE): a deterministic encoder [1].

    p(z)     = N(0, I)                           on R^dim
    p(x | z) = likelihood(f(z))                  Bernoulli on logits where nothing else is asked for
    q(z | x) = delta(z - g(x))                   a point, with no density

    loss     = -E log p(x | g(x)) + lambda D(q(z) || p(z)),    q(z) = E_x q(z | x)

A point has no KL, so the ELBO is not its objective. It is trained by the InfoVAE [2] at alpha = 1, whose divergence D
compares the codes of a whole batch with the prior:

    fit(WassersteinVAE(shape), x, objective=InfoVAE_ELBO("mmd", alpha=1, lambda_=10))

A normal likelihood of scale s makes the first term |x - f(g(x))|^2 / (2 s^2), the transport cost of [1], up to a
constant. For codes on a sphere give ``SphericalVAE`` the head ``SphericalDeltaHead(dim)``.

References:
    [1] Wasserstein Auto-Encoders (Tolstikhin et al., 2018)
        https://arxiv.org/abs/1711.01558
    [2] InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao, Song and Ermon, 2019)
        https://arxiv.org/abs/1706.02262
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from ppvae.nn import (
    MLP,
    Batched,
    BernoulliLikelihood,
    DeltaHead,
    Likelihood,
    channels,
    records_options,
    register,
)


class WassersteinVAE(nn.Module):
    """Auto-encoder with z in R^dim, prior N(0, I) and a deterministic encoder.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: dimension of the latent z.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network g from data of shape ``shape`` to ``dim`` features; a perceptron where None.
    :param decoder: network from z to the features of the likelihood; a perceptron where None.
    :param likelihood: likelihood head p(x | features); Bernoulli where None. What it is given beside z, e.g. the size
        factors of counts, is given to model and guide: ``fit(vae, (x, size))``.
    """

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 2,
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ):
        super().__init__()
        self.shape, self.dim = Size(shape), dim
        self.likelihood = likelihood or BernoulliLikelihood()
        self.given = self.likelihood.given
        self.head = DeltaHead(dim)
        inputs, outputs = (
            channels(shape, self.likelihood.in_features),
            channels(shape, self.likelihood.features),
        )
        self.encoder = Batched(encoder or MLP(inputs, (self.head.features,), hidden), len(shape))
        self.decoder = Batched(decoder or MLP((dim,), outputs, hidden[::-1]), 1, outputs)

    def decode(self, z: Tensor, *given: Tensor) -> TorchDistribution:
        """p(x | z) for latents z of shape (..., dim)."""
        return self.likelihood(self.decoder(z), len(self.shape), *given)

    def model(self, x: Tensor, *given: Tensor) -> Tensor:
        """p(x, z) for a batch x of shape (batch, *shape)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.dim), 1.0).to_event(1))
            return pyro.sample("x", self.decode(z, *given), obs=x)

    def guide(self, x: Tensor, *given: Tensor) -> Tensor:
        """q(z | x), all of it at g(x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.head(self.encoder(self.likelihood.inputs(x, len(self.shape)))))
