"""Mixtures of Gaussians against mpmath, quadrature, and samples moved by hand through their conditional
distribution functions.
"""

import math

import mpmath
import pyro.distributions as dist
import pytest
import torch
from torch.func import vmap

from ppvae.distributions import GaussianMixture, center
from ppvae.distributions.gaussian_mixture import _Pathwise
from ppvae.random import seeded
from ppvae.testing import check_distribution


def random_mixture(*batch, K=4, d=3, spread=2.0, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(*batch, K, generator=g, dtype=dtype)
    loc = spread * torch.randn(*batch, K, d, generator=g, dtype=dtype)
    scale = torch.randn(*batch, K, d, generator=g, dtype=dtype).mul(0.5).exp()
    return logits, loc, scale


def make(logits, loc, log_scale):
    return GaussianMixture(logits, loc, log_scale.exp())


def battery(K, d, spread=1.5):
    logits, loc, scale = random_mixture(2, K=K, d=d, spread=spread)
    # torch's own mixture of the same clusters, wider and equally likely
    proposal = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros_like(logits)), dist.Normal(loc, 1.3 * scale).to_event(1)
    )
    return {
        "make": make,
        "params": {"logits": logits, "loc": loc, "log_scale": scale.log()},
        "proposal": proposal,
        "isometry": (lambda z: 3 - z.flip(-1), {"loc": 3 - loc.flip(-1), "log_scale": scale.log().flip(-1)}),
        "points": lambda law: torch.cat([law.loc.movedim(-2, 0), 100 + law.loc.movedim(-2, 0)]),
        "grid": [
            {"logits": torch.zeros(2), "loc": torch.zeros(2, d), "log_scale": torch.zeros(2, d)},  # equal clusters
            {"logits": torch.zeros(2), "loc": torch.zeros(2, d), "log_scale": torch.full((2, d), -9.0)},
            {"logits": torch.tensor([0.0, -60.0]), "loc": torch.zeros(2, d), "log_scale": torch.zeros(2, d)},
            {
                "logits": torch.zeros(2),
                "loc": torch.tensor([[-1e3], [1e3]]).expand(2, d),
                "log_scale": torch.tensor([[3.0], [-3.0]]).expand(2, d),
            },
        ],
        "skip": {"entropy": "there are bounds only", "kl": "no closed form"},
    }


@pytest.mark.parametrize("K, d", [(1, 2), (3, 1), (4, 2), (3, 5)])
def test_battery(K, d):
    report = check_distribution(**battery(K, d))
    assert {name for name, figure in report.items() if isinstance(figure, str)} == {"entropy", "kl"}, report


def test_log_prob_against_mpmath():
    logits, loc, scale = random_mixture(K=5, d=4, spread=20.0)
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 30
    ours = GaussianMixture(logits, loc, scale).log_prob(z)
    mpmath.mp.dps = 50
    weights = [mpmath.exp(float(a)) for a in logits]
    for point, value in zip(z.tolist(), ours.tolist(), strict=True):
        density = sum(
            w / sum(weights) * mpmath.fprod(mpmath.npdf(x, m, s) for x, m, s in zip(point, ms, ss, strict=True))
            for w, ms, ss in zip(weights, loc.tolist(), scale.tolist(), strict=True)
        )
        assert value == pytest.approx(float(mpmath.log(density)), rel=1e-13)


def conditional_cdf(logits, loc, scale, z, i):
    """F_i(z_i | z_<i)."""
    normal = torch.distributions.Normal(loc, scale)
    log_r = (logits + normal.log_prob(z)[:, :i].sum(-1)).log_softmax(-1)
    return (log_r.exp() * normal.cdf(z)[:, i]).sum(-1)


def moved(logits, loc, scale, u):
    """The z with F_i(z_i | z_<i) = u_i for all i, by bisection."""
    z = torch.zeros(loc.shape[-1], dtype=torch.float64)
    for i in range(len(z)):
        low, high = -100.0, 100.0
        for _ in range(80):
            z[i] = (low + high) / 2
            low, high = (low, z[i].item()) if conditional_cdf(logits, loc, scale, z, i) > u[i] else (z[i].item(), high)
    return z


