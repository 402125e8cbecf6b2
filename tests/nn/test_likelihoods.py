import math

import numpy as np
import pytest
import scipy.stats
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from torch import nn

import ppvae
from ppvae.nn import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    NegativeBinomialLikelihood,
    NormalLikelihood,
    PoissonLikelihood,
)
from ppvae.testing import check_vae

rng = np.random.default_rng(0)
SIZES = np.linspace(0.5, 2, 16).astype(np.float32)


def draw(kind, shape):
    counts = rng.poisson(3, (16, *shape))
    return {
        "binary": rng.integers(0, 2, (16, *shape)),
        "grey": rng.random((16, *shape), dtype=np.float32),
        "real": rng.normal(size=(16, *shape)),
        "classes": rng.integers(0, 5, (16, *shape)),
        "counts": counts,
    }[kind]


#: name -> (head, kind of data, what is given)
HEADS = {
    "Bernoulli": (BernoulliLikelihood, "binary", ()),
    "continuous Bernoulli": (ContinuousBernoulliLikelihood, "grey", ()),
    "Normal": (NormalLikelihood, "real", ()),
    "Normal, learned": (lambda: NormalLikelihood(0.5, learned=True), "real", ()),
    "Categorical": (lambda: CategoricalLikelihood(5), "classes", ()),
    "Poisson": (PoissonLikelihood, "counts", ()),
    "Poisson, sizes": (lambda: PoissonLikelihood(size_factor=True), "counts", (SIZES,)),
    "negative binomial": (NegativeBinomialLikelihood, "counts", ()),
    "negative binomial, sizes": (lambda: NegativeBinomialLikelihood(size_factor=True), "counts", (SIZES,)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("model", [GaussianVAE, SphericalVAE], ids=lambda m: m.__name__)
@pytest.mark.parametrize("shape", [(6,), (2, 3, 3)], ids=["table", "image"])
def test_every_head_in_every_model_keeps_the_contract(head, model, shape):
    make, kind, given = head
    check_vae(lambda: model(shape, 3, (8,), likelihood=make()), draw(kind, shape), given=given)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_predictions_have_the_shape_and_support_of_the_data(head):
    make, kind, given = head
    vae = GaussianVAE((2, 3), 2, (8,), likelihood=make())
    x = draw(kind, (2, 3))
    given_5 = tuple(array[:5] for array in given)
    for sample in (False, True):
        for out, n in (
            (ppvae.generate(vae, 5, *given_5, sample=sample, seed=0), 5),
            (ppvae.reconstruct(vae, x, *given, sample=sample), 16),
        ):
            assert out.shape == (n, 2, 3) and np.isfinite(out).all()
            if kind == "classes":
                assert np.isin(out, range(5)).all()
            if kind == "counts":
                assert (out >= 0).all()
    assert np.isfinite(ppvae.log_likelihood(vae, x, *given, num_samples=3).values).all()


def test_class_probabilities_are_laid_out_as_the_decoder_says():
    """Decoder outputs of one class lie together: channel c of the datum's class k is output k * channels + c."""
    h = torch.randn(7, 3 * 2, 4, 5, dtype=torch.float64)
    law = CategoricalLikelihood(3)(h, 3)
    assert law.event_shape == (2, 4, 5) and law.batch_shape == (7,)
    x = torch.randint(0, 3, (7, 2, 4, 5))
    want = torch.zeros(7, dtype=torch.float64)
    log_p = h.reshape(7, 3, 2, 4, 5).log_softmax(1)
    for k in range(3):
        want += torch.where(x == k, log_p[:, k], 0).sum((1, 2, 3))
    assert torch.allclose(law.log_prob(x.double()), want)


def test_the_encoder_reads_one_hot_classes():
    x = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    read = CategoricalLikelihood(3).inputs(x, 1)
    assert read.tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0]]
    assert CategoricalLikelihood(3).inputs(x.expand(4, 5, 2, 2), 2).shape == (4, 5, 6, 2)


def test_classes_have_a_most_probable_one_in_place_of_a_mean():
    vae = GaussianVAE((2,), 1, (), likelihood=CategoricalLikelihood(3))
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.zero_()
        vae.decoder.module.layers[0].bias.copy_(torch.tensor([0.0, 1.0, 0.0, 5.0, 2.0, 0.0]))  # classes 2 and 1
    assert ppvae.generate(vae, 3).tolist() == [[2, 1]] * 3


@pytest.mark.parametrize("head", [PoissonLikelihood, NegativeBinomialLikelihood])
def test_the_mean_is_proportional_to_the_size_factor(head):
    torch.manual_seed(0)
    vae = GaussianVAE((4,), 2, (8,), likelihood=head(size_factor=True))
    one = ppvae.generate(vae, 6, np.ones(6), seed=0)
    three = ppvae.generate(vae, 6, 3 * np.ones(6), seed=0)
    assert np.allclose(three, 3 * one, rtol=1e-5)
    x = rng.poisson(3, (6, 4))
    many = ppvae.log_likelihood(vae, x, np.ones(6), num_samples=7, chunk=14).values
    assert many.shape == (6,)


