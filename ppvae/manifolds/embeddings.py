r"""Manifolds as images f(Z) of a box Z in R^n under an embedding f into R^m, and the volume that R^m induces on them.

.. math::
    J(z) = \frac{\partial f}{\partial z} \in R^{m \times n}, \qquad
    d\mathrm{vol} = \sqrt{\det J^T J} \; dz, \qquad
    \log \sqrt{\det J^T J} = \sum_i \log r_{ii}, \quad J = Q R

The triangular factor R comes from Gram-Schmidt with every projection taken twice. That is as accurate as Householder's
reflections [2], and no call waits for the device. The determinant of :math:`J^T J` itself would square the condition
number of J and lose twice the digits.

An embedding is any object with ``dim``, ``ambient`` and a call, :class:`Embedding`. One of your own is five lines::

    class Helix(nn.Module):
        dim, ambient = 1, 3
        def forward(self, z):
            t = 4 * math.pi * z
            return torch.cat([t.cos(), t.sin(), t], -1)

It may also define what it knows in closed form: ``log_volume``, ``inverse``, ``support``. Otherwise the Jacobian comes
from forward mode, and the inverse from Gauss-Newton steps that start on a grid.

References:
    [1] Embedding-reparameterization procedure for manifold-valued latent variables in generative models
        (Golikov & Kretov, 2018), https://arxiv.org/abs/1812.05769
    [2] Numerical Methods for Least Squares Problems (Björck, 1996), 2.4
        https://doi.org/10.1137/1.9781611971484
    [3] A Global Geometric Framework for Nonlinear Dimensionality Reduction (Tenenbaum, de Silva & Langford, 2000)
        https://doi.org/10.1126/science.290.5500.2319
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from ppvae.manifolds.circle import Circle
from ppvae.manifolds.sphere import sphere

__all__ = [
    "CircleEmbedding",
    "Embedding",
    "FlatTorusEmbedding",
    "MoebiusEmbedding",
    "SphereEmbedding",
    "SwissRollEmbedding",
    "TorusEmbedding",
    "gauss_newton",
    "image",
    "invert",
    "jacobian",
    "log_volume",
]


class Embedding(Protocol):
    r"""A differentiable map f from R^n or a box in R^n to R^m, injective up to a set of measure zero.

    These members are optional; without them f itself is used: ``log_volume(z)``, :math:`\log \sqrt{\det J^T J}` of
    shape ``(...)``; ``inverse(x)``, the z with f(z) = x; ``encode(x)``, a z from which Gauss-Newton finds it;
    ``support``, the constraint that holds on f(Z).

    >>> class Helix:
    ...     dim, ambient = 1, 3
    ...
    ...     def __call__(self, z):
    ...         t = 4 * math.pi * z
    ...         return torch.cat([t.cos(), t.sin(), t], -1)
    >>> print(f"{log_volume(Helix(), torch.tensor([0.3])).exp():.4f}")  # 4 pi sqrt 2
    17.7715
    """

    dim: int  #: n, the dimension of the manifold
    ambient: int  #: m >= n, the dimension of the space around it

    def __call__(self, z: Tensor) -> Tensor:
        """f of shape (..., m) for z of shape (..., n), row by row."""
        ...


def jacobian(f: Embedding, z: Tensor) -> Tensor:
    """J of shape (..., m, n) at z of shape (..., n), by n forward passes over the whole batch.

    >>> jacobian(SwissRollEmbedding(), torch.tensor([0.0, 0.5])).round(decimals=2)
    tensor([[44.4100,  0.0000],
            [ 0.0000, 21.0000],
            [-9.4200,  0.0000]])
    """
    e = torch.eye(f.dim, dtype=z.dtype, device=z.device)
    columns = [torch.func.jvp(f, (z,), (e_i.expand_as(z),))[1] for e_i in e.unbind(0)]
    return torch.stack(columns, -1).to(z.dtype)  # the tangent of 1 + z is float64 for a float32 z without dimensions


def log_volume(f: Embedding, z: Tensor) -> Tensor:
    r""":math:`\log \sqrt{\det J^T J}` of shape (...) at z of shape (..., n); -inf where J has not full rank.

    >>> print(f"{log_volume(CircleEmbedding(), torch.tensor([0.3])).exp():.4f}")
    6.2832
    """
    closed = getattr(f, "log_volume", None)
    return closed(z) if closed else torch.stack([r[-1] for r in _qr(jacobian(f, z))[1]], -1).log().sum(-1)


def _qr(J: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The columns of Q, and those of R down to its diagonal."""
    Q: list[Tensor] = []
    R: list[list[Tensor]] = []
    for a in J.unbind(-1):
        r = [torch.zeros_like(a[..., 0]) for _ in Q]
        for _ in range(2):  # what the first pass leaves along Q by rounding, the second takes
            for i, q in enumerate(Q):
                c = (a * q).sum(-1)
                r[i], a = r[i] + c, a - c.unsqueeze(-1) * q
        norm = a.norm(dim=-1)
        R.append([*r, norm])
        Q.append(a / torch.where(norm > 0, norm, 1).unsqueeze(-1))
    return Q, R


