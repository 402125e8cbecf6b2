"""The options of each command, read from the signatures and docstrings of models and of :func:`ppvae.fit`.

This file is imported for every command, ``--help`` among them, so that what needs torch is imported within functions.
"""

import argparse
import difflib
import inspect
import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, get_loader


class Parser(ArgumentParser):
    """A parser that knows which of its options name a class, and by which names.

    ``classes`` maps such an option to its names and their classes.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.classes: dict[str, dict[str, type]] = {}


def command_parser(command: str, words: str, function: Callable) -> Parser:
    """A parser without options for a command, described by the first paragraphs of a docstring."""
    return Parser(
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
        text = (action.help or "").replace("here None", "here not given")
        text = re.sub(r":\w+:`[~.\w]*?(\w+)`", r"\1", text).replace("``", "").rstrip(".")
        return text + (f" ({', '.join(words)})" if words else "")


def fit_parser(name: str) -> Parser:
    """The options of ``ppvae fit`` for one model: its own, those of :func:`ppvae.fit`, and those of the data."""
    from ppvae.models import find

    cls = find(name)
    parser = command_parser("fit", name, cls)
    parser.usage = f"ppvae fit {name} --data NAME|FILE --out FOLDER [options]"
    parser.add_argument(
        "--config", action="config", help="YAML file of options, e.g. the run.yaml of a run; the words behind it win"
    )
    parser.add_argument("--out", type=str | None, help="folder to write the run to")
    parser.add_argument("--force", action="store_true", help="replace the run in the folder")
    parser.add_argument("--model", type=str, default=name, help="the model, where the first word does not name it")
    parser.add_argument("--versions", type=dict | None, help=argparse.SUPPRESS)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", type=str | None, help="a name of `ppvae data`, or FILE.npy, or FILE.npz with the key x"
    )
    group.add_argument(
        "--test",
        type=int | None,
        help="how many data to hold out for the test: the first of the set's test part; where this is smaller, or the "
        "data are a file, the last of all data, after a tenth as many for validation",
    )
    group.add_argument(
        "--maximum",
        type=float | None,
        help="greatest value a pixel can have, by which data are divided; known for named images, and not used where "
        "the likelihood is of counts",
    )
    group.add_argument(
        "--binarize",
        type=Literal["none", "threshold", "dynamic"] | None,
        metavar="{none,threshold,dynamic}",
        help="from intensities in [0, 1] to 0 and 1: at 1/2 (threshold), or at random, anew at each step (dynamic). "
        "Where not given: dynamic for named images with a Bernoulli likelihood, else none",
    )
    own, described = model_options(cls), _described(cls)
    taken = sorted(set(own) & ({action.dest for action in parser._actions} | {*fit_options(), *TOLD}))
    if taken:
        raise ValueError(
            f"{name}: its options {', '.join(taken)} are also options of training or data; train it from Python"
        )
    group = parser.add_argument_group(f"model: {name}")
    group.add_class_arguments(
        cls, as_group=False, skip={*inspect.signature(cls).parameters} - {*_plain(cls)} | {"shape"}
    )
    for option in own:
        if classes := _classes(option):
            _add_classes(parser, group, option, classes, described.get(option, ""))
    group = parser.add_argument_group("training")
    from ppvae import train
    from ppvae.infer import objectives

    everything: set[str | int] = {*inspect.signature(train.fit).parameters}
    group.add_function_arguments(train.fit, as_group=False, skip={*everything} - {*fit_options()})
    group.add_argument(
        "--devices",
        type=int,
        default=1,
        help="how many processes train together, each on its share of every batch; with --device cuda one GPU for each",
    )
    bounds = {objective: objectives.find(objective) for objective in objectives.names()}
    _add_classes(parser, group, "objective", bounds, "what is optimised, see ppvae objectives; elbo where not given.")
    group.add_argument("--device", type=str | None, help="where to train, e.g. cuda; the CPU where not given")
    group.add_argument(
        "--checkpoint",
        type=str | None,
        help="file for the state of training after each epoch; checkpoint.safetensors in the folder where not given",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in the folder from its checkpoint, with the same options, or with more --epochs",
    )
    for action in parser._actions:
        if action.option_strings[0].endswith(".help"):  # named in the line of its option
            action.help = argparse.SUPPRESS
    parser.set_defaults(seed=0)
    return parser


#: Options of :func:`ppvae.fit` that :func:`fit_parser` words itself.
TOLD = ("objective", "device", "checkpoint", "resume")


def _add_classes(parser: Parser, group: Any, option: str, classes: dict[str, type], described: str) -> None:
    parser.classes[option] = classes
    group.add_argument(
        f"--{option}",
        type=Union[*classes.values(), None],
        metavar="NAME",
        help=f"{described} NAME is one of {', '.join(classes)}; for its options see --{option}.help NAME",
    )


def _plain(function: Callable) -> list[str]:
    """The parameters that are numbers, words or sequences of them."""

    def plain(kind: Any) -> bool:
        parts = [part for part in get_args(kind) if part is not type(None)]
        if get_origin(kind) in (Union, UnionType, Sequence, tuple, list):
            return all(part is Ellipsis or plain(part) for part in parts)
        return kind in (int, float, str, bool) or get_origin(kind) is Literal

    hints = get_type_hints(inspect.getattr_static(function, "__init__") if isinstance(function, type) else function)
    return [name for name in inspect.signature(function).parameters if plain(hints.get(name))]


def fit_options() -> list[str]:
    """The parameters of :func:`ppvae.fit` that are told as they are."""
    from ppvae import train

    return [name for name in _plain(train.fit) if name not in TOLD]


def model_options(cls: type) -> list[str]:
    """The parameters of a model that a word can tell: not the shape, which the data have, nor the user's networks."""
    names = [name for name in inspect.signature(cls).parameters if name not in ("shape", "encoder", "decoder")]
    return [name for name in names if name in _plain(cls) or _classes(name)]


