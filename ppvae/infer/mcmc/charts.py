"""Coordinates of R^n in which a chain on a manifold moves.

A chart says where a chain begins whose latent is z, which latent a place v of the chain is, and how much denser the
chain's law is at v than the law of the latent at its point:

    log density of the chain at v = log p(point(v)) + log_volume(v)

A chart may be redundant: all vectors of one direction are one point of a sphere.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from ppvae.manifolds import Angle, Circle, Euclidean, Hyperboloid, Manifold, Sphere, Torus, circle, log_area
from ppvae.manifolds.hyperboloid import from_origin, log_sinhc, to_origin

__all__ = ["Chart", "chart_of"]


class Chart(Protocol):
    """Coordinates of the chains on a manifold; z has shape (..., \\*event), and v any shape behind the batch."""

    def start(self, z: Tensor) -> Tensor:
        """Where a chain begins whose latent is z."""

    def point(self, v: Tensor) -> Tensor:
        """The latent at v."""

    def log_volume(self, v: Tensor) -> Tensor:
        """Log density of the chain's law at v over that of the latent: the sum is over all numbers behind the batch."""


class Plane:
    """R^d, as it is."""

    def start(self, z: Tensor) -> Tensor:
        return z.clone()

    def point(self, v: Tensor) -> Tensor:
        return v

    def log_volume(self, v: Tensor) -> Tensor:
        return torch.zeros_like(v)


class Direction:
    """A sphere, as the direction of v: among all v of one direction, the length is that of a normal law."""

    def start(self, z: Tensor) -> Tensor:
        return z * math.sqrt(z.shape[-1])  # near 0 the steps that fit are tiny

    def point(self, v: Tensor) -> Tensor:
        return v / v.norm(dim=-1, keepdim=True)

    def log_volume(self, v: Tensor) -> Tensor:
        m = v.shape[-1]
        log_normal = -(v * v).sum(-1) / 2 - m / 2 * math.log(2 * math.pi)
        return log_normal + log_area(m)  # the density of a uniform point is one over the area


class AngleOfDirection(Direction):
    """The circle by its angle t, as the direction of v in the plane."""

    def start(self, z: Tensor) -> Tensor:
        return super().start(circle.exp(z))

    def point(self, v: Tensor) -> Tensor:
        return circle.log(v)


class Exponential:
    """Hyperbolic space, as exp_o(v)."""

    def start(self, z: Tensor) -> Tensor:
        return to_origin(z)

    def point(self, v: Tensor) -> Tensor:
        return from_origin(v)

    def log_volume(self, v: Tensor) -> Tensor:
        return (v.shape[-1] - 1) * log_sinhc(v.square().sum(-1))


CHARTS: dict[type, Chart] = {
    Euclidean: Plane(),
    Angle: AngleOfDirection(),
    Sphere: Direction(),
    Circle: Direction(),
    Torus: Direction(),
    Hyperboloid: Exponential(),
}


def chart_of(manifold: Manifold | None) -> Chart | None:
    """The coordinates of chains on a manifold; None for one that has none yet, such as a part of R^d or SO(3)."""
    if isinstance(manifold, Euclidean) and not manifold.is_whole:
        return None
    return CHARTS.get(type(manifold))
