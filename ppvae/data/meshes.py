r"""Pictures of one solid in random orientation: images whose only factor is a rotation R in SO(3).

R is uniform (Haar). The solid is centred, fits the unit ball, and is seen along the third axis in parallel
projection; a pixel is the shade of the nearest point, |n_3| of the normal n of its triangle, in sixteenths
above black:

    x_pixel = (16 + 239 |n_3|) on the solid,    0 beside it.

Reference: Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), https://arxiv.org/abs/1807.04689
"""

from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppvae.data.dataset import DataSet
from ppvae.data.files import locate, package_folders

MESHES = ("cow", "bunny10k_textured", "airplane")


def find(path: str | PathLike[str] | None = None, mesh: str = "cow") -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    if path is None and mesh not in MESHES:
        raise ValueError(f"expected one of {', '.join(MESHES)}, or path= of an OBJ file, got {mesh!r}")
    return locate(
        "meshes",
        [f"{mesh}.obj"],
        path=path,
        folders=package_folders("pymeshlab", "tests/sample_meshes"),
        install="pip install --no-deps pymeshlab==2025.7.post1",
    )


def load(
    path: str | PathLike[str] | None = None, mesh: str = "cow", n: int = 2_000, side: int = 32, seed: int = 0
) -> DataSet:
    """Images (n, 1, side, side), uint8 from 0 to 255; labels (n, 3, 3): the rotation of each.

    :param path: an OBJ file of your own, or the folder that has ``mesh``.obj.
    :param mesh: one of ``MESHES``.
    :param n: number of images in all three parts: 80 % train, 10 % validation, 10 % test.
    :param side: of an image, in pixels.
    :param seed: of the rotations.
    """
    (file,) = find(path, mesh)
    vertices, faces = read_obj(file)
    rng = np.random.default_rng(seed)
    # A unit quaternion with Gaussian components is a uniform rotation.
    w, x, y, z = (q := rng.standard_normal((n, 4))).T / np.linalg.norm(q, axis=1)
    rotations = np.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        ],
        -1,
    ).reshape(n, 3, 3)
    images = render(vertices, faces, rotations, side)
    train, validation, test = np.split(np.arange(n), [n * 8 // 10, n * 9 // 10])
    return DataSet(
        name="meshes",
        train=images[train],
        validation=images[validation],
        test=images[test],
        train_labels=rotations[train],
        validation_labels=rotations[validation],
        test_labels=rotations[test],
        label_names=("rotation",),
        maximum=255,
        split=f"{n} independent uniform rotations, seed {seed}: 80 % train, 10 % validation, 10 % test",
        licence="none stated for the mesh; do not redistribute its pictures",
        source=f"rendered from {file.name}; the meshes lie in the package pymeshlab 2025.7.post1",
    )


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


def render(vertices: NDArray, faces: NDArray, rotations: NDArray, side: int) -> NDArray:
    """Images (n, 1, side, side), uint8: the solid turned by each rotation, the nearest of dense surface
    points shown.

    The points are 48 to the pixel of the greatest possible picture, spread over the triangles by area.
    """
    centre = (vertices.max(0) + vertices.min(0)) / 2
    vertices = (vertices - centre) / np.linalg.norm(vertices - centre, axis=1).max()
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    rng = np.random.default_rng(0)  # the points are part of the renderer: all images share them
    chosen = rng.choice(len(faces), 48 * side * side, p=area / area.sum())
    u, v = rng.random((2, len(chosen), 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    normals = (cross / np.where(area > 0, area, 1)[:, None])[chosen]  # a triangle without area is never chosen
    images = np.zeros((len(rotations), 1, side, side), np.uint8)
    for image, rotation in zip(images, rotations, strict=True):
        p = points @ rotation.T
        shade = np.rint(16 + 239 * np.abs(normals @ rotation[2])).astype(np.uint8)
        column, row = np.clip(((p[:, :2] * [1, -1] + 1) / 2 * side).astype(int), 0, side - 1).T
        far_to_near = np.argsort(p[:, 2])
        image[0, row[far_to_near], column[far_to_near]] = shade[far_to_near]  # of equal pixels the last one stays
    return images
