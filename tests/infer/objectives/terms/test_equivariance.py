"""Equivariance and continuity as terms of the objective, on encoders of which they are known."""

import pyro
import pytest
import torch
from ppvae.models import SO3VAE

import ppvae
from ppvae.data.render import cube, render
from ppvae.distributions import SO3Normal, SO3Uniform
from ppvae.infer import Capacity_ELBO, Continuity, Equivariance, Regularized
from ppvae.manifolds import so3
from ppvae.nn import NormalLikelihood, RandomTurn
from ppvae.random import seeded


def pair(encode):
    """Data are rotations, (n, 3, 3); the guide's centre is ``encode``."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", SO3Uniform())

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", SO3Normal(encode(x), torch.full((3,), 0.1)))

    return model, guide


def move(x):
    g = SO3Uniform().sample((x.shape[0],))
    return so3.compose(g, x), g


with seeded(0):
    X = SO3Uniform().sample((64,))


def test_equivariance_is_zero_for_equivariant_encoders_alone():
    torch.manual_seed(0)
    c = SO3Uniform().sample()
    assert Equivariance(move)(*pair(lambda x: so3.compose(x, c)), X) < 1e-8
    torch.manual_seed(1)
    _, g = move(X)
    torch.manual_seed(1)
    value = Equivariance(move)(*pair(lambda x: so3.compose(c, x)), X)
    difference = so3.compose(g, so3.compose(c, X)) - so3.compose(c, so3.compose(g, X))
    assert value.item() == pytest.approx(difference.square().sum().item(), rel=1e-4)
    # Squared entries are 8 sin^2(t / 2).
    angle = so3.angle(so3.compose(so3.compose(g, so3.compose(c, X)).mT, so3.compose(c, so3.compose(g, X))))
    assert value.item() == pytest.approx((8 * (angle / 2).sin() ** 2).sum().item(), rel=1e-4)


def test_continuity_is_the_squared_step():
    step = so3.exp(torch.tensor([0.0, 0.2, 0.0]))
    value = Continuity(lambda x: so3.compose(x, step))(*pair(lambda x: x), X)
    assert value.item() == pytest.approx(64 * 8 * torch.sin(torch.tensor(0.1)).item() ** 2, rel=1e-4)
    assert Continuity(lambda x: so3.compose(x, step))(*pair(lambda x: torch.eye(3).expand_as(x)), X) == 0


def test_a_site_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"one of \['data', 'z'\]|one of \['z'\]"):
        Continuity(lambda x: x, site="y")(*pair(lambda x: x), X)


def test_random_turn_moves_image_and_object_alike():
    torch.manual_seed(0)
    r = SO3Uniform().sample((6,))
    x = render(cube(), r, 32)
    turned, g = RandomTurn()(x)
    assert (turned - render(cube(), so3.compose(g, r), 32)).abs().mean() < 0.015
    assert (turned - render(cube(), so3.compose(g.mT, r), 32)).abs().mean() > 0.05


def test_terms_fall_in_training_and_combine():
    torch.manual_seed(0)
    x = render(cube(), X, 8)
    vae = SO3VAE((3, 8, 8), 1, 4, (32,), likelihood=NormalLikelihood(0.2))
    objective = Regularized(
        Capacity_ELBO(5.0, gamma=1.0),
        equivariance=Equivariance(RandomTurn(), weight=30.0),
        continuity=Continuity(lambda x: x + 0.02 * torch.randn_like(x), weight=10.0),
    )
    fit = ppvae.fit(vae, x, epochs=40, batch_size=64, objective=objective, lr=1e-2, seed=0, progress=False)
    errors = fit.history["equivariance"]
    assert sum(errors[-5:]) < 0.6 * sum(errors[:5])  # without the term it stays
    assert "continuity" in fit.history
    for parameter in vae.encoder.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_gradients_reach_both_sides():
    a, b = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    still = [True]

    def encode(x):
        still[0] = not still[0]
        return so3.compose(so3.exp(torch.stack([0 * a, 0 * a, b if still[0] else a])), x)

    Equivariance(move)(*pair(encode), X).backward()
    assert a.grad.abs() > 1e-3 and b.grad.abs() > 1e-3
