r"""One battery of tests for a manifold: the laws that its methods keep.

With x, y, z points, u a tangent vector at x, e_i the frame and c coordinates in it, it holds that

.. math::
    \exp_x(\log_x y) = y, \qquad |\log_x y| = d(x, y) = d(y, x) \le d(x, z) + d(z, y), \qquad
    \langle e_i, e_j \rangle = \delta_{ij}, \\
    \mathrm{logvolume}(x, u) = \log \Bigl| \det \bigl\langle e_i(\exp_x u), \tfrac{\partial}{\partial c_j} \exp_x
    \textstyle\sum_j c_j e_j(x) \bigr\rangle \Bigr|

Integrals over the manifold are taken in the tangent space at one point o, up to the cut locus of o,

.. math::
    \int_M f(z) \, dz = \int_{d(o, \exp_o u) = |u|} f(\exp_o u) \, |\det d \exp_o(u)| \, du

which needs no oracle outside ``expmap``, ``dist`` and ``logvolume``. Total volumes, uniform draws and lifts are held to
it. An identity is judged by its error, a Monte Carlo mean by the z-score of its error.

Reference: Riemannian Geometry (do Carmo, 1992), chapters 3 and 13, https://doi.org/10.1007/978-1-4757-2201-7
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Laplace

from ppvae.manifolds.protocol import Lift, Manifold, tangent
from ppvae.random import seeded

__all__ = ["check_manifold"]

Z_LIMIT = 5.5  # two-sided 4e-8 for a normal
MIN_ESS = 1000  # below it the standard error of an importance estimate is itself a guess


class _Skip(Exception):
    """A check that says nothing about this manifold, with the reason."""


class _Case:
    """A manifold with points and tangent vectors in one dtype."""

    def __init__(self, manifold: Any, like: Tensor, n: int, samples: int, slack: float):
        self.manifold, self.o, self.samples = manifold, like, samples
        self.event = manifold.support.event_dim
        self.d = manifold.intrinsic_dim(like)
        self.limit = slack * math.sqrt(torch.finfo(like.dtype).eps)
        try:
            self.log_volume = float(manifold.log_total_volume(like))
        except ValueError:  # a metric of the user's own: nobody knows
            self.log_volume = math.inf
        #: of the bump that lifts are held to: it is to be seen by draws all over the manifold
        self.spread = 1.0
        if math.isfinite(self.log_volume):
            self.spread = 0.6 * float(manifold.dist(self.at(1000), self.points(1000)).max())
        self.x, self.y, self.z = (self.points(n) for _ in range(3))
        self.c = self.normal(n)

    def normal(self, n: int) -> Tensor:
        """Coordinates of tangent vectors of length about 1."""
        return torch.randn(n, self.d, dtype=self.o.dtype, device=self.o.device) / math.sqrt(self.d)

    def at(self, n: int) -> Tensor:
        """n copies of o."""
        return self.o.expand(n, *self.o.shape)

    def points(self, n: int) -> Tensor:
        """Uniform points; where the volume is infinite, normal ones about o."""
        if math.isfinite(self.log_volume):
            return self.manifold.uniform(self.at(n))
        return self.exp(self.at(n), self.normal(n))

    def exp(self, x: Tensor, c: Tensor) -> Tensor:
        return self.manifold.expmap(x, tangent(self.manifold, x, c))

    def same(self, x: Tensor, y: Tensor) -> Tensor:
        """How far the numbers of x are from those of y that networks read, relative to their size."""
        a, b = self.manifold.embed(x), self.manifold.embed(y)
        return (a - b).abs().amax(-1) / b.abs().amax(-1).clamp_min(1)

    def near(self, what: str, got: Tensor, expected: Tensor | float) -> float:
        """The largest error, which must be below the square root of the rounding unit."""
        error = (got - expected).abs() / torch.as_tensor(expected, dtype=got.dtype).abs().clamp_min(1)
        worst = float(error.max())
        _expect(worst <= self.limit, f"{what} to {self.limit:.1e}", f"an error of {worst:.3g}")
        return worst

    def tangents(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates of tangent vectors at o, their points, and the weights of an integral: 0 beyond the cut locus."""
        n, spread = self.samples, self.spread
        c = spread * torch.randn(n, self.d, dtype=self.o.dtype, device=self.o.device)
        o = self.at(n)
        z, u = self.exp(o, c), tangent(self.manifold, o, c)
        log_proposal = -(c / spread).square().sum(-1) / 2 - self.d * math.log(spread * math.sqrt(2 * math.pi))
        length = c.square().sum(-1).sqrt()
        within = self.manifold.dist(o, z) >= length * (1 - 1e-6)
        weight = torch.where(within, (self.manifold.logvolume(o, u) - log_proposal).exp(), 0)
        return c, z, weight


