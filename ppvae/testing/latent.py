r"""One battery of tests for a latent: what it owes to model and guide, whatever pair it is put into.

With z drawn by ``posterior`` and h the features that it was given, it holds that

.. math::
    \mathrm{KL}(q \| p) = E_q[\log q(z \mid h) - \log p(z)] \ge 0, \qquad
    \nabla_h \, E_q[\log p(x \mid \mathrm{read}(z)) - \log q(z \mid h) + \log p(z)] \; \text{ finite}

and that every number of h matters. The points of a quotient that are one point are read alike.
"""

import copy
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppvae.infer.sites import latents, manifold_of
from ppvae.isolation import isolated_param_store
from ppvae.nn import NormalLikelihood
from ppvae.predict import decode, encode, reconstruct
from ppvae.random import seeded
from ppvae.testing.distribution import WAITS
from ppvae.vae import first_traces

__all__ = ["check_latent"]

N, SAMPLES, Z_LIMIT = 6, 4096, 5.5
SHAPE = (5,)  # of a datum of the VAE that the latent is put into


class _Case:
    """A latent, features for N data, and what it is given beside them."""

    def __init__(self, make: Callable[[], Any], given: Sequence[Tensor], scale: float):
        self.make, self.latent = make, make().double()
        self.given, self.scale = tuple(g[:N] for g in given), scale
        self.h = self.features()

    def features(self, *left: int) -> Tensor:
        return self.scale * torch.randn(*left, N, self.latent.features, dtype=torch.float64)

    def encode(self, u: Tensor) -> Tensor:
        """A fixed linear encoder, for a prior that is made of posteriors."""
        flat = u.flatten(1)
        weights = torch.linspace(-1, 1, flat.shape[-1] * self.latent.features, dtype=u.dtype, device=u.device).sin()
        return flat @ (4 * weights).sin().reshape(flat.shape[-1], -1)

    def run(self, h: Tensor, name: str = "z", latent: Any = None, given: Sequence[Tensor] | None = None) -> "_Run":
        return _Run(latent or self.latent, h, name, self.given if given is None else given, self.encode)


class _Run:
    """Traces of posterior and prior, the prior at what the posterior drew."""

    def __init__(self, latent: Any, h: Tensor, name: str, given: Sequence[Tensor], encode: Any):
        def guide() -> Tensor:
            with pyro.plate("data", N):
                return latent.posterior(name, h, *given)

        def model() -> Tensor:
            with pyro.plate("data", N):
                return latent.prior(name, h.new_zeros(N, *SHAPE), *given, encode=encode)

        self.guide = poutine.trace(guide).get_trace()
        self.model = poutine.trace(poutine.replay(model, trace=self.guide)).get_trace()
        for what, trace in (("posterior", self.guide), ("prior", self.model)):
            _expect(name in trace, f"{what} to sample under the name it is given, {name!r}", list(trace.nodes))
        self.z: Tensor = self.guide.nodes["_RETURN"]["value"]  # type: ignore[assignment]
        self.q: Any
        self.p: Any
        self.q, self.p = (trace.nodes[name]["fn"] for trace in (self.guide, self.model))
        self.log_q, self.log_p = _log_density(self.guide), _log_density(self.model)


def _log_density(trace: Any) -> Tensor:
    """The sum over the latents, shape ``(..., N)``."""
    trace.compute_log_prob()
    terms = [site["unscaled_log_prob"] for site in latents(trace)]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)


def _expect(ok: bool, expected: object, got: object) -> None:
    if not ok:
        raise AssertionError(f"expected {expected}, got {got}")


def _protocol(case: _Case) -> str:
    latent = case.latent
    _expect(isinstance(latent, nn.Module), "a torch module", type(latent).__name__)
    _expect(isinstance(latent.features, int) and latent.features > 0, "features, a number", latent.features)
    reads = tuple(latent.reads)
    _expect(all(isinstance(n, int) and n > 0 for n in reads), "reads, a shape", reads)
    _expect(
        len(case.given) == len(latent.given), f"given= of {len(latent.given)} tensors, as latent.given", len(case.given)
    )
    return f"{latent.features} features, reads {reads}"


def _sites(case: _Case) -> str:
    run = case.run(case.h, "pose")
    names = [[site["name"] for site in latents(trace)] for trace in (run.model, run.guide)]
    _expect("pose" in names[0] and set(names[0]) <= set(names[1]), "the sites of the prior in the posterior", names)
    for site in (*latents(run.model), *latents(run.guide)):
        _expect(
            site["name"] == "pose" or site["name"].startswith("pose_"), "names that begin with the name", site["name"]
        )
        frames = [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]]
        _expect(frames == [("data", -1, N)], "sites in the data plate alone", frames)
    for trace in (run.model, run.guide):
        same = trace.nodes["_RETURN"]["value"] is trace.nodes["pose"]["value"]
        _expect(same, "the value of the site 'pose' returned", "another value")
    with pyro.plate("data", N), poutine.trace():  # which raises where a name is taken
        for name in ("a", "b"):
            case.latent.posterior(name, case.h, *case.given)
    return f"{', '.join(names[1])} under the name pose"


