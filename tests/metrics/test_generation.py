"""Generation metrics against closed forms, scipy and plain loops."""

import numpy as np
import pytest
import scipy.linalg

from ppvae.metrics import Estimate, data_copying, frechet_distance, kernel_distance, nearest, prdc

rng = np.random.default_rng(0)
R, G = rng.normal(size=(60, 3)), rng.normal(size=(45, 3)) * [1, 2, 0.5] + 0.3


def exact_moments(x, mean, factor):
    """x moved so that its mean and its covariance are exactly these."""
    x = x - x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T @ factor.T + mean


class TestFrechetDistance:
    def test_of_commuting_normals_it_is_the_closed_form(self):
        """Diagonal covariances: |m - m'|^2 + sum (s - s')^2."""
        s, t, m = np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.5, 1e-3]), np.array([1.0, 0.0, -2.0])
        a, b = exact_moments(R, 0, np.diag(s)), exact_moments(G, m, np.diag(t))
        expected = (m**2).sum() + ((s - t) ** 2).sum()
        assert frechet_distance(a, b, resamples=0).value == pytest.approx(expected, rel=1e-10)

    def test_of_other_normals_it_is_that_of_the_matrix_root(self):
        a, b = R @ rng.normal(size=(3, 3)), G @ rng.normal(size=(3, 3))
        A, B = np.cov(a.T), np.cov(b.T)
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real)
        found = frechet_distance(a, b, resamples=0).value
        assert found == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(b, a, resamples=0).value == pytest.approx(found, rel=1e-12)

    def test_singular_covariances_and_one_feature(self):
        flat = R * [1, 1, 0]
        assert frechet_distance(flat, flat + np.array([0, 0, 2]), resamples=0).value == pytest.approx(4, rel=1e-12)
        assert frechet_distance(R, R, resamples=0).value < 1e-12
        one = frechet_distance(R[:, 0], 3 * R[:, 0] + 1, resamples=0).value
        mean, sd = R[:, 0].mean(), R[:, 0].std(ddof=1)
        assert one == pytest.approx((2 * mean + 1) ** 2 + 4 * sd**2, rel=1e-12)

    def test_the_interval_is_that_of_resamples(self):
        """Quantiles of the distances of resampled data, about their mean, around the distance of the data."""

        def distance(a, b):
            A, B = np.cov(a.T), np.cov(b.T)
            return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real)

        local = np.random.default_rng(7)
        values = [distance(resample(R, local), resample(G, local)) for _ in range(50)]
        low, high = np.quantile(values, [0.05, 0.95]) - np.mean(values) + distance(R, G)
        found = frechet_distance(R, G, resamples=50, level=0.9, seed=7)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-7)
        assert frechet_distance(R, R + 1e-3, resamples=20).low == 0


def resample(x, local):
    return x[local.integers(len(x), size=len(x))]


def interval(replicates, value, level):
    """The quantiles of the replicates about their mean, around the value."""
    return tuple(np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]) - np.mean(replicates) + value)


def polynomial(a, b):
    return (a @ b / len(a) + 1) ** 3


