"""The examples of the docstrings run, and every public name has one."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

PUBLIC = (
    "ppvae",
    "ppvae.data",
    "ppvae.distributions",
    "ppvae.infer",
    "ppvae.manifolds",
    "ppvae.metrics",
    "ppvae.models",
    "ppvae.nn",
    "ppvae.plotting",
    "ppvae.report",
    "ppvae.samplers",
    "ppvae.testing",
    "ppvae.transforms",
)
#: Public names that have no example yet. The list only shrinks: the test fails for a name that has one or is gone.
WITHOUT_EXAMPLE: dict[str, str] = {
    "ppvae": "decode encode generate guide_laws log_likelihood posterior reconstruct riemannian_metric",
    "ppvae.infer": """
        CIWAE_ELBO ELBO IWAE_ELBO MIWAE_ELBO PIWAE_ELBO BatchedHMC BatchedMCMC Beta_ELBO Capacity_ELBO
        CenterMessenger CodeNorm Continuity Cycle DReG_ELBO DecoderGradient EnumeratedELBO Equivariance
        FreeBits_ELBO IndependenceMetropolis InfoVAE_ELBO Invariance LabelTerm PriorMessenger Regularized
        TensorELBO TotalCorrelation_ELBO
    """,
    "ppvae.manifolds": "Lift Unrolled",
    "ppvae.metrics": "PRDC EmbeddingReport",
    "ppvae.samplers": """
        CentroidMixture Interpolation Mass Posterior RiemannianVolume Samples aggregate_posterior fit_flow
        fit_mixture flow interpolate jitter mixture posterior prior pullback_metric riemannian
        riemannian_metric
    """,
}


def modules() -> list[str]:
    """Every module of the library, ``models/`` among them, which lies beside ``ppvae/`` in a checkout."""
    found = []
    for package in map(import_module, ("ppvae", "ppvae.models")):
        folder = Path(inspect.getfile(package)).parent
        for file in sorted(folder.rglob("*.py")):
            names = file.relative_to(folder).with_suffix("").parts
            if names[-1] != "__main__":
                found.append(".".join((package.__name__, *names)).removesuffix(".__init__"))
    return list(dict.fromkeys(found))  # once installed, ppvae/ holds models/


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    return [test for name in modules() for test in finder.find(import_module(name), name) if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example(example, tmp_path, monkeypatch):
    """Each runs alone, in a folder of its own, with torch's generator started from 0."""
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not failed, "".join(report)


def public() -> dict[str, Any]:
    """Dotted name -> class or function; tables, constants and constraints need no example."""
    found = {}
    for module in map(import_module, PUBLIC):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found[f"{module.__name__}.{name}"] = value
    return found


def has_example(value: Any) -> bool:
    """Whether an object has an example of its own, not one that its class inherits."""
    if not inspect.isclass(value):
        return ">>>" in (value.__doc__ or "")
    own = vars(value)
    return any(">>>" in (text or "") for text in (own.get("__doc__"), getattr(own.get("__init__"), "__doc__", None)))


def test_every_public_name_has_an_example():
    missing = {name for name, value in public().items() if not has_example(value)}
    listed = {f"{module}.{name}" for module, names in WITHOUT_EXAMPLE.items() for name in names.split()}
    new, done = sorted(missing - listed), sorted(listed - missing)
    assert not new, f"add an example (>>>) to the docstrings of {', '.join(new)}"
    assert not done, f"take out of WITHOUT_EXAMPLE, as they have an example or are not public: {', '.join(done)}"
