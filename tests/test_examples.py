"""The examples in the docstrings of networks and models run, and every public class and function has one."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import ppvae.models
import pytest
import torch

import ppvae.nn

ROOT = Path(__file__).parents[1]
MODULES = [f"ppvae.nn.{file.stem}" for file in sorted((ROOT / "ppvae" / "nn").glob("[a-z]*.py"))]
MODULES += [f"ppvae.models.{file}" for file in dict.fromkeys(file for file, _ in ppvae.models.TABLE.values())]
MODULES += ["ppvae.models", "ppvae.cli.signatures"]
PUBLIC = {
    f"{part.__module__}.{part.__qualname__}": part
    for module in MODULES[:-1]
    for name, part in vars(import_module(module)).items()
    if (inspect.isclass(part) or inspect.isfunction(part)) and part.__module__ == module and not name.startswith("_")
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_there_is_an_example(name):
    assert ">>> " in (PUBLIC[name].__doc__ or "")
