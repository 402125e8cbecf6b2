r"""Mixtures of Gaussians with diagonal covariance.

.. math::
    q(z) = \sum_k w_k \, N(z; m_k, \mathrm{diag}\, s_k^2), \qquad
    q(c = k \mid z) = \frac{w_k \, N(z; m_k, \mathrm{diag}\, s_k^2)}{q(z)}

**Gradient** [1, 2]. One coordinate after the other, with :math:`\varphi, \Phi` the normal density and distribution
function,

.. math::
    x_{ki} = \frac{z_i - m_{ki}}{s_{ki}}, \qquad
    r_{ki} = q(c = k \mid z_{<i}), \qquad
    f_i = q(z_i \mid z_{<i}) = \sum_k r_{ki} \frac{\varphi(x_{ki})}{s_{ki}}, \qquad
    F_i = \sum_k r_{ki} \, \Phi(x_{ki}).

A sample moves so that no :math:`F_i`, a uniform number, changes. With the posterior :math:`p_{ki} = q(c = k \mid
z_{\le i})` and
:math:`B_{ki} = r_{ki} (\Phi(x_{ki}) - F_i) / f_i` that is

.. math::
    dz_i = \sum_k p_{ki} (dm_{ki} + x_{ki} \, ds_{ki})
         - \sum_k B_{ki} \, d \Bigl( \log w_k + \sum_{j < i} \log N(z_j; m_{kj}, s_{kj}^2) \Bigr),

where the last differential is total: it contains dz_j. The system is triangular, and its transpose is solved backwards,
from the last coordinate to the first, in O(d K). The gradient is exact and unbiased. A single one depends on the order
of the coordinates, their mean does not. Between two clusters that lie far apart, the gradient by the weights is rare
and large: a sample can change sides only by crossing the gap.

**Entropy** [3]. With :math:`D_\alpha` a divergence between two clusters,

.. math::
    \hat H_D = \sum_k w_k H_k - \sum_k w_k \log \sum_j w_j e^{-D(k \| j)}

is a lower bound of the entropy for the distance of Bhattacharyya and an upper bound for the Kullback-Leibler
divergence. Both are exact for equal clusters, and for clusters far apart.

References:
    [1] Stochastic Backpropagation through Mixture Density Distributions (Graves, 2016)
        https://arxiv.org/abs/1607.05690
    [2] Implicit Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018)
        https://arxiv.org/abs/1805.08498
    [3] Estimating Mixture Entropy with Pairwise Distances (Kolchinsky & Tracey, 2017)
        https://arxiv.org/abs/1706.02419
"""

import math

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from ppvae.distributions.finite import finite, log_weights, positive

__all__ = ["GaussianMixture"]


def _log_normal(x: Tensor, scale: Tensor) -> Tensor:
    """log N of standardised values x = (z - m) / s."""
    return -0.5 * x.square() - scale.log() - 0.5 * math.log(2 * math.pi)


