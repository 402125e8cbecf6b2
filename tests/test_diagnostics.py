import dataclasses
import math
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

import ppvae
from ppvae.diagnostics import convergence, pareto_k, to_inference_data, worst_coordinates

rng = np.random.default_rng(0)


def pareto(k, shape):
    """Log weights with a tail of exponent k: w = u^-k."""
    return -k * np.log(rng.random(shape))


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.0])
def test_the_exponent_of_a_pareto_tail_is_found(k):
    found = pareto_k(pareto(k, (200, 2000)))
    # k-hat has a weak prior of ten data towards 1/2, and is biased downwards a little for heavy tails
    assert found.mean() == pytest.approx((k * 135 + 5) / 145, abs=0.04)


def test_shift_and_order_do_not_matter():
    w = rng.normal(size=(5, 300))
    k = pareto_k(w)
    assert np.allclose(pareto_k(w + 500), k, rtol=1e-6)
    assert np.allclose(pareto_k(w[:, ::-1]), k, rtol=1e-12)
    assert np.allclose(pareto_k(w.astype(np.float32)), k, rtol=1e-4)


def test_rows_that_have_no_tail():
    w = rng.normal(size=(7, 100))
    w[1] = 0.0  # all equal
    w[2, 4:] = -np.inf  # four weights are no tail
    w[3] = -np.inf  # all weights are 0
    w[4, :50] = -np.inf  # half of the weights are 0: the tail is there
    w[5, 0] = 1e5  # one weight is all
    w[6, :40] = 9.0  # the largest are all equal
    k = pareto_k(w)
    assert np.isfinite(k[[0, 4]]).all()
    assert np.isnan(k[[1, 6]]).all()
    assert (k[[2, 3, 5]] == np.inf).all()


@pytest.mark.parametrize("S", [3, 25, 400])
def test_weights_that_are_all_zero_are_not_to_be_trusted(S):
    w = rng.normal(size=(3, S))
    w[1] = -np.inf
    assert pareto_k(w)[1] == np.inf and (pareto_k(w) > 0.7)[1]
    assert (pareto_k(np.full((2, S), -np.inf)) == np.inf).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad):
    w = rng.normal(size=(3, 100))
    w[2, 5] = bad
    with pytest.raises(ValueError, match=r"log_weights: expected numbers or -inf, got 1 NaN or .inf, first in row 2"):
        pareto_k(w)
    with pytest.raises(ValueError, match=r"log_weights: expected shape \(n, S\), got \(100,\)"):
        pareto_k(w[0])
    with pytest.raises(ValueError, match="log_weights: expected an array without a mask"):
        pareto_k(np.ma.masked_invalid(w))
    with pytest.raises(ValueError, match="log_weights: expected real numbers, got complex128"):
        pareto_k(w + 1j)
    assert pareto_k(w[:2].tolist()).tolist() == pareto_k(torch.tensor(w[:2])).tolist() == pareto_k(w[:2]).tolist()


@pytest.mark.parametrize("S", [1, 2, 24])
def test_too_few_samples_for_a_tail(S):
    assert (pareto_k(rng.normal(size=(3, S))) == np.inf).all()


def test_the_input_is_left_as_it_was():
    w = rng.normal(size=(3, 100))
    copy = w.copy()
    pareto_k(w)
    assert np.array_equal(w, copy)


def test_the_1_x_line_is_given_its_own_sign(monkeypatch):
    """arviz_stats smooths exp(-argument), ArviZ 0.x exp(argument): both must give k of the same weights."""
    w = pareto(0.9, (20, 400))
    before = pareto_k(w)
    import arviz

    array_stats = types.SimpleNamespace(psislw=lambda ary: arviz.psislw(-ary))
    base = types.ModuleType("arviz_stats.base")
    base.array_stats = array_stats  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "arviz_stats", types.ModuleType("arviz_stats"))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", base)
    assert np.allclose(pareto_k(w), before, rtol=1e-12)
    monkeypatch.setitem(sys.modules, "arviz", None)  # and ArviZ 0.x is not asked
    assert np.allclose(pareto_k(w), before, rtol=1e-12)


