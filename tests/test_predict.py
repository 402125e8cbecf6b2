import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from torch import nn

import ppvae
from ppvae.distributions import HypersphericalUniform, VonMisesFisher
from ppvae.infer import ELBO, IWAE_ELBO
from ppvae.inputs import to_tensors
from ppvae.nn import NormalLikelihood
from ppvae.predict import LogLikelihood, _log_weights
from ppvae.random import seeded
from ppvae.tracing import trace

rng = np.random.default_rng(0)
X = (rng.random((7, 1, 4, 4)) > 0.5).astype(np.float32)


def make(model=GaussianVAE, dim=2, shape=(1, 4, 4), **options):
    torch.manual_seed(0)
    return model(shape, dim, (8,), **options)


class Linear(GaussianVAE):
    """x = W z + b + sigma noise with z ~ N(0, I): p(x) = N(b, W W' + sigma^2 I), and its posterior is known."""

    SIGMA = 0.5

    def __init__(self, widen=1.0):
        torch.manual_seed(0)
        super().__init__((3,), 2, (), likelihood=NormalLikelihood(self.SIGMA))
        self.double()
        self.widen = widen

    @property
    def affine(self):
        return self.decoder.module.layers[0]

    def guide(self, x):
        W, b = self.affine.weight, self.affine.bias
        precision = torch.eye(2, dtype=W.dtype) + W.mT @ W / self.SIGMA**2
        covariance = precision.inverse()
        mean = (x - b) @ W @ covariance / self.SIGMA**2
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.MultivariateNormal(mean, covariance * self.widen**2))

    def log_evidence(self, x):
        W, b = self.affine.weight.detach(), self.affine.bias.detach()
        return dist.MultivariateNormal(b, W @ W.mT + self.SIGMA**2 * torch.eye(3)).log_prob(torch.as_tensor(x)).numpy()


