r"""How an image of an object changes when the object turns about the line of sight: it turns in its plane.

.. math::
    x(\exp(t e_3) R) = \mathrm{rotate}(x(R), t)

for a view along the third axis in parallel projection, with a light that comes from the viewer. What other turns of the
object do to its image cannot be read off the image.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.manifolds import circle, so3
from ppvae.nn.actions import rotate

__all__ = ["RandomTurn"]


@dataclass(frozen=True)
class RandomTurn:
    """Images turned counter-clockwise about their middle, each by an angle drawn uniformly on the circle.

    Draws come from torch's global generator, so the seed of ``fit`` determines them.

    >>> turned, g = RandomTurn()(torch.zeros(5, 1, 8, 8))
    >>> turned.shape, g.shape
    (torch.Size([5, 1, 8, 8]), torch.Size([5, 3, 3]))

    :param background: the value of the image beyond its edge.
    """

    background: float = 0.0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The turned images (n, C, H, W) and the rotations exp(t e_3), (n, 3, 3), of their objects."""
        t = 2 * math.pi * torch.rand(x.shape[0], dtype=x.dtype, device=x.device)
        o = torch.zeros_like(t)
        return rotate(x, circle.exp(t), self.background), so3.exp(torch.stack([o, o, t], -1))
