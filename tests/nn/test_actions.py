"""Images moved by similarities, against array operations, scipy, and the group's own law."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from ppvae.manifolds import circle, sim2
from ppvae.nn.actions import RandomSimilarity, act, pixels, resample, rotate, scale, shift, similarity
from ppvae.random import seeded

G = torch.Generator().manual_seed(0)


def random_images(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def smooth(side=64, dtype=torch.float64):
    """A smooth blob, not symmetric, that is 0 towards the edge."""
    u, v = pixels(torch.zeros(1, side, side, dtype=dtype)).unbind(-1)
    bump = (1 + u + 0.5 * v * v - u * v) * torch.exp(-8 * (u * u + v * v))
    return bump.unsqueeze(0)


def angle(t, dtype=torch.float64):
    return circle.exp(torch.as_tensor(t, dtype=dtype))


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4, -1])
def test_quarter_turns_are_exact_and_counter_clockwise(side, quarters):
    x = random_images(2, 3, side, side)
    turned = rotate(x, angle(quarters * math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(x, quarters, (-2, -1)), rtol=0, atol=1e-13)


def test_shift_by_whole_pixels_is_a_roll_with_background():
    x = random_images(1, 8, 8)
    moved = shift(x, torch.tensor([2 * 2 / 8, 1 * 2 / 8], dtype=torch.float64), background=-3.0)  # 2 to the right, 1 up
    expected = torch.full_like(x, -3.0)
    expected[:, :7, 2:] = x[:, 1:, :6]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-13)


def test_images_that_are_not_square_keep_their_proportions():
    """A turn by a quarter in the middle of a wide image, and a shift in half the shorter side."""
    x = torch.zeros(1, 6, 10, dtype=torch.float64)
    x[0, 2, 4], x[0, 1, 4] = 1.0, 2.0
    turned = rotate(x, angle(math.pi / 2))
    expected = torch.rot90(x[:, :, 2:8], 1, (-2, -1))
    torch.testing.assert_close(turned[:, :, 2:8], expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(shift(x, torch.tensor([1 / 3, 0.0]).double())[0, :, 1:], x[0, :, :-1])


def test_against_scipy_away_from_the_edge():
    x, t = smooth(32), 0.7
    theirs = scipy.ndimage.rotate(x[0].numpy(), math.degrees(t), reshape=False, order=1)
    np.testing.assert_allclose(rotate(x, angle(t))[0].numpy()[6:-6, 6:-6], theirs[6:-6, 6:-6], atol=1e-12)


def test_the_law_of_the_group():
    """(g h) x = g (h x), and g^-1 undoes g, up to the blur of bilinear interpolation, which falls as the square of
    the pixel.
    """
    g = similarity(angle(0.6), torch.tensor([0.1, -0.05]).double(), torch.tensor(0.2).double())
    h = similarity(angle(-2.0), torch.tensor([-0.1, 0.1]).double(), torch.tensor(-0.3).double())
    errors = {}
    for side in (64, 128):
        x = smooth(side)
        composed = (act(x, sim2.compose(g, h)) - act(act(x, h), g)).abs().max()
        inside = (pixels(x).norm(dim=-1) < 0.6).double()  # what g leaves within the image
        undone = ((act(act(x, g), sim2.inverse(g)) - x) * inside).abs().max()
        errors[side] = torch.stack([composed, undone])
    assert (errors[64] < 0.03).all()
    assert (errors[128] < 0.4 * errors[64]).all(), errors


def test_identity_and_element():
    x = random_images(2, 1, 9, 9)
    torch.testing.assert_close(act(x, torch.eye(3).double()), x)
    g = similarity(angle(0.4), torch.tensor([0.3, -0.2]).double(), torch.tensor(0.5).double())
    p = torch.tensor([0.7, -1.1]).double()
    torch.testing.assert_close(
        sim2.act(g, p), math.exp(0.5) * circle.act(angle(0.4), p) + torch.tensor([0.3, -0.2]).double()
    )
    assert similarity(shift=torch.zeros(4, 2)).shape == (4, 3, 3)
    assert similarity(log_scale=torch.zeros(4)).shape == (4, 3, 3)
    with pytest.raises(ValueError, match="expected a turn, a shift or a log_scale, got none"):
        similarity()


def test_scale_about_the_middle():
    x = smooth(65)
    big = scale(x, torch.tensor(math.log(2.0), dtype=torch.float64))
    torch.testing.assert_close(big[0, ::2, ::2][1:-1, 1:-1], x[0, 16:49, 16:49][1:-1, 1:-1], atol=1e-12, rtol=0)


def test_left_dimensions_broadcast_and_batches_do_not_mix():
    x, g = random_images(3, 2, 6, 5), similarity(circle.exp(torch.randn(4, 1, generator=G).double()))
    moved = act(x, g)
    assert moved.shape == (4, 3, 2, 6, 5)
    torch.testing.assert_close(moved[2, 1], act(x[1], g[2, 0]))
    torch.testing.assert_close(act(x[:1], g[0]), moved[0, :1])  # a batch of one


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_device_and_dtype_are_those_of_the_image(dtype):
    """On torch's device without memory: whatever was put on the CPU by itself would not meet the rest."""
    x = torch.zeros(3, 1, 6, 6, dtype=dtype, device="meta")
    g = RandomSimilarity(shift=0.1, log_scale=0.1).draw(x, (4, 3))
    for moved in (
        act(x, g, x.new_zeros(1, 1, 1)),
        act(x, sim2.inverse(g)),
        RandomSimilarity()(x).expand(4, 3, 1, 6, 6),
    ):
        assert moved.device.type == "meta" and moved.dtype == dtype and moved.shape == (4, 3, 1, 6, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_against_differences(dtype):
    x = random_images(2, 1, 5, 5).requires_grad_()
    turn, b, s = (torch.randn(2, n, generator=G).double().requires_grad_() for n in (1, 2, 1))
    background = torch.tensor([[[0.3]]], dtype=torch.float64, requires_grad=True)

    def f(x, turn, b, s, background):
        return act(x, similarity(circle.exp(turn[:, 0]), 0.3 * b, 0.1 * s[:, 0]), background)

    if dtype == torch.float64:
        assert torch.autograd.gradcheck(f, (x, turn, b, s, background), eps=1e-7, atol=1e-5)
    single = [a.detach().float().requires_grad_() for a in (x, turn, b, s, background)]
    out = f(*single)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, f(x, turn, b, s, background).float(), atol=1e-5, rtol=1e-5)