def _expect(ok: bool, expected: object, got: object) -> None:
    if not ok:
        raise AssertionError(f"expected {expected}, got {got}")


def _agree(what: str, a: Tensor, b: Tensor | float) -> float:
    """The z-score between the means of draws a and those of draws b, or an exact value."""
    mean, error = a.mean(0), a.std(0) / math.sqrt(len(a))
    other, its_error = (b.mean(0), b.std(0) / math.sqrt(len(b))) if isinstance(b, Tensor) else (b, 0.0)
    rounding = 1e-9 * mean.abs().clamp_min(1)
    z = ((mean - other).abs() / (error.square() + its_error**2 + rounding.square()).sqrt()).flatten()
    worst = int(z.argmax())
    got = mean.flatten()[worst].item()
    wanted = other.flatten()[worst].item() if isinstance(other, Tensor) else other
    figure = z[worst].item()
    _expect(figure <= Z_LIMIT, f"{what} = {wanted:.6g}", f"{got:.6g} (z = {figure:.1f})")
    return figure


def _enough(weight: Tensor) -> None:
    ess = float(weight.sum().square() / weight.square().sum())
    if not ess >= MIN_ESS:
        raise _Skip(f"an effective sample size of {ess:.0f} is too small for an integral in {len(weight)} samples")


def _points(case: _Case) -> float:
    M, x = case.manifold, case.x
    _expect(x.shape[1:] == case.o.shape, f"points of shape {tuple(case.o.shape)}", tuple(x.shape[1:]))
    _expect(x.dtype == case.o.dtype, f"points in {case.o.dtype}", x.dtype)
    for name, points in {"of the manifold": x, "exp_x(u)": case.exp(x, case.c)}.items():
        inside = M.support.check(points)
        _expect(inside.shape == x.shape[:1], "support.check of shape (...)", tuple(inside.shape))
        _expect(bool(inside.all()), f"points {name} in its support", f"{int((~inside).sum())} outside")
    return 0.0


def _shapes(case: _Case) -> float:
    """Three dimensions on the left give, row by row, what one does."""
    M, figure = case.manifold, 0.0
    n, left = len(case.x), (2, 2, -1)
    u = tangent(M, case.x, case.c)
    methods: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], int]] = {
        "expmap": (M.expmap, (case.x, u), case.event),
        "logmap": (M.logmap, (case.x, case.y), case.event),
        "proju": (M.proju, (case.x, u), case.event),
        "dist": (M.dist, (case.x, case.y), 0),
        "logvolume": (M.logvolume, (case.x, u), 0),
        "inner": (M.inner, (case.x, u, u), 0),
        "frame": (M.frame, (case.x,), 1 + case.event),
        "coordinates": (M.coordinates, (case.x, u), 1),
        "embed": (M.embed, (case.x,), 1),
    }
    for name, (method, arguments, event) in methods.items():
        flat = method(*arguments)
        _expect(flat.dim() == 1 + event and len(flat) == n, f"{name} of shape (n, ...)", tuple(flat.shape))
        deep = method(*(a.unflatten(0, left) for a in arguments))
        figure = max(figure, case.near(f"{name} of a batch of more dimensions", deep.flatten(0, 2), flat))
    return figure


