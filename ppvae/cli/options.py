"""The options of each command, read from the signatures and docstrings of models and of :func:`ppvae.fit`.

An option such as ``--likelihood`` names a class of a table, and the options of that class follow a dot:
``--likelihood Normal --likelihood.scale 0.15``. In a YAML file the same is

    likelihood: {class_path: Normal, init_args: {scale: 0.15}}

This file is imported for every command, ``--help`` among them, so what needs torch is imported within functions.
"""

import argparse
import difflib
import itertools
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import getdoc
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ppvae.cli.signatures import REQUIRED, Option, Signature, kind_words, load, signature, value
from ppvae.latents.words import KINDS
from ppvae.nn.registry import HEADS, TABLES, fitting

#: Options of :func:`ppvae.fit` that this file words itself.
TOLD = ("objective", "device", "checkpoint", "resume")
#: Options of ``ppvae fit`` that are no part of what was run.
FLEETING = ("config", "out", "force", "progress", "checkpoint", "resume", "versions", "print_config")


@dataclass(frozen=True)
class Chosen:
    """A class that an option names, with its own options.

    :param name: its name on the command line.
    :param place: ``package.module:Class``.
    """

    name: str
    place: str
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """An instance."""
        return load(self.place)(**{name: built(option) for name, option in self.options.items()})


