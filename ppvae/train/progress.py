"""The progress bar of training, on the standard error, and lines above it."""

import sys
from typing import Any

from tqdm import tqdm

from ppvae.tracing import log_line


class Progress:
    """A progress bar that counts steps. Nothing is made of tqdm's, its lock included, where it is not shown.

    :param shown: whether there is a bar.
    """

    def __init__(self, shown: bool):
        self.shown = shown
        self.bar: Any = None

    def start(self, total: int | None, done: int) -> None:
        """Show the bar, at ``done`` of ``total`` steps; None where their number is not known."""
        if self.shown:
            self.bar = tqdm(total=total, initial=done, unit="step", file=sys.stderr)

    def update(self) -> None:
        """Count a step."""
        if self.bar is not None:
            self.bar.update()

    def describe(self, record: dict[str, float]) -> None:
        """Show the ELBO of an epoch, or its loss where the objective has no ELBO."""
        if self.bar is None:
            return
        name, word = ("elbo", "ELBO") if "elbo" in record else ("loss", "loss")
        valid = f", validation {record[f'valid_{name}']:.2f}" if f"valid_{name}" in record else ""
        self.bar.set_postfix_str(f"epoch {record['epoch']:.0f}, {word} {record[name]:.2f}{valid} nats")

    def log(self, message: str) -> None:
        """Print a line to the standard error, above the bar."""
        if self.bar is None:
            log_line(message)
        else:
            tqdm.write(f"ppvae: {message}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
