"""The table of objectives."""

import subprocess
import sys

import pyro
import pytest
import torch
from ppvae.models import GaussianVAE

from ppvae.infer import ELBO, InfoVAE_ELBO, Regularized, TensorELBO, TotalCorrelation_ELBO, objectives


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_table(name):
    cls = objectives.find(name)
    assert issubclass(cls, TensorELBO) and isinstance(cls(), TensorELBO)


def test_the_table_is_read_without_torch():
    code = "import sys; from ppvae.infer.objectives import OBJECTIVES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_unknown_objective_has_a_near_name():
    with pytest.raises(ValueError, match="no objective is named 'inf'; did you mean 'info'"):
        objectives.find("inf")


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_a_batch_of_the_fewest_data_has_a_loss_and_one_less_has_none(name):
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    kind = objectives.find(name)
    objective = InfoVAE_ELBO(lambda_=2.0) if kind is InfoVAE_ELBO else kind()
    assert objective.min_batch == (2 if name in ("info", "total-correlation") else 1)
    x = torch.zeros(objective.min_batch, 1, 4, 4)
    assert objective.loss(vae.model, vae.guide, x).isfinite() and objective.max_batch is None
    if objective.min_batch > 1:
        with pytest.raises(ValueError, match="batch of"):
            objective.loss(vae.model, vae.guide, x[1:])


def test_the_most_data_of_a_batch():
    vae, objective = GaussianVAE((1, 4, 4), 2, (8,)), TotalCorrelation_ELBO(num_data=3)
    assert objective.max_batch == 3
    assert objective.loss(vae.model, vae.guide, torch.zeros(3, 1, 4, 4)).isfinite()
    with pytest.raises(ValueError, match="at most num_data = 3 data, got one of 4"):
        objective.loss(vae.model, vae.guide, torch.zeros(4, 1, 4, 4))


class Zero:
    weight = 1.0

    def __call__(self, model, guide, *batch):
        return torch.zeros(())


def test_limits_without_a_divergence_and_with_penalties():
    assert InfoVAE_ELBO().min_batch == InfoVAE_ELBO({}, 0.5, 2.0).min_batch == 1
    limits = Regularized(TotalCorrelation_ELBO(num_data=7), zero=Zero())
    assert (limits.min_batch, limits.max_batch) == (2, 7)
    assert (TensorELBO.min_batch, ELBO().max_batch) == (1, None)
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    with pyro.validation_enabled(True):
        assert InfoVAE_ELBO({}, 0.5, 2.0).loss(vae.model, vae.guide, torch.zeros(1, 1, 4, 4)).isfinite()
