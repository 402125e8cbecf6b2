"""Who imports whom, read from the source: each part knows only what lies below it."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: part of the library -> the parts that it imports, besides itself
BELOW: dict[str, set[str]] = {
    "checks": set(),
    "data": set(),
    "manifolds": set(),
    "special": set(),
    "lazy": set(),
    "version": set(),
    "turns": set(),
    "transforms": set(),
    "diagnostics": {"checks"},
    "plotting": {"manifolds"},
    "distributions": {"manifolds", "special"},
    "random": {"turns"},
    "nn": {"manifolds", "lazy", "distributions"},
    "infer": {"manifolds", "lazy", "distributions", "random"},
    "isolation": {"turns", "nn"},
    "latents": {"manifolds", "lazy", "distributions", "random", "nn"},
    "metrics": {"checks", "manifolds", "distributions", "infer"},
    "vae": {"random", "infer", "isolation"},
    "models": {"manifolds", "lazy", "distributions", "nn", "latents"},
    "inputs": {"distributions", "infer", "vae"},
    "tracing": {"vae"},
    "io": {"version", "nn", "models"},
    "predict": {"diagnostics", "distributions", "infer", "vae", "inputs", "tracing"},
    "train": {"lazy", "turns", "random", "nn", "infer", "vae", "inputs", "tracing", "io"},
    "samplers": {"checks", "manifolds", "diagnostics", "distributions", "random", "infer", "vae", "inputs", "predict"},
    "callbacks": {"train"},
    "testing": {"manifolds", "random", "nn", "infer", "isolation", "vae", "models", "inputs", "predict", "train"},
}
#: These may import everything, ``ppvae`` itself too.
ON_TOP = {"cli", "report", "__main__", "__init__"}


LAZY = "attach(__name__"


def part(path: Path) -> str:
    """The part of the library that a file belongs to: ppvae/nn/heads.py -> nn, models/x.py -> models."""
    names = path.relative_to(ROOT).with_suffix("").parts
    return names[0] if names[0] == "models" else names[1]


def module(path: Path) -> list[str]:
    """The dotted name of a file's module, as parts; that of models/x.py is ppvae.models.x."""
    names = [*path.relative_to(ROOT).with_suffix("").parts]
    return names if names[0] == "ppvae" else ["ppvae", *names]


def imports(path: Path, *, at_module_level: bool = False) -> set[str]:
    """Dotted names of all modules and members that a file imports."""
    return imported(path.read_text(encoding="utf-8"), module(path), at_module_level)


def imported(source: str, module: list[str], at_module_level: bool = False) -> set[str]:
    """Those of a source, outside ``if TYPE_CHECKING`` unless :func:`ppvae.lazy.attach` runs what stands there."""
    tree = ast.parse(source)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and LAZY not in source
        for statement in node.body
        for inner in ast.walk(statement)
    }
    within_functions = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only or (at_module_level and node in within_functions):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = [*module[: -node.level], *([node.module] if node.module else [])] if node.level else [node.module]
            found |= {".".join([*package, alias.name]) for alias in node.names}
    return found


def arrows(path: Path) -> set[str]:
    """The other parts that a file imports; that of ``import ppvae`` and of its functions is ``__init__``."""
    names = [dotted.split(".") for dotted in imports(path) if dotted.split(".")[0] == "ppvae"]
    parts = {name[1] if len(name) > 1 else "__init__" for name in names}
    return {part if part in BELOW or part in ON_TOP else "__init__" for part in parts} - {part(path)}


@pytest.mark.parametrize(
    ("statement", "dotted"),
    [
        ("import ppvae", "ppvae"),
        ("import ppvae.io as io", "ppvae.io"),
        ("from ppvae.io import save", "ppvae.io.save"),
        ("def f():\n    from ppvae import io", "ppvae.io"),
        ("from . import io", "ppvae.nn.io"),
        ("from .heads import NormalHead", "ppvae.nn.heads.NormalHead"),
        ("from .. import io", "ppvae.io"),
        ("from ..io import save", "ppvae.io.save"),
    ],
)
def test_every_kind_of_import_is_seen(statement, dotted):
    assert imported(statement, ["ppvae", "nn", "pose"]) == {dotted}
    assert imported(f"if TYPE_CHECKING:\n    {statement.splitlines()[-1].strip()}", ["ppvae", "nn", "pose"]) == set()


def test_all_arrows_point_down():
    TopologicalSorter(BELOW).prepare()  # raises CycleError where two parts may import each other


SOURCES = sorted([*(ROOT / "ppvae").rglob("*.py"), *(ROOT / "models").glob("*.py")])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_each_part_imports_only_what_lies_below_it(path):
    here = part(path)
    if here in ON_TOP:
        return
    assert here in BELOW, f"{name(path)}: say in BELOW what the new part {here!r} may import"
    assert arrows(path) <= BELOW[here], f"{name(path)} imports {sorted(arrows(path) - BELOW[here])}"


@pytest.mark.parametrize("path", [path for path in SOURCES if LAZY in path.read_text(encoding="utf-8")], ids=name)
def test_no_lazy_name_is_that_of_a_module(path):
    """Importing the module would put it in the place of the name."""
    names = {dotted.rpartition(".")[2] for dotted in imports(path)}
    assert not names & {found.stem for found in path.parent.iterdir()}


@pytest.mark.parametrize("here", BELOW)
def test_every_arrow_is_drawn_by_some_file(here):
    drawn = set().union(*(arrows(path) for path in SOURCES if part(path) == here))
    assert BELOW[here] <= drawn, f"nothing in {here} imports {sorted(BELOW[here] - drawn)}: remove it from BELOW"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_models_are_imported_only_through_their_table_at_run_time(path):
    dotted = imports(path, at_module_level=True)
    reaches = [d for d in dotted if d == "ppvae.models" or d.startswith(("ppvae.models.", "models"))]
    assert not reaches or part(path) == "models", f"{name(path)} imports {reaches} when it is imported"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_plotting_imports_matplotlib(path):
    if name(path) != "ppvae/plotting.py":
        assert not [dotted for dotted in imports(path) if dotted.split(".")[0] in ("matplotlib", "pylab")]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_global_state_is_changed(path):
    """Seeds, defaults, validation and warnings are set in contexts that restore them, or not at all."""
    forbidden = {
        "torch.manual_seed",
        "torch.set_default_dtype",
        "torch.set_default_device",
        "torch.set_num_threads",
        "pyro.set_rng_seed",
        "pyro.enable_validation",
        "pyro.clear_param_store",
        "np.random.seed",
        "random.seed",
        "warnings.simplefilter",
        "warnings.filterwarnings",
    }
    restored = {
        inner
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.With)
        for item in node.items
        if re.search(r"fork_rng|catch_warnings|\.scope\(", ast.unparse(item))
        for inner in calls(node)
    }
    if name(path) == "ppvae/turns.py":  # a session puts back what it changes at the end of its turn
        return
    found = calls(ast.parse(path.read_text(encoding="utf-8"))) - restored
    assert not {call for call in found if call[0] in forbidden}


def calls(tree: ast.AST) -> set[tuple[str, int]]:
    """Name and line of every call."""
    return {(ast.unparse(n.func), n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Call)}
