r"""Views of a coloured solid in any orientation: RGB images whose only factor is a rotation R in SO(3).

A point p of the solid is seen at the first two coordinates of R p, the first to the right, the second up, in parallel
projection against the third axis; of all points in line that with the largest third coordinate is seen. With the unit
normal n of its triangle and its colour c,

.. math::
    x_{\mathrm{pixel}} = (a + (1 - a) |(R n)_3|) \, c \text{ on the solid,} \quad 0 \text{ beside it}, \qquad a = 0.4

The light comes from the viewer, so that a turn of the solid about the line of sight is a turn of its image:
x(exp(t e_3) R) = rotate(x(R), t), exactly for quarter turns. Colours are linear between the corners of a triangle.
Each pixel is the mean of a square of samples, at which the renderer is exact: by barycentric coordinates, which are
affine in the image plane.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), Section 6.2
        https://arxiv.org/abs/1807.04689
    [2] A Parallel Algorithm for Polygon Rasterization (Pineda, 1988)
        https://doi.org/10.1145/54852.378457
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ppvae.data.meshes import read_obj

__all__ = ["Solid", "cube", "render", "solid"]

AMBIENT = 0.4
#: Numbers held at once for each of the four affine functions of a triangle, which bounds the memory to some 100 MB.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Solid:
    """Coloured triangles.

    :param corners: shape (f, 3, 3), triangle by corner by coordinate, within the unit ball.
    :param colors: shape (f, 3, 3), RGB of each corner in [0, 1].
    """

    corners: Tensor
    colors: Tensor

    def __post_init__(self) -> None:
        if self.corners.dim() != 3 or self.corners.shape[1:] != (3, 3) or self.colors.shape != self.corners.shape:
            raise ValueError(
                f"expected corners and colors of shape (f, 3, 3), got {tuple(self.corners.shape)} and "
                f"{tuple(self.colors.shape)}"
            )

    def to(self, *args: Any, **kwargs: Any) -> "Solid":
        """The solid in another dtype or on another device."""
        return Solid(self.corners.to(*args, **kwargs), self.colors.to(*args, **kwargs))


def cube() -> Solid:
    """The colour cube with corners on the unit sphere: red, green, blue grow along its axes; four patches on a face.

    A patch about the point p of the cube [-1, 1]^3 has the colour (1 + p) / 2. All differ, so no turn but the identity
    leaves the cube as it is.
    """
    corners, colors = [], []
    for face in range(6):
        normal, sign = face // 2, 1 - 2 * (face % 2)
        e, u, v = (np.eye(3)[(normal + i) % 3] for i in range(3))
        v = sign * v  # so that the triangles go round counter-clockwise, seen from outside
        for i, j in ((-1, -1), (0, -1), (-1, 0), (0, 0)):
            square = [sign * e + (i + k) * u + (j + l) * v for k, l in ((0, 0), (1, 0), (1, 1), (0, 1))]
            corners += [[square[0], square[1], square[2]], [square[0], square[2], square[3]]]
            colors += [[(1 + np.mean(square, 0)) / 2] * 3] * 2
    return Solid(torch.tensor(np.array(corners) / 3**0.5).float(), torch.tensor(np.array(colors)).float())


def solid(path: str | PathLike[str]) -> Solid:
    """A mesh of your own, from a Wavefront OBJ file: centred, scaled to the unit ball, its colour that of the normal.

    The colour (1 + n) / 2 of the normal n before the turn tells the sides of a solid apart.

    :raises ValueError: if the file has no vertices and faces between them.
    """
    vertices, faces = read_obj(Path(path))
    vertices = vertices - (vertices.max(0) + vertices.min(0)) / 2
    corners = torch.tensor(vertices[faces] / np.linalg.norm(vertices, axis=1).max()).float()
    return Solid(corners, ((1 + _normals(corners)) / 2).unsqueeze(1).expand(-1, 3, -1).clone())


def _normals(corners: Tensor) -> Tensor:
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    length = normal.norm(dim=-1, keepdim=True)
    return normal / torch.where(length > 0, length, 1)


def render(of: Solid, rotations: ArrayLike | Tensor, side: int = 64, samples: int = 2) -> Tensor:
    """Images (n, 3, side, side) in [0, 1], in the dtype and on the device of the solid; without gradient.

    :param of: the solid, e.g. ``cube()`` or ``solid("bunny.obj")``.
    :param rotations: R, shape (n, 3, 3).
    :param side: of an image, in pixels.
    :param samples: each pixel is the mean of samples x samples points.
    :raises ValueError: for rotations of another shape, or a side or samples below 1.
    """
    like = of.corners
    r = torch.as_tensor(rotations if isinstance(rotations, Tensor) else np.asarray(rotations)).to(like)
    if r.dim() != 3 or r.shape[1:] != (3, 3):
        raise ValueError(f"expected rotations of shape (n, 3, 3), got {tuple(r.shape)}")
    if side < 1 or samples < 1:
        raise ValueError(f"expected a side and samples of at least 1, got {side} and {samples}")
    fine = side * samples
    across = (2 * torch.arange(fine, dtype=like.dtype, device=like.device) + 1 - fine) / fine
    u, v = across.expand(fine, fine), -across[:, None].expand(fine, fine)
    points = torch.stack([u, v, torch.ones_like(u)]).flatten(1)  # (3, fine^2), homogeneous
    faces = max(1, min(len(like), _CHUNK // points.shape[1]))
    images = max(1, _CHUNK // (faces * points.shape[1]))
    with torch.no_grad():
        parts = [_shade(of, part, points, faces) for part in r.split(images)]
    x = torch.cat(parts) if parts else like.new_zeros(0, 3, fine**2)
    return torch.nn.functional.avg_pool2d(x.unflatten(-1, (fine, fine)), samples)


def _shade(of: Solid, r: Tensor, points: Tensor, faces: int) -> Tensor:
    """Colours (n, 3, p) of what n views show at p points of the image plane."""
    n, p = len(r), points.shape[1]
    depth = points.new_full((n, p), -torch.inf)
    color = points.new_zeros(n, 3, p)
    normals = _normals(of.corners)
    for corners, colors, normal in zip(
        of.corners.split(faces), of.colors.split(faces), normals.split(faces), strict=True
    ):
        seen = torch.einsum("nij,fkj->nfki", r, corners)
        light = AMBIENT + (1 - AMBIENT) * torch.einsum("nj,fj->nf", r[:, 2], normal).abs()
        (a1, a2, az), (b1, b2, bz), (c1, c2, cz) = (seen[:, :, k].unbind(-1) for k in range(3))
        # Barycentric coordinates are affine: rows of coefficients of (u, v, 1).
        area = (b1 - a1) * (c2 - a2) - (b2 - a2) * (c1 - a1)
        across = area != 0  # a triangle seen edge-on covers nothing
        area = torch.where(across, area, 1)
        lb = torch.stack([c2 - a2, a1 - c1, (c1 - a1) * a2 - (c2 - a2) * a1], -1) / area.unsqueeze(-1)
        lc = torch.stack([a2 - b2, b1 - a1, (b2 - a2) * a1 - (b1 - a1) * a2], -1) / area.unsqueeze(-1)
        la = points.new_tensor([0.0, 0.0, 1.0]) - lb - lc
        z = az.unsqueeze(-1) * la + bz.unsqueeze(-1) * lb + cz.unsqueeze(-1) * lc
        weights = [coefficients @ points for coefficients in (la, lb, lc)]  # (n, f, p) each
        # An edge belongs to both its triangles: rounding must not open a gap between them.
        inside = torch.minimum(torch.minimum(weights[0], weights[1]), weights[2]) >= -4 * torch.finfo(z.dtype).eps
        here = torch.where(inside & across.unsqueeze(-1), z @ points, -torch.inf)
        nearest, face = here.max(1)
        rgb = points.new_zeros(n, 3, p)
        for k, weight in enumerate(weights):
            corner = colors[:, k][face].movedim(-1, 1)  # (n, 3, p)
            rgb = rgb + weight.gather(1, face.unsqueeze(1)) * corner
        rgb = rgb * light.gather(1, face).unsqueeze(1)
        closer = nearest > depth
        depth = torch.where(closer, nearest, depth)
        color = torch.where(closer.unsqueeze(1), rgb, color)
    return color.clamp(0, 1)
