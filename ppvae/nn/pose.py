r"""The pose of an image: how it was turned, shifted and magnified.

    p(turn) = Uniform(S^1),   p(shift) = N(0, shift^2 I),   p(log_scale) = N(0, log_scale^2)
    q(. | x)                  vMF on the circle, or a mixture of M of them, and Normal
    g       = (p -> e^log_scale R(turn) p + shift)

A pose is a product of sites, because the group of similarities has no metric that is invariant on both sides.

A guide with one direction can start upside down for some images. Each image then settles for the side to which it is
nearest, and gradients do not carry it over. With M directions the guide proposes them all,

    q(m | x) = Categorical,   q(turn | x, m) = vMF,   p(m) = 1/M,   p(turn | m) = Uniform(S^1)

and :class:`ppvae.infer.EnumeratedELBO`, the only objective that takes such a site, weighs them by how well each
explains x. The proposal m is an auxiliary variable [4] on which p(x) does not depend. A guide that is sure of it loses
log M nats of the bound.

:class:`PolarCanonicalizer` finds the pose of an image so that moving the image moves the pose: the pose of g x is g
times that of x. An image that is moved back by its pose is then the same for all g [1, 2]. Shift and scale are moments
of the image. A network of circular convolutions reads the turn off the image in polar coordinates [3], in which a turn
is a cyclic shift.

References:
    [1] Equivariance with Learned Canonicalization Functions (Kaba et al., 2023), https://arxiv.org/abs/2211.06489
    [2] Explicitly disentangling image content from translation and rotation with spatial-VAE (Bepler et al., 2019)
        https://arxiv.org/abs/1909.11663
    [3] Polar Transformer Networks (Esteves et al., 2018), https://arxiv.org/abs/1709.01889
    [4] Auxiliary Deep Generative Models (Maaløe et al., 2016), https://arxiv.org/abs/1602.05473
"""

import itertools
import math
from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import Categorical, Normal, TorchDistribution
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from ppvae.distributions import HypersphericalUniform, center
from ppvae.manifolds import circle
from ppvae.nn.actions import pixels, resample, similarity
from ppvae.nn.heads import PosteriorHead, VonMisesFisherHead, _split
from ppvae.nn.registration import records_options


