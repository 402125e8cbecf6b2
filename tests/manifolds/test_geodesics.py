"""Geodesics against the straight lines, great circles and half-circles that they are known to be."""

import math

import pytest
import torch

from ppvae.manifolds import (
    InverseVolumeMetric,
    PosteriorCovarianceMetric,
    PullbackMetric,
    RiemannianManifold,
    RiemannianMetric,
    Sphere,
    as_metric,
)

A = torch.tensor([[1.0, 0.5, 0.0], [0.2, 2.0, 0.3], [0.0, -0.4, 0.7]], dtype=torch.float64)


def constant(z):
    return (A.T @ A).to(z.dtype).expand(*z.shape, 3)


def stereographic(z):
    """The unit sphere, projected from its south pole."""
    return (4 / (1 + (z * z).sum(-1)) ** 2)[..., None, None] * torch.eye(z.shape[-1], dtype=z.dtype)


def on_the_sphere(z):
    s = (z * z).sum(-1, keepdim=True)
    return torch.cat([2 * z, 1 - s], -1) / (1 + s)


def half_plane(z):
    return z[..., 1, None, None] ** -2 * torch.eye(2, dtype=z.dtype)


def half_plane_distance(x, y):
    return torch.acosh(1 + ((x - y) ** 2).sum(-1) / (2 * x[..., 1] * y[..., 1]))


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = uniform(8, 2) - 0.5, uniform(8, 2, seed=1) - 0.5
UP = torch.tensor([0.0, 1.0], dtype=torch.float64)


def test_constant_metric_has_straight_lines():
    manifold = RiemannianManifold(constant)
    x, y = uniform(5, 3), uniform(5, 3, seed=1)
    g = manifold.geodesic(x, y)
    norm = ((y - x) @ A.T).norm(dim=1)
    assert torch.allclose(g.length, norm) and torch.allclose(g.energy, norm**2 / 2)
    t = torch.linspace(0, 1, 7)
    assert torch.allclose(g(t), x[:, None] + t[:, None] * (y - x)[:, None], atol=1e-6)
    assert torch.allclose(manifold.logmap(x, y), y - x, atol=1e-6)
    assert torch.allclose(manifold.expmap(x, y - x), y)
    assert torch.allclose(manifold.mean(x), x.mean(0), atol=1e-6)
    assert torch.allclose(manifold.logvolume(x, y), torch.zeros(5).double(), atol=1e-9)
    assert torch.equal(manifold.metric.grad_log_volume(x), torch.zeros(5, 3).double())


def test_stereographic_chart_has_great_circles():
    manifold, sphere = RiemannianManifold(stereographic), Sphere()
    g = manifold.geodesic(X, Y)
    expected = sphere.dist(on_the_sphere(X), on_the_sphere(Y))
    assert torch.allclose(g.length, expected, atol=1e-8) and torch.allclose(g.energy, expected**2 / 2, atol=1e-8)
    assert g.converged.all()
    along = on_the_sphere(g(0.3))
    direct = sphere.expmap(on_the_sphere(X), 0.3 * sphere.logmap(on_the_sphere(X), on_the_sphere(Y)))
    assert torch.allclose(along, direct, atol=1e-5)
    # volume of the exponential map of a sphere of dimension 2: sin r / r
    u = X.flip(0)
    r = manifold.norm(Y, u)
    assert torch.allclose(manifold.logvolume(Y, u), (r.sin() / r).log(), atol=1e-6)


def test_half_plane_has_the_closed_form():
    manifold = RiemannianManifold(half_plane)
    x, y = X + UP, Y + UP
    assert torch.allclose(manifold.dist(x, y), half_plane_distance(x, y), atol=1e-7)
    # from i along the direction cos(a), sin(a): a Mobius map of the vertical geodesic i e^t
    a, t = 0.4, 1.3
    q = (a - math.pi / 2) / 2
    z = complex(0, math.exp(t))
    image = (math.cos(q) * z + math.sin(q)) / (-math.sin(q) * z + math.cos(q))
    end = manifold.expmap(UP, t * torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64))
    assert end.tolist() == pytest.approx([image.real, image.imag], abs=1e-6)


