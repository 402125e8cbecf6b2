import warnings

import numpy as np
import pyro
import pytest
import torch
from ppvae.models import GaussianVAE
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ppvae
from ppvae.infer import ELBO
from ppvae.inputs import check_support, to_tensors
from ppvae.isolation import isolated_param_store
from ppvae.nn import ContinuousBernoulliLikelihood, NormalLikelihood, PoissonLikelihood
from ppvae.random import seeded
from ppvae.transforms import DynamicBinarization, Scale
from ppvae.vae import device_and_dtype, evaluating

SHAPE = (1, 4, 4)
BINARY = (np.random.default_rng(0).random((20, *SHAPE)) > 0.5).astype(np.float32)
GREY = np.random.default_rng(1).random((20, *SHAPE), dtype=np.float32)


def vae(shape=SHAPE, **options):
    torch.manual_seed(0)
    return GaussianVAE(shape, 2, (8,), **options)


def fit(x, model=None, **options):
    return ppvae.fit(model or vae(), x, **({"epochs": 1, "progress": False} | options))


SHAPES = {
    "channel missing": (
        BINARY[:, 0],
        r"expected shape \(n, 1, 4, 4\), got \(20, 4, 4\); add the channel with x\[:, None\]",
    ),
    "one datum": (BINARY[0], r"got \(1, 4, 4\); for one datum use x\[None\]"),
    "channels last": (BINARY.transpose(0, 2, 3, 1), r"got \(20, 4, 4, 1\); put the channels first with numpy.moveaxis"),
    "flattened": (BINARY.reshape(20, 16), r"got \(20, 16\); use x.reshape\(-1, 1, 4, 4\)"),
    "other size": (BINARY[..., :3], r"got \(20, 1, 4, 3\); the VAE was built for another shape"),
    "a number": (np.array(1.0), r"got \(\)"),
    "no data": (BINARY[:0], r"expected at least one datum, got none, shape \(0, 1, 4, 4\)"),
    "list of data": (list(BINARY), r"put a list of data together with numpy.stack"),
    "empty list": ([], "got an empty list"),
    "two arrays of unequal length": (
        (BINARY, BINARY[:3]),
        r"given\[0\]: expected 20 rows as in x, got shape \(3, 1, 4, 4\)",
    ),
}
TYPES = {
    "text": (np.full((20, *SHAPE), "a"), "expected numbers, got an array of dtype <U1"),
    "objects": (BINARY.astype(object), "expected numbers, got an array of dtype object"),
    "complex array": (BINARY.astype(complex), "expected numbers, got an array of dtype complex128"),
    "complex tensor": (torch.as_tensor(BINARY).to(torch.complex64), "expected real numbers, got torch.complex64"),
    "nested lists": (
        BINARY.tolist(),
        "expected a numpy array or a torch tensor, got list; convert it with numpy.asarray",
    ),
    "text itself": ("mnist", "expected a numpy array or a torch tensor, got str"),
    "None": (None, "expected a numpy array or a torch tensor, got NoneType"),
    "masked": (np.ma.masked_array(BINARY, BINARY > 0), "expected an array without a mask"),
    "sparse": (
        torch.as_tensor(BINARY).to_sparse(),
        r"expected a dense tensor, got layout torch.sparse_coo; .*to_dense\(\)",
    ),
}
VALUES = {
    "grey": (
        GREY,
        r"Bernoulli likelihood \(0 or 1\), got values from .* to .*, first in row 0. Binarise grey values .*DynamicBin",
    ),
    "bytes": ((GREY * 255).astype(np.uint8), r"got values from \d to 25\d.*scale\(x, 255\).* Then binarise"),
    "16 greys": ((GREY * 16).round(), r"to 16, first in row 0. Divide .*scale\(x, 16\)"),
    "standardised": (GREY - 0.5, r"Map them to \[0, 1\]"),
    "NaN": (
        np.where(np.arange(20).reshape(20, 1, 1, 1) == 7, np.nan, BINARY),
        "got 16 NaN or infinite.*first in row 7. Remove",
    ),
    "minus one": (2 * BINARY - 1, "from -1 to 1"),
}