def _frame(case: _Case) -> float:
    M, e = case.manifold, case.manifold.frame(case.x)
    _expect(e.shape[1:] == (case.d, *case.o.shape), f"a frame of {case.d} vectors", tuple(e.shape[1:]))
    x = case.x.unsqueeze(1).expand_as(e)
    a, b = e.unsqueeze(1), e.unsqueeze(2)
    a, b = torch.broadcast_tensors(a, b)
    gram = M.inner(x.unsqueeze(1).expand_as(a), a, b)
    eye = torch.eye(case.d, dtype=gram.dtype, device=gram.device)
    figure = case.near("an orthonormal frame", gram, eye.expand_as(gram))
    return max(figure, case.near("tangent vectors in the frame", M.proju(x, e), e))


def _coordinates(case: _Case) -> float:
    M, x, c = case.manifold, case.x, case.c
    u = tangent(M, x, c)
    figure = case.near("coordinates(tangent(c)) = c", M.coordinates(x, u), c)
    figure = max(figure, case.near("<u, u> = |c|^2", M.inner(x, u, u), c.square().sum(-1)))
    other = case.normal(len(x))
    v = tangent(M, x, other)
    return max(figure, case.near("<u, v> = c . c'", M.inner(x, u, v), (c * other).sum(-1)))


def _exponential(case: _Case) -> float:
    M, x, y = case.manifold, case.x, case.y
    u = M.logmap(x, y)
    figure = case.near("exp_x(log_x y) = y", case.same(M.expmap(x, u), y), 0.0)
    figure = max(figure, case.near("log_x y tangent", M.proju(x, u), u))
    figure = max(figure, case.near("exp_x(0) = x", case.same(case.exp(x, 0 * case.c), x), 0.0))
    c = 0.1 * case.c
    there = case.exp(x, c)
    short = M.dist(x, there) >= c.square().sum(-1).sqrt() * (1 - case.limit)  # no edge and no cut locus between
    _expect(float(short.double().mean()) > 0.5, "|u| = d(x, exp_x u) for most short u", f"{int(short.sum())} of them")
    back = M.coordinates(x, M.logmap(x, there))
    return max(figure, case.near("log_x(exp_x(u)) = u", back[short], c[short]))


def _distance(case: _Case) -> float:
    M, x, y, z = case.manifold, case.x, case.y, case.z
    u, d = M.logmap(x, y), M.dist(x, y)
    figure = case.near("|log_x y| = d(x, y)", M.inner(x, u, u).clamp_min(0).sqrt(), d)
    figure = max(figure, case.near("d(y, x) = d(x, y)", M.dist(y, x), d))
    figure = max(figure, case.near("d(x, x) = 0", M.dist(x, x), 0.0))
    excess = (d - M.dist(x, z) - M.dist(z, y)).clamp_min(0)
    return max(figure, case.near("d(x, y) <= d(x, z) + d(z, y)", excess, 0.0))


def _volume(case: _Case) -> float:
    M, x = case.manifold, case.x
    with torch.enable_grad():
        c = case.c.clone().requires_grad_()
        y = case.exp(x, c)
        flat = y.reshape(len(y), -1)
        rows = [torch.autograd.grad(flat[:, k].sum(), c, retain_graph=True)[0] for k in range(flat.shape[-1])]
    columns = torch.stack(rows, 1).movedim(-1, 0).reshape(case.d, *y.shape).detach()
    y = y.detach()
    jacobian = torch.stack([M.coordinates(y, column) for column in columns], -1)
    exact = torch.linalg.slogdet(jacobian.double()).logabsdet.to(y.dtype)
    return case.near("logvolume = log |det d exp|", M.logvolume(x, tangent(M, x, case.c)), exact)


