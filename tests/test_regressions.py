"""Faults that earlier libraries of variational auto-encoders had, each in plain words with the test that keeps it out.

Those that are tested beside the unit are not repeated: best weights with the optimizer's current state
(test_checkpoint), a loss of unscaled data that ends in an unrelated error (test_arrays), the last short batch counted
as a full one (test_train), a number of samples other than the one asked for (test_predict).
"""

import copy
import io
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import mpmath as mp
import numpy as np
import pyro
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

import ppvae
from ppvae.distributions import HypersphericalUniform, VonMisesFisher
from ppvae.infer import ELBO, IWAE_ELBO
from ppvae.nn import NormalLikelihood

ROOT = Path(__file__).parents[1]
rng = np.random.default_rng(0)
X = (rng.random((40, 6)) > 0.5).astype(np.float32)


def make(model=GaussianVAE, dim=2, **options):
    torch.manual_seed(0)
    return model((6,), dim, (8,), **options)


def pole(m, dtype=torch.float32):
    return torch.eye(m, dtype=dtype)[0]


def mean_cosine(m, k):
    """A(k) = I_{m/2}(k) / I_{m/2-1}(k)."""
    with mp.workdps(50):
        return float(mp.besseli(m / 2, k) / mp.besseli(m / 2 - 1, k))


def exact_kl(m, k):
    """KL(vMF(k) || uniform) on the sphere in R^m."""
    with mp.workdps(50):
        v, k = mp.mpf(m) / 2 - 1, mp.mpf(k)
        log_c = v * mp.log(k) - (v + 1) * mp.log(2 * mp.pi) - mp.log(mp.besseli(v, k))
        log_area = mp.log(2) + mp.mpf(m) / 2 * mp.log(mp.pi) - mp.loggamma(mp.mpf(m) / 2)
        return float(k * mp.besseli(v + 1, k) / mp.besseli(v, k) + log_c + log_area)