def _least_squares(J: Tensor, r: Tensor) -> Tensor:
    """The d of shape (..., n) with the smallest ``|J d - r|``; 0 along columns that depend on those before."""
    Q, R = _qr(J)
    d: list[Tensor] = []
    for i in reversed(range(len(Q))):
        rest = (Q[i] * r).sum(-1) - sum(R[i + 1 + j][i] * d_j for j, d_j in enumerate(d))
        diagonal = R[i][i]
        d.insert(0, torch.where(diagonal > 0, rest / torch.where(diagonal > 0, diagonal, 1), 0))
    return torch.stack(d, -1)


def invert(f: Embedding, x: Tensor, bounded: bool = True, iterations: int = 16) -> Tensor:
    r"""The z nearest to solving f(z) = x: f^{-1}(x) on the manifold, elsewhere a point where ``|f(z) - x|`` is small.

    If f has a method ``inverse``, that is the answer. Otherwise Gauss-Newton steps, shortened where they overshoot,
    start from ``f.encode(x)``, if there is one, and from the best points of a grid over [0, 1]^n. The number of steps
    is fixed, so that nothing waits for the device. To see whether a z was found, compare f(z) with x. The first
    derivatives, in x and in the parameters of f, are those of the inverse:
    :math:`dz = J^+ (dx - \partial_\theta f \, d\theta)`.

    :param x: points of shape (..., m).
    :param bounded: whether z stays in [0, 1)^n, the box of a uniform law.
    :param iterations: Gauss-Newton steps; from the grid they converge quadratically.
    :return: z of shape (..., n).
    :raises ValueError: without a start: f has neither ``inverse`` nor ``encode``, and Z is no box or n > 3.

    >>> f = TorusEmbedding()
    >>> invert(f, f(torch.tensor([0.3, 0.8]))).round(decimals=4)
    tensor([0.3000, 0.8000])
    """
    inverse = getattr(f, "inverse", None)
    if inverse:
        z = inverse(x)
        return z + (_inside(z, bounded) - z).detach()
    with torch.no_grad():
        z = torch.cat([_search(f, part, bounded, iterations) for part in x.reshape(-1, f.ambient).split(4096)])
        z = z.reshape(*x.shape[:-1], f.dim)
        J = jacobian(f, z)
    z, J = z.detach(), J.detach()  # torch.jit.trace forgets no_grad
    z = z + _least_squares(J, x - f(z))
    return z + (_inside(z, bounded) - z).detach()


def _inside(z: Tensor, bounded: bool) -> Tensor:
    # Inversion rounds: a point of the box's edge may come back a rounding error outside, where densities are 0.
    unit = torch.finfo(z.dtype)
    return z.clamp(unit.tiny, 1 - unit.eps) if bounded else z


