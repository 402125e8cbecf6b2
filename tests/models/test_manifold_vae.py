"""The manifold-latent VAE against exact evidence: a linear decoder on the circle, where log p(x) is an integral
over a line.
"""

import math

import pyro
import pytest
import torch
from ppvae.models import ManifoldVAE, WassersteinEmbedding
from pyro.infer import TraceEnum_ELBO
from torch import nn

import ppvae
from ppvae.infer import EnumeratedELBO
from ppvae.nn import (
    CircleEmbedding,
    FlatTorusEmbedding,
    MoebiusEmbedding,
    NormalLikelihood,
    RotatePlanes,
    RotateSpace,
    SphereEmbedding,
    TorusEmbedding,
    UnrolledCircleHead,
)

SCALE = 0.3
A = torch.tensor([[1.0, 0.2], [-0.4, 1.1], [0.5, 0.5]])
ANGLE = 2 * math.pi * (torch.arange(16) + 0.5) / 16
X = torch.stack([ANGLE.cos(), ANGLE.sin()], -1) @ A.T + SCALE * torch.randn(
    16, 3, generator=torch.Generator().manual_seed(0)
)
VARIANTS = {
    "Beta": {},
    "group action": {"action": RotatePlanes()},
    "seamless": {"head": UnrolledCircleHead(1)},
    "atlas": {"cells": (4,)},
}


def linear(**options):
    decoder = nn.Linear(2, 3, bias=False)
    decoder.weight.data.copy_(A)
    decoder.requires_grad_(False)
    return ManifoldVAE((3,), hidden=(16,), decoder=decoder, likelihood=NormalLikelihood(SCALE), **options)