@pytest.mark.parametrize("d", [1, 4])
def test_pathwise_gradient_moves_the_sample_as_its_conditional_distribution_functions_do(d):
    params = random_mixture(K=3, d=d, spread=1.0, seed=d)
    leaves = [p.clone().requires_grad_() for p in params]
    with seeded(3):
        z = GaussianMixture(*leaves).rsample()
    u = [conditional_cdf(*params, z.detach(), i) for i in range(d)]
    torch.testing.assert_close(moved(*params, u), z.detach(), rtol=1e-12, atol=1e-12)
    jacobian = [torch.autograd.grad(z[i], leaves, retain_graph=True) for i in range(d)]
    step = 1e-5
    for which, p in enumerate(params):
        for index in range(p.numel()):
            ends = []
            for sign in (1, -1):
                other = [q.clone() for q in params]
                other[which].view(-1)[index] += sign * step
                ends.append(moved(*other, u))
            expected = (ends[0] - ends[1]) / (2 * step)
            got = torch.stack([row[which].flatten()[index] for row in jacobian])
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_gradient_of_moments_by_closed_form():
    """E z and E z^2 are polynomials of the parameters: their gradients are known, that by the weights too."""
    leaves = [p.requires_grad_() for p in random_mixture(K=3, d=2, spread=1.0)]
    law = GaussianMixture(*leaves)
    a = torch.tensor([1.0, -0.5], dtype=torch.float64)
    exact = torch.autograd.grad((law.mean * a + 0.3 * (law.variance + law.mean.square())).sum(), leaves)
    draws = []
    with seeded(0):
        for _ in range(50):
            z = law.rsample((2000,))
            draws.append(torch.autograd.grad((z * a + 0.3 * z.square()).sum(-1).mean(), leaves, retain_graph=True))
    for i, expected in enumerate(exact):
        found = torch.stack([g[i] for g in draws])
        assert ((found.mean(0) - expected).abs() < 5 * found.std(0) / math.sqrt(50)).all()


def test_pathwise_gradient_against_quadrature():
    """Of E f for an f that no moment knows, with clusters that overlap: the integral over the plane is the oracle."""
    leaves = [p.requires_grad_() for p in random_mixture(K=3, d=2, spread=0.7)]
    law = GaussianMixture(*leaves)

    def f(z):
        return torch.sin(1.5 * z[..., 0] + z[..., 1]) * torch.exp(-0.2 * z[..., 1].square())

    t = torch.linspace(-14, 14, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(t, t)
    mass = law.log_prob(grid).exp() * 0.1**2
    assert mass.sum().item() == pytest.approx(1, abs=1e-8)
    exact = torch.autograd.grad((mass * f(grid)).sum(), leaves, retain_graph=True)
    draws = []
    with seeded(0):
        for _ in range(50):
            draws.append(torch.autograd.grad(f(law.rsample((2000,))).mean(), leaves, retain_graph=True))
    for i, expected in enumerate(exact):
        found = torch.stack([g[i] for g in draws])
        assert ((found.mean(0) - expected).abs() < 5 * found.std(0) / math.sqrt(50)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 1.0, 100.0])
def test_equal_means_and_small_scales_in_32_dimensions(dtype, scale, distance):
    """Gradients are finite where those of Pyro's MixtureOfDiagNormals are not, see the next test."""
    loc = (distance * torch.arange(3, dtype=dtype)[:, None]).expand(3, 32).clone().requires_grad_()
    spread = torch.full((3, 32), scale, dtype=dtype, requires_grad=True)
    logits = torch.zeros(3, dtype=dtype, requires_grad=True)
    law = GaussianMixture(logits, loc, spread)
    with seeded(0):
        z = law.rsample((256,))
    loss = z.sum() + law.log_prob(z).sum()
    assert torch.isfinite(z).all() and torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, [logits, loc, spread]):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loc, scale", [(torch.zeros(2, 3), 1.0), (torch.eye(2, 32), 1e-3)], ids=["means", "scales"])
def test_pyros_mixture_has_gradients_that_are_nan(loc, scale):
    """Why there is a law of ours: at equal means and at small scales."""
    finite = []
    for law in (lambda m, s, w: dist.MixtureOfDiagNormals(m, s, w), lambda m, s, w: GaussianMixture(w, m, s)):
        parameters = [a.clone().requires_grad_() for a in (loc, torch.full_like(loc, scale), torch.zeros(2))]
        with seeded(0):
            z = law(*parameters).rsample((16,))
        gradients = torch.autograd.grad(z.sum(), parameters)
        finite.append(all(torch.isfinite(g).all() for g in gradients))
    assert finite == [False, True]