class Pose(nn.Module):
    """The sites of turn, shift and log-scale, in model and guide.

    The features are, in this order: those of the head of the turn, M times; location and log scale of the shift, 2 and
    2; location and log scale of the log-scale, 1 and 1; and, if M > 1, the logits of m. Scales are relative to the
    prior's.

    >>> pose = Pose(shift=0.25)
    >>> pose.features
    9
    >>> pose.prior(torch.zeros(())).shape  # a random similarity
    torch.Size([3, 3])

    :param shift: standard deviation of the shift's prior, in half the shorter side of the image; by default there is no
        such site.
    :param log_scale: standard deviation of the log-scale's prior; by default there is no such site.
    :param turn: posterior head of the turn on the circle, by default von Mises-Fisher.
    :param directions: M. With more than one there is a site "direction", for :class:`ppvae.infer.EnumeratedELBO`.
    :raises ValueError: if a standard deviation or ``directions`` is not positive.
    """

    space = ("sphere", "points of the sphere")

    @records_options
    def __init__(
        self,
        shift: float | None = None,
        log_scale: float | None = None,
        turn: PosteriorHead | None = None,
        directions: int = 1,
    ):
        super().__init__()
        for name, value in (("shift", shift), ("log_scale", log_scale)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive standard deviation, or None, got {value}")
        if directions < 1:
            raise ValueError(f"directions: expected at least 1, got {directions}")
        self.turn: PosteriorHead = turn or VonMisesFisherHead(2)
        self.shift, self.log_scale, self.directions = shift, log_scale, directions
        self.parts = (directions * self.turn.features, 2, 2, 1, 1, directions if directions > 1 else 0)
        self.features = sum(self.parts)

    def prior(self, like: Tensor) -> Tensor:
        """Sample tau in the model, in the dtype and on the device of ``like``: g, (..., 3, 3)."""
        tau = {}
        if self.directions > 1:
            self._direction(like.new_zeros(self.directions))
        tau["turn"] = pyro.sample("turn", HypersphericalUniform(2, dtype=like.dtype, device=like.device))
        if self.shift is not None:
            tau["shift"] = pyro.sample("shift", Normal(like.new_zeros(2), self.shift).to_event(1))
        if self.log_scale is not None:
            tau["log_scale"] = pyro.sample("log_scale", Normal(like.new_zeros(()), self.log_scale))
        return similarity(**tau)

    def posterior(self, h: Tensor) -> Tensor:
        """Sample tau in the guide, from features of x.

        :return: g at the centre of the laws, (..., 3, 3), one for each direction.
        """
        turn, loc, spread, log_loc, log_spread, logits = _split(self, h, self.parts)
        if self.directions > 1:
            turn = Vindex(turn.unflatten(-1, (self.directions, -1)))[..., self._direction(logits), :]
        laws: dict[str, TorchDistribution] = {"turn": self.turn(turn)}
        if self.shift is not None:
            laws["shift"] = Normal(loc, self.shift * spread.exp()).to_event(1)
        if self.log_scale is not None:
            laws["log_scale"] = Normal(log_loc.squeeze(-1), self.log_scale * log_spread.squeeze(-1).exp())
        for name, law in laws.items():
            pyro.sample(name, law)
        return similarity(**{name: center(law) for name, law in laws.items()})

    @staticmethod
    def _direction(logits: Tensor) -> Tensor:
        return pyro.sample("direction", Categorical(logits=logits), infer={"enumerate": "parallel"})


class PolarCanonicalizer(nn.Module):
    r"""The features of a pose that moves with the image.

    The background of the images is 0, and the absolute values of x are their mass. The shift is the centre of mass b.
    The scale is :math:`3 \rho` with the radius of gyration :math:`\rho`, so that an image moved back lies in the middle
    and about fills the disc. A network a of circular convolutions reads x along n rays :math:`\theta_j`, at several
    radii r:

    .. math::
        u(x) = \frac1n \sum_j a_j(y) \, e^{i M \theta_j}, \qquad y_{r j} = x(b + 3 \rho \, r \, e^{i \theta_j}),
        \qquad 0 < r < 1.

    The M directions are the M-th roots of :math:`u / |u|`. Turning x by :math:`2 \pi / n` shifts y by one ray, and so
    turns the directions by the same angle, whatever the weights; other turns do so up to interpolation. The
    concentration of the turn grows with the length of u, which is small if an image looks alike from several sides. Its
    factor and the widths of shift and log-scale are means over the rays, which a turn does not change. The rays vote
    for one of the directions: with a further output v of the network, the logit of a direction d is
    :math:`\sum_j v_j \cos(\theta_j - \arg d)`.

    >>> network = PolarCanonicalizer((1, 8, 8), hidden=(4,), rays=16, rings=4)
    >>> x = torch.rand(5, 1, 8, 8)
    >>> turn, turned = network(x)[:, :2], network(x.rot90(dims=(-2, -1)))[:, :2]
    >>> torch.allclose(turned, torch.stack([-turn[:, 1], turn[:, 0]], -1), atol=1e-5)
    True

    :param shape: shape of an image, (C, H, W), as its likelihood gives it to an encoder: with one-hot vectors of K
        classes, C is K times as large. One-hot images have the same mass everywhere, and so no shift and scale.
    :param hidden: channels of the layers.
    :param rays: n.
    :param rings: number of radii.
    :param directions: M, that of the :class:`Pose`.
    :raises ValueError: for images of another number of channels.
    """

    @records_options
    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (32, 32),
        rays: int = 32,
        rings: int = 12,
        directions: int = 1,
    ):
        super().__init__()
        self.channels, self.rays, self.rings, self.directions = shape[0], rays, rings, directions
        widths, layers = [shape[0] * rings, *hidden], []
        for i, (n, m) in enumerate(itertools.pairwise(widths)):
            # An eighth of the circle on either side, then three times as far: two layers see all around.
            reach, step = max(rays // 8, 1), 3 ** min(i, 1)
            padding = {"padding": step * reach, "padding_mode": "circular"}
            layers += [nn.Conv1d(n, m, 2 * reach + 1, dilation=step, **padding), nn.SiLU()]
        last = nn.Conv1d(widths[-1], 5 if directions > 1 else 4, 1)
        # |u| starts at some thousandths, so the concentration starts at 5 to 10. In such a broad law the images of one
        # kind find a common direction before the law becomes narrow.
        nn.init.constant_(torch.as_tensor(last.bias)[1:2], math.log(200.0))
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a :class:`Pose` for images (batch, C, H, W): (batch, 3 M + 6), and M more if M > 1."""
        if x.shape[-3] != self.channels:
            raise ValueError(
                f"PolarCanonicalizer expected images of {self.channels} channels, got {x.shape[-3]}: its shape is that "
                "of what the encoder reads, for K classes K channels for each of the image"
            )
        p, mass = pixels(x), x.abs().sum(-3)
        total = mass.sum((-2, -1))
        blank = total == 0
        total = torch.where(blank, 1, total)  # an image without mass has its centre in the middle
        b = (mass.unsqueeze(-1) * p).sum((-3, -2)) / total.unsqueeze(-1)
        square = (mass * (p - b[..., None, None, :]).square().sum(-1)).sum((-2, -1)) / total
        # One pixel by itself has a radius too: half its side.
        log_scale = 0.5 * torch.where(blank, 1, 9 * square.clamp_min(min(x.shape[-2:]) ** -2)).log()

        j, r = (torch.arange(n, dtype=x.dtype, device=x.device) for n in (self.rays, self.rings))
        theta, radii, M = 2 * math.pi * j / self.rays, (r + 0.5) / self.rings, self.directions
        grid = log_scale.exp()[..., None, None, None] * radii[:, None, None] * circle.exp(theta)
        y = resample(x, b[..., None, None, :] + grid)
        a, log_concentration, spread, log_spread, *v = self.layers(y.flatten(-3, -2)).unbind(-2)
        u = (a.unsqueeze(-1) * circle.exp(M * theta)).mean(-2)
        log_k = log_concentration.mean(-1) + 0.5 * u.square().sum(-1).log()
        t = (circle.log(u).unsqueeze(-1) + 2 * math.pi * torch.arange(M, dtype=x.dtype, device=x.device)) / M
        turns = torch.cat([circle.exp(t), log_k[..., None, None].expand(*t.shape, 1)], -1).flatten(-2)
        rest = [b, spread.mean(-1, keepdim=True).expand(b.shape), log_scale.unsqueeze(-1), log_spread.mean(-1, True)]
        logits = [(v[0].unsqueeze(-2) * (theta - t.unsqueeze(-1)).cos()).sum(-1)] if M > 1 else []
        return torch.cat([turns, *rest, *logits], -1)
