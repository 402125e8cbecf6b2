"""The command line: what it writes, that a run can be repeated, and what it says when something is wrong."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import ppvae.models
import pytest
import torch

import ppvae
from ppvae.cli import main
from ppvae.cli.options import model_name, parse_fit, record
from ppvae.cli.preparation import open_data

TINY = ["--epochs", "2", "--hidden", "16", "--batch-size", "400", "--progress", "false"]
FILES = {"model.safetensors", "history.csv", "run.yaml", "checkpoint.safetensors"}


def ok(*words) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny trained and evaluated run."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    ok("fit", "spherical-vae", "--data", "digits", "--out", folder, *TINY)
    ok("evaluate", folder, "--num-samples", 20)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["fit", "--help"],
        ["fit", "manifold-vae", "--help"],
        ["fit", "gaussian-vae", "--likelihood.help", "Normal"],
        ["fit", "gaussian-vae", "--head.help"],
        ["models"],
        ["objectives"],
        ["evaluate", "--help"],
        ["demo", "--help"],
    ],
)
def test_help_needs_no_torch(words):
    code = f"""
import sys, ppvae
try:
    import ppvae.models
except ImportError:
    ppvae.__path__.append('.')
from ppvae.cli import main
try:
    main({words})
except SystemExit:
    pass
print('LOADED', *sorted({{m.split('.')[0] for m in sys.modules}}))
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = out.rpartition("LOADED")[2].split()
    assert "argparse" in loaded
    assert not {"torch", "pyro", "matplotlib", "numpy", "arviz"} & set(loaded)


