"""What training returns, and what callbacks see."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ppvae.vae import VAE


@dataclass
class Fit:
    """What :func:`ppvae.fit` returns and callbacks see.

    ``history`` has one list entry for each epoch. All but ``epoch``, ``kl_weight``, ``lr`` and ``seconds`` are nats per
    datum: ``loss`` (at the KL weight of the epoch), ``reconstruction`` = E log p(x|z), ``kl``, ``elbo`` =
    reconstruction - kl, further terms of the objective by their names, and the same with ``valid_`` in front, where
    ``valid_loss`` is at full KL weight. ``lr`` is there with a scheduler, and is that of the epoch.
    """

    vae: VAE
    history: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None  #: the epoch whose weights the VAE holds in the end
    best_loss: float = math.inf  #: its loss, with which later epochs are compared
    best_weights: dict[str, Tensor] = field(default_factory=dict, repr=False)  #: its weights, until the VAE holds them
    first_loss: float | None = None  #: the loss of the first step, with which a diverging loss is compared
    stopped: str = ""  #: why training ended: "epochs", "patience", "interrupted", or the reason that a callback gave
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return len(self.history.get("epoch", ()))

    @property
    def best(self) -> dict[str, float]:
        """The history at the best epoch."""
        if self.best_epoch is None:
            return {}
        row = self.history["epoch"].index(self.best_epoch)
        return {name: values[row] for name, values in self.history.items()}

    def state_dict(self) -> dict[str, Any]:
        """All but the VAE."""
        return {name: value for name, value in vars(self).items() if name != "vae"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state_dict`."""
        vars(self).update(state)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k} {v:.2f}" for k, v in self.best.items() if k.endswith(("elbo", "loss")))
        return f"Fit({self.epochs} epochs, stopped by {self.stopped}, best epoch {self.best_epoch}: {shown})"


class Callback(Protocol):
    """A function that is called after each epoch; it ends training by setting ``fit.stopped`` to a reason."""

    def __call__(self, fit: Fit) -> None: ...
