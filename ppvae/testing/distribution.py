r"""One battery of tests for a law, on a manifold or not.

With q the law, :math:`\phi` its parameters, z a sample and p a law whose density is known on the same
support, it holds that

.. math::
    \int q(z) \, dz = 1, \qquad H = E_q[-\log q(z)], \\
    \mathrm{KL}(q \| p) = E_q[\log q(z) - \log p(z)], \\
    E_q[f(z)] = \int f(z) \, q(z) \, dz, \qquad E_q[\nabla_\phi \log q(z)] = 0, \\
    \nabla_\phi E_q[f(z)] = E_q[f(z) \, \nabla_\phi \log q(z)] = E[\nabla_\phi f(z_\phi)]

with :math:`z_\phi` the reparameterised sample. The last pair needs no oracle outside the law, in any dimension and at
any concentration. It fails for a rejection sampler whose pathwise gradient leaves out the correction for acceptance
[1], and for a detached sample. A Monte Carlo mean is judged by the z-score of its error, an identity by its relative
error.

References:
    [1] Reparameterization Gradients through Acceptance-Rejection Sampling Algorithms (Naesseth et al., 2017)
        https://arxiv.org/abs/1610.05683
    [2] Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning (Williams, 1992)
        https://doi.org/10.1007/BF00992696
"""

import copy
import math
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import sum_rightmost
from pyro.infer import Trace_ELBO
from pyro.poutine import trace
from torch import Size, Tensor
from torch.distributions import Distribution, biject_to, constraints, kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import normalize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae.manifolds.circle import Circle
from ppvae.manifolds.sphere import sphere

__all__ = ["check_distribution"]

Params = Mapping[str, Tensor]

# Two-sided 4e-8 for a normal, 7e-7 for a mean of BLOCKS blocks: some hundred figures are taken per law.
Z_LIMIT = 5.5
FLOAT32_LIMIT = 1e-4  # relative to the largest log density of the law's own samples
FLOAT64_LIMIT = 1e-5  # of a central difference with steps of STEP
STEP = 1e-5
BLOCKS, BLOCK = 64, 256  # a gradient is a mean over blocks of samples, its standard error from their spread
MIN_ESS = 1000  # below it the standard error of an importance estimate is itself a guess


class _Skip(Exception):
    """A check that says nothing about this law, with the reason."""


@contextmanager
def _seeded(seed: int, devices: Sequence[int]):
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _validating(enabled: bool):
    """Pyro's own context, and torch's default, which Pyro keeps no account of, as it was."""
    default = Distribution._validate_args
    try:
        with pyro.validation_enabled(enabled):
            yield
    finally:
        Distribution.set_default_validate_args(default)


def _expect(ok: bool, expected: object, got: object) -> None:
    if not ok:
        raise AssertionError(f"expected {expected}, got {got}")


def _z_score(what: str, estimate: Tensor, error: Tensor, exact: Tensor) -> float:
    """Largest z-score of ``estimate`` - ``exact``, the standard error widened by rounding in float64."""
    estimate, error, exact = torch.broadcast_tensors(estimate, error, exact)
    rounding = math.sqrt(torch.finfo(torch.float64).eps) * exact.abs().clamp_min(1)
    score = ((estimate - exact).abs() / (error.square() + rounding.square()).sqrt()).flatten()
    # argmax takes NaN for the largest, so a NaN is judged, and fails.
    worst = score.argmax()
    got, spread, wanted = (t.flatten()[worst].item() for t in (estimate, error, exact))
    figure = score[worst].item()
    _expect(
        figure <= Z_LIMIT,
        f"{what} = {wanted:.8g}",
        f"{got:.8g} with standard error {spread:.2g} (z = {figure:.1f})",
    )
    return figure


def _relative(what: str, value: Tensor, exact: Tensor, scale: Tensor, limit: float) -> float:
    """Largest error of ``value`` in units of ``scale``."""
    value, exact, scale = torch.broadcast_tensors(value, exact, scale)
    error = ((value - exact).abs() / scale).flatten()
    worst = error.argmax()
    got, wanted = (t.flatten()[worst].item() for t in (value, exact))
    figure = error[worst].item()
    _expect(
        figure <= limit,
        f"{what} = {wanted:.8g}",
        f"{got:.8g} (relative error {figure:.2g}, limit {limit:.0e})",
    )
    return figure


