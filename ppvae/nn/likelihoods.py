"""Likelihood heads: modules from the decoder's output to the law p(x | z).

A head declares how many numbers it reads for each number of the datum, ``features``. The decoder ends in that many
times the datum's first dimension, see :func:`ppvae.nn.channels`. Parameters are logits and logarithms, never
probabilities. ``inputs`` turns data into what the encoder reads. What a head needs beside z, such as the size factor
of counts, it declares as ``given``, and model and guide hand it over: ``model(x, *given)``.
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
    """What a VAE needs of a likelihood head; one of your own is a few lines.

    >>> class LaplaceLikelihood(nn.Module):
    ...     features, in_features, given = 1, 1, ()
    ...     def forward(self, h, event_dim):
    ...         return dist.Laplace(h, 1.0).to_event(event_dim)
    ...     def inputs(self, x, event_dim):
    ...         return x
    >>> LaplaceLikelihood()(torch.zeros(5, 1, 4, 4), 3).event_shape
    torch.Size([1, 4, 4])
    """

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
    """p(x | z) = Bernoulli(sigmoid(h)) for binary x; h are logits.

    >>> BernoulliLikelihood()(torch.zeros(6), 1).log_prob(torch.ones(6)).exp()  # 2^-6
    tensor(0.0156)
    """

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

    >>> ContinuousBernoulliLikelihood()(torch.zeros(6), 1).log_prob(torch.rand(6))  # uniform
    tensor(0.)

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

    >>> NormalLikelihood(0.5)(torch.zeros(2), 1).stddev
    tensor([0.5000, 0.5000])

    :param scale: standard deviation of the noise, in units of the data. If it is learned, this is where it starts.
    :param learned: whether the scale is a parameter of the model.
    :raises ValueError: if the scale is not positive.
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

    The encoder reads one-hot vectors. Classes have no mean, so ``generate`` and ``reconstruct`` return the most
    probable class.

    >>> likelihood = CategoricalLikelihood(3)
    >>> likelihood.inputs(torch.tensor([[2.0, 0.0]]), 1)  # first whether each is class 0, then class 1, then class 2
    tensor([[0., 1., 0., 0., 1., 0.]])
    >>> likelihood(torch.zeros(6), 1).log_prob(torch.tensor([2, 0])).exp()  # (1/3)^2
    tensor(0.1111)

    :param num_classes: number of classes C; the decoder ends in C outputs for each number of the datum.
    :raises ValueError: if there are fewer than two classes.
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

    >>> PoissonLikelihood(size_factor=True)(torch.zeros(1, 2), 1, torch.tensor([3.0])).mean
    tensor([[3., 3.]])

    :param size_factor: whether model and guide take a size factor s > 0 of each datum, an array (n,): how deeply it was
        counted, relative to a typical datum, e.g. its total count over the mean total count. Else s = 1.

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
    r"""p(x | z) = NegativeBinomial of mean m = s exp(h) and inverse dispersion r, for overdispersed counts.

    The decoder gives h and log r for each number of the datum. The variance is :math:`m + m^2 / r`, where Poisson's is
    m. The encoder reads log(1 + x).

    >>> law = NegativeBinomialLikelihood()(torch.zeros(1, 4), 1)  # two counts: h = 0 and r = 1
    >>> law.mean, law.variance
    (tensor([[1., 1.]]), tensor([[2., 2.]]))

    :param size_factor: whether model and guide take a size factor s of each datum, as in :class:`PoissonLikelihood`.

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
