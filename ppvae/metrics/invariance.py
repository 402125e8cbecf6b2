"""How much a latent changes when the datum is moved."""

from numpy.typing import ArrayLike

from ppvae.checks import numbers


def invariance_error(z: ArrayLike, z_moved: ArrayLike) -> float:
    r"""Mean squared change of a latent over twice its variance: 0 if it stays, about 1 if it comes out anew.

    .. math::
        \frac{\sum_i |v(g_i x_i) - v(x_i)|^2}{2 \sum_i |v(x_i) - \bar v|^2}

    It has no unit, so latents of different models, or images, can be compared. Where x and g x have the same law, as
    for g uniform on a group, it is symmetric in the two.

    :param z: v(x), shape (n, \*event), n > 1.
    :param z_moved: v(g x), the same shape.
    :raises ValueError: if shapes differ, a number is not finite, or v(x) does not vary.

    >>> invariance_error([[0.0], [2.0]], [[0.0], [1.0]])
    0.25
    """
    a, b = numbers("z", z, least=2), numbers("z_moved", z_moved, least=2)
    if a.shape != b.shape:
        raise ValueError(f"z_moved: expected the shape of z, {a.shape}, got {b.shape}; pass v(g x) of the same data")
    variance = ((a - a.mean(0)) ** 2).sum()
    if not variance > 0:
        raise ValueError("z: expected values that vary, got the same for all data; this latent holds nothing of x")
    return float(((a - b) ** 2).sum() / (2 * variance))