class TestKernelDistance:
    def test_against_plain_loops(self):
        rr = np.mean([polynomial(R[i], R[j]) for i in range(60) for j in range(60) if i != j])
        gg = np.mean([polynomial(G[i], G[j]) for i in range(45) for j in range(45) if i != j])
        rg = np.mean([polynomial(a, b) for a in R for b in G])
        found = kernel_distance(R, G, resamples=0, chunk=7).value
        assert found == pytest.approx(rr + gg - 2 * rg, rel=1e-10)

    def test_subsets_average_the_estimate_of_each(self):
        whole = kernel_distance(R[:45], G, subsets=1, subset_size=45, resamples=0).value
        assert whole == pytest.approx(kernel_distance(R[:45], G, resamples=0).value, rel=1e-10)
        many = kernel_distance(R, G, subsets=400, subset_size=20, seed=1)
        assert many.low < kernel_distance(R, G, resamples=0).value < many.high
        local = np.random.default_rng(1)
        parts = [[x[local.choice(len(x), 20, replace=False)] for x in (R, G)] for _ in range(400)]
        values = np.array([kernel_distance(*part, resamples=0).value for part in parts])
        means = [resample(values, local).mean() for _ in range(1000)]
        assert many.value == pytest.approx(values.mean(), rel=1e-10)
        assert (many.low, many.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-10)
        with pytest.raises(ValueError, match="subset_size: expected an integer from 2 to 45, got 50"):
            kernel_distance(R, G, subsets=3, subset_size=50)

    def test_the_interval_is_that_of_the_terms_of_first_order(self):
        """What one datum adds: twice its mean kernel with the others of its sample, less that with the other sample.

        The U-statistic is of second degree in the weights of the data, so these terms add up to twice its value.
        """

        def terms(a, b):
            own = [np.mean([polynomial(a[i], a[j]) for j in range(len(a)) if j != i]) for i in range(len(a))]
            return 2 * (np.array(own) - [np.mean([polynomial(x, y) for y in b]) for x in a])

        of_r, of_g = terms(R, G), terms(G, R)
        value = kernel_distance(R, G, resamples=0).value
        assert of_r.mean() + of_g.mean() == pytest.approx(2 * value, rel=1e-10)
        local = np.random.default_rng(3)
        replicates = sum(np.array([resample(t, local).mean() for _ in range(200)]) for t in (of_r, of_g))
        found = kernel_distance(R, G, resamples=200, level=0.9, seed=3)
        assert (found.low, found.high) == pytest.approx(interval(replicates, value, 0.9), rel=1e-9)

    def test_it_is_unbiased(self):
        """For x ~ N(0, I) and y ~ N(m, I) in d = 1: E k in closed form, from E (xy + 1)^3 = 1 + 3 E xy + 3 E x^2 y^2 +
        E x^3 y^3."""
        m = 0.7
        moment = {"r": (0, 1, 0), "g": (m, 1 + m**2, m**3 + 3 * m)}

        def mean_kernel(a, b):
            (a1, a2, a3), (b1, b2, b3) = moment[a], moment[b]
            return 1 + 3 * a1 * b1 + 3 * a2 * b2 + a3 * b3

        truth = mean_kernel("r", "r") + mean_kernel("g", "g") - 2 * mean_kernel("r", "g")

        def draw(i):
            local = np.random.default_rng(i)
            return local.normal(size=(100, 1)), local.normal(size=(100, 1)) + m

        values = np.array([kernel_distance(*draw(i), resamples=0).value for i in range(400)])
        assert abs(values.mean() - truth) < 4 * values.std() / 20


class TestPRDC:
    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_against_plain_loops(self, k):
        def balls(x):
            return [sorted(np.linalg.norm(x - p, axis=1))[k] for p in x]

        ball_r, ball_g = balls(R), balls(G)
        d = np.array([[np.linalg.norm(r - g) for g in G] for r in R])
        found = prdc(R, G, k=k, chunk=7)
        assert found.precision.value == np.mean([any(d[i, j] <= ball_r[i] for i in range(60)) for j in range(45)])
        assert found.recall.value == np.mean([any(d[i, j] <= ball_g[j] for j in range(45)) for i in range(60)])
        inside = [sum(d[i, j] <= ball_r[i] for i in range(60)) for j in range(45)]
        assert found.density.value == pytest.approx(np.mean(inside) / k)
        assert found.coverage.value == np.mean([min(d[i]) <= ball_r[i] for i in range(60)])
        outcomes = {
            "precision": [any(d[i, j] <= ball_r[i] for i in range(60)) for j in range(45)],
            "recall": [any(d[i, j] <= ball_g[j] for j in range(45)) for i in range(60)],
            "density": np.array(inside) / k,
            "coverage": [min(d[i]) <= ball_r[i] for i in range(60)],
        }
        local = np.random.default_rng(0)
        for name, values in outcomes.items():
            means = [resample(np.array(values, float), local).mean() for _ in range(1000)]
            estimate = getattr(found, name)
            assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)

    def test_balls_are_closed_and_ties_exact_far_from_the_origin(self):
        """On a line of integers: every ball of k = 1 reaches to the neighbour, and the points between are inside."""
        for offset in (0.0, 1e9):
            r, g = np.arange(20.0)[:, None] + offset, np.arange(20.0)[:, None] + offset + 0.5
            found = prdc(r, g, k=1, resamples=0)
            assert (found.precision.value, found.recall.value, found.coverage.value) == (1, 1, 1)
            assert found.density.value == (19 * 2 + 1) / 20
            on_the_edge = prdc(r, np.concatenate([r[-1:] + 1, r[-1:] + 2, r[-1:] + 3]), k=1, resamples=0)
            assert on_the_edge.precision.value == 1 / 3 and on_the_edge.coverage.value == 1 / 20
            assert on_the_edge.recall.value == 1 / 20

    def test_the_same_data_and_data_far_away(self):
        same, far = prdc(R, R), prdc(R, R + 100)
        assert same.precision.value == same.recall.value == same.coverage.value == 1
        assert far.precision.value == far.recall.value == far.coverage.value == far.density.value == 0

    def test_a_dropped_half_shows_in_recall_and_coverage(self):
        halves = np.concatenate([R, R + 50])
        found = prdc(halves, R)
        assert (found.precision.value, found.recall.value, found.coverage.value) == (1, 0.5, 0.5)

    def test_bad_k(self):
        with pytest.raises(ValueError, match="k: expected an integer from 1 to 44, got 45"):
            prdc(R, G, k=45)