class TestLogLikelihood:
    x = rng.normal(size=(6, 3))

    def test_the_exact_posterior_gives_the_exact_evidence(self):
        vae = Linear()
        ll = ppvae.log_likelihood(vae, self.x, num_samples=30)
        assert np.allclose(ll.values, vae.log_evidence(self.x), rtol=1e-7)  # the scale is a float32 exponential
        assert np.allclose(ll.error, 0, atol=1e-7) and np.allclose(ll.ess, 30)
        assert ll.mean == pytest.approx(vae.log_evidence(self.x).mean())

    def test_a_wider_guide_gives_it_within_its_error(self):
        vae = Linear(widen=1.5)
        ll = ppvae.log_likelihood(vae, self.x, num_samples=20_000, seed=0)
        z = (ll.values - vae.log_evidence(self.x)) / ll.error
        assert np.abs(z).max() < 4.5
        assert (ll.error > 1e-4).all() and (ll.ess < 20_000).all() and (ll.pareto_k < 0.5).all()

    def test_the_error_is_that_of_repetitions(self):
        vae = Linear(widen=1.3)
        many = np.stack([ppvae.log_likelihood(vae, self.x, num_samples=400, seed=s).values for s in range(60)])
        error = ppvae.log_likelihood(vae, self.x, num_samples=400, seed=0).error
        assert np.allclose(many.std(0, ddof=1), error, rtol=0.35)  # 60 repetitions tell a deviation to 9 %

    def test_a_guide_that_is_too_narrow_shows_in_pareto_k(self):
        ll = ppvae.log_likelihood(Linear(widen=0.3), self.x, num_samples=2000, seed=0)
        assert (ll.pareto_k > 0.7).any()
        assert "Pareto k > 0.7 for" in str(ll)

    @pytest.mark.parametrize("model", [GaussianVAE, SphericalVAE])
    def test_the_evidence_by_quadrature_bounds_iwae_and_elbo(self, model):
        """log p(x) over the whole latent space, and ELBO <= IWAE-5 <= log p(x)."""
        vae = make(model, dim=2).double()
        x = torch.as_tensor(X, dtype=torch.float64)
        with torch.no_grad():
            vae.encoder.module.layers[-1].weight.mul_(0.1)  # a wide guide, whose weights have a finite variance
            vae.encoder.module.layers[-1].bias[vae.dim :].sub_(2.0 if model is SphericalVAE else 0.0)
            vae.encoder.module.layers[-1].bias[: vae.dim].mul_(0.1)
        if model is GaussianVAE:
            t = torch.linspace(-7, 7, 141, dtype=torch.float64)
            z, log_weight = torch.cartesian_prod(t, t), 2 * math.log(0.1)
            log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        else:
            t = torch.arange(2000, dtype=torch.float64) * 2 * math.pi / 2000
            z, log_weight = torch.stack([t.cos(), t.sin()], -1), math.log(2 * math.pi / 2000)
            log_prior = HypersphericalUniform(2, dtype=torch.float64).log_prob(z)
        with torch.no_grad():
            law = vae.decode(z)
            evidence = torch.stack([torch.logsumexp(law.log_prob(row) + log_prior + log_weight, 0) for row in x])
        ll = ppvae.log_likelihood(vae, x, num_samples=4000, seed=0)
        assert np.abs((ll.values - evidence.numpy()) / ll.error).max() < 4.5
        with torch.no_grad(), torch.random.fork_rng(), pyro.get_param_store().scope():
            torch.manual_seed(0)
            elbo = -np.mean([float(ELBO().loss(vae.model, vae.guide, x)) for _ in range(200)])
            iwae = -np.mean([float(IWAE_ELBO(5).loss(vae.model, vae.guide, x)) for _ in range(200)])
        assert elbo < iwae < float(evidence.sum())

    def test_samples_and_chunks_are_as_many_as_said(self):
        for num_samples, chunk in ((1, 50_000), (7, 3), (7, 7), (7, 20), (7, 1)):
            ll = ppvae.log_likelihood(Linear(1.5), self.x, num_samples=num_samples, chunk=chunk)
            assert ll.log_weights.shape == (6, num_samples)
        assert np.isnan(ppvae.log_likelihood(Linear(), self.x, num_samples=1).error).all()

    def test_the_encoder_reads_each_datum_once(self):
        vae = make()
        rows = []
        vae.encoder.register_forward_hook(lambda _, inputs, out: rows.append(len(inputs[0])))
        ppvae.log_likelihood(vae, X, num_samples=500)
        assert rows == [1, 7]  # the check of the data, and the data

    def test_a_seed_fixes_it_and_leaves_the_generator(self):
        vae = make()
        state = torch.get_rng_state()
        one = ppvae.log_likelihood(vae, X, num_samples=5, seed=3).values
        assert torch.equal(state, torch.get_rng_state())
        assert np.array_equal(one, ppvae.log_likelihood(vae, X, num_samples=5, seed=3).values)
        ppvae.log_likelihood(vae, X, num_samples=5)
        assert not torch.equal(state, torch.get_rng_state())

    def test_the_summary_has_both_errors(self):
        log_w = rng.normal(size=(50, 40))
        ll = LogLikelihood(log_w)
        assert np.allclose(ll.values, np.log(np.exp(log_w).mean(1)))
        w = np.exp(log_w)
        assert np.allclose(ll.error, w.std(1, ddof=1) / math.sqrt(40) / w.mean(1))
        assert np.allclose(ll.ess, w.sum(1) ** 2 / (w**2).sum(1))
        assert ll.standard_error == pytest.approx(ll.values.std(ddof=1) / math.sqrt(50))
        assert math.isnan(LogLikelihood(log_w[:1]).standard_error)
        assert "50 data, 40 samples each" in repr(ll)

    def test_a_latent_outside_the_plate_is_refused(self):
        class Shared(GaussianVAE):
            def model(self, x):
                pyro.sample("w", dist.Normal(0.0, 1.0))
                return super().model(x)

            def guide(self, x):
                pyro.sample("w", dist.Normal(0.0, 1.0))
                return super().guide(x)

        with pytest.raises(ValueError, match="site 'w': expected every site in the data plate"):
            ppvae.log_likelihood(Shared((1, 4, 4), 2, (8,)), X, num_samples=3)

    def test_arguments(self):
        with pytest.raises(ValueError, match="num_samples: expected a whole number of at least 1, got 0"):
            ppvae.log_likelihood(make(), X, num_samples=0)


