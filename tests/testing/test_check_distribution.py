"""check_distribution passes laws that are right and names what is wrong with those that are not.

The right law is Fisher's on the sphere S^2, whose sampler has a closed form, so that its pathwise gradient needs no
correction; each wrong law differs from a right one in one method.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Size
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from ppvae.distributions.hyperspherical_uniform import HypersphericalUniform
from ppvae.manifolds.sphere import rotate_from_pole, sphere
from ppvae.testing import check_distribution
from ppvae.testing.distribution import CHECKS


class Fisher(dist.TorchDistribution):
    r"""q(z) = k exp(k mu.z) / (4 pi sinh k) on S^2, sampled by w = mu.z = 1 + log(u + (1 - u) exp(-2k)) / k."""

    arg_constraints = {"loc": sphere, "concentration": constraints.positive}
    support = sphere
    has_rsample = True

    def __init__(self, loc, concentration, validate_args=None):
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc, self.concentration = loc.expand(batch_shape + loc.shape[-1:]), concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Fisher, _instance)
        new.loc = self.loc.expand(Size(batch_shape) + self.event_shape)
        new.concentration = self.concentration.expand(batch_shape)
        dist.TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def cosine(self):
        return 1 / self.concentration.tanh() - 1 / self.concentration

    @property
    def mean(self):
        return self.cosine.unsqueeze(-1) * self.loc

    def angle(self, shape):
        return 2 * math.pi * torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)

    def rsample(self, sample_shape=()):
        shape = self._extended_shape(Size(sample_shape))[:-1]
        u, k, t = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device), self.concentration, self.angle(shape)
        w = 1 + torch.log(u + (1 - u) * torch.exp(-2 * k)) / k
        r = ((1 - w) * (1 + w)).clamp_min(torch.finfo(w.dtype).tiny).sqrt()  # the root has no slope at 0
        return rotate_from_pole(torch.stack([w, r * t.cos(), r * t.sin()], -1), self.loc)

    def log_normalizer(self):
        k = self.concentration
        return (k / (2 * math.pi)).log() - torch.log1p(-torch.exp(-2 * k))

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        return self.log_normalizer() - self.concentration * (value - self.loc).square().sum(-1) / 2

    def entropy(self):
        k = self.concentration
        return 1 + 2 * k * torch.exp(-2 * k) / torch.expm1(-2 * k) - self.log_normalizer()


@register_kl(Fisher, HypersphericalUniform)
def kl_fisher_uniform(p, q):
    return q.entropy() - p.entropy()


class Wood(Fisher):
    """The von Mises-Fisher law on S^{m-1}, m = 2 or 4, by Wood's rejection: the gradient stops at the accepted draw."""

    @property
    def mean(self):
        return dist.TorchDistribution.mean.__get__(self)

    def entropy(self):
        raise NotImplementedError

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        m, k = self.event_shape[0], self.concentration
        bessel = torch.special.i0e(k) if m == 2 else torch.special.i1e(k) / k
        return -k * (value - self.loc).square().sum(-1) / 2 - bessel.log() - m / 2 * math.log(2 * math.pi)

    def rsample(self, sample_shape=()):
        shape, m, k = self._extended_shape(Size(sample_shape))[:-1], self.event_shape[0], self.concentration
        root = (4 * k**2 + (m - 1) ** 2).sqrt()
        a, b = (m - 1 + 2 * k + root) / 4, (m - 1) / (2 * k + root)
        d = 4 * a * b / (1 + b) - (m - 1) * math.log(m - 1)
        half = torch.full((32, *shape), (m - 1) / 2, dtype=k.dtype)
        e = torch.distributions.Beta(half, half).sample()
        w, t = (1 - (1 + b) * e) / (1 - (1 - b) * e), 2 * a * b / (1 - (1 - b) * e)
        accept = (m - 1) * t.log() - t + d >= torch.rand_like(half).log()
        w = w.gather(0, accept.to(torch.uint8).argmax(0, keepdim=True)).squeeze(0)
        v = torch.randn(*shape, m - 1, dtype=k.dtype)
        r = ((1 - w) * (1 + w)).clamp_min(torch.finfo(w.dtype).tiny).sqrt()
        v = r.unsqueeze(-1) * v / v.norm(dim=-1, keepdim=True)
        return rotate_from_pole(torch.cat([w.unsqueeze(-1), v], -1), self.loc)


class Detached(Fisher):
    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).detach()


