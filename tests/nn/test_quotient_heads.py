"""Heads on quotients: each point has features that lead to it, loops close, and nothing jumps or is lost at a seam."""

import math

import pytest
import torch

from ppvae.distributions import center
from ppvae.manifolds import SO3, circle, quotient, so3
from ppvae.manifolds.principal_axes import symmetric
from ppvae.nn import AxesHead, BoxHead, CylinderHead, KleinHead, MoebiusHead, ProjectiveHead, ShapeHead
from ppvae.nn.quotient_heads import WIDEST, bounded_scale, direction

F64 = torch.float64


def flat(a):
    """The numbers of which :func:`symmetric` makes a symmetric matrix."""
    m = a.shape[-1]
    i, j = torch.triu_indices(m, m)
    return a[..., i, j] * torch.where(i == j, 1.0, math.sqrt(2.0))


def place(name, z):
    """Features at which a head has its centre at z: its continuous right inverse, from invariants alone."""
    if name == "moebius":
        c, s, v = z.unbind(-1)
        return torch.stack([c * c - s * s, 2 * c * s, v * c, v * s], -1)
    if name == "klein":
        (c, s), (a, b) = z[..., 0, :].unbind(-1), z[..., 1, :].unbind(-1)
        return torch.stack([c * c - s * s, 2 * c * s, b * c, b * s, a], -1)
    if name == "projective":
        return flat(z.unsqueeze(-1) * z.unsqueeze(-2))
    return flat(z @ torch.diag(torch.tensor([1.0, 0.0, -1.0], dtype=z.dtype)) @ z.mT)


def features(name, z, scale=0.0):
    h = place(name, z)
    batch, rest = h.shape[:-1], lambda k: torch.full((*h.shape[:-1], k), scale, dtype=h.dtype)
    if name == "moebius":
        return torch.cat([h, rest(4)], -1)
    if name == "klein":
        return torch.cat([h[..., :4], torch.zeros(*batch, 2, dtype=h.dtype), h[..., 4:], rest(2)], -1)
    return torch.cat([h, rest(1 if name == "projective" else 3)], -1)


HEADS = {"moebius": MoebiusHead(), "klein": KleinHead(), "projective": ProjectiveHead(3), "axes": AxesHead()}


def points(name, n):
    torch.manual_seed(0)
    if name == "moebius":
        return torch.cat([circle.exp(2 * math.pi * torch.rand(n, dtype=F64)), torch.randn(n, 1, dtype=F64)], -1)
    shape = {"klein": (2, 2), "projective": (3,), "axes": (3, 3)}[name]
    return quotient(name).uniform(torch.zeros(n, *shape, dtype=F64))


@pytest.mark.parametrize("name", HEADS)
def test_every_point_of_the_quotient_is_reached_from_its_invariants(name):
    z, head, manifold = points(name, 100), HEADS[name], quotient(name)
    law = head(features(name, z))
    assert law.batch_shape == (100,) and manifold.dist(center(law), z).max() < 1e-6
    for image in manifold.orbit(z):
        other = head(features(name, image))
        assert torch.allclose(other.log_prob(z), law.log_prob(z), atol=1e-10)


def loop(name):
    """A loop of the quotient that does not close in the cover."""
    t = torch.linspace(0, 1, 2001, dtype=F64)
    turn = math.pi * t
    if name == "moebius":
        return torch.cat([circle.exp(turn), torch.full((2001, 1), 0.7) * (turn.cos()).unsqueeze(-1)], -1)
    if name == "klein":
        return torch.stack([circle.exp(turn), circle.exp(1.2 * turn.cos())], -2)
    if name == "projective":
        return torch.stack([turn.cos(), turn.sin(), torch.zeros_like(t)], -1)
    return so3.exp(torch.stack([0 * t, 0 * t, turn], -1))


@pytest.mark.parametrize("name", HEADS)
def test_along_a_loop_that_the_cover_does_not_close_the_law_is_continuous(name):
    z, head, manifold = loop(name), HEADS[name], quotient(name)
    assert manifold.dist(z[0], z[-1]) < 1e-12 and manifold.base.dist(z[0], z[-1]) > 1
    law = head(features(name, z))
    away = manifold.base.expmap(z, 0.3 * manifold.frame(z)[:, 0])
    # The law at one step of the loop, at the points of the step before.
    there = head(features(name, z[1:])).log_prob(away[:-1])
    assert (there - law.log_prob(away)[:-1]).abs().max() < 0.05
    # The centre as a point of the cover does jump, somewhere: no head could avoid it.
    before, after = center(law)[:-1], center(law)[1:]
    assert manifold.dist(before, after).max() < 0.01 and manifold.base.dist(before, after).max() > 1


