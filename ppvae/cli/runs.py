"""A run: the folder that holds a trained model, its history, what was run, and its evaluation."""

import argparse
import csv
import importlib.metadata
import inspect
import io
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import ppvae
from ppvae.cli import processes
from ppvae.cli.options import TOLD, built, dump, fit_options, model_options, model_place, own_classes, record
from ppvae.cli.preparation import Prepared, open_data, prepare, settle
from ppvae.cli.signatures import load as load_class
from ppvae.cli.signatures import signature
from ppvae.infer import ELBO
from ppvae.infer.objectives.base import kl_terms
from ppvae.infer.sites import latents
from ppvae.inputs import to_tensors
from ppvae.io import describe, write
from ppvae.latents.words import from_words
from ppvae.random import seeded
from ppvae.vae import first_traces, quiet
from ppvae.version import __version__

#: Files whose presence makes a folder a run.
FILES = ("run.yaml", "model.safetensors", "history.csv", "evaluation.json", "posterior.npz", "checkpoint.safetensors")
#: Keys of the history that are shown at the end of training, and their names.
SHOWN = {"elbo": "ELBO", "valid_elbo": "validation ELBO", "reconstruction": "reconstruction", "kl": "KL"}
WHY = {"epochs": "", "patience": ", stopped as the validation loss fell no more"}


def train(options: argparse.Namespace, out: Path) -> None:
    """Build the model, train it and write the run to ``out``."""
    _refuse_device(options.device)
    source = open_data(options.data, options.test)
    place = model_place(options.model)
    cls = load_class(place)
    with seeded(options.seed):  # heads have weights too
        told = {name: built(getattr(options, name)) for name in model_options(signature(place))}
        if "shape" in inspect.signature(cls).parameters:
            told["shape"] = source.shape
        if getattr(options, "latent", None):
            told["latents"] = from_words(options.latent)
        vae = cls(**told)
    _refuse_unrecorded(vae)
    if tuple(vae.shape) != source.shape:
        raise ValueError(
            f"{options.model} is for data of shape {tuple(vae.shape)}; those of {options.data} are {source.shape}"
        )
    options.maximum, options.binarize = settle(source, vae, options)
    prepared = prepare(source, options.maximum, options.binarize, options.data)
    print("\n".join(prepared.said))
    labels = given(vae, prepared, "train", options.model)
    result = ppvae.fit(
        vae,
        (prepared.train, *labels),
        validation=None
        if prepared.validation is None
        else (prepared.validation, *given(vae, prepared, "validation", options.model)),
        transform=prepared.transform,
        **{name: built(getattr(options, name)) for name in (*fit_options(), *TOLD)},
    )
    if result.best_epoch is None:
        raise KeyboardInterrupt  # before the end of the first epoch: there is nothing to keep
    if not processes.first():
        return
    out.mkdir(parents=True, exist_ok=True)
    for old in ("evaluation.json", "posterior.npz"):  # they were of the run that is replaced
        (out / old).unlink(missing_ok=True)
    ppvae.save(vae, out / "model.safetensors")
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(result.history)
    rows.writerows(zip(*result.history.values(), strict=True))
    write_file(out / "history.csv", table.getvalue())
    write_file(out / "run.yaml", dump(options, versions=versions()))
    best = ", ".join(f"{title} {result.best[key]:.2f}" for key, title in SHOWN.items() if key in result.best)
    print(
        f"{cls.__name__}: {len(result.history['epoch'])} epochs in {result.seconds:.0f} s"
        f"{WHY.get(result.stopped, f', {result.stopped}')}. Kept epoch {result.best_epoch:g}: {best} (nats per datum)\n"
        f"Wrote {out}"
    )


@dataclass(frozen=True)
class Measured:
    """What ``evaluation.json`` holds: a value for each test datum, in nats where it has a unit."""

    values: NDArray
    error: NDArray
    ess: NDArray
    pareto_k: NDArray
    elbo: NDArray
    kl: NDArray
    test_data: str
    num_samples: int
    seed: int

    @property
    def mean(self) -> float:
        return mean_and_error(self.values)[0]

    @property
    def standard_error(self) -> float:
        return mean_and_error(self.values)[1]


def measure(run: Path, num_samples: int, seed: int, classes: Sequence[str] = ()) -> Measured:
    """Evaluate the run in the folder ``run`` on its test data, and write ``evaluation.json`` there."""
    vae, ran = load(run, classes)
    prepared = _data_of(ran)
    x = prepared.test
    if len(x) < 2:
        raise ValueError(f"{ran['data']} leaves {len(x)} test data; expected at least 2: train with --test N")
    y = given(vae, prepared, "test", ran["model"])
    ll = ppvae.log_likelihood(vae, x, *y, num_samples=num_samples, seed=seed)
    measured = Measured(
        values=ll.values,
        error=ll.error,
        ess=ll.ess,
        pareto_k=ll.pareto_k,
        elbo=ll.log_weights.mean(1),
        kl=_kl(vae, (x, *y), seed),
        test_data=prepared.test_data,
        num_samples=num_samples,
        seed=seed,
    )
    summary = {
        "log_likelihood": measured.mean,
        "standard_error": measured.standard_error,
        "unit": "nats per datum",
        "versions": versions(),
    }
    each = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in asdict(measured).items()}
    write_file(run / "evaluation.json", json.dumps(summary | each))
    return measured


