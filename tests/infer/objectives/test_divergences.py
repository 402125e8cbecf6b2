"""The divergences against closed forms, scipy and double loops."""

import math
import resource
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch

from ppvae import manifolds
from ppvae.distributions import HypersphericalUniform, SO3Uniform
from ppvae.infer import (
    InverseMultiquadric,
    Laplace,
    SquaredExponential,
    energy_distance,
    mmd,
    sliced_wasserstein,
)
from ppvae.infer.objectives import divergences
from ppvae.manifolds import (
    SO3,
    Angle,
    Box,
    Circle,
    ComplexProjective,
    Euclidean,
    Hyperboloid,
    Power,
    Product,
    Quotient,
    RiemannianManifold,
    Sphere,
    Torus,
    quotient,
    sphere,
)
from ppvae.manifolds.hyperboloid import from_origin
from ppvae.random import seeded

PAIRWISE = {
    "mmd": mmd,
    "mmd, inverse multiquadric": partial(mmd, kernel=InverseMultiquadric()),
    "mmd, Laplace": partial(mmd, kernel=Laplace()),
    "energy": energy_distance,
}
ALL = {**PAIRWISE, "sliced Wasserstein": sliced_wasserstein}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def repeats(divergence, draw, n=1000):
    with seeded(0):
        values = torch.stack([divergence(*draw()) for _ in range(n)])
    return values.mean().item(), values.std().item() / math.sqrt(n)


@pytest.mark.parametrize("m", [0.5, 2.0])
def test_energy_of_two_gaussians_on_a_line(m):
    exact = 4 / math.sqrt(math.pi) * (math.exp(-(m**2) / 4) - 1) + 2 * m * math.erf(m / 2)
    mean, error = repeats(energy_distance, lambda: (torch.randn(40, 1), m + torch.randn(60, 1)))
    assert mean == pytest.approx(exact, abs=4 * error) and error < 0.05 * exact


@pytest.mark.parametrize("d", [1, 3])
def test_mmd_of_two_gaussians(d):
    """E exp(-|z - w|^2 / c) = (1 + 2 s^2 / c)^(-d/2) exp(-|m|^2 / (c + 2 s^2)), s^2 = s_1^2 + s_2^2, c = d."""
    m, s1, s2 = 0.8, 1.0, 1.5

    def k(s, m):
        return (1 + 2 * s / d) ** (-d / 2) * math.exp(-d * m**2 / (d + 2 * s))

    exact = k(2 * s1**2, 0) + k(2 * s2**2, 0) - 2 * k(s1**2 + s2**2, m)
    mean, error = repeats(mmd, lambda: (s1 * torch.randn(40, d), m + s2 * torch.randn(60, d)))
    assert mean == pytest.approx(exact, abs=4 * error) and error < 0.05 * exact


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize(
    "law",
    [torch.distributions.Normal(torch.zeros(3), 1.0), HypersphericalUniform(3), SO3Uniform()],
    ids=["R^3", "S^2", "SO(3)"],
)
def test_u_statistics_of_equal_laws_have_mean_zero(name, law):
    mean, error = repeats(PAIRWISE[name], lambda: (law.sample((8,)), law.sample((12,))))
    assert abs(mean) < 3 * error


def test_v_statistic_is_biased_by_the_diagonal():
    """E k(z, z') = 1/3 for N(0, I_2): the bias is (1 - 1/3) (1/20 + 1/30)."""
    mean, error = repeats(partial(mmd, unbiased=False), lambda: (torch.randn(20, 2), torch.randn(30, 2)))
    assert mean == pytest.approx(2 / 3 * (1 / 20 + 1 / 30), abs=4 * error)
    mean, error = repeats(partial(energy_distance, unbiased=False), lambda: (torch.randn(20, 1), torch.randn(30, 1)))
    assert mean == pytest.approx(2 / math.sqrt(math.pi) * (1 / 20 + 1 / 30), abs=4 * error)


@pytest.mark.parametrize("divergence", [mmd, energy_distance])
def test_points_that_go_together_are_not_compared(divergence):
    """Points i of both samples are drawn around one centre of their own: as laws they are equal."""

    def draw():
        centers = 3 * torch.randn(5, 1)
        return centers + torch.randn(5, 1), centers + torch.randn(5, 1)

    mean, error = repeats(partial(divergence, paired=True), draw)
    assert abs(mean) < 3 * error
    mean, error = repeats(divergence, draw)
    assert mean < -10 * error
    with pytest.raises(ValueError, match="expected a U-statistic of samples of equal size"):
        divergence(normal(4, 2), normal(5, 2), paired=True)
    with pytest.raises(ValueError, match="expected a U-statistic of samples of equal size"):
        divergence(normal(4, 2), normal(4, 2), unbiased=False, paired=True)