class TestEncode:
    def test_it_is_the_centre_of_the_guide(self):
        vae = make()
        with torch.no_grad():
            want = vae.head(vae.encoder(torch.as_tensor(X))).mean.numpy()
        assert np.array_equal(ppvae.encode(vae, X), want)

    def test_codes_lie_on_the_manifold(self):
        z = ppvae.encode(make(SphericalVAE, dim=5), X)
        assert z.shape == (7, 5) and np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)

    def test_batches_do_not_matter(self):
        vae = make()
        assert np.allclose(ppvae.encode(vae, X, batch_size=2), ppvae.encode(vae, X), atol=1e-6)

    def test_several_sites_come_by_name(self):
        class Two(GaussianVAE):
            def model(self, x):
                with pyro.plate("data", x.shape[0]):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                    pyro.sample("c", HypersphericalUniform(3))
                    return pyro.sample("x", self.likelihood(self.decoder(z), 3), obs=x)

            def guide(self, x):
                with pyro.plate("data", x.shape[0]):
                    pyro.sample("z", self.head(self.encoder(x)))
                    pyro.sample("c", VonMisesFisher(torch.eye(3)[0], torch.tensor(5.0)))

        codes = ppvae.encode(Two((1, 4, 4), 2, (8,)), X)
        assert codes.keys() == {"z", "c"}
        assert codes["z"].shape == (7, 2) and np.array_equal(codes["c"], np.tile([1.0, 0, 0], (7, 1)))


class TestGenerateAndReconstruct:
    def test_means_and_samples(self):
        vae = make()
        mean = ppvae.generate(vae, 5, seed=0)
        assert mean.shape == (5, 1, 4, 4) and ((mean > 0) & (mean < 1)).all()
        draws = ppvae.generate(vae, 5, sample=True, seed=0)
        assert set(np.unique(draws)) <= {0.0, 1.0}
        assert ppvae.reconstruct(vae, X).shape == X.shape

    def test_the_mean_of_many_is_that_of_the_prior(self):
        vae = Linear()
        x = ppvae.generate(vae, 20_000, sample=True, seed=0)
        W, b = vae.affine.weight.detach().numpy(), vae.affine.bias.detach().numpy()
        covariance = W @ W.T + 0.25 * np.eye(3)
        assert np.allclose(x.mean(0), b, atol=5 * np.sqrt(np.diag(covariance) / 20_000).max())
        assert np.allclose(np.cov(x.T), covariance, atol=0.05)

    def test_a_reconstruction_is_at_the_centre_of_the_guide(self):
        vae = Linear()
        x = rng.normal(size=(4, 3))
        with torch.no_grad():
            want = vae.decoder(torch.as_tensor(ppvae.encode(vae, x))).numpy()
        assert np.allclose(ppvae.reconstruct(vae, x), want)

    def test_seeds(self):
        vae = make()
        assert np.array_equal(ppvae.generate(vae, 3, seed=1), ppvae.generate(vae, 3, seed=1))
        assert not np.array_equal(ppvae.generate(vae, 3, seed=1), ppvae.generate(vae, 3, seed=2))
        state = torch.get_rng_state()
        ppvae.generate(vae, 3, seed=1)
        assert torch.equal(state, torch.get_rng_state())
        assert not np.array_equal(ppvae.generate(vae, 3), ppvae.generate(vae, 3))

    def test_points_of_a_curved_space_stay_on_it(self):
        class OnSphere(nn.Module):
            features, in_features, given = 1, 1, ()

            def forward(self, h, event_dim):
                return VonMisesFisher(h / h.norm(dim=-1, keepdim=True), torch.tensor(20.0))

            def inputs(self, x, event_dim):
                return x

        vae = make(shape=(3,), likelihood=OnSphere())
        for x in (ppvae.generate(vae, 6, seed=0), ppvae.generate(vae, 6, sample=True, seed=0)):
            assert np.allclose(np.linalg.norm(x, axis=-1), 1, atol=1e-5)

    def test_means_need_no_draw_of_the_data(self):
        class NoSampler(dist.Normal):
            def rsample(self, sample_shape=()):
                raise AssertionError("x was drawn")

        class Head(NormalLikelihood):
            def forward(self, h, event_dim):
                return NoSampler(h, self.log_scale.exp()).to_event(event_dim)

        vae = make(likelihood=Head())
        assert ppvae.generate(vae, 3).shape == (3, 1, 4, 4) and ppvae.reconstruct(vae, X).shape == X.shape

    def test_arguments(self):
        with pytest.raises(ValueError, match="n: expected a whole number of at least 1, got 0"):
            ppvae.generate(make(), 0)
        with pytest.raises(ValueError, match=r"expected shape \(n, 1, 4, 4\), got \(7, 4, 4\)"):
            ppvae.reconstruct(make(), X[:, 0])