def _search(f: Embedding, x: Tensor, bounded: bool, iterations: int) -> Tensor:
    n = f.dim
    starts = []
    if hasattr(f, "encode"):
        starts.append(_inside(f.encode(x), bounded).unsqueeze(0))
    if bounded and n <= 3:
        side = {1: 256, 2: 32, 3: 16}[n]
        axis = (torch.arange(side, dtype=x.dtype, device=x.device) + 0.5) / side
        grid = torch.cartesian_prod(*[axis] * n).reshape(-1, n)
        # Across a seam of the chart the nearest points of the grid need not lie on the side of the solution.
        near = torch.cdist(x, f(grid)).topk(2 ** (n + 1), largest=False).indices
        starts.append(grid[near].movedim(-2, 0))
    if not starts:
        raise ValueError(
            f"{type(f).__name__}: nothing to invert it from: give it a method inverse(x), or encode(x) for a start; "
            "a grid is tried on [0, 1]^n with n <= 3 alone"
        )
    return gauss_newton(f, x, torch.cat(starts), bounded, iterations)


def gauss_newton(f: Embedding, x: Tensor, starts: Tensor, bounded: bool = True, iterations: int = 16) -> Tensor:
    """The z of shape (b, n) with the smallest ``|f(z) - x|`` that Gauss-Newton steps from the starts reach.

    :param x: points of shape (b, m).
    :param starts: k starts for each point, shape (k, b, n).
    :param bounded: whether z stays in [0, 1]^n.
    :param iterations: number of steps. Each takes the best of five lengths: 1, 1/2, 1/8, 1/64 and 0.

    >>> f, z = SwissRollEmbedding(), torch.tensor([[0.3, 0.8]])
    >>> gauss_newton(f, f(z), starts=torch.tensor([[[0.4, 0.5]]])).round(decimals=4)
    tensor([[0.3000, 0.8000]])
    """
    z = starts
    i = torch.arange(4, dtype=x.dtype, device=x.device)
    halves = torch.cat([torch.zeros_like(i[:1]), torch.exp2(-i * (i + 1) / 2)])  # 0, 1, 1/2, 1/8, 1/64
    halves = halves.reshape(-1, 1, 1, 1)

    def residual(z: Tensor) -> Tensor:
        return (f(z) - x).square().sum(-1, keepdim=True)

    for _ in range(iterations):
        tried = z + halves * _least_squares(jacobian(f, z), x - f(z))
        if bounded:  # nine tenths of the way to a wall at most: at it f may be singular, and no step leads away
            tried = torch.minimum(torch.maximum(tried, 0.1 * z), 1 - 0.1 * (1 - z))
        z = _best(tried, residual(tried))
    return _best(z, residual(z))


def _best(z: Tensor, residual: Tensor) -> Tensor:
    return z.gather(0, residual.argmin(0, keepdim=True).expand_as(z[:1])).squeeze(0)


class _Image(Constraint):
    """Points x with f(f^{-1}(x)) = x up to rounding in x and in z."""

    event_dim = 1

    def __init__(self, f: Embedding, bounded: bool):
        self.f, self.bounded = f, bounded

    def __repr__(self) -> str:
        return f"Image of {type(self.f).__name__}"

    def check(self, value: Tensor) -> Tensor:
        with torch.no_grad():
            finite = torch.isfinite(value).all(-1)
            x = torch.where(finite.unsqueeze(-1), value, 0)
            z = invert(self.f, x, self.bounded)
            scale = x.norm(dim=-1) + (jacobian(self.f, z) * z.unsqueeze(-2)).flatten(-2).norm(dim=-1)
            off = (self.f(z) - x).norm(dim=-1)
        return finite & (off <= 32 * torch.finfo(x.dtype).eps * scale)


def image(f: Embedding, bounded: bool = True) -> Constraint:
    """The constraint x in f(Z): that of ``f.support``, or that f inverts x up to rounding.

    :param bounded: whether Z is [0, 1]^n, or R^n.

    >>> image(CircleEmbedding()).check(torch.tensor([[0.6, 0.8], [0.6, 0.7]]))
    tensor([ True, False])
    """
    return getattr(f, "support", None) or _Image(f, bounded)


def _turns(x: Tensor, y: Tensor) -> Tensor:
    """The angle of (x, y) in turns, in [0, 1]."""
    return torch.remainder(torch.atan2(y, x) / (2 * math.pi), 1)