@pytest.mark.parametrize(
    ("x", "words"), [*SHAPES.values(), *TYPES.values(), *VALUES.values()], ids=[*SHAPES, *TYPES, *VALUES]
)
def test_bad_data_are_explained(x, words):
    model = vae()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=words):
        fit(x, model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(("x", "words"), [SHAPES["channels last"], TYPES["text"], VALUES["NaN"]])
def test_bad_validation_data_are_explained_alike(x, words):
    with pytest.raises(ValueError, match=words):
        fit(BINARY, validation=x)


@pytest.mark.parametrize("row", [0, 19])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("head", [NormalLikelihood, ContinuousBernoulliLikelihood, PoissonLikelihood])
def test_no_likelihood_takes_values_that_are_not_finite(head, bad, row):
    x = BINARY.copy()
    x[row, 0, 1, 1] = bad
    with pytest.raises(
        ValueError, match=f"got 1 NaN or infinite values, first in row {row}. Remove or impute these rows"
    ):
        fit(x, vae(likelihood=head()))


def test_the_supports_of_other_likelihoods_are_named():
    with pytest.raises(ValueError, match=r"ContinuousBernoulli likelihood \(\[0, 1\]\), got values from 0 to 2"):
        fit(2 * BINARY, vae(likelihood=ContinuousBernoulliLikelihood()))
    with pytest.raises(
        ValueError, match=r"Poisson likelihood \(counts 0, 1, 2, ...\).*Transform the data, or choose another"
    ):
        fit(GREY, vae(likelihood=PoissonLikelihood()))


def test_values_are_checked_through_every_path():
    labelled = TensorDataset(torch.as_tensor(BINARY), torch.arange(20))
    with pytest.raises(ValueError, match="Bernoulli likelihood"):
        fit(DataLoader(torch.as_tensor(GREY), batch_size=7))
    with pytest.raises(ValueError, match="Bernoulli likelihood"):
        fit(TensorDataset(torch.as_tensor(GREY)))
    with pytest.raises(ValueError, match=r"expected 0 arrays beside x, got 1; pass the data alone, without labels"):
        fit(DataLoader(labelled, batch_size=7))
    with pytest.raises(ValueError, match="Bernoulli likelihood"):
        ppvae.log_likelihood(vae(), GREY, num_samples=2)

    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="expected at least one batch from the DataLoader, got none"):
        fit(Nothing())


def test_grey_values_for_a_transform_must_be_in_its_domain():
    with pytest.raises(
        ValueError,
        match=r"DynamicBinarization expected values in \[0, 1\], got values from \d to 25\d.*scale\(x, 255\)",
    ):
        fit((GREY * 255).astype(np.uint8), transform=DynamicBinarization())
    with pytest.raises(ValueError, match=r"Scale expected values in \[0, 1\], got 20 NaN or infinite values"):
        fit(np.where(np.arange(4) < 1, np.where(np.arange(4)[:, None] < 1, np.nan, GREY), GREY), transform=Scale(1))
    with pytest.raises(ValueError, match="Bernoulli likelihood"):
        fit(GREY, transform=torch.square)  # a function without a domain: what it returns is checked
    with pytest.raises(ValueError, match=r"expected the shape \(20, 1, 4, 4\) to stay, got \(20, 16\)"):
        fit(GREY, transform=lambda x: x.flatten(1))


