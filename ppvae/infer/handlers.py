"""Effect handlers."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ppvae.distributions import center


class CenterMessenger(Messenger):
    """Give every unobserved site the :func:`~ppvae.distributions.center` of its law in place of a sample."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and not site_is_subsample(msg):
            msg["value"] = center(msg["fn"])
            msg["done"] = True
