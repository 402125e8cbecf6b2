"""Likelihood heads: modules from the decoder's output to the law p(x | z).

A head declares how many numbers it needs for each number of the datum, ``features``; the decoder ends in that many
times the datum's first dimension, see :func:`ppvae.nn.channels`. Parameters are logits and logarithms, never
probabilities. ``inputs`` turns data into what the encoder reads. What a head must be told beside z, as the size factor
of a count, is ``given``: it reaches the head through the model, ``model(x, *given)``.
"""

import math
from typing import Protocol

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppvae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppvae.distributions.negative_binomial import NegativeBinomial
from ppvae.nn.registration import records_options


class Likelihood(Protocol):
    """What a VAE needs of a likelihood head."""

    features: int  #: decoder outputs for each number of the datum
    in_features: int  #: encoder inputs for each number of the datum
    given: tuple[constraints.Constraint, ...]  #: one for each array that ``__call__`` is given, for one row of it

    def __call__(self, h: Tensor, event_dim: int, *given: Tensor) -> dist.TorchDistribution:
        """The law of x with batch shape (...) from h of shape (..., features * d_1, ..., d_event_dim)."""

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        """What the encoder reads of x: shape (..., in_features * d_1, ..., d_event_dim)."""


def _features(h: Tensor, features: int, event_dim: int) -> Tensor:
    """h with the features in a dimension of their own, to the left of the datum's: (..., features, d_1, ...)."""
    if h.shape[-event_dim] % features:
        raise ValueError(
            f"the likelihood expected {features} decoder outputs for each number of the datum, got a decoder output of "
            f"shape {tuple(h.shape)}: its dimension {-event_dim} must be {features} times that of the datum"
        )
    return h.unflatten(-event_dim, (features, -1))


class BernoulliLikelihood(nn.Module):
    """p(x | z) = Bernoulli(sigmoid(h)) for binary x; h are logits."""

    features = 1
    in_features = 1
    given = ()

    @records_options
    def __init__(self) -> None:
        super().__init__()

    def forward(self, h: Tensor, event_dim: int) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=h).to_event(event_dim)

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        return x


class ContinuousBernoulliLikelihood(nn.Module):
    """p(x | z) = ContinuousBernoulli(logits h) for grey values x in [0, 1].

    Source: Loaiza-Ganem and Cunningham (2019), https://arxiv.org/abs/1907.06845
    """

    features = 1
    in_features = 1
    given = ()

    @records_options
    def __init__(self) -> None:
        super().__init__()

    def forward(self, h: Tensor, event_dim: int) -> dist.TorchDistribution:
        return ContinuousBernoulli(h).to_event(event_dim)

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        return x


class NormalLikelihood(nn.Module):
    """p(x | z) = N(h, scale^2) for real x, with one scale for all numbers of the datum.

    :param scale: standard deviation of the noise, in units of the data; the start value where it is learned.
    :param learned: whether the scale is a parameter of the model.
    """

    features = 1
    in_features = 1
    given = ()
    log_scale: Tensor

    @records_options
    def __init__(self, scale: float = 1.0, learned: bool = False):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"NormalLikelihood expected scale > 0, got {scale}")
        log_scale = torch.tensor(math.log(scale))
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self, h: Tensor, event_dim: int) -> dist.TorchDistribution:
        return dist.Normal(h, self.log_scale.exp()).to_event(event_dim)

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        return x


class CategoricalLikelihood(nn.Module):
    """p(x | z) = Categorical(softmax(h)) for class indices x = 0, ..., num_classes - 1 in the shape of the datum.

    The encoder reads one-hot vectors. Classes have no mean: where one value is asked for, as by ``generate`` and
    ``reconstruct``, it is the most probable class.

    :param num_classes: number of classes C; the decoder ends in C outputs for each number of the datum.
    """

    given = ()

    @records_options
    def __init__(self, num_classes: int):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"CategoricalLikelihood expected num_classes of at least 2, got {num_classes}")
        self.features = self.in_features = self.num_classes = num_classes

    def forward(self, h: Tensor, event_dim: int) -> dist.TorchDistribution:
        logits = _features(h, self.num_classes, event_dim).movedim(-event_dim - 1, -1)
        return dist.Categorical(logits=logits).to_event(event_dim)

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        # torch's one_hot reads the largest class back from the device to check it
        classes = torch.arange(self.num_classes, device=x.device).view(-1, *[1] * event_dim)
        return (x.unsqueeze(-event_dim - 1) == classes).to(x.dtype).flatten(-event_dim - 1, -event_dim)


class PoissonLikelihood(nn.Module):
    """p(x | z) = Poisson(s exp(h)) for counts x. The encoder reads log(1 + x).

    :param size_factor: whether a known size factor s > 0 of each datum is given, an array (n,): how many times more
        counts were made of it than of a typical one, e.g. its total count over the mean total count. Else s = 1.

    ::

        vae = GaussianVAE((d,), likelihood=PoissonLikelihood(size_factor=True))
        fit(vae, (x, s));  generate(vae, 10, np.ones(10))
    """

    features = 1
    in_features = 1

    @records_options
    def __init__(self, size_factor: bool = False):
        super().__init__()
        self.given = (constraints.positive,) if size_factor else ()

    def forward(self, h: Tensor, event_dim: int, *given: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(_scaled(h, event_dim, *given).exp()).to_event(event_dim)

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        return x.log1p()


class NegativeBinomialLikelihood(nn.Module):
    r"""p(x | z) = NegativeBinomial of mean s exp(h) and inverse dispersion r, for counts that vary more than Poisson's.

    Mean m and r are features of the decoder both, r as its logarithm; the variance is :math:`m + m^2 / r`. The
    encoder reads log(1 + x).

    :param size_factor: whether a known size factor s of each datum is given, as in :class:`PoissonLikelihood`.

    Source: Lopez et al. (2018), https://doi.org/10.1038/s41592-018-0229-2
    """

    features = 2
    in_features = 1

    @records_options
    def __init__(self, size_factor: bool = False):
        super().__init__()
        self.given = (constraints.positive,) if size_factor else ()

    def forward(self, h: Tensor, event_dim: int, *given: Tensor) -> dist.TorchDistribution:
        log_mean, log_r = _features(h, 2, event_dim).unbind(-event_dim - 1)
        log_mean = _scaled(log_mean, event_dim, *given)
        return NegativeBinomial(log_r.exp(), logits=log_mean - log_r).to_event(event_dim)

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        return x.log1p()


def _scaled(log_mean: Tensor, event_dim: int, size: Tensor | None = None) -> Tensor:
    """log_mean + log s, with s of shape (batch,)."""
    return log_mean if size is None else log_mean + size.log().reshape(-1, *[1] * event_dim)
