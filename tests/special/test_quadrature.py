"""The double exponential rule on smooth functions and on logarithms at the ends."""

import math

import pytest
import torch

from ppvae.special.quadrature import tanh_sinh


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_known_integrals(dtype, error):
    x, w = tanh_sinh(48, torch.zeros((), dtype=dtype))
    assert x.shape == w.shape == (97,)
    assert x.dtype == dtype
    assert ((x > 0) & (x <= 1)).all()
    for value, exact in (
        (w.sum(), 1),
        ((w * x.log()).sum(), -1),
        ((w * x**3).sum(), 0.25),
        ((w / (1 + x)).sum(), math.log(2)),
        ((w * (-40 * x**2).exp()).sum(), math.sqrt(math.pi / 40) / 2 * math.erf(math.sqrt(40))),
    ):
        assert abs(value.item() - exact) < error