def built(option: Any) -> Any:
    """The value of an option as Python takes it."""
    return option.build() if isinstance(option, Chosen) else option


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ValueErrors, and which takes ``--batch_size`` for ``--batch-size``.

    :param command: what errors begin with, e.g. ``fit gaussian-vae``.
    :param usage: what follows it in the first line of the help.
    :param description: the next lines of the help.
    :param words: what is to be read, because it decides which options there are.
    :param file: options of a YAML file by their full names, for what the words leave open.
    """

    def __init__(
        self,
        command: str,
        usage: str,
        description: str,
        words: Iterable[str] = (),
        file: Mapping[str, Any] | None = None,
    ):
        super().__init__(
            prog=f"ppvae {command}",
            usage=f"ppvae {command} {usage}".rstrip() + " [options]",
            description=description,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=_columns()),
            allow_abbrev=False,
        )
        self.command, self.words, self.file = command, _spelled(words), dict(file or {})
        self.options: dict[str, Option] = {}
        self.chosen: dict[str, Chosen] = {}  #: option that names a class -> the class, where one is named

    def error(self, message: str) -> Any:
        raise ValueError(f"{self.command}: {message}")

    def flag(self, name: str, text: str, group: Any = None) -> None:
        """Add an option without a value."""
        self.options[name] = Option(name, (bool,), False, text)
        add = (group or self).add_argument
        add(_dashed(name), dest=name, action="store_true", default=argparse.SUPPRESS, help=text)

    def option(self, name: str, kinds: Any, default: Any, text: str, group: Any = None, metavar: str = "") -> None:
        """Add an option with a value. Its line of help ends in its type and its default."""
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        self.options[name] = Option(name, kinds, default, text)
        kind = next(kind for kind in kinds if kind is not None)
        if get_origin(kind) is Literal:
            shown = f"{{{','.join(map(str, get_args(kind)))}}}"
        else:
            shown = "{true,false}" if kind is bool else "N,N,..." if get_origin(kind) is Sequence else ""
        notes = [] if metavar or get_origin(kind) is Literal else [kind_words(kinds)]
        notes += ["must be given"] if default is REQUIRED else []
        notes += [f"default {default}"] if default not in (None, REQUIRED, "", ()) else []
        (group or self).add_argument(
            _dashed(name),
            dest=name,
            default=argparse.SUPPRESS,
            metavar=metavar or shown or name.upper().rpartition(".")[2].strip("_"),
            help=(text + (f" ({', '.join(notes)})" if notes else "")).replace("%", "%%"),
        )

    def several(self, name: str, text: str, group: Any) -> None:
        """Add an option that may be given several times; its value is a list of words."""
        self.options[name] = Option(name, (Sequence[str], None), None, text)
        group.add_argument(
            _dashed(name), dest=name, action="append", default=argparse.SUPPRESS, metavar="LATENT", help=text
        )

    def read(self) -> argparse.Namespace:
        """The values of all options: those in words, then those in the file, then the defaults."""
        found, unknown = self.parse_known_args(self.words)
        if unknown:
            word = unknown[0].partition("=")[0]
            if not word.startswith("-"):
                self.error(f"unexpected {word!r}; see {self.prog} --help")
            owner = word.rpartition(".")[0]
            if owner in map(_dashed, self.options) and owner not in map(_dashed, self.chosen):
                self.error(f"no option {word} before {owner} NAME says which it is an option of")
            self.error(f"no option {word}{_near(word, map(_dashed, self.options))}")
        for name in self.file:
            if name not in self.options:
                self.error(f"--config: no option {name!r}{_near(name, self.options)}")
        given = {**self.file, **vars(found)}
        for name, option in self.options.items():
            if name in self.chosen:
                continue
            if name in given:
                try:
                    given[name] = value(option.kinds, given[name])
                except ValueError as error:
                    self.error(f"{_dashed(name)}: {error}")
            elif option.default is REQUIRED:
                self.error(f"{_dashed(name)} is missing: {option.help}")
            else:
                given[name] = option.default
        for name, chosen in reversed(self.chosen.items()):  # a class after those that its own options name
            own = [option for option in self.options if option.rpartition(".")[0] == name]
            given[name] = Chosen(chosen.name, chosen.place, {o.rpartition(".")[2]: given.pop(o) for o in own})
        return argparse.Namespace(**{name: given[name] for name in self.options if name in given} | given)


def _columns() -> int:
    return min(110, shutil.get_terminal_size().columns - 2)


def listing(rows: Iterable[tuple[str, str]], width: int) -> str:
    """Names in a column of some width, and beside each its text, wrapped to the terminal."""
    lines = []
    for name, text in rows:
        first, *rest = textwrap.wrap(text, max(30, _columns() - width)) or [""]
        lines += [f"{name:{width - 1}} {first}", *(" " * width + line for line in rest)]
    return "\n".join(lines)


def command_parser(usage: str, function: Callable, words: Iterable[str]) -> Parser:
    """A parser without options for a command, described by the docstring of its function."""
    return Parser(function.__name__, usage, getdoc(function) or "", words)


def _dashed(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-').rstrip('-')}"


def _spelled(argv: Iterable[str]) -> list[str]:
    """Words with the names of options as the parsers have them: ``--batch_size`` becomes ``--batch-size``."""
    words = []
    for word in argv:
        key, sign, given = word.partition("=")
        words.append(_dashed(key[2:]) + sign + given if word.startswith("--") and len(key) > 2 else word)
    return words


def _last(words: Sequence[str], option: str) -> str | None:
    """The last value that words give an option."""
    found = None
    for word, following in itertools.pairwise([*words, ""]):
        key, sign, given = word.partition("=")
        if key == option:
            found = given if sign else following
    return found


def parse_fit(name: str, argv: Sequence[str]) -> argparse.Namespace:
    """The options of ``ppvae fit`` for one model: its own, those of :func:`ppvae.fit`, and those of the data."""
    pairs = [(before.partition("="), word) for before, word in itertools.pairwise([*argv, ""])]
    files = [given or word for (key, _, given), word in pairs if key == "--config"]
    file: dict[str, Any] = {}
    for path in files:
        more = _flat(record(Path(path)))
        file = {key: given for key, given in file.items() if not key.startswith((*(f"{new}." for new in more),))} | more
    versions = file.pop("versions", None) or {}
    if not isinstance(versions, dict):
        raise ValueError(f"{files[-1]}: versions: expected lines `package: version`, got {versions}")
    options = _fit_parser(name, argv, file).read()
    options.config, options.versions = files, versions
    if options.print_config:
        print(dump(options, keep=("progress",)), end="")
        sys.exit(0)
    return options


def _fit_parser(name: str, words: Sequence[str], file: dict[str, Any]) -> Parser:
    model, training = signature(model_place(name)), signature("ppvae.train.fitting:fit").options
    parser = Parser(f"fit {name}", "--data NAME|FILE --out FOLDER", model.summary, words, file)
    parser.option(
        "config", str, None, "YAML file of options, e.g. the run.yaml of a run; words win over it", metavar="FILE"
    )
    parser.flag("print_config", "print the options as such a file, and exit")
    parser.option("out", (str, None), None, "folder to write the run to", metavar="FOLDER")
    parser.flag("force", "replace the run in the folder")
    parser.option("model", str, name, "the model, if the first word does not name it")
    group = parser.add_argument_group("data")
    parser.option(
        "data", (str, None), None, "a name of `ppvae data`, or FILE.npy, or FILE.npz with the key x", group, "NAME|FILE"
    )
    parser.option(
        "test",
        (int, None),
        None,
        "how many data to hold out for the test: the first of the set's test part. If that is smaller, or the data are "
        "a file, it is the last of all data, and validation takes a tenth as many before them",
        group,
    )
    parser.option(
        "maximum",
        (float, None),
        None,
        "greatest value a pixel can have, by which data are divided; known for named images, and not used if the "
        "likelihood is of counts",
        group,
    )
    parser.option(
        "binarize",
        (Literal["none", "threshold", "dynamic"], None),
        None,
        "from intensities in [0, 1] to 0 and 1: at 1/2 (threshold), or at random, anew at each step (dynamic). By "
        "default dynamic for named images with a Bernoulli likelihood, else none",
        group,
    )
    own = model_options(model)
    taken = sorted({*own} & {*parser.options, *fit_options(), *TOLD, "devices"})
    if taken:
        raise ValueError(
            f"{name}: its options {', '.join(taken)} are also options of training or data; train it from Python"
        )
    group = parser.add_argument_group(f"model {name}")
    if "latents" in model.options:
        kinds = ", ".join(":".join([kind, *map(str.upper, numbers)]) for kind, (_, numbers) in KINDS.items())
        text = f"[SITE=]KIND, for a product of several once for each; KIND is one of {kinds}"
        parser.several("latent", text, group)
    _add(parser, group, model, own)
    group = parser.add_argument_group("training")
    for option in fit_options():
        default = 0 if option == "seed" else training[option].default
        parser.option(option, training[option].kinds, default, training[option].help, group)
    parser.option(
        "devices",
        int,
        1,
        "how many processes train together, each on its share of every batch; with --device cuda one GPU for each",
        group,
    )
    what = "what is optimised, see ppvae objectives; elbo by default."
    _add_class(parser, group, "objective", what, _objectives())
    parser.option("device", (str, None), None, "where to train, e.g. cuda; on the CPU by default", group)
    parser.option(
        "checkpoint",
        (str, None),
        None,
        "file for the state of training after each epoch; by default checkpoint.safetensors in the folder",
        group,
        "FILE",
    )
    text = "continue the run in the folder from its checkpoint, with the same options or more --epochs"
    parser.flag("resume", text, group)
    return parser


def model_place(name: str) -> str:
    """Where the class of a model is, ``package.module:Class``: of a name of the tables, or of a class of one's own."""
    from ppvae import models

    return name if ":" in name else models.place(name)