def evidence(x, n=20_000):
    z = CircleEmbedding()(((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None])
    square = torch.cdist(x.double(), z @ A.double().T).square()
    log_p = -square / (2 * SCALE**2) - 3 * math.log(SCALE * math.sqrt(2 * math.pi))
    return torch.logsumexp(log_p, -1) - math.log(n)


def trained(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = linear(**VARIANTS[name])
    objective = EnumeratedELBO() if name == "atlas" else None
    ppvae.fit(vae, X.repeat(8, 1), epochs=60, batch_size=64, lr=1e-2, objective=objective, seed=0, progress=False)
    return vae


@pytest.mark.parametrize("name", VARIANTS)
def test_elbo_below_iwae_below_the_evidence_which_it_meets(name):
    ll = ppvae.log_likelihood(trained(name), X, num_samples=5000, seed=0)
    exact = evidence(X).numpy()
    elbo = ll.log_weights.mean(1)
    error = (ll.log_weights.var(1) / 5000) ** 0.5
    assert (elbo < exact + 3 * error).all()
    assert (ll.values < exact + 4 * ll.error + 1e-5).all()
    assert abs(ll.values.mean() - exact.mean()) < 0.05


def test_a_beta_cannot_straddle_the_seam_and_the_others_can():
    """At z = 0 = 1 the posterior is symmetric about the seam: a Beta covers one side, and its bound lacks about log
    2.
    """
    x = A[:, 0].expand(16, 3).contiguous()  # f(0) = (1, 0)
    gap = {}
    for name in VARIANTS:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            vae = linear(**VARIANTS[name])
        objective = EnumeratedELBO() if name == "atlas" else None
        ppvae.fit(vae, x.repeat(8, 1), epochs=100, batch_size=64, lr=2e-2, objective=objective, seed=0, progress=False)
        ll = ppvae.log_likelihood(vae, x[:1], num_samples=4000, seed=0)
        gap[name] = float(evidence(x[:1])) - float(ll.log_weights.mean())
    assert gap["Beta"] > 0.5
    assert gap["seamless"] < 0.05 and gap["group action"] < 0.05
    assert gap["atlas"] < gap["Beta"] - 0.3


def test_the_atlas_bound_is_that_of_pyro():
    vae = linear(cells=(3,))
    pyros = TraceEnum_ELBO(50, vectorize_particles=True, max_plate_nesting=1)
    with pyro.get_param_store().scope(), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        values = [
            [float(elbo.loss(vae.model, vae.guide, X)) for _ in range(40)] for elbo in (EnumeratedELBO(50), pyros)
        ]
    (ours, theirs), (v, w) = torch.tensor(values).mean(1), torch.tensor(values).var(1) / 40
    assert abs(ours - theirs) < 4 * (v + w).sqrt() and (v + w).sqrt() < 1


def test_an_atlas_of_the_torus_meets_the_exact_evidence_where_a_chart_does_not():
    """A datum at the corner of the box, where all four charts of the torus meet: the evidence is a double integral."""
    scale, f = 0.3, FlatTorusEmbedding(2)
    side = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    x = f(torch.zeros(1, 2))
    square = (f(torch.cartesian_prod(side, side)) - x.double()).square().sum(-1)
    log_p = -square / (2 * scale**2) - 4 * math.log(scale * math.sqrt(2 * math.pi))
    exact = float(log_p.logsumexp(0)) - math.log(400**2)
    gap = {}
    for cells in (None, (2, 2)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = ManifoldVAE((4,), f, (16,), decoder=nn.Identity(), likelihood=NormalLikelihood(scale), cells=cells)
        objective = EnumeratedELBO() if cells else None
        ppvae.fit(vae, x.repeat(64, 1), objective=objective, epochs=100, lr=3e-2, seed=0, progress=False)
        ll = ppvae.log_likelihood(vae, x, num_samples=4000, seed=0)
        assert float(ll.values[0]) < exact + 4 * float(ll.error[0]) + 1e-3
        gap[cells] = exact - float(ll.log_weights.mean())
    assert gap[None] > 2 * 0.5  # a Beta covers one side of each of the two seams
    assert gap[2, 2] < 0.1


def test_the_code_knows_the_group_element():
    """Decoding z_hid alone would turn it by the element of a datum of zeros: off by 0.04 in the mean."""
    vae = ManifoldVAE((3,), hidden=(8,), likelihood=NormalLikelihood(0.5), action=RotatePlanes())
    state = torch.get_rng_state()
    z = ppvae.encode(vae, X)
    torch.testing.assert_close(ppvae.decode(vae, z), ppvae.reconstruct(vae, X))
    assert torch.equal(state, torch.get_rng_state())
    blank = ppvae.decode(vae, ppvae.encode(vae, torch.zeros_like(X)))
    assert (blank - ppvae.reconstruct(vae, X)).abs().max() > 1e-3


def test_an_atlas_works_with_every_prediction():
    vae = ManifoldVAE((3,), SphereEmbedding(), (8,), likelihood=NormalLikelihood(0.5), cells=(2, 3))
    ppvae.fit(vae, X, objective=EnumeratedELBO(), epochs=2, progress=False)
    assert ppvae.generate(vae, 5, seed=0).shape == (5, 3)
    z = ppvae.encode(vae, X)
    torch.testing.assert_close(z, vae.latent(X))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(16))
    torch.testing.assert_close(ppvae.decode(vae, z), ppvae.reconstruct(vae, X))
    with pytest.raises(ValueError, match="cells: expected 2 numbers"):
        ManifoldVAE((3,), SphereEmbedding(), cells=(2,))


def test_the_group_must_leave_the_prior_as_it_is():
    with pytest.raises(ValueError, match="log density changes by up to"):
        ManifoldVAE((3,), TorusEmbedding(), action=RotateSpace())
    with pytest.raises(ValueError, match=r"a group on R\^3, where f\(z_hid\) lies, got one on R\^2"):
        ManifoldVAE((3,), SphereEmbedding(), action=RotatePlanes())
    ManifoldVAE((3,), TorusEmbedding(), action=RotateSpace(), tolerance=math.inf)


def test_without_invariance_the_likelihood_would_be_wrong():
    """What the check guards: on a third of the circle, a(x) turns the prior to where the datum is."""

    class Third(nn.Module):
        dim, ambient = 1, 2

        def forward(self, z):
            return CircleEmbedding()(z / 3)

    with pytest.raises(ValueError, match="manifold is left"):
        linear(embedding=Third(), action=RotatePlanes())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = linear(embedding=Third(), action=RotatePlanes(), tolerance=math.inf)
    ppvae.fit(vae, X.repeat(8, 1), epochs=60, batch_size=64, lr=1e-2, seed=0, progress=False)
    ll = ppvae.log_likelihood(vae, X, num_samples=1000, seed=0)
    assert ll.mean > float(evidence(X).mean()) + 0.8  # log 3 = 1.1 too much


def test_points_of_the_latent_lie_on_the_manifold():
    for options in ({}, {"action": RotatePlanes()}):
        z = ManifoldVAE((3,), hidden=(8,), likelihood=NormalLikelihood(), **options).latent(X)
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(16))


def test_save_and_load(tmp_path):
    vae = ManifoldVAE((3,), MoebiusEmbedding(1.5), (8,), likelihood=NormalLikelihood(0.2), cells=(4, 1))
    ppvae.save(vae, tmp_path / "vae.safetensors")
    again = ppvae.load(tmp_path / "vae.safetensors")
    assert again.embedding.width == 1.5
    torch.testing.assert_close(again.latent(X), vae.latent(X))


def test_a_learned_embedding_is_frozen():
    f = WassersteinEmbedding(1, 2, (8,))
    vae = ManifoldVAE((3,), f, (8,), likelihood=NormalLikelihood())
    before = {name: p.clone() for name, p in f.named_parameters()}
    ppvae.fit(vae, X, epochs=3, lr=0.1, progress=False)
    assert all(torch.equal(p, before[name]) for name, p in vae.embedding.named_parameters())