def test_arviz_is_imported_only_when_used_and_says_nothing():
    code = (
        "import sys, warnings; warnings.simplefilter('error', FutureWarning)\n"
        "import numpy as np, ppvae.diagnostics\n"
        "assert 'arviz' not in sys.modules and 'arviz_stats' not in sys.modules\n"
        "ppvae.diagnostics.pareto_k(np.random.default_rng(0).normal(size=(2, 100)))\n"
        "assert 'arviz' in sys.modules or 'arviz_stats' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def autoregressive(C, S, rho, seed=0, d=2):
    """Chains of AR(1) draws with variance 1: the error of the mean of all is known."""
    g = np.random.default_rng(seed)
    z = np.empty((C, S, d))
    z[:, 0] = g.normal(size=(C, d))
    for t in range(1, S):
        z[:, t] = rho * z[:, t - 1] + math.sqrt(1 - rho**2) * g.normal(size=(C, d))
    variance = ((1 + rho) / (1 - rho) - 2 * rho * (1 - rho**S) / (S * (1 - rho) ** 2)) / (C * S)
    return z, math.sqrt(variance)


@pytest.mark.parametrize("rho", [0.0, 0.6, -0.8])
def test_the_error_of_the_mean_of_many_short_chains(rho):
    """Antithetic chains too, for which ArviZ's error is too small."""
    z, error = autoregressive(500, 20, rho)
    found = convergence({"z": z})
    assert found.error == pytest.approx(error, rel=0.1)  # sd of a standard deviation of 500 chains: 3 %
    assert found.ess == pytest.approx(1 / error**2, rel=0.2)
    assert found.names == ["z[0]", "z[1]"]


@pytest.mark.parametrize("C", [1, 4])
def test_the_error_of_the_mean_of_few_chains(C):
    z, error = autoregressive(C, 4000, 0.5, d=8)
    found = convergence({"z": z})
    assert found.error == pytest.approx(error, rel=0.15)
    assert found.r_hat.max() < 1.01 and found.mixed and found.moved == pytest.approx(1, abs=0.1)
    assert str(found).startswith(f"{C} chain") and "No sign" in str(found)


def test_chains_that_have_not_mixed_are_called_so():
    z, _ = autoregressive(20, 200, 0.3)
    apart = z + 2 * np.arange(20)[:, None, None]
    found = convergence({"z": apart})
    worst = int(found.r_hat.argmax())
    assert f"R-hat is above 1.01 at 2 of 2 coordinates, {found.r_hat[worst]:.3f} at z[{worst}]" in str(found)
    assert not found.mixed
    assert found.moved < 0.3
    slow, _ = autoregressive(50, 100, 0.9999)
    assert "still depend on where the chains began" in str(convergence({"z": slow}))
    stuck = z.copy()
    stuck[3] = stuck[3, :1]
    assert "1 of 20 chains never moved" in str(convergence({"z": stuck}))
    z[0, 0, 0] = np.nan
    assert "not finite" in str(convergence({"z": z}))
    assert "R-hat needs 4 draws" in str(convergence({"z": z[1:, :3]}))


def test_the_worst_coordinates_are_those_with_the_largest_r_hat():
    z, _ = autoregressive(20, 50, 0.2, d=6)
    z = z.reshape(20, 50, 2, 3)
    z[..., 1, 2] += np.arange(20)[:, None]
    z[..., 0, 1] += np.arange(20)[:, None] / 2
    data = worst_coordinates({"z": z}, n=2, max_chains=4)
    assert list(data.posterior.data_vars) == ["z[0,1]", "z[1,2]"]
    assert data.posterior.chain.values.tolist() == [0, 6, 13, 19]
    assert np.allclose(data.posterior["z[1,2]"], z[[0, 6, 13, 19], :, 1, 2])


def test_an_r_hat_just_above_its_limit_has_three_decimals():
    found = convergence({"z": autoregressive(4, 400, 0.3, d=1)[0]})
    above = dataclasses.replace(found, r_hat=np.array([1.0121]))
    assert above.problems == ["R-hat is above 1.01 at 1 of 1 coordinates, 1.012 at z[0]"]


def test_draws_that_are_no_draws_are_refused():
    z = rng.normal(size=(3, 8, 2))
    for function in (to_inference_data, convergence, worst_coordinates):
        for bad, message in (
            (np.ma.masked_less(z, 0), r"chains\['z'\]: expected an array without a mask"),
            (z + 1j, r"chains\['z'\]: expected real numbers, got complex128"),
            (z.astype(object), r"chains\['z'\]: expected numbers, got ndarray of dtype object"),
            (
                z[0, :, 0],
                r"expected arrays \(chains, draws, \.\.\.\) of one number .*of a single chain take draws\[None\]",
            ),
            (z[:, :0], r"expected arrays \(chains, draws, \.\.\.\) of one number"),
        ):
            with pytest.raises(ValueError, match=message):
                function({"z": bad})
        with pytest.raises(ValueError, match=r"of one number of chains and draws, got none"):
            function({})
    with pytest.raises(ValueError, match=r"sample_stats\['lp'\]: expected an array without a mask"):
        to_inference_data({"z": z}, sample_stats={"lp": np.ma.masked_less(z[..., 0], 0)})
    with pytest.raises(ValueError, match="log_likelihood: expected arrays of the 3 chains"):
        to_inference_data({"z": z}, log_likelihood={"x": z[:2]})
    with pytest.raises(ValueError, match="max_chains: expected an integer of at least 1, got 0"):
        to_inference_data({"z": z}, max_chains=0)
    with pytest.raises(ValueError, match="n: expected an integer of at least 1, got 0"):
        worst_coordinates({"z": z}, n=0)


def test_divergences_and_acceptance_are_told():
    z, _ = autoregressive(4, 2000, 0.0)
    data = to_inference_data(
        {"z": z},
        sample_stats={"diverging": np.arange(8000).reshape(4, 2000) == 17, "acceptance_rate": np.full((4, 2000), 0.9)},
    )
    found = convergence(data)
    assert found.divergences.tolist() == [1, 0, 0, 0] and "1 of 8000 transitions diverged, in 1 of 4 chains" in str(
        found
    )
    assert "acceptance 0.90; 1 divergence." in str(found) and not found.mixed


def gaussian(q):
    return (q["z"] ** 2).sum(-1) / 2


def batched(cls, **options):
    from ppvae.infer import BatchedHMC

    mcmc = cls(
        BatchedHMC(potential_fn=gaussian, seed=0, **options), 40, 30, {"z": torch.zeros(6, 3)}, disable_progbar=True
    )
    mcmc.run()
    return mcmc


def test_the_chains_of_the_batched_kernel():
    from pyro.infer import MCMC

    from ppvae.infer import BatchedMCMC

    data = ppvae.to_inference_data(batched(BatchedMCMC))
    assert data.posterior["z"].shape == (6, 40, 3)
    assert set(data.sample_stats.data_vars) == {"acceptance_rate", "step_size", "energy", "lp", "diverging"}
    assert np.allclose(data.sample_stats["lp"], -(data.posterior["z"] ** 2).sum("z_dim_0") / 2)
    assert (data.sample_stats["energy"] >= -data.sample_stats["lp"]).all()
    through_pyro = ppvae.to_inference_data(batched(MCMC))
    assert np.array_equal(through_pyro.posterior["z"], data.posterior["z"])
    few = ppvae.to_inference_data(batched(BatchedMCMC), max_chains=3)
    assert few.posterior.chain.values.tolist() == [0, 2, 5]
    assert np.array_equal(few.posterior["z"][1], data.posterior["z"][2])
    assert ppvae.to_inference_data(data) is data


def test_a_batched_kernel_in_several_chains_of_pyro_is_refused():
    from pyro.infer import MCMC

    from ppvae.infer import BatchedHMC

    kernel = BatchedHMC(potential_fn=gaussian, seed=0)
    with pytest.warns(UserWarning, match="available_cpu"):
        mcmc = MCMC(kernel, 5, 5, {"z": torch.zeros(99, 6, 3)}, num_chains=99, disable_progbar=True)
    mcmc.sampler.num_chains = mcmc.num_chains = 2
    mcmc.run()
    with pytest.raises(ValueError, match="expected num_chains=1"):
        ppvae.to_inference_data(mcmc)


def test_the_chains_of_pyros_own_kernels():
    from pyro.infer import HMC, MCMC

    kernel = HMC(potential_fn=gaussian, step_size=0.5, num_steps=3)
    mcmc = MCMC(kernel, 30, 10, {"z": torch.zeros(3)}, disable_progbar=True)
    mcmc.run()
    data = ppvae.to_inference_data(mcmc)
    assert data.posterior["z"].shape == (1, 30, 3) and not data.sample_stats["diverging"].any()
    assert np.allclose(data.sample_stats["step_size"], kernel.step_size)
    rate = mcmc.diagnostics()["acceptance rate"]["chain 0"]
    assert convergence(data).acceptance == convergence(mcmc).acceptance == pytest.approx(rate)


def test_divergences_belong_to_their_chains_when_there_are_more_than_ten():
    """Sorted as words, chain 10 comes before chain 2."""

    class Chains:
        kernel = None

        def get_samples(self, group_by_chain):
            return {"z": torch.arange(24.0).reshape(12, 2)}

        def diagnostics(self):
            return {"divergences": {f"chain {i}": [0] if i == 10 else [] for i in range(12)}}

    assert to_inference_data(Chains()).sample_stats["diverging"].values.any(1).nonzero()[0].tolist() == [10]


def test_chains_that_are_none():
    from ppvae.samplers import Samples

    z = np.zeros((3, 2))
    with pytest.raises(ValueError, match="got independent draws, which need no diagnosis"):
        to_inference_data(Samples(z, z))
    with pytest.raises(ValueError, match=r"got list; of an array z take {'z': z}"):
        to_inference_data([1, 2])
    with pytest.raises(ValueError, match=r"one number of chains and draws, got {'a': \(2, 3\), 'b': \(2, 4\)}"):
        to_inference_data({"a": np.zeros((2, 3)), "b": np.zeros((2, 4))})


def test_the_1_x_line_is_given_its_groups_in_one_dict(monkeypatch):
    import arviz

    said = {}

    def from_dict(groups, **given):
        said.update(groups)
        return arviz_0.from_dict(**groups, **given)

    arviz_0 = types.SimpleNamespace(from_dict=arviz.from_dict)
    if int(arviz.__version__.split(".")[0]) >= 1:
        pytest.skip("the real 1.x line is in the other tests")
    monkeypatch.setattr(arviz, "__version__", "1.3.0")
    monkeypatch.setattr(arviz, "from_dict", from_dict)
    z = rng.normal(size=(2, 10, 3))
    data = to_inference_data({"z": z}, sample_stats={"lp": z[..., 0]}, dims={"z": ["k"]}, log_likelihood={"x": z})
    assert set(said) == {"posterior", "sample_stats", "log_likelihood"}
    assert data.posterior["z"].dims == ("chain", "draw", "k")
