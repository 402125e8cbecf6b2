"""What a word can say to a class or a function: its options, from signature and docstring, and their values.

Classes of ppvae are read from their source where that is enough, so that ``--help`` needs no torch.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import find_spec
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, get_args, get_origin

#: The default of an option that must be given.
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One parameter of a class or function.

    :param kinds: what its value may be, of int, float, str, bool, None, ``Sequence[...]`` and ``Literal[...]``; empty
        for what no word can say, such as a network.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    help: str

    @property
    def plain(self) -> bool:
        """Whether a word can say its value."""
        return any(kind is not None for kind in self.kinds)


@dataclass(frozen=True)
class Signature:
    """The options of a class or function, what it is in a sentence, and where the heads of a VAE may live."""

    summary: str
    options: dict[str, Option]
    space: tuple[str, ...] = ()


def signature(place: str) -> Signature:
    """The signature of the class or function at ``package.module:Name``."""
    return _from_source(place) or _from_object(load(place))


def load(place: str) -> Any:
    """The class or function at ``package.module:Name``, whose module is imported; it may lie in the working directory.

    :raises ValueError: if there is no such module, or no such name in it.
    """
    module, _, name = place.partition(":")
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))  # last, so that no file there stands in for an installed module
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise ValueError(f"{place}: there is no module {error.name}; expected package.module:Class") from error
    finally:
        sys.path[:] = before
    if not hasattr(found, name):
        raise ValueError(f"{place}: the module {module} has no {name}")
    return getattr(found, name)


def _from_source(place: str) -> Signature | None:
    """The signature of a class or function of ppvae, if its source says all of it."""
    module, _, name = place.partition(":")
    spec = find_spec(module) if module.startswith("ppvae.") else None
    if spec is None or not isinstance(spec.loader, InspectLoader):
        return None
    body = ast.parse(spec.loader.get_source(module) or "").body
    found = {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}.get(name)
    constants = {**_constants(body), **(_constants(found.body) if isinstance(found, ast.ClassDef) else {})}
    init = found
    if isinstance(found, ast.ClassDef):
        init = {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}.get("__init__")
    if found is None or not isinstance(init, ast.FunctionDef):
        return None  # it stands elsewhere, or inherits its options
    positional = [*init.args.posonlyargs, *init.args.args]
    defaults = [None] * (len(positional) - len(init.args.defaults)) + init.args.defaults + init.args.kw_defaults
    doc, options = ast.get_docstring(found) or "", {}
    lines = _param_lines([doc])
    for argument, default in zip([*positional, *init.args.kwonlyargs], defaults, strict=True):
        if argument.arg == "self":
            continue
        value = constants.get(default.id, REQUIRED) if isinstance(default, ast.Name) else _literal(default)
        options[argument.arg] = Option(argument.arg, _kinds(argument.annotation), value, lines.get(argument.arg, ""))
    if not all(option.help for option in options.values() if option.plain):
        return None
    return Signature(_summary(doc), options, constants.get("space", ()))


def _constants(body: Sequence[ast.stmt]) -> dict[str, Any]:
    """The plain values to which statements set names."""
    pairs = [(node.targets[0], node.value) for node in body if isinstance(node, ast.Assign)]
    found = {target.id: _literal(value) for target, value in pairs if isinstance(target, ast.Name)}
    return {name: value for name, value in found.items() if value is not REQUIRED}


def _literal(node: ast.expr | None) -> Any:
    try:
        return REQUIRED if node is None else ast.literal_eval(node)
    except ValueError:
        return REQUIRED


def _from_object(found: Any) -> Signature:
    lines = _param_lines([inspect.getdoc(found) or "", *(cls.__doc__ or "" for cls in getattr(found, "__mro__", ()))])
    options = {}
    for name, parameter in inspect.signature(found).parameters.items():
        kind = parameter.annotation
        text = kind if isinstance(kind, str) else "" if kind is REQUIRED else inspect.formatannotation(kind)
        node = ast.parse(text, mode="eval").body if text else None
        options[name] = Option(name, _kinds(node), parameter.default, lines.get(name, ""))
    space = getattr(found, "space", ())
    return Signature(_summary(inspect.getdoc(found) or ""), options, (space,) if isinstance(space, str) else space)


def _summary(doc: str) -> str:
    return _words(doc.partition("\n\n")[0])


def _words(text: str) -> str:
    """A docstring's text in one line, without its markup."""
    text = re.sub(r":math:`(.*?)`", r"\1", " ".join(text.split()))
    return re.sub(r":\w+:`[~.\w]*?(\w+)`", r"\1", text).replace("``", "").replace("\\*", "*")