class LocDetached(Fisher):
    def rsample(self, sample_shape=()):
        z = super().rsample(sample_shape)
        return z + 0 * self.concentration.unsqueeze(-1) if self.loc.requires_grad is False else z.detach() + 0


class HeavyMass(Fisher):
    def log_normalizer(self):
        return super().log_normalizer() + 1e-6


class NormalizedMeasure(Fisher):
    """Density with respect to the uniform law in place of the surface measure."""

    def log_prob(self, value):
        return super().log_prob(value) + math.log(4 * math.pi)


class LocShapedBatch(Fisher):
    def __init__(self, loc, concentration, validate_args=None):
        super().__init__(loc, concentration, validate_args)
        self._batch_shape, self._event_shape = loc.shape, Size()


class EventSummed(Fisher):
    def log_prob(self, value):
        return super().log_prob(value).sum(-1, keepdim=True)


class ArcCosine(Fisher):
    """The slope of the arc cosine is infinite at the mode."""

    def log_prob(self, value):
        super().log_prob(value)
        angle = (value * self.loc).sum(-1).clamp(-1, 1).acos()
        return self.log_normalizer() + self.concentration * (angle.cos() - 1)


class OverflowingNormalizer(Fisher):
    def log_normalizer(self):
        return (self.concentration / (4 * math.pi * self.concentration.sinh())).log() + self.concentration


class OtherSampler(Fisher):
    """Draws from a slightly different concentration."""

    def rsample(self, sample_shape=()):
        return Fisher(self.loc, 1.05 * self.concentration).rsample(sample_shape)


class OtherMean(Fisher):
    mean = property(lambda self: self.loc)


class OtherEntropy(Fisher):
    def entropy(self):
        return super().entropy() + 0.02


class OtherKL(Fisher):
    pass


@register_kl(OtherKL, HypersphericalUniform)
def kl_of_another_measure(p, q):
    return -p.entropy()


class WrongSlope(Fisher):
    """The value is right and its gradient is not, as with a custom backward pass."""

    def log_prob(self, value):
        slope = 1e-3 * (self.concentration - self.concentration.detach())
        return super().log_prob(value) + slope


class Float32Inside(Fisher):
    def log_normalizer(self):
        return super().log_normalizer().float().double()


class Float32Samples(Fisher):
    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).float()


class Float32Cancellation(Fisher):
    def log_prob(self, value):
        shift = 1e5 if value.dtype == torch.float32 else 0.0
        return super().log_prob(value) + shift - shift


class NumpySampler(Fisher):
    def angle(self, shape):
        return torch.from_numpy(np.random.default_rng().uniform(0, 2 * math.pi, tuple(shape))).to(self.loc)


class OneDrawPerBatch(Fisher):
    def rsample(self, sample_shape=()):
        law = Fisher(self.loc.flatten(0, -2)[0], self.concentration.flatten()[0])
        z = law.rsample(sample_shape)[(..., *[None] * len(self.batch_shape), slice(None))]
        return z.expand(self._extended_shape(Size(sample_shape)))


class OffTheSphere(Fisher):
    """The epsilon of an unstable Householder reflection."""

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape) * (1 + 1e-5)


class NoValueValidation(Fisher):
    def log_prob(self, value):
        return self.log_normalizer() - self.concentration * (value - self.loc).square().sum(-1) / 2


class NoArgumentValidation(Fisher):
    def __init__(self, loc, concentration, validate_args=None):
        super().__init__(loc, concentration, validate_args=False)
        del self._validate_args  # values are validated by torch's default


class NoExpand(Fisher):
    def expand(self, batch_shape, _instance=None):
        return self


class HostSync(Fisher):
    def log_prob(self, value):
        if self.concentration.max() > 1e4:
            return self.log_normalizer()
        return super().log_prob(value)


class Loop(Fisher):
    """Draws until the last one is accepted."""

    def rsample(self, sample_shape=()):
        while True:
            z = super().rsample(sample_shape)
            if bool((z == z).all()):
                return z


class Masked(Fisher):
    """The shape of what is taken depends on values."""

    def log_prob(self, value):
        out = super().log_prob(value)
        far = (value - self.loc).square().sum(-1) > 1e9
        return out.index_put((far,), out[far])


class HostConstant(Fisher):
    """A number that is sent from the host each time."""

    def log_normalizer(self):
        return super().log_normalizer() + torch.tensor([0.0], dtype=self.loc.dtype, device=self.loc.device)


