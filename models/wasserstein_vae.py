r"""Wasserstein auto-encoder (WAE): a deterministic encoder [1].

    p(z)     = N(0, I)                           on R^dim
    p(x | z) = likelihood(f(z))                  Bernoulli on logits by default
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

from ppvae.models.gaussian_vae import GaussianVAE
from torch import nn

from ppvae.nn import DeltaHead, Likelihood, records_options


class WassersteinVAE(GaussianVAE):
    """Auto-encoder with z in R^dim, prior N(0, I) and a deterministic encoder: a ``GaussianVAE`` with a ``DeltaHead``.

    :param shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(d,)``.
    :param dim: dimension of the latent z.
    :param hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    :param encoder: network g from data of shape ``shape`` to ``dim`` features; by default a perceptron.
    :param decoder: network from z to the features of the likelihood; by default a perceptron.
    :param likelihood: likelihood head p(x | features), by default Bernoulli. What it needs beside z, e.g. the size
        factors of counts, model and guide take: ``fit(vae, (x, size))``.

    >>> import torch
    >>> vae = WassersteinVAE((6,), dim=2)
    >>> vae.guide(torch.ones(3, 6)).equal(vae.guide(torch.ones(3, 6)))
    True
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
        super().__init__(shape, dim, hidden, encoder, decoder, likelihood, DeltaHead(dim))
