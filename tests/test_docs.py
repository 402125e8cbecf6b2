"""The lines of code in docs/pythae.md run as they are, each on its own model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.distributions import Normal

import ppvae
import ppvae.infer
import ppvae.nn
from ppvae import models

PAGE = (Path(__file__).parents[1] / "docs" / "pythae.md").read_text(encoding="utf-8")
LINES = [code for row in PAGE.splitlines() if row.startswith("| ") for code in re.findall(r"`([a-z][^`]*\(.*?)`", row)]
SHAPE = (6,)
X = (torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(0)) > 0.5).float().numpy()


def names() -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(ppvae.infer, name) for name in ppvae.infer.__all__}
    found |= {name: getattr(ppvae.nn, name) for name in ppvae.nn.__all__}
    found |= {name: getattr(models, name) for name in models.__all__}
    found |= {name: getattr(ppvae, name) for name in ("generate", "samplers", "riemannian_metric")}
    return {**found, "Normal": Normal, "torch": torch, "shape": SHAPE, "x": X, "N": len(X)}


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = models.GaussianVAE(SHAPE, 2, (8,))
    ppvae.fit(vae, X, epochs=2, seed=0, progress=False)
    return vae


def test_there_are_lines():
    assert len(LINES) > 20


@pytest.mark.filterwarnings("ignore:the chains have not mixed")  # nor are they to, of 16 draws
@pytest.mark.parametrize("line", LINES)
def test_line(line, vae):
    def fit(vae, x, **options):
        return ppvae.fit(vae, x, epochs=2, progress=False, seed=0, **options)

    result = eval(line, {**names(), "fit": fit, "vae": vae})
    if line.startswith("fit"):
        assert len(result.history["loss"]) == 2