def _preimages(case: _Case) -> float:
    """All tangent vectors to one point, among them any that it was reached by."""
    M, x, wraps = case.manifold, case.x, 4
    if not hasattr(M, "preimages"):
        raise _Skip("the manifold does not list its preimages")
    c = 2.5 * case.c
    y = case.exp(x, c)
    found, log_volume = M.preimages(x, y, wraps)
    n = len(found)
    _expect(found.shape == (n, *c.shape), f"preimages of shape (k, {len(c)}, {case.d})", tuple(found.shape))
    _expect(log_volume.shape == (n, len(c)), f"volumes of shape (k, {len(c)})", tuple(log_volume.shape))
    many, there = (a.unsqueeze(0).expand(n, *a.shape).flatten(0, 1) for a in (x, y))
    u = tangent(M, many, found.flatten(0, 1))
    counted = log_volume.flatten().isfinite()
    figure = case.near("exp_x(u) = y", case.same(M.expmap(many, u), there)[counted], 0.0)
    # Its logarithm is lost where exp has next to no volume.
    volume, exact = (a.exp()[counted] for a in (log_volume.flatten(), M.logvolume(many, u)))
    figure = max(figure, case.near("the volume of exp at u", volume, exact))
    shortest = (found - M.coordinates(x, M.logmap(x, y))).abs().amax(-1).amin(0)
    figure = max(figure, case.near("log_x(y) among the preimages", shortest, 0.0))
    missed = (found - c).abs().amax(-1).amin(0)
    return max(figure, case.near("every u with exp_x(u) = y among the preimages", missed, 0.0))


def _mean(case: _Case) -> float:
    M, n = case.manifold, min(12, len(case.x))
    o = case.x[:1].expand(n, *case.o.shape)
    near, wide = (case.exp(o, size * case.c[:n]) for size in (0.2, 0.7))
    weights = torch.linspace(1, 2, n, dtype=case.o.dtype, device=case.o.device)
    figure = 0.0
    for points, w in ((near, None), (near, weights), (wide, None), (wide, weights)):
        mean = M.mean(points, w)
        _expect(mean.shape == case.o.shape, f"a mean of shape {tuple(case.o.shape)}", tuple(mean.shape))
        share = torch.full_like(weights, 1 / n) if w is None else w / w.sum()

        def cost(y: Tensor, points: Tensor = points, share: Tensor = share) -> float:
            return float((share * M.dist(y.expand_as(points), points).square()).sum())

        least = cost(mean)
        if points is near:  # where the minimum is the one point at which the gradient is 0
            u = M.coordinates(mean.expand_as(points), M.logmap(mean.expand_as(points), points))
            figure = max(figure, case.near("sum_i w_i log_mean(x_i) = 0", (share.unsqueeze(-1) * u).sum(0), 0.0))
        steps = torch.cat([torch.eye(case.d, dtype=weights.dtype), -torch.eye(case.d, dtype=weights.dtype)])
        moved = case.exp(mean.expand(2 * case.d, *mean.shape), 0.05 * steps.to(weights.device))
        others = {"a point nearby": min(map(cost, moved)), "one of the points": min(map(cost, points))}
        for name, value in others.items():
            _expect(
                least <= value + case.limit * max(1.0, value),
                f"a mean with a smaller sum of squares than {name}, {value:.8g}",
                f"{least:.8g}",
            )
    return figure


def _embedding(case: _Case) -> float:
    M, x, y = case.manifold, case.x, case.y
    n = len(x)
    pairs = x.repeat_interleave(n, 0), y.repeat(n, *[1] * case.event)
    least = float(((M.embed(pairs[0]) - M.embed(pairs[1])).norm(dim=-1) / M.dist(*pairs)).min())
    _expect(least > 1e-3, "other numbers for other points", f"|embed(x) - embed(y)| / d(x, y) = {least:.2g}")
    if not hasattr(M, "orbit"):
        return 0.0
    images = M.orbit(x)
    figure = 0.0
    for g, image in zip(M.group, images, strict=True):
        # A group: the orbit of g x is that of x.
        between = torch.stack([M.base.dist(a, b) for a in M.orbit(image) for b in images])
        figure = max(figure, case.near("a group", between.unflatten(0, (len(images), -1)).amin(1), 0.0))
        figure = max(figure, case.near("the same numbers for all points of an orbit", case.same(image, x), 0.0))
        figure = max(figure, case.near("d(x, g x) = 0", M.dist(x, image), 0.0))
        figure = max(figure, case.near("an isometry", M.base.dist(image, g(y)), M.base.dist(x, y)))
    apart = min((float(M.base.dist(x, image).min()) for image in images[1:]), default=math.inf)
    _expect(apart > 1e-3, "a group that moves every point", f"one moved by {apart:.2g}")
    return figure