def test_a_model_without_the_observed_site_is_explained():
    class Blind(GaussianVAE):
        def model(self, x):
            import pyro

            with pyro.plate("data", x.shape[0]):
                pyro.sample("z", pyro.distributions.Normal(x.new_zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match="no observed site 'x'"):
        fit(BINARY, Blind(SHAPE, 2, (8,)))


def test_one_datum_and_batches_of_one():
    assert fit(BINARY[:1]).epochs == 1
    assert fit(BINARY, batch_size=1).epochs == 1
    assert np.isfinite(fit(BINARY, batch_size=19).history["loss"]).all()


def test_batch_normalisation_and_a_batch_of_one():
    def net():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))

    with pytest.raises(
        ValueError, match="20 data in batches of 19 leave a batch of one datum, on which BatchNorm cannot train"
    ):
        fit(BINARY, vae(encoder=net()), batch_size=19)
    with pytest.raises(ValueError, match="batches of 1 leave"):
        fit(BINARY, vae(encoder=net()), batch_size=1)
    model = vae(encoder=net())
    assert fit(BINARY, model, batch_size=18).epochs == 1
    assert ppvae.encode(model, BINARY[:1]).shape == (1, 2)


ARRAYS = {
    "float64": BINARY.astype(np.float64),
    "float16": BINARY.astype(np.float16),
    "uint8": BINARY.astype(np.uint8),
    "bool": BINARY.astype(bool),
    "int64": BINARY.astype(np.int64),
    "big-endian": BINARY.astype(">f4"),
    "read-only": np.broadcast_to(BINARY, BINARY.shape),
    "reversed twice": BINARY[::-1][::-1],
    "Fortran order": np.asfortranarray(BINARY),
    "tensor": torch.as_tensor(BINARY),
    "tensor with gradient": torch.as_tensor(BINARY).requires_grad_(),
}