def sample_posterior(run: Path, n: int, classes: Sequence[str] = (), **options: Any) -> str:
    """p(z | x) of the first n test data of the run, written to ``posterior.npz`` there; what it says, as a table."""
    vae, ran = load(run, classes)
    prepared = _data_of(ran)
    x, y = prepared.test, given(vae, prepared, "test", ran["model"])
    if not 1 <= n <= len(x):
        raise ValueError(f"-n: expected within 1 and the {len(x)} test data, got {n}")
    found = ppvae.posterior(vae, x[:n], *(array[:n] for array in y), **options)
    arrays: dict[str, Any] = {f"draws.{name}": value for name, value in found.draws.items()}
    arrays |= {f"stats.{name}": value for name, value in found.sample_stats.items()}
    if found.log_likelihood is not None:
        arrays["log_weights"] = found.log_likelihood.log_weights
    buffer = io.BytesIO()
    np.savez(buffer, method=np.array(found.method), **arrays)
    write_file(run / "posterior.npz", buffer.getvalue())
    if found.log_likelihood is None:
        return str(found)
    rows = [["test datum", "log p(x)", "ELBO", "gap of the guide", "Pareto k", "R-hat"], ["", *["nats"] * 3, "", ""]]
    for i in range(n):
        gap = f"{found.gap[i]:.3f} ± {found.gap_error[i]:.3f}"
        numbers = (found.log_likelihood.values[i], found.elbo[i])
        rows.append([str(i), *map("{:.2f}".format, numbers), gap, f"{found.pareto_k[i]:.2f}", f"{found.r_hat[i]:.3f}"])
    return f"{_aligned(rows)}\n\n{found}"


def _sampled(file: Path) -> "ppvae.samplers.Posterior | None":
    """What :func:`sample_posterior` wrote."""
    if not file.exists():
        return None
    from ppvae.predict import LogLikelihood
    from ppvae.samplers import Posterior

    with np.load(file) as arrays:
        draws, stats = (
            {name.partition(".")[2]: arrays[name] for name in arrays.files if name.startswith(part)}
            for part in ("draws.", "stats.")
        )
        ll = LogLikelihood(arrays["log_weights"]) if "log_weights" in arrays.files else None
        return Posterior(draws, stats, ll, str(arrays["method"]))


def generate(run: Path, n: int, sampler: str, sample: bool, seed: int | None, classes: Sequence[str] = ()) -> NDArray:
    """Data from the model of the run, of latents that the sampler finds by its training data."""
    vae, ran = load(run, classes)
    conditional = bool(getattr(vae, "given", ()))
    prepared = _data_of(ran) if conditional or sampler != "prior" else None
    asked = (_each(given(vae, prepared, "train", ran["model"])[0], n),) if prepared and conditional else ()
    if sampler == "prior" or prepared is None:
        return ppvae.generate(vae, n, *asked, sample=sample, seed=seed)
    from ppvae import samplers

    if conditional:
        raise ValueError(
            f"--sampler {sampler}: {ran['model']} is given labels; from the shell it is sampled by its prior"
        )
    x = prepared.train
    with seeded(seed):
        if prepared.transform is not None:
            x = prepared.transform(torch.as_tensor(x)).numpy()
        drawn = getattr(samplers, sampler.replace("-", "_"))(vae, x, n)
        return ppvae.decode(vae, drawn.z, sample=True) if sample else drawn.x


def given(vae: Any, prepared: Prepared, part: str, model: str) -> tuple[NDArray, ...]:
    """What the model is given beside the data of a part: nothing, or their labels."""
    wanted = getattr(vae, "given", ())
    if not wanted:
        return ()
    labels = prepared.labels[part]
    if wanted != getattr(getattr(vae, "condition", None), "given", None):
        raise ValueError(f"{model} is given more than x with these options, e.g. size factors; train it from Python")
    if labels is None:
        raise ValueError(f"{model} is given labels, and the data have none; name the array labels in FILE.npz")
    return (labels,)


def _each(labels: NDArray, n: int) -> NDArray:
    """n of the labels: each class in turn, or where they are no classes the first."""
    return np.resize(np.unique(labels) if labels.ndim == 1 else labels, (n, *labels.shape[1:]))


def _kl(vae: Any, data: tuple[NDArray, ...], seed: int, batch_size: int = 4096) -> NDArray:
    """KL(q(z | x) || p(z)) of each datum, summed over its latents; one draw of it where it has no closed form."""
    parts = []
    with quiet(vae, seed):
        for start in range(0, len(data[0]), batch_size):
            batch = to_tensors(vae, tuple(array[start : start + batch_size] for array in data))
            terms = kl_terms(*ELBO().traces(vae.model, vae.guide, *batch))
            parts.append(torch.stack([term.expand(batch[0].shape[0]) for term in terms.values()]).sum(0))
    return torch.cat(parts).double().cpu().numpy()