@pytest.mark.parametrize(("before", "after"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(before, after, monkeypatch):
    monkeypatch.setattr("os.environ", dict(before))
    monkeypatch.setattr(sys, "argv", ["ppvae", "--version"])
    assert main() == 0 and os.environ["OMP_WAIT_POLICY"] == after


def test_the_overview_names_every_command(capsys):
    ok()
    out = capsys.readouterr().out
    assert all(
        f"\n  {name} " in out
        for name in ("demo", "fit", "evaluate", "posterior", "generate", "report", "models", "objectives", "data")
    )


def test_the_help_of_a_model_has_its_own_options_with_their_lines(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "spherical-vae", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--dim DIM ambient dimension of the latent z: 2 is the circle, 3 the sphere S^2 (int, default 3)" in out
    assert "--hidden" in out and "default (256, 128)" in out
    assert "--batch-size" in out and "--seed SEED" in out
    assert "NAME is one of Bernoulli, " in out
    assert not any(
        f"--{word}" in out for word in ("encoder", "decoder", "shape", "transform", "callbacks", "batch_size")
    )


@pytest.mark.parametrize("name", ppvae.models.names())
def test_every_model_has_its_options(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", name, "--help"])
    out = capsys.readouterr().out
    assert "--hidden" in out and "--objective" in out
    assert "Show the help for" not in out and "where None" not in out


def test_the_options_of_a_head_and_of_an_objective(capsys):
    for words, option in (
        (["--likelihood.help", "Normal"], "--likelihood.scale"),
        (["--objective.help", "beta"], "beta"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "gaussian-vae", *words])
        assert option in capsys.readouterr().out


def words_of(capsys, *words) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(list(words))
    return " ".join(capsys.readouterr().out.split())


def test_the_parts_of_a_model_that_fit_are_listed_with_what_they_are(capsys):
    heads = words_of(capsys, "fit", "spherical-vae", "--head.help")
    assert "VonMisesFisher sphere: a direction" in heads and "SphericalDelta points of the sphere" in heads
    assert "Normal " not in heads
    assert "RotatePlanes circle, flat torus:" in words_of(capsys, "fit", "manifold-vae", "--action.help")
    assert "dreg importance weighted bound" in words_of(capsys, "fit", "gaussian-vae", "--objective.help")


def test_the_help_of_a_model_has_the_options_of_the_classes_that_are_named(capsys):
    out = words_of(
        capsys, "fit", "mce-vae", "--clusters", "Clusters", "--clusters.head", "InverseAutoregressive", "--help"
    )
    assert "--clusters.head InverseAutoregressive: --clusters.head.dim DIM dimension of z (int, must be given)" in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["models"],
        ["objectives"],
        *(["fit", name, "--help"] for name in ppvae.models.names()),
        *(["fit", "manifold-vae", f"--{option}.help"] for option in ("embedding", "likelihood", "action", "objective")),
        ["fit", "gaussian-vae", "--objective.help", "info"],
        ["fit", "so3-vae", "--head.help", "SO3Normal"],
        ["generate", "--help"],
    ],
    ids=" ".join,
)
def test_help_fits_80_columns_and_is_free_of_markup(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert not any(markup in out for markup in (":math:", ":class:", "``", "where None"))


def test_an_objective_with_its_options_is_kept(tmp_path):
    words = ["--objective", "iwae", "--objective.num-particles", "3", *TINY]
    ok("fit", "spherical-vae", "--data", "digits", "--out", tmp_path / "a", *words)
    assert record(tmp_path / "a" / "run.yaml")["objective"]["init_args"]["num_particles"] == 3
    ok("fit", "--config", tmp_path / "a" / "run.yaml", "--out", tmp_path / "b", "--progress", "false")
    first, second = (ppvae.load(tmp_path / f / "model.safetensors").state_dict() for f in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stopped_run_is_resumed_to_the_same_weights(tmp_path):
    words = ["fit", "gaussian-vae", "--data", "digits", *TINY]
    ok(*words, "--out", tmp_path / "a", "--epochs", 1)
    ok(*words, "--out", tmp_path / "a", "--epochs", 2, "--resume")
    ok(*words, "--out", tmp_path / "b", "--epochs", 2)
    first, second = (ppvae.load(tmp_path / f / "model.safetensors").state_dict() for f in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_holds_a_model_its_history_and_what_was_run(run):
    assert {file.name for file in run.iterdir()} == FILES | {"evaluation.json"}
    vae = ppvae.load(run / "model.safetensors")
    assert type(vae).__name__ == "SphericalVAE" and tuple(vae.shape) == (1, 8, 8)
    with open(run / "history.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["epoch"]) for row in rows] == [1, 2]
    for row in rows:
        assert float(row["elbo"]) == pytest.approx(float(row["reconstruction"]) - float(row["kl"]), abs=1e-4)
        assert float(row["valid_elbo"]) < 0
    ran = record(run / "run.yaml")
    expected = {
        "model": "spherical-vae",
        "data": "digits",
        "binarize": "dynamic",
        "maximum": 16,
        "hidden": [16],
        "seed": 0,
    }
    assert expected.items() <= ran.items()
    assert ran["versions"]["torch"] == torch.__version__


def test_evaluation_agrees_with_the_library(run):
    held = json.loads((run / "evaluation.json").read_text())
    x = ppvae.data.binarize(ppvae.data.scale(ppvae.data.load("digits").test, 16), 2)
    ll = ppvae.log_likelihood(ppvae.load(run / "model.safetensors"), x, num_samples=20, seed=0)
    np.testing.assert_allclose(held["values"], ll.values)
    assert held["log_likelihood"] == pytest.approx(ll.mean)
    assert held["standard_error"] == pytest.approx(ll.standard_error)
    # log p >= ELBO; and the KL of a von Mises-Fisher to the uniform law is not negative.
    assert np.mean(held["values"]) > np.mean(held["elbo"])
    assert len(held["kl"]) == len(x) and min(held["kl"]) >= 0


def test_run_yaml_repeats_the_run(run, tmp_path):
    ok("fit", "--config", run / "run.yaml", "--out", tmp_path / "b", "--progress", "false")
    first, second = (ppvae.load(f / "model.safetensors").state_dict() for f in (run, tmp_path / "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert record(run / "run.yaml") == record(tmp_path / "b" / "run.yaml")


def test_words_win_over_the_file_and_other_versions_are_told(run, tmp_path, capsys):
    text = (run / "run.yaml").read_text().replace(torch.__version__, "1.0")
    (tmp_path / "old.yaml").write_text(text)
    ok("fit", "--config", tmp_path / "old.yaml", "--out", tmp_path / "b", "--progress", "false", "--epochs", 1)
    assert record(tmp_path / "b" / "run.yaml")["epochs"] == 1
    assert f"torch 1.0 then, {torch.__version__} now" in capsys.readouterr().err


EARLIER = sorted((Path(__file__).parent / "saved" / "runs").glob("*.yaml"))


@pytest.mark.parametrize("file", EARLIER, ids=lambda file: file.stem)
def test_run_yaml_of_earlier_runs_means_what_it_meant(file):
    ran = record(file)
    options = parse_fit(*model_name(["--config", str(file)]))
    assert options.versions == ran.pop("versions")

    def same(chosen, then):
        if not isinstance(then, dict):
            assert chosen == (tuple(then) if isinstance(then, list) else then)
            return
        cls = type(chosen.build())
        assert cls.__name__ == then["class_path"].rpartition(".")[2]
        assert chosen.options.keys() == then["init_args"].keys()
        for name, value in then["init_args"].items():
            same(chosen.options[name], value)

    for name, value in ran.items():
        same(getattr(options, name), value)


def test_a_file_leaves_the_class_to_the_words(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "model: gaussian-vae\nhidden: [4, 5]\nlr: 1e-3\ncompile: false\nlikelihood: Normal\nlikelihood.scale: 3\n"
        "head: {class_path: InverseAutoregressive, init_args: {dim: 2, layers: 1}}"
    )
    argv = ["--config", f"{tmp_path}/a.yaml", "--head", "InverseAutoregressive", "--head.dim", "3"]
    options = parse_fit(*model_name(argv))
    assert options.likelihood.options == {"scale": 3.0, "learned": False}
    assert options.head.options == {"dim": 3, "layers": 1, "hidden": 128, "context": 32}
    assert (options.hidden, options.lr, options.compile) == ((4, 5), 1e-3, False)
    options = parse_fit(*model_name([*argv[:2], "--head", "GaussianMixture", "--head.dim=2", "--head.clusters=5"]))
    assert options.head.options == {"dim": 2, "clusters": 5}
    (tmp_path / "b.yaml").write_text("likelihood: {class_path: Bernoulli}")  # a later file wins over an earlier one
    options = parse_fit("gaussian-vae", ["--config", f"{tmp_path}/a.yaml", "--config", f"{tmp_path}/b.yaml", *argv[2:]])
    assert options.likelihood.name == "Bernoulli" and options.hidden == (4, 5) and len(options.config) == 2


def test_print_config_is_a_file_that_repeats_the_run(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "spherical-vae", "--data", "digits", *TINY, "--print-config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    ok("fit", "--config", tmp_path / "printed.yaml", "--out", tmp_path / "b")
    first, second = (ppvae.load(f / "model.safetensors").state_dict() for f in (run, tmp_path / "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_is_replaced_only_by_force(run, tmp_path, capsys):
    words = ["fit", "gaussian-vae", "--data", "digits", "--out", str(tmp_path), *TINY]
    ok(*words)
    (tmp_path / "evaluation.json").write_text("{}")
    before = (tmp_path / "model.safetensors").read_bytes()
    assert main([*words, "--seed", "1"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == before
    ok(*words, "--seed", "1", "--force")
    assert (tmp_path / "model.safetensors").read_bytes() != before
    assert {file.name for file in tmp_path.iterdir()} == FILES  # no old evaluation, no temporary file


def test_generate_writes_pictures_and_arrays_and_replaces_none(run, tmp_path, capsys):
    words = ["generate", str(run), "-n", "5", "--seed", "3", "--npy", f"{tmp_path}/x.npy", "--png", f"{tmp_path}/x.png"]
    ok(*words)
    x = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(x, ppvae.generate(ppvae.load(run / "model.safetensors"), 5, seed=3))
    assert x.shape == (5, 1, 8, 8) and (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert main(words) == 2 and "x.npy exists" in capsys.readouterr().err
    ok(*words, "--sample", "--force")
    assert set(np.unique(np.load(tmp_path / "x.npy"))) == {0, 1}


def test_generate_from_where_a_sampler_says(run, tmp_path, capsys):
    ok("fit", "gaussian-vae", "--data", "digits", "--out", tmp_path / "g", *TINY)
    drawn = {}
    for sampler in ("prior", "aggregate-posterior", "mixture", "jitter"):
        words = ["generate", str(tmp_path / "g"), "-n", "5", "--seed", "3", "--npy", f"{tmp_path}/{sampler}.npy"]
        ok(*words, "--sampler", sampler)
        drawn[sampler] = np.load(tmp_path / f"{sampler}.npy")
        assert drawn[sampler].shape == (5, 1, 8, 8)
        ok(*words, "--sampler", sampler, "--sample", "--force")
        assert set(np.unique(np.load(tmp_path / f"{sampler}.npy"))) == {0, 1}
    assert len({x.tobytes() for x in drawn.values()}) == 4
    words = ["generate", str(run), "--npy", f"{tmp_path}/y.npy", "--sampler"]
    ok(*words, "jitter")  # of a sphere
    assert main([*words, "priory"]) == 2 and "aggregate-posterior" in capsys.readouterr().err


def test_report_of_one_run_and_of_two(run, tmp_path, capsys):
    ok("fit", "gaussian-vae", "--data", "digits", "--out", tmp_path / "g", *TINY)
    ok("report", run, tmp_path / "g", "--out", tmp_path / "both.html", "--title", "Two")
    assert f"g has no log-likelihood yet: ppvae evaluate {tmp_path / 'g'}" in capsys.readouterr().out
    text = (tmp_path / "both.html").read_text()
    assert "<h1>Two</h1>" in text and "not evaluated" in text and "seen from" not in text
    assert text.count("<img ") == 1 + 1 + 2 + 2  # curves, reconstructions, samples, latents


def test_the_posterior_of_test_data_and_its_place_in_the_report(run, tmp_path, capsys):
    words = ("-n", 2, "--num-samples", 10, "--warmup", 10, "--num-chains", 2)
    ok("posterior", run, *words)
    said = capsys.readouterr().out
    assert "gap of the guide" in said and "p(z | x) of 2 data by batched-hmc: 2 chains of 10 draws" in said
    with np.load(run / "posterior.npz") as arrays:
        z = arrays["draws.z"]
    assert z.shape == (2, 2, 10, 3) and np.allclose(np.linalg.norm(z, axis=-1), 1, atol=1e-5)
    ok("report", run, "--out", tmp_path / "r.html")
    (run / "posterior.npz").unlink()
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Markov chains" in text and "The guide is" in text
    assert main(["posterior", str(run), "-n", "0"]) == 2
    assert "expected within 1 and the 400 test data, got 0" in capsys.readouterr().err


def test_a_head_with_weights_starts_by_the_seed(tmp_path):
    words = ["--data", "digits", "--head", "InverseAutoregressive", "--head.dim", "2", *TINY]
    found = []
    for name in "ab":
        ok("fit", "gaussian-vae", "--out", tmp_path / name, *words)
        found.append(ppvae.load(tmp_path / name / "model.safetensors").state_dict())
    assert all(found[0][name].equal(found[1][name]) for name in found[0])


def test_a_group_action_from_the_shell(tmp_path):
    words = ["--embedding", "Sphere", "--action", "RotateSpace", *TINY]
    ok("fit", "manifold-vae", "--data", "digits", "--out", tmp_path / "a", *words)
    assert type(ppvae.load(tmp_path / "a" / "model.safetensors").action).__name__ == "RotateSpace"
    assert record(tmp_path / "a" / "run.yaml")["action"] == {"class_path": "RotateSpace", "init_args": {}}


def test_parts_of_parts(tmp_path):
    words = ["--head", "SO3Normal", "--head.mean", "AxisAngle", "--degree", "1", "--copies", "2", *TINY]
    ok("fit", "so3-vae", "--data", "digits", "--out", tmp_path / "a", *words)
    assert type(ppvae.load(tmp_path / "a" / "model.safetensors").head.mean).__name__ == "AxisAngle"
    words = "--pose Pose --pose.shift 0.2 --canonicalizer Polar --canonicalizer.shape 1,8,8"
    options = parse_fit("mce-vae", words.split())
    assert options.canonicalizer.build().channels == 1 and options.pose.build().shift == 0.2


HEAD = ["--head.dim", "2", "--head.clusters", "3"]
OWN = """
from torch import nn
from ppvae.models import GaussianVAE
from ppvae.nn import NormalHead, records_options


class Head(NormalHead):
    \"\"\"A normal law.

    :param dim: dimension of z.
    :param unused: a number.
    \"\"\"

    @records_options
    def __init__(self, dim: int, unused: float = 1.0):
        super().__init__(dim)


class OnTheSphere(Head):
    space = "sphere"


class Unrecorded(nn.Module):
    def __init__(self, dim: int = 2):
        super().__init__()
        self.features, self.forward = 2 * dim, NormalHead(dim).forward


class Model(GaussianVAE):
    pass


number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's own in the working directory, which is on no path."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_classes_of_ones_own(own, tmp_path, capsys):
    assert "--head.dim DIM dimension of z (int, must be given)" in words_of(
        capsys, "fit", "gaussian-vae", "--head.help", f"{own}:Head"
    )
    ok("fit", f"{own}:Model", "--data", "digits", "--head", f"{own}:Head", "--head.dim", 2, "--out", "a", *TINY)
    assert f"ppvae evaluate a --classes {own}:Model,{own}:Head;" in capsys.readouterr().out
    assert record(tmp_path / "a" / "run.yaml")["head"]["class_path"] == f"{own}:Head"
    sys.modules.pop(own)
    assert main(["generate", "a", "--npy", "x.npy"]) == 2 and own not in sys.modules
    assert f"to import it, add --classes {own}:Head,{own}:Model" in capsys.readouterr().err
    ok("generate", "a", "--npy", "x.npy", "--classes", f"{own}:Model,{own}:Head")
    ok("evaluate", "a", "--num-samples", 5, "--classes", f"{own}:Model,{own}:Head")
    ok("report", "a", "--classes", f"{own}:Model,{own}:Head")
    assert str(tmp_path) not in sys.path


def test_no_file_imports_a_class_of_ones_own(own, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(f"model: gaussian-vae\nhead: {{class_path: '{own}:Head', init_args: {{dim: 2}}}}")
    assert main(["fit", "--config", "a.yaml", "--data", "digits", "--out", "a", *TINY]) == 2
    assert f"which no file may import; to import it, add --head {own}:Head" in capsys.readouterr().err
    (tmp_path / "b.yaml").write_text(f"model: '{own}:Model'")
    assert main(["fit", "--config", "b.yaml", "--data", "digits", "--out", "a", *TINY]) == 2
    assert f"name it: ppvae fit {own}:Model --config b.yaml" in capsys.readouterr().err
    options = parse_fit(*model_name(["--config", "a.yaml", "--head", "GaussianMixture", *HEAD]))
    assert options.head.options == {"dim": 2, "clusters": 3} and own not in sys.modules
    ok("fit", "--config", "a.yaml", "--head", f"{own}:Head", "--data", "digits", "--out", "a", *TINY)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("OnTheSphere", "the space of its law is sphere, and that of the latent is R^d"),
        ("Unrecorded", "Unrecorded: its options are not recorded"),
        ("Nothing", "has no Nothing"),
        ("number", "is not a class"),
    ],
)
def test_what_is_wrong_with_a_class_of_ones_own(word, message, own, capsys):
    words = ["--head", f"{own}:{word}", *(["--head.dim", "2"] if word == "OnTheSphere" else [])]
    assert main(["fit", "gaussian-vae", "--data", "digits", "--out", "a", *words, *TINY]) == 2
    assert message in capsys.readouterr().err and not Path("a").exists()


def test_a_model_that_is_given_labels(tmp_path, capsys):
    folder = tmp_path / "c"
    ok("fit", "conditional-vae", "--data", "digits", "--out", folder, "--condition", "OneHot", *TINY)
    ok("evaluate", folder, "--num-samples", 5)
    vae, digits = ppvae.load(folder / "model.safetensors"), ppvae.data.load("digits")
    x = ppvae.data.binarize(ppvae.data.scale(digits.test, digits.maximum), 2)
    expected = ppvae.log_likelihood(vae, x, digits.test_labels, num_samples=5, seed=0).values
    assert json.loads((folder / "evaluation.json").read_text())["values"] == pytest.approx(expected.tolist(), rel=1e-4)
    words = ["generate", str(folder), "-n", "20", "--seed", "3", "--npy", f"{tmp_path}/x.npy"]
    ok(*words)
    drawn = ppvae.generate(vae, 20, np.arange(20) % 10, seed=3)  # each class in turn
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), drawn)
    ok("report", folder)
    assert main([*words, "--force", "--sampler", "mixture"]) == 2 and "is given labels" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", x)
    words = ["fit", "conditional-vae", "--data", f"{tmp_path}/x.npy", "--out", str(tmp_path / "d"), *TINY]
    assert main(words) == 2 and "is given labels, and the data have none" in capsys.readouterr().err


def test_images_of_ones_own_with_a_normal_likelihood(tmp_path):
    x, labels = np.random.default_rng(0).integers(0, 256, (200, 6, 5), dtype=np.uint8), np.arange(200) % 2
    np.savez(tmp_path / "x.npz", x=x, labels=labels)
    words = ["--likelihood", "Normal", "--likelihood.scale", "0.5", "--maximum", "255", *TINY]
    ok("fit", "gaussian-vae", "--data", tmp_path / "x.npz", "--out", tmp_path / "n", *words)
    ran = record(tmp_path / "n" / "run.yaml")
    assert ran["likelihood"]["init_args"]["scale"] == 0.5 and ran["binarize"] == "none"
    ok("evaluate", tmp_path / "n", "--num-samples", 10)
    assert len(json.loads((tmp_path / "n" / "evaluation.json").read_text())["values"]) == 20
    ok("report", tmp_path / "n")


def test_a_table_of_ones_own(tmp_path):
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(100, 4)))
    ok("fit", "gaussian-vae", "--data", tmp_path / "t.npy", "--out", tmp_path / "t", "--likelihood", "Normal", *TINY)
    ok("generate", tmp_path / "t", "--png", tmp_path / "t.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fti", "no command 'fti'; did you mean fit?"),
        ("fit", "name a model first"),
        ("fit spherical-va --data digits --out {}", "'spherical-vae'"),
        ("fit gaussian-vae --data digit --out {}", "did you mean 'digits'"),
        ("fit gaussian-vae --data nothing.npy --out {}", "no file nothing.npy"),
        ("fit gaussian-vae --out {}", "--data is missing"),
        ("fit gaussian-vae --data digits", "--out is missing"),
        ("fit gaussian-vae --batchsize 3", "no option --batchsize; did you mean --batch-size?"),
        ("fit gaussian-vae --epochs=x", "--epochs: expected int, got x"),
        ("fit gaussian-vae --hidden a,b", "--hidden: expected int, got a"),
        ("fit gaussian-vae --binarize dyn", "--binarize: expected one of none, threshold, dynamic, got dyn"),
        ("fit gaussian-vae --compile jit", "--compile: expected one of auto, graph, inductor, False, got jit"),
        ("fit gaussian-vae --likelihood Norma", "no likelihood 'Norma'; did you mean Normal?"),
        ("fit gaussian-vae --likelihood Normal --likelihood.scal 3", "did you mean --likelihood.scale?"),
        ("fit gaussian-vae --likelihood.scale 3", "no option --likelihood.scale before --likelihood NAME"),
        ("fit gaussian-vae --likelihood Normal --likelihood.learned=x", "--likelihood.learned: expected bool, got x"),
        ("fit gaussian-vae --head InverseAutoregressive", "--head.dim is missing: dimension of z"),
        ("fit gaussian-vae --head VonMisesFisher", "heads that fit are Normal, InverseAutoregressive, GaussianMixture"),
        ("fit gaussian-vae --head UnimodalBetaHead", "the space of its law is box, and that of the latent is R^d"),
        ("fit spherical-vae --head Normal", "heads that fit are PowerSpherical, VonMisesFisher, SphericalDelta"),
        ("fit mce-vae --clusters Clusters --clusters.head VonMisesFisher", "--clusters.head VonMisesFisher: the space"),
        ("fit gaussian-vae --head nothing:Head", "there is no module nothing"),
        ("fit gaussian-vae --likelihood.scale", "no option --likelihood.scale"),
        ("fit gaussian-vae --test 1e9999", "--test: expected int, got 1e9999"),
        (
            "fit gaussian-vae --data digits --out {} --likelihood Normal --likelihood.scale -3",
            "expected scale > 0, got -3",
        ),
        ("fit gaussian-vae --data digits --out {} --epochs 0", "epochs: expected a whole number of at least 1, got 0"),
        ("fit gaussian-vae --data digits --out {} --binarize none", "the Bernoulli likelihood needs data of 0 and 1"),
        ("fit gaussian-vae --data digits --out {} --test 1797", "some of which must be left to train on"),
        ("fit gaussian-vae --data digits --out {} --device nowhere", "--device nowhere: "),
        ("fit gaussian-vae digits", "unexpected 'digits'"),
        ("fit --config nothing.yaml", "no file nothing.yaml"),
        ("evaluate {}", "is no run, as it has no model.safetensors"),
        ("evaluate", "run"),
        ("generate {}", "say where to write"),
        ("report {}", "is no run"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, message, tmp_path, capsys):
    assert main([word.format(tmp_path / "x") for word in words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("ppvae: ") and err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: gaussian-vae\ndime: 3", "no option 'dime'; did you mean dim?"),
        ("dim: 3", "expected a line `model: NAME`"),
        ("- 3", "expected lines `option: value`, got list"),
        ("model: gaussian-vae\nlikelihood: {class_path: os.system}", "no likelihood 'os.system'"),
        ("model: gaussian-vae\nlikelihood: {class_path: 'os:system'}", "which no file may import"),
        ("model: gaussian-vae\nlikelihood: {class_path: Normal, init_args: {scale: [1]}}", "expected float, got [1]"),
        ("model: gaussian-vae\nhead: {class_path: ppvae.nn.VonMisesFisherHead, init_args: {dim: 2}}", "heads that fit"),
        ("model: gaussian-vae\ndim: {a: 3}", "--dim: expected int, got {'a': 3}"),
        ("model: gaussian-vae\ndim: true", "--dim: expected int, got True"),
        ("model: gaussian-vae\nversions: 3", "versions: expected lines"),
        ("{", "not YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_too(text, message, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err


def test_debugging_shows_where_an_error_comes_from(monkeypatch):
    monkeypatch.setenv("PPVAE_DEBUG", "1")
    with pytest.raises(ValueError, match="no data set is named 'nothing'"):
        main(["fit", "gaussian-vae", "--data", "nothing", "--out", "nowhere"])


def test_files_that_are_no_data_are_refused(tmp_path, capsys):
    np.save(tmp_path / "one.npy", np.zeros(5))
    np.savez(tmp_path / "keys.npz", y=np.zeros((5, 2)))
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    for file, message in (
        ("one.npy", "shape (n, *shape)"),
        ("keys.npz", "has the keys y; expected x"),
        ("objects.npy", "pickle"),
    ):
        assert main(["fit", "gaussian-vae", "--data", str(tmp_path / file), "--out", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err


def test_every_datum_is_in_one_part(tmp_path):
    np.save(tmp_path / "t.npy", np.arange(100.0)[:, None])
    for test, sizes in ((None, (80, 10, 10)), (30, (67, 3, 30))):
        found = open_data(str(tmp_path / "t.npy"), test)
        parts = (found.train, found.validation, found.test)
        assert tuple(map(len, parts)) == sizes
        assert sorted(np.concatenate(parts)[:, 0]) == list(range(100))


def test_test_data_of_a_named_set():
    whole = ppvae.data.load("digits")
    np.testing.assert_array_equal(open_data("digits", 100).test, whole.test[:100])
    assert len(open_data("digits", 100).train) == len(whole.train)
    split = open_data("digits", 1000)
    assert [len(x) for x in (split.train, split.validation, split.test)] == [697, 100, 1000]
    np.testing.assert_array_equal(split.test[-len(whole.test) :], whole.test)
    np.testing.assert_array_equal(split.test_labels[-len(whole.test) :], whole.test_labels)


def test_the_demo_writes_a_report_and_replaces_only_its_own(tmp_path, capsys):
    words = ["demo", "--data", "digits", "--epochs", "1", "--out", str(tmp_path)]
    ok(*words)
    out = capsys.readouterr().out
    assert "SphericalVAE, S² − GaussianVAE, R², paired:" in out
    assert "1,000 test data of digits, binarised at random" in out
    assert (tmp_path / "report.html").resolve().as_uri() in out
    assert {file.name for file in tmp_path.iterdir()} == {"gaussian-vae", "spherical-vae", "report.html"}
    (tmp_path / "mine.txt").touch()
    assert main(words) == 2
    assert "mine.txt, which no demo wrote" in capsys.readouterr().err
