"""Likelihood heads: modules from the decoder's output to the law p(x | z).

A head declares how many numbers it needs for each number of the datum, ``features``; the decoder ends in that many
times the datum's first dimension, see :func:`ppvae.nn.channels`. Parameters are logits and logarithms, never
probabilities. ``inputs`` turns data into what the encoder reads.
"""

import math
from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.nn.registration import records_options


class Likelihood(Protocol):
    """What a VAE needs of a likelihood head."""

    features: int  #: decoder outputs for each number of the datum
    in_features: int  #: encoder inputs for each number of the datum

    def __call__(self, h: Tensor, event_dim: int) -> dist.TorchDistribution:
        """The law of x with batch shape (...) from h of shape (..., features * d_1, ..., d_event_dim)."""

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        """What the encoder reads of x: shape (..., in_features * d_1, ..., d_event_dim)."""


def _parts(h: Tensor, features: int, event_dim: int) -> tuple[Tensor, ...]:
    if h.shape[-event_dim] % features:
        raise ValueError(
            f"the likelihood expected {features} decoder outputs for each number of the datum, got a decoder output of "
            f"shape {tuple(h.shape)}: its dimension {-event_dim} must be {features} times that of the datum"
        )
    return h.unflatten(-event_dim, (features, -1)).unbind(-event_dim - 1)


class BernoulliLikelihood(nn.Module):
    """p(x | z) = Bernoulli(sigmoid(h)) for binary x; h are logits."""

    features = 1
    in_features = 1

    @records_options
    def __init__(self) -> None:
        super().__init__()

    def forward(self, h: Tensor, event_dim: int) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=h).to_event(event_dim)

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        return x


class NormalLikelihood(nn.Module):
    """p(x | z) = N(h, scale^2) for real x, with one scale for all numbers of the datum.

    :param scale: standard deviation of the noise, in units of the data; the start value where it is learned.
    :param learned: whether the scale is a parameter of the model.
    """

    features = 1
    in_features = 1
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
