"""Where a loss that is not finite, or far too large, comes from."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppvae.vae import VAE

ADVICE = "lower the learning rate (lr=), or clip gradients (clip_norm=)"


def explain_loss(vae: VAE, batch: tuple[Tensor, ...], when: str) -> str:
    """Why the loss of a batch is not finite: a parameter, or the first site whose value or density is not."""
    where = f"the loss is not finite at {when}: "
    broken = [name for name, p in vae.named_parameters() if not torch.isfinite(p).all()]
    if broken:
        return f"{where}the parameter {broken[0]} became NaN or infinite in an earlier step; {ADVICE}"
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(vae.guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*batch)
        for trace, side in ((guide_trace, "guide"), (model_trace, "model")):
            site: Any
            for name, site in trace.nodes.items():
                if site["type"] != "sample":
                    continue
                law = type(site["fn"]).__name__
                if not torch.isfinite(site["value"]).all():
                    return f"{where}the {side}'s {law} at site {name!r} draws NaN or infinite values; {ADVICE}"
                density = site["fn"].log_prob(site["value"])
                if not torch.isfinite(density).all():
                    worst = density[~torch.isfinite(density)][0].item()
                    return f"{where}the {side}'s {law} at site {name!r} has a log density of {worst}; {ADVICE}"
    return f"{where}no single site shows it on a second draw; {ADVICE}"