def test_a_cluster_without_weight_has_no_part():
    logits = torch.tensor([0.3, -math.inf, 1.0], dtype=torch.float64, requires_grad=True)
    loc = torch.tensor([[0.0, 1.0], [1e200, 0.0], [2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([[1.0, 1.0], [1e-200, 1.0], [0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    with seeded(0):
        z = GaussianMixture(logits, loc, scale).rsample((1000,))
    assert z.abs().max() < 20
    for gradient in torch.autograd.grad(z.sum(), [logits, loc, scale]):
        assert torch.isfinite(gradient).all() and (gradient[1] == 0).all()


def test_float32_gradient_far_in_the_upper_tail():
    """Phi - F near 1 has no digits left in float32: the gradient must be taken from the other side."""
    gradients = []
    for dtype in (torch.float32, torch.float64):
        logits = torch.zeros(2, dtype=dtype, requires_grad=True)
        loc = torch.tensor([[0.0], [0.5]], dtype=dtype)
        z = torch.tensor([[7.0], [-7.0]], dtype=dtype)
        log_w = logits.log_softmax(-1).expand(2, 2)
        out = _Pathwise.apply(z, log_w, loc.expand(2, 2, 1), torch.ones(2, 2, 1, dtype=dtype))
        gradients.append(
            torch.stack([torch.autograd.grad(out[i, 0], logits, retain_graph=True)[0] for i in (0, 1)]).double()
        )
    assert (gradients[1].abs() > 1e-3).all()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=0)


def test_cluster_probs():
    logits, loc, scale = random_mixture(5, K=3, d=2)
    law = GaussianMixture(logits, loc, scale)
    z = torch.randn(7, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    each = dist.Normal(loc, scale).to_event(1).log_prob(z.unsqueeze(-2)).exp() * logits.softmax(-1)
    torch.testing.assert_close(law.cluster_probs(z), each / each.sum(-1, keepdim=True))
    torch.testing.assert_close(law.cluster_probs(z).sum(-1), torch.ones(7, 5, dtype=torch.float64))
    torch.testing.assert_close(law.cluster_probs(z + 1e6).sum(-1), torch.ones(7, 5, dtype=torch.float64))


def test_weights_of_samples():
    logits = torch.tensor([0.0, 1.0, -2.0, -math.inf])
    law = GaussianMixture(logits, 10 * torch.arange(4.0)[:, None], torch.full((4, 1), 0.1))
    with seeded(0):
        share = (law.sample((100_000,)) / 10).round().long().squeeze(-1).bincount(minlength=4) / 100_000
    torch.testing.assert_close(share, logits.softmax(-1), atol=0.008, rtol=0)
    assert share[3] == 0


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0, 100.0])
def test_entropy_bounds(spread):
    logits, loc, scale = random_mixture(K=4, d=2, spread=spread)
    law = GaussianMixture(logits, loc, scale)
    low, high = law.entropy_bounds()
    with seeded(0):
        log_q = law.log_prob(law.sample((200_000,)))
    entropy, error = -log_q.mean(), log_q.std() / math.sqrt(200_000)
    assert low <= entropy + 4 * error and entropy - 4 * error <= high
    if spread == 100:  # far apart, they meet in H(c) + sum_k w_k H_k
        exact = (
            dist.Categorical(logits=logits).entropy() + (law.probs * dist.Normal(loc, scale).entropy().sum(-1)).sum()
        )
        torch.testing.assert_close(torch.stack([low, high]), exact.expand(2))


def test_entropy_bounds_are_those_of_the_two_divergences():
    """Bhattacharyya's distance -log int sqrt(p q) and the KL divergence, both by quadrature."""
    w, loc, scale = [0.3, 0.7], [-0.4, 0.9], [0.5, 1.3]

    def density(x, k):
        return mpmath.npdf(x, loc[k], scale[k])

    def integral(f):
        return mpmath.quad(f, [-14, -2, 0, 2, 14])

    distances = {
        "bhattacharyya": lambda j, k: -mpmath.log(integral(lambda x: mpmath.sqrt(density(x, j) * density(x, k)))),
        "kl": lambda j, k: integral(lambda x: density(x, j) * mpmath.log(density(x, j) / density(x, k))),
    }
    within = sum(a * mpmath.log(s * mpmath.sqrt(2 * mpmath.pi * mpmath.e)) for a, s in zip(w, scale, strict=True))
    exact = [
        float(within - sum(w[k] * mpmath.log(sum(w[j] * mpmath.exp(-D(k, j)) for j in (0, 1))) for k in (0, 1)))
        for D in distances.values()
    ]
    w, loc, scale = (torch.tensor(a, dtype=torch.float64) for a in (w, loc, scale))
    law = GaussianMixture(w.log(), loc.unsqueeze(-1), scale.unsqueeze(-1))
    assert [float(bound) for bound in law.entropy_bounds()] == pytest.approx(exact, abs=1e-9)


def test_entropy_bounds_of_equal_clusters_are_exact():
    law = GaussianMixture(torch.tensor([0.0, 2.0]), torch.ones(2, 3), torch.full((2, 3), 0.7))
    exact = dist.Normal(torch.zeros(3), 0.7).entropy().sum()
    for bound in law.entropy_bounds():
        torch.testing.assert_close(bound, exact)


def test_center_is_the_mean():
    law = GaussianMixture(*random_mixture(2))
    assert torch.equal(center(law), law.mean)


def test_vmap_over_the_parameters():
    logits, loc, scale = random_mixture(5, K=3, d=2)
    z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = vmap(lambda a, m, s, z: GaussianMixture(a, m, s, validate_args=False).log_prob(z))(logits, loc, scale, z)
    torch.testing.assert_close(got, GaussianMixture(logits, loc, scale).log_prob(z))


def test_bad_input():
    logits, loc, scale = random_mixture()
    with pytest.raises(ValueError, match="as many clusters in loc and scale as in logits, got 4 and 3"):
        GaussianMixture(logits[:3], loc, scale)
    with pytest.raises(ValueError, match="expected one dtype"):
        GaussianMixture(logits.float(), loc, scale)
    with pytest.raises(ValueError, match=r"expected logits \(\.\.\., K\)"):
        GaussianMixture(logits, loc[0], scale)
    with pytest.raises(ValueError, match="scale"):
        GaussianMixture(logits, loc, -scale, validate_args=True)