class CircleEmbedding(nn.Module):
    r"""f(z) = (cos 2 pi z, sin 2 pi z), the f_proj of [1]: volume 2 pi, and the uniform law goes to the uniform one.

    >>> CircleEmbedding()(torch.tensor([0.125])).round(decimals=4)
    tensor([0.7071, 0.7071])
    """

    dim, ambient, support = 1, 2, Circle.support

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([(2 * math.pi * z).cos(), (2 * math.pi * z).sin()], -1)

    def log_volume(self, z: Tensor) -> Tensor:
        return torch.full_like(z[..., 0], math.log(2 * math.pi))

    def inverse(self, x: Tensor) -> Tensor:
        return _turns(x[..., :1], x[..., 1:])


class FlatTorusEmbedding(nn.Module):
    r"""n circles side by side in R^{2n}, (cos 2 pi z_1, sin 2 pi z_1, ...): volume (2 pi)^n, uniform to uniform.

    :param n: number of circles; ``f(z).unflatten(-1, (n, 2))`` is a point of :class:`ppvae.manifolds.Torus`.

    >>> FlatTorusEmbedding(2)(torch.tensor([0.125, 0.375])).round(decimals=4)
    tensor([ 0.7071,  0.7071, -0.7071,  0.7071])
    """

    def __init__(self, n: int = 2):
        super().__init__()
        if n < 1:
            raise ValueError(f"expected a torus of n >= 1 circles, got n = {n}")
        self.dim, self.ambient, self.options = n, 2 * n, {"n": n}

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([(2 * math.pi * z).cos(), (2 * math.pi * z).sin()], -1).flatten(-2)

    def log_volume(self, z: Tensor) -> Tensor:
        return torch.full_like(z[..., 0], self.dim * math.log(2 * math.pi))

    def inverse(self, x: Tensor) -> Tensor:
        cos, sin = x.unflatten(-1, (self.dim, 2)).unbind(-1)
        return _turns(cos, sin)


class TorusEmbedding(nn.Module):
    r"""The torus of revolution in R^3, :math:`((R + r \cos b) \cos a, (R + r \cos b) \sin a, r \sin b)`, a = 2 pi z_1,
    b = 2 pi z_2: volume :math:`4 \pi^2 R r`. The uniform law becomes denser on the inner side.

    :param major: R, the distance of the tube's centre from the axis.
    :param minor: r < R, the radius of the tube.

    >>> TorusEmbedding(major=2.0, minor=1.0)(torch.tensor([0.125, 0.0])).round(decimals=4)
    tensor([2.1213, 2.1213, 0.0000])
    """

    dim, ambient = 2, 3

    def __init__(self, major: float = 1.0, minor: float = 0.5):
        super().__init__()
        if not 0 < minor < major:
            raise ValueError(f"expected 0 < minor < major (else the torus meets itself), got {minor} and {major}")
        self.major, self.minor, self.options = major, minor, {"major": major, "minor": minor}

    def forward(self, z: Tensor) -> Tensor:
        a, b = (2 * math.pi * z).unbind(-1)
        from_axis = self.major + self.minor * b.cos()
        return torch.stack([from_axis * a.cos(), from_axis * a.sin(), self.minor * b.sin()], -1)

    def log_volume(self, z: Tensor) -> Tensor:
        from_axis = self.major + self.minor * (2 * math.pi * z[..., 1]).cos()
        return (4 * math.pi**2 * self.minor * from_axis).log()

    def inverse(self, x: Tensor) -> Tensor:
        from_axis = x[..., :2].norm(dim=-1)
        return torch.stack([_turns(x[..., 0], x[..., 1]), _turns(from_axis - self.major, x[..., 2])], -1)


class SphereEmbedding(nn.Module):
    r"""Lambert's cylinder: height h = 2 z_1 - 1 and longitude 2 pi z_2 to S^2 in R^3, volume 4 pi, uniform to uniform.

    The two edges z_1 = 0, 1 collapse to the poles, where J is infinite along z_1 and zero along z_2.

    >>> SphereEmbedding()(torch.tensor([0.5, 0.125])).round(decimals=4)
    tensor([0.7071, 0.7071, 0.0000])
    """

    dim, ambient, support = 2, 3, sphere

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}

    def forward(self, z: Tensor) -> Tensor:
        h, a = z[..., 0], 2 * math.pi * z[..., 1]
        square = 4 * h * (1 - h)  # 1 - (2 h - 1)^2, with its digits near the poles
        radius = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
        return torch.stack([radius * a.cos(), radius * a.sin(), 2 * h - 1], -1)

    def log_volume(self, z: Tensor) -> Tensor:
        return torch.full_like(z[..., 0], math.log(4 * math.pi))

    def inverse(self, x: Tensor) -> Tensor:
        square, up = x[..., :2].square().sum(-1), x[..., 2] > 0
        least = square / (2 * (1 + torch.where(up, x[..., 2], -x[..., 2])))  # the smaller of z_1 and 1 - z_1
        return torch.stack([torch.where(up, 1 - least, least), _turns(x[..., 0], x[..., 1])], -1)


