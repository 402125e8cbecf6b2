"""check_latent passes right latents, and names the rule that a wrong one breaks."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.latents import Gaussian, Quotient, Spherical
from ppvae.nn import NormalHead
from ppvae.testing import check_latent
from ppvae.testing.latent import CHECKS


class OneName(Gaussian):
    def posterior(self, name, h, *given):
        return pyro.sample("z", self.head(h))


class Auxiliary(Gaussian):
    def posterior(self, name, h, *given):
        pyro.sample("u", dist.Normal(0.0, 1.0).expand([6]))
        return super().posterior(name, h)


class OtherPlate(Gaussian):
    def prior(self, name, like, *given, encode=None):
        with pyro.plate("more", 1, dim=-2):
            return super().prior(name, like)


class Halved(Gaussian):
    def posterior(self, name, h, *given):
        return super().posterior(name, h) / 2


class WrongSpace(Spherical):
    def posterior(self, name, h, *given):
        return pyro.sample(name, dist.Normal(h[..., :3], 1.0).to_event(1))


class WrongReads(Gaussian):
    def read(self, z):
        return z[..., :1]


class Huge(Gaussian):
    def read(self, z):
        return 1000 * z


class Sheet(Quotient):
    def read(self, z):
        return torch.cat([z, z.sum(-1, keepdim=True), z.prod(-1, keepdim=True), z[..., :1]], -1)


class Deaf(Gaussian):
    def posterior(self, name, h, *given):
        return super().posterior(name, h * torch.tensor([1.0, 0, 1, 1], dtype=h.dtype))


class AnySize(Gaussian):
    def posterior(self, name, h, *given):
        return super().posterior(name, h[..., :4])


class Mixing(Gaussian):
    def posterior(self, name, h, *given):
        return super().posterior(name, h + h.mean(0))


class Unbounded(Gaussian):
    def posterior(self, name, h, *given):
        return super().posterior(name, torch.cat([h[..., :2], 60 * h[..., 2:] ** 2], -1))


class Unused(Gaussian):
    def __init__(self, dim):
        super().__init__(dim)
        self.spare = nn.Parameter(torch.zeros(()))


class HalfEntropy(dist.Normal):
    def expand(self, batch_shape, _instance=None):
        return HalfEntropy(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class HostNumber(Gaussian):
    def posterior(self, name, h, *given):
        return super().posterior(name, h + h.sum().item())


class Float(Gaussian):
    def prior(self, name, like, *given, encode=None):
        return pyro.sample(name, dist.Normal(torch.zeros(self.dim), 1.0).to_event(1))

    def posterior(self, name, h, *given):
        return pyro.sample(name, NormalHead(self.dim)(h.float()))


@torch.distributions.kl.register_kl(HalfEntropy, dist.Normal)
def _(q, p):
    return 0.5 * q.scale.square()


class WrongKL(Gaussian):
    def prior(self, name, like, *given, encode=None):
        return pyro.sample(name, dist.Normal(like.new_zeros(self.dim), 1.0).to_event(1))

    def posterior(self, name, h, *given):
        loc, scale = h.split(2, -1)
        return pyro.sample(name, HalfEntropy(loc, scale.exp()).to_event(1))


@pytest.mark.parametrize(
    "make, check",
    [
        (lambda: OneName(2), "sites"),
        (lambda: Auxiliary(2), "sites"),
        (lambda: OtherPlate(2), "sites"),
        (lambda: Halved(2), "sites"),
        (lambda: WrongSpace(3), "space"),
        (lambda: WrongReads(2), "reads"),
        (lambda: Huge(2), "reads"),
        (lambda: Sheet("projective"), "reads"),
        (lambda: Deaf(2), "features"),
        (lambda: AnySize(2), "features"),
        (lambda: Mixing(2), "left dimensions"),
        (lambda: Unbounded(2), "gradients"),
        (lambda: Unused(2), "gradients"),
        (lambda: Float(2), "gradients"),
        (lambda: WrongKL(2), "kl"),
        (lambda: HostNumber(2), "on a device"),
    ],
)
def test_a_wrong_latent_is_caught(make, check):
    others = {name: "not asked here" for name in CHECKS if name != check}
    name = type(make()).__name__
    with pytest.raises(Exception, match=f"{name}: {check}: expected") as caught:
        check_latent(make, skip=others)
    assert isinstance(caught.value, AssertionError)


def test_a_right_latent_passes_and_what_is_said():
    report = check_latent(lambda: Gaussian(2), skip={"copies": "a reason"})
    assert list(report) == list(CHECKS)
    assert report["copies"] == "skipped: a reason" and report["kl"].startswith("closed")
    assert check_latent(lambda: Quotient("klein"), skip={})["kl"].startswith("sampled")
    with pytest.raises(ValueError, match=r"skip: expected names of checks, .*, got mass"):
        check_latent(lambda: Gaussian(2), skip={"mass": "a slip"})