class _Pathwise(torch.autograd.Function):
    """z, a sample of the mixture, with the gradient that it has in log w (..., K), m and s (..., K, d)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:], output)

    @staticmethod
    def backward(ctx, grad):
        log_w, loc, scale, z = ctx.saved_tensors
        x = (z.unsqueeze(-2) - loc) / scale
        log_n = _log_normal(x, scale)
        log_joint = torch.cat([log_w.unsqueeze(-1), log_w.unsqueeze(-1) + log_n[..., :-1].cumsum(-1)], -1)
        log_r = log_joint.log_softmax(-2)
        log_f = (log_r + log_n).logsumexp(-2, keepdim=True)
        p = (log_r + log_n - log_f).exp()
        # Phi - F from the side on which it is small, or nothing of it would be left far out in the other tail.
        r = log_r.exp()
        below, above = 0.5 * torch.erfc(-x * math.sqrt(0.5)), 0.5 * torch.erfc(x * math.sqrt(0.5))
        F, S = (r * below).sum(-2, keepdim=True), (r * above).sum(-2, keepdim=True)
        B = (log_r - log_f).exp() * torch.where(F < S, below - F, S - above)

        # What z_i does to z_j, j > i, goes through the responsibilities; C_k sums it up.
        C = torch.zeros_like(log_w)
        by_loc, by_scale = [], []
        for i in reversed(range(z.shape[-1])):
            x_i, s_i, p_i = x[..., i], scale[..., i], p[..., i]
            # A cluster without weight has no part, though its x be infinite.
            slope = torch.where(C == 0, 0, x_i / s_i)
            along = torch.where(p_i == 0, 0, x_i)
            total = grad[..., i] + (C * slope).sum(-1)
            by_loc.append(total.unsqueeze(-1) * p_i - C * slope)
            by_scale.append(total.unsqueeze(-1) * p_i * along - C * torch.where(C == 0, 0, (x_i.square() - 1) / s_i))
            C = C + total.unsqueeze(-1) * B[..., i]
        return None, -C, torch.stack(by_loc[::-1], -1), torch.stack(by_scale[::-1], -1)


class GaussianMixture(TorchDistribution):
    r"""A mixture of K Gaussians with diagonal covariance on R^d, with pathwise gradients in all its parameters.

    The density is with respect to the volume dz of R^d, of infinite total mass.

    :param logits: logarithms of the weights w up to a constant, shape ``(..., K)``; minus infinity is a weight of zero.
    :param loc: means m_k, shape ``(..., K, d)``.
    :param scale: standard deviations s_k > 0 of each coordinate, shape ``(..., K, d)``.
    :raises ValueError: if the shapes do not fit or the dtypes differ. With validated arguments also for parameters that
        are not finite, for a scale that is not positive, and if all weights are zero.

    >>> law = GaussianMixture(torch.zeros(2), torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1))
    >>> print(f"{law.log_prob(torch.zeros(1)):.4f}")
    -2.9189
    >>> low, high = law.entropy_bounds()
    >>> print(f"{low:.4f} {high:.4f}")
    1.9852 2.1118
    """

    arg_constraints = {
        "logits": log_weights,
        "loc": constraints.independent(finite, 2),
        "scale": constraints.independent(positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args=None):
        if logits.dim() < 1 or loc.dim() < 2 or scale.dim() < 2:
            raise ValueError(
                "expected logits (..., K), loc (..., K, d) and scale (..., K, d), got shapes "
                f"{tuple(logits.shape)}, {tuple(loc.shape)} and {tuple(scale.shape)}"
            )
        K = logits.shape[-1]
        event = torch.broadcast_shapes(loc.shape[-2:], scale.shape[-2:])
        if event[0] != K:
            raise ValueError(f"expected as many clusters in loc and scale as in logits, got {event[0]} and {K}")
        if not logits.dtype == loc.dtype == scale.dtype:
            raise ValueError(f"expected one dtype, got {logits.dtype}, {loc.dtype} and {scale.dtype}: cast some")
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        self.logits = logits.expand((*batch_shape, K))
        self.loc = loc.expand(batch_shape + event)
        self.scale = scale.expand(batch_shape + event)
        super().__init__(batch_shape, event[1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(GaussianMixture, _instance)
        batch_shape = Size(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-1:])
        new.loc = self.loc.expand(batch_shape + self.loc.shape[-2:])
        new.scale = self.scale.expand(batch_shape + self.scale.shape[-2:])
        super(GaussianMixture, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def num_clusters(self) -> int:
        """K."""
        return self.logits.shape[-1]

    @property
    def probs(self) -> Tensor:
        """The weights w, shape ``batch_shape + (K,)``."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """sum_k w_k m_k, shape ``batch_shape + (d,)``."""
        return (self.probs.unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """sum_k w_k (s_k^2 + (m_k - mean)^2), shape ``batch_shape + (d,)``."""
        spread = self.scale.square() + (self.loc - self.mean.unsqueeze(-2)).square()
        return (self.probs.unsqueeze(-1) * spread).sum(-2)

    def _log_joint(self, value: Tensor) -> Tensor:
        """log w_k N(z; m_k, s_k), shape ``(..., K)``."""
        x = (value.unsqueeze(-2) - self.loc) / self.scale
        return self.logits.log_softmax(-1) + _log_normal(x, self.scale).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log sum_k w_k N(z; m_k, s_k) in nats, shape ``(...)`` for points ``(..., d)``."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_joint(value).logsumexp(-1)

    def cluster_probs(self, value: Tensor) -> Tensor:
        """q(c = k | z), shape ``(..., K)`` for points ``(..., d)``."""
        return self._log_joint(value).softmax(-1)

    def rsample(self, sample_shape=()) -> Tensor:
        """Samples, shape ``sample_shape + batch_shape + (d,)``, with pathwise gradients."""
        shape = Size(sample_shape) + self.batch_shape
        event = self.loc.shape[-2:]
        log_w = self.logits.log_softmax(-1).expand(shape + event[:1])
        loc, scale = self.loc.expand(shape + event), self.scale.expand(shape + event)
        with torch.no_grad():
            # The first of K exponential waiting times with rates w is the k-th with probability w_k.
            # A wait that is finite, even where a random number is 0, leaves clusters without weight for the last.
            wait = (-torch.rand_like(log_w).log()).clamp_max(torch.finfo(log_w.dtype).max)
            k = (log_w - wait.log()).argmax(-1)[..., None, None].expand((*shape, 1, *event[1:]))
            noise = torch.randn(shape + event[1:], dtype=loc.dtype, device=loc.device)
            z = loc.gather(-2, k).squeeze(-2) + scale.gather(-2, k).squeeze(-2) * noise
        return _Pathwise.apply(z, log_w, loc, scale)

    def entropy_bounds(self) -> tuple[Tensor, Tensor]:
        """A lower and an upper bound of the entropy in nats, each of shape ``batch_shape``.

        Source: Kolchinsky and Tracey (2017), https://arxiv.org/abs/1706.02419
        """
        m, n = self.loc.unsqueeze(-2), self.loc.unsqueeze(-3)  # of the clusters k and j
        s, t = self.scale.unsqueeze(-2), self.scale.unsqueeze(-3)
        square = (m - n).square()
        # The logarithm of (s^2 + t^2) / (2 s t), written so that it is exactly 0 for s = t.
        bhattacharyya = 0.25 * square / (s.square() + t.square()) + 0.5 * torch.log1p((s - t).square() / (2 * s * t))
        ratio = (s / t).log()
        kl = 0.5 * (square / t.square() + torch.expm1(2 * ratio)) - ratio
        log_w = self.logits.log_softmax(-1)
        w = log_w.exp()
        within = (w * (self.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)).sum(-1)
        lower, upper = (
            within - (w * (log_w.unsqueeze(-2) - D.sum(-1)).logsumexp(-1)).sum(-1) for D in (bhattacharyya, kl)
        )
        return lower, upper