class TestDecode:
    def test_it_is_the_mean_of_the_likelihood_and_a_draw_from_it(self):
        vae = make()
        z = rng.normal(size=(2000, 2))
        x = ppvae.decode(vae, z)
        with torch.no_grad():
            assert np.allclose(x, vae.decode(torch.as_tensor(z).float()).mean, atol=1e-6)
        assert np.allclose(x, ppvae.decode(vae, {"z": z}, batch_size=7), atol=1e-6)
        draws = ppvae.decode(vae, z, sample=True, seed=0)
        assert set(np.unique(draws)) == {0, 1} and np.array_equal(draws, ppvae.decode(vae, z, sample=True, seed=0))
        assert abs((draws - x).mean()) < 5 * 0.5 / math.sqrt(x.size)

    def test_of_the_encoding_it_is_the_reconstruction(self):
        for vae in (make(), make(SphericalVAE, 3)):
            assert np.array_equal(ppvae.decode(vae, ppvae.encode(vae, X)), ppvae.reconstruct(vae, X))

    def test_a_wrong_latent_is_refused(self):
        vae, z = make(), np.zeros((3, 2), np.float32)
        for wrong, message in (
            (z[:, :1], r"expected shape \(3, 2\) at site z, got \(3, 1\)"),
            ({"y": z}, "expected the latents z, got y"),
            ({"z": z, "y": z}, "expected the latents z, got z, y"),
            ({}, "got an empty dict"),
            (np.full((3, 2), np.nan), "at site z, got another first in row 0"),
        ):
            with pytest.raises(ValueError, match=message):
                ppvae.decode(vae, wrong)
        with pytest.raises(ValueError, match=r"expected points of Sphere\(\) at site z, got another first in row 1"):
            ppvae.decode(make(SphericalVAE, 3), np.array([[1.0, 0, 0], [1.1, 0, 0]]))


CALLS = {
    "encode": lambda vae, x: ppvae.encode(vae, x),
    "decode": lambda vae, x: ppvae.decode(vae, x[:, 0, 0, :2]),
    "reconstruct": lambda vae, x: ppvae.reconstruct(vae, x),
    "generate": lambda vae, x: ppvae.generate(vae, 3, seed=0),
    "log_likelihood": lambda vae, x: ppvae.log_likelihood(vae, x, num_samples=3, seed=0).values,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_is_in_eval_mode_without_gradients_and_restores_all(call):
    modes = []

    class Spy(nn.Linear):
        def forward(self, z):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(z).unflatten(-1, (1, 4, 4))

    vae = make(decoder=Spy(2, 16), encoder=nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 4)))
    vae.train()
    vae.encoder.module[1].eval()
    before = {name: p.clone() for name, p in vae.state_dict().items()}
    assert np.array_equal(call(vae, X), call(vae, X)) or call is CALLS["generate"]  # no dropout
    assert all(mode == (False, False) for mode in modes)
    assert vae.training and not vae.encoder.module[1].training
    assert all(p.grad is None for p in vae.parameters())
    assert all(torch.equal(p, before[name]) for name, p in vae.state_dict().items())
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize("call", [CALLS["encode"], CALLS["decode"], CALLS["reconstruct"]])
def test_tensors_give_tensors_and_arrays_arrays(call):
    vae = make()
    out = call(vae, torch.as_tensor(X))
    assert isinstance(out, torch.Tensor) and isinstance(call(vae, X), np.ndarray)
    assert np.array_equal(out.numpy(), call(vae, X))
    assert to_tensors(vae, X)[0].dtype == out.dtype