class SwissRollEmbedding(nn.Module):
    r"""(t cos t, y, t sin t) with :math:`t = \tfrac{3 \pi}{2} (1 + 2 z_1)` and y = 21 z_2 [3].

    The speed :math:`3 \pi \sqrt{1 + t^2}` along z_1 grows outwards, so that the uniform law on [0, 1]^2 is not uniform
    on it.

    :param scale: factor of all three coordinates; at 1 the roll is 29 wide.

    >>> SwissRollEmbedding()(torch.tensor([0.0, 1.0])).round(decimals=4)
    tensor([ 0.0000, 21.0000, -4.7124])
    """

    dim, ambient = 2, 3

    def __init__(self, scale: float = 1.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"expected scale > 0, got {scale}")
        self.scale, self.options = scale, {"scale": scale}

    def forward(self, z: Tensor) -> Tensor:
        t = 1.5 * math.pi * (1 + 2 * z[..., 0])
        return self.scale * torch.stack([t * t.cos(), 21 * z[..., 1], t * t.sin()], -1)

    def log_volume(self, z: Tensor) -> Tensor:
        t = 1.5 * math.pi * (1 + 2 * z[..., 0])
        return torch.log1p(t.square()) / 2 + math.log(3 * math.pi * 21 * self.scale**2)

    def inverse(self, x: Tensor) -> Tensor:
        t = x[..., ::2].norm(dim=-1) / self.scale
        return torch.stack([(t / (1.5 * math.pi) - 1) / 2, x[..., 1] / (21 * self.scale)], -1)


class MoebiusEmbedding(nn.Module):
    r"""The Möbius band :math:`((1 + s \cos \tfrac a2) \cos a, (1 + s \cos \tfrac a2) \sin a, s \sin \tfrac a2)`.

    With a = 2 pi z_1 and s = w (z_2 - 1/2). Points (0, z_2) and (1, 1 - z_2) are one: a posterior may cross this seam
    by a flip alone. The volume element is :math:`2 \pi w \sqrt{s^2 / 4 + (1 + s \cos \tfrac a2)^2}`.

    :param width: w < 2; beyond it the band meets itself.

    >>> f = MoebiusEmbedding()
    >>> torch.allclose(f(torch.tensor([0.0, 0.2])), f(torch.tensor([1.0, 0.8])), atol=1e-6)
    True
    """

    dim, ambient = 2, 3

    def __init__(self, width: float = 1.0):
        super().__init__()
        if not 0 < width < 2:
            raise ValueError(f"expected 0 < width < 2 (else the band meets itself), got {width}")
        self.width, self.options = width, {"width": width}

    def forward(self, z: Tensor) -> Tensor:
        a, s = 2 * math.pi * z[..., 0], self.width * (z[..., 1] - 0.5)
        from_axis = 1 + s * (a / 2).cos()
        return torch.stack([from_axis * a.cos(), from_axis * a.sin(), s * (a / 2).sin()], -1)

    def log_volume(self, z: Tensor) -> Tensor:
        a, s = 2 * math.pi * z[..., 0], self.width * (z[..., 1] - 0.5)
        square = s.square() / 4 + (1 + s * (a / 2).cos()).square()
        return square.log() / 2 + math.log(2 * math.pi * self.width)

    def inverse(self, x: Tensor) -> Tensor:
        turns = _turns(x[..., 0], x[..., 1])
        half = math.pi * turns
        # (|(x, y)| - 1, z) = s (cos a/2, sin a/2)
        s = (x[..., :2].norm(dim=-1) - 1) * half.cos() + x[..., 2] * half.sin()
        return torch.stack([turns, s / self.width + 0.5], -1)
