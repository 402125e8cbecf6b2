"""The layer of signed distances: against distances to points of the hyperplane, and flat where all is small."""

import torch

from ppvae.manifolds.hyperboloid import Hyperboloid, boost, from_origin
from ppvae.nn import HyperplaneDistances

F64 = torch.float64


def test_the_distance_is_that_of_the_nearest_point_of_the_hyperplane():
    torch.manual_seed(0)
    layer = HyperplaneDistances(3, 4).double()
    z = from_origin(torch.randn(5, 2, dtype=F64))
    found = (layer(z) / layer.a.norm(dim=-1)).abs()
    for j in range(4):
        n = layer.a[j].detach() / layer.a[j].detach().norm()
        across = torch.stack([-n[1], n[0]])
        foot = from_origin(layer.b[j].detach() * n)  # the nearest to the origin: the line goes across from there
        line = boost(foot, torch.linspace(-8, 8, 200_001, dtype=F64)[:, None] * across)
        nearest = Hyperboloid().dist(z[:, None], line).amin(1)
        torch.testing.assert_close(found[:, j].detach(), nearest, atol=1e-8, rtol=0)


def test_the_sign_tells_the_sides():
    layer = HyperplaneDistances(3, 1).double()
    with torch.no_grad():
        layer.a.copy_(torch.tensor([[2.0, 0.0]]))
        layer.b.fill_(0.5)
    z = from_origin(torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.5, 0.0]], dtype=F64))
    torch.testing.assert_close(layer(z).squeeze(-1), torch.tensor([-1.0, 0.0, 2.0], dtype=F64))


def test_in_small_units_it_is_linear():
    torch.manual_seed(0)
    layer = HyperplaneDistances(4, 6, unit=1e-4).double()
    v = torch.randn(7, 3, dtype=F64)
    flat = v @ layer.a.mT - layer.b * layer.a.norm(dim=-1)
    torch.testing.assert_close(layer(from_origin(1e-4 * v)), flat, atol=1e-6, rtol=0)


def test_the_unit_is_that_of_distances():
    torch.manual_seed(0)
    one, other = HyperplaneDistances(4, 6).double(), HyperplaneDistances(4, 6, unit=2.0).double()
    with torch.no_grad():
        other.a.copy_(2 * one.a)
        other.b.copy_(one.b / 2)
    z = from_origin(torch.randn(7, 3, dtype=F64))
    torch.testing.assert_close(one(z), other(z))