def _space(case: _Case) -> str:
    run, manifold = case.run(case.h), case.latent.manifold
    for law in (run.q, run.p):
        found = type(manifold_of(law))
        name = f"{type(law).__name__} on {found.__name__}"
        _expect(found is type(manifold), f"a law on {type(manifold).__name__}", name)
    inside = manifold.support.check(run.z)
    _expect(inside.shape == (N,) and bool(inside.all()), "draws on the manifold", inside)
    draws = run.p.sample()
    _expect(draws.shape == run.z.shape, f"draws of the prior of shape {tuple(run.z.shape)}", tuple(draws.shape))
    return type(manifold).__name__


@torch.no_grad()
def _reads(case: _Case) -> str:
    run, latent = case.run(case.h), case.latent
    read = latent.read(run.z)
    _expect(read.shape == (N, *latent.reads), f"read(z) of shape {(N, *latent.reads)}", tuple(read.shape))
    deep = latent.read(run.z.expand(3, *run.z.shape))
    error = float((deep - read).abs().max())
    _expect(error < 1e-9, "the same reading in a batch of more dimensions", f"a difference of {error:.2g}")
    draws = latent.read(run.p.expand([1000, N]).sample())
    size = float(draws.square().mean().sqrt())
    _expect(0.1 < size < 10, "numbers of size about 1 under the prior", f"{size:.2g}")
    manifold = latent.manifold
    if hasattr(manifold, "orbit"):
        images = latent.read(manifold.orbit(run.z))
        error = float((images - read).abs().max())
        _expect(error < 1e-9, "one reading of all points of an orbit", f"a difference of {error:.2g}")
    return f"size {size:.2f} under the prior"


def _features(case: _Case) -> str:
    h = case.h.clone().requires_grad_()
    run = case.run(h)
    weights = torch.randn_like(case.latent.read(run.z).detach())
    (gradient,) = torch.autograd.grad((run.log_q.sum() + (weights * case.latent.read(run.z)).sum()), h)
    dead = [i for i, column in enumerate(gradient.abs().amax(0).tolist()) if column == 0]
    _expect(not dead, "every feature to matter", f"no effect of {dead}")
    try:
        case.latent.posterior("z", torch.zeros(N, case.latent.features + 1, dtype=h.dtype), *case.given)
    except (ValueError, RuntimeError):
        return f"all {h.shape[-1]} matter"
    raise AssertionError(f"expected an error for {h.shape[-1] + 1} features, got a draw")


@torch.no_grad()
def _left_dimensions(case: _Case) -> str:
    """Particles at once have the densities that each has by itself."""
    h = case.features(3)
    given = [g.expand(3, *g.shape) for g in case.given]
    together = case.run(h, given=given)
    _expect(together.log_q.shape == (3, N), f"log q of shape {(3, N)} for 3 particles", tuple(together.log_q.shape))
    for k in range(3):
        alone = case.run(h[k])
        for what, laws in (("posterior", (together.q, alone.q)), ("prior", (together.p, alone.p))):
            a, b = laws[0].log_prob(together.z)[k], laws[1].log_prob(together.z[k])
            worst = float(((a - b).abs() / (1 + b.abs())).max())
            _expect(worst < 1e-6, f"the {what} of a particle alone", f"one that is off by {worst:.2g}")
    return "3 particles, each as if alone"


def _gradients(case: _Case) -> str:
    for dtype in (torch.float64, torch.float32):
        latent = copy.deepcopy(case.latent).to(dtype)
        h = case.h.to(dtype).requires_grad_()
        given = [g.to(dtype) if g.is_floating_point() else g for g in case.given]
        run = case.run(h, latent=latent, given=given)
        _expect(run.z.dtype == dtype and run.log_p.dtype == dtype, f"draws and densities in {dtype}", run.z.dtype)
        loss = (run.log_q - run.log_p).sum() + latent.read(run.z).sin().sum()
        _expect(bool(loss.isfinite()), "a finite loss", loss.item())
        parameters = {name: p for name, p in latent.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, [h, *parameters.values()], allow_unused=True)
        for name, g in zip(["h", *parameters], found, strict=True):
            _expect(g is not None, f"a gradient of {name}", "none")
            _expect(bool(g.isfinite().all()), f"a finite gradient of {name} in {dtype}", "NaN or inf")
    return "finite in float32 and float64"


@torch.no_grad()
def _kl(case: _Case) -> str:
    run = case.run(case.h)
    q, p = run.q.expand([SAMPLES, N]), run.p.expand([SAMPLES, N])
    z = q.sample()
    ratio = q.log_prob(z) - p.log_prob(z)
    _expect(bool(ratio.isfinite().all()), "a finite log q - log p at draws of q", "NaN or inf")
    mean, error = ratio.mean(0), ratio.std(0) / math.sqrt(SAMPLES) + 1e-9
    _expect(bool((mean > -Z_LIMIT * error).all()), "a KL of at least 0", mean.min().item())
    try:
        closed = kl_divergence(run.q, run.p)
    except NotImplementedError:
        return f"sampled, {float(mean.mean()):.2f} nats"
    z_score = float(((closed - mean).abs() / error).max())
    _expect(z_score < Z_LIMIT, f"the closed KL within {Z_LIMIT} errors of the sampled one", f"{z_score:.1f}")
    return f"closed, {float(mean.mean()):.2f} nats"