@pytest.mark.parametrize("x", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_every_kind_mean_the_same(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tensor,) = to_tensors(vae(), x)
    assert tensor.dtype == torch.float32 and not tensor.requires_grad
    assert torch.equal(tensor, torch.as_tensor(BINARY))


def test_a_cast_is_said_once(capsys):
    ppvae.fit(vae(), BINARY.astype(np.float64), epochs=2, progress=True)
    assert capsys.readouterr().err.count("x is cast from torch.float64 to the model's torch.float32") == 1
    fit(DataLoader(torch.as_tensor(BINARY).double(), batch_size=5), progress=True)
    assert capsys.readouterr().err.count("is cast") == 1
    fit(BINARY, progress=True)
    assert "is cast" not in capsys.readouterr().err


def test_labels_keep_their_dtype():
    model = vae()
    del model.given  # a model that says nothing of what it is given: nothing is checked
    _, labels, floats = to_tensors(model, (BINARY, np.arange(20), np.ones((20, 3))))
    assert labels.dtype == torch.int64 and floats.dtype == torch.float32


def test_home_is_where_the_parameters_are():
    assert device_and_dtype(vae().double()) == (torch.device("cpu"), torch.float64)


def test_modes_store_and_generators_are_restored():
    import pyro

    model = vae(encoder=nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 4)))
    model.train()
    model.encoder.module[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training and not model.encoder.module[1].training
    state = torch.get_rng_state()
    with isolated_param_store(), seeded(3):
        pyro.param("a", torch.ones(1))
        torch.rand(3)
    assert "a" not in pyro.get_param_store()
    assert torch.equal(state, torch.get_rng_state())


def test_the_support_check_leaves_no_trace():
    model = vae()
    model.train()
    state = torch.get_rng_state()
    check_support(model, to_tensors(model, BINARY))
    assert torch.equal(state, torch.get_rng_state()) and model.training


ARGUMENTS = [
    ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
    ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
    ({"warmup": -1}, "warmup: expected a number of at least 0, got -1"),
    ({"warmup": float("nan")}, "warmup: expected a number of at least 0, got nan"),
    ({"patience": 0, "validation": BINARY}, "patience: expected a whole number of at least 1, got 0"),
    ({"patience": 3}, "patience: early stopping watches the validation loss; pass validation="),
    ({"lr": 0.0}, "lr: expected a positive number, got 0.0"),
    ({"lr": float("nan")}, "lr: expected a positive number, got nan"),
    ({"clip_norm": -1.0}, "clip_norm: expected a positive number, got -1.0"),
    ({"lr": 0.1, "optimizer": torch.optim.SGD}, "lr: 0.1 would not be used, since an optimizer is given"),
    ({"optimizer": pyro.optim.Adam({"lr": 0.1})}, "expected a function from the parameters to a torch optimizer"),
    ({"optimizer": torch.optim.Adam([torch.zeros(1)])}, "expected a function from the parameters .* got Adam"),
    ({"optimizer": list}, "optimizer: expected it to make a torch optimizer, got list from it"),
    ({"objective": pyro.infer.Trace_ELBO()}, "objective: expected an object of ppvae.infer such as ELBO"),
    ({"objective": ELBO}, "objective: expected an object of ppvae.infer such as ELBO"),
    ({"optimizer": torch.optim.LBFGS}, "optimizer: LBFGS evaluates the loss several times in a step"),
    ({"epochs": 2.0}, "epochs: expected a whole number of at least 1, got 2.0"),
    ({"batch_size": True}, "batch_size: expected a whole number of at least 1, got True"),
    ({"seed": 0.5}, "seed: expected a whole number"),
    ({"resume": True}, "resume: name the file to continue from: checkpoint="),
]


@pytest.mark.parametrize(("options", "words"), ARGUMENTS)
def test_arguments_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        fit(BINARY, **options)


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="num_workers"):
        fit(BINARY, num_workers=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device: torch finds no CUDA device here, got 'cuda:1'; choose 'cpu'"):
        fit(BINARY, device="cuda:1")


def test_numbers_of_numpy_are_those_of_python(tmp_path):
    """In a checkpoint too."""
    plain = {"batch_size": 8, "epochs": 2, "patience": 1, "seed": 3, "warmup": 0.5, "lr": 0.25, "clip_norm": 2.0}
    kinds = {int: np.int16, float: np.float32}
    numpy = {name: kinds[type(value)](value) for name, value in plain.items()}
    losses = []
    for options in (plain, numpy):
        torch.manual_seed(0)
        losses.append(fit(BINARY, vae(), validation=BINARY, checkpoint=tmp_path / f"{len(losses)}", **options).history)
    assert losses[0]["loss"] == losses[1]["loss"]
    options = {**plain, "epochs": 3, "resume": True, "validation": BINARY}
    assert fit(BINARY, vae(), checkpoint=tmp_path / "1", **options).epochs >= 2


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_needs_gradients_and_has_them(context):
    torch.manual_seed(0)
    plain = fit(BINARY, vae()).history["loss"]
    torch.manual_seed(0)
    model = vae()
    with context():
        assert fit(BINARY, model).history["loss"] == plain
    assert not any(p.is_inference() for p in model.parameters())


@pytest.mark.parametrize("model", ["gaussian-vae", GaussianVAE, nn.Linear(2, 2)])
def test_what_is_no_vae_is_refused(model):
    with pytest.raises(ValueError, match="vae: expected a torch module with model, guide and shape, got"):
        ppvae.fit(model, BINARY)
    for ask in (ppvae.encode, ppvae.reconstruct, ppvae.log_likelihood):
        with pytest.raises(ValueError, match="vae: expected a torch module with model, guide and shape, got"):
            ask(model, BINARY)
    with pytest.raises(ValueError, match="vae: expected a torch module with model, guide and shape, got"):
        ppvae.generate(model, 3)


def test_codes_of_values_that_are_not_finite_are_refused():
    x = np.where(np.arange(20).reshape(20, 1, 1, 1) == 7, np.nan, BINARY)
    for ask in (ppvae.encode, ppvae.reconstruct):
        with pytest.raises(ValueError, match=r"x: expected finite numbers, got 16 NaN.*first in row 7"):
            ask(vae(), x)


def test_an_unknown_option_is_met_with_the_nearest():
    with pytest.raises(TypeError, match=r"hiden.*did you mean 'hidden'"):
        GaussianVAE(SHAPE, hiden=(8,))
    with pytest.raises(ValueError, match=r"gausian-vae.*did you mean 'gaussian-vae'"):
        ppvae.models.find("gausian-vae")
    with pytest.raises(AttributeError, match="did you mean 'encode'"):
        ppvae.encod  # noqa: B018
