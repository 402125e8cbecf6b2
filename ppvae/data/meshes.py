r"""Grey pictures of one solid in random orientation: images whose only factor is a rotation R in SO(3).

R is uniform (Haar), and the pictures are those of :func:`ppvae.data.render.render` of a white solid, from 0 to 255.

Reference: Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), https://arxiv.org/abs/1807.04689
"""

from os import PathLike
from pathlib import Path

import numpy as np

from ppvae.data.dataset import DataSet, parts
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
    import torch  # here, so that listing the data sets needs none of these
    from scipy.spatial.transform import Rotation

    from ppvae.data.render import Solid, render, solid

    shape = solid(file)
    # A Gaussian quaternion has a uniform direction and makes a uniform rotation.
    rotations = Rotation.from_quat(np.random.default_rng(seed).standard_normal((n, 4))).as_matrix()
    white = Solid(shape.corners, torch.ones_like(shape.colors))
    images = (255 * render(white, rotations, side)[:, :1]).round().byte().numpy()
    train, validation, test = np.split(np.arange(n), [n * 8 // 10, n * 9 // 10])
    return DataSet(
        name="meshes",
        **parts(images, rotations, train=train, validation=validation, test=test),
        label_names=("rotation",),
        maximum=255,
        split=f"{n} independent uniform rotations, seed {seed}: 80 % train, 10 % validation, 10 % test",
        licence="none stated for the mesh; do not redistribute its pictures",
        source=f"rendered from {file.name}; the meshes lie in the package pymeshlab 2025.7.post1",
    )
