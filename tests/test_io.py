import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from ppvae.models import GaussianVAE, ManifoldVAE, SphericalVAE, WassersteinEmbedding
from safetensors.torch import save_file
from torch import nn

import ppvae
from ppvae import io
from ppvae.nn import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    NegativeBinomialLikelihood,
    NormalHead,
    NormalLikelihood,
    PoissonLikelihood,
    PowerSphericalHead,
    records_options,
)

X = (np.random.default_rng(0).random((12, 1, 4, 4)) > 0.5).astype(np.float32)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return GaussianVAE((1, 4, 4), 2, (8,), **options)


@pytest.fixture
def file(tmp_path):
    ppvae.save(make(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


VAES = {
    "Gaussian": lambda: make(),
    "float64": lambda: make().double(),
    "spherical": lambda: SphericalVAE((1, 4, 4), 4, (8,)),
    "power spherical": lambda: SphericalVAE((16,), 3, (), head=PowerSphericalHead(3)),
    "normal": lambda: make(likelihood=NormalLikelihood(0.3, learned=True)),
    "categorical": lambda: make(likelihood=CategoricalLikelihood(3)),
    "Poisson": lambda: make(likelihood=PoissonLikelihood(size_factor=True)),
    "negative binomial": lambda: make(likelihood=NegativeBinomialLikelihood()),
    "numpy options": lambda: GaussianVAE(np.array([1, 4, 4]).tolist(), np.int64(2), (np.int32(8),)),
}


@pytest.mark.parametrize("build", VAES.values(), ids=VAES)
def test_a_vae_comes_back_as_it_was(tmp_path, build):
    vae = build()
    ppvae.save(vae, tmp_path / "m")
    back = ppvae.load(tmp_path / "m")
    assert type(back) is type(vae) and not back.training
    assert back.shape == vae.shape and back.dim == vae.dim
    assert type(back.likelihood) is type(vae.likelihood)
    assert back.likelihood.given == vae.likelihood.given
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]) and tensor.dtype == back.state_dict()[name].dtype
    x = np.zeros((3, *vae.shape))
    assert np.array_equal(
        ppvae.encode(vae, x, *[np.ones(3)] * len(vae.given)), ppvae.encode(back, x, *[np.ones(3)] * len(vae.given))
    )


def test_the_header_has_the_table_name_the_options_the_version_and_the_record(tmp_path):
    ppvae.save(make(likelihood=NormalLikelihood(0.5)), tmp_path / "m", record={"elbo": [-3.5, -2.25]})
    header, _ = io.read(tmp_path / "m")
    assert header["model"] == "gaussian-vae"
    assert header["version"] == ppvae.__version__
    assert header["record"] == {"elbo": [-3.5, -2.25]}
    assert header["options"]["shape"] == [1, 4, 4] and header["options"]["dim"] == 2
    assert header["options"]["likelihood"] == {"head": "NormalLikelihood", "options": {"scale": 0.5, "learned": False}}


def test_networks_of_ones_own_need_into(tmp_path):
    def build(seed):
        torch.manual_seed(seed)
        return make(seed, encoder=nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))

    vae = build(0)
    ppvae.save(vae, tmp_path / "m")
    with pytest.raises(ValueError, match=r"network of the user's own .Sequential.*into=vae"):
        ppvae.load(tmp_path / "m")
    other = build(1)
    assert ppvae.load(tmp_path / "m", into=other) is other
    assert np.array_equal(ppvae.encode(vae, X), ppvae.encode(other, X))


class Own(GaussianVAE):
    pass


def test_a_class_of_ones_own_needs_into(tmp_path):
    vae = Own((1, 4, 4), 2, (8,))
    ppvae.save(vae, tmp_path / "m")
    with pytest.raises(ValueError, match=r"holds a .*:Own, which is in no table of models"):
        ppvae.load(tmp_path / "m")
    with pytest.raises(ValueError, match=r"expected the weights of a gaussian-vae, got those of a .*Own"):
        ppvae.load(tmp_path / "m", into=make())
    other = ppvae.load(tmp_path / "m", into=Own((1, 4, 4), 2, (8,)))
    assert np.array_equal(ppvae.encode(vae, X), ppvae.encode(other, X))