@pytest.mark.parametrize("metric", [stereographic, half_plane], ids=["sphere", "half-plane"])
def test_exponential_and_logarithm_are_inverse(metric):
    manifold = RiemannianManifold(metric, segments=32)
    x, y = 0.5 * X + UP, 0.5 * Y + UP
    u = manifold.logmap(x, y)
    assert torch.allclose(manifold.expmap(x, u), y, atol=1e-6)
    assert torch.allclose(manifold.norm(x, u), manifold.dist(x, y), atol=1e-6)


def poincare(z):
    return (2 / (1 - (z * z).sum(-1)))[..., None, None] ** 2 * torch.eye(z.shape[-1], dtype=z.dtype)


def moebius_sum(x, y):
    xy, x2, y2 = ((a * b).sum(-1, keepdim=True) for a, b in ((x, y), (x, x), (y, y)))
    return ((1 + 2 * xy + y2) * x + (1 - x2) * y) / (1 + 2 * xy + x2 * y2)


@pytest.mark.parametrize(
    "dtype, dist, log, exp, point, velocity",
    [(torch.float64, 1e-9, 1e-6, 1e-6, 3e-6, 3e-4), (torch.float32, 5e-6, 1e-3, 5e-6, 1e-3, 1e-1)],
)
def test_the_poincare_disc_by_default_options(dtype, dist, log, exp, point, velocity):
    """The table of the docstring, at points within 0.7 of the centre, against the closed forms."""
    turns, radii = 2 * math.pi * uniform(2, 100, 1), 0.7 * uniform(2, 100, 1, seed=1).sqrt()
    x, y = (radii * torch.cat([turns.cos(), turns.sin()], -1)).to(dtype)
    X, Y = x.double(), y.double()
    m = moebius_sum(-X, Y)
    unit, at_x, at_y = m / m.norm(dim=-1, keepdim=True), 2 / (1 - X.square().sum(-1)), 2 / (1 - Y.square().sum(-1))
    d = 2 * torch.atanh(m.norm(dim=-1))
    u = (d / at_x).unsqueeze(-1) * unit
    manifold = RiemannianManifold(poincare)
    g = manifold.geodesic(x, y)
    assert 2.5 < d.max() < 3.2
    assert (g.length - d).abs().max() < dist
    assert (at_x * (manifold.logmap(x, y) - u).norm(dim=-1)).max() < log
    assert (at_y * (manifold.expmap(x, u.to(dtype)) - Y).norm(dim=-1)).max() < exp
    assert (at_x * (g.velocity(0.0) - u).norm(dim=-1)).max() < velocity
    for t in (0.1, 0.3, 0.5, 0.8):
        z = moebius_sum(X, (t * d / 2).tanh().unsqueeze(-1) * unit)
        assert (2 / (1 - z.square().sum(-1)) * (g(t) - z).norm(dim=-1)).max() < point


def test_a_geodesic_by_integration_has_fourth_order():
    x, u = UP, torch.tensor([0.7, -0.4], dtype=torch.float64)
    ends = [RiemannianManifold(half_plane, steps=n).expmap(x, u) for n in (4, 8, 256)]
    error = [float((end - ends[-1]).norm()) for end in ends[:2]]
    assert 12 < error[0] / error[1] < 24


