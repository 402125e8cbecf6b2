"""The command ``ppvae``: train, evaluate, generate and report without writing Python.

::

    ppvae demo                                          # two VAEs on handwritten digits, and a report
    ppvae fit spherical-vae --data digits --out runs/a  # every option of the model and of training is an option here
    ppvae evaluate runs/a
    ppvae report runs/a
    ppvae fit --config runs/a/run.yaml --out runs/b     # the same run again

The options of a model are read from its ``__init__`` and those of training from :func:`ppvae.fit`, so that nothing is
said twice. torch is imported only by the commands that need it.

A run is a folder with ``model.safetensors`` (see :func:`ppvae.load`), ``history.csv`` (nats per datum),
``run.yaml`` (what was run) and, once evaluated, ``evaluation.json``.
"""

import argparse
import csv
import difflib
import importlib.metadata
import inspect
import io
import itertools
import json
import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, get_loader

import ppvae

if TYPE_CHECKING:
    from ppvae.data import DataSet
    from ppvae.report import Run

#: All models are tested on one draw of the test data and stopped by one draw of the validation data, whatever their seed.
VALIDATION_SEED, TEST_SEED = 1, 2
MORE = "The options of a model: ppvae fit MODEL --help"
#: Files whose presence makes a folder a run.
FILES = ("run.yaml", "model.safetensors", "history.csv", "evaluation.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for what the user can mend, 1 for failed training, 130 for Ctrl-C.

    :param argv: the words behind ``ppvae``; those of the process where None.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview(), end="")
        elif argv[0] == "--version":
            print(f"ppvae {ppvae.__version__}")
        else:
            COMMANDS[_known(argv[0], COMMANDS, "command")][0](argv[1:])
        return 0
    except (argparse.ArgumentError, ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("PPVAE_DEBUG"):
            raise
        print(f"ppvae: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt:
        print("\nppvae: interrupted", file=sys.stderr)
        return 130


# --- commands ---------------------------------------------------------------------------------------------------------


def fit(argv: Sequence[str]) -> None:
    """Train a VAE and write it to a folder."""
    name, argv = _model_name(argv)
    if name is None:
        if set(argv) & {"-h", "--help"}:
            print(f"usage: ppvae fit MODEL --data NAME|FILE --out FOLDER [options]\n\n{_table_of_models()}\n\n{MORE}")
            return
        raise ValueError(f"fit: name a model first, e.g. ppvae fit {_first(_models())} --data digits --out runs/a")
    parser = _fit_parser(name)
    options = _parse(parser, argv)
    out = _required(options, "out", "the folder of the run, e.g. --out runs/a")
    _required(options, "data", "a name of `ppvae data` or a file, e.g. --data digits")
    _refuse_run(out, options.force)
    then = options.versions or {}
    changed = [f"{name} {then[name]} then, {now} now" for name, now in _versions().items() if then.get(name, now) != now]
    if changed:
        print(f"ppvae: the numbers may differ from those of {options.config[-1]}: {', '.join(changed)}", file=sys.stderr)
    train(parser, options, out)
    print(f"Next: ppvae evaluate {out}; ppvae report {out}; ppvae generate {out} --png {out}/samples.png")


def evaluate(argv: Sequence[str]) -> None:
    """Estimate the log-likelihood of the test data, with its error."""
    parser = _parser("evaluate", "RUN", evaluate)
    parser.add_argument("run", type=str, help="folder of a run")
    parser.add_argument("--num_samples", type=int, default=500, help="importance samples for each datum")
    parser.add_argument("--seed", type=int, default=0, help="seed of the importance samples")
    options = _parse(parser, argv)
    measured = measure(options.run, options.num_samples, options.seed)
    print(_text_table({Path(options.run).name: measured}))
    print(f"Measured on {measured.test_data}. Written to {Path(options.run) / 'evaluation.json'}")


def generate(argv: Sequence[str]) -> None:
    """Generate data from a trained VAE, as a picture or an array."""
    parser = _parser("generate", "RUN", generate)
    parser.add_argument("run", type=str, help="folder of a run")
    parser.add_argument("-n", type=int, default=64, help="how many")
    parser.add_argument("--png", type=str | None, help="picture to write: a grid of images")
    parser.add_argument("--npy", type=str | None, help="array to write, of shape (n, *shape)")
    parser.add_argument("--sample", type=bool, default=False, help="draw from p(x | z) instead of taking its mean")
    parser.add_argument("--seed", type=int | None, help="seed of the draws; a new one at every call where not given")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    options = _parse(parser, argv)
    if not (options.png or options.npy):
        raise ValueError("generate: say where to write: --png grid.png, or --npy samples.npy, or both")
    for file in (options.png, options.npy):
        if file and Path(file).exists() and not options.force:
            raise ValueError(f"{file} exists; choose another name, or replace it with --force")
    import numpy as np

    x = ppvae.generate(_load(options.run), options.n, sample=options.sample, seed=options.seed)
    if options.npy:
        buffer = io.BytesIO()
        np.save(buffer, x)
        _write(options.npy, buffer.getvalue())
    if options.png:
        from ppvae import plotting

        _write(options.png, plotting.png(plotting.image_grid(x)))
    print(f"Wrote {' and '.join(file for file in (options.npy, options.png) if file)}: {len(x)} samples of {options.run}")


def report(argv: Sequence[str]) -> None:
    """Write the HTML report of one run, or of several compared."""
    parser = _parser("report", "RUN [RUN ...]", report)
    parser.add_argument("runs", type=str, nargs="+", help="folders of runs")
    parser.add_argument("--out", type=str | None, help="the file; report.html in the folder of the first run where not given")
    parser.add_argument("--title", type=str, default="", help="heading; the names of the runs where not given")
    options = _parse(parser, argv)
    from ppvae import report as html

    folders = [Path(run) for run in options.runs]
    names = _names(folders)
    out = Path(options.out or folders[0] / "report.html")
    runs = [_report_run(name, folder) for name, folder in zip(names, folders, strict=True)]
    command = "\n".join(f"ppvae fit --config {folder}/run.yaml --out NEW-FOLDER" for folder in folders)
    html.write(out, runs, title=options.title, command=command)
    for name, folder in zip(names, folders, strict=True):
        if not (folder / "evaluation.json").exists():
            print(f"{name} has no log-likelihood yet: ppvae evaluate {folder}, then the report again")
    print(f"Wrote {out}")


def models(argv: Sequence[str]) -> None:
    """List the models."""
    _parse(_parser("models", "", models), argv)
    print(_table_of_models())
    print(f"\n{MORE}")


def data(argv: Sequence[str]) -> None:
    """List the data sets, and which of them are on this machine."""
    _parse(_parser("data", "", data), argv)
    import ppvae.data

    for name in ppvae.data.names():
        try:
            found = ppvae.data.load(name)
        except FileNotFoundError as error:
            command = next((line.strip() for line in str(error).splitlines() if line.startswith("    ")), str(error))
            print(f"{name:18}not on this machine; install it by\n{'':18}{command}\n")
        else:
            parts = {"train": found.train, "validation": found.validation, "test": found.test}
            sizes = ", ".join(f"{len(x):,} {part}" for part, x in parts.items() if x is not None)
            print(f"{name:18}{sizes}; each of shape {found.shape}\n{'':18}{found.source}\n{'':18}licence: {found.licence}\n")
    print("Data of your own: --data file.npy, an array (n, *shape), or file.npz with the key x, and labels if there are any")


def demo(argv: Sequence[str]) -> None:
    """Train two VAEs on handwritten digits, compare them and write a report."""
    parser = _parser("demo", "", demo)
    parser.add_argument("--out", type=str, default="runs/demo", help="folder to write; an older demo in it is replaced")
    parser.add_argument("--data", type=str | None, help="mnist or digits; mnist where it is installed, else digits")
    parser.add_argument("--epochs", type=int | None, help="passes over the data; fits the data set where not given")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--force", action="store_true", help="write to the folder even if it holds other things")
    options = _parse(parser, argv)
    out = Path(options.out)
    names = {"gaussian-vae": "GaussianVAE, R²", "spherical-vae": "SphericalVAE, S²"}
    if out.exists():
        others = sorted({file.name for file in out.iterdir()} - {*names, "report.html"})
        if others and not options.force:
            raise ValueError(
                f"{out} holds {', '.join(others[:3])}, which is not of a demo; choose another --out, or write there with --force"
            )
        if any(out.iterdir()):
            print(f"Replacing the demo in {out}.")
    from ppvae import report as html  # before training: says at once what is not installed

    name = options.data or _demo_data()
    epochs, batch_size, hidden = {"mnist": (12, 128, "256,128")}.get(name, (250, 32, "128,64"))
    measured, shown, commands = {}, [], []
    for model, title in names.items():
        words = [model, "--data", name, "--test", "1000", "--epochs", str(options.epochs or epochs)]
        words += ["--batch-size", str(batch_size), "--hidden", hidden, "--dim", "2" if model == "gaussian-vae" else "3"]
        words += ["--seed", str(options.seed), "--out", str(out / model)]
        shutil.rmtree(out / model, ignore_errors=True)
        print(f"\n{title}: ppvae fit {' '.join(words)}")
        parser = _fit_parser(model)
        train(parser, _parse(parser, _model_name(words)[1]), out / model)
        print("Log-likelihood of the test digits by 500 importance samples each ...")
        measured[title] = measure(out / model, 500, options.seed)
        shown.append(_report_run(title, out / model))
        commands.append(f"ppvae fit {' '.join(words)}")
    file = html.write(out / "report.html", shown, "Handwritten digits: a plane or a sphere?", "\n".join(commands))
    print(f"\n{_text_table(measured)}")
    (first, a), (second, b) = measured.items()
    mean, error = html.paired_difference(a.values, b.values)
    print(f"{second} − {first}, paired: {mean:+.2f} ± {error:.2f} nats per image, on {a.test_data}")
    print(
        f"\nThe report, with pictures: {file.resolve().as_uri()}\n\nTry next:\n"
        f"  ppvae generate {out / 'spherical-vae'} -n 100 --png {out / 'spherical-vae' / 'digits.png'}\n"
        f"  ppvae fit spherical-vae --data {name} --dim 8 --out runs/a --epochs {epochs}\n"
        f"  ppvae fit spherical-vae --help\n"
        f"  ppvae fit gaussian-vae --data your-file.npy --out runs/b"
    )


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "demo": (demo, ""),
    "fit": (fit, "MODEL --data NAME|FILE --out FOLDER"),
    "evaluate": (evaluate, "RUN"),
    "generate": (generate, "RUN --png FILE"),
    "report": (report, "RUN [RUN ...]"),
    "models": (models, ""),
    "data": (data, ""),
}


# --- what the commands do ---------------------------------------------------------------------------------------------


def train(parser: ArgumentParser, options: Namespace, out: Path) -> None:
    """Build the model, train it and write the run to ``out``."""
    from ppvae.arrays import seeded
    from ppvae.models import find

    source = open_data(options.data, options.test)
    built = {name: _built(value) for name, value in vars(options).items()}
    cls = find(options.model)
    with seeded(options.seed):
        vae = cls(source.shape, **{name: built[name] for name in _model_options(cls)})
    options.maximum, options.binarize = _preparation(source, vae, options)
    prepared = prepare(source, options.maximum, options.binarize, options.data)
    _refuse_grey(prepared.train, vae, options)
    _refuse_device(options.device)
    for line in prepared.said:
        print(line)
    settings = {name: built[name] for name in _fit_options()}
    result = ppvae.fit(
        vae,
        prepared.loader(options.batch_size) if options.binarize == "dynamic" else prepared.train,
        validation=prepared.validation,
        **settings,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").unlink(missing_ok=True)  # it was of the run replaced
    ppvae.save(vae, out / "model.safetensors")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(result.history)
    writer.writerows(zip(*result.history.values(), strict=True))
    _write(out / "history.csv", table.getvalue())
    record = options.clone()
    for name in ("config", "out", "force", "progress", "versions"):
        record.pop(name, None)
    versions = "".join(f"  {name}: {json.dumps(version)}\n" for name, version in _versions().items())
    _write(out / "run.yaml", f"{parser.dump(record, skip_validation=True)}versions:\n{versions}")
    reason = {"epochs": "", "patience": ", stopped as the validation loss no longer fell", "interrupted": ", interrupted"}
    best = ", ".join(f"{title} {result.best[key]:.2f}" for key, title in SHOWN if key in result.best)
    print(
        f"{type(vae).__name__}: {len(result.history['epoch'])} epochs in {result.seconds:.0f} s"
        f"{reason.get(result.stopped, ', ' + result.stopped)}. Kept epoch {result.best_epoch:g}: {best} (nats per datum). Wrote {out}"
    )


SHOWN = (
    ("elbo", "ELBO"),
    ("valid_elbo", "validation ELBO"),
    ("reconstruction", "reconstruction"),
    ("kl", "KL"),
)


@dataclass(frozen=True)
class Measured:
    """What ``evaluation.json`` holds: one value for each test datum, in nats where it has a unit."""

    values: Any
    error: Any
    ess: Any
    pareto_k: Any
    elbo: Any
    kl: Any
    test_data: str
    num_samples: int
    seed: int

    @property
    def mean(self) -> float:
        return _mean_and_error(self.values)[0]

    @property
    def standard_error(self) -> float:
        return _mean_and_error(self.values)[1]


def measure(run: str | Path, num_samples: int, seed: int) -> Measured:
    """Evaluate the run in the folder ``run`` on its test data, and write ``evaluation.json`` there."""
    import numpy as np

    vae, prepared, record = _load(run), *_data_of(run)
    x = prepared.test
    if len(x) < 2:
        raise ValueError(f"{record['data']} leaves {len(x)} test data; expected at least 2: say --test N in `ppvae fit`")
    ll = ppvae.log_likelihood(vae, x, num_samples=num_samples, seed=seed)
    kl = [part for batch in _slices(x, 4096) for part in _kl(vae, batch, seed)]
    measured = Measured(
        values=ll.values,
        error=ll.error,
        ess=ll.ess,
        pareto_k=ll.pareto_k,
        elbo=ll.log_weights.mean(1),
        kl=np.asarray(kl),
        test_data=prepared.test_words,
        num_samples=num_samples,
        seed=seed,
    )
    content = {name: np.asarray(v, float).tolist() if isinstance(v, np.ndarray) else v for name, v in asdict(measured).items()}
    summary = {
        "log_likelihood": measured.mean,
        "standard_error": measured.standard_error,
        "elbo_mean": float(measured.elbo.mean()),
        "kl_mean": float(measured.kl.mean()),
        "versions": _versions(),
    }
    _write(Path(run) / "evaluation.json", json.dumps(summary | content, indent=None))
    return measured


def _built(value: Any) -> Any:
    """An option as the model takes it: the head that a name and its options describe, a tuple for a list."""
    if isinstance(value, Namespace):
        import ppvae.nn

        return getattr(ppvae.nn, value.class_path.rpartition(".")[2])(**vars(value.init_args))
    return tuple(value) if isinstance(value, list) else value


def _refuse_device(device: str | None) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error


def _kl(vae: Any, x: Any, seed: int) -> list[float]:
    """KL(q(z | x) || p(z)) of each datum, summed over the latents; a draw where it has no closed form."""
    import torch

    from ppvae.arrays import evaluating, own_store, seeded, to_tensors
    from ppvae.infer import ELBO
    from ppvae.infer.elbo import kl_terms

    with own_store(), seeded(seed), evaluating(vae), torch.no_grad():
        terms = kl_terms(*ELBO().traces(vae.model, vae.guide, *to_tensors(vae, x)))
    return sum(terms.values(), torch.zeros(len(x))).tolist()


def _report_run(name: str, folder: Path) -> "Run":
    """All that the report shows of a run."""
    import numpy as np
    import torch
    from pyro import poutine

    from ppvae.arrays import evaluating, own_store, seeded, to_tensors
    from ppvae.infer.elbo import latents
    from ppvae.report import Run

    vae, prepared, record = _load(folder), *_data_of(folder)
    x = prepared.test[:2000]
    with own_store(), seeded(0), evaluating(vae), torch.no_grad():
        sites = list(latents(poutine.trace(vae.guide).get_trace(*to_tensors(vae, x[:1]))))
    codes = ppvae.encode(vae, x)
    if not isinstance(codes, dict):
        codes = {sites[0]["name"]: codes}
    measured = None
    file = folder / "evaluation.json"
    if file.exists():
        content = json.loads(file.read_text(encoding="utf-8"))
        fields = {f: content[f] for f in Measured.__dataclass_fields__}
        measured = Measured(**{f: np.asarray(v) if isinstance(v, list) else v for f, v in fields.items()})
    with open(folder / "history.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return Run(
        name,
        history={key: [float(row[key]) for row in rows] for key in rows[0]},
        images=x[:12],
        reconstructions=ppvae.reconstruct(vae, x[:12]),
        samples=ppvae.generate(vae, 64, seed=0),
        latents=codes,
        manifolds={site["name"]: site["fn"].support for site in sites},
        labels=None if prepared.test_labels is None else prepared.test_labels[: len(x)],
        log_likelihood=measured,
        elbo=None if measured is None else measured.elbo,
        kl=None if measured is None else measured.kl,
        test_data="" if measured is None else f"{measured.test_data}; {measured.num_samples} importance samples each",
        options={key: value for key, value in record.items() if key != "versions" and value is not None} | record.get("versions", {}),
    )


# --- data -------------------------------------------------------------------------------------------------------------


def open_data(name: str, test: int | None) -> "DataSet":
    """The data set ``name`` of :mod:`ppvae.data`, or a file of the user's own, with ``test`` data to test on.

    Where the set's own test part has at least ``test`` data, its first ``test`` are taken. Where it has not, all data
    are split anew in their order: the last ``test`` to test, a tenth of that before them to validate, the rest to train.
    A file is shuffled by a fixed seed first, and a tenth of it is for the test where nothing else is said.
    """
    import numpy as np

    from ppvae import data as sets

    if Path(name).suffix in (".npy", ".npz"):
        x, labels = _read_arrays(Path(name))
        order = np.random.default_rng(0).permutation(len(x))
        x, labels = x[order], None if labels is None else labels[order]
        held, rule = test or len(x) // 10, "the rows in an order shuffled by a fixed seed"
        about = {"name": name, "licence": "that of the file", "source": name}
    else:
        try:
            found = sets.load(name)
        except ValueError as error:
            raise ValueError(f"--data: {error} Or a file, FILE.npy or FILE.npz") from None
        if test is None:
            return found
        if test <= len(found.test):
            labels = None if found.test_labels is None else found.test_labels[:test]
            return _replace(found, test=found.test[:test], test_labels=labels)
        parts = [part for part in ("train", "validation", "test") if getattr(found, part) is not None]
        x = np.concatenate([getattr(found, part) for part in parts])
        every = [getattr(found, f"{part}_labels") for part in parts]
        labels = None if any(part is None for part in every) else np.concatenate(every)
        held, rule = test, "the set's own order"
        about = {f: getattr(found, f) for f in ("name", "licence", "source", "maximum", "label_names")}
    valid = max(1, held // 10) if test else held
    rest = len(x) - held - valid
    if held < 1 or rest < 1:
        raise ValueError(f"--test {held}: {name} has {len(x)} data, which leaves none to train or none to test; hold out fewer")
    cut = {"train": slice(0, rest), "validation": slice(rest, rest + valid), "test": slice(rest + valid, None)}
    arrays = {part: x[rows] for part, rows in cut.items()}
    marks = {f"{part}_labels": None if labels is None else labels[rows] for part, rows in cut.items()}
    split = f"{rule}: first {rest} train, next {valid} validation, last {held} test"
    return sets.DataSet(**arrays, **marks, **about, split=split)


def _replace(source: "DataSet", **changes: Any) -> "DataSet":
    import dataclasses

    return dataclasses.replace(source, **changes)


def _read_arrays(path: Path) -> tuple[Any, Any]:
    """x and labels of a .npy or .npz file; pickled objects are refused."""
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"--data: no file {path}")
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        x, labels = content, None
    else:
        with content:
            if "x" not in content:
                raise ValueError(f"--data: {path} has the keys {', '.join(content)}; expected x, and labels if there are any")
            x, labels = content["x"], content["labels"] if "labels" in content else None
    if x.ndim < 2 or (labels is not None and labels.shape != x.shape[:1]):
        shapes = f"x {x.shape}" + ("" if labels is None else f" and labels {labels.shape}")
        raise ValueError(f"--data: expected x of shape (n, *shape) and labels of shape (n,), got {shapes} in {path}")
    return x, labels


def _preparation(source: "DataSet", vae: Any, options: Namespace) -> tuple[float | None, str]:
    """How to turn stored values into those of the likelihood: what was asked for, else what suits a Bernoulli."""
    from ppvae.nn import BernoulliLikelihood

    maximum = options.maximum if options.maximum is not None else source.maximum
    how = options.binarize
    if how is None:
        bernoulli = isinstance(getattr(vae, "likelihood", None), BernoulliLikelihood)
        how = "dynamic" if bernoulli and source.maximum is not None else "none"
    if how != "none" and maximum is None and (source.train.dtype.kind != "f" or source.train.max() > 1):
        raise ValueError(f"--binarize {how} needs intensities in [0, 1]; say the greatest value, e.g. --maximum 255")
    return maximum, how


def _refuse_grey(x: Any, vae: Any, options: Namespace) -> None:
    """Grey values for a Bernoulli likelihood, refused in the words of this command."""
    from ppvae.nn import BernoulliLikelihood

    bernoulli = isinstance(getattr(vae, "likelihood", None), BernoulliLikelihood)
    if bernoulli and options.binarize == "none" and not ((x == 0) | (x == 1)).all():
        raise ValueError(
            f"the Bernoulli likelihood needs data of 0 and 1, and those of {options.data} run from {x.min():g} to {x.max():g}: "
            "add --binarize dynamic, or --binarize threshold, or --likelihood Normal"
        )


@dataclass(frozen=True)
class Prepared:
    """Data as the likelihood reads them; with dynamic binarisation ``train`` still holds the intensities."""

    train: Any
    validation: Any
    test: Any
    test_labels: Any
    test_words: str
    said: tuple[str, ...]

    def loader(self, batch_size: int) -> Any:
        """Batches of ``train`` in a new order each epoch, each binarised by a draw of its own."""
        import torch
        from torch.utils.data import DataLoader

        return DataLoader(_Redrawn(torch.as_tensor(self.train)), batch_size, shuffle=True, collate_fn=_as_is)


class _Redrawn:
    """A map-style dataset that slices whole batches, and draws them from their intensities."""

    def __init__(self, intensities: Any):
        self.intensities = intensities

    def __len__(self) -> int:
        return len(self.intensities)

    def __getitem__(self, row: int) -> Any:
        return self.intensities[row].bernoulli()

    def __getitems__(self, rows: list[int]) -> Any:
        return self.intensities[rows].bernoulli()


def _as_is(batch: Any) -> Any:
    return batch


def prepare(source: "DataSet", maximum: float | None, how: str, name: str) -> Prepared:
    """Scale and binarise, and say so."""
    from ppvae.data import binarize, scale

    parts = {"train": source.train, "validation": source.validation, "test": source.test}
    said = f"{name}: {', '.join(f'{len(x):,} {part}' for part, x in parts.items() if x is not None)}; each of shape {source.shape}"
    lines, words = [said], ""
    if maximum is not None:
        parts = {part: None if x is None else scale(x, maximum) for part, x in parts.items()}
        lines.append(f"  values are divided by {maximum:g}, to [0, 1]")
    if how == "threshold":
        parts = {part: None if x is None else binarize(x, how="threshold") for part, x in parts.items()}
        lines.append("  and set to 1 above 1/2, else to 0 (--binarize threshold)")
        words = ", binarised at 1/2"
    if how == "dynamic":
        for part, seed in (("validation", VALIDATION_SEED), ("test", TEST_SEED)):
            parts[part] = None if parts[part] is None else binarize(parts[part], seed)
        lines.append(
            "  and binarised at random (--binarize dynamic): pixel ~ Bernoulli(value), drawn anew at every training step, "
            "once for validation and test"
        )
        words = f", binarised at random with seed {TEST_SEED}"
    test_words = f"{len(source.test):,} test data of {name}{words}"
    return Prepared(parts["train"], parts["validation"], parts["test"], source.test_labels, test_words, tuple(lines))


def _data_of(run: str | Path) -> tuple[Prepared, dict[str, Any]]:
    """The data of a run as it was trained on them, and its record."""
    record = _record(Path(run) / "run.yaml")
    source = open_data(record["data"], record.get("test"))
    return prepare(source, record.get("maximum"), record["binarize"], record["data"]), record


def _demo_data() -> str:
    import ppvae.data

    try:
        ppvae.data.load("mnist")
        return "mnist"
    except FileNotFoundError:
        print("MNIST is not on this machine (`ppvae data` says how to install it): taking the 8 x 8 digits.")
        return "digits"


# --- parsers ----------------------------------------------------------------------------------------------------------


def _parser(command: str, words: str, function: Callable) -> ArgumentParser:
    return ArgumentParser(
        prog=f"ppvae {command}",
        usage=" ".join(["ppvae", command, *words.split(), "[options]"]),
        description=(inspect.getdoc(function) or "").partition("\n:param")[0].strip(),
        formatter_class=_Help,
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print-config",
    )


class _Help(DefaultHelpFormatter):
    """One short line for each option: what it is, its type, its default if it has one."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=min(110, shutil.get_terminal_size().columns - 2))

    def _get_help_string(self, action: argparse.Action) -> str:
        kind = getattr(action, "_typehint", None)
        words = []
        if isinstance(kind, type) or get_origin(kind) is not None:
            simple = str(self._get_type_str(action)).replace(" | null", "").replace("typing.", "")
            words += [simple] if re.fullmatch(r"(int|float|str|bool|Sequence\[int\])", simple) else []
        if action.option_strings and not any(action.default is x for x in (None, False, argparse.SUPPRESS, "")):
            words += ["default %(default)s"]
        text = (action.help or "").replace("``", "").rstrip(".")
        return text + (f" ({', '.join(words)})" if words else "")


def _fit_parser(name: str) -> ArgumentParser:
    """The options of ``ppvae fit`` for one model: its own, those of :func:`ppvae.fit`, and those of the data."""
    from ppvae.models import find

    cls = find(name)
    parser = _parser("fit", name, cls)
    parser.usage = f"ppvae fit {name} --data NAME|FILE --out FOLDER [options]"
    parser.add_argument("--config", action="config", help="YAML file of options, e.g. the run.yaml of a run; the words behind it win")
    parser.add_argument("--out", type=str | None, help="folder to write the run to")
    parser.add_argument("--force", action="store_true", help="replace the run in the folder")
    parser.add_argument("--model", type=str, default=name, help="the model, where the first word does not name it")
    parser.add_argument("--versions", type=dict | None, help=argparse.SUPPRESS)
    group = parser.add_argument_group("data")
    group.add_argument("--data", type=str | None, help="a name of `ppvae data`, or FILE.npy, or FILE.npz with the key x")
    group.add_argument(
        "--test",
        type=int | None,
        help="how many data to hold out for the test: the first of the set's test part; where this is smaller, or the data "
        "are a file, the last of all data, after a tenth as many for validation",
    )
    group.add_argument(
        "--maximum", type=float | None, help="greatest value a pixel can have, by which data are divided; known for named images"
    )
    group.add_argument(
        "--binarize",
        type=Literal["none", "threshold", "dynamic"] | None,
        metavar="{none,threshold,dynamic}",
        help="from intensities in [0, 1] to 0 and 1: at 1/2 (threshold), or at random, anew at each step (dynamic). Where not "
        "given: dynamic for named images with a Bernoulli likelihood, else none",
    )
    own = _model_options(cls)
    taken = sorted(set(own) & ({action.dest for action in parser._actions} | set(_fit_options())))
    if taken:
        raise ValueError(f"{name}: its options {', '.join(taken)} are also options of training or data; train it from Python")
    described, heads = _described(cls), _heads(cls)
    group = parser.add_argument_group(f"model: {name}")
    group.add_class_arguments(cls, as_group=False, skip=set(inspect.signature(cls).parameters) - set(own) | set(heads))
    for option, classes in heads.items():
        short = ", ".join(known.removesuffix(option.title()) for known in classes)
        group.add_argument(
            f"--{option}",
            type=_union(classes.values()),
            metavar="NAME",
            help=f"{described.get(option, '')} NAME is one of {short}; its options are --{option}.OPTION, see --{option}.help NAME",
        )
    group = parser.add_argument_group("training")
    import ppvae.train

    everything = set(inspect.signature(ppvae.train.fit).parameters)
    group.add_function_arguments(ppvae.train.fit, as_group=False, skip=everything - set(_fit_options()) | {"device"})
    group.add_argument("--device", type=str | None, help="where to train, e.g. cuda; the CPU where not given")
    parser.set_defaults(seed=0)
    return parser


def _fit_options() -> list[str]:
    """The parameters of :func:`ppvae.fit` that a word can say."""
    import ppvae.train

    objects = {"vae", "data", "validation", "objective", "optimizer", "dtype", "callbacks"}
    return [name for name in inspect.signature(ppvae.train.fit).parameters if name not in objects]


def _model_options(cls: type) -> list[str]:
    """The parameters of a model that a word can say: all but the shape, which the data have, and networks."""
    return [name for name in inspect.signature(cls).parameters if name not in ("shape", "encoder", "decoder")]


def _heads(cls: type) -> dict[str, dict[str, type]]:
    """Option of a model -> the classes of :mod:`ppvae.nn` that it can be, by name: a ``likelihood`` is a ``...Likelihood``."""
    import ppvae.nn

    found = {name: getattr(ppvae.nn, name) for name in ppvae.nn.__all__}
    return {
        option: {name: c for name, c in found.items() if name.endswith(option.title()) and name != option.title()}
        for option in inspect.signature(cls).parameters
        if option in ("likelihood", "head")
    }


def _union(classes: Any) -> Any:
    kind: Any = None
    for cls in classes:
        kind = cls | kind if kind is not None else cls | None
    return kind


def _described(cls: type) -> dict[str, str]:
    """Parameter -> its line in the docstring of the class."""
    lines = re.findall(r":param (\w+): (.*?)(?=\n:|\Z)", inspect.getdoc(cls) or "", re.DOTALL)
    return {name: " ".join(text.split()) for name, text in lines}


def _parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse; accept and show ``--batch-size`` for ``batch_size``; say what is wrong in one line."""
    options = {string: action for action in parser._actions for string in action.option_strings}
    for action in parser._actions:
        dashed = [re.sub("(?<=[a-z])_", "-", string) for string in action.option_strings if not string.endswith("+")]
        parser._option_string_actions.update(dict.fromkeys(dashed, action))
        action.option_strings = dashed
    words, previous = [], ""
    for word in argv:
        if word.startswith("--"):
            key, sign, value = word.partition("=")
            head, dot, rest = key.partition(".")
            if dot:  # --likelihood.some-option
                key = head + dot + rest.replace("-", "_")
            word = key + sign + (_spelled(options.get("--" + key[2:].replace("-", "_")), value) if sign else value)
            previous = "" if sign else key
        else:
            word, previous = _spelled(options.get("--" + previous[2:].replace("-", "_")), word), ""
        words.append(word)
    try:
        return parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise ValueError(_explained(error, parser, options)) from error


def _spelled(action: Any, value: str) -> str:
    """A value as the parser wants it: 64,32 for a list, Normal for ppvae.nn.NormalLikelihood."""
    if action is None:
        return value
    if isinstance(action.default, (tuple, list)) and value[:1] not in ("[", "("):
        return f"[{value}]"
    if action.dest in ("likelihood", "head") and re.fullmatch(r"(ppvae\.nn\.)?\w+", value):
        import ppvae.nn

        suffix = action.dest.title()
        names = [n for n in ppvae.nn.__all__ if n.endswith(suffix) and n != suffix]
        name = value.removeprefix("ppvae.nn.")
        full = name if name in names else name + suffix
        if full not in names:
            short = [n.removesuffix(suffix) for n in names]
            _known(name, [*names, *short], action.dest, show=short)
        return f"ppvae.nn.{full}"
    return value


def _explained(error: argparse.ArgumentError, parser: ArgumentParser, options: Mapping[str, Any]) -> str:
    """The message of jsonargparse in one line, with the nearest option where one is misspelt."""
    message, where = str(error).strip(), parser.prog.removeprefix("ppvae ")
    shown = {o for string in options for o in [string.replace("_", "-")] if string.startswith("--") and not string.endswith("+")}
    if match := re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
        word = match[1].split()[0]
        if not word.startswith("-"):
            return f"{where}: unexpected {word!r}; see {parser.prog} --help"
        return f"{where}: no option {word.partition('=')[0]}{_near(word.partition('=')[0], sorted(shown))}"
    if match := re.search(r"Parser key \"(\S+?)\":\s*(.*)", message, re.DOTALL):
        key, rest = match[1], match[2]
        problem = re.search(r"Problem with given class_path '(\S+)':\s*(.*?)(?=\n\s*- |\Z)", rest, re.DOTALL)
        if problem:
            unknown = re.sub(r"Option '(\S+)' is not accepted", rf"no option --{key}.\1", " ".join(problem[2].split()))
            return f"{where} --{key} {problem[1].rpartition('.')[2]}: {unknown}"
        rest = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(rest.split()))
        rest = re.sub(r"Expected an? (.*?)\. Got value: ", r"expected \1, got ", rest)
        if "Subtypes:" in rest:
            kinds = re.search(r"Subtypes: [\[(](.*?)[\])] Errors", rest)
            given = re.search(r"Given value: (.*)", rest)
            if kinds and given:
                rest = f"expected {kinds[1].replace(', NoneType', '').replace('typing.', '')}, got {given[1]}"
        rest = re.sub(r"Literal\[(.*?)\]", lambda match: "one of " + match[1].replace("'", ""), rest)
        return f"{parser.prog} --{key.replace('_', '-')}: {rest}"
    if match := re.search(r"Option '(\S+)' is not accepted", message):
        return f"{where} --config: no option {match[1]!r}{_near(match[1], [o[2:].replace('-', '_') for o in shown])}"
    return f"{where}: {' '.join(message.split())}"


def _model_name(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The model, which is the first word or stands in the YAML file, and all words with it as an option."""
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        return argv[0], [*argv[1:], "--model", argv[0]]
    pairs = list(itertools.pairwise([*argv, ""]))
    for word, value in pairs:
        if word == "--model" or word.startswith("--model="):
            return word.partition("=")[2] or value, argv
    for word, value in pairs:
        if word == "--config" or word.startswith("--config="):
            file = Path(word.partition("=")[2] or value)
            name = _record(file).get("model")
            if name is None:
                raise ValueError(f"{file}: expected a line `model: NAME`; or name the model: ppvae fit MODEL --config {file}")
            return str(name), argv
    return None, argv


# --- small things -----------------------------------------------------------------------------------------------------


def _overview() -> str:
    lines = [f"ppvae {ppvae.__version__}: variational autoencoders with latents on manifolds", "", "usage: ppvae COMMAND", ""]
    for name, (function, words) in COMMANDS.items():
        lines += [f"  {name + ' ' + words:44}{(function.__doc__ or '').splitlines()[0]}"]
    lines += [
        "",
        "ppvae COMMAND --help tells the options of a command, ppvae fit MODEL --help those of a model.",
        "PPVAE_DEBUG=1 in the environment shows where an error comes from.",
        "",
    ]
    return "\n".join(lines)


def _models() -> list[str]:
    from ppvae import models

    return models.names()


def _first(names: Sequence[str]) -> str:
    return next(iter(names), "MODEL")


def _table_of_models() -> str:
    from ppvae import models

    return "\n".join(f"{name:20}{models.summary(name)}" for name in models.names())


def _known(name: str, names: Any, kind: str, show: Any = None) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(name.lower(), {n.lower(): n for n in names}, n=1)
    best = [n for n in names if n.lower() in near][:1]
    raise ValueError(f"no {kind} {name!r}{f'; did you mean {best[0]}?' if best else ''} (there are {', '.join(show or names)})")


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _required(options: Namespace, name: str, what: str) -> Any:
    if options[name] is None:
        raise ValueError(f"fit: --{name} is missing: {what}")
    return Path(options[name]) if name == "out" else options[name]


def _refuse_run(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    held = [name for name in FILES if (out / name).exists()]
    if held and not force:
        raise ValueError(f"{out} already holds a run ({', '.join(held)}); choose another --out, or replace it with --force")


def _record(file: Path) -> dict[str, Any]:
    """A YAML file of options."""
    if not file.is_file():
        hint = "" if file.name != "run.yaml" else "; a run is a folder that `ppvae fit MODEL --out FOLDER` wrote"
        raise FileNotFoundError(f"no file {file}{hint}")
    try:
        record = get_loader("yaml")(file.read_text(encoding="utf-8"))
    except Exception as error:  # whatever the YAML parser raises
        raise ValueError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{file}: expected lines `option: value`, got {type(record).__name__}")
    return record


def _load(run: str | Path) -> Any:
    file = Path(run) / "model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{run} is no run: it has no model.safetensors; `ppvae fit MODEL --out {run}` writes one")
    return ppvae.load(file)


def _names(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: its last part, or the whole path where two have the same."""
    last = [folder.resolve().name for folder in folders]
    return last if len(set(last)) == len(last) else [str(folder) for folder in folders]


def _write(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    from ppvae.io import write

    data = content.encode() if isinstance(content, str) else content
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write(path, lambda temporary: Path(temporary).write_bytes(data))


def _slices(x: Any, size: int) -> Iterator[Any]:
    return (x[start : start + size] for start in range(0, len(x), size))


def _mean_and_error(values: Any) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "pyro-ppl", "numpy")}
    return {"ppvae": ppvae.__version__, "python": platform.python_version(), **packages}


def _text_table(measured: Mapping[str, Measured]) -> str:
    """The table of the report for a terminal."""
    head = ["", "log-likelihood", "ELBO", "KL", "ESS", "Pareto k > 0.7"]
    rows = [head, ["", "nats per datum", "nats", "nats", "median", "share"]]
    for name, m in measured.items():
        rows.append(
            [
                name,
                "{:.2f} ± {:.2f}".format(*_mean_and_error(m.values)),
                "{:.2f} ± {:.2f}".format(*_mean_and_error(m.elbo)),
                "{:.2f} ± {:.2f}".format(*_mean_and_error(m.kl)),
                f"{sorted(m.ess)[len(m.ess) // 2]:.0f} of {m.num_samples}",
                f"{(m.pareto_k > 0.7).mean():.1%}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
    return "\n".join([*lines[:2], "-" * len(lines[0]), *lines[2:]])
