"""The examples in the docstrings of metrics, divergences and diagnostics run, and every public function has one."""

import doctest
import inspect
from importlib import import_module

import pytest

MODULES = [
    "ppvae.checks",
    "ppvae.diagnostics",
    "ppvae.infer.divergences",
    "ppvae.metrics.classification",
    "ppvae.metrics.clustering",
    "ppvae.metrics.distances",
    "ppvae.metrics.embedding",
    "ppvae.metrics.features",
    "ppvae.metrics.generation",
    "ppvae.metrics.homeomorphism",
    "ppvae.metrics.invariance",
    "ppvae.samplers.centroids",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = import_module(name)
    assert doctest.testmod(module).failed == 0
    functions = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == name]
    without = [f.__name__ for f in functions if not f.__name__.startswith("_") and ">>>" not in (f.__doc__ or "")]
    assert not without, f"expected an example in each docstring, got none in {without}"