def _lift(case: _Case) -> float:
    return _check_lift(case, case.manifold.lift)


def _chart(case: _Case) -> float:
    chart = case.manifold.chart
    if chart is None:
        raise _Skip("the manifold has no chart")
    v = chart.start(case.x)
    figure = case.near("start(point(v)) = v", chart.start(chart.point(v)), v)
    _expect(v[0].numel() == case.d, f"a chart of {case.d} numbers", v[0].numel())
    return max(figure, _check_lift(case, chart))


def _check_lift(case: _Case, lift: Lift) -> float:
    M, n = case.manifold, case.samples
    shape = lift.shape(Size(case.o.shape))
    start = lift.start(case.x)
    _expect(start.shape[1:] == shape, f"coordinates of shape {tuple(shape)}", tuple(start.shape[1:]))
    case.near("point(start(x)) = x", case.same(lift.point(start), case.x), 0.0)
    # The chain of the density exp(-d(o, z)^2 / 2 s^2): integral and means over v are those over the manifold.
    # Its tails are those of a logit, the heaviest of the lifts.
    law = Laplace(torch.zeros(shape, dtype=case.o.dtype, device=case.o.device), 1.0)
    v = law.sample(Size((n,)))
    z = lift.point(v)
    _expect(bool(M.support.check(z).all()), "points in the support", "others")
    log_w = lift.log_volume(v) - (M.dist(case.at(n), z) / case.spread).square() / 2
    _expect(log_w.shape == (n,), "log_volume of shape (...)", tuple(log_w.shape))
    w = (log_w - law.log_prob(v).flatten(1).sum(-1)).exp()
    c, there, weight = case.tangents()
    weight = weight * (-(c / case.spread).square().sum(-1) / 2).exp()
    _enough(w)
    _enough(weight)
    figure = _agree("the integral over the lift", w, weight)
    here, there = w.unsqueeze(-1) * _moments(M, z), weight.unsqueeze(-1) * _moments(M, there)
    return max(figure, _agree("the means over the lift", here, there))


def _moments(M: Any, z: Tensor) -> Tensor:
    e = M.embed(z)
    return torch.cat([e, e.square()], -1)


def _total_volume(case: _Case) -> float:
    if not math.isfinite(case.log_volume):
        raise _Skip("the volume is infinite, or not known")
    weight = case.tangents()[2]
    _enough(weight)
    return _agree("the volume, relative to the integral of 1,", weight / math.exp(case.log_volume), 1.0)


def _uniform(case: _Case) -> float:
    M = case.manifold
    if not math.isfinite(case.log_volume):
        try:
            M.uniform(case.x)
        except ValueError:
            return 0.0
        raise AssertionError("expected a ValueError of uniform, since the volume is infinite, got points")
    _, z, weight = case.tangents()
    _enough(weight)
    draws = _moments(M, M.uniform(case.at(case.samples)))
    return _agree("the means of uniform draws", draws, weight.unsqueeze(-1) * _moments(M, z) / weight.mean())


