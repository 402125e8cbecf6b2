"""Tests run in an installed copy and in a bare checkout alike."""

import importlib.util
from pathlib import Path

import ppvae

if importlib.util.find_spec("ppvae.models") is None:
    ppvae.__path__.append(str(Path(__file__).parents[1]))  # models/ lies beside ppvae/, and is ppvae.models