class OwnHead(nn.Module):
    """A posterior head of a user's own."""

    @records_options
    def __init__(self, dim: int, inner: nn.Module | None = None):
        super().__init__()
        self.features, self.inner = 2 * dim, inner or NormalHead(dim)

    def forward(self, h):
        return self.inner(h)


def test_classes_of_ones_own_are_taken_from_the_caller_alone(tmp_path):
    vae = Own((1, 4, 4), 2, (8,), head=OwnHead(2, NormalHead(2)))
    ppvae.save(vae, tmp_path / "m")
    for classes in ([], [OwnHead], [Own]):
        with pytest.raises(ValueError, match=r"load\(path, classes=\[\.\.\.\]\)"):
            ppvae.load(tmp_path / "m", classes=classes)
    back = ppvae.load(tmp_path / "m", classes=[Own, OwnHead])
    assert type(back) is Own and type(back.head) is OwnHead and type(back.head.inner) is NormalHead
    assert np.array_equal(ppvae.encode(vae, X), ppvae.encode(back, X))


def test_a_class_that_a_file_names_is_not_imported(tmp_path):
    ppvae.save(make(head=OwnHead(2)), tmp_path / "m")
    forge(tmp_path / "m", lambda header: header["options"]["head"].update({"class": "antigravity:fly"}))
    with pytest.raises(ValueError, match=r"network of the user's own .OwnHead"):
        ppvae.load(tmp_path / "m", classes=[OwnHead])
    assert "antigravity" not in sys.modules


def test_an_embedding_that_is_a_vae_of_the_tables_comes_back(tmp_path):
    vae = ManifoldVAE((6,), WassersteinEmbedding(1, 2, (4,)), (8,))
    ppvae.save(vae, tmp_path / "m")
    z = np.linspace(0, 1, 10).reshape(5, 2)
    assert np.array_equal(ppvae.decode(vae, z), ppvae.decode(ppvae.load(tmp_path / "m"), z))


def test_weights_that_do_not_fit_are_refused(file):
    with pytest.raises(ValueError, match=r"expected torch.float32 of shape .*, got"):
        ppvae.load(file, into=GaussianVAE((1, 4, 4), 3, (8,)))
    with pytest.raises(ValueError, match=r"missing \[.*likelihood.log_scale"):
        ppvae.load(file, into=make(likelihood=NormalLikelihood()))
    with pytest.raises(ValueError, match="dtype that were saved"):
        ppvae.load(file, into=make().double())


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        ppvae.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        ppvae.save(make(), tmp_path / "nowhere" / "m")


def test_truncated_files_are_refused(file):
    content = file.read_bytes()
    for size in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match="not a safetensors file, or truncated"):
            ppvae.load(file)


def test_any_changed_byte_is_noticed(file):
    content = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match=r"damaged|truncated|not written by ppvae"):
            ppvae.load(file)


def test_foreign_files_are_refused(file, tmp_path):
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="not written by ppvae"):
        ppvae.load(file)
    torch.save(make().state_dict(), file)
    with pytest.raises(ValueError, match="not a safetensors file"):
        ppvae.load(file)
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="not a safetensors file"):
        ppvae.load(file)
    with pytest.raises(FileNotFoundError):
        ppvae.load(tmp_path)


def forge(file, change):
    """Another header, its digest put right."""
    header, tensors = io.read(file)
    change(header)
    text = json.dumps(header)
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    save_file(tensors, file, {"ppvae": text, "sha256": digest.hexdigest()})


