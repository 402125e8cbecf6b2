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
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["Solid", "cube", "read_obj", "render", "solid"]

AMBIENT = 0.4
#: Samples and triangles of the views that are worked on at once, which bounds the memory to some 100 MB.
_CHUNK = 200_000


@dataclass(frozen=True)
class Solid:
    """Coloured triangles.

    :param corners: shape (f, 3, 3), triangle by corner by coordinate, within the unit ball.
    :param colors: shape (f, 3, 3), RGB of each corner in [0, 1].

    >>> triangle = Solid(corners=torch.eye(3).unsqueeze(0), colors=torch.eye(3).unsqueeze(0))
    >>> triangle.to(torch.float64).corners.dtype
    torch.float64
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

    >>> cube().corners.shape  # two triangles for each of four patches on each of six faces
    torch.Size([48, 3, 3])
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

    >>> lines = ["v 0 0 0", "v 2 0 0", "v 0 2 0", "f 1 2 3"]
    >>> _ = Path("triangle.obj").write_text("\\n".join(lines))
    >>> solid("triangle.obj").corners.shape
    torch.Size([1, 3, 3])
    """
    vertices, faces = read_obj(Path(path))
    vertices = vertices - (vertices.max(0) + vertices.min(0)) / 2
    corners = torch.tensor(vertices[faces] / np.linalg.norm(vertices, axis=1).max()).float()
    return Solid(corners, ((1 + _normals(corners)) / 2).unsqueeze(1).expand(-1, 3, -1).clone())


def read_obj(file: Path) -> tuple[NDArray, NDArray]:
    """Vertices (v, 3) and triangles (f, 3) of a Wavefront OBJ file; a polygon becomes a fan of triangles."""
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(field) for field in fields[:3]])
        elif kind == "f":
            numbers = [int(field.split("/")[0]) for field in fields]
            # Numbers start at 1; a negative one counts back from the vertex read last.
            corners = [i - 1 if i > 0 else len(vertices) + i for i in numbers]
            faces += [(corners[0], b, c) for b, c in pairwise(corners[1:])]
    if not faces or max(map(max, faces)) >= len(vertices) or min(map(min, faces)) < 0:
        raise ValueError(f"expected an OBJ file with vertices and faces between them, got {file}")
    return np.array(vertices), np.array(faces)


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

    >>> turns = torch.eye(3).expand(5, 3, 3)
    >>> render(cube(), turns, side=16).shape
    torch.Size([5, 3, 16, 16])
    """
    like = of.corners
    r = torch.as_tensor(rotations if isinstance(rotations, Tensor) else np.asarray(rotations)).to(like)
    if r.dim() != 3 or r.shape[1:] != (3, 3):
        raise ValueError(f"expected rotations of shape (n, 3, 3), got {tuple(r.shape)}")
    if side < 1 or samples < 1:
        raise ValueError(f"expected a side and samples of at least 1, got {side} and {samples}")
    fine = side * samples
    with torch.no_grad():
        parts = [_shade(of, part, fine) for part in r.split(max(1, _CHUNK // (fine**2 + len(like))))]
    x = torch.cat(parts) if parts else like.new_zeros(0, 3, fine, fine)
    return torch.nn.functional.avg_pool2d(x, samples)


def _shade(of: Solid, r: Tensor, fine: int) -> Tensor:
    """Colours (n, 3, fine, fine) of what n views show at the samples of the image plane."""
    n, f = len(r), len(of.corners)
    seen = torch.einsum("nij,fkj->nfki", r, of.corners).flatten(0, 1)  # one row for each triangle of each view
    plane, depth = seen[..., :2], seen[..., 2]
    a, b, c = plane.unbind(1)
    # Barycentric coordinates are affine: rows of coefficients of (u, v, 1).
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    across = area != 0  # a triangle seen edge-on covers nothing
    divisor = torch.where(across, area, 1)[:, None]
    affine = torch.stack([_edge(b, c) / divisor, _edge(c, a) / divisor, _edge(a, b) / divisor], 1)
    # The samples in the box about each triangle, all boxes in one list: columns count to the right, rows down.
    at = (plane * plane.new_tensor([fine, -fine]) + fine - 1) / 2
    first = (at.amin(1) - 0.01).ceil().clamp(0, fine).long()  # rounding must not shut out a sample on the rim
    size = (at.amax(1) + 0.01).floor().clamp(-1, fine - 1).long() + 1 - first
    count = torch.where(across, size.clamp_min(0).prod(-1), 0)
    triangle = torch.repeat_interleave(count)
    k = torch.arange(len(triangle), device=r.device) - (count.cumsum(0) - count)[triangle]
    column = first[triangle, 0] + k % size[triangle, 0]
    row = first[triangle, 1] + k // size[triangle, 0]
    weights = (affine[triangle] @ _homogeneous(column, row, fine, r).unsqueeze(-1)).squeeze(-1)
    # An edge belongs to both its triangles: rounding must not open a gap between them.
    inside = weights.amin(-1) >= -4 * torch.finfo(r.dtype).eps
    triangle, weights = triangle[inside], weights[inside]
    sample = (triangle // f * fine + row[inside]) * fine + column[inside]
    # The nearest triangle at each sample; of equals the first.
    z = (weights * depth[triangle]).sum(-1)
    nearest = z.new_full((n * fine**2,), -torch.inf).scatter_reduce(0, sample, z, "amax")
    front = z == nearest[sample]
    chosen = triangle.new_full((n * fine**2,), n * f).scatter_reduce(0, sample[front], triangle[front], "amin")
    shown = front & (triangle == chosen[sample])
    triangle, weights, sample = triangle[shown], weights[shown], sample[shown]
    light = AMBIENT + (1 - AMBIENT) * (r[triangle // f, 2] * _normals(of.corners)[triangle % f]).sum(-1).abs()
    color = r.new_zeros(n * fine**2, 3)
    color[sample] = light.unsqueeze(-1) * (weights.unsqueeze(-1) * of.colors[triangle % f]).sum(1)
    return color.clamp(0, 1).unflatten(0, (n, fine, fine)).movedim(-1, 1)


def _edge(p: Tensor, q: Tensor) -> Tensor:
    """Coefficients of (u, v, 1) of twice the signed area of the triangle p, q, (u, v)."""
    return torch.stack([p[:, 1] - q[:, 1], q[:, 0] - p[:, 0], p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]], -1)


def _homogeneous(column: Tensor, row: Tensor, fine: int, like: Tensor) -> Tensor:
    """(u, v, 1) of samples of the image plane."""
    u, v = (2 * column.to(like) + 1 - fine) / fine, (fine - 1 - 2 * row.to(like)) / fine
    return torch.stack([u, v, torch.ones_like(u)], -1)