def test_log_likelihood_is_the_same_law_whatever_the_chunk_and_reads_memory_maps(tmp_path):
    vae, x = make(), np.concatenate([X] * 3)
    np.save(tmp_path / "x.npy", (255 * x).astype(np.uint8) // 255)
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    whole = ppvae.log_likelihood(vae, x, num_samples=40, seed=0)
    assert whole.log_weights.shape == (21, 40)
    assert np.array_equal(ppvae.log_likelihood(vae, on_disk, num_samples=40, seed=0).log_weights, whole.log_weights)
    for chunk in (1, 33, 200):
        part = ppvae.log_likelihood(vae, x, num_samples=40, seed=0, chunk=chunk)
        assert np.abs((part.values - whole.values) / np.hypot(part.error, whole.error)).max() < 4.5
    assert np.array_equal(ppvae.encode(vae, on_disk, batch_size=4), ppvae.encode(vae, x, batch_size=4))
    broken = on_disk.astype(np.float32)
    broken[17, 0, 0, 0] = 0.5
    np.save(tmp_path / "y.npy", broken)
    with pytest.raises(ValueError, match="first in row 17"):
        ppvae.log_likelihood(vae, np.load(tmp_path / "y.npy", mmap_mode="r"), num_samples=4, chunk=8)


def test_each_datum_is_encoded_once_for_all_samples_of_a_chunk():
    vae, rows = make(), []
    vae.encoder.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[0]))
    ppvae.log_likelihood(vae, X, num_samples=100, seed=0)
    assert sum(rows) == len(X) + 1  # and the first datum once for the check of the support


@pytest.mark.parametrize("model", [GaussianVAE, SphericalVAE])
def test_the_traced_weights_of_the_likelihood_are_those_of_eager(model):
    vae, x = make(model, dim=3).eval(), torch.tensor(X)
    function = partial(_log_weights, vae, 5, 1)
    state = torch.get_rng_state()
    graph, tensors = trace(vae, function, (x,))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad(), seeded(3):
        eager = function(x)
    with torch.no_grad(), seeded(3):
        assert torch.allclose(graph(*tensors, x), eager, atol=1e-5)


def test_a_likelihood_that_cannot_be_compiled_is_computed_all_the_same(capsys):
    class Reads(nn.Module):
        def forward(self, z):
            return z.new_full((len(z), 1, 4, 4), z.sum().item())

    vae = make(decoder=Reads())
    eager = ppvae.log_likelihood(vae, X, num_samples=5, seed=0)
    assert np.array_equal(
        ppvae.log_likelihood(vae, X, num_samples=5, seed=0, compile=True).log_weights, eager.log_weights
    )
    assert "reads a value back" in capsys.readouterr().err


@pytest.mark.slow
def test_the_compiled_likelihood_is_that_of_eager(capsys):
    vae = make(SphericalVAE, dim=3)
    eager = ppvae.log_likelihood(vae, X, num_samples=50, seed=0, chunk=100)
    compiled = ppvae.log_likelihood(vae, X, num_samples=50, seed=0, chunk=100, compile=True)
    assert np.allclose(compiled.log_weights, eager.log_weights, atol=1e-4)
    assert "was compiled in" in capsys.readouterr().err
