"""Curves between latents, decoded: the geodesic of a metric beside the straight line."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.manifolds import RiemannianManifold
from ppvae.predict import decode
from ppvae.vae import VAE, check_vae_interface, device_and_dtype

__all__ = ["Interpolation", "interpolate"]


@dataclass(frozen=True)
class Interpolation:
    """Geodesics and straight lines between pairs of latents, at equal times, and what they decode to.

    ::

        found = ppvae.samplers.interpolate(vae, metric, z[:1], z[1:2])
        ppvae.plotting.image_rows({"straight line": found.straight_x[0], "geodesic": found.x[0]})

    :param z: the geodesics, shape (n, num_points, d).
    :param straight_z: the straight lines, in the same shape.
    :param x: the means of p(x | z) on the geodesics, shape (n, num_points, *vae.shape).
    :param straight_x: the same on the straight lines.
    :param length: lengths of the geodesics by the metric, shape (n,).
    :param straight_length: those of the straight lines.
    """

    z: np.ndarray
    straight_z: np.ndarray
    x: np.ndarray
    straight_x: np.ndarray
    length: np.ndarray
    straight_length: np.ndarray


def interpolate(
    vae: VAE, metric: Any, start: Any, end: Any, num_points: int = 9, *, segments: int = 16, iterations: int = 500
) -> Interpolation:
    """Go from latents to latents along geodesics and along straight lines, and decode both.

    By the posterior-covariance metric lengths are large where the data are, so its geodesics go around them;
    :class:`~ppvae.manifolds.InverseVolumeMetric` of it makes the interpolations of Chadebec and Allassonnière (2022),
    and the pull-back (:func:`pullback_metric`) makes the decoded curve short.

    :param vae: a VAE with one latent, a vector of R^d, whose model is given nothing but x.
    :param metric: a metric, an object with ``metric(z)``, or a function z -> G(z).
    :param start: latents, shape (n, d), e.g. ``ppvae.encode(vae, x)``.
    :param end: latents, shape (n, d).
    :param num_points: points of each curve, both ends included.
    :param segments: segments of the spline.
    :param iterations: most steps of the minimisation; where they do not suffice a warning says so.
    """
    check_vae_interface(vae)
    device, dtype = device_and_dtype(vae)
    x, y = (torch.as_tensor(end).to(device, dtype) for end in (start, end))
    if x.dim() != 2 or x.shape != y.shape:
        raise ValueError(f"expected start and end of one shape (n, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    if num_points < 2:
        raise ValueError(f"num_points: expected at least 2, got {num_points}")
    manifold = RiemannianManifold(metric, segments=segments, iterations=iterations)
    found = manifold.geodesic(x, y)
    times = torch.linspace(0, 1, num_points, dtype=dtype, device=device)
    fine = torch.linspace(0, 1, 20 * segments + 1, dtype=dtype, device=device)

    def line(t: Tensor) -> Tensor:
        return x.unsqueeze(1) + t.unsqueeze(-1) * (y - x).unsqueeze(1)

    def decoded(z: Tensor) -> np.ndarray:
        return decode(vae, z.flatten(0, 1)).reshape(*z.shape[:2], *vae.shape).cpu().numpy()

    with torch.no_grad():
        straight_length = manifold.length(line(fine))
    curve = found(times)
    numbers = (part.cpu().numpy() for part in (found.length, straight_length))
    return Interpolation(curve.cpu().numpy(), line(times).cpu().numpy(), decoded(curve), decoded(line(times)), *numbers)
