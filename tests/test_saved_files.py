"""Model files that an earlier commit wrote load to equal numbers; ``saved/make.py`` says what each is."""

import runpy
from pathlib import Path

import numpy as np
import ppvae.models
import pytest

import ppvae
from ppvae import io

SAVED = Path(__file__).parent / "saved"
FILES = sorted(SAVED.glob("*.safetensors"))
with np.load(SAVED / "numbers.npz") as arrays:
    NUMBERS = dict(arrays)


MAKE = runpy.run_path(str(SAVED / "make.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_saved_file_loads_to_equal_numbers(file):
    expected = {key.partition("/")[2]: value for key, value in NUMBERS.items() if key.startswith(f"{file.stem}/")}
    x = expected.pop("x")
    found = MAKE["numbers"](ppvae.load(file), x)
    assert found.keys() == expected.keys() and "mean" in found and len(found) > 1
    for key, value in expected.items():
        assert value.dtype == found[key].dtype
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


def test_there_is_a_file_of_every_model():
    assert {io.read(file)[0]["model"] for file in FILES} == set(ppvae.models.TABLE)
    assert {file.stem for file in FILES} == set(MAKE["VAES"]) == {key.partition("/")[0] for key in NUMBERS}