def test_count_laws_against_scipy():
    h = torch.tensor([[0.3, -1.0, 1.2, 0.4]], dtype=torch.float64)
    x, s = torch.tensor([[2.0, 5.0]], dtype=torch.float64), torch.tensor([2.5], dtype=torch.float64)
    law = NegativeBinomialLikelihood(size_factor=True)(h, 1, s)
    mean, r = 2.5 * np.exp([0.3, -1.0]), np.exp([1.2, 0.4])
    assert float(law.log_prob(x)) == pytest.approx(
        scipy.stats.nbinom.logpmf([2, 5], r, r / (r + mean)).sum(), rel=1e-12
    )
    assert np.allclose(law.mean, mean) and np.allclose(law.variance, mean + mean**2 / r)
    law = PoissonLikelihood(size_factor=True)(h, 1, s)
    rate = 2.5 * np.exp(h[0].numpy())
    x = torch.tensor([[2.0, 5.0, 0.0, 1.0]], dtype=torch.float64)
    assert float(law.log_prob(x)) == pytest.approx(scipy.stats.poisson.logpmf(x[0].numpy(), rate).sum(), rel=1e-12)


def test_size_factors_of_particles_and_images():
    """A size factor belongs to the datum whatever stands to its left or right."""
    h, s = torch.zeros(5, 3, 2, 4, 4), torch.tensor([1.0, 2.0, 4.0])
    law = PoissonLikelihood(size_factor=True)(h, 3, s)
    assert law.batch_shape == (5, 3)
    assert torch.allclose(law.mean, s.reshape(1, 3, 1, 1, 1).expand(h.shape))


def test_the_encoder_of_counts_reads_logarithms():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 4)

    vae = GaussianVAE((3,), 2, (4,), encoder=Spy(), likelihood=PoissonLikelihood())
    x = np.array([[0, 1, 1000]])
    ppvae.encode(vae, x)
    assert np.allclose(seen[0], np.log1p(x))


@pytest.mark.parametrize("sizes", [np.zeros(16), -np.ones(16), np.full(16, np.nan), np.full(16, np.inf)])
def test_size_factors_out_of_range_are_refused(sizes):
    vae = GaussianVAE((4,), 2, (8,), likelihood=PoissonLikelihood(size_factor=True))
    with pytest.raises(ValueError, match=r"given\[0\]: expected numbers above 0.*first in row 0"):
        ppvae.fit(vae, (rng.poisson(3, (16, 4)), sizes), epochs=1, progress=False)


def test_given_arrays_of_a_wrong_number_or_shape_are_refused():
    x = rng.poisson(3, (16, 4))
    sized = GaussianVAE((4,), 2, (8,), likelihood=PoissonLikelihood(size_factor=True))
    with pytest.raises(ValueError, match=r"expected 1 arrays beside x, got 0; pass them after x"):
        ppvae.fit(sized, x, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"given\[0\]: expected shape \(n,\), got \(16, 1\)"):
        ppvae.fit(sized, (x, SIZES[:, None]), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"expected 0 arrays beside x, got 1; pass the data alone"):
        ppvae.fit(GaussianVAE((4,), 2, (8,)), (x % 2, np.arange(16)), epochs=1, progress=False)


def test_a_decoder_of_a_wrong_width_is_named():
    vae = GaussianVAE((4,), 2, (8,), decoder=nn.Linear(2, 7), likelihood=NegativeBinomialLikelihood())
    with pytest.raises(ValueError, match=r"Linear: expected an output of shape \(8,\) for each input .*, got \(7,\)"):
        ppvae.fit(vae, rng.poisson(3, (16, 4)), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"expected 2 decoder outputs for each number of the datum, got .*\(1, 7\)"):
        NegativeBinomialLikelihood()(torch.zeros(1, 7), 1)


def test_a_law_of_another_shape_than_the_datum_is_named():
    class Half(BernoulliLikelihood):
        def forward(self, h, event_dim):
            return super().forward(h[..., :2], event_dim)

    vae = GaussianVAE((4,), 2, (8,), likelihood=Half())
    with pytest.raises(ValueError, match=r"event shape \(4,\) of one datum, got \(2,\)"):
        ppvae.fit(vae, rng.integers(0, 2, (16, 4)), epochs=1, progress=False)


def test_options_out_of_range():
    with pytest.raises(ValueError, match="num_classes of at least 2, got 1"):
        CategoricalLikelihood(1)
    with pytest.raises(ValueError, match="scale > 0, got 0"):
        NormalLikelihood(0)


def test_one_class_of_many_is_learned():
    """Columns of a table that copy each other: the model finds it, and reconstructs the classes."""
    torch.manual_seed(0)
    c = rng.integers(0, 4, 200)
    x = np.stack([c, c, 3 - c], 1)
    vae = GaussianVAE((3,), 2, (32,), likelihood=CategoricalLikelihood(4))
    fit = ppvae.fit(vae, x, epochs=60, batch_size=50, lr=1e-2, seed=0, progress=False)
    assert (ppvae.reconstruct(vae, x) == x).mean() > 0.95
    assert fit.best["elbo"] > -3 * math.log(4) / 2