def _mean_and_error(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.std(0) / math.sqrt(x.shape[0])


def _grads(y: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of y, zero where y does not depend on an input."""
    if not y.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    grads = torch.autograd.grad(y, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)]


def _sphere_nodes(m: int, n: int) -> tuple[Tensor, Tensor]:
    """Nodes (n', m) and log weights (n',) of an integral over S^{m-1}: m = 2 (trapezoid) or m = 3 (Gauss)."""
    if m == 2:
        angle = 2 * math.pi * torch.arange(n * n, dtype=torch.float64) / (n * n)
        return torch.stack([angle.cos(), angle.sin()], -1), torch.full_like(angle, math.log(2 * math.pi / (n * n)))
    height, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
    angle = math.pi * torch.arange(2 * n, dtype=torch.float64) / n
    radius = (1 - height.square()).sqrt()[:, None]
    nodes = torch.stack(torch.broadcast_tensors(radius * angle.cos(), radius * angle.sin(), height[:, None]), -1)
    return nodes.flatten(0, 1), (weight * math.pi / n).log()[:, None].expand(-1, 2 * n).flatten()


@dataclass
class _Case:
    """What the checks share: the law in float64, its samples and the test functions f."""

    make: Callable[..., TorchDistribution]
    params: dict[str, Tensor]
    proposal: TorchDistribution | None
    isometry: tuple[Callable[[Tensor], Tensor], Params] | None
    kl_to: Sequence[TorchDistribution]
    grid: list[dict[str, Tensor]]
    points: Callable[[TorchDistribution], Tensor]
    num_samples: int
    seed: int
    devices: list[int]

    @cached_property
    def law(self) -> TorchDistribution:
        with _validating(False):
            return self.make(**self.params)

    @cached_property
    def shape(self) -> Size:
        return self.law.batch_shape + self.law.event_shape

    @cached_property
    def z(self) -> Tensor:
        with _seeded(self.seed, self.devices), torch.no_grad():
            return self.law.sample(Size((self.num_samples,)))

    @cached_property
    def log_q(self) -> Tensor:
        with torch.no_grad():
            return self.law.log_prob(self.z)

    @cached_property
    def functions(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """f: the log density, sine and cosine of one standardised projection; all have moments.

        What is projected is the point or, of a law that names its manifold, the numbers in which networks read it: they
        have no seam where a circle is closed, and are equal for the points that a quotient takes for one.
        """
        manifold, event_dim = getattr(self.law, "manifold", None), self.law.event_dim
        read, axes = (manifold.embed, 1) if manifold is not None else (lambda z: z, event_dim)
        with _seeded(self.seed, self.devices):
            a = torch.randn(read(self.z[:1]).shape[-axes:] if axes else Size(), dtype=self.z.dtype).to(self.z.device)
        t = sum_rightmost(a * read(self.z), axes)
        mean, scale = t.median(0).values, (t.quantile(0.84, 0) - t.quantile(0.16, 0)) / 2
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))

        def standardised(z: Tensor) -> Tensor:
            return (sum_rightmost(a * read(z), axes) - mean) / scale

        return {
            "log q(z)": self.law.log_prob,
            "sin a.z": lambda z: standardised(z).sin(),
            "cos a.z": lambda z: standardised(z).cos(),
        }

    def integral(self, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The integral of f(z) q(z) with its standard error, by quadrature or draws from the proposal."""
        law, pad = self.law, (None,) * len(self.law.batch_shape)
        if self.proposal is None and law.support in (sphere, Circle.support) and law.event_shape[0] in (2, 3):
            values = []
            for n in (200, 180):  # two grids that share no structure: where they agree, both are right
                nodes, log_weight = (t.to(self.z.device) for t in _sphere_nodes(law.event_shape[0], n))
                z = nodes[(slice(None), *pad)]
                log_mass = law.log_prob(z) + log_weight[(slice(None), *pad)]
                # Zero density times an infinite f, its logarithm, is zero.
                values.append(torch.where(log_mass.isneginf(), 0, log_mass.exp() * f(z)).sum(0))
                # A bump that fewer nodes than these carry may fall between them: with 30 the error is below 1e-15.
                if bool((2 * log_mass.logsumexp(0) - (2 * log_mass).logsumexp(0) < math.log(30)).any()):
                    raise _Skip("the law is too concentrated for the quadrature")
            return values[0], (values[0] - values[1]).abs()
        if self.proposal is None:
            raise _Skip("no proposal= law to integrate by, and no quadrature for this support")
        r = self.proposal.expand(law.batch_shape)
        with _seeded(self.seed + 1, self.devices):
            z = r.sample(Size((self.num_samples,)))
        ratio = (law.log_prob(z) - r.log_prob(z)).exp()
        ess = (ratio.sum(0).square() / ratio.square().sum(0)).min().item()
        if ess < MIN_ESS:
            raise _Skip(f"the proposal is too far from the law: effective sample size {ess:.0f} of {self.num_samples}")
        return _mean_and_error(torch.where(ratio == 0, 0, ratio * f(z)))

    def leaves(self) -> dict[str, Tensor]:
        return {name: p.detach().clone().requires_grad_() for name, p in self.params.items()}


def _arguments_of(law: TorchDistribution) -> dict[str, tuple[Tensor, constraints.Constraint]]:
    """The law's own arguments whose constraint says what one of them is."""
    found = {}
    for name, constraint in getattr(law, "arg_constraints", {}).items():
        value = getattr(law, name, None)
        if isinstance(value, Tensor) and not constraints.is_dependent(constraint):
            found[name] = (value.detach(), constraint)
    return found


def _rebuild(law: TorchDistribution, arguments: Mapping[str, Tensor]) -> TorchDistribution:
    try:
        family: Callable[..., TorchDistribution] = type(law)
        return family(**arguments)
    except (TypeError, ValueError) as error:
        raise _Skip(f"{type(law).__name__} is not built from its arg_constraints alone: {error}") from error


def _loc(law: TorchDistribution) -> Tensor:
    loc = getattr(law, "loc", None)
    return loc if isinstance(loc, Tensor) and loc.shape == law.shape() else torch.empty(0)


def _shapes(case: _Case) -> float:
    law = case.law
    batch, event = law.batch_shape, law.event_shape
    arguments = _arguments_of(law).values()
    if arguments:
        expected = torch.broadcast_shapes(*(v.shape[: v.dim() - c.event_dim] for v, c in arguments))
        _expect(batch == expected, f"batch_shape {tuple(expected)}, the broadcast of the arguments'", tuple(batch))
    if law.support is not None:
        _expect(law.support.event_dim == len(event), f"support.event_dim {len(event)}", law.support.event_dim)
    for sample_shape in (Size(), Size((4,)), Size((2, 3))):
        z = law.sample(sample_shape)
        _expect(
            z.shape == sample_shape + batch + event,
            f"sample of shape {tuple(sample_shape + batch + event)}",
            tuple(z.shape),
        )
        _expect(z.dtype == torch.float64, "samples in torch.float64 from parameters in torch.float64", z.dtype)
        _expect(not z.requires_grad, "sample() without gradient", "a sample that requires grad")
        log_q = law.log_prob(z)
        _expect(log_q.dtype == z.dtype, f"log_prob in {z.dtype}, as the samples", log_q.dtype)
        _expect(
            log_q.shape == sample_shape + batch,
            f"log_prob of shape {tuple(sample_shape + batch)}",
            tuple(log_q.shape),
        )
    for name in ("mean", "variance"):
        try:
            moment = getattr(law, name)
        except (NotImplementedError, AttributeError):
            continue
        _expect(moment.shape == case.shape, f"{name} of shape {tuple(case.shape)}", tuple(moment.shape))
    return 0.0


def _samples(case: _Case) -> float:
    _expect(
        bool(case.z.isfinite().all()),
        "finite samples",
        f"{case.z.numel() - int(case.z.isfinite().sum())} not finite",
    )
    _expect(bool(case.log_q.isfinite().all()), "a finite log density of every sample", case.log_q.min().item())
    if case.law.support is not None:
        outside = int((~case.law.support.check(case.z)).sum())
        _expect(
            outside == 0,
            f"samples in the support {case.law.support}",
            f"{outside} outside, e.g. {case.z.flatten()[:8]}",
        )
    draws = []
    for _ in range(2):
        with _seeded(case.seed, case.devices):
            draws.append(case.law.sample(Size((16,))))
    _expect(torch.equal(*draws), "the same samples from the same torch seed", "others")
    return 0.0


def _validation(case: _Case) -> float:
    law = case.make(**case.params)
    if law.support is None:
        raise _Skip("the law has no support")
    z = law.sample()
    candidates = [2 * z + 0.5, -z - 1, torch.full_like(z, math.nan)]
    bad = next((c for c in candidates if not law.support.check(c).any()), None)
    if bad is None:
        raise _Skip(f"no value known that is outside {law.support}")
    law.log_prob(z)
    try:
        law.log_prob(bad)
    except ValueError:
        return 0.0
    raise AssertionError(f"expected ValueError under validate_args off {law.support}, got none for {bad.flatten()[:8]}")


def _arguments(case: _Case) -> float:
    arguments = _arguments_of(case.law)
    if not arguments:
        raise _Skip("the law names no arguments with a constraint")
    values = {name: value for name, (value, _) in arguments.items()}
    _rebuild(case.law, values)
    family: Callable[..., TorchDistribution] = type(case.law)
    for name, (value, constraint) in arguments.items():
        candidates = [2 * value + 0.5, -value - 1, torch.full_like(value, math.nan)]
        bad = next(c for c in candidates if not constraint.check(c).any())
        try:
            family(**{**values, name: bad})
        except ValueError:
            continue
        raise AssertionError(f"expected ValueError for {name} off {constraint}, got none for {bad.flatten()[:8]}")
    return 0.0


def _expand(case: _Case) -> float:
    law, shape = case.law, Size((3,)) + case.law.batch_shape
    big = law.expand(shape)
    _expect(big.batch_shape == shape, f"expand to batch_shape {tuple(shape)}", tuple(big.batch_shape))
    _expect(big.event_shape == law.event_shape, f"event_shape {tuple(law.event_shape)}", tuple(big.event_shape))
    _expect(big.has_rsample == law.has_rsample, f"has_rsample {law.has_rsample} after expand", big.has_rsample)
    z = big.sample()
    _expect(
        z.shape == shape + law.event_shape,
        f"sample of shape {tuple(shape + law.event_shape)}",
        tuple(z.shape),
    )
    copies = case.z[0].expand(z.shape)
    if not getattr(law.support, "is_discrete", False):
        _expect(not torch.equal(z[0], z[1]), "independent samples in an expanded batch", "one sample repeated")
    figure = _relative(
        "log_prob after expand", big.log_prob(copies), case.log_q[0].expand(shape), case.z.new_ones(()), 1e-9
    )
    event = big.to_event(1)
    _expect(
        event.event_shape == shape[-1:] + law.event_shape,
        "to_event(1) to take the last batch dim",
        event.event_shape,
    )
    joint = event.log_prob(z)
    return max(
        figure,
        _relative("log_prob after to_event", joint, big.log_prob(z).sum(-1), joint.abs().clamp_min(1), 1e-9),
    )


def _plates(case: _Case) -> float:
    shape = Size((2,)) + case.law.batch_shape  # the outer plate makes Pyro expand the law

    def model():
        with ExitStack() as plates:
            for dim, size in enumerate(reversed(shape)):
                plates.enter_context(pyro.plate(f"plate_{dim}", size, dim=-1 - dim))
            return pyro.sample("z", case.law)

    tr = trace(model).get_trace()
    z = torch.as_tensor(tr.nodes["z"]["value"])
    _expect(
        z.shape == shape + case.law.event_shape,
        f"a site of shape {tuple(shape + case.law.event_shape)}",
        tuple(z.shape),
    )
    total = torch.as_tensor(tr.log_prob_sum())
    figure = _relative("log_prob_sum in plates", total, case.law.log_prob(z).sum(), total.abs().clamp_min(1), 1e-9)
    # With the law as model and guide every particle has log p - log q = 0, if its shapes survive the
    # particles' dim.
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=len(shape))
    loss = torch.as_tensor(elbo.loss(model, model), dtype=total.dtype)
    return max(
        figure,
        _relative("ELBO over particles", loss, torch.zeros_like(loss), total.detach().abs().clamp_min(1).cpu(), 1e-9),
    )


def _copies(case: _Case) -> float:
    z = case.z[:16]
    exact = case.law.log_prob(z)
    for name, other in (
        ("pickle", pickle.loads(pickle.dumps(case.law))),
        ("deepcopy", copy.deepcopy(case.law)),
    ):
        _expect(
            other.batch_shape == case.law.batch_shape,
            f"batch_shape {case.law.batch_shape} after {name}",
            other.batch_shape,
        )
        _expect(torch.equal(other.log_prob(z), exact), f"the same log_prob after {name}", "another")
        _expect(
            other.sample().shape == case.shape,
            f"samples of shape {tuple(case.shape)} after {name}",
            other.sample().shape,
        )
    return 0.0


def _mass(case: _Case) -> float:
    mass, error = case.integral(lambda z: torch.ones(()).to(z))
    return _z_score("the integral of exp(log_prob) over the support", mass, error, torch.ones_like(mass))


def _law_of_samples(case: _Case) -> float:
    figure = 0.0
    for name, f in case.functions.items():
        exact, exact_error = case.integral(f)
        estimate, error = _mean_and_error(f(case.z))
        figure = max(figure, _z_score(f"E f(z) of the density, f = {name},", estimate, error.hypot(exact_error), exact))
    return figure


def _moments(case: _Case) -> float:
    figure, done = 0.0, []
    for name, x in (("mean", case.z), ("variance", (case.z - case.z.mean(0)).square())):
        try:
            exact = getattr(case.law, name)
        except (NotImplementedError, AttributeError):
            continue
        if bool(exact.isfinite().all()):
            done.append(name)
            estimate, error = _mean_and_error(x)
            figure = max(figure, _z_score(name, estimate, error, exact))
    if not done:
        raise _Skip("the law has no finite mean or variance in closed form")
    return figure


def _entropy(case: _Case) -> float:
    try:
        entropy = case.law.entropy()
    except NotImplementedError as error:
        raise _Skip("the law has no entropy in closed form") from error
    _expect(
        entropy.shape == case.law.batch_shape,
        f"entropy of shape {tuple(case.law.batch_shape)}",
        tuple(entropy.shape),
    )
    return _z_score("entropy, by E[-log q],", *_mean_and_error(-case.log_q), entropy)


def _kl(case: _Case) -> float:
    if not case.kl_to:
        raise _Skip("no kl_to= laws")
    figure = 0.0
    for p in case.kl_to:
        exact = kl_divergence(case.law, p)
        estimate, error = _mean_and_error(case.log_q - p.log_prob(case.z))
        exact = exact.expand(estimate.shape)
        figure = max(figure, _z_score(f"KL to {type(p).__name__}, by E[log q - log p],", estimate, error, exact))
    return figure


def _isometry(case: _Case) -> float:
    if case.isometry is None:
        raise _Skip("no isometry=")
    act, moved = case.isometry
    law = case.make(**{**case.params, **{name: v.to(torch.float64) for name, v in moved.items()}})
    figure = _relative(
        "log q(g z) under g phi", law.log_prob(act(case.z)), case.log_q, case.log_q.abs().clamp_min(1), 1e-9
    )
    with _seeded(case.seed + 2, case.devices):
        there = law.sample(Size((case.num_samples,)))
    for name, f in case.functions.items():
        mean, error = _mean_and_error(f(act(case.z)))
        other, other_error = _mean_and_error(f(there))
        figure = max(figure, _z_score(f"E f(g z), f = {name},", other, error.hypot(other_error), mean))
    return figure


def _path(law: TorchDistribution, z: Tensor) -> Callable[[Tensor], Tensor]:
    """A curve of points in the support with z at h = 0, or z itself where no way to move is known."""
    if law.support in (sphere, Circle.support):
        step = torch.randn_like(z)
        return lambda h: normalize(z + h * step, dim=-1)
    try:
        to_support = biject_to(law.support)
    except (NotImplementedError, TypeError):
        return lambda h: z
    x = to_support.inv(z)
    step = torch.randn_like(x)
    return lambda h: to_support(x + h * step)


def _log_prob_gradient(case: _Case) -> float:
    path = _path(case.law, case.z[:64])
    # A direction in proportion to each entry keeps positive ones positive.
    steps = {name: torch.where(p == 0, 1, p.abs()) * torch.randn_like(p) for name, p in case.params.items()}

    def at(h: Tensor) -> Tensor:
        law = case.make(**{name: p + h * steps[name] for name, p in case.params.items()})
        return law.log_prob(path(h)).mean()

    h = case.z.new_zeros((), requires_grad=True)
    (slope,) = _grads(at(h), [h])
    exact = (at(h.detach() + STEP) - at(h.detach() - STEP)) / (2 * STEP)
    scale = (case.log_q.abs().mean() + exact.abs()).clamp_min(1)
    return _relative("the derivative of log_prob, by differences,", slope, exact, scale, FLOAT64_LIMIT)


def _score(case: _Case) -> float:
    if not case.params:
        raise _Skip("no params to differentiate by")
    blocks = []
    for _ in range(BLOCKS):
        leaves = case.leaves()
        law = case.make(**leaves)
        blocks.append(_grads(law.log_prob(law.sample(Size((BLOCK,)))).mean(0).sum(), list(leaves.values())))
    return max(
        _z_score(
            f"E of the score, the derivative of log q by {name},",
            *_mean_and_error(torch.stack(g)),
            torch.zeros_like(g[0]),
        )
        for name, g in zip(case.params, zip(*blocks, strict=True), strict=True)
    )


def _pathwise(case: _Case) -> float:
    if not case.law.has_rsample:
        raise _Skip("the law has no rsample")
    if not case.params:
        raise _Skip("no params to differentiate by")
    mean = {name: f(case.z).mean(0) for name, f in case.functions.items()}
    path: dict[str, list] = {name: [] for name in mean}
    score: dict[str, list] = {name: [] for name in mean}
    for _ in range(BLOCKS):
        leaves = case.leaves()
        inputs = list(leaves.values())
        law = case.make(**leaves)
        z = law.rsample(Size((BLOCK,)))
        log_q = law.log_prob(z.detach())
        for name, f in case.functions.items():
            value = f(z)
            path[name].append(_grads(value.mean(0).sum(), inputs))
            weight = value.detach() - mean[name]  # the mean takes variance and nothing else, as E of the score is 0
            score[name].append(_grads((weight * log_q).mean(0).sum(), inputs))
    figure = 0.0
    for name in mean:
        for i, p in enumerate(case.params):
            a, b = torch.stack([g[i] for g in path[name]]), torch.stack([g[i] for g in score[name]])
            what = f"the derivative of E f(z) by {p}, f = {name}, by the score, against the pathwise one,"
            # The two share their samples: the spread of the difference is its error.
            error = _mean_and_error(a - b)[1]
            figure = max(figure, _z_score(what, a.mean(0), error, b.mean(0)))
    return figure


def _finite(case: _Case) -> float:
    for params in (case.params, *case.grid):
        for dtype in (torch.float64, torch.float32):
            leaves = {name: p.to(dtype).clone().requires_grad_() for name, p in params.items()}
            where = f"at {dtype} and " + ", ".join(f"{name} = {p.flatten()[:6].tolist()}" for name, p in params.items())
            law = case.make(**leaves)
            inputs = list(leaves.values())
            values = {"a sample": law.sample(Size((64,))), "points": case.points(law)}
            if law.has_rsample:
                z = law.rsample(Size((64,)))
                _expect(bool(z.isfinite().all()), f"finite samples {where}", "NaN or infinite ones")
                for name, g in zip(leaves, _grads(z.sum(), inputs), strict=True):
                    _expect(
                        bool(g.isfinite().all()),
                        f"a finite gradient of rsample by {name} {where}",
                        g.flatten()[:6].tolist(),
                    )
            for kind, value in values.items():
                value = value.detach().clone()
                if value.numel() == 0:
                    continue
                if value.is_floating_point():
                    value.requires_grad_()
                log_q = law.log_prob(value)
                _expect(bool(log_q.isfinite().all()), f"a finite log_prob of {kind} {where}", log_q.min().item())
                for name, g in zip([*leaves, "value"], _grads(log_q.sum(), [*inputs, value]), strict=True):
                    bad = g[~g.isfinite()]
                    _expect(
                        bad.numel() == 0,
                        f"a finite gradient of log_prob by {name} at {kind} {where}",
                        bad[:4].tolist(),
                    )
            try:
                entropy = law.entropy()
            except NotImplementedError:
                continue
            _expect(bool(entropy.isfinite().all()), f"a finite entropy {where}", entropy.flatten()[:6].tolist())
    return 0.0


def _float32(case: _Case) -> float:
    if not case.params:
        raise _Skip("no params to set the dtype by")
    figure = 0.0
    for params in (case.params, *case.grid):
        single = case.make(**{name: p.to(torch.float32) for name, p in params.items()})
        z = single.sample(Size((256,)))
        log_q = single.log_prob(z)
        for what, x in (("sample", z), ("log_prob", log_q)):
            _expect(x.dtype == torch.float32, f"{what} in torch.float32 from such parameters", x.dtype)
        if single.support is not None:
            _expect(bool(single.support.check(z).all()), f"float32 samples in {single.support}", "some outside")
        try:
            # The same arguments to the last bit, so that only the arithmetic differs.
            own = {name: v.double() for name, (v, _) in _arguments_of(single).items()}
            double = _rebuild(single, own) if own else case.make(**params)
        except _Skip:
            double = case.make(**{name: p.to(torch.float32).to(torch.float64) for name, p in params.items()})
        exact = double.log_prob(z.double())
        scale = exact.abs().amax(0).clamp_min(1)
        where = ", ".join(f"{name} = {p.flatten()[:6].tolist()}" for name, p in params.items())
        figure = max(figure, _relative(f"log_prob in float32 at {where}", log_q.double(), exact, scale, FLOAT32_LIMIT))
        try:
            entropy, exact = single.entropy().double(), double.entropy()
        except NotImplementedError:
            continue
        figure = max(figure, _relative(f"entropy in float32 at {where}", entropy, exact, scale, FLOAT32_LIMIT))
    return figure


def _float32_samples(case: _Case) -> float:
    if not case.params:
        raise _Skip("no params to set the dtype by")
    single = case.make(**{name: p.to(torch.float32) for name, p in case.params.items()})
    with _seeded(case.seed + 3, case.devices):
        z = single.sample(Size((case.num_samples,))).double()
    figure = 0.0
    for name, f in case.functions.items():
        mean, error = _mean_and_error(f(case.z))
        other, other_error = _mean_and_error(f(z))
        figure = max(figure, _z_score(f"E f(z) of float32 samples, f = {name},", other, error.hypot(other_error), mean))
    return figure


def _log_prob_and_gradients(case: _Case, z: Tensor, *values: Tensor) -> list[Tensor]:
    leaves = [v.detach().requires_grad_() for v in values]
    log_q = case.make(**dict(zip(case.params, leaves, strict=True))).log_prob(z)
    return [log_q.detach(), *_grads(log_q.sum(), leaves)]


def _sample_and_gradients(case: _Case, *values: Tensor) -> list[Tensor]:
    leaves = [v.detach().requires_grad_() for v in values]
    law = case.make(**dict(zip(case.params, leaves, strict=True)))
    z = (law.rsample if law.has_rsample else law.sample)(Size((4,)))
    return [z.detach(), *_grads(z.sum(), leaves)]


def _traceable(case: _Case) -> float:
    values, figure = list(case.params.values()), 0.0
    for name, function, inputs in (
        ("log_prob", partial(_log_prob_and_gradients, case), [case.z[:4], *values]),
        ("sample", partial(_sample_and_gradients, case), values),
    ):
        # Fake tensors have no values to branch on. A law of the caller may hold tensors that are none.
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
        with _seeded(case.seed, case.devices):
            eager = function(*inputs)
        with _seeded(case.seed, case.devices):
            traced = graph(*inputs)
        for a, b in zip(traced, eager, strict=True):
            figure = max(figure, _relative(f"the traced {name}", a, b, b.abs().clamp_min(1), 1e-9))
    return figure


# What waits for the device to hand a value or a shape to the host; of linear algebra what does so on CUDA.
WAITS = {
    *("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2"),
    *("unique_consecutive", "repeat_interleave", "bincount", "multinomial", "_linalg_check_errors", "_linalg_svd"),
    *("linalg_qr", "_linalg_eigh", "linalg_eig", "linalg_matrix_exp"),
}


class _Waits(TorchDispatchMode):
    """Raise where an operation waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        masks = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        _expect(not masks and name not in WAITS, "nothing that waits for the device", func.__name__)
        if name in ("_sample_dirichlet", "_dirichlet_grad"):  # which torch has not told the shape of the result
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class _HostNumbers(TorchFunctionMode):
    """Raise where numbers of the host become a tensor: on a GPU each is a copy that waits, and no graph captures it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        makes = func in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)
        _expect(
            not makes or isinstance(args[-1], Tensor),
            "tensors made on the device, e.g. by torch.full or torch.arange",
            f"{getattr(func, '__name__', func)} of {args[-1] if args else kwargs}",
        )
        return func(*args, **(kwargs or {}))


