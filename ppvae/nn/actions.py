r"""How similarities of the plane move images: differentiable resampling.

.. math::
    (g x)(p) = x(g^{-1} p), \qquad g p = e^s R p + b, \qquad g (h x) = (g h) x

An image is a function on the plane, with the origin in the middle of the image, the first axis to the right, the
second up, and half the shorter side as unit; turns are counter-clockwise. Between the centres of pixels x is bilinear,
and beyond its edge it is the background. As each value is a mean of four, g^-1 undoes g up to the blur of two
interpolations, and exactly if pixels fall on pixels.

Reference: Spatial Transformer Networks (Jaderberg et al., 2015), https://arxiv.org/abs/1506.02025
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from ppvae.manifolds import circle, sim2

__all__ = ["RandomSimilarity", "act", "pixels", "resample", "rotate", "scale", "shift", "similarity"]


def pixels(x: Tensor) -> Tensor:
    """The points of the plane at the centres of the pixels of images (..., C, H, W), shape (H, W, 2).

    >>> pixels(torch.zeros(1, 2, 2))[0]  # the upper row
    tensor([[-0.5000,  0.5000],
            [ 0.5000,  0.5000]])
    """
    H, W = x.shape[-2:]
    unit = min(H, W)
    across, up = (torch.arange(n, dtype=x.dtype, device=x.device) for n in (W, H))
    across, up = (2 * across + 1 - W) / unit, (H - 1 - 2 * up) / unit
    return torch.stack([across.expand(H, W), up[:, None].expand(H, W)], -1)


def resample(x: Tensor, points: Tensor, background: Tensor | float = 0.0) -> Tensor:
    """The values of images at points of the plane, bilinear between the centres of pixels.

    >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    >>> resample(x, torch.tensor([[[0.0, 0.0], [0.5, 0.5], [9.0, 9.0]]]), background=-1.0)
    tensor([[[ 2.5000,  2.0000, -1.0000]]])

    :param x: images of shape (..., C, H, W).
    :param points: (..., h, w, 2); batch shapes broadcast.
    :param background: the value beyond the edge, a number or a tensor of shape (C, 1, 1).
    :return: shape (..., C, h, w).
    """
    return _sample(x, _grid(points, x), background)


def _grid(points: Tensor, x: Tensor) -> Tensor:
    """Points of the plane as torch counts them: in half widths to the right and half heights down."""
    H, W = x.shape[-2:]
    u, v = points.unbind(-1)
    return torch.stack([u * (min(H, W) / W), v * (-min(H, W) / H)], -1)


def _sample(x: Tensor, grid: Tensor, background: Tensor | float) -> Tensor:
    batch = torch.broadcast_shapes(x.shape[:-3], grid.shape[:-3])
    images = (x - background).expand(batch + x.shape[-3:]).reshape(-1, *x.shape[-3:])
    grid = grid.expand(batch + grid.shape[-3:]).reshape(-1, *grid.shape[-3:])
    values = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.reshape(batch + values.shape[-3:]) + background


def act(x: Tensor, g: Tensor, background: Tensor | float = 0.0) -> Tensor:
    """Images moved by similarities: (g x)(p) = x(g^-1 p).

    >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    >>> act(x, similarity(shift=torch.tensor([1.0, 0.0])))  # by half the side, which is one pixel
    tensor([[[0., 1.],
             [0., 3.]]])

    :param x: images of shape (..., C, H, W).
    :param g: elements of Sim(2), (..., 3, 3), e.g. from :func:`similarity`; batch shapes broadcast, so that g may have
        particles that x does not.
    :param background: the value beyond the edge, a number or a tensor of shape (C, 1, 1).
    """
    g, p = sim2.inverse(g), pixels(x)
    (a1, a2), b = g[..., None, None, :2, :1].unbind(-2), g[..., None, None, :2, 2]
    # a_1 p + a_2 J p + b with J the quarter turn. The map to torch's grid is linear: done before and not after, it
    # passes over one image and not over all.
    quarter = torch.stack([-p[..., 1], p[..., 0]], -1)
    return _sample(x, a1 * _grid(p, x) + a2 * _grid(quarter, x) + _grid(b, x), background)


def similarity(turn: Tensor | None = None, shift: Tensor | None = None, log_scale: Tensor | None = None) -> Tensor:
    r"""The element :math:`p \mapsto e^s R p + b` of Sim(2), shape (..., 3, 3); by default R = I, b = 0, s = 0.

    >>> similarity(shift=torch.tensor([1.0, 2.0]), log_scale=torch.tensor(0.0))
    tensor([[1., -0., 1.],
            [0., 1., 2.],
            [0., 0., 1.]])

    :param turn: points of the circle (cos t, sin t), shape (..., 2).
    :param shift: b, shape (..., 2), in half the shorter side of an image.
    :param log_scale: s, shape (...).
    :raises ValueError: if all are None.
    """
    if turn is None and shift is None and log_scale is None:
        raise ValueError("similarity: expected a turn, a shift or a log_scale, got none")
    if turn is None:
        like = log_scale if shift is None else shift[..., 0]
        assert like is not None  # one of them is, see above
        turn = circle.exp(torch.zeros_like(like))
    a = turn if log_scale is None else log_scale.exp().unsqueeze(-1) * turn
    b = torch.zeros_like(a) if shift is None else shift
    a, b = torch.broadcast_tensors(a, b)
    (a1, a2), (b1, b2) = a.unbind(-1), b.unbind(-1)
    o = torch.zeros_like(a1)
    return torch.stack([a1, -a2, b1, a2, a1, b2, o, o, o + 1], -1).unflatten(-1, (3, 3))


def rotate(x: Tensor, turn: Tensor, background: Tensor | float = 0.0) -> Tensor:
    """Images (..., C, H, W) turned counter-clockwise by points (cos t, sin t) of the circle, (..., 2).

    >>> rotate(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([0.0, 1.0]))  # a quarter turn
    tensor([[[2., 4.],
             [1., 3.]]])
    """
    return act(x, similarity(turn=turn), background)


def shift(x: Tensor, b: Tensor, background: Tensor | float = 0.0) -> Tensor:
    """Images (..., C, H, W) shifted by b, (..., 2): to the right and up, in half the shorter side.

    >>> shift(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([0.0, 1.0]))
    tensor([[[3., 4.],
             [0., 0.]]])
    """
    return act(x, similarity(shift=b), background)


def scale(x: Tensor, log_scale: Tensor, background: Tensor | float = 0.0) -> Tensor:
    """Images (..., C, H, W) magnified by exp(log_scale), (...), about their middle.

    >>> scale(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor(2.0).log())[0, 0]
    tensor([1.7500, 2.2500])
    """
    return act(x, similarity(log_scale=log_scale), background)


@dataclass(frozen=True)
class RandomSimilarity:
    r"""Images with values in [0, 1], each moved by a similarity of its own, drawn uniformly.

    ::

        fit(vae, x, transform=RandomSimilarity(turn=math.pi / 2, shift=0.25))

    Draws come from torch's global generator, so the seed of ``fit`` determines them.

    >>> RandomSimilarity(turn=0.0, shift=0.25)(torch.ones(5, 1, 8, 8)).shape
    torch.Size([5, 1, 8, 8])

    :param turn: the angle is uniform in [-turn, turn], radians.
    :param shift: each coordinate of the shift is uniform in [-shift, shift], in half the shorter side.
    :param log_scale: the log-scale is uniform in [-log_scale, log_scale].
    """

    turn: float = math.pi
    shift: float = 0.0
    log_scale: float = 0.0
    domain = constraints.unit_interval

    def draw(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Random elements of Sim(2), shape (\\*shape, 3, 3), in the dtype and on the device of ``like``."""
        t, b1, b2, s = (2 * torch.rand((4, *shape), dtype=like.dtype, device=like.device) - 1).unbind(0)
        return similarity(circle.exp(self.turn * t), self.shift * torch.stack([b1, b2], -1), self.log_scale * s)

    def __call__(self, x: Tensor) -> Tensor:
        # A mean of four numbers can leave their range by a rounding error. Beyond the edge the image is 0.
        low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
        return act(x, self.draw(x, tuple(x.shape[:-3]))).clamp(low, high)
