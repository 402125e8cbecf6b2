"""The package as users get it: what import costs, what the archives hold, how VAEs are found."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import ppvae.models
import pytest

import ppvae

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python(code: str, **kwargs) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, **kwargs
    ).stdout


def in_a_bare_checkout() -> bool:
    return not list(importlib.metadata.distributions(name="ppvae"))


def test_import_ppvae_loads_no_torch():
    loaded = python("import sys, ppvae; dir(ppvae); print(*sorted({m.split('.')[0] for m in sys.modules}))").split()
    assert "ppvae" in loaded
    assert not {"torch", "pyro", "numpy", "arviz", "geoopt", "scipy", "matplotlib"} & set(loaded)


def test_a_first_model_loads_torch_and_pyro_and_nothing_else_that_is_heavy():
    models = "ppvae.__path__.append('.'); " if in_a_bare_checkout() else ""
    code = f"import sys, ppvae; {models}from ppvae.models import SphericalVAE; print(*sys.modules)"
    loaded = set(python(code).split())
    assert {"torch", "pyro"} <= loaded
    heavy = {"arviz", "matplotlib", "geoopt", "scipy", "pandas", "xarray", "sklearn", "sympy"}
    assert not (heavy | {"torch._dynamo", "torch._inductor"}) & loaded


def test_listing_the_models_and_the_data_loads_no_torch():
    code = """
import sys, runpy, ppvae
ppvae.__path__.append('.')
import ppvae.models, ppvae.data
[ppvae.models.summary(name) for name in ppvae.models.names()], ppvae.data.names()
print('torch' in sys.modules)
"""
    assert python(code).split() == ["False"]


def test_every_public_name_resolves():
    for name in ppvae.__all__:
        assert callable(getattr(ppvae, name)), name
    assert set(ppvae.__all__) <= set(dir(ppvae))


@pytest.mark.parametrize(
    ("module", "typo", "meant"),
    [
        (ppvae, "log_likelyhood", "log_likelihood"),
        (ppvae, "distribution", "distributions"),
        (ppvae.models, "SphereVAE", "SphericalVAE"),
    ],
)
def test_a_typo_names_the_nearest_name(module, typo, meant):
    with pytest.raises(AttributeError, match=f"no attribute '{typo}'; did you mean '{meant}'"):
        getattr(module, typo)


def test_every_module_is_an_attribute_of_ppvae():
    modules = ("data", "distributions", "infer", "manifolds", "models", "nn", "plotting", "predict", "train")
    assert set(modules) <= set(dir(ppvae))
    code = f"import ppvae; [print(getattr(ppvae, name).__name__) for name in {modules!r}]"
    code = "import ppvae; ppvae.__path__.append('.'); " + code if in_a_bare_checkout() else code
    assert python(code).split() == [f"ppvae.{name}" for name in modules]


def test_packages_are_those_on_disk():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "ppvae").rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"ppvae.models"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages
    for folder in folders:
        assert (ROOT / folder / "__init__.py").exists(), f"{folder} needs an __init__.py"


def test_the_models_on_disk_are_those_in_the_table():
    files = {path.stem for path in (ROOT / "models").glob("*.py")} - {"__init__"}
    assert {file for file, _ in ppvae.models.TABLE.values()} == files


@pytest.mark.parametrize("name", ppvae.models.names())
def test_models_are_found_by_name_and_by_class(name):
    cls = ppvae.models.find(name)
    assert getattr(ppvae.models, cls.__name__) is cls
    assert len(ppvae.models.summary(name)) > 10
    assert cls.__module__ == f"ppvae.models.{ppvae.models.TABLE[name][0]}"


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match="no VAE is named 'sperical-vae'; did you mean 'spherical-vae'"):
        ppvae.models.find("sperical-vae")


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """A function that installs a package with one VAE under the given name."""

    def install(name: str) -> None:
        (tmp_path / "other_package.py").write_text("class OtherVAE: ...\n")
        info = tmp_path / "other_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ppvae.models]\n{name} = other_package:OtherVAE\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_another_package_adds_a_model(other_package):
    other_package("other-vae")
    assert ppvae.models.names() == [*ppvae.models.TABLE, "other-vae"]
    assert ppvae.models.find("other-vae").__name__ == "OtherVAE"
    assert ppvae.models.summary("other-vae") == "other_package:OtherVAE, from another package"


def test_two_models_of_one_name_are_refused(other_package):
    other_package("gaussian-vae")
    with pytest.raises(ValueError, match="2 VAEs are named 'gaussian-vae'"):
        ppvae.models.find("gaussian-vae")


def test_the_version_of_the_installed_package_is_that_of_the_source():
    if in_a_bare_checkout():
        pytest.skip("nothing is installed")
    assert importlib.metadata.version("ppvae") == ppvae.__version__


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The names of the files in the wheel and in the sdist, built from a copy of the checkout."""
    build = pytest.importorskip("build")
    copy = tmp_path_factory.mktemp("archives") / "ppvae"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    )

    def quietly(command, cwd, extra_environ):
        subprocess.run(command, cwd=cwd, env=os.environ | extra_environ, check=True, capture_output=True)

    builder = build.ProjectBuilder(copy, runner=quietly)
    with zipfile.ZipFile(builder.build("wheel", copy / "dist")) as wheel:
        wheel_names = set(wheel.namelist())
    with tarfile.open(builder.build("sdist", copy / "dist")) as sdist:
        sdist_names = {member.split("/", 1)[-1] for member in sdist.getnames()}
    return wheel_names, sdist_names


def test_the_wheel_holds_the_library_the_models_and_the_data_and_no_more(archives):
    wheel, _ = archives
    library = {str(path.relative_to(ROOT)) for path in (ROOT / "ppvae").rglob("*.py")}
    for pattern in ("*.html", "py.typed", "data/*.npz"):
        library |= {str(path.relative_to(ROOT)) for path in (ROOT / "ppvae").glob(pattern)}
    models = {f"ppvae/models/{path.name}" for path in (ROOT / "models").glob("*.py")}
    assert {name for name in wheel if ".dist-info/" not in name} == library | models
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_sdist_holds_what_the_tests_need(archives):
    _, sdist = archives
    for folder in ("ppvae", "models", "tests", "tools", "tutorials", "benchmarks"):
        files = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}
        assert files <= sdist, files - sdist
    assert {"pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "README.md", "CHANGELOG.md"} <= sdist
