r"""Boxes: products of intervals, each open or with its two ends glued to a circle.

.. math::
    \text{glued, of length } l: \quad \log_x(y) = \bigl( y - x + \tfrac l2 \bmod l \bigr) - \tfrac l2, \qquad
    \text{open:} \quad \log_x(y) = y - x

A geodesic goes on at the other end of a glued interval, and is reflected at the ends of an open one, as light between
two mirrors: exp_x keeps the volume and never leaves the box. The measure is Lebesgue's; the unit box has the volume 1.

Reference: Riemannian Geometry (do Carmo, 1992), https://doi.org/10.1007/978-1-4757-2201-7
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppvae.manifolds.circle import exp, log, mean_angle
from ppvae.manifolds.protocol import combined, wraps

__all__ = ["Box"]


class Box:
    """Geometry of a box: points and tangent vectors have shape ``(..., n)``.

    :param glued: whether the ends of each interval are one point: one answer for all, or one for each.
    :param low: the lower ends, a number or a tensor (n,).
    :param high: the upper ends.

    >>> Box(glued=True).dist(torch.tensor([0.1]), torch.tensor([0.9])).round(decimals=4)
    tensor(0.2000)
    """

    def __init__(self, glued: bool | Sequence[bool] = False, low: Any = 0.0, high: Any = 1.0):
        self.glued, self.low, self.high = glued, low, high
        self.support = constraints.independent(constraints.interval(low, high), 1)

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each side is glued, its lower end and its length."""
        low, high = _tensor(self.low, x, x.dtype), _tensor(self.high, x, x.dtype)
        return _tensor(self.glued, x, torch.bool).expand(x.shape[-1:]), low, high - low

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u itself."""
        return u

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """x + u, around a glued side and reflected in an open one."""
        glued, low, length = self._ends(x)
        y = (x - low + u) / length
        folded = 1 - (torch.remainder(y, 2) - 1).abs()
        around = torch.remainder(y, 1)
        return low + length * torch.where(glued, torch.where(around < 1, around, 0), folded)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector from x to y."""
        glued, _, length = self._ends(x)
        u = y - x
        return torch.where(glued, torch.remainder(u + length / 2, length) - length / 2, u)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The length of a shortest line, shape ``(...)``; the gradient at y = x is 0."""
        s = self.logmap(x, y).square().sum(-1)
        return torch.where(s > 0, torch.where(s > 0, s, 1).sqrt(), 0)

    def logvolume(self, x: Tensor, u: Tensor) -> Tensor:
        """0, shape ``(...)``: the box is flat."""
        return torch.zeros_like((x + u).sum(-1))

    def preimages(self, x: Tensor, y: Tensor, num_wraps: int) -> tuple[Tensor, Tensor]:
        r"""On each side 4 num_wraps + 2: with length l and y counted from the lower end,

        .. math::
            \text{glued: } \log_x(y) + l \, j, \; -2 K \le j \le 2 K + 1, \qquad
            \text{open: } \pm y - x + 2 l \, k, \; |k| \le K
        """
        glued, low, length = self._ends(x)
        k = length * wraps(num_wraps, 2.0, x)
        turn = self.logmap(x, y)
        around = torch.cat([turn + k, turn + length + k])
        folded = torch.cat([y - x + k, 2 * low - y - x + k])
        sides = torch.where(glued, around, folded).unbind(-1)
        return combined([(side.unsqueeze(-1), torch.zeros_like(side)) for side in sides])

    def intrinsic_dim(self, x: Tensor) -> int:
        """n."""
        return x.shape[-1]

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """u . v, shape ``(...)``."""
        return (u * v).sum(-1)

    def frame(self, x: Tensor) -> Tensor:
        """The unit vectors, shape ``(..., n, n)``."""
        return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """u itself."""
        return u

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Fréchet mean of points (k, n): of glued sides that of circles, exact."""
        glued, low, length = self._ends(x)
        w = x.new_ones(len(x)) if weights is None else weights
        plain = ((w / w.sum()).unsqueeze(-1) * x).sum(0)
        turns = mean_angle(2 * math.pi * ((x - low) / length - 0.5), weights) / (2 * math.pi) + 0.5
        return torch.where(glued, low + length * torch.remainder(turns, 1), plain)

    def embed(self, x: Tensor) -> Tensor:
        """Each number of an open side; cosine and sine of the angle of a glued one."""
        glued, low, length = self._ends(x)
        angles = exp(2 * math.pi * (x - low) / length)
        columns = [angles[..., i, :] if glued[i] else x[..., i, None] for i in range(x.shape[-1])]
        return torch.cat(columns, -1)

    @property
    def lift(self) -> "BoxLift":
        """Logits of open sides, directions of vectors for glued ones."""
        return BoxLift(self)

    @property
    def chart(self) -> "BoxLift | None":
        """None: a glued side has no coordinate that is one to one, and the lift of an open one has a spare number."""
        return None

    def log_total_volume(self, x: Tensor) -> float:
        """The sum of the logs of the lengths."""
        if isinstance(self.low, Tensor) or isinstance(self.high, Tensor):
            return float(self._ends(x)[2].expand(x.shape[-1:]).log().sum())
        return x.shape[-1] * math.log(self.high - self.low)  # without a tensor, whose number a trace does not have

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform points."""
        _, low, length = self._ends(like)
        return low + length * torch.rand_like(like)


def _tensor(values: Any, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A number, or one for each side, made on the device: a copy from the host would wait for it."""
    if isinstance(values, Tensor):
        return values.to(device=like.device, dtype=dtype)
    if isinstance(values, Sequence):
        return torch.stack([_tensor(value, like, dtype) for value in values])
    return torch.full((), values, dtype=dtype, device=like.device)


class BoxLift:
    r"""Two numbers v for each side. The direction of v is the angle of a glued side. In an open one the sigmoid of the
    first is the place, and the second is normal noise."""

    def __init__(self, box: Box):
        self.box = box

    def shape(self, event: Size) -> Size:
        """(n, 2)."""
        return Size([*event, 2])

    def start(self, z: Tensor) -> Tensor:
        """(..., n) to (..., n, 2)."""
        glued, low, length = self.box._ends(z)
        y = (z - low) / length
        tiny = torch.finfo(y.dtype).eps  # a logit at an end would be infinite, and the chain would not start
        logit = y.clamp(tiny, 1 - tiny).logit()
        open_side = torch.stack([logit, torch.zeros_like(y)], -1)
        return torch.where(glued.unsqueeze(-1), math.sqrt(2) * exp(2 * math.pi * y), open_side)

    def point(self, v: Tensor) -> Tensor:
        """(..., n, 2) to (..., n)."""
        glued, low, length = self.box._ends(v[..., 0])
        around = torch.remainder(log(v) / (2 * math.pi), 1)
        around = torch.where(around < 1, around, 0)  # a small negative angle is rounded to 1
        return low + length * torch.where(glued, around, v[..., 0].sigmoid())

    def log_volume(self, v: Tensor) -> Tensor:
        """Shape ``(...)``."""
        glued, _, length = self.box._ends(v[..., 0])
        direction = -v.square().sum(-1) / 2 - math.log(2 * math.pi)
        spare = -v[..., 1].square() / 2 - math.log(2 * math.pi) / 2
        slope = logsigmoid(v[..., 0]) + logsigmoid(-v[..., 0])
        return (torch.where(glued, direction, slope + spare) + length.log()).sum(-1)
