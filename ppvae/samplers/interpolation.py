r"""Curves between latents, decoded: the geodesic of a metric beside that of the latent space itself.

.. math::
    \gamma(t) = \exp_x(t \log_x y) \qquad \text{on the latent space; on R^d the straight line}

Reference: Riemannian Geometry (do Carmo, 1992), https://doi.org/10.1007/978-1-4757-2201-7
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.inputs import integer, to_tensors
from ppvae.manifolds import Euclidean, RiemannianManifold
from ppvae.predict import decode
from ppvae.samplers.space import Space, space_of
from ppvae.vae import VAE, check_vae_interface, device_and_dtype

__all__ = ["Interpolation", "interpolate"]


@dataclass(frozen=True)
class Interpolation:
    """Curves between pairs of latents at equal times, by a metric and by the latent space, and what they decode to.

    ::

        found = ppvae.samplers.interpolate(vae, metric, z[:1], z[1:2])
        ppvae.plotting.image_rows({"straight line": found.straight_x[0], "geodesic": found.x[0]})

    :param z: the geodesics of the metric, shape (n, num_points, \\*event), or a dict of such arrays by site.
    :param straight_z: the geodesics of the latent space in the same form: straight lines on R^d.
    :param x: the means of p(x | z) on the geodesics, shape (n, num_points, *vae.shape).
    :param straight_x: the same on the geodesics of the latent space.
    :param length: lengths of the geodesics by the metric, shape (n,).
    :param straight_length: those of the geodesics of the latent space, by the same metric.
    """

    z: Any
    straight_z: Any
    x: np.ndarray
    straight_x: np.ndarray
    length: np.ndarray
    straight_length: np.ndarray


def interpolate(
    vae: VAE,
    metric: Any,
    start: Any,
    end: Any,
    num_points: int = 9,
    *,
    given: Sequence[Any] = (),
    segments: int = 16,
    iterations: int = 500,
) -> Interpolation:
    """Go from latents to latents along geodesics, and decode the way.

    By the posterior-covariance metric lengths are large where the data are, so its geodesics go around them;
    :class:`~ppvae.manifolds.InverseVolumeMetric` of it makes the interpolations of Chadebec and Allassonnière (2022),
    and the pull-back (:func:`pullback_metric`) makes the decoded curve short.

    :param vae: a VAE with latents on any manifolds; with a metric, one latent of R^d.
    :param metric: a metric of R^d: an object with ``metric(z)``, or a function z -> G(z). None is the metric of the
        latent space itself, on which both kinds of curve agree.
    :param start: latents as ``encode`` returns them, n rows.
    :param end: latents, n rows.
    :param num_points: points of each curve, both ends included.
    :param given: what the model is conditioned on, n rows each.
    :param segments: segments of the spline by which the geodesics of a metric are found.
    :param iterations: most steps of the minimisation; if they do not suffice, a warning says so.
    :raises ValueError: for latents of unequal shapes, or a metric on a space that is not R^d.
    """
    check_vae_interface(vae)
    num_points = integer("num_points", num_points, 2)
    device, dtype = device_and_dtype(vae)
    first = next(iter(start.values())) if isinstance(start, dict) else start
    blank = torch.zeros((len(first), *vae.shape), dtype=dtype, device=device)
    data = to_tensors(vae, (blank, *given))
    space = space_of(vae, data, "interpolate")
    x, y = (_joined(space, z, name, device, dtype) for name, z in (("start", start), ("end", end)))
    if x.shape != y.shape:
        raise ValueError(f"expected start and end of one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    M = space.product
    times = torch.linspace(0, 1, num_points, dtype=dtype, device=device)
    told = tuple(tensor.repeat_interleave(num_points, 0) for tensor in data[1:])

    def line(t: Tensor) -> Tensor:
        here = x.unsqueeze(1).expand(-1, len(t), -1)
        return M.expmap(here, t.unsqueeze(-1) * M.logmap(x, y).unsqueeze(1))

    def decoded(z: Tensor) -> np.ndarray:
        return decode(vae, space.split(z.flatten(0, 1)), *told).reshape(*z.shape[:2], *vae.shape).cpu().numpy()

    def arrays(z: Tensor) -> Any:
        parts = space.split(z)
        return {k: v.cpu().numpy() for k, v in parts.items()} if isinstance(parts, dict) else parts.cpu().numpy()

    straight = line(times)
    if metric is None:
        length = M.dist(x, y).cpu().numpy()
        shown, pictures = arrays(straight), decoded(straight)
        return Interpolation(shown, shown, pictures, pictures, length, length)
    flat = list(space.manifolds.values())
    if len(flat) != 1 or not isinstance(flat[0], Euclidean):
        raise ValueError(
            f"interpolate: a metric is one of R^d, and the latents are on {', '.join(type(m).__name__ for m in flat)}; "
            "pass metric=None for the geodesics of the latent space"
        )
    manifold = RiemannianManifold(metric, segments=segments, iterations=iterations)
    found = manifold.geodesic(x, y)
    fine = torch.linspace(0, 1, 20 * segments + 1, dtype=dtype, device=device)
    with torch.no_grad():
        straight_length = manifold.length(line(fine))
    curve = found(times)
    numbers = (part.cpu().numpy() for part in (found.length, straight_length))
    return Interpolation(arrays(curve), arrays(straight), decoded(curve), decoded(straight), *numbers)


def _joined(space: Space, z: Any, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Latents in one vector each, checked."""
    parts = z if isinstance(z, dict) else dict.fromkeys(space.manifolds, z)
    if set(parts) != set(space.manifolds):
        raise ValueError(f"{name}: expected the latents {', '.join(space.manifolds)}, got {', '.join(parts)}")
    tensors = {k: torch.as_tensor(v).to(device, dtype) for k, v in parts.items()}
    for k, tensor in tensors.items():
        if tensor.shape[1:] != space.shapes[k]:
            raise ValueError(f"{name}: expected shape (n, *{tuple(space.shapes[k])}), got {tuple(tensor.shape)}")
    return space.join(tensors)
