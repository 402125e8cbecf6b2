r"""The pose of an image: how it was turned, shifted and magnified.

    p(turn) = Uniform(S^1),   p(shift) = N(0, shift^2 I),   p(log_scale) = N(0, log_scale^2)
    q(. | x)                  vMF on the circle, and Normal
    g       = (p -> e^log_scale R(turn) p + shift)

A pose is a product of sites: the group of similarities has no metric that is invariant on both sides, and no law of
its own here.

:class:`PolarCanonicalizer` finds the pose of an image so that moving the image moves the pose: the pose of g x is g
times that of x. An image that is moved back by its pose is then the same for all g [1, 2]. Shift and scale are moments
of the image. The turn is read off the image in polar coordinates, in which a turn is a cyclic shift, by a network of
circular convolutions.

References:
    [1] Equivariance with Learned Canonicalization Functions (Kaba et al., 2023), https://arxiv.org/abs/2211.06489
    [2] Explicitly disentangling image content from translation and rotation with spatial-VAE (Bepler et al., 2019)
        https://arxiv.org/abs/1909.11663
    [3] Polar Transformer Networks (Esteves et al., 2018), https://arxiv.org/abs/1709.01889
"""

import itertools
import math
from collections.abc import Sequence

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from ppvae.distributions import HypersphericalUniform
from ppvae.manifolds import circle
from ppvae.nn.actions import pixels, resample, similarity
from ppvae.nn.heads import PosteriorHead, VonMisesFisherHead, _split
from ppvae.nn.registration import records_options


class Pose(nn.Module):
    """The laws of turn, shift and log-scale, in model and guide.

    :param shift: standard deviation of the shift's prior, in half the shorter side of the image; no such site where
        None.
    :param log_scale: standard deviation of the log-scale's prior; no such site where None.
    :param turn: posterior head of the turn on the circle; von Mises-Fisher where None.

    The features are those of the head of the turn, then location and log-scale of shift (2, 2) and of log_scale (1,
    1), the scales in units of the prior's.
    """

    @records_options
    def __init__(self, shift: float | None = None, log_scale: float | None = None, turn: PosteriorHead | None = None):
        super().__init__()
        for name, value in (("shift", shift), ("log_scale", log_scale)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive standard deviation, or None, got {value}")
        self.turn: PosteriorHead = turn or VonMisesFisherHead(2)
        self.shift, self.log_scale = shift, log_scale
        self.features = self.turn.features + 6

    def prior(self, like: Tensor) -> dict[str, TorchDistribution]:
        """p(tau), in the dtype and on the device of ``like``."""
        laws: dict[str, TorchDistribution] = {"turn": HypersphericalUniform(2, dtype=like.dtype, device=like.device)}
        if self.shift is not None:
            laws["shift"] = Normal(like.new_zeros(2), self.shift).to_event(1)
        if self.log_scale is not None:
            laws["log_scale"] = Normal(like.new_zeros(()), self.log_scale)
        return laws

    def posterior(self, h: Tensor) -> dict[str, TorchDistribution]:
        """q(tau | x), from features of x."""
        turn, loc, spread, log_loc, log_spread = _split(self, h, (self.turn.features, 2, 2, 1, 1))
        laws: dict[str, TorchDistribution] = {"turn": self.turn(turn)}
        if self.shift is not None:
            laws["shift"] = Normal(loc, self.shift * spread.exp()).to_event(1)
        if self.log_scale is not None:
            laws["log_scale"] = Normal(log_loc.squeeze(-1), self.log_scale * log_spread.squeeze(-1).exp())
        return laws

    def element(self, tau: dict[str, Tensor]) -> Tensor:
        """g, shape (..., 3, 3), from the values of the sites."""
        return similarity(**tau)


class PolarCanonicalizer(nn.Module):
    r"""The features of a pose that moves with the image.

    With the values of x as mass, the shift is the centre b of the image, and the scale :math:`3 \rho` with
    :math:`\rho` its radius of gyration, so that an image moved back is in the middle and about fills the disc. A
    network a of circular convolutions reads x along n rays :math:`\theta_j`, at a number of radii r:

    .. math::
        u(x) = \frac1n \sum_j a_j(y) \, e^{i \theta_j}, \qquad y_{r j} = x(b + 3 \rho \, r \, e^{i \theta_j}),
        \qquad 0 < r < 1.

    Turning x by :math:`2 \pi / n` shifts y by one ray, and turns u by as much, for any weights; other turns do up to
    interpolation. The concentration of the turn is proportional to the length of u, which is small where an image looks
    alike from several sides. Its factor and the widths of shift and log-scale are means over the rays, which a turn
    leaves as they are.

    :param shape: shape of an image, (C, H, W).
    :param hidden: channels of the layers.
    :param rays: n.
    :param rings: number of radii.
    """

    @records_options
    def __init__(self, shape: Sequence[int], hidden: Sequence[int] = (64, 64), rays: int = 32, rings: int = 12):
        super().__init__()
        self.rays, self.rings = rays, rings
        widths, layers, reach = [shape[0] * rings, *hidden], [], rays // 4  # two layers see all around
        for n, m in itertools.pairwise(widths):
            layers += [nn.Conv1d(n, m, 2 * reach + 1, padding=reach, padding_mode="circular"), nn.SiLU()]
        last = nn.Conv1d(widths[-1], 4, 1)
        # |u| starts at some thousandths, and so the concentration at about 1: a broad law, in which the images of one
        # kind find a common direction before it becomes narrow.
        nn.init.constant_(torch.as_tensor(last.bias)[1:2], math.log(200.0))
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, C, H, W) to features (batch, 9) of a :class:`Pose`."""
        p, mass = pixels(x), x.abs().sum(-3)
        total = mass.sum((-2, -1))
        blank = total == 0
        total = torch.where(blank, 1, total)  # an image without mass has its centre in the middle
        b = (mass.unsqueeze(-1) * p).sum((-3, -2)) / total.unsqueeze(-1)
        square = (mass * (p - b[..., None, None, :]).square().sum(-1)).sum((-2, -1)) / total
        # One pixel by itself has a radius too: half its side.
        log_scale = 0.5 * torch.where(blank, 1, 9 * square.clamp_min(min(x.shape[-2:]) ** -2)).log()

        j, r = (torch.arange(n, dtype=x.dtype, device=x.device) for n in (self.rays, self.rings))
        directions, radii = circle.exp(2 * math.pi * j / self.rays), (r + 0.5) / self.rings
        grid = log_scale.exp()[..., None, None, None] * radii[:, None, None] * directions
        y = resample(x, b[..., None, None, :] + grid)
        a, log_concentration, spread, log_spread = self.layers(y.flatten(-3, -2)).unbind(-2)
        u = (a.unsqueeze(-1) * directions).mean(-2)
        log_k = log_concentration.mean(-1) + 0.5 * u.square().sum(-1).log()
        rest = [log_k, b[..., 0], b[..., 1], *[spread.mean(-1)] * 2, log_scale, log_spread.mean(-1)]
        return torch.cat([u, torch.stack(rest, -1)], -1)