def likelihood(value):
    return lambda header: header["options"].update(likelihood=value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(model="os:system"), "os:system, which is in no table of models"),
        (lambda h: h.update(model="antigravity:fly"), "in no table of models"),
        (lambda h: h.update(format=99), "expected format 1, got 99: written by ppvae"),
        (lambda h: h.update(model=3), "header was not written by ppvae"),
        (lambda h: h.pop("options"), "header was not written by ppvae"),
        (lambda h: h.update(kind="report"), "expected a model, got a report"),
        (likelihood({"head": "os.system", "options": {}}), "'os.system' is not a part of a VAE"),
        (likelihood({"head": "register", "options": {}}), "'register' is not a part of a VAE"),
        (likelihood({"head": "NormalLikelihood", "options": {"scale": -1}}), "do not fit NormalLikelihood.*scale > 0"),
        (likelihood({"head": "NormalLikelihood", "options": {"x": 1}}), "do not fit NormalLikelihood.*'x'"),
        (likelihood({"head": ["a"], "options": {}}), "is not a part"),
        (likelihood({"head": "NormalLikelihood"}), "do not fit NormalLikelihood: 'options'"),
        (lambda h: h["options"].update(dimm=3), "do not fit gaussian-vae.*'dimm'"),
        (lambda h: h["options"].update(dim="a"), "do not fit gaussian-vae"),
        (lambda h: h["options"].update(hidden=[4]), "expected torch.float32 of shape"),
    ],
)
def test_a_forged_header_runs_nothing(file, change, words):
    forge(file, change)
    with pytest.raises(ValueError, match=words):
        ppvae.load(file)
    assert "antigravity" not in sys.modules


def test_a_failed_write_leaves_the_old_file_and_no_litter(file, monkeypatch):
    before = file.read_bytes()

    def full(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "save_file", full)
    with pytest.raises(
        OSError, match=r"could not be written: .*No space left on device; the file that was there is unchanged"
    ):
        ppvae.save(make(1), file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_the_mode_of_a_file_is_that_of_any_new_file(file):
    (file.parent / "other").touch()
    assert file.stat().st_mode == (file.parent / "other").stat().st_mode


def test_an_option_that_cannot_be_recorded_is_named(tmp_path):
    vae = make()
    vae.options["hidden"] = {8}
    with pytest.raises(ValueError, match=r"cannot save the option \{8\} of type set"):
        ppvae.save(vae, tmp_path / "m")
    assert os.listdir(tmp_path) == []


class Tied(GaussianVAE):
    def __init__(self):
        super().__init__((4,), 4, (4,))
        self.decoder.module.layers[0].weight = self.encoder.module.layers[0].weight


def test_tied_weights_stay_tied(tmp_path):
    vae = Tied()
    ppvae.save(vae, tmp_path / "m")
    other = ppvae.load(tmp_path / "m", into=Tied())
    assert torch.equal(other.encoder.module.layers[0].weight, vae.encoder.module.layers[0].weight)
    assert other.decoder.module.layers[0].weight is other.encoder.module.layers[0].weight


class Curved(GaussianVAE):
    def __init__(self):
        super().__init__((4,), 2, (4,))
        self.direction = geoopt.ManifoldParameter(torch.eye(3)[0].clone(), manifold=geoopt.Sphere())


def test_parameters_on_manifolds_come_back_as_such(tmp_path):
    vae = Curved()
    with torch.no_grad():
        vae.direction.copy_(torch.eye(3)[1])
    ppvae.save(vae, tmp_path / "m")
    other = ppvae.load(tmp_path / "m", into=Curved())
    assert isinstance(other.direction, geoopt.ManifoldParameter)
    assert torch.equal(other.direction, vae.direction)


def test_loading_leaves_the_random_generator(file):
    state = torch.get_rng_state()
    ppvae.load(file)
    assert torch.equal(state, torch.get_rng_state())


def test_another_process_loads_the_same_model(tmp_path):
    vae = make(likelihood=BernoulliLikelihood())
    ppvae.save(vae, tmp_path / "m")
    np.save(tmp_path / "x.npy", X)
    code = (
        "import importlib.util, sys, numpy as np, ppvae\n"
        "if importlib.util.find_spec('ppvae.models') is None: ppvae.__path__.append(sys.argv[2])\n"
        "folder = sys.argv[1]\n"
        "np.save(folder + '/z.npy', ppvae.encode(ppvae.load(folder + '/m'), np.load(folder + '/x.npy')))\n"
    )
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path), root], check=True, cwd=root)
    assert np.allclose(np.load(tmp_path / "z.npy"), ppvae.encode(vae, X), atol=1e-6)