def test_energy_is_that_of_scipy():
    p, q = normal(30, 1), 1 + 2 * normal(45, 1, seed=1)
    expected = scipy.stats.energy_distance(p[:, 0], q[:, 0]) ** 2
    assert energy_distance(p, q, unbiased=False).item() == pytest.approx(expected, rel=1e-12)
    assert energy_distance(p[:, 0], q[:, 0], unbiased=False).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_is_the_double_loop(unbiased):
    """The cross term is divided by n m, the others by n (n - 1) and m (m - 1)."""
    p, q = normal(5, 2), 0.5 + normal(7, 2, seed=1)

    def k(a, b):
        return math.exp(-float((a - b).square().sum()) / 2)

    def within(z):
        n = len(z)
        total = sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j or not unbiased)
        return total / (n * (n - 1) if unbiased else n * n)

    expected = within(p) + within(q) - 2 * sum(k(a, b) for a in p for b in q) / 35
    assert mmd(p, q, unbiased=unbiased).item() == pytest.approx(expected, abs=1e-12)


def test_kernels():
    d = torch.tensor([0.0, 1.5], dtype=torch.float64)
    assert SquaredExponential()(d, 3)[1].item() == pytest.approx(math.exp(-(1.5**2) / 3))
    assert SquaredExponential(2.0)(d, 3)[1].item() == pytest.approx(math.exp(-(1.5**2) / 2))
    assert Laplace()(d, 4)[1].item() == pytest.approx(math.exp(-1.5 / 2))
    C = [6 * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
    assert InverseMultiquadric()(d, 3)[1].item() == pytest.approx(sum(c / (c + 1.5**2) for c in C))
    assert InverseMultiquadric()(d, 3)[0].item() == pytest.approx(7)
    with pytest.raises(ValueError, match="expected a squared length > 0, got -1"):
        mmd(normal(4, 2), normal(4, 2), kernel=Laplace(-1.0))


@pytest.mark.parametrize("name", ALL)
def test_order_of_the_points_does_not_matter(name):
    p, q = normal(9, 3), 1 + normal(9, 3, seed=1)
    with seeded(0):
        value = ALL[name](p, q)
    with seeded(0):
        torch.testing.assert_close(ALL[name](p.flip(0), q.roll(2, 0)), value)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize(
    "law, move",
    [(HypersphericalUniform(4, dtype=torch.float64), None), (SO3Uniform(dtype=torch.float64), SO3Uniform)],
    ids=["S^3", "SO(3)"],
)
def test_isometries_change_nothing(name, law, move):
    with seeded(0):
        p, q = law.sample((10,)), law.sample((12,))
        g = torch.linalg.qr(normal(4, 4))[0] if move is None else move(dtype=torch.float64).sample()
        moved = [z @ g if move is None else g @ z for z in (p, q)]
    torch.testing.assert_close(PAIRWISE[name](*moved), PAIRWISE[name](p, q))


def test_frobenius_distance_on_so3():
    with seeded(0):
        R, S = SO3Uniform(dtype=torch.float64).sample((2, 6))
    angle = SO3().dist(R.unsqueeze(1), S.unsqueeze(0))
    chordal = (8**0.5 * (angle / 2).sin()).mean()
    v = energy_distance(R, S, unbiased=False) + sum(torch.cdist(z.flatten(1), z.flatten(1)).mean() for z in (R, S))
    torch.testing.assert_close(v / 2, chordal)


def test_geodesic_distance():
    """Uniform against a point on the circle: E d = pi/2 each way, so D = pi/2."""
    n = 400
    t = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    p = torch.stack([t.cos(), t.sin()], -1)
    q = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(3, 2)
    value = energy_distance(p, q, distance=Sphere().dist, unbiased=False).item()
    assert value == pytest.approx(math.pi / 2, rel=1e-4)
    assert mmd(p, q, distance=Sphere().dist, unbiased=False) > 0.1


def test_geodesic_energy_does_not_see_symmetric_laws_and_the_chordal_one_does():
    """Two antipodal points against the uniform law: d(x, y) + d(x, -y) = pi for every y."""
    with seeded(0):
        p = HypersphericalUniform(3, dtype=torch.float64).sample((50,))
    p, q = torch.cat([p, -p]), torch.eye(3, dtype=torch.float64)[:1] * torch.tensor([[1.0], [-1.0]])
    assert abs(energy_distance(p, q, distance=Sphere().dist, unbiased=False).item()) < 1e-12
    assert energy_distance(p, q, unbiased=False) > 0.1
    assert mmd(p, q, kernel=Laplace(), distance=Sphere().dist, unbiased=False) > 0.1


def circles(*angles):
    return torch.stack([torch.stack([t.cos(), t.sin()], -1) for t in torch.broadcast_tensors(*angles)], -2)


def grid(n, N):
    """All points of T^n with angles 2 pi j / N: the Gram matrix of a stationary kernel is circulant."""
    t = torch.arange(N, dtype=torch.float64) * 2 * math.pi / N
    return circles(*torch.meshgrid(*[t] * n, indexing="ij")).reshape(-1, n, 2)


def points(manifold):
    """Points all over a manifold."""
    with seeded(0):
        if isinstance(manifold, Euclidean):
            return normal(400, 3)
        if isinstance(manifold, Angle):
            return torch.arange(400, dtype=torch.float64) * 2 * math.pi / 400 - math.pi
        if isinstance(manifold, SO3):
            return SO3Uniform(dtype=torch.float64).sample((400,))
        if isinstance(manifold, Hyperboloid):
            return from_origin(3 * normal(400, 3))
        if isinstance(manifold, ComplexProjective):
            return manifold.uniform(torch.zeros(400, 3, 2, dtype=torch.float64))
        if isinstance(manifold, Box):
            return torch.cartesian_prod(*[torch.arange(20, dtype=torch.float64) / 20] * 2)
        if isinstance(manifold, Power | Product):
            circles_of_grid = grid(2, 20)
            return circles_of_grid if isinstance(manifold, Power) else circles_of_grid.flatten(1)
        if isinstance(manifold, Quotient):
            return HypersphericalUniform(4, dtype=torch.float64).sample((400,))
        if isinstance(manifold, Torus):
            return grid(manifold.n, {1: 400, 2: 20, 3: 8}[manifold.n])
        if isinstance(manifold, RiemannianManifold):
            return normal(8, 2)
        return HypersphericalUniform(2 if isinstance(manifold, Circle) else 4, dtype=torch.float64).sample((400,))


SYMMETRIC = [Euclidean(), Angle(), Circle(), Sphere(), Hyperboloid(), SO3(), Torus(1), Torus(2), Torus(3)]
SYMMETRIC += [
    ComplexProjective(),
    Box(glued=True),
    Power(Circle(), 1),
    Product([Circle(), Circle()], [(2,), (2,)]),
    quotient("projective"),
]
LEARNED = RiemannianManifold(lambda z: torch.exp(z[..., :1, None]) * torch.eye(2).to(z))


def is_of_negative_type(manifold):
    return divergences.NEGATIVE_TYPE[type(manifold)][0] or getattr(manifold, "n", 0) == 1


def test_every_manifold_is_in_the_table():
    found = {kind for kind in map(manifolds.__dict__.get, manifolds.__all__) if hasattr(kind, "dist")}
    assert (
        found - {manifolds.Manifold, manifolds.Unrolled}
        == set(divergences.NEGATIVE_TYPE)
        == {type(m) for m in [*SYMMETRIC, LEARNED]}
    )


@pytest.mark.parametrize("manifold", SYMMETRIC, ids=lambda m: f"{type(m).__name__}{getattr(m, 'n', '')}")
def test_which_geodesic_distances_are_of_negative_type(manifold):
    """-J D J with J = I - 1/n is positive semidefinite, and so is exp(-D / s) for every s, or neither is."""
    x = points(manifold)
    D = manifold.dist(x[:, None], x[None])
    J = torch.eye(len(x), dtype=D.dtype) - 1 / len(x)
    centred = torch.linalg.eigvalsh(-J @ D @ J)
    laplace = torch.stack([torch.linalg.eigvalsh(Laplace(c)(D, 0))[0] for c in (0.1, 1.0, 10.0, 100.0)])
    if is_of_negative_type(manifold):
        assert centred[0] > -1e-12 * centred[-1] and (laplace > 0).all()
    else:
        assert centred[0] < -1e-3 * centred[-1] and laplace.min() < -1e-3


@pytest.mark.parametrize("manifold", [*SYMMETRIC, LEARNED], ids=lambda m: f"{type(m).__name__}{getattr(m, 'n', '')}")
def test_other_geodesic_distances_are_refused(manifold):
    x = points(manifold)[:8]
    for divergence in (mmd, partial(mmd, kernel=Laplace(2.0)), energy_distance):
        if is_of_negative_type(manifold):
            assert divergence(x[:3], x[3:], distance=manifold.dist, unbiased=False) > 0
        else:
            with pytest.raises(ValueError, match=f"expected one of negative type, got .* {type(manifold).__name__}: "):
                divergence(x[:3], x[3:], distance=manifold.dist)
            assert divergence(x[:3], x[3:], unbiased=False) > 0, "the advice works"


def test_a_negative_value_is_not_hidden():
    """Points of a torus, told apart by the sign of an eigenvector of -J D J with a negative eigenvalue."""
    x = grid(2, 20)
    D = Torus(2).dist(x[:, None], x[None])
    J = torch.eye(len(x), dtype=D.dtype) - 1 / len(x)
    values, vectors = torch.linalg.eigh(-J @ D @ J)
    c = vectors[:, 0]
    p, q = x[c > 1e-9], x[c < -1e-9]

    def distance(a, b):
        return Torus(2).dist(a, b)

    assert values[0] < 0 and energy_distance(p, q, distance=distance, unbiased=False) < -1e-3
    own = partial(mmd, kernel=lambda d, coordinates: torch.exp(-d / 10), unbiased=False)
    assert own(p, q, distance=distance) < -1e-4 and own(p, q, distance=Torus(2).dist) < -1e-4


@pytest.mark.parametrize("kernel", [SquaredExponential(), InverseMultiquadric()])
def test_kernels_of_squared_geodesic_distance_are_refused(kernel):
    with pytest.raises(ValueError, match="positive definite for Euclidean and chordal distances alone"):
        mmd(normal(4, 3), normal(4, 3), kernel=kernel, distance=Sphere().dist)


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_finite_at_equal_points(name):
    z = normal(6, 2, dtype=torch.float32)
    p, q = z.clone(), z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ALL[name](p, q), q)
    assert torch.isfinite(gradient).all()
    same = torch.ones(5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(ALL[name](torch.ones(5, 3), same), same)
    assert torch.equal(gradient, torch.zeros(5, 3))


def test_gradient_of_energy_at_equal_points_is_that_of_the_others():
    """One pair coincides; it adds the subgradient 0 to the unit vectors of the other pairs."""
    p = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    q = torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(energy_distance(p, q), q)
    expected = 2 * torch.tensor([-0.6, -0.8]) / 4 - torch.tensor([0.0, -1.0])
    torch.testing.assert_close(gradient[0], expected.double())


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_derivatives(name):
    p, q = normal(6, 3), (0.3 + normal(6, 3, seed=1)).requires_grad_()

    def value(q):
        with seeded(0):
            return ALL[name](p, q)

    assert torch.autograd.gradcheck(value, q)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("distance", [None, Sphere().dist])
def test_blocks_change_nothing(name, distance, monkeypatch):
    if distance and name in ("mmd", "mmd, inverse multiquadric"):
        divergence = partial(mmd, distance=distance)
    else:
        divergence = partial(PAIRWISE[name], distance=distance) if distance else PAIRWISE[name]
    with seeded(0):
        p, q = HypersphericalUniform(3, dtype=torch.float64).sample((23,)), normal(31, 3)
    p.requires_grad_()
    q = (q / q.norm(dim=-1, keepdim=True)).requires_grad_()
    whole = divergence(p, q)
    expected = torch.autograd.grad(whole, (p, q))
    monkeypatch.setattr(divergences, "BLOCK", 50)
    parts = divergence(p, q)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, (p, q)), expected)