def test_gradients_are_finite_at_the_identity_and_everywhere_on_the_circle():
    t = torch.linspace(-math.pi, math.pi, 9, dtype=torch.float64, requires_grad=True)
    x = random_images(1, 6, 6)
    out = rotate(x, circle.exp(t))
    (gradient,) = torch.autograd.grad(out.square().sum(), t)
    assert torch.isfinite(gradient).all()


def test_background_enters_where_the_image_ends():
    x = torch.ones(1, 8, 8)
    out = shift(x, torch.tensor([5.0, 0.0]), background=torch.tensor([[[0.25]]]))
    torch.testing.assert_close(out, torch.full_like(x, 0.25))


def test_resample_at_pixels_is_the_image():
    x = random_images(2, 3, 5, 7)
    torch.testing.assert_close(resample(x, pixels(x)), x)


def test_random_similarity():
    x = random_images(4, 1, 8, 8, dtype=torch.float32)
    move = RandomSimilarity(turn=0.5, shift=0.25, log_scale=0.1)
    with seeded(0):
        g = move.draw(x, (2000,))
    omega, sigma = sim2.log(g)[:, :2].unbind(-1)
    assert omega.abs().max() <= 0.5 and omega.abs().max() > 0.49 and sigma.abs().max() <= 0.1 + 1e-6
    assert g[:, :2, 2].abs().max() <= 0.25 and abs(omega.mean()) < 0.05
    with seeded(0):
        moved = move(x)
    with seeded(0):
        torch.testing.assert_close(moved, act(x, move.draw(x, (4,))).clamp(0, 1))
    assert moved.shape == x.shape and 0 <= moved.min() and moved.max() <= 1
    # full images keep to [0, 1], though a mean of four ones can round to more
    assert RandomSimilarity()(torch.ones(200, 1, 8, 8)).max() <= 1
    x = 3 * torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(RandomSimilarity(0.0)(x), x)  # nothing is clipped
