"""How much a latent changes when the datum is moved."""

import numpy as np
from numpy.typing import ArrayLike


def invariance_error(z: ArrayLike, z_moved: ArrayLike) -> float:
    r"""Mean squared change of a latent over twice its variance: 0 if it stays, about 1 if it comes out anew.

    .. math::
        \frac{\sum_i |v(g_i x_i) - v(x_i)|^2}{2 \sum_i |v(x_i) - \bar v|^2}

    It has no unit, so that latents of different models, or images, compare. It is symmetric in x and g x where the two
    have the same law, as for g uniform on a group.

    :param z: v(x), shape (n, \*event).
    :param z_moved: v(g x), the same shape.
    :raises ValueError: if shapes differ, or v(x) does not vary.
    """
    a, b = np.asarray(z, dtype=float), np.asarray(z_moved, dtype=float)
    if a.shape != b.shape or a.ndim < 1 or len(a) < 2:
        raise ValueError(f"expected two arrays of one shape (n, ...), n > 1, got {a.shape} and {b.shape}")
    variance = ((a - a.mean(0)) ** 2).sum()
    if not variance > 0:
        raise ValueError("z: expected values that vary, got the same for all data")
    return float(((a - b) ** 2).sum() / (2 * variance))