class HostTensor(Fisher):
    """Drawn on the CPU, wherever the parameters are."""

    def angle(self, shape):
        return 2 * math.pi * torch.rand(shape, dtype=self.loc.dtype, device="cpu")


class Decomposed(Fisher):
    """A decomposition that waits for the device on CUDA, and changes nothing."""

    def log_normalizer(self):
        return super().log_normalizer() * torch.linalg.svd(torch.eye(3).to(self.loc))[1][0]


class Anisotropic(Fisher):
    """Its axes are fixed in space, so it is another law after a rotation."""

    def angle(self, shape):
        return super().angle(shape) / 2


PARAMS = {"loc": torch.tensor([[0.5, -1.0, 2.0], [-1.0, 0.3, 0.1]]), "concentration": torch.tensor([0.7, 12.0])}
ROTATION = torch.linalg.qr(torch.tensor([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]], dtype=torch.float64))[0]
OPTIONS = {
    "isometry": (lambda z: z @ ROTATION.T, {"loc": PARAMS["loc"].double() @ ROTATION.T}),
    "kl_to": [HypersphericalUniform(3, dtype=torch.float64)],
    "points": lambda q: torch.stack([q.loc, -q.loc, rotate_from_pole(torch.eye(3)[1].to(q.loc), q.loc)]),
    "grid": [{"loc": torch.eye(3) * s, "concentration": torch.tensor([1e-2, 1.0, 1e3])} for s in (1, -1)],
}


def maker(family):
    return lambda loc, concentration: family(loc / loc.norm(dim=-1, keepdim=True), concentration)


def failure(*args, **options):
    with pytest.raises(AssertionError) as caught:
        check_distribution(*args, **options)
    return str(caught.value)


def test_a_right_law_passes_every_check():
    report = check_distribution(maker(Fisher), PARAMS, **OPTIONS)
    assert list(report) == list(CHECKS)
    assert all(isinstance(figure, float) for figure in report.values()), report
    # These figures are z-scores: of right laws they are of the order of one, and not zero.
    for name in ("sampler", "moments", "entropy", "kl", "score", "pathwise gradient", "float32 samples"):
        assert 0.1 < report[name] < 5.5


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_right_law_passes_from_any_seed(seed):
    check_distribution(maker(Fisher), PARAMS, **OPTIONS, seed=seed)


@pytest.mark.parametrize(
    ("family", "check"),
    [
        (LocShapedBatch, "shapes"),
        (EventSummed, "shapes"),
        (Float32Samples, "shapes"),
        (OffTheSphere, "samples"),
        (NumpySampler, "samples"),
        (NoValueValidation, "value validation"),
        (NoArgumentValidation, "argument validation"),
        (NoExpand, "expand"),
        (OneDrawPerBatch, "expand"),
        (ArcCosine, "finite"),
        (OverflowingNormalizer, "finite"),
        (HeavyMass, "mass"),
        (NormalizedMeasure, "mass"),
        (OtherSampler, "sampler"),
        (Anisotropic, "sampler"),
        (OtherMean, "moments"),
        (OtherEntropy, "entropy"),
        (OtherKL, "kl"),
        (WrongSlope, "log_prob gradient"),
        (Detached, "pathwise gradient"),
        (Float32Inside, "log_prob gradient"),
        (Float32Cancellation, "float32"),
        (HostSync, "traceable"),
        (Loop, "traceable"),
        (Masked, "on a device"),
        (HostConstant, "on a device"),
        (HostTensor, "on a device"),
        (Decomposed, "on a device"),
    ],
)
def test_a_wrong_law_is_caught(family, check):
    message = failure(maker(family), PARAMS, **OPTIONS)
    assert message.startswith(f"{family.__name__} of batch_shape (2,"), message
    assert f": {check}: " in message, message


@pytest.mark.parametrize("m", [2, 4])
def test_a_missing_correction_for_rejection_is_caught(m):
    params = {"loc": torch.ones(m), "concentration": torch.tensor(1.0)}
    message = failure(maker(Wood), params, proposal=HypersphericalUniform(m, dtype=torch.float64))
    assert "Wood of batch_shape (): pathwise gradient: expected the derivative of E f(z) by concentration" in message


