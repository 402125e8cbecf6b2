"""Tests run in an installed copy and in a bare checkout alike."""

import importlib.util
from pathlib import Path

import pyro
import pytest

import ppvae

if importlib.util.find_spec("ppvae.models") is None:
    ppvae.__path__.append(str(Path(__file__).parents[1]))  # models/ lies beside ppvae/, and is ppvae.models


@pytest.fixture(autouse=True)
def own_parameter_store():
    """Plain SVI in one test leaves nothing in Pyro's global store for the next."""
    with pyro.get_param_store().scope():
        yield