def _on_a_device(case: _Case) -> float:
    if not case.params:
        raise _Skip("no params to set the device by")
    z, *values = (t.to("meta") for t in (case.z[:4], *case.params.values()))
    try:
        with _Waits(), _HostNumbers():
            outputs = _log_prob_and_gradients(case, z, *values) + _sample_and_gradients(case, *values)
    except NotImplementedError as error:
        if "Meta" not in str(error):
            raise
        raise _Skip(f"an operation that torch does not know on its meta device: {error}") from error
    left = [t.device.type for t in outputs if t.device.type != "meta"]
    _expect(not left, "results on the device of the parameters", left)
    return 0.0


# Name of the check, the check, whether arguments are validated meanwhile. Validation branches on values,
# which differences step off the manifold and a trace cannot hold.
CHECKS: dict[str, tuple[Callable[[_Case], float], bool]] = {
    "shapes": (_shapes, False),
    "samples": (_samples, False),
    "value validation": (_validation, True),
    "argument validation": (_arguments, True),
    "expand": (_expand, True),
    "plates": (_plates, True),
    "copies": (_copies, True),
    "finite": (_finite, False),
    "mass": (_mass, False),
    "sampler": (_law_of_samples, False),
    "moments": (_moments, False),
    "entropy": (_entropy, False),
    "kl": (_kl, False),
    "isometry": (_isometry, False),
    "log_prob gradient": (_log_prob_gradient, False),
    "score": (_score, False),
    "pathwise gradient": (_pathwise, False),
    "float32": (_float32, False),
    "float32 samples": (_float32_samples, False),
    "traceable": (_traceable, False),
    "on a device": (_on_a_device, False),
}