@pytest.mark.parametrize("name", PAIRWISE)
def test_what_is_kept_for_the_gradient_is_linear(name, monkeypatch):
    """Four times the points keep about four times the numbers, not sixteen times."""
    monkeypatch.setattr(divergences, "BLOCK", 2**12)
    kept = {}
    for n in (300, 1200):
        count = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, count=count: count.__setitem__(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) or x,
            lambda x: x,
        ):
            PAIRWISE[name](normal(n, 2), normal(n, 2, seed=1).requires_grad_())
        kept[n] = sum(count.values())
    assert kept[1200] <= 6 * kept[300] and kept[1200] < 8 * 1200**2 / 10


@pytest.mark.slow
def test_memory_with_20_000_points():
    """One matrix of pairs would take 1.6 GB, and the gradient needs several."""
    n, divergence = 20_000, energy_distance
    p, q = normal(n, 2, dtype=torch.float32), normal(n, 2, seed=1, dtype=torch.float32).requires_grad_()
    divergence(p[:1000], q[:1000]).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value = divergence(p, q)
    value.backward()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20  # GB
    assert grown < 0.7
    assert abs(value.item()) < 1e-3 and torch.isfinite(q.grad).all()


@pytest.mark.parametrize("d", [1, 5])
def test_sliced_wasserstein(d):
    """W_2 of N(0, I) and N(m, s^2 I) along theta: (theta . m)^2 + (1 - s)^2, in the mean |m|^2 / d + (1 - s)^2."""
    z = torch.erfinv(2 * (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 - 1) * 2**0.5  # quantiles
    if d == 1:
        value = sliced_wasserstein(z[:, None], 3 + 2 * z.flip(0)[:, None])
        assert value.item() == pytest.approx(10, rel=2e-3)
        return
    m = torch.tensor([3.0, 0, 0, 0, 4.0], dtype=torch.float64)
    p = normal(100, d)
    with seeded(0):
        shifted = sliced_wasserstein(p, p + m, projections=20_000)
        scaled = sliced_wasserstein(p, 2 * p, projections=20_000)
    assert shifted.item() == pytest.approx(25 / 5, rel=0.03)
    assert scaled.item() == pytest.approx(p.square().sum(-1).mean().item() / d, rel=0.03)


def test_by_name():
    real = torch.distributions.constraints.independent(torch.distributions.constraints.real, 1)
    p, q = normal(8, 3), 1 + normal(8, 3, seed=1)
    assert torch.equal(divergences.find("mmd", real, torch.Size([3]))(p, q), mmd(p, q, paired=True))
    for support, shape, scale in ((sphere, (3,), 1), (SO3().support, (3, 3), 3), (Torus(4).support, (4, 2), 4)):
        p, q = normal(8, *shape), normal(8, *shape, seed=1)
        expected = mmd(p, q, kernel=SquaredExponential(scale), paired=True)
        torch.testing.assert_close(divergences.find("mmd", support, torch.Size(shape))(p, q), expected)
    for name in divergences.names():
        assert divergences.find(name, real, torch.Size([3]))(p, q).shape == ()
    with pytest.raises(ValueError, match="no divergence is named 'kl'; expected one of mmd, mmd-imq, energy"):
        divergences.find("kl", real, torch.Size([3]))


@pytest.mark.parametrize("name", ALL)
def test_errors(name):
    divergence = ALL[name]
    with pytest.raises(ValueError, match=r"q: expected a torch tensor, got ndarray; use torch\.as_tensor"):
        divergence(normal(4, 2), np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"points of one shape .* got \(4, 2\) torch.float64 and \(4, 3\)"):
        divergence(normal(4, 2), normal(4, 3))
    with pytest.raises(ValueError, match="one floating dtype"):
        divergence(normal(4, 2), normal(4, 2).float())
    with pytest.raises(ValueError, match="one floating dtype"):
        divergence(torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64))
    if name in PAIRWISE:
        with pytest.raises(
            ValueError, match="expected at least 2 points in each sample for a U-statistic, got 4 and 1"
        ):
            divergence(normal(4, 2), normal(1, 2))
    else:
        with pytest.raises(ValueError, match="equal size, got 4 and 5"):
            divergence(normal(4, 2), normal(5, 2))
        with pytest.raises(ValueError, match="projections: expected at least 1, got 0"):
            divergence(normal(4, 2), normal(4, 2), projections=0)


@pytest.mark.parametrize("name", ALL)
def test_float32_is_close_to_float64(name):
    p, q = 3 + normal(64, 4), 3.2 + normal(64, 4, seed=1)
    with seeded(0):
        exact = ALL[name](p, q) if name in PAIRWISE else sliced_wasserstein(p[:, :1], q[:, :1])
    with seeded(0):
        pair = p.float(), q.float()
        value = ALL[name](*pair) if name in PAIRWISE else sliced_wasserstein(pair[0][:, :1], pair[1][:, :1])
    assert value.dtype == torch.float32
    assert np.isclose(value.item(), exact.item(), atol=3e-6)
