"""Losses and steps are per datum whatever the scale of the plates: exact values of a pair whose terms are known."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppvae
from ppvae.infer import ELBO, Beta_ELBO, Capacity_ELBO, FreeBits_ELBO, InfoVAE_ELBO, Regularized
from ppvae.train import fitting
from ppvae.train.step import DeviceStep

X = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
LOC, SCALE = 0.7, 0.5
KL = 0.5 * (LOC**2 + SCALE**2 - 1) - math.log(SCALE)
LOG_P = -0.5 * (X.astype(np.float64) ** 2).sum(1) - math.log(2 * math.pi)


class Pair(nn.Module):
    """q(z) = N(loc, 1/4), p(z) = N(0, 1) and p(x) = N(mean, I), so that every term has a closed form.

    :param scaling: "none", "subsample" of a plate of 1000, "number" 0.1 on all sites, or "weights" |x_1| of the data.
    """

    shape = torch.Size([2])

    def __init__(self, scaling="none"):
        super().__init__()
        self.scaling, self.loc, self.mean = scaling, nn.Parameter(torch.tensor(LOC)), nn.Parameter(torch.zeros(2))

    def _plate(self, x):
        if self.scaling == "subsample":
            return pyro.plate("data", 1000, subsample=torch.arange(x.shape[0]))
        return pyro.plate("data", x.shape[0])

    def _scale(self, x):
        return poutine.scale(scale={"number": 0.1, "weights": x[:, 0].abs()}.get(self.scaling, 1.0))

    def model(self, x):
        with self._plate(x), self._scale(x):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            return pyro.sample("x", dist.Normal(self.mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with self._plate(x), self._scale(x):
            pyro.sample("z", dist.Normal(self.loc, SCALE))


SCALINGS = ["none", "subsample", "number", "weights"]


def average(scaling, values):
    """The mean over the data, by their weights."""
    w = np.abs(X[:, 0].astype(np.float64)) if scaling == "weights" else np.ones(len(X))
    return w @ values / w.sum()


def exact(scaling):
    """The reconstruction per datum."""
    return float(average(scaling, LOG_P))


def still(parameters):
    return torch.optim.SGD(parameters, 1e-30)


def fit(vae, **options):
    return ppvae.fit(vae, X, **{"epochs": 3, "seed": 0, "progress": False, "compile": False} | options)


@pytest.fixture(params=["eager", "device", "compiled", pytest.param("inductor", marks=pytest.mark.slow)])
def mode(request, monkeypatch):
    """How the step runs; "device" is the step of a device on a CPU, and "compiled" the trace itself."""
    if request.param == "compiled":
        monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)
    if request.param == "device":
        monkeypatch.setattr(
            fitting,
            "make_step",
            lambda mode, gradients, source, optimizer, clip_norm, totals, announce: DeviceStep(
                gradients, source, optimizer, clip_norm, totals
            ),
        )
    return False if request.param in ("eager", "device") else "inductor"


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_history_is_in_nats_per_datum(scaling, mode, capsys):
    # batches of 4, 4 and 2: the last counts by its size
    result = fit(Pair(scaling), validation=X, batch_size=4, optimizer=still, compile=mode)
    assert "eagerly" not in capsys.readouterr().err
    h = result.history
    for prefix in ("", "valid_"):
        assert h[f"{prefix}reconstruction"] == pytest.approx([exact(scaling)] * 3, rel=1e-5)
        # under weights, which are tensors, the KL is estimated by a draw
        kl = h[f"{prefix}kl"] if scaling == "weights" else [KL] * 3
        assert h[f"{prefix}kl"] == pytest.approx(kl, rel=1e-5)
        assert h[f"{prefix}loss"] == pytest.approx([k - exact(scaling) for k in kl], rel=1e-5)
        assert h[f"{prefix}elbo"] == pytest.approx([exact(scaling) - k for k in kl], rel=1e-5)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_step_follows_the_gradient_per_datum(scaling, mode):
    """d KL / d loc = loc and -d log p(x) / d mean = mean - x: after n steps of gradient descent loc has shrunk by (1 -
    lr)^n, and mean has come as near to the mean of the data."""
    vae = Pair(scaling)
    fit(vae, batch_size=10, optimizer=lambda p: torch.optim.SGD(p, 0.1), compile=mode)
    assert vae.mean.tolist() == pytest.approx(average(scaling, X.astype(np.float64)) * (1 - 0.9**3), rel=1e-5)
    if scaling != "weights":
        assert vae.loc.item() == pytest.approx(LOC * 0.9**3, rel=1e-5)


class Square:
    """A penalty of 3 for each row."""

    weight = 0.5

    def __call__(self, model, guide, *batch):
        return torch.full((), 3.0 * batch[0].shape[0])


OBJECTIVES = {
    "beta": (lambda: Beta_ELBO(2.0), lambda log_p: 2 * KL - log_p),
    "capacity": (lambda: Capacity_ELBO(0.1, 3.0), lambda log_p: 3 * (KL - 0.1) - log_p),
    "free bits": (lambda: FreeBits_ELBO(5.0), lambda log_p: 5 - log_p),
    "info": (lambda: InfoVAE_ELBO(lambda p, q: 0 * q.sum() + 4.0, 0.5, 1.5), lambda log_p: 0.5 * KL + 4 - log_p),
    "penalty": (lambda: Regularized(ELBO(), square=Square()), lambda log_p: KL + 1.5 - log_p),
}


@pytest.mark.parametrize("scaling", ["none", "subsample", "number"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_keeps_to_the_datum(objective, scaling):
    make, loss = OBJECTIVES[objective]
    result = fit(Pair(scaling), validation=X, batch_size=4, optimizer=still, objective=make(), epochs=1)
    for name in ("loss", "valid_loss"):
        assert result.history[name] == pytest.approx([loss(exact("none"))], rel=1e-5), name
    if objective == "penalty":
        assert result.history["square"] == pytest.approx([3.0])


def test_a_run_without_scales_is_bit_for_bit_that_of_one_scaled_by_one():
    plain, scaled = Pair(), Pair("number")
    scaled._scale = lambda x: poutine.scale(scale=1.0)
    one, two = (fit(vae, batch_size=4, validation=X).history for vae in (plain, scaled))
    assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in two.items() if k != "seconds"}
