"""The table of objectives."""

import subprocess
import sys

import pytest

from ppvae.infer import TensorELBO, objectives


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_table(name):
    cls = objectives.find(name)
    assert issubclass(cls, TensorELBO) and isinstance(cls(), TensorELBO)


def test_the_table_is_read_without_torch():
    code = "import sys; from ppvae.infer.objectives import OBJECTIVES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_unknown_objective_has_a_near_name():
    with pytest.raises(ValueError, match="no objective is named 'inf'; did you mean 'info'"):
        objectives.find("inf")
