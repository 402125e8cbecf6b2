"""Effect handlers."""

from collections.abc import Collection
from typing import Any, Self

from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ppvae.distributions import center


class CenterMessenger(Messenger):
    """Give every unobserved site the :func:`~ppvae.distributions.center` of its law in place of a sample."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and not site_is_subsample(msg):
            msg["value"] = center(msg["fn"])
            msg["done"] = True


class PriorMessenger(Messenger):
    """Draw the latents jointly from the model, and leave it after the last of them, before the decoder runs.

    ::

        with PriorMessenger(["z"], model_trace) as prior:
            model(x)
        z = prior.sites["z"]["value"]

    Observed sites that come before a latent keep their values, and plates their subsample: the draw is from the prior
    given what the batch is given.

    :param names: the latents.
    :param trace: a trace of the model on the same batch.
    """

    class _Drawn(Exception):
        pass

    def __init__(self, names: Collection[str], trace: Trace):
        super().__init__()
        self.names, self.trace = frozenset(names), trace

    def __enter__(self) -> Self:
        self.sites: dict[str, Any] = {}
        return super().__enter__()

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> Any:
        super().__exit__(kind, value, traceback)
        return kind is self._Drawn

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["name"] in self.trace:
            msg["value"] = self.trace.nodes[msg["name"]]["value"]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            self.sites[msg["name"]] = msg
            if len(self.sites) == len(self.names):
                raise self._Drawn