def model_options(model: Signature) -> list[str]:
    """The parameters of a model that a word can say: not the shape, which the data have, nor your own networks."""
    return [name for name in _sayable(model) if name != "shape"]


def _sayable(of: Signature) -> list[str]:
    return [name for name, option in of.options.items() if option.plain or name in TABLES]


def fit_options() -> list[str]:
    """The parameters of :func:`ppvae.fit` that become options as they are."""
    return [
        name
        for name, option in signature("ppvae.train.fitting:fit").options.items()
        if option.plain and name not in TOLD
    ]


def _objectives() -> dict[str, tuple[str, str]]:
    from ppvae.infer.objectives import OBJECTIVES

    place = "ppvae.infer.objectives"
    return {name: (f"{place}.{file}:{cls}", summary) for name, (file, cls, summary) in OBJECTIVES.items()}


def _add(parser: Parser, group: Any, of: Signature, names: Iterable[str], path: str = "") -> None:
    """Add options of a class: plain ones, and those that name a class of a table."""
    for name in names:
        option = of.options[name]
        if option.plain:
            parser.option(path + name, option.kinds, option.default, option.help, group)
        else:
            parts = TABLES[name].items()
            table = {key: (f"ppvae.{part.module}:{part.cls}", f"{part.space}: {part.reads}") for key, part in parts}
            space = of.space if TABLES[name] is HEADS else ()
            _add_class(parser, group, path + name, f"{option.help}.", table, space)