class TestSphericalLaws:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(
        ("m", "k"), [(59, 1), (77, 3), (100, 1), (110, 10), (128, 10), (400, 100), (1024, 1000), (10, 1e6)]
    )
    def test_the_kl_neither_underflows_nor_drifts_in_many_dimensions(self, m, k, dtype):
        concentration = torch.tensor(float(k), dtype=dtype, requires_grad=True)
        kl = kl_divergence(VonMisesFisher(pole(m, dtype), concentration), HypersphericalUniform(m, dtype=dtype))
        kl.backward()
        assert kl.dtype == dtype  # float64 is not cast to float32 on the way
        assert float(kl.detach()) == pytest.approx(exact_kl(m, k), rel=1e-10 if dtype == torch.float64 else 1e-5)
        assert torch.isfinite(concentration.grad)

    def test_the_gradient_of_the_kl_has_its_sign_at_large_concentration(self):
        k = torch.tensor(1e5, requires_grad=True)
        kl_divergence(VonMisesFisher(pole(10), k), HypersphericalUniform(10)).backward()
        assert float(k.grad) == pytest.approx(4.5e-5, rel=1e-2)

    @pytest.mark.parametrize(("m", "k"), [(3, 1e5), (8, 7e3), (16, 1e5), (16, 1e6)])
    def test_samples_at_large_concentration_do_not_turn_orthogonal_to_the_mean(self, m, k):
        torch.manual_seed(0)
        z = VonMisesFisher(pole(m), torch.tensor(float(k))).sample((2000,))
        # 1 - cos is Gamma((m-1)/2, k) in the limit: its mean and standard error
        gap = (1 - z[:, 0].double()).mean()
        if k < 1e5:
            assert float(gap) == pytest.approx((m - 1) / 2 / k, rel=0.1)
        # in float32 the cosine is known to 6e-8: the length across the mean tells more
        across = z[:, 1:].double().square().sum(-1).mean()
        assert float(across) == pytest.approx((m - 1) / k, rel=0.1)

    @pytest.mark.parametrize(("m", "k"), [(21, 15), (41, 15), (41, 30), (41, 60), (101, 30), (101, 100), (201, 60)])
    def test_samples_have_the_right_mean_where_the_concentration_is_not_above_the_dimension(self, m, k):
        torch.manual_seed(0)
        w = VonMisesFisher(pole(m, torch.float64), torch.tensor(float(k), dtype=torch.float64)).sample((20_000,))[:, 0]
        assert abs(float(w.mean()) - mean_cosine(m, k)) < 5 * float(w.std()) / math.sqrt(20_000)

    @pytest.mark.parametrize(("m", "k"), [(2, 1), (4, 1), (6, 10), (11, 10), (41, 10.5)])
    def test_the_gradient_of_a_mean_has_the_part_of_the_rejections(self, m, k):
        torch.manual_seed(0)
        concentration = torch.full((40_000,), float(k), dtype=torch.float64, requires_grad=True)
        w = VonMisesFisher(pole(m, torch.float64), concentration).rsample()[:, 0]
        (grad,) = torch.autograd.grad(w.sum(), concentration)
        A = mean_cosine(m, k)
        exact = 1 - A**2 - (m - 1) / k * A
        assert abs(float(grad.mean()) - exact) < 5 * float(grad.std()) / math.sqrt(40_000)

    def test_samples_are_unit_vectors_for_means_near_the_poles(self):
        torch.manual_seed(0)
        for angle in (0.1, 1e-2, 1e-3, 1e-4, 1e-8, 0.0, math.pi, math.pi - 1e-4):
            loc = torch.tensor([math.cos(angle), math.sin(angle), 0.0], requires_grad=True)
            z = VonMisesFisher(loc, torch.tensor(50.0)).rsample((500,))
            assert torch.allclose(z.norm(dim=-1), torch.ones(500), atol=1e-6), angle
            z.sum().backward()
            assert torch.isfinite(loc.grad).all()
            mean = torch.nn.functional.normalize(z.detach().mean(0), dim=0)
            assert float((mean - loc.detach()).norm()) < 0.05  # and about the mean itself

    def test_shapes_are_of_points(self):
        law = VonMisesFisher(torch.eye(5)[:3], torch.ones(3))
        assert law.batch_shape == (3,) and law.event_shape == (5,)
        assert law.expand((2, 3)).sample((4,)).shape == (4, 2, 3, 5)
        assert HypersphericalUniform(3).sample((7,)).shape == (7, 3)  # the dimension is that of the surrounding space

    def test_a_sampler_with_nan_returns(self):
        z = VonMisesFisher(pole(3), torch.tensor(math.nan), validate_args=False).sample((10,))
        assert torch.isnan(z).any(-1).all()

    def test_nothing_leaves_the_device_or_branches_on_values(self):
        def step(loc, k):
            law = VonMisesFisher(loc, k, validate_args=False)
            return law.rsample(), kl_divergence(law, HypersphericalUniform(4))

        make_fx(step)(pole(4).expand(3, 4), torch.ones(3))

    @pytest.mark.parametrize("dim", [59, 80, 128])
    def test_a_spherical_vae_of_many_dimensions_trains(self, dim):
        result = ppvae.fit(make(SphericalVAE, dim=dim), X, epochs=3, lr=1e-2, seed=0, progress=False)
        assert np.isfinite(result.history["loss"]).all() and result.history["kl"][0] > 0
        assert result.history["loss"][-1] < result.history["loss"][0]

    def test_codes_and_prior_samples_are_unit_vectors(self):
        vae = make(SphericalVAE, dim=4)
        decoded = []
        vae.decoder.register_forward_hook(lambda _, inputs, out: decoded.append(inputs[0]))
        assert np.allclose(np.linalg.norm(ppvae.encode(vae, X), axis=1), 1, atol=1e-6)
        ppvae.generate(vae, 50, seed=0)
        ppvae.reconstruct(vae, X)
        length = decoded[0][0].norm()  # the decoder may scale the sphere, as a whole
        assert all(torch.allclose(z.norm(dim=-1), length.expand(len(z)), rtol=1e-5) for z in decoded)


