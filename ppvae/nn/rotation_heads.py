r"""Maps from features to a rotation, and the posterior head on SO(3) that takes its mean from one of them.

An encoder that is to be a homeomorphism onto SO(3) needs a map :math:`f : U \subset R^n \to SO(3)` with a
continuous right inverse g, f(g(R)) = R: the network before f then has to learn the continuous g. Which f have
one is decided by the loops of SO(3), whose fundamental group is Z/2 [1]. The identity of Z/2 factors through
the fundamental group of U:

=============  ============================  =====================  ===========================================
map            U, up to homotopy             fundamental group      continuous right inverse
=============  ============================  =====================  ===========================================
``S2S2``       pairs of independent vectors  Z/2                    yes: the first two columns of R
``Polar``      matrices with one nearest R   Z/2                    yes: R itself
``Quaternion`` R^4 without 0                 0                      none: a turn by 2 pi leads from q to -q
``AxisAngle``  R^3                           0                      none: nor does any map from R^3 or R^4 [1]
``S2S1``       S^2 x S^1                     Z                      none: a homomorphism from Z/2 to Z is 0
=============  ============================  =====================  ===========================================

The maps without one are surjective, and so can fit any data: an encoder through them jumps somewhere.

Each map is undefined on a set of measure zero that its docstring names, and its gradient grows near it. On
the set itself a fixed valid rotation is returned, with gradient 0 for what is undefined.

References:
    [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018)
        https://arxiv.org/abs/1807.04689
    [2] On the Continuity of Rotation Representations in Neural Networks (Zhou et al., 2019)
        https://arxiv.org/abs/1812.07035
    [3] An Analysis of SVD for Deep Rotation Estimation (Levinson et al., 2020)
        https://arxiv.org/abs/2006.14616
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppvae.distributions.so3_pushforward import SO3Normal
from ppvae.manifolds import so3
from ppvae.manifolds.sphere import rotate_from_pole
from ppvae.nn.registration import records_options

__all__ = ["S2S1", "S2S2", "AxisAngle", "Polar", "Quaternion", "SO3NormalHead"]


class RotationMap(Protocol):
    """What :class:`SO3NormalHead` needs of a map from ``features`` numbers to a rotation.

    >>> class Turn(nn.Module):
    ...     '''A turn about the third axis, by a feature in radians.'''
    ...     features = 1
    ...     def forward(self, h):
    ...         return so3.exp(torch.cat([0 * h, 0 * h, h], -1))
    >>> SO3NormalHead(Turn()).features
    4
    """

    features: int

    def __call__(self, h: Tensor) -> Tensor:
        """Rotations (..., 3, 3) of features (..., features)."""
        ...


def _check(module: nn.Module, h: Tensor) -> None:
    if h.shape[-1] != module.features:
        raise ValueError(
            f"{type(module).__name__} expected features of shape (..., {module.features}), got "
            f"{tuple(h.shape)}: end the encoder in {module.features} outputs (the attribute `features`)"
        )


def _direction(a: Tensor, otherwise: Tensor, smallest: Tensor | float = 0.0) -> Tensor:
    """a / |a|, and ``otherwise`` where no entry of a is above ``smallest`` in modulus."""
    size = a.detach().abs().amax(-1, keepdim=True)
    defined = size > smallest
    a = torch.where(defined, a / torch.where(defined, size, 1), otherwise)  # scaled, or the square leaves the range
    return a / a.square().sum(-1, keepdim=True).sqrt()


class S2S2(nn.Module):
    r"""Two vectors a, b of R^3 to the frame that Gram-Schmidt makes of them, a continuous section [1, 2].

    .. math::
        e_1 = \frac{a}{|a|}, \qquad e_2 \propto b - (e_1 \cdot b) e_1, \qquad e_3 = e_1 \times e_2, \qquad
        R = (e_1, e_2, e_3)

    It is undefined if a and b are collinear to rounding.

    >>> S2S2()(torch.tensor([2.0, 0.0, 0.0, 1.0, 3.0, 0.0]))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """

    features = 6

    @records_options
    def __init__(self):
        super().__init__()

    def forward(self, h: Tensor) -> Tensor:
        """Rotations (..., 3, 3) of features (..., 6)."""
        _check(self, h)
        a, b = h.split(3, -1)
        first, second, _ = torch.eye(3, dtype=h.dtype, device=h.device).unbind(0)
        e1 = _direction(a, first)
        normal = rotate_from_pole(second, e1)
        noise = 8 * torch.finfo(h.dtype).eps * b.detach().abs().amax(-1, keepdim=True)
        e2 = _direction(b - (e1 * b).sum(-1, keepdim=True) * e1, normal, noise)
        # Twice is enough: where a and b are nearly collinear the first pass leaves e_2 . e_1 at eps |b| / |e_2|.
        e2 = _direction(e2 - (e1 * e2).sum(-1, keepdim=True) * e1, normal)
        e3 = so3.cross(e1, e2)
        return torch.stack([e1, e2, e3], -1)


class Polar(nn.Module):
    r"""A matrix A of R^{3x3} to the nearest rotation, its polar factor if det A > 0; a continuous section [3].

    .. math::
        R = \arg\max_{R \in SO(3)} \mathrm{tr}(A^T R)

    It is undefined if :math:`s_2 + s_3 = 0`, with the singular values of A in descending order, the last with the sign
    of det A (:func:`ppvae.manifolds.so3.project`).

    >>> Polar()(torch.tensor([0.0, -2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0])).round(decimals=4) + 0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """

    features = 9

    @records_options
    def __init__(self):
        super().__init__()

    def forward(self, h: Tensor) -> Tensor:
        """Rotations (..., 3, 3) of features (..., 9), the rows of A one after the other."""
        _check(self, h)
        return so3.project(h.unflatten(-1, (3, 3)))


class Quaternion(nn.Module):
    r"""A vector of R^4 to the rotation of the unit quaternion (w, x, y, z) along it.

    It has no continuous section: q and -q give one rotation, and along a loop of rotations that turns once by 2 pi a
    continuous choice of q ends at -q. It is undefined at 0.

    >>> Quaternion()(torch.tensor([1.0, 0.0, 0.0, 1.0])).round(decimals=4) + 0  # a quarter turn about the third axis
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """

    features = 4

    @records_options
    def __init__(self):
        super().__init__()

    def forward(self, h: Tensor) -> Tensor:
        """Rotations (..., 3, 3) of features (..., 4)."""
        _check(self, h)
        identity = torch.eye(4, dtype=h.dtype, device=h.device)[0]
        return so3.from_quaternion(_direction(h, identity))


class AxisAngle(nn.Module):
    r"""A vector v of R^3 to the rotation exp(v) by ``|v|`` radians about it, defined everywhere.

    It has no continuous section, because no compact 3-manifold without boundary, such as SO(3), lies in R^3.

    >>> AxisAngle()(torch.tensor([0.0, 0.0, torch.pi / 2])).round(decimals=4) + 0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """

    features = 3

    @records_options
    def __init__(self):
        super().__init__()

    def forward(self, h: Tensor) -> Tensor:
        """Rotations (..., 3, 3) of features (..., 3) in radians."""
        _check(self, h)
        return so3.exp(h)


class S2S1(nn.Module):
    r"""An axis a of R^3 and a vector b of R^2, normalised to u and :math:`(\cos t, \sin t)`, to the rotation
    by t about u.

    .. math::
        R = \cos t \, I + \sin t \, \hat u + (1 - \cos t) \, u u^T

    It has no continuous section: the loop of SO(3) that turns once by 2 pi is contractible only when it is run twice,
    and S^2 x S^1 has no such loop. At R = I every axis fits. It is undefined if a = 0 or b = 0.

    >>> S2S1()(torch.tensor([0.0, 0.0, 3.0, 0.0, 2.0]))  # a quarter turn about the third axis
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """

    features = 5

    @records_options
    def __init__(self):
        super().__init__()

    def forward(self, h: Tensor) -> Tensor:
        """Rotations (..., 3, 3) of features (..., 5)."""
        _check(self, h)
        eye = torch.eye(3, dtype=h.dtype, device=h.device)
        u = _direction(h[..., :3], eye[0])
        cos, sin = _direction(h[..., 3:], eye[0, :2])[..., None, None].unbind(-3)
        return cos * eye + sin * so3.hat(u) + (1 - cos) * u.unsqueeze(-1) * u.unsqueeze(-2)


class SO3NormalHead(nn.Module):
    """q(z | h) = SO3Normal(mu, sigma) on rotations: z = mu exp(v) with v ~ N(0, diag sigma^2), radians.

    mu is a map of the first features, sigma = softplus(.) + 1e-4 of the last three.

    >>> head = SO3NormalHead()
    >>> q = head(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    >>> q.loc
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])

    :param mean: map from ``mean.features`` features to the rotation mu, by default :class:`S2S2`.
    """

    @records_options
    def __init__(self, mean: RotationMap | None = None):
        super().__init__()
        self.mean: RotationMap = mean or S2S2()
        self.features = self.mean.features + 3

    def forward(self, h: Tensor) -> SO3Normal:
        """The law for features (..., features): those of the mean, then three for the scales."""
        _check(self, h)
        # A float32 matrix resolves angles to 1e-7: a density far narrower than 1e-4 radians would be one of rounding.
        scale = F.softplus(h[..., -3:]) + 1e-4
        return SO3Normal(self.mean(h[..., :-3]), scale)
