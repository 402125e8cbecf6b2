"""What a guide learns of a discrete latent from data in which it is known."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.infer.handlers import CenterMessenger


class LabelTerm:
    r"""Cross-entropy of the guide's q(c | x) at known labels, a penalty of :class:`ppvae.infer.Regularized`.

    .. math::
        P = - \sum_{i \text{ known}} \log q(c = y_i \mid x_i)

    The pair is given ``(x, y, known, ...)``. The guide is run as if no label were known; at known labels the bound
    itself says nothing of q(c | x).

    :param site: the latent.
    :param weight: weight in the loss; [1] takes 0.1 times the number of data over the number of labels. The bound alone
        gives each cluster some class, whichever, within the first epochs, and what is settled then a few nats a batch
        do not undo. For labels to count from the start of a short training 10 times that quotient did
        (``benchmarks/mce_mnist.py``).

    Source: [1] Kingma et al. (2014), equation 9, https://arxiv.org/abs/1406.5298
    """

    def __init__(self, site: str = "c", weight: float = 1.0):
        self.site, self.weight = site, weight

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        x, y, known, *given = batch
        with CenterMessenger():
            trace = poutine.trace(guide).get_trace(x, y, torch.zeros_like(known), *given)
        law: Any = trace.nodes[self.site]["fn"]
        return -(known * law.log_prob(y)).sum()
