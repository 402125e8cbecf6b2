"""The metric of posterior covariances against its definition, float64 differences and quadrature."""

import math

import mpmath
import pytest
import torch

from ppvae.manifolds import PosteriorCovarianceMetric, nearest_neighbour_distance


def random_metric(N, d, *, full=False, dtype=torch.float64, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(N, d, generator=generator, dtype=torch.float64)
    if full:
        A = torch.randn(N, d, d, generator=generator, dtype=torch.float64)
        P = A @ A.mT + 0.5 * torch.eye(d, dtype=torch.float64)
    else:
        P = torch.randn(N, d, generator=generator, dtype=torch.float64).exp() * 3
    return PosteriorCovarianceMetric(mu.to(dtype), P.to(dtype), **options)


def points_near(metric, n, spread=0.3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mu = metric.centroids[torch.randint(len(metric.centroids), (n,), generator=generator)]
    return mu + spread * torch.randn(mu.shape, generator=generator, dtype=torch.float64).to(mu.dtype)


def definition(metric, z):
    """G(z) term by term, in mpmath: no float range is left."""
    mp = mpmath.mp.clone()
    mp.dps = 40
    d = len(z)
    G = mp.matrix(d, d)
    for mu, P in zip(metric.centroids.tolist(), metric.precision, strict=True):
        P = (torch.diag(P) if P.dim() == 1 else P).tolist()
        delta = mp.matrix([mp.mpf(a) - mp.mpf(b) for a, b in zip(z.tolist(), mu, strict=True)])
        P = mp.matrix(P)
        G += P * mp.exp(-(delta.T * P * delta)[0] / mp.mpf(metric.temperature) ** 2)
    norm = sum(mp.mpf(a) ** 2 for a in z.tolist())
    return G + metric.regularization * mp.exp(-metric.decay * norm) * mp.eye(d), mp


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_metric_and_volume_are_those_of_the_definition(d, decay, full):
    metric = random_metric(6, d, full=full, decay=decay)
    z = torch.cat([points_near(metric, 3), 4 * points_near(metric, 2), torch.full((1, d), 30.0).double()])
    for point in z:
        G, mp = definition(metric, point)
        assert torch.allclose(metric(point), torch.tensor(G.tolist(), dtype=torch.float64).reshape(d, d), rtol=1e-12)
        assert float(metric.log_volume(point)) == pytest.approx(float(mp.log(mp.det(G)) / 2), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("d", [1, 2, 16])
def test_gradient_is_that_of_float64_differences(d, decay, full):
    metric = random_metric(10, d, full=full, decay=decay)
    z = torch.cat([points_near(metric, 6), 3 * points_near(metric, 3)])
    value, grad = metric.log_volume_and_grad(z)
    assert torch.allclose(value, metric.log_volume(z))
    h = 1e-5
    for j in range(d):
        e = h * torch.eye(d, dtype=torch.float64)[j]
        difference = (metric.log_volume(z + e) - metric.log_volume(z - e)) / (2 * h)
        assert torch.allclose(grad[:, j], difference, rtol=1e-6, atol=1e-7)
    # and by autograd the same, for Pyro's HMC
    z.requires_grad_()
    assert torch.allclose(torch.autograd.grad(metric.log_volume(z).sum(), z)[0], grad)


def test_gradients_of_gradients():
    for full in (False, True):
        metric = random_metric(5, 3, full=full, decay=0.1, chunk=4)
        z = points_near(metric, 3).requires_grad_()
        assert torch.autograd.gradcheck(metric.log_volume, (z,))
        assert torch.autograd.gradgradcheck(metric.log_volume, (z,))
        assert torch.autograd.gradgradcheck(lambda z: metric.inner(z, z.sin(), z.cos()), (z,))  # noqa: B023


def test_full_matrices_that_are_diagonal_agree_with_diagonals():
    diagonal = random_metric(20, 4, decay=0.1)
    full = PosteriorCovarianceMetric(diagonal.centroids, torch.diag_embed(diagonal.precision), decay=0.1)
    z, u = points_near(diagonal, 7), torch.ones(4, dtype=torch.float64)
    assert torch.allclose(diagonal(z), full(z))
    assert torch.allclose(diagonal.inner(z, u, z), torch.einsum("i,nij,nj->n", u, full(z), z))
    for a, b in zip(diagonal.log_volume_and_grad(z), full.log_volume_and_grad(z), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_tiles_make_no_difference(chunk, full):
    whole, tiled = random_metric(23, 3, full=full, decay=0.1), random_metric(23, 3, full=full, decay=0.1, chunk=chunk)
    z = points_near(whole, 11).reshape(11, 1, 3)
    assert torch.allclose(whole(z), tiled(z))
    for a, b in zip(whole.log_volume_and_grad(z), tiled.log_volume_and_grad(z), strict=True):
        assert a.shape == b.shape and torch.allclose(a, b)
    weights = torch.linspace(-1, 1, 23, dtype=torch.float64)
    assert torch.allclose(whole.log_kernel_mixture(z, weights, 2.0), tiled.log_kernel_mixture(z, weights, 2.0))


@pytest.mark.parametrize("regularization", [0.0, 0.01])
@pytest.mark.parametrize("distance", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("d", [1, 16, 64])
def test_float32_holds_near_and_far_in_many_dimensions(d, distance, regularization):
    """det G is 1e-1000 and less there; precisions of 1e4 are those of a VAE that hardly compresses."""
    exact = random_metric(50, d, regularization=regularization, temperature=3.0, decay=1e-3)
    exact = PosteriorCovarianceMetric(
        exact.centroids.float().double(), 1e4 * exact.precision.float().double(), 3.0, regularization, 1e-3
    )
    single = PosteriorCovarianceMetric(exact.centroids.float(), exact.precision.float(), 3.0, regularization, 1e-3)
    z = (points_near(exact, 5, spread=0.01) + distance).float()
    value, grad = single.log_volume_and_grad(z)
    expected_value, expected_grad = exact.log_volume_and_grad(z.double())
    assert torch.isfinite(value).all() and torch.isfinite(grad).all()
    assert torch.allclose(value.double(), expected_value, rtol=1e-5, atol=1e-4)
    scale = expected_grad.norm(dim=1).amax() + (exact.precision.max() * (1 + distance)).sqrt() * 1e-3
    assert ((grad.double() - expected_grad).norm(dim=1) < 1e-4 * scale).all()


def test_temperature_by_the_rule_is_the_largest_distance_to_the_nearest_other_centroid():
    mu = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.5], [10.0, 0.0]])  # the last one is the farthest
    metric = PosteriorCovarianceMetric(mu, torch.ones(4, 2))
    assert metric.temperature == pytest.approx(9.0)
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(points.double(), points.double()).fill_diagonal_(math.inf).amin(1)
    assert torch.allclose(nearest_neighbour_distance(points, chunk=250), distance)


def test_mass_of_a_lone_centroid_and_of_the_background():
    """sqrt det G^power of one centroid without background is a Gaussian of known mass; the background alone too."""
    P, rho, power, d = torch.tensor([[4.0]]).double(), 1.5, 2.0, 1
    metric = PosteriorCovarianceMetric(torch.zeros(1, 1).double(), P, rho, 0.0)
    z = torch.linspace(-20, 20, 20001, dtype=torch.float64).unsqueeze(1)
    mass = torch.trapezoid((power * metric.log_volume(z)).exp(), z[:, 0])
    assert float(mass) == pytest.approx(4.0 ** ((power - 1) / 2) * math.sqrt(2 * math.pi * rho**2 / (power * d)))


def test_it_moves_with_its_tensors():
    metric = random_metric(5, 3)
    z = points_near(metric, 4)
    value = metric.log_volume(z)
    moved = metric.float()
    assert moved.centroids.dtype == torch.float32 and moved.log_volume(z.float()).dtype == torch.float32
    assert torch.allclose(moved.log_volume(z.float()).double(), value, rtol=1e-5)
    other = random_metric(5, 3, seed=3, dtype=torch.float32, temperature=moved.temperature)
    other.load_state_dict(moved.state_dict())
    assert torch.equal(other.log_volume(z.float()), moved.log_volume(z.float()))


@pytest.mark.parametrize(
    ("centroids", "precision", "options", "message"),
    [
        (torch.zeros(3), torch.ones(3), {}, "centroids: expected shape"),
        (torch.zeros(3, 2), torch.ones(3, 3), {}, "precision: expected diagonals"),
        (torch.zeros(3, 2), -torch.ones(3, 2), {}, "positive"),
        (torch.zeros(1, 2), torch.ones(1, 2), {}, "one centroid"),
        (torch.zeros(3, 2), torch.ones(3, 2), {}, "occurs twice"),
        (torch.zeros(1, 2), torch.ones(1, 2), {"temperature": 1.0, "decay": -1.0}, "decay"),
        (torch.zeros(1, 2), torch.ones(1, 2), {"temperature": 1.0, "regularization": math.nan}, "regularization"),
    ],
)
def test_wrong_arguments_raise(centroids, precision, options, message):
    with pytest.raises(ValueError, match=message):
        PosteriorCovarianceMetric(centroids, precision, **options)


def test_all_of_60_000_data_can_be_centroids():
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(60_000, 3, generator=generator, dtype=torch.float64)
    precision = 1 + torch.rand(60_000, 3, generator=generator, dtype=torch.float64)
    z = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    value = PosteriorCovarianceMetric(c, precision, temperature=0.3, regularization=0.01).log_volume(z)
    w = (-((z[:, None] - c).square() * precision).sum(-1) / 0.3**2).exp()
    assert torch.allclose(value, (w @ precision + 0.01).log().sum(-1) / 2, rtol=1e-10)