def test_batched_geodesics_are_those_one_by_one_and_shapes_broadcast():
    manifold = RiemannianManifold(stereographic)
    batched = manifold.geodesic(X, Y)
    for i in range(4):
        alone = manifold.geodesic(X[i], Y[i])
        assert alone.length.shape == () and torch.allclose(alone.length, batched.length[i], atol=1e-9)
        assert torch.allclose(alone(0.5), batched(0.5)[i], atol=1e-5)
    all_pairs = manifold.geodesic(X[:3, None], Y[:2])
    assert all_pairs.length.shape == (3, 2) and all_pairs(torch.linspace(0, 1, 5)).shape == (3, 2, 5, 2)
    assert torch.allclose(all_pairs.length[1, 1], batched.length[1], atol=1e-8)
    assert torch.equal(batched(0.0), X) and torch.allclose(batched(1.0), Y)
    assert manifold.dist(X, X).tolist() == [0] * 8


@pytest.mark.parametrize("metric", [stereographic, half_plane], ids=["sphere", "half-plane"])
def test_lengths_are_invariant_under_a_change_of_the_chart(metric):
    """G -> B^T G(B z) B in coordinates in which z was B z."""
    B = torch.tensor([[0.9, 0.3], [-0.2, 1.4]], dtype=torch.float64)
    changed = RiemannianManifold(lambda z: B.T @ metric(z @ B.T) @ B)
    x, y = X + UP, Y + UP
    inverse = torch.linalg.inv(B)
    there, here = changed.geodesic(x @ inverse.T, y @ inverse.T), RiemannianManifold(metric).geodesic(x, y)
    assert torch.allclose(there.length, here.length, atol=1e-8)
    assert torch.allclose(there(0.5) @ B.T, here(0.5), atol=1e-5)
    x = x @ inverse.T
    assert torch.allclose(changed.metric.log_volume(x), as_metric(metric).log_volume(x @ B.T) + B.det().log())


def test_the_posterior_covariance_metric_is_invariant_under_rotations():
    rotation = torch.linalg.qr(A).Q
    mu, P = uniform(6, 3), torch.diag_embed(1 + uniform(6, 3, seed=1))
    here = RiemannianManifold(PosteriorCovarianceMetric(mu, P))
    there = RiemannianManifold(PosteriorCovarianceMetric(mu @ rotation.T, rotation @ P @ rotation.T))
    x, y = uniform(3, 3, seed=2), uniform(3, 3, seed=3)
    assert torch.allclose(here.dist(x, y), there.dist(x @ rotation.T, y @ rotation.T), atol=1e-8)


def test_curves_by_points():
    manifold = RiemannianManifold(stereographic)
    g = manifold.geodesic(X, Y)
    curve = g(torch.linspace(0, 1, 401, dtype=torch.float64))
    assert torch.allclose(manifold.length(curve), g.length, rtol=1e-5)
    assert torch.allclose(manifold.energy(curve), g.energy, rtol=1e-5)
    straight = X[:, None] + torch.linspace(0, 1, 401, dtype=torch.float64)[:, None] * (Y - X)[:, None]
    assert (manifold.energy(straight) >= manifold.length(straight) ** 2 / 2).all()
    assert (manifold.length(straight) >= g.length - 1e-6).all()


def test_frechet_mean_is_where_the_logarithms_cancel():
    manifold = RiemannianManifold(stereographic)
    w = uniform(8, seed=5)
    m = manifold.mean(X, w)
    assert torch.allclose(w @ manifold.logmap(m.expand(8, 2), X), torch.zeros(2).double(), atol=1e-5)
    # of two points it is the middle of the geodesic
    assert torch.allclose(manifold.mean(torch.stack([X[0], Y[0]])), manifold.geodesic(X[0], Y[0])(0.5), atol=1e-5)


def test_float32_geodesics():
    g = RiemannianManifold(stereographic).geodesic(X.float(), Y.float())
    assert g.length.dtype == torch.float32
    assert torch.allclose(g.length.double(), Sphere().dist(on_the_sphere(X), on_the_sphere(Y)), atol=1e-5)