def _classes(option: str) -> dict[str, type]:
    """The classes of :mod:`ppvae.nn` that an option can be, by name: a likelihood Normal is a ``NormalLikelihood``."""
    from torch.nn import Module

    import ppvae.nn

    found = {name: getattr(ppvae.nn, name) for name in ppvae.nn.__all__ if name.endswith(option.title())}
    modules = {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, Module)}
    return {name.removesuffix(option.title()) or name: cls for name, cls in modules.items()}


def _described(cls: type) -> dict[str, str]:
    """Parameter -> its line in the docstring of the class."""
    lines = re.findall(r":param (\w+): (.*?)(?=\n:|\Z)", inspect.getdoc(cls) or "", re.DOTALL)
    return {name: " ".join(text.split()) for name, text in lines}


def parse(parser: Parser, argv: Sequence[str]) -> Namespace:
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
            word = (
                key + sign + (_spelled(parser, options.get("--" + key[2:].replace("-", "_")), value) if sign else value)
            )
            previous = "" if sign else key
        else:
            word, previous = _spelled(parser, options.get("--" + previous[2:].replace("-", "_")), word), ""
        words.append(word)
    try:
        return parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise ValueError(_explained(error, parser, options)) from error


def _spelled(parser: Parser, action: Any, value: str) -> str:
    """A value as the parser wants it: 64,32 for a list, Normal for ppvae.nn.NormalLikelihood."""
    if action is None:
        return value
    if isinstance(action.default, (tuple, list)) and value[:1] not in ("[", "("):
        return f"[{value}]"
    if classes := parser.classes.get(action.dest.removesuffix(".help")):
        long = {f"{cls.__module__}.{cls.__name__}": cls for cls in classes.values()}
        long |= {cls.__name__: cls for cls in classes.values()}
        long |= {f"ppvae.nn.{cls.__name__}": cls for cls in classes.values()}
        cls = (long | classes)[known(value, [*classes, *long], action.dest, show=classes)]
        return f"{cls.__module__}.{cls.__name__}"
    return value


def _explained(error: argparse.ArgumentError, parser: Parser, options: Mapping[str, Any]) -> str:
    """The message of jsonargparse in one line, with the nearest option where one is misspelt."""
    message, where = str(error).strip(), parser.prog.removeprefix("ppvae ")
    shown = {
        o
        for string in options
        for o in [string.replace("_", "-")]
        if string.startswith("--") and not string.endswith("+")
    }
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
        kind = getattr(options.get(f"--{key.replace('_', '-')}", options.get(f"--{key}")), "_typehint", None)
        if get_origin(kind) is Literal and (given := re.search(r"Got value: (.*)", rest)):
            words = ", ".join(map(str, get_args(kind)))
            return f"{where} --{key.replace('_', '-')}: expected one of {words}, got {given[1]}"
        rest = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(rest.split()))
        rest = re.sub(r"Expected an? (.*?)\. Got value: ", r"expected \1, got ", rest)
        if "Subtypes:" in rest:
            kinds = re.search(r"Subtypes: [\[(](.*?)[\])] Errors", rest)
            given = re.search(r"Given value: (.*)", rest)
            if kinds and given:
                rest = f"expected {kinds[1].replace(', NoneType', '').replace('typing.', '')}, got {given[1]}"
        rest = re.sub(r"Literal\[(.*?)\]", lambda match: "one of " + match[1].replace("'", ""), rest)
        return f"{where} --{key.replace('_', '-')}: {rest}"
    if match := re.search(r"Option '(\S+)' is not accepted", message):
        return f"{where} --config: no option {match[1]!r}{_near(match[1], [o[2:].replace('-', '_') for o in shown])}"
    return f"{where}: {' '.join(message.split())}"


def model_name(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The model, which is the first word or stands in the YAML file, and all words with it as an option."""
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        about = any(word.endswith(".help") for word in argv)  # which takes all words behind it
        return argv[0], argv[1:] + ([] if about else ["--model", argv[0]])
    pairs = list(itertools.pairwise([*argv, ""]))
    for word, value in pairs:
        if word == "--model" or word.startswith("--model="):
            return word.partition("=")[2] or value, argv
    for word, value in pairs:
        if word == "--config" or word.startswith("--config="):
            file = Path(word.partition("=")[2] or value)
            name = record(file).get("model")
            if name is None:
                raise ValueError(
                    f"{file}: expected a line `model: NAME`; or name the model: ppvae fit MODEL --config {file}"
                )
            return str(name), argv
    return None, argv


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


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def record(file: Path) -> dict[str, Any]:
    """A YAML file of options, such as the ``run.yaml`` of a run."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    try:
        options = get_loader("yaml")(file.read_text(encoding="utf-8"))
    except Exception as error:  # whatever the YAML parser raises
        raise ValueError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{file}: expected lines `option: value`, got {type(options).__name__}")
    return options