def report_run(name: str, run: Path, classes: Sequence[str] = ()) -> "ppvae.report.Run":
    """All that the report shows of a run."""
    from ppvae.report import Run

    vae, ran = load(run, classes)
    prepared = _data_of(ran)
    x = prepared.test[:2000]
    y = tuple(array[:2000] for array in given(vae, prepared, "test", ran["model"]))
    _, guide_trace = first_traces(vae, to_tensors(vae, (x[:1], *(array[:1] for array in y))))
    sites = list(latents(guide_trace))
    codes = ppvae.encode(vae, x, *y)
    labels = prepared.labels["test"]
    measured = _measured(run / "evaluation.json")
    with open(run / "history.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    options = {key: value for key, value in ran.items() if key != "versions" and value is not None}
    return Run(
        name,
        history={key: [float(row[key]) for row in rows] for key in rows[0]},
        images=x[:12],
        reconstructions=ppvae.reconstruct(vae, x[:12], *(array[:12] for array in y)),
        samples=ppvae.generate(vae, 64, *(_each(array, 64) for array in y), seed=0),
        latents=codes if isinstance(codes, dict) else {sites[0]["name"]: codes},
        manifolds={site["name"]: site["fn"].support for site in sites},
        labels=labels[: len(x)] if labels is not None and labels.ndim == 1 else None,
        log_likelihood=measured,
        elbo=None if measured is None else measured.elbo,
        kl=None if measured is None else measured.kl,
        test_data="" if measured is None else f"{measured.test_data}; {measured.num_samples} importance samples each",
        options=options | ran.get("versions", {}),
        chains=_sampled(run / "posterior.npz"),
    )


def _measured(file: Path) -> Measured | None:
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    try:
        values: dict[str, Any] = {field.name: content[field.name] for field in fields(Measured)}
    except KeyError as error:
        raise ValueError(f"{file}: has no {error}; write it again by: ppvae evaluate {file.parent}") from None
    arrays = {name: np.asarray(value) for name, value in values.items() if isinstance(value, list)}
    return Measured(**values | arrays)


def load(run: Path, classes: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """The model of a run, and its record.

    :param classes: classes of the user's own that the model may be built from, as ``package.module:Class``.
    """
    file = run / "model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"{run} is no run, as it has no model.safetensors; ppvae fit MODEL --out {run} makes one"
        )
    ran = record(run / "run.yaml")
    missing = sorted({*own_classes(ran)} - {*classes})
    if missing:
        raise ValueError(
            f"{run} was built from {', '.join(missing)}, of your own, which nothing imports unasked: to import it, add "
            f"--classes {','.join(missing)}"
        )
    return ppvae.load(file, classes=[load_class(place) for place in classes]), ran


def _data_of(ran: Mapping[str, Any]) -> Prepared:
    """The data of a run as it was trained on them."""
    return prepare(open_data(ran["data"], ran.get("test")), ran.get("maximum"), ran["binarize"], ran["data"])


def _refuse_unrecorded(vae: Any) -> None:
    """Refuse, before the training, a class of the user's own that could not be read from a file after it."""

    def unrecorded(option: Any) -> list[str]:
        if isinstance(option, list):
            return [name for item in option for name in unrecorded(item)]
        if not isinstance(option, dict):
            return []
        own = [option["network"]] if "network" in option and "class" not in option else []
        return own + [name for item in option.get("options", {}).values() for name in unrecorded(item)]

    names = [type(vae).__name__] if not hasattr(vae, "options") else unrecorded([*describe(vae)["options"].values()])
    if names:
        raise ValueError(
            f"{', '.join(names)}: its options are not recorded, without which a saved model cannot be read again: "
            "decorate its __init__ with ppvae.nn.records_options"
        )


def _refuse_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the one or the other
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error


def mean_and_error(values: NDArray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def versions() -> dict[str, str]:
    """What numbers depend on besides the options."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "pyro-ppl", "numpy")}
    return {"ppvae": __version__, "python": platform.python_version(), **packages}


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole or not at all; its folder is made."""
    data = content.encode() if isinstance(content, str) else content
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write(path, lambda temporary: Path(temporary).write_bytes(data))


def text_table(measured: Mapping[str, Measured]) -> str:
    """The table of the report, for a terminal."""
    rows = [
        ["", "log-likelihood", "ELBO", "KL", "ESS", "Pareto k > 0.7"],
        ["", "nats per datum", "nats", "nats", "median", "share of data"],
    ]
    for name, m in measured.items():
        estimates = ["{:.2f} ± {:.2f}".format(*mean_and_error(values)) for values in (m.values, m.elbo, m.kl)]
        share = f"{(m.pareto_k > 0.7).mean():.1%}"
        rows.append([name, *estimates, f"{np.median(m.ess):.0f} of {m.num_samples}", share])
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    """Columns of one width, with a line below the two rows of the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines[:2], "-" * len(lines[0]), *lines[2:]])
