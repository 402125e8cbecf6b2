"""The report: one file, complete in itself, that shows what it was given."""

import importlib.util
import itertools
import re
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from torch.distributions import constraints

import ppvae
from ppvae import report
from ppvae.manifolds import sphere

rng = np.random.default_rng(0)
N = 50


@dataclass
class Estimate:
    values: np.ndarray
    error: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        return float(self.values.std(ddof=1) / len(self.values) ** 0.5)


HARD = rng.normal(size=N)
IMAGES = rng.random((4, 1, 8, 8))


def run(name: str, m: int = 2, shift: float = 0.0, **changes) -> report.Run:
    z = rng.normal(size=(N, m))
    given: dict[str, Any] = {
        "history": {"epoch": [1.0, 2.0], "elbo": [-9.0, -8.0], "reconstruction": [-8.0, -7.0], "kl": [1.0, 1.0]},
        "images": IMAGES,
        "reconstructions": rng.random((4, 1, 8, 8)),
        "samples": rng.random((9, 1, 8, 8)),
        "latents": {"z": z / np.linalg.norm(z, axis=1, keepdims=True) if m == 3 else z},
        "manifolds": {"z": sphere if m == 3 else constraints.real_vector},
        "labels": np.arange(N) % 3,
        "log_likelihood": Estimate(
            HARD - 30 + shift + 0.01 * rng.normal(size=N), np.full(N, 0.1), np.full(N, 77.0), np.linspace(0, 1, N)
        ),
        "elbo": HARD - 31,
        "kl": np.abs(rng.normal(size=N)),
        "test_data": "50 test data of somewhere",
        "options": {"dim": m, "note": "<b> & more"},
    }
    return report.Run(name, **given | changes)


class Page(HTMLParser):
    """Tags, text and images of a page; every element that is opened is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The page of two models, the second better by one nat."""
    folder = tmp_path_factory.mktemp("report") / "deep"
    return page(report.write(folder / "report.html", [run("flat"), run("round", 3, 1.0)], "A title", "ppvae demo"))


def test_the_file_loads_nothing_from_elsewhere(two):
    assert two.links and all(link.startswith("data:") for link in two.links)
    assert "script" not in two.tags and "iframe" not in two.tags


def test_every_picture_has_an_alternative_text(two):
    # One of estimates, of curves, of reconstructions (shared, as the images are the same); two of samples and latents.
    assert len(two.images) == 7
    assert all(len(image["alt"]) > 10 for image in two.images)


def test_headings_descend_one_level_at_a_time(two):
    levels = [int(tag[1]) for tag in two.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_table_has_the_estimates_and_their_errors(two):
    low, error = HARD.mean() - 30, HARD.std(ddof=1) / N**0.5
    for name, shift in (("flat", 0), ("round", 1)):
        value, bar, ess = re.search(rf"{name} −([\d.]+) ± ([\d.]+) .*? ([\d]+) 30.0%", two.text).groups()
        assert abs(-float(value) - low - shift) < 0.02 and abs(float(bar) - error) < 0.01 and ess == "77"
    assert "30.0%" in two.text  # 15 of 50 values of linspace(0, 1) exceed 0.7
    assert "Monte Carlo standard error of the mean log-likelihood (nats): flat 0.014" in two.text  # 0.1 / sqrt(50)


def test_the_paired_difference_is_far_sharper_than_the_errors_of_the_means(two):
    mean, error = re.search(r"round − flat \+([\d.]+) ± ([\d.]+)", two.text).groups()
    assert abs(float(mean) - 1) < 0.01 and float(error) < 0.01
    assert "round gives the test data a higher likelihood" in two.text


def test_text_of_the_user_is_escaped(two):
    assert "<b> & more" in two.text and "b" not in two.tags


def test_paired_difference_is_that_of_the_formula():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, 7.0])
    mean, error = report.paired_difference(a, b)
    assert mean == pytest.approx(4 / 3)
    assert error == pytest.approx(np.sqrt(((1 - 4 / 3) ** 2 + (4 / 3) ** 2 + (3 - 4 / 3) ** 2) / (3 * 2)))
    with pytest.raises(ValueError, match="two arrays of one shape"):
        report.paired_difference(a, b[:2])


def test_models_measured_on_other_data_are_not_compared(tmp_path):
    other = run("round", 3, 1.0, test_data="50 other data")
    text = page(report.write(tmp_path / "r.html", [run("flat"), other])).text
    assert "not measured on the same test data" in text and "higher likelihood, by" not in text
    assert "flat: 50 test data of somewhere; round: 50 other data" in text


def test_a_run_with_nothing_but_a_name_is_reported(tmp_path):
    bare = page(report.write(tmp_path / "r.html", [report.Run("bare")]))
    assert "bare not evaluated" in bare.text and not bare.images


def test_several_latent_sites_and_vector_data(tmp_path):
    sites = {"z": rng.normal(size=(N, 2)), "c": rng.normal(size=(N, 4))}
    vectors = {"images": rng.random((4, 5)), "reconstructions": rng.random((4, 5)), "samples": rng.random((9, 5))}
    text = page(report.write(tmp_path / "r.html", [run("two", latents=sites, labels=None, **vectors)])).text
    assert "two, site z" in text and "two, site c" in text and "colours and markers" not in text


def test_names_must_differ(tmp_path):
    with pytest.raises(ValueError, match="each with a name of its own"):
        report.write(tmp_path / "r.html", [run("a"), run("a")])
    with pytest.raises(ValueError, match="at least one run"):
        report.write(tmp_path / "r.html", [])
    assert not list(tmp_path.iterdir())


def test_chains_are_shown_with_their_verdict(tmp_path):
    draws = {"z": rng.normal(size=(40, 30, 5))}
    apart = {"z": draws["z"] + np.arange(40)[:, None, None]}
    runs = [run("good", chains=ppvae.to_inference_data(draws)), run("bad", chains=apart), run("none")]
    text = report.write(tmp_path / "r.html", runs).read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    assert "40 chains of 30 draws, 5 coordinates" in words
    assert "bad : not mixed" in " ".join(words.split()) or "bad: not mixed" in words
    assert "good: not mixed" not in words
    assert "R-hat is above 1.01 at 5 of 5 coordinates" in words
    assert sum("Ranks of the draws" in image["alt"] for image in page.images) == 2
    assert "z[4]" in words and "none: not mixed" not in words
    without = report.write(tmp_path / "s.html", [run("none")]).read_text(encoding="utf-8")
    assert "Markov chains" not in without


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-146.714, 0.94, "−146.71 ± 0.94"),
        (-23.5, 12.3, "−24 ± 12"),
        (0.1234, 0.00456, "0.1234 ± 0.0046"),
        (1.0, 0.0, "1.00"),
    ],
)
def test_errors_have_two_digits(value, error, text):
    assert report.plus_minus(value, error) == text


def test_a_missing_jinja2_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    spec = importlib.util.spec_from_file_location("report_again", report.__file__)
    with pytest.raises(ImportError, match=r'pip install "ppvae\[report\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
