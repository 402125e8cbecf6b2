"""Views of solids: turns of the solid against turns of the image, single pixels, meshes."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ppvae.data.render import AMBIENT, Solid, cube, render, solid
from ppvae.manifolds import circle
from ppvae.nn.actions import rotate


def rotations(n, seed=0):
    return Rotation.random(n, random_state=seed).as_matrix()


def about_sight(t):
    return Rotation.from_rotvec([0, 0, t]).as_matrix()


def test_a_turn_about_the_line_of_sight_turns_the_image():
    r = rotations(8)
    x = render(cube(), r, 32)
    assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32
    assert 0 <= x.min() and x.max() <= 1
    for quarter in (1, 2, 3):
        turned = render(cube(), about_sight(quarter * math.pi / 2) @ r, 32)
        assert (turned - torch.rot90(x, quarter, (-2, -1))).abs().mean() < 1e-4, "but for a sample on an edge"
    turned = render(cube(), about_sight(0.7) @ r, 32)
    error = (turned - rotate(x, circle.exp(torch.full((8,), 0.7)))).abs().mean()
    assert error < 0.015 < 0.08 < (turned - rotate(x, circle.exp(torch.full((8,), -0.7)))).abs().mean()


def test_pixels_of_a_face_on_view():
    x = render(cube(), np.eye(3)[None], 64)[0]
    # Corners on the unit sphere: the face z = 3^-1/2 covers |u|, |v| < 0.577, columns and rows 13.5 to 50.5.
    assert x[:, 5, 32].sum() == 0 and x[:, 32, 60].sum() == 0
    seen = (x.sum(0) > 0).sum().item()
    assert seen == 38**2, "partly covered pixels of the rim included"
    # Its normal is the line of sight, so the light is full; the patch about (u, v, 1) has the colour (1 + p) / 2.
    for row, column, u, v in ((45, 20, -0.5, -0.5), (45, 40, 0.5, -0.5), (20, 20, -0.5, 0.5), (20, 40, 0.5, 0.5)):
        assert torch.allclose(x[:, row, column], (1 + torch.tensor([u, v, 1.0])) / 2, atol=1e-6)


def test_light_and_depth():
    near = torch.tensor([[[-0.9, -0.9, 0.5], [0.9, -0.9, 0.5], [0.0, 0.9, 0.5]]])
    far = near * torch.tensor([1.0, 1.0, -1.0])
    red, green = torch.tensor([1.0, 0, 0]).expand(1, 3, 3), torch.tensor([0, 1.0, 0]).expand(1, 3, 3)
    both = Solid(torch.cat([far, near]), torch.cat([green, red]))
    r = np.stack([np.eye(3), Rotation.from_rotvec([0, math.pi, 0]).as_matrix()])
    x = render(both, r, 9, samples=1)[:, :, 4, 4]
    assert torch.allclose(x, torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])), "the nearer one is seen from either side"
    tilted = Rotation.from_rotvec([math.pi / 3, 0, 0]).as_matrix()[None]
    lit = render(Solid(near - torch.tensor([0, 0, 0.5]), red), tilted, 9, samples=1)[0, 0, 4, 4]
    assert lit == pytest.approx(AMBIENT + (1 - AMBIENT) * 0.5, abs=1e-6)


def test_colors_are_linear_between_corners():
    corners = torch.tensor([[[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]])
    x = render(Solid(corners, torch.eye(3)[None]), np.eye(3)[None], 8, samples=1)[0]
    u, v = (2 * 2 + 1) / 8 - 1, 1 - (2 * 5 + 1) / 8  # column 2, row 5
    weights = torch.tensor([-(u + v) / 2, (1 + u) / 2, (1 + v) / 2])
    assert torch.allclose(x[:, 5, 2], weights, atol=1e-6)


def test_the_cube_has_no_symmetry_and_is_seen_from_outside():
    a, b, c = cube().corners.unbind(1)
    assert (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(-1).min() > 0
    turns = Rotation.create_group("O").as_matrix()  # the 24 turns of a cube
    x = render(cube(), turns, 16)
    assert torch.pdist(x.flatten(1)).min() > 1


def test_chunks_do_not_change_the_image(monkeypatch):
    r = rotations(3)
    x = render(cube(), r, 16)
    monkeypatch.setattr("ppvae.data.render._CHUNK", 1)
    assert torch.allclose(render(cube(), r, 16), x, atol=1e-6)
    assert torch.allclose(render(cube().to(torch.float64), r, 16).float(), x, atol=1e-3)
    assert render(cube(), r[:0], 16).shape == (0, 3, 16, 16)


def test_an_octahedron_along_its_axis():
    """Every face leans alike, |n_3| = 1 / sqrt 3, and the outline is a square of half the area of the picture."""
    corners = torch.tensor(
        [[[i, 0, 0], [0, j, 0], [0, 0, k]] for i in (-1.0, 1.0) for j in (-1.0, 1.0) for k in (-1.0, 1.0)]
    )
    eighth = about_sight(math.pi / 4)
    straight, upright = render(Solid(corners, torch.ones(8, 3, 3)), np.stack([np.eye(3), eighth]), 32, samples=1)[:, 0]
    light = AMBIENT + (1 - AMBIENT) / 3**0.5
    for x in (straight, upright):
        assert torch.allclose(x[x > 0], torch.tensor(light), atol=1e-6)
    centre = (torch.arange(32) - 15.5).abs() / 16
    assert torch.equal(straight > 0, centre + centre[:, None] <= 1)
    assert torch.equal(upright > 0, torch.maximum(centre, centre[:, None].expand(32, 32)) <= 0.5**0.5)


def test_every_sample_shows_the_first_triangle_that_its_ray_meets():
    """Against the intersection of each ray with each triangle, by Cramer's rule, one at a time."""
    mesh = Solid(
        2 * torch.rand(40, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1,
        torch.rand(40, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    r = rotations(1)
    x = render(mesh, r, 12, samples=1)[0].numpy()
    corners = np.einsum("ij,fkj->fki", r[0], mesh.corners.numpy())
    for row, column in np.ndindex(12, 12):
        point = np.array([(2 * column - 11) / 12, (11 - 2 * row) / 12, 1.0])
        depth, color = -np.inf, np.zeros(3)
        for triangle, colors in zip(corners, mesh.colors.numpy(), strict=True):
            weights = np.linalg.solve(np.vstack([triangle[:, :2].T, np.ones(3)]), point)
            if weights.min() >= 0 and weights @ triangle[:, 2] > depth:
                depth = weights @ triangle[:, 2]
                normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
                color = (AMBIENT + (1 - AMBIENT) * abs(normal[2]) / np.linalg.norm(normal)) * (weights @ colors)
        assert np.allclose(x[:, row, column], color, atol=1e-9)


def test_a_mesh_of_ones_own(tmp_path):
    file = tmp_path / "tetrahedron.obj"
    file.write_text("v 1 1 1\nv 1 -1 -1\nv -1 1 -1\nv -1 -1 1\nf 1 2 3\nf 1 4 2\nf 1 3 4\nf 2 4 3\n")
    mesh = solid(file)
    assert mesh.corners.norm(dim=-1).max() == pytest.approx(1)
    x = render(mesh, rotations(4), 32)
    assert (x.amax((1, 2, 3)) > 0.3).all()
    assert x[:, :, 0, 0].abs().max() == 0
    # The picture covers what the projection of the four corners covers.
    r = rotations(4)
    for image, turn in zip(x, r, strict=True):
        v = (turn @ np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).T / 3**0.5)[:2]
        columns = np.flatnonzero(image.sum((0, 1)) > 0)
        assert (
            abs(columns[0] / 32 * 2 - 1 - v[0].min()) < 0.13 and abs((columns[-1] + 1) / 32 * 2 - 1 - v[0].max()) < 0.13
        )


def test_errors():
    with pytest.raises(ValueError, match=r"shape \(n, 3, 3\)"):
        render(cube(), np.eye(3))
    with pytest.raises(ValueError, match="at least 1"):
        render(cube(), np.eye(3)[None], 0)
    with pytest.raises(ValueError, match="corners and colors"):
        Solid(torch.zeros(2, 3, 3), torch.zeros(2, 3))