def _on_a_device(case: _Case) -> str:
    latent = copy.deepcopy(case.latent).to("meta")
    h = case.h.to("meta").requires_grad_()
    given = [g.to("meta") for g in case.given]
    with _Waits():
        try:
            run = case.run(h, latent=latent, given=given)
            loss = (run.log_q - run.log_p).sum() + latent.read(run.z).sum()
            torch.autograd.grad(loss, h)
        except NotImplementedError as error:
            if "Meta" not in str(error):
                raise
            return f"not known: an operation that torch's meta device lacks, {error}"
    for what, tensor in (("draws", run.z), ("densities", loss)):
        _expect(tensor.device.type == "meta", f"{what} on the device of the latent", tensor.device)
    return "all of it"


class _Waits(torch.utils._python_dispatch.TorchDispatchMode):
    """Raise where an operation waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        _expect(name not in WAITS, "nothing that waits for the device", func.__name__)
        if name in ("_sample_dirichlet", "_dirichlet_grad"):  # which torch has not told the shape of the result
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _copies(case: _Case) -> str:
    run = case.run(case.h)
    z = run.z.clone()  # a law may remember its own draw more exactly than its numbers tell
    for how, other in (
        ("deepcopy", copy.deepcopy(case.latent)),
        ("pickle", pickle.loads(pickle.dumps(case.latent))),
    ):
        again = case.run(case.h, latent=other)
        for what, law, new in (("posterior", run.q, again.q), ("prior", run.p, again.p)):
            _expect(torch.equal(law.log_prob(z), new.log_prob(z)), f"the same {what} after {how}", "another")
    return "deepcopy and pickle agree"


def _round_trip(case: _Case) -> str:
    """In a VAE ``encode`` returns points of the manifold, and ``decode`` of them is ``reconstruct``."""
    from ppvae import models

    vae = models.find("vae")(SHAPE, case.make(), hidden=(16,), likelihood=NormalLikelihood(0.5))
    x = torch.randn(N, *SHAPE)
    if not case.given:
        with pyro.validation_enabled(True):
            first_traces(vae, (x,), "weights")
    given = [g.float() if g.is_floating_point() else g for g in case.given]
    z = encode(vae, x, *given)
    points: Any = z if isinstance(z, Mapping) else {"z": z}
    inside = case.latent.manifold.support.check(torch.as_tensor(points["z"]))
    _expect(bool(inside.all()), "encode() to return points of the manifold", f"{int((~inside).sum())} off it")
    error = float((torch.as_tensor(decode(vae, z, *given)) - torch.as_tensor(reconstruct(vae, x, *given))).abs().max())
    _expect(error < 1e-5, "decode(encode(x)) = reconstruct(x)", f"a difference of {error:.2g}")
    return "decode(encode(x)) is reconstruct(x)"


#: name -> the check
CHECKS: dict[str, Callable[[_Case], str]] = {
    "protocol": _protocol,
    "sites": _sites,
    "space": _space,
    "reads": _reads,
    "features": _features,
    "left dimensions": _left_dimensions,
    "gradients": _gradients,
    "kl": _kl,
    "on a device": _on_a_device,
    "copies": _copies,
    "round trip": _round_trip,
}


def check_latent(
    make: Callable[[], Any],
    given: Sequence[Tensor] = (),
    *,
    scale: float = 1.0,
    skip: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, str]:
    """Check a latent of one's own; each check is a rule that a VAE, its objectives or predictions rely on.

    :param make: builds a new instance.
    :param given: what the latent is given beside x, such as labels, at least 6 rows each.
    :param scale: size of the features that the posterior is tried with.
    :param skip: names of checks that do not apply, each with the reason.
    :param seed: seed of all draws.
    :return: the checks by name, with what each found, or the reason why it was skipped.
    :raises AssertionError: if a rule is broken; the message names it, what was expected and what came.
    :raises ValueError: for a name in ``skip`` that is no check.

    >>> from ppvae.latents import Gaussian
    >>> report = check_latent(lambda: Gaussian(2))
    >>> report["sites"], report["reads"]
    ('pose under the name pose', 'size 1.01 under the prior')
    """
    skip = dict(skip or {})
    unknown = set(skip) - set(CHECKS)
    if unknown:
        raise ValueError(f"skip: expected names of checks, {', '.join(CHECKS)}, got {', '.join(sorted(unknown))}")
    report = {}
    with seeded(seed), isolated_param_store(), pyro.validation_enabled(False):
        case = _Case(make, given, scale)
        for name, check in CHECKS.items():
            if name in skip:
                report[name] = f"skipped: {skip[name]}"
                continue
            try:
                report[name] = check(case)
            except AssertionError as error:
                raise AssertionError(f"{type(case.latent).__name__}: {name}: {error}") from None
    return report