def _add_class(
    parser: Parser,
    group: Any,
    name: str,
    text: str,
    table: Mapping[str, tuple[str, str]],
    space: tuple[str, ...] = (),
) -> None:
    """Add an option that names a class of a table, and if one is named the options of that class.

    :param table: name -> its place, and what it is.
    :param space: the spaces of posterior heads that fit; if there are any, only such heads are offered.
    """
    offered = [key for key in table if not space or key in fitting(space)]
    flag, names = _dashed(name), ", ".join(offered)
    text = f"{text} NAME is one of {names}; for more see {flag}.help"
    parser.option(name, (str, None), None, text, group, metavar="NAME")

    def choose(word: str) -> Chosen:
        return _choose(parser.command, flag, word, table, offered, space)

    asked, said, filed = _last(parser.words, f"{flag}.help"), _last(parser.words, flag), parser.file.get(name)
    if asked is not None:
        _print_help(parser, name, choose(asked) if asked and not asked.startswith("-") else None, table, offered)
    own = ":" in str(filed)
    if own and said is None:
        parser.error(
            f"--config: {filed} is a class of your own, which no file may import; to import it, add {flag} {filed}"
        )
    chosen = None if said is None and filed is None else choose(str(filed if said is None else said))
    if chosen and (filed != said if own else filed is not None and chosen != choose(str(filed))):
        # The options in the file are those of another class.
        parser.file = {key: given for key, given in parser.file.items() if not key.startswith(f"{name}.")}
    if chosen:
        parser.chosen[name] = chosen
        of = signature(chosen.place)
        _add(parser, parser.add_argument_group(f"{flag} {chosen.name}"), of, _sayable(of), f"{name}.")


def _choose(
    command: str,
    flag: str,
    word: str,
    table: Mapping[str, tuple[str, str]],
    offered: Sequence[str],
    space: tuple[str, ...],
) -> Chosen:
    """The class of a table that a word means, by name or class; or a class of one's own, ``package.module:Class``."""
    of_class = {place.partition(":")[2]: name for name, (place, _) in table.items()}
    name = word if word in table else of_class.get(word.rpartition(".")[2])
    if name is None and ":" in word:
        if not isinstance(load(word), type):
            raise ValueError(f"{command} {flag}: {word} is not a class")
        chosen, lives = Chosen(word, word), signature(word).space
    else:
        name = name or known(word, table, flag.strip("-"), show=offered)
        chosen, lives = Chosen(name, table[name][0]), (HEADS[name].space,) if space else ()
    if space and lives and not {*lives} & {*space}:
        raise ValueError(
            f"{command} {flag} {chosen.name}: the space of its law is {' or '.join(lives)}, and that of the latent is "
            f"{space[0]}; heads that fit are {', '.join(offered)}"
        )
    return chosen


