r"""An embedding of a manifold learned from points of it, by a Wasserstein auto-encoder (WAE) [1, 2].

    p(z)     = Uniform([0, 1]^n)
    p(x | z) = N(f(z), scale^2 I)                x a point of the manifold in R^m
    q(z | x) = delta(z - e(x))                   a deterministic encoder into [0, 1]^n

    loss     = E |x - f(e(x))|^2 / (2 scale^2) + lambda MMD^2(q(z), p(z)),       q(z) = E_x q(z | x)

The first term makes f injective on the image of e, and the second makes e cover [0, 1]^n evenly, so that f takes the
uniform law to the law of the points. It is trained like every VAE, and is then an embedding:

    f = WassersteinEmbedding(dim=1, ambient=2)
    kernel = InverseMultiquadric(scale=1 / 12)  # dim / 12 is half the mean squared distance of two draws of p(z)
    fit(f, points, objective=InfoVAE_ELBO(partial(mmd, kernel=kernel), alpha=1, lambda_=1000))
    ManifoldVAE(shape, embedding=f)

``ppvae.metrics.embedding_report`` says how good the embedding is. A closed manifold has none: [0, 1]^n is no circle, so
f leaves a gap, or two of its ends come close. f has smooth units because its Jacobian is used.

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), https://arxiv.org/abs/1812.05769
    [2] Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Size, Tensor, nn

from ppvae.nn import MLP, Batched, records_options, register


class WassersteinEmbedding(nn.Module):
    """Embedding f of [0, 1]^dim in R^ambient with an encoder, trained on points of the manifold.

    :param dim: n, the dimension of the manifold.
    :param ambient: m, the dimension of the space around it.
    :param hidden: widths of the encoder's hidden layers; f has them in reverse.
    :param scale: standard deviation of the noise around the manifold, in units of the points. Their size should be 1.
    :raises ValueError: unless 1 <= dim <= ambient.

    >>> import torch
    >>> f = WassersteinEmbedding(dim=1, ambient=2)
    >>> f(torch.rand(5, 1)).shape, f.encode(torch.zeros(5, 2)).shape
    (torch.Size([5, 2]), torch.Size([5, 1]))
    """

    @records_options
    def __init__(self, dim: int, ambient: int, hidden: Sequence[int] = (64, 64), scale: float = 0.02):
        super().__init__()
        if not 1 <= dim <= ambient:
            raise ValueError(f"expected 1 <= dim <= ambient, got dim {dim} and ambient {ambient}")
        self.dim, self.ambient, self.shape, self.scale, self.given = dim, ambient, Size((ambient,)), scale, ()
        self.encoder = Batched(MLP((ambient,), (dim,), hidden, nn.SiLU), 1)
        self.decoder = Batched(MLP((dim,), (ambient,), hidden[::-1], nn.SiLU), 1)

    def forward(self, z: Tensor) -> Tensor:
        """f(z) of shape (..., ambient) for z of shape (..., dim) in [0, 1]."""
        # [0, 1] has standard deviation 1 / sqrt(12); networks are initialised for inputs centred and of size 1.
        return self.decoder(12**0.5 * (z - 0.5))

    def encode(self, x: Tensor) -> Tensor:
        """e(x) of shape (..., dim) in (0, 1)."""
        return self.encoder(x).sigmoid()

    def model(self, x: Tensor) -> Tensor:
        """p(x, z) for points x of shape (batch, ambient)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Uniform(x.new_zeros(self.dim), x.new_ones(self.dim)).to_event(1))
            return pyro.sample("x", dist.Normal(self(z), self.scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """q(z | x), a point mass at e(x)."""
        register(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", dist.Delta(self.encode(x), event_dim=1))