def check_distribution(
    make: Callable[..., TorchDistribution] | TorchDistribution,
    params: Params | None = None,
    *,
    proposal: TorchDistribution | None = None,
    isometry: tuple[Callable[[Tensor], Tensor], Params] | None = None,
    kl_to: Sequence[TorchDistribution] = (),
    grid: Iterable[Params] = (),
    points: Callable[[TorchDistribution], Tensor] | None = None,
    skip: Mapping[str, str] | None = None,
    num_samples: int = 2**14,
    seed: int = 0,
) -> dict[str, float | str]:
    r"""Hold a law to the battery of checks that the library's own laws pass, and say what was checked.

    The checks are: ``shapes``; ``samples`` (finite, in the support, repeated by the seed); ``value
    validation`` and ``argument validation`` (ValueError off the support); ``expand`` (and ``to_event``);
    ``plates`` (and vectorised particles); ``copies`` (pickle, deepcopy); ``finite`` (values and gradients,
    float32 and float64); ``mass`` (one); ``sampler`` (E f of samples and of the density); ``moments``;
    ``entropy``; ``kl``; ``isometry``; ``log_prob gradient`` (against differences); ``score`` (has mean zero);
    ``pathwise gradient`` (equals the score gradient of E f); ``float32`` (log_prob and entropy); ``float32
    samples``; ``traceable`` (log_prob and sample with their gradients by ``make_fx`` from fake tensors, so
    that nothing branches on values); ``on a device`` (the same on torch's meta device: nothing waits for the
    device, is copied from the host or stays there, so that a CUDA graph can hold it).

    The integrals of ``mass`` and ``sampler`` are taken by quadrature on S^1 and S^2 and by importance
    sampling from ``proposal`` elsewhere. All else needs the law alone. Each check runs from its own seed;
    global generators and validation settings are as before afterwards.

    :param make: function of keyword tensors that returns the law, or a law in float64. For a law the checks that vary
        its parameters are skipped.
    :param params: tensors for ``make``, cast to float64; a batch of them checks a batch. They are free in
        every direction: a parameter on a manifold is projected inside ``make``. A law without parameters
        takes its dtype from a tensor of any name.
    :param proposal: law in float64 on the same support and with respect to the same measure, its density
        known and its tails no lighter, of a batch shape that expands to the law's: the uniform law on a compact
        manifold.
    :param isometry: ``(g, moved)``: a map g of points that keeps distances, and the parameters under which g
        z has the law of z (those that stay may be left out).
    :param kl_to: laws p in float64 for which KL(law || p) is registered, in nats.
    :param grid: further parameters for ``finite`` and ``float32``, e.g. extreme concentrations.
    :param points: function of a law that returns points ``(n, *batch_shape, *event_shape)`` at which its
        density and gradient are to be finite, e.g. mode and antipode; without it, ``law.loc`` where there is
        one.
    :param skip: names of checks that do not apply to the law, each with the reason.
    :param num_samples: number of Monte Carlo samples per mean.
    :param seed: seed of all draws.
    :return: for each check its figure, or ``"skipped: "`` and the reason. A figure is the largest z-score
        (limit 5.5) of ``mass``, ``sampler``, ``moments``, ``entropy``, ``kl``, ``isometry``, ``score``,
        ``pathwise gradient`` and ``float32 samples``, the largest relative error elsewhere, 0 where the
        answer is yes or no.
    :raises AssertionError: naming law, check, what was expected and what was got, at the first check that
        fails.
    :raises ValueError: if ``skip`` names no check, or a ready-made law is not in float64.

    >>> from ppvae.distributions import VonMisesFisher
    >>> def make(loc, concentration):
    ...     return VonMisesFisher(loc / loc.norm(dim=-1, keepdim=True), concentration)
    >>> params = {"loc": torch.tensor([0.6, 0.8, 0.0]), "concentration": torch.tensor(20.0)}
    >>> poles = lambda law: torch.stack([law.loc, -law.loc])  # where gradients fail first
    >>> found = check_distribution(make, params, points=poles, num_samples=2**11)
    >>> found["mass"] < 5.5
    True
    """
    skip = dict(skip or {})
    unknown = sorted(set(skip) - set(CHECKS))
    if unknown:
        raise ValueError(f"expected names of checks in skip, out of {list(CHECKS)}, got {unknown}")
    law = make if isinstance(make, Distribution) else None
    if law is not None and params:
        raise ValueError("expected a function that makes the law from params, got a law and params")
    params = {name: p.detach().to(torch.float64) for name, p in (params or {}).items()}
    devices = sorted({p.device.index or 0 for p in params.values() if p.is_cuda})
    case = _Case(
        make=make if law is None else (lambda: law),
        params=params,
        proposal=proposal,
        isometry=isometry,
        kl_to=kl_to,
        grid=[{name: p.detach().to(torch.float64) for name, p in entry.items()} for entry in grid],
        points=points or _loc,
        num_samples=num_samples,
        seed=seed,
        devices=devices,
    )
    if law is not None and case.z.dtype != torch.float64:
        raise ValueError(f"expected a law with samples in torch.float64 (make it from params), got {case.z.dtype}")
    title = f"{type(case.law).__name__} of batch_shape {tuple(case.law.batch_shape)}"
    report: dict[str, float | str] = {}
    for name, (check, validate) in CHECKS.items():
        if name in skip:
            report[name] = f"skipped: {skip[name]}"
            continue
        try:
            with _seeded(seed, devices), _validating(validate):
                report[name] = check(case)
        except _Skip as reason:
            report[name] = f"skipped: {reason}"
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else f"raised {type(error).__name__}: {error}"
            raise AssertionError(f"{title}: {name}: {what}") from error
    return report