@pytest.mark.parametrize("name", HEADS)
def test_features_pass_gradients_at_the_seam(name):
    z, head = loop(name)[::50], HEADS[name]
    h = features(name, z).requires_grad_()
    law = head(h)
    (gradient,) = torch.autograd.grad((law.log_prob(z.detach()) + law.rsample().flatten(1).sum(-1)).sum(), h)
    assert gradient.isfinite().all() and gradient.abs().max() < 1e4


@pytest.mark.parametrize("name", ["moebius", "klein"])
def test_the_correlation_turns_with_the_choice_of_a_representative(name):
    """On both sides of the seam of the half angle, with a strong correlation."""
    d = torch.tensor([0.8, -0.5], dtype=F64)
    laws = []
    for eps in (1e-9, -1e-9):
        angle = math.pi / 2 + eps  # of 2t: where the two forms of the half angle meet
        a = torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)
        b, scales = torch.tensor([0.5, 0.6], dtype=F64), torch.zeros(2, dtype=F64)
        if name == "moebius":
            h = torch.cat([a, b, d, scales])
        else:
            h = torch.cat([a, b, d, torch.tensor([0.3], dtype=F64), scales])
        laws.append(HEADS[name](h))
    z = points(name, 200)
    assert torch.allclose(laws[0].log_prob(z), laws[1].log_prob(z), atol=1e-6)
    L = laws[0].base.scale_tril
    assert L[1, 0].abs() > 0.03


@pytest.mark.parametrize(
    "head",
    [*HEADS.values(), CylinderHead(), BoxHead([True, False]), ShapeHead(4)],
    ids=lambda head: type(head).__name__,
)
def test_features_that_vanish_or_are_large_give_finite_laws(head):
    for dtype in (torch.float32, F64):
        for size in (0.0, 1e-3, 1.0, 30.0):
            torch.manual_seed(0)
            h = (size * torch.randn(50, head.features, dtype=dtype)).requires_grad_()
            if isinstance(head, (BoxHead, CylinderHead, MoebiusHead)) and size == 30.0:
                h = (h.detach() / 6).requires_grad_()  # exp(90) is no concentration, and no scale on a line
            law = head(h)
            z = law.rsample()
            value = law.log_prob(z)
            assert law.manifold.support.check(z.detach()).all() and value.isfinite().all() and z.dtype == dtype
            assert torch.autograd.grad(value.sum() + z.sum(), h)[0].isfinite().all()
    with pytest.raises(ValueError, match="expected features of shape"):
        head(torch.zeros(head.features + 1))


def test_scales_are_bounded():
    h = torch.tensor([-100.0, 0.0, 100.0])
    assert torch.allclose(bounded_scale(h), torch.tensor([1e-4, 0.2385, WIDEST + 1e-4]), atol=1e-4)
    assert torch.equal(direction(torch.zeros(3)), torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(direction(torch.tensor([3e30, 4e30])), torch.tensor([0.6, 0.8]))


def test_symmetric_is_an_isometry():
    h = torch.randn(6, dtype=F64)
    a = symmetric(h, 3)
    assert torch.equal(a, a.mT) and torch.allclose(a.square().sum(), h.square().sum()) and torch.allclose(flat(a), h)


def test_any_phase_of_the_vector_gives_one_law_of_shapes():
    head, h = ShapeHead(5), torch.randn(4, 14, dtype=F64, generator=torch.Generator().manual_seed(0))
    turned = h.clone()
    z = torch.view_as_complex(h[:, :8].reshape(4, 4, 2).contiguous()) * complex(math.cos(1.0), math.sin(1.0))
    turned[:, :8] = torch.view_as_real(z).reshape(4, 8)
    x = head.manifold.uniform(torch.zeros(4, 4, 2, dtype=F64))
    assert torch.allclose(head(turned).log_prob(x), head(h).log_prob(x), atol=1e-12)


def test_heads_refuse_what_has_no_space():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        ProjectiveHead(1)
    with pytest.raises(ValueError, match="at least 3, got 2"):
        ShapeHead(2)
    assert isinstance(AxesHead().manifold.base, SO3)
