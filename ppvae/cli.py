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
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace, get_loader

import ppvae

if TYPE_CHECKING:
    from ppvae.data import DataSet
    from ppvae.report import Run

#: All models are tested on one draw of the test data and stopped by one draw of the validation data, whatever their seed.
VALIDATION_SEED, TEST_SEED = 1, 2
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
        parser = _parser("fit", "MODEL", fit)
        parser.epilog = f"{_table_of_models()}\n\nThe options of a model: ppvae fit MODEL --help"
        _parse(parser, argv)
        raise ValueError(f"fit: name a model first, e.g. ppvae fit {_first(_models())} --data digits --out runs/a")
    parser = _fit_parser(name)
    options = _parse(parser, argv)
    out = _required(options, "out", "the folder of the run, e.g. --out runs/a")
    _required(options, "data", "a name of `ppvae data` or a file, e.g. --data digits")
    _refuse_run(out, options.force)
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
    print("\nThe options of a model: ppvae fit MODEL --help")


def data(argv: Sequence[str]) -> None:
    """List the data sets, and which of them are on this machine."""
    _parse(_parser("data", "", data), argv)
    import ppvae.data

    for name in ppvae.data.names():
        try:
            found = ppvae.data.load(name)
        except FileNotFoundError as error:
            print(f"{name:12}not on this machine. {error}\n")
        else:
            parts = {"train": found.train, "validation": found.validation, "test": found.test}
            sizes = ", ".join(f"{len(x):,} {part}" for part, x in parts.items() if x is not None)
            print(f"{name:12}{sizes}; each of shape {found.shape}\n{'':12}{found.source}\n{'':12}licence: {found.licence}\n")
    print("Data of your own: --data file.npy, an array (n, *shape), or file.npz with the key x, and labels if there are any")


def demo(argv: Sequence[str]) -> None:
    """Train two VAEs on handwritten digits, one with a flat and one with a round latent space, and compare them."""
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
    from ppvae.arrays import isolated
    from ppvae.models import find

    source = open_data(options.data, options.test)
    built = parser.instantiate(options)
    cls = find(options.model)
    with isolated(options.seed):
        vae = cls(source.shape, **{name: built[name] for name in _model_options(cls)})
    options.maximum, options.binarize = _preparation(source, vae, options)
    prepared = prepare(source, options.maximum, options.binarize, options.data)
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
    for name in ("config", "out", "force", "progress"):
        record.pop(name, None)
    record.versions = _versions()
    _write(out / "run.yaml", parser.dump(record, skip_validation=True))
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


def _kl(vae: Any, x: Any, seed: int) -> list[float]:
    """KL(q(z | x) || p(z)) of each datum, summed over the latents; a draw where it has no closed form."""
    import torch

    from ppvae.arrays import evaluating, isolated, to_tensors
    from ppvae.infer import ELBO
    from ppvae.infer.elbo import kl_terms

    with isolated(seed), evaluating(vae), torch.no_grad():
        terms = kl_terms(*ELBO().traces(vae.model, vae.guide, *to_tensors(vae, x)))
    return sum(terms.values(), torch.zeros(len(x))).tolist()


def _report_run(name: str, folder: Path) -> "Run":
    """All that the report shows of a run."""
    import numpy as np
    import torch
    from pyro import poutine

    from ppvae.arrays import evaluating, isolated, to_tensors
    from ppvae.infer.elbo import latents
    from ppvae.report import Run

    vae, prepared, record = _load(folder), *_data_of(folder)
    x = prepared.test[:2000]
    with isolated(0), evaluating(vae), torch.no_grad():
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
        options={key: value for key, value in record.items() if key != "versions" and value is not None} | record["versions"],
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
        prog=f"ppvae {command} {words}".strip(),
        usage=f"ppvae {command} {words} [options]",
        description=inspect.getdoc(function),
        formatter_class=argparse.RawDescriptionHelpFormatter if command == "fit" and words == "MODEL" else None,
        exit_on_error=False,
        allow_abbrev=False,
    )
