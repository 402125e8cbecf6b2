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
from typing import Any, Literal, Union, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, get_loader

#: Options of a model that name a class of ppvae.nn.
HEADS = ("likelihood", "head")


def command_parser(command: str, words: str, function: Callable) -> ArgumentParser:
    """A parser without options for a command, described by the first paragraphs of a docstring."""
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


def fit_parser(name: str) -> ArgumentParser:
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
        help="greatest value a pixel can have, by which data are divided; known for named images",
    )
    group.add_argument(
        "--binarize",
        type=Literal["none", "threshold", "dynamic"] | None,
        metavar="{none,threshold,dynamic}",
        help="from intensities in [0, 1] to 0 and 1: at 1/2 (threshold), or at random, anew at each step (dynamic). "
        "Where not given: dynamic for named images with a Bernoulli likelihood, else none",
    )
    own = model_options(cls)
    taken = sorted(set(own) & ({action.dest for action in parser._actions} | set(fit_options())))
    if taken:
        raise ValueError(
            f"{name}: its options {', '.join(taken)} are also options of training or data; train it from Python"
        )
    described, heads = _described(cls), [option for option in own if option in HEADS]
    group = parser.add_argument_group(f"model: {name}")
    group.add_class_arguments(cls, as_group=False, skip=set(inspect.signature(cls).parameters) - set(own) | set(heads))
    for option in heads:
        classes = _classes(option)
        short = ", ".join(name.removesuffix(option.title()) for name in classes)
        group.add_argument(
            f"--{option}",
            type=Union[*classes.values(), None],
            metavar="NAME",
            help=f"{described.get(option, '')} NAME is one of {short}; its options are --{option}.OPTION, "
            f"see --{option}.help NAME",
        )
    group = parser.add_argument_group("training")
    import ppvae.train

    everything = set(inspect.signature(ppvae.train.fit).parameters)
    group.add_function_arguments(ppvae.train.fit, as_group=False, skip={*everything - set(fit_options()), "device"})
    group.add_argument("--device", type=str | None, help="where to train, e.g. cuda; the CPU where not given")
    parser.set_defaults(seed=0)
    return parser


def fit_options() -> list[str]:
    """The parameters of :func:`ppvae.fit` that a word can say."""
    import ppvae.train

    objects = {"vae", "data", "validation", "objective", "optimizer", "dtype", "callbacks"}
    return [name for name in inspect.signature(ppvae.train.fit).parameters if name not in objects]


def model_options(cls: type) -> list[str]:
    """The parameters of a model that a word can say: all but the shape, which the data have, and networks."""
    return [name for name in inspect.signature(cls).parameters if name not in ("shape", "encoder", "decoder")]


def _classes(option: str) -> dict[str, type]:
    """The classes of :mod:`ppvae.nn` that an option can be, by name: a ``likelihood`` is a ``...Likelihood``."""
    import ppvae.nn

    names = [name for name in ppvae.nn.__all__ if name.endswith(option.title()) and name != option.title()]
    return {name: getattr(ppvae.nn, name) for name in names}


def _described(cls: type) -> dict[str, str]:
    """Parameter -> its line in the docstring of the class."""
    lines = re.findall(r":param (\w+): (.*?)(?=\n:|\Z)", inspect.getdoc(cls) or "", re.DOTALL)
    return {name: " ".join(text.split()) for name, text in lines}


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
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
    if action.dest in HEADS and re.fullmatch(r"(ppvae\.nn\.)?\w+", value):
        suffix, names = action.dest.title(), _classes(action.dest)
        short = [name.removesuffix(suffix) for name in names]
        name = known(value.removeprefix("ppvae.nn."), [*names, *short], action.dest, show=short)
        return f"ppvae.nn.{name if name in names else name + suffix}"
    return value


def _explained(error: argparse.ArgumentError, parser: ArgumentParser, options: Mapping[str, Any]) -> str:
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
        return argv[0], [*argv[1:], "--model", argv[0]]
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