def test_nearest_training_data():
    distance, index = nearest(G, R, chunk=7)
    d = np.linalg.norm(G[:, None] - R, axis=2)
    assert np.array_equal(index, d.argmin(1)) and np.allclose(distance, d.min(1), rtol=1e-14)


def test_a_copy_is_at_distance_zero_far_from_the_origin():
    train = np.random.default_rng(1).normal(size=(300, 64)) + 1e4
    distance, index = nearest(train[::-1], np.concatenate([train, train]))
    assert (distance == 0).all() and np.array_equal(index, np.arange(300)[::-1])


def test_data_copying():
    train, test = rng.normal(size=(200, 2)), rng.normal(size=(150, 2))
    ours, theirs = nearest(G[:, :2], train)[0], nearest(test, train)[0]
    found = data_copying(G[:, :2], train, test)
    assert found.value == pytest.approx(np.mean(ours[:, None] < theirs)) and found.low < found.value < found.high
    assert data_copying(train, train, test).value == pytest.approx(1)
    assert data_copying(test, train, test).value == pytest.approx(0.5)
    assert data_copying(test + 100, train, test).value == 0
    of_ours = (ours[:, None] < theirs).mean(1)
    of_theirs = (ours[:, None] < theirs).mean(0)
    local = np.random.default_rng(0)
    replicates = sum(np.array([resample(t, local).mean() for _ in range(1000)]) for t in (of_ours, of_theirs))
    assert (found.low, found.high) == pytest.approx(interval(replicates, found.value, 0.95), abs=1e-12)
    fresh = data_copying(rng.normal(size=(400, 2)), train, rng.normal(size=(400, 2)))
    assert fresh.low < 0.5 < fresh.high


def test_ties_count_half():
    """Generated and test data of one set of distances, far from the origin and moved by an isometry of the lattice."""
    local = np.random.default_rng(2)
    train = local.integers(0, 2, (40, 64)) + 1e4
    test = local.integers(0, 2, (50, 64)) + 1e4
    assert data_copying(test[::-1], train, test).value == 0.5
    assert data_copying(1 - (test - 1e4), 1 - (train - 1e4), 1 - (test - 1e4)).value == 0.5
    assert data_copying([[1.0], [2.0]], [[0.0], [0.0]], [[-1.0], [3.0]]).value == (0.5 + 1 + 0 + 1) / 4


def test_features_are_asked_and_data_flattened():
    images = rng.random((30, 1, 4, 4))
    flat = frechet_distance(images, images + 1, resamples=0).value
    assert flat == pytest.approx(16)
    mean = frechet_distance(images, images + 1, lambda x: x.mean((1, 2, 3)), resamples=0)
    assert mean.value == pytest.approx(1)
    assert float(mean) == mean.value and str(Estimate(1.23456)) == "1.235" and str(Estimate(1, 0.5, 2)) == "1 [0.5, 2]"


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(
        ValueError, match=r"real, generated: expected as many features of each, got shapes \(60, 3\), \(45, 2\)"
    ):
        frechet_distance(R, G[:, :2])
    with pytest.raises(ValueError, match="features of real: expected finite numbers, got 180 NaN or infinite"):
        kernel_distance(R, G, lambda x: x * np.nan)
    with pytest.raises(ValueError, match="generated: expected finite numbers, got 3 NaN or infinite, first in row 2"):
        kernel_distance(R, np.where(np.arange(45)[:, None] == 2, np.nan, G))
    with pytest.raises(ValueError, match="level: expected a probability between 0 and 1, got 95"):
        frechet_distance(R, G, level=95)
