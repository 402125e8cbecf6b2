r"""What keeps an encoder in one piece: equivariance and continuity as terms of the objective [1].

.. math::
    P_{\mathrm{eq}} = \sum_i E_g |g \, \mathrm{enc}(x_i) - \mathrm{enc}(g x_i)|^2, \qquad
    P_{\mathrm{cont}} = \sum_i E_{x'_i \text{ near } x_i} |\mathrm{enc}(x_i) - \mathrm{enc}(x'_i)|^2

with enc(x) the centre of q(z | x) and the squares summed over the entries of z. For rotations that is
:math:`8 \sin^2(\theta / 2)` at an angle :math:`\theta`, without a corner at 0. The third term of [1], which holds the
KL at a level, is :class:`ppvae.infer.Capacity_ELBO`; they combine:

    Regularized(Capacity_ELBO(12.0, gamma=10.0), equivariance=Equivariance(move), continuity=Continuity(step))

Reference: [1] Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), Section 5
    https://arxiv.org/abs/1807.04689
"""

from collections.abc import Callable

import torch
from pyro import poutine
from torch import Tensor

from ppvae.infer.handlers import CenterMessenger
from ppvae.manifolds import so3


class Equivariance:
    """The mean squared difference of g enc(x) and enc(g x), a penalty of :class:`ppvae.infer.Regularized`.

    :param move: takes data (n, *shape); returns (g x, g), each datum moved by an element of its own, drawn at random.
        Only a part of the group needs to be known, e.g. the turns of an image in its plane
        (:class:`ppvae.nn.RandomTurn`).
    :param act: the action on the latent, ``act(g, z)``; the product of rotations where not given.
    :param site: the latent.
    :param weight: weight in the loss, in nats for a squared difference of 1.

    Source: Falorsi et al. (2018), https://arxiv.org/abs/1807.04689, whose code raises the weight to 100.
    """

    def __init__(
        self,
        move: Callable[[Tensor], tuple[Tensor, Tensor]],
        act: Callable[[Tensor, Tensor], Tensor] = so3.compose,
        site: str = "z",
        weight: float = 100.0,
    ):
        self.move, self.act, self.site, self.weight = move, act, site, weight

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        x, *given = batch
        moved, g = self.move(x)
        here, there = (_center(guide, self.site, data, *given) for data in (x, moved))
        return (self.act(g, here) - there).square().sum()


class Continuity:
    """The mean squared difference of the latents of data that are near to each other, a penalty of
    :class:`ppvae.infer.Regularized`.

    Without the reconstruction its minimum is a constant encoder: a large weight delays or prevents learning.

    :param step: takes data (n, *shape); returns data near to them, at random.
    :param site: the latent.
    :param weight: weight in the loss, in nats for a squared difference of 1.

    Source: Falorsi et al. (2018), https://arxiv.org/abs/1807.04689, whose code moves the object by a turn with
    standard deviations 2 pi / 60 about each axis and raises the weight to 3000.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], site: str = "z", weight: float = 100.0):
        self.step, self.site, self.weight = step, site, weight

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        x, *given = batch
        here, there = (_center(guide, self.site, data, *given) for data in (x, self.step(x)))
        return (here - there).square().sum()


def _center(guide: Callable, site: str, *batch: Tensor) -> Tensor:
    with CenterMessenger():
        trace = poutine.trace(guide).get_trace(*batch)
    if site not in trace:
        raise ValueError(f"site: expected a latent of the guide, one of {list(trace.stochastic_nodes)}, got {site!r}")
    return torch.as_tensor(trace.nodes[site]["value"])