def _param_lines(docs: Iterable[str]) -> dict[str, str]:
    """parameter -> its ``:param`` line in the first docstring that has one, in words for the command line."""
    lines: dict[str, str] = {}
    for doc in docs:
        for name, text in re.findall(r":param (\w+): (.*?)(?=\n *:|\n *\n|\Z)", doc, re.DOTALL):
            text = re.sub(r"\b(if|where) None\b", "by default", _words(text).rstrip("."))
            lines.setdefault(name, re.sub(r"\b(If|Where) None\b", "By default", text))
    return lines


_PLAIN = {"int": int, "float": float, "str": str, "bool": bool}


def _kinds(node: ast.expr | None) -> tuple[Any, ...]:
    """What an annotation leaves a word to say, type by type of a union."""
    match node:
        case ast.Constant(value) if value is None or value is Ellipsis:
            return (value,)
        case ast.Constant(str(text)):  # a quoted annotation
            return _kinds(ast.parse(text, mode="eval").body)
        case ast.BinOp(left, ast.BitOr(), right):
            return (*_kinds(left), *_kinds(right))
        case ast.Name(name):
            return (_PLAIN[name],) if name in _PLAIN else ()
        case ast.Subscript(ast.Name(name) | ast.Attribute(attr=name), inner):
            parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
            if name in ("Optional", "Union"):
                return (*(kind for part in parts for kind in _kinds(part)), *([None] if name == "Optional" else []))
            if name == "Literal":
                return (Literal[tuple(ast.literal_eval(part) for part in parts)],)
            if name in ("Sequence", "tuple", "list"):
                # One plain kind of items, written Sequence[int] or tuple[int, ...]; () stands for what is not plain.
                items = {kind for part in parts for kind in _kinds(part) or ((),)} - {...}
                return (GenericAlias(Sequence, (*items,)),) if len(items) == 1 and items <= {*_PLAIN.values()} else ()
    return ()


def value(kinds: Sequence[Any], given: Any) -> Any:
    """A word, or a value that stands in a YAML file, as one of some kinds.

    >>> value((Sequence[int],), "64,32"), value((float, None), "null"), value((Literal["auto", False],), "false")
    ((64, 32), None, False)

    :raises ValueError: if it is none of them.
    """
    wanted = [kind for kind in kinds if kind is not None]
    if None in kinds and (given is None or (str(given).lower() in ("none", "null") and not _literal_words(wanted))):
        return None
    errors = []
    for kind in sorted(wanted, key=lambda kind: kind is str):  # which takes every word, and so comes last
        try:
            return _as(kind, given)
        except ValueError as error:
            errors.append(error)
    raise errors[0] if len(errors) == 1 else ValueError(f"expected {kind_words(wanted)}, got {given}")


def _as(kind: Any, given: Any) -> Any:
    word = isinstance(given, str)
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if str(choice).lower() == str(given).lower():
                return choice
    elif get_origin(kind) is Sequence:
        items = [item.strip() for item in given.strip("[]() ").split(",") if item.strip()] if word else given
        if isinstance(items, list | tuple):
            return tuple(_as(get_args(kind)[0], item) for item in items)
    elif kind is bool:
        if str(given).lower() in ("true", "false"):
            return str(given).lower() == "true"
    elif word or (isinstance(given, int | float) and not isinstance(given, bool)):
        with suppress(ValueError, OverflowError):
            if word or kind(given) == given:
                return kind(given)
    raise ValueError(f"expected {kind_words([kind])}, got {given}")


def _literal_words(kinds: Sequence[Any]) -> bool:
    return any("none" in map(str, get_args(kind)) for kind in kinds if get_origin(kind) is Literal)


def kind_words(kinds: Sequence[Any]) -> str:
    """Kinds in words: ``int or one of auto, False``.

    >>> kind_words([Sequence[int], None])
    'Sequence[int]'
    """

    def words(kind: Any) -> str:
        if get_origin(kind) is Literal:
            return f"one of {', '.join(map(str, get_args(kind)))}"
        return f"Sequence[{get_args(kind)[0].__name__}]" if get_origin(kind) is Sequence else kind.__name__

    return " or ".join(words(kind) for kind in kinds if kind is not None)