def _print_help(
    parser: Parser, name: str, chosen: Chosen | None, table: Mapping[str, tuple[str, str]], offered: Sequence[str]
) -> None:
    """Print the options of a class, or what there is to choose from, and exit."""
    command = f"{parser.command} {_dashed(name)}"
    if chosen is None:
        print(f"usage: ppvae {command} NAME, where NAME is one of\n")
        print(listing(((f"  {key}", table[key][1]) for key in offered), 24))
        print(f"\nThe options of one: ppvae {command}.help NAME")
    else:
        of = signature(chosen.place)
        about = Parser(f"{command} {chosen.name}", "", of.summary)
        _add(about, None, of, _sayable(of), f"{name}.")
        about.print_help()
    sys.exit(0)


def model_name(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The model, which is the first word or stands in the YAML file, and all words with it as an option."""
    argv = _spelled(argv)
    if argv and not argv[0].startswith("-"):
        return argv[0], [*argv[1:], "--model", argv[0]]
    name, file = _last(argv, "--model"), _last(argv, "--config")
    if name is None and file is not None:
        name = record(Path(file)).get("model")
        if name is None:
            raise ValueError(
                f"{file}: expected a line `model: NAME`; or name the model: ppvae fit MODEL --config {file}"
            )
        if ":" in str(name):
            raise ValueError(
                f"{file}: {name} is a class of your own, which no file may import; name it: ppvae fit {name} "
                f"--config {file}"
            )
    return None if name is None else str(name), argv


def known(name: str, names: Iterable[str], kind: str, show: Iterable[str] = ()) -> str:
    """The name if it is one of ``names``, else an error with the nearest of them and all of ``show``.

    :raises ValueError: if it is not.
    """
    if name in names:
        return name
    near = difflib.get_close_matches(name.lower(), {n.lower(): n for n in names}, n=1)
    best = [n for n in names if n.lower() in near][:1]
    raise ValueError(
        f"no {kind} {name!r}{f'; did you mean {best[0]}?' if best else ''} (there are {', '.join(list(show) or names)})"
    )


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def record(file: Path) -> dict[str, Any]:
    """A YAML file of options, such as the ``run.yaml`` of a run."""
    import yaml

    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{file}: expected lines `option: value`, got {type(options).__name__}")
    return options


def own_classes(ran: Mapping[str, Any]) -> list[str]:
    """The classes of one's own that the model of a run is built from, as ``package.module:Class``."""

    def paths(given: Any) -> list[str]:
        inner = given.values() if isinstance(given, dict) else ()
        own = [str(given["class_path"])] if isinstance(given, dict) and "class_path" in given else []
        return own + [path for value in inner for path in paths(value)]

    every = [str(ran.get("model")), *paths({key: given for key, given in ran.items() if key != "objective"})]
    return [place for place in every if ":" in place]


def _flat(options: Mapping[Any, Any], path: str = "") -> dict[str, Any]:
    """Options of a YAML file by their full names: ``likelihood`` and ``likelihood.scale``."""
    flat: dict[str, Any] = {}
    for key, given in options.items():
        name = f"{path}{str(key).replace('-', '_')}"
        if isinstance(given, dict) and "class_path" in given:
            flat |= {name: given["class_path"], **_flat(given.get("init_args") or {}, f"{name}.")}
        elif given is not None:
            flat[name] = given
    return flat


def dump(options: argparse.Namespace, keep: Sequence[str] = (), **more: Any) -> str:
    """Options as a YAML file that :func:`record` reads, without those that are no part of what was run."""
    import yaml

    def plain(option: Any) -> Any:
        if isinstance(option, Chosen):
            return {"class_path": option.name, "init_args": {k: plain(v) for k, v in option.options.items()}}
        return list(option) if isinstance(option, tuple) else option

    left = {*FLEETING} - {*keep}
    ran = {name: plain(option) for name, option in vars(options).items() if option is not None and name not in left}
    return yaml.safe_dump(ran | more, sort_keys=False)