class TestObjectives:
    def test_the_loss_of_the_importance_weighted_bound_is_the_bound(self):
        """Not a weighted sum of log weights, whose gradient is the same and whose value is not."""
        vae = make()
        x = torch.as_tensor(X)
        with pyro.get_param_store().scope(), torch.no_grad():
            torch.manual_seed(0)
            objective = IWAE_ELBO(9)
            loss = objective.loss(vae.model, vae.guide, x)
            torch.manual_seed(0)
            p, q = objective.traces(vae.model, vae.guide, x)
            log_w = p.nodes["x"]["fn"].log_prob(x)
            log_w = (
                log_w
                + p.nodes["z"]["fn"].log_prob(p.nodes["z"]["value"])
                - q.nodes["z"]["fn"].log_prob(q.nodes["z"]["value"])
            )
        assert log_w.shape == (9, 40)
        assert float(loss) == pytest.approx(-float((torch.logsumexp(log_w, 0) - math.log(9)).sum()), rel=1e-5)

    def test_particles_of_the_bound_are_not_particles_of_the_elbo(self):
        """With K samples in the logarithm the bound rises with K; the mean of K bounds of one sample is the ELBO."""
        vae = make()
        with torch.no_grad():
            for p in vae.decoder.parameters():
                p.mul_(4)
        x = torch.as_tensor(X)
        with pyro.get_param_store().scope(), torch.no_grad():
            torch.manual_seed(0)
            elbo, elbo_50, iwae_50 = (
                -np.mean([float(o.loss(vae.model, vae.guide, x)) for _ in range(30)]) / 40
                for o in (ELBO(), ELBO(50), IWAE_ELBO(50))
            )
        assert elbo_50 == pytest.approx(elbo, abs=0.3) and iwae_50 > elbo + 1

    def test_the_log_likelihood_uses_the_guide_that_was_trained_and_the_sign_of_a_log_density(self):
        vae = make(SphericalVAE, dim=3)
        result = ppvae.fit(vae, X, validation=X, epochs=15, lr=1e-2, seed=0, progress=False)
        ll = ppvae.log_likelihood(vae, X, num_samples=300, seed=0)
        assert (ll.values < 0).all()
        # the mean log weight of the same guide is the ELBO: the closed KL is exact, so they agree within sampling error
        assert ll.log_weights.mean() == pytest.approx(result.best["valid_elbo"], abs=0.15)
        assert ll.mean > result.best["valid_elbo"]


class TestModels:
    def test_every_tensor_moves_with_the_model(self):
        for model in (GaussianVAE, SphericalVAE):
            vae = make(model, likelihood=NormalLikelihood()).double()
            x = np.asarray(X, np.float64)
            assert ppvae.encode(vae, x).dtype == ppvae.generate(vae, 2).dtype == np.float64
            result = ppvae.fit(vae, x, epochs=1, progress=False)
            assert math.isfinite(result.history["loss"][0])

    def test_a_copy_and_a_saved_model_are_the_model_and_not_bound_to_it(self):
        vae = make(SphericalVAE, dim=3)
        twin = copy.deepcopy(vae)
        file = io.BytesIO()
        torch.save(vae, file)
        file.seek(0)
        saved = torch.load(file, weights_only=False)
        codes = ppvae.encode(vae, X)
        ppvae.fit(vae, X, epochs=3, lr=0.1, progress=False)
        assert not np.allclose(ppvae.encode(vae, X), codes, atol=1e-3)
        assert np.array_equal(ppvae.encode(twin, X), codes)
        assert np.array_equal(ppvae.encode(saved, X), codes)

    def test_a_second_instance_trains_under_plain_svi(self):
        with pyro.get_param_store().scope():
            for _ in range(2):
                vae = make()
                before = [p.detach().clone() for p in vae.parameters()]
                svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
                for _ in range(3):
                    svi.step(torch.as_tensor(X))
                assert all(not torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))

    def test_a_model_runs_without_gradients_and_with_a_frozen_encoder(self):
        vae = make(SphericalVAE, dim=3)
        vae.encoder.requires_grad_(False)
        ppvae.fit(vae, X, epochs=1, progress=False)
        with torch.no_grad(), pyro.get_param_store().scope():
            assert math.isfinite(float(ELBO().loss(vae.model, vae.guide, torch.as_tensor(X))))

    def test_the_decoder_gives_logits_and_nothing_squashes_them_first(self):
        vae = make()
        with torch.no_grad():
            vae.decoder.module.layers[-1].bias.fill_(10.0)
        assert (ppvae.generate(vae, 5, seed=0) > 0.99).all()

    def test_images_of_any_size(self):
        for shape in ((1, 8, 8), (3, 5, 7), (2,)):
            vae = GaussianVAE(shape, 2, (8,))
            x = (rng.random((9, *shape)) > 0.5).astype(np.float32)
            ppvae.fit(vae, x, epochs=1, progress=False)
            assert ppvae.log_likelihood(vae, x, num_samples=3).values.shape == (9,)

    def test_prior_samples_differ_between_calls(self):
        vae = make(SphericalVAE, dim=3)
        assert not np.array_equal(ppvae.generate(vae, 4), ppvae.generate(vae, 4))


