r"""Quadrature on the unit interval.

.. math::
    \int_0^1 f(x) \, dx \approx \sum_{i=-n}^n w_i f(x_i), \qquad
    x = \frac{1}{1 + e^{-\pi \sinh \tau}}, \quad w = h \, \frac{dx}{d\tau}, \quad \tau = i h, \quad h = 3.2 / n

The trapezoidal rule after the double exponential substitution: its error falls as :math:`e^{-c n / \log n}`, also where
f has logarithms or roots at the ends.

References:
    [1] Double exponential formulas for numerical integration (Takahasi & Mori, 1974)
        https://doi.org/10.2977/prims/1195192451
"""

import math

import torch
from torch import Tensor

__all__ = ["tanh_sinh"]


def tanh_sinh(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    r"""Nodes x and weights w on (0, 1), shape ``(2n + 1,)`` each, in the dtype and on the device of ``like``.

    They are computed on the device: nodes that were copied to it would make it wait. For f analytic on (0, 1) with at
    most logarithms at its ends, n = 48 leaves 1e-12; the nodes reach down to 2e-17, those at 1 round to 1.

    >>> x, w = tanh_sinh(48, torch.zeros((), dtype=torch.float64))
    >>> print(f"{(w * x.log()).sum():.10f}")  # the integral of log x
    -1.0000000000
    """
    h = 3.2 / n
    tau = torch.arange(-n, n + 1, dtype=like.dtype, device=like.device) * h
    t = math.pi * tau.sinh()
    x = t.sigmoid()
    return x, h * math.pi * tau.cosh() * x * (-t).sigmoid()