def test_what_did_not_converge_is_said():
    with pytest.warns(UserWarning, match="did not converge in 1 steps"):
        assert not RiemannianManifold(half_plane, iterations=1).geodesic(X + UP, Y + UP).converged.all()
    with pytest.warns(UserWarning, match="take more than 1 steps"):
        RiemannianManifold(half_plane, steps=1).expmap(UP, torch.tensor([3.0, 1.0], dtype=torch.float64))


def test_pull_back_of_a_linear_decoder():
    pull_back = PullbackMetric(lambda z: z @ A[:, :2].T)
    z, u, v = X, Y, X.flip(0)
    G = A[:, :2].T @ A[:, :2]
    assert torch.allclose(pull_back(z), G.expand(8, 2, 2)) and torch.allclose(pull_back(z[0]), G)
    assert torch.allclose(pull_back.inner(z, u, v), torch.einsum("ni,ij,nj->n", u, G, v))
    assert torch.allclose(pull_back.log_volume(z), G.det().log().expand(8) / 2)
    assert torch.allclose(pull_back.grad_log_volume(z), torch.zeros_like(z))
    image = PullbackMetric(lambda z: (z @ A[:, :2].T).unflatten(-1, (1, 3)), event_dim=2)
    assert torch.allclose(image(z), pull_back(z))
    with pytest.raises(ValueError, match="give event_dim"):
        PullbackMetric(lambda z: (z @ A[:, :2].T).unflatten(-1, (1, 3)))(z)


def test_pull_back_of_an_embedding_is_the_metric_of_its_chart():
    pull_back = PullbackMetric(on_the_sphere)
    assert torch.allclose(pull_back(X), stereographic(X))
    assert torch.allclose(pull_back.grad_log_volume(X), as_metric(stereographic).grad_log_volume(X))
    expected = Sphere().dist(on_the_sphere(X), on_the_sphere(Y))
    assert torch.allclose(RiemannianManifold(pull_back).dist(X, Y), expected, atol=1e-7)
    u = Y - X
    there, here = RiemannianManifold(pull_back, steps=8), RiemannianManifold(stereographic, steps=8)
    assert torch.allclose(there.expmap(X, u), here.expmap(X, u), atol=1e-9)


def test_a_metric_of_ones_own_may_be_a_function_an_object_or_a_subclass():
    class Object:
        def metric(self, z):
            return stereographic(z)

    class Subclass(RiemannianMetric):
        def metric(self, z):
            return stereographic(z)

    expected = as_metric(stereographic)(X)
    assert torch.equal(as_metric(Object())(X), expected) and torch.equal(as_metric(Subclass())(X), expected)
    with pytest.raises(ValueError, match="metric: expected a RiemannianMetric"):
        as_metric(3)
    with pytest.raises(ValueError, match=r"expected G\(z\) of shape \(8, 2, 2\)"):
        as_metric(lambda z: z)(X)


def test_curves_of_least_potential_go_through_the_data_and_geodesics_around_them():
    """Centroids on an arc between two ends; the volume is large on the arc."""
    angle = torch.linspace(0, math.pi, 13, dtype=torch.float64)
    mu = torch.stack([angle.cos(), angle.sin()], 1)
    metric = PosteriorCovarianceMetric(mu, torch.full((13, 2), 4.0).double(), 0.5, 0.05)
    potential = RiemannianManifold(InverseVolumeMetric(metric, 0.5))
    z = metric.centroids
    value, grad = potential.metric.log_volume_and_grad(z)
    assert torch.allclose(value, torch.linalg.slogdet(potential.metric(z)).logabsdet / 2)
    assert torch.allclose(grad, -metric.grad_log_volume(z))
    x, y = mu[1], mu[-2]
    middle, geodesic = potential.geodesic(x, y)(0.5), RiemannianManifold(metric).geodesic(x, y)(0.5)
    assert float(metric.log_volume(middle)) > float(metric.log_volume(geodesic)) + 1
    assert (middle - mu).norm(dim=1).min() < 0.2
