import subprocess
import sys
import types

import numpy as np
import pytest

from ppvae.diagnostics import pareto_k

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
    w[2, 0] = np.nan
    w[3] = -np.inf
    w[4, :50] = -np.inf  # half of the weights are 0: the tail is there
    w[5, 0] = 1e5  # one weight is all
    w[6, :40] = 9.0  # the largest are all equal
    k = pareto_k(w)
    assert np.isfinite(k[[0, 4]]).all()
    assert np.isnan(k[[1, 2, 3, 6]]).all()
    assert k[5] == np.inf


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
