"""Who imports whom, read from the source: each part knows only what lies below it."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BASE = {"distributions", "manifolds", "special", "random"}
#: part of the library -> the parts that it may import, besides itself
BELOW = {
    "random": set(),
    "special": set(),
    "manifolds": {"special"},
    "distributions": {"manifolds", "special"},
    "transforms": BASE,
    "nn": BASE | {"transforms"},
    "latents": BASE | {"nn"},
    "models": BASE | {"nn", "latents"},
    "infer": BASE,
    "isolation": {"nn"},
    "vae": BASE | {"infer", "isolation"},
    "inputs": BASE | {"infer", "vae"},
    "diagnostics": BASE | {"infer"},
    "samplers": BASE | {"infer", "vae", "inputs", "predict", "diagnostics"},
    "predict": BASE | {"infer", "vae", "inputs", "diagnostics", "steps"},
    "metrics": BASE | {"infer", "inputs"},
    "checkpoint": {"io"},
    "steps": BASE | {"infer", "vae"},
    "parallel": BASE | {"infer", "vae", "steps"},
    "train": BASE | {"parallel", "infer", "isolation", "vae", "inputs", "predict", "checkpoint", "steps"},
    "callbacks": {"io", "train"},
    "io": {"models", "nn"},
    "data": set(),
    "plotting": BASE,
    "testing": BASE | {"models", "nn", "infer", "isolation", "vae", "inputs", "predict", "train", "io"},
}
ON_TOP = {"cli", "report", "__main__", "__init__"}


def part(path: Path) -> str:
    """The part of the library that a file belongs to: ppvae/nn/heads.py -> nn, models/x.py -> models."""
    names = path.relative_to(ROOT).with_suffix("").parts
    return names[0] if names[0] == "models" else names[1]


def imports(path: Path, *, at_module_level: bool = False) -> set[str]:
    """Dotted names of all modules and members that a file imports, outside ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
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
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute, or models/ breaks once installed"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


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
    parts = {dotted.split(".")[1] for dotted in imports(path) if dotted.startswith("ppvae.")}
    assert parts - {here} <= BELOW[here], f"{name(path)} imports {sorted(parts - {here} - BELOW[here])}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_models_are_imported_only_through_their_table_at_run_time(path):
    dotted = imports(path, at_module_level=True)
    reaches = [d for d in dotted if d == "ppvae.models" or d.startswith(("ppvae.models.", "models"))]
    assert not reaches, f"{name(path)} imports {reaches} when it is imported"


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
    if name(path) == "ppvae/isolation.py":  # a session puts back what it changes at the end of its turn
        return
    found = calls(ast.parse(path.read_text(encoding="utf-8"))) - restored
    assert not {call for call in found if call[0] in forbidden}


def calls(tree: ast.AST) -> set[tuple[str, int]]:
    """Name and line of every call."""
    return {(ast.unparse(n.func), n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Call)}