def _gradients(case: _Case) -> float:
    """At y = x, at u = 0, at the point o and where its geodesics have gone pi and 2 pi."""
    M, o = case.manifold, case.at(case.d)
    eye = torch.eye(case.d, dtype=o.dtype, device=o.device)
    places = {"y = x": (case.x, case.x), "y = o": (o, o)}
    for name, length in (("pi", math.pi), ("pi / 2", math.pi / 2), ("2 pi", 2 * math.pi)):
        places[f"{name} from o"] = (o, case.exp(o, length * eye))
    for name, (x, y) in places.items():
        x, y = (a.detach().clone().requires_grad_() for a in (x, y))
        zero = torch.zeros_like(x).requires_grad_()
        values = {
            "dist": M.dist(x, y),
            "logmap": M.logmap(x, y),
            "expmap": M.expmap(x, zero),
            "logvolume": M.logvolume(x, zero),
            "embed": M.embed(x),
            "frame": M.frame(x),
        }
        for method, value in values.items():
            _expect(bool(value.isfinite().all()), f"a finite {method} at {name}", "NaN or inf")
            if not value.requires_grad:
                continue
            for g in torch.autograd.grad(value.sum(), (x, y, zero), allow_unused=True):
                _expect(g is None or bool(g.isfinite().all()), f"a finite gradient of {method} at {name}", "NaN or inf")
    return 0.0


#: name -> the check, and whether float32 is held to it too: a Monte Carlo mean says no more there than in float64.
CHECKS: dict[str, tuple[Callable[[_Case], float], bool]] = {
    "points": (_points, True),
    "shapes": (_shapes, True),
    "frame": (_frame, True),
    "coordinates": (_coordinates, True),
    "exponential": (_exponential, True),
    "distance": (_distance, True),
    "volume": (_volume, True),
    "preimages": (_preimages, True),
    "mean": (_mean, True),
    "embedding": (_embedding, True),
    "lift": (_lift, False),
    "chart": (_chart, False),
    "total volume": (_total_volume, False),
    "uniform": (_uniform, False),
    "gradients": (_gradients, True),
}


def check_manifold(
    manifold: Manifold,
    like: Tensor,
    seed: int = 0,
    *,
    skip: Collection[str] = (),
    num_points: int = 64,
    num_samples: int = 2**14,
    slack: float = 1.0,
) -> dict[str, float | str]:
    r"""Check a manifold of one's own: each check is a law that samplers, laws and metrics rely on.

    :param manifold: the manifold.
    :param like: one point of it, in float64; float32 is checked too.
    :param seed: seed of all draws.
    :param skip: names of checks to leave out.
    :param num_points: number of points at which identities are checked.
    :param num_samples: number of samples of an integral.
    :param slack: largest error of an identity, in square roots of the rounding unit: 1 for closed forms. Above 1 the
        maps are numerical, and float32 is left out.
    :return: for each check its largest error, or z-score of an integral, or the reason why it says nothing.
    :raises AssertionError: if a law is broken; the message names it, what was expected and what came.
    :raises ValueError: for a name in ``skip`` that is no check, or a ``like`` that is not in float64.

    >>> from ppvae.manifolds import Sphere
    >>> report = check_manifold(Sphere(), torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64))
    >>> report["exponential"] < 1e-5, report["chart"]
    (True, 'skipped: the manifold has no chart')
    """
    unknown = set(skip) - set(CHECKS)
    if unknown:
        raise ValueError(f"skip: expected names of checks, {', '.join(CHECKS)}, got {', '.join(sorted(unknown))}")
    if like.dtype != torch.float64:
        raise ValueError(f"like: expected a point in float64, got {like.dtype}")
    report: dict[str, float | str] = {}
    with seeded(seed):
        single = _rounded(manifold, like)
        cases = [_Case(manifold, like, num_points, num_samples, slack)]
        cases += [_Case(manifold, single, num_points, num_samples, slack)] if slack <= 1 else []
        for name, (check, in_float32) in CHECKS.items():
            if name in skip:
                report[name] = "skipped: by the caller"
                continue
            try:
                with torch.enable_grad() if name == "gradients" else torch.no_grad():
                    report[name] = max(check(case) for case in cases[: 2 if in_float32 else 1])
            except _Skip as reason:
                report[name] = f"skipped: {reason}"
            except AssertionError as error:
                raise AssertionError(f"{type(manifold).__name__}: {name}: {error}") from None
    return report


def _rounded(manifold: Manifold, x: Tensor) -> Tensor:
    """The point x in float32, put back on the manifold."""
    x = x.to(torch.float32)
    lift = manifold.lift
    return lift.point(lift.start(x))