def test_without_rsample_the_same_sampler_passes():
    class Sampler(Wood):
        has_rsample = False

    assert "Sampler of batch_shape (2,): copies: raised" in failure(maker(Sampler), PARAMS | {"loc": torch.eye(4)[:2]})
    params = {"loc": torch.ones(4), "concentration": torch.tensor(1.0)}
    skip = {"copies": "a class inside a function has no name to pickle", "on a device": "it draws on the host"}
    report = check_distribution(
        maker(Sampler), params, proposal=HypersphericalUniform(4, dtype=torch.float64), skip=skip
    )
    assert report["pathwise gradient"] == "skipped: the law has no rsample"
    assert report["mass"] < 5.5 and report["sampler"] < 5.5


def test_an_isometry_that_the_law_does_not_follow_is_caught():
    options = {**OPTIONS, "isometry": (lambda z: z @ ROTATION.T, {})}
    assert "isometry" in failure(maker(Fisher), PARAMS, **options)


def test_laws_of_pyro_pass():
    normal = check_distribution(
        dist.Normal,
        {"loc": torch.tensor([0.0, 3.0]), "scale": torch.tensor([1.0, 2.0])},
        proposal=dist.Normal(torch.tensor(0.0).double(), 6.0),
        isometry=(lambda z: 1 - z, {"loc": torch.tensor([1.0, -2.0])}),
        kl_to=[dist.Normal(torch.tensor(1.0).double(), 3.0)],
    )
    assert all(isinstance(figure, float) for figure in normal.values()), normal
    gamma = check_distribution(
        dist.Gamma,
        {"concentration": torch.tensor([1.5, 5.0]), "rate": torch.tensor(2.0)},
        proposal=dist.Gamma(torch.tensor(1.5).double(), 0.8),
    )
    assert all(isinstance(gamma[name], float) for name in ("mass", "sampler", "entropy", "pathwise gradient"))
    vector = check_distribution(
        lambda loc, scale: dist.Normal(loc, scale).to_event(1), {"loc": torch.randn(2, 3), "scale": torch.ones(3)}
    )
    assert vector["pathwise gradient"] < 5.5


def test_von_mises_passes_but_for_its_circular_mean_and_its_loop():
    params = {"loc": torch.tensor([0.3, 2.0]), "concentration": torch.tensor([0.7, 5.0])}
    proposal = dist.Uniform(torch.tensor(-math.pi).double(), math.pi)
    assert "moments" in failure(dist.VonMises, params, proposal=proposal)
    skip = {"moments": "the mean of an angle is a direction", "traceable": "draws until accepted"}
    skip["on a device"] = skip["traceable"]
    report = check_distribution(dist.VonMises, params, proposal=proposal, skip=skip)
    assert report["moments"] == "skipped: the mean of an angle is a direction"
    assert report["mass"] < 5.5


def test_events_that_are_matrices():
    def make(loc, scale):
        return dist.Normal(loc, scale[..., None, None]).to_event(2)

    report = check_distribution(make, {"loc": torch.randn(2, 3, 3), "scale": torch.tensor([0.1, 1.0])})
    assert report["pathwise gradient"] < 5.5


def test_a_law_ready_made():
    law = HypersphericalUniform(3, dtype=torch.float64)
    report = check_distribution(law)
    assert report["mass"] < 5.5 and report["float32"] == "skipped: no params to set the dtype by"
    with pytest.raises(ValueError, match="samples in torch"):
        check_distribution(HypersphericalUniform(3, dtype=torch.float32))
    with pytest.raises(ValueError, match="params"):
        check_distribution(law, PARAMS)


def test_reasons_are_said():
    proposal = HypersphericalUniform(3, dtype=torch.float64)
    params = {"loc": torch.ones(3), "concentration": torch.tensor(1e3)}
    report = check_distribution(maker(Fisher), params, proposal=proposal)
    assert "effective sample size" in report["mass"]
    report = check_distribution(maker(Fisher), {**params, "concentration": torch.tensor(1e7)})
    assert report["mass"] == report["sampler"] == "skipped: the law is too concentrated for the quadrature"
    assert report["kl"] == "skipped: no kl_to= laws"
    with pytest.raises(ValueError, match="names of checks"):
        check_distribution(proposal, skip={"mas": "a slip"})


def test_nothing_global_changes():
    params, state = len(pyro.get_param_store()), torch.get_rng_state()
    default = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(False)
        first = check_distribution(maker(Fisher), PARAMS)
        assert torch.distributions.Distribution._validate_args is False
    finally:
        torch.distributions.Distribution.set_default_validate_args(default)
    assert torch.equal(torch.get_rng_state(), state) and len(pyro.get_param_store()) == params
    torch.manual_seed(1)
    assert check_distribution(maker(Fisher), PARAMS) == first
