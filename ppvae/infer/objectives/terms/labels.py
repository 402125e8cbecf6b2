"""What a guide learns of a discrete latent from data in which it is known."""

from collections.abc import Callable
from itertools import takewhile

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from ppvae.infer.handlers import CenterMessenger
from ppvae.infer.sites import latents


class LabelTerm:
    r"""Cross-entropy of the guide's q(c | x) at known labels, a penalty of :class:`ppvae.infer.Regularized`.

    .. math::
        P = - \sum_{i \text{ known}} \log q(c = y_i \mid x_i)

    The pair is given ``(x, y, known, ...)``. The guide is run as if no label were known; at known labels the bound
    itself says nothing of q(c | x). Other latents that are enumerated before c are summed over, those that are not
    are taken at their centres.

    :param site: the latent.
    :param weight: weight in the loss; [1] takes 0.1 times the number of data over the number of labels. The bound alone
        gives each cluster some class, whichever, within the first epochs, and what is settled then a few nats a batch
        do not undo. For labels to count from the start of a short training 10 times that quotient did
        (``benchmarks/mce_mnist.py``).

    :raises ValueError: if the pair is not given labels, or has no such latent.

    Source: [1] Kingma et al. (2014), equation 9, https://arxiv.org/abs/1406.5298
    """

    def __init__(self, site: str = "c", weight: float = 1.0):
        self.site, self.weight = site, weight

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        if len(batch) < 3:
            raise ValueError(f"label: expected data (x, y, known, ...), got {len(batch)} arrays; see LabelledClusters")
        x, y, known, *given = batch
        with CenterMessenger(), EnumMessenger(-2):
            trace = poutine.trace(guide).get_trace(x, y, torch.zeros_like(known), *given)
        sites = {site["name"]: site for site in latents(trace)}
        if self.site not in sites:
            raise ValueError(f"label: expected a latent of the guide, one of {sorted(sites)}, got {self.site!r}")
        log_q = sites[self.site]["fn"].log_prob(y)
        for other in reversed(list(takewhile(lambda site: site["name"] != self.site, sites.values()))):
            dim = other["infer"].get("_enumerate_dim")
            if dim is not None:
                log_q = (other["fn"].log_prob(other["value"]) + log_q).logsumexp(dim, keepdim=True)
        return -(known * log_q).sum()
