"""Packages that import each of their names on first use, so that ``import ppvae`` is instant and loads no torch.

Such a package lists its names once, as imports that only type checkers run::

    if TYPE_CHECKING:
        from ppvae.io import load, save
    else:
        __getattr__, __dir__ = attach(__name__)
"""

import ast
import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def attach(
    package: str, names: Mapping[str, str] | None = None, modules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package, which find its names and its modules.

    :param package: the package's ``__name__``.
    :param names: name -> the module that has it; by default what the package imports under ``if TYPE_CHECKING``.
    :param modules: modules of the package that lie outside its folder.
    """
    module = sys.modules[package]
    places = _typing_imports(module) if names is None else names

    def all_modules() -> set[str]:
        return {*modules, *(found.name for found in iter_modules(module.__path__) if not found.name.startswith("_"))}

    def getattr_(name: str) -> Any:
        if name in places:
            return getattr(import_module(places[name]), name)
        if name in all_modules():
            return import_module(f"{package}.{name}")
        near = difflib.get_close_matches(name, dir_(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}", name=name)

    def dir_() -> list[str]:
        return sorted({*places, *all_modules(), *(name for name in vars(module) if name.startswith("__"))})

    return getattr_, dir_


def _typing_imports(module: Any) -> dict[str, str]:
    """name -> module, of the imports under ``if TYPE_CHECKING`` in the source of a module."""
    source = ast.parse(module.__spec__.loader.get_source(module.__name__))
    blocks = [node for node in source.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
