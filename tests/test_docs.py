"""The documentation is true: README's blocks and the lines of docs/pythae.md run, and links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.distributions import Normal

import ppvae
import ppvae.infer
import ppvae.nn
from ppvae import models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

#: What makes README's Python short. Each pattern must be found.
SHORT = {
    r"epochs=\d+": "epochs=1",
    r"sample\(\(\d+,\)\)": "sample((64,))",
    r"ppvae\.posterior\((.*?)\)": r"ppvae.posterior(\1, num_samples=20, warmup=20)",
}
#: What makes README's commands short: bash reads it before each block.
SHORT_COMMANDS = """
ppvae() {
    case "$* " in
        *--help*) ;;
        "fit "*) set -- "$@" --epochs 1 --progress false ;;
        "posterior "*) set -- "$@" --num-samples 20 --warmup 20 ;;
    esac
    "$PYTHON" -m ppvae "$@"
}
"""


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_every_block_of_readme_has_a_language_that_is_run():
    assert {name for name, _ in BLOCKS} == {"python", "sh"}


@pytest.mark.filterwarnings("ignore:the chains have not mixed")  # nor are they to, of 20 draws
def test_python_of_readme(tmp_path, monkeypatch):
    """The blocks run in order, in one module, as a reader would paste them."""
    text = "\n".join(blocks("python"))
    for pattern, short in SHORT.items():
        text, found = re.subn(pattern, short, text)
        assert found, f"README has no {pattern} to shorten: change SHORT with it"
    assert len(re.findall(r"ppvae\.fit\(", text)) == text.count("epochs=1,"), "a fit of README is not shortened"
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(compile(text, "README.md", "exec"), {})
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_commands_of_readme(tmp_path):
    """Each block that is not of make runs as it stands, in an empty folder."""
    commands = [text for text in blocks("sh") if not text.startswith("make ")]
    assert commands
    for text in commands:
        subprocess.run(
            ["bash", "-euc", SHORT_COMMANDS + text],
            cwd=tmp_path,
            env={**os.environ, "PYTHON": sys.executable},
            check=True,
        )
    assert (tmp_path / "runs/a/report.html").is_file()


PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"\b((?:benchmarks|docs|models|ppvae|tests|tools|tutorials)/[\w/.-]+\.\w+)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}, and there is no {file}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}; {file.name} has {sorted(anchors(file))}"
    for name in FILE.findall(text):
        made_up = "/my_" in name  # as in "write models/my_vae.py"
        assert made_up or (ROOT / name).exists(), f"{page.name} names {name}, which does not exist"


PAGE = (ROOT / "docs" / "pythae.md").read_text(encoding="utf-8")
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