class TestTraining:
    def test_a_huge_first_loss_is_a_number_like_another(self):
        vae = make(likelihood=NormalLikelihood(1e-7))
        result = ppvae.fit(vae, X, epochs=2, seed=0, progress=False)
        assert result.history["loss"][0] > 1e10 and result.best_epoch is not None

    def test_the_terms_are_recorded_apart(self):
        history = ppvae.fit(make(), X, validation=X, epochs=1, progress=False).history
        assert {"reconstruction", "kl", "valid_reconstruction", "valid_kl"} <= history.keys()

    def test_the_check_of_the_data_trains_nothing_and_draws_nothing(self):
        one = ppvae.fit(make(), X, epochs=1, seed=0, progress=False).history["loss"]
        vae = make()
        norm = torch.nn.BatchNorm1d(6)
        vae.encoder = torch.nn.Sequential(norm, vae.encoder)
        from ppvae.inputs import check_support, to_tensors

        check_support(vae, to_tensors(vae, X))
        assert int(norm.num_batches_tracked) == 0
        assert ppvae.fit(make(), X, epochs=1, seed=0, progress=False).history["loss"] == one


def test_importing_and_training_touch_nothing_global():
    code = """
import logging, os, sys, warnings
environment, handlers = dict(os.environ), list(logging.root.handlers)
import torch
import importlib.util, ppvae
if importlib.util.find_spec("ppvae.models") is None:
    ppvae.__path__.append(sys.argv[1])
filters = list(warnings.filters)
state, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
from ppvae.models import GaussianVAE, SphericalVAE
import ppvae.callbacks, ppvae.data, ppvae.diagnostics, ppvae.train, ppvae.predict, ppvae.io
assert torch.equal(state, torch.get_rng_state())
assert "scipy" not in sys.modules and "matplotlib" not in sys.modules and "arviz" not in sys.modules
ppvae.fit(SphericalVAE((4,), 3, (4,)), torch.ones(8, 4), epochs=1, seed=0, progress=False)
assert dict(os.environ) == environment, set(os.environ.items()) ^ set(environment.items())
assert logging.root.handlers == handlers
loggers = logging.root.manager.loggerDict.items()
assert not [name for name, l in loggers if name.startswith("ppvae") and getattr(l, "handlers", None)]
assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(ROOT)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_two_runs_at_once_do_not_share_files(tmp_path):
    for name in ("a", "b"):
        ppvae.fit(make(), X, epochs=1, checkpoint=tmp_path / name / "c", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert not [handler for handler in logging.root.handlers if "ppvae" in type(handler).__module__]
