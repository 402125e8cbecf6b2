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
``run.yaml`` (what was run) and, once evaluated, ``evaluation.json``; ``ppvae posterior`` adds ``posterior.npz``.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ppvae.cli.options import Parser, command_parser, known, listing, model_name, parse_fit
from ppvae.version import __version__

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: the words behind ``ppvae``; those of the process where None.
    :return: the exit code: 0, or 2 for what the user can mend, 1 where training failed, 130 after Ctrl-C.
    """
    if argv is None:  # this process is ours, and torch not yet imported
        # OpenMP's threads spin while they wait. Two on two busy cores took 3 s for a step of a small network, and
        # 0.04 s when they sleep instead.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview())
        elif argv[0] == "--version":
            print(f"ppvae {__version__}")
        else:
            COMMANDS[known(argv[0], COMMANDS, "command")][0](argv[1:])
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # of a reader such as head, who has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("PPVAE_DEBUG"):
            raise
        print(f"ppvae: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt:
        print("\nppvae: interrupted", file=sys.stderr)
        return 130


def fit(argv: Sequence[str]) -> None:
    """Train a VAE and write it to a folder."""
    name, argv = model_name(argv)
    if name is None:
        if {"-h", "--help"} & set(argv):
            print(f"usage: ppvae fit MODEL --data NAME|FILE --out FOLDER [options]\n\n{_models()}")
            return
        raise ValueError(
            "fit: name a model first, e.g. ppvae fit gaussian-vae --data digits --out runs/a; see ppvae models"
        )
    options = parse_fit(name, argv)
    for option, what in (("data", "a name of `ppvae data`, or a file"), ("out", "the folder to write")):
        if getattr(options, option) is None:
            raise ValueError(f"fit: --{option} is missing: {what}, e.g. ppvae fit {name} --data digits --out runs/a")
    from ppvae.cli import processes, runs

    out = Path(options.out)
    options.checkpoint = options.checkpoint or str(out / "checkpoint.safetensors")
    if processes.launched():  # what is checked below was checked before
        with processes.joined(options):
            runs.train(options, out)
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    held = [file for file in runs.FILES if (out / file).exists()]
    if held and not (options.force or options.resume):
        raise ValueError(
            f"{out} already holds a run ({', '.join(held)}); choose another --out, continue it with --resume, or "
            "replace it with --force"
        )
    if options.force and not options.resume:
        Path(options.checkpoint).unlink(missing_ok=True)
    then = options.versions
    changed = [f"{p} {then[p]} then, {now} now" for p, now in runs.versions().items() if then.get(p, now) != now]
    if changed:
        print(f"ppvae: numbers may differ from those of {options.config[-1]}: {', '.join(changed)}", file=sys.stderr)
    if options.devices == 1:
        runs.train(options, out)
    else:
        processes.launch(options, ["fit", name, *argv])
    own = runs.own_classes(runs.record(out / "run.yaml"))
    more = f" --classes {','.join(own)}" if own else ""
    print(
        f"Next: ppvae evaluate {out}{more}; ppvae report {out}{more}; "
        f"ppvae generate {out} --png {out / 'samples.png'}{more}"
    )


def evaluate(argv: Sequence[str]) -> None:
    """Estimate the log-likelihood of the test data, with its error."""
    parser = command_parser("RUN", evaluate, argv)
    parser.add_argument("run", help="folder of a run")
    _own_classes(parser)
    parser.option("num_samples", int, 500, "importance samples for each datum")
    parser.option("seed", int, 0, "seed of the importance samples")
    options = parser.read()
    from ppvae.cli import runs

    run = Path(options.run)
    measured = runs.measure(run, options.num_samples, options.seed, options.classes)
    print(runs.text_table({run.resolve().name: measured}))
    print(f"Measured on {measured.test_data}. Wrote {run / 'evaluation.json'}")


def posterior(argv: Sequence[str]) -> None:
    """Sample p(z | x) of a few test data by Markov chains, and measure how far the guide is from it."""
    parser = command_parser("RUN", posterior, argv)
    parser.add_argument("run", help="folder of a run")
    _own_classes(parser)
    parser.option("n", int, 8, "how many of the test data, from the first on")
    parser.option(
        "method",
        Literal["batched-hmc", "nuts", "hmc"],
        "batched-hmc",
        "batched-hmc, all chains at once; or nuts, hmc, which are Pyro's, one chain after the other",
        metavar="NAME",
    )
    parser.option("num_samples", int, 500, "draws of each chain")
    parser.option("warmup", int, 500, "transitions before them")
    parser.option("num_chains", int, 4, "chains of each datum")
    parser.option("seed", int, 0, "seed of the draws")
    options = parser.read()
    from ppvae.cli import runs

    run = Path(options.run)
    kept = {name: getattr(options, name) for name in ("method", "num_samples", "warmup", "num_chains", "seed")}
    print(runs.sample_posterior(run, options.n, options.classes, **kept))
    print(f"Wrote {run / 'posterior.npz'}; ppvae report {run} shows the chains")


def generate(argv: Sequence[str]) -> None:
    """Generate data from a trained VAE, as a picture or an array."""
    parser = command_parser("RUN", generate, argv)
    parser.add_argument("run", help="folder of a run")
    _own_classes(parser)
    parser.option("n", int, 64, "how many")
    parser.option("png", (str, None), None, "picture to write: a grid of images", metavar="FILE")
    parser.option("npy", (str, None), None, "array to write, of shape (n, *shape)", metavar="FILE")
    parser.flag("sample", "draw from p(x | z) instead of taking its mean")
    parser.option(
        "sampler",
        Literal["prior", "aggregate-posterior", "mixture", "flow", "jitter"],
        "prior",
        "where the latents come from: the prior; latents of training data (aggregate-posterior); a mixture of "
        "Gaussians or a flow, fitted to their embeddings; their embeddings with jitter",
        metavar="NAME",
    )
    parser.option("seed", (int, None), None, "seed of the draws; by default other draws at every call")
    parser.flag("force", "replace files that exist")
    options = parser.read()
    files = [file for file in (options.npy, options.png) if file]
    if not files:
        raise ValueError("generate: say where to write: --png grid.png, or --npy samples.npy, or both")
    for file in files:
        if Path(file).exists() and not options.force:
            raise ValueError(f"{file} exists; choose another name, or replace it with --force")
    import numpy as np

    from ppvae.cli import runs

    x = runs.generate(Path(options.run), options.n, options.sampler, options.sample, options.seed, options.classes)
    if options.npy:
        buffer = io.BytesIO()
        np.save(buffer, x)
        runs.write_file(options.npy, buffer.getvalue())
    if options.png:
        from ppvae import plotting

        runs.write_file(options.png, plotting.png(plotting.image_grid(x)))
    print(f"Wrote {' and '.join(files)}: {len(x)} {'draws' if options.sample else 'means'} of shape {x.shape[1:]}")


def report(argv: Sequence[str]) -> None:
    """Write the HTML report of one run, or of several compared."""
    parser = command_parser("RUN [RUN ...]", report, argv)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    _own_classes(parser)
    parser.option(
        "out", (str, None), None, "the file; by default report.html in the folder of the first run", metavar="FILE"
    )
    parser.option("title", str, "", "heading; by default the names of the runs")
    options = parser.read()
    from ppvae import report as html
    from ppvae.cli import runs

    folders = [Path(run) for run in options.runs]
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    shown = [runs.report_run(name, folder, options.classes) for name, folder in zip(names, folders, strict=True)]
    command = "\n".join(f"ppvae fit --config {folder / 'run.yaml'} --out NEW-FOLDER" for folder in folders)
    file = html.write(options.out or folders[0] / "report.html", shown, options.title, command)
    for run, folder in zip(shown, folders, strict=True):
        if run.log_likelihood is None:
            print(f"{run.name} has no log-likelihood yet: ppvae evaluate {folder}, and then the report again")
    print(f"Wrote {file}")


def _own_classes(parser: Parser) -> None:
    text = "classes of your own that the model is built from, package.module:Class; nothing else is imported"
    parser.option("classes", Sequence[str], (), text, metavar="CLASS,...")


def models(argv: Sequence[str]) -> None:
    """List the models."""
    command_parser("", models, argv).read()
    print(_models())


def objectives(argv: Sequence[str]) -> None:
    """List the objectives of training."""
    command_parser("", objectives, argv).read()
    from ppvae.infer.objectives import OBJECTIVES

    print(listing(((name, summary) for name, (_, _, summary) in OBJECTIVES.items()), 24))
    print("\nThe options of one: ppvae fit MODEL --objective.help NAME")


def data(argv: Sequence[str]) -> None:
    """List the data sets, and which of them are on this machine."""
    command_parser("", data, argv).read()
    import ppvae.data

    for name in ppvae.data.names():
        try:
            found = ppvae.data.load(name)
        except FileNotFoundError as error:
            command = next((line.strip() for line in str(error).splitlines() if line.startswith("    ")), str(error))
            lines = ["not on this machine; install it by", command]
        else:
            parts = {"train": found.train, "validation": found.validation, "test": found.test}
            sizes = ", ".join(f"{len(x):,} {part}" for part, x in parts.items() if x is not None)
            lines = [f"{sizes}; each of shape {found.shape}", found.source, f"licence: {found.licence}"]
        print(f"{name:18}" + f"\n{'':18}".join(lines) + "\n")
    print("Data of your own: --data FILE.npy, an array (n, *shape), or FILE.npz with the key x, and labels if any")


def demo(argv: Sequence[str]) -> None:
    """Train two VAEs on handwritten digits, compare them and write a report."""
    parser = command_parser("", demo, argv)
    parser.option("out", str, "runs/demo", "folder to write; an older demo in it is replaced", metavar="FOLDER")
    parser.option(
        "data",
        (str, None),
        None,
        "mnist, digits or other images; by default mnist if it is installed, else digits",
        metavar="NAME|FILE",
    )
    parser.option("epochs", (int, None), None, "passes over the data; by default as suits the data")
    parser.option("seed", int, 0, "seed of everything random")
    parser.flag("force", "write to the folder even if it holds other things")
    options = parser.read()
    out = Path(options.out)
    dims = {"gaussian-vae": ("GaussianVAE, R²", 2), "spherical-vae": ("SphericalVAE, S²", 3)}
    held = {file.name for file in out.iterdir()} if out.is_dir() else set()
    others = sorted(held - {*dims, "report.html"})
    if others and not options.force:
        raise ValueError(
            f"{out} holds {', '.join(others[:3])}, which no demo wrote; choose another --out, or add --force"
        )
    if held:
        print(f"Replacing the demo in {out}.")
    from ppvae import report as html  # before the training, so that it says at once what is not installed
    from ppvae.cli import runs

    name = options.data or _digits()
    epochs, batch_size, hidden = (200, 64, "128,64") if name == "digits" else (10, 128, "256,128")
    epochs = options.epochs or epochs
    measured, shown, commands = {}, [], []
    for model, (title, dim) in dims.items():
        words = f"{model} --data {name} --test 1000 --dim {dim} --hidden {hidden} --epochs {epochs} "
        words += f"--warmup {epochs // 5} --batch-size {batch_size} --seed {options.seed}"
        command = f"ppvae fit {words} --out {out / model}"
        print(f"\n{title}\n$ {command}")
        runs.train(parse_fit(model, words.split()[1:]), out / model)
        print("Measuring the log-likelihood of the test digits, by 500 importance samples each ...", flush=True)
        measured[title] = runs.measure(out / model, 500, options.seed)
        shown.append(runs.report_run(title, out / model))
        commands.append(command)
    file = html.write(out / "report.html", shown, "Handwritten digits on a plane and on a sphere", "\n".join(commands))
    (first, a), (second, b) = measured.items()
    mean, error = html.paired_difference(a.values, b.values)
    print(
        f"\n{runs.text_table(measured)}\n\n{second} − {first}, paired: {mean:+.2f} ± {error:.2f} nats per datum\n"
        f"Measured on {a.test_data}.\n\nThe report, with pictures: {file.resolve().as_uri()}\n\nTry next:\n"
        f"  ppvae generate {out / 'spherical-vae'} -n 100 --png digits.png\n"
        f"  ppvae fit spherical-vae --data {name} --dim 8 --epochs {epochs} --out runs/dim8\n"
        "  ppvae fit spherical-vae --help\n"
        "  ppvae fit gaussian-vae --data your-file.npy --out runs/yours"
    )


def _digits() -> str:
    """MNIST where it is installed, else the digits inside this package."""
    import ppvae.data

    try:
        ppvae.data.load("mnist")
        return "mnist"
    except FileNotFoundError:
        print("MNIST is not on this machine (`ppvae data` says how to install it): taking the 8 x 8 digits.")
        return "digits"


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "demo": (demo, ""),
    "fit": (fit, "MODEL"),
    "evaluate": (evaluate, "RUN"),
    "posterior": (posterior, "RUN"),
    "generate": (generate, "RUN"),
    "report": (report, "RUN [RUN ...]"),
    "models": (models, ""),
    "objectives": (objectives, ""),
    "data": (data, ""),
}


def _overview() -> str:
    lines = [
        f"ppvae {__version__}: variational autoencoders with latents on manifolds",
        "",
        "usage: ppvae COMMAND",
        "",
    ]
    rows = ((f"  {name} {words}", function.__doc__ or "") for name, (function, words) in COMMANDS.items())
    lines += [
        listing(rows, 26),
        "",
        "For example: ppvae fit spherical-vae --data digits --out runs/a",
        "Options: ppvae COMMAND --help, and of a model ppvae fit MODEL --help",
        "With PPVAE_DEBUG=1 in the environment an error shows where it comes from.",
    ]
    return "\n".join(lines)


def _models() -> str:
    from ppvae import models

    rows = ((name, models.summary(name)) for name in models.names())
    return listing(rows, 24) + "\n\nThe options of a model: ppvae fit MODEL --help"
