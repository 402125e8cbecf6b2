r"""Invariance as a term of the objective: what the model says of an image must not change when the image is moved [1].

    P = sum_i E_g sum_v |v(g x_i) - v(x_i)|^2,    v = z, z_c and the canonical image

Reference: [1] Invariance-based Multi-Clustering of Latent Space Embeddings for Equivariant Learning (Bajaj, Roy and
Zhang, 2021)
    https://arxiv.org/abs/2107.11717
"""

from collections.abc import Callable, Sequence

import torch
from pyro import poutine
from torch import Tensor

from ppvae.infer.handlers import CenterMessenger


class Invariance:
    """Mean squared change of some sites when each datum is moved at random: a penalty of :class:`.Regularized`.

    Latents are taken at the centre of the guide, and what the model makes of them by ``pyro.deterministic`` at these
    latents. The values at x itself are held fixed, as in the source: it is the moved datum that is to follow. All
    moved data go through the networks in one batch.

    Under a prior that is learned, as that of z_c, the change also falls where the latent shrinks and its prior with
    it, without end: training can then break down after dozens of epochs. The scales of z and of the canonical image
    are fixed, so that it cannot with ``sites=("z", "canonical")``.

    :param move: takes data (n, *shape) and moves each at random, e.g. :class:`ppvae.nn.actions.RandomSimilarity`.
    :param sites: names of latents or deterministic sites.
    :param num_moves: how many random g for each datum.
    :param weight: weight in the loss, in nats for a squared change of 1.

    Source: Bajaj, Roy and Zhang (2021), https://arxiv.org/abs/2107.11717. There the change of the canonical image is a
    cross-entropy of pixels; here it is squared, so that it is zero where nothing changes.
    """

    def __init__(
        self,
        move: Callable[[Tensor], Tensor],
        sites: Sequence[str] = ("z", "z_c", "canonical"),
        num_moves: int = 25,
        weight: float = 1.0,
    ):
        if num_moves < 1:
            raise ValueError(f"num_moves: expected at least 1, got {num_moves}")
        self.move, self.sites, self.num_moves, self.weight = move, tuple(sites), num_moves, weight

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        n = self.num_moves
        with torch.no_grad():
            still = self._values(model, guide, batch)
        x, *given = (a.expand(n, *a.shape).flatten(0, 1) for a in batch)
        moved = self._values(model, guide, (self.move(x), *given))
        changes = [
            (there.unflatten(0, (n, -1)) - here).square().sum() for there, here in zip(moved, still, strict=True)
        ]
        return torch.stack(changes).sum() / n

    def _values(self, model: Callable, guide: Callable, batch: tuple[Tensor, ...]) -> list[Tensor]:
        with CenterMessenger():
            guide_trace = poutine.trace(guide).get_trace(*batch)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        missing = [name for name in self.sites if name not in model_trace]
        if missing:
            raise ValueError(f"sites: expected names of latents or deterministic sites of the model, got {missing}")
        return [torch.as_tensor(model_trace.nodes[name]["value"]) for name in self.sites]
