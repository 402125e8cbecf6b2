r"""InfoVAE: a weight for the KL, and a divergence between the aggregate posterior and the prior [1].

    L = E_q(z|x) log p(x | z) - (1 - alpha) E_x KL(q(z | x) || p(z)) - (alpha + lambda - 1) D(q(z) || p(z))
    q(z) = E_x q(z | x)

    alpha = 0, lambda = 1   the ELBO
    alpha = 1               no KL, so that z may keep all it knows of x; with a deterministic encoder the
                            Wasserstein auto-encoder [2], with D = MMD the MMD-VAE

The KL compares the posterior of each datum with the prior, and pays for information in z; D compares the posteriors
of all data together with the prior, and pays only for samples of the model that no datum looks like.

References:
    [1] InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao, Song and Ermon, 2019)
        https://arxiv.org/abs/1706.02262
    [2] Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558
    [3] The Cramer Distance as a Solution to Biased Wasserstein Gradients (Bellemare et al., 2017)
        https://arxiv.org/abs/1705.10743
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.handlers import PriorMessenger
from ppvae.infer.objectives.base import TensorELBO, kl_terms, reconstruction_terms, sum_terms
from ppvae.infer.objectives.divergences import find, names
from ppvae.infer.sites import Needs, Site, latents, mask_of, number_of_data, observations, plates

_ONE_DATUM = "a batch of one datum has no aggregate posterior; choose a batch_size that leaves no single datum over"


class InfoVAE_ELBO(TensorELBO):
    r"""Objective of the InfoVAE, for every model whose latents belong to the data plate.

    .. math::
        L = \sum_i E \log p(x_i \mid z_i) - w \Bigl( (1 - \alpha) \sum_i KL(q(z \mid x_i) \| p(z))
            + (\alpha + \lambda - 1) \, N \, D(q(z) \| p(z)) \Bigr), \qquad w = \texttt{kl\_weight}

    D is estimated from the batch: the guide's draws against as many from the prior, drawn jointly from the model, so
    that a prior that depends on labels or on other latents is right. It is a divergence of laws, not a sum over data,
    and enters times the number N of data that the loss sums over. Of several particles each is a sample of the
    aggregate posterior by itself, and D is the mean over them: draws that share a datum are not independent, and are
    never paired. Of several latents each has its own D, between marginals. The loss is linear in KL and D, and so has
    no bias of its own: a sampled KL has none, nor have the U-statistics ``"mmd"``, ``"mmd-imq"`` and ``"energy"``; the
    sliced Wasserstein distance of two samples is too large in the mean.

    :param divergences: ``"mmd"``, ``"mmd-imq"``, ``"energy"`` or ``"sliced-wasserstein"``; or a function of a sample
        of the prior and one of the posterior, both (n, \*event), whose points i belong to one datum, e.g.
        ``partial(energy_distance, distance=Sphere().dist, paired=True)``; or a mapping from the names of latents to
        either, in which a latent left out keeps its KL at weight 1.
    :param alpha: at most 1; at 1 no KL is taken and log q never evaluated, and the history shows it as NaN.
    :param lambda_: weight of the divergence where alpha is 0, with alpha + lambda - 1 >= 0.
    :param num_particles: samples of the guide for each datum.
    :raises ValueError: if a weight would be negative, so that a divergence is maximised; in training, if D makes no
        sense at a site: a discrete or masked latent, one outside the data plate or in further plates, or a batch of
        one datum.

    The terms ``divergence_<site>`` of the history are N D summed over batches, hence D per datum.

    Source: Zhao, Song and Ermon (2019), https://arxiv.org/abs/1706.02262
    """

    def __init__(
        self,
        divergences: str | Callable | Mapping[str, str | Callable] = "mmd",
        alpha: float = 0.0,
        lambda_: float = 1.0,
        num_particles: int = 1,
        max_plate_nesting: int = 1,
    ):
        super().__init__(num_particles, max_plate_nesting)
        if not alpha <= 1:
            raise ValueError(
                f"alpha: expected at most 1, got {alpha}: the weight 1 - alpha of the KL would be negative"
            )
        if not alpha + lambda_ - 1 >= 0:
            raise ValueError(
                f"expected alpha + lambda - 1 >= 0, got {alpha} + {lambda_} - 1 = {alpha + lambda_ - 1:g}: the "
                "divergence would be maximised; alpha = 0, lambda = 1 is the ELBO"
            )
        for divergence in divergences.values() if isinstance(divergences, Mapping) else (divergences,):
            if not callable(divergence) and divergence not in names():
                raise ValueError(
                    f"divergences: expected one of {', '.join(names())}, a function, or a mapping from latents to "
                    f"either, got {divergence!r}"
                )
        self.divergences, self.alpha, self.lambda_ = divergences, alpha, lambda_
        if alpha + lambda_ > 1 and divergences != {}:
            self.min_batch = 2  # a single datum has no aggregate posterior

    def needs(self, name: str) -> Needs:
        compared = name in self.divergences if isinstance(self.divergences, Mapping) else True
        return "draws" if compared and self.alpha == 1 else "bound"

    def check_batch_size(self, size: int) -> None:
        """Raise a ValueError for a batch of one datum, if a divergence is estimated from it."""
        if (
            size < 2
            and self.alpha + self.lambda_ > 1
            and (self.divergences or not isinstance(self.divergences, Mapping))
        ):
            raise ValueError(_ONE_DATUM)

    def traces(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
        """Traces of guide and model; each latent of the model's also holds a joint draw from the prior,
        ``"prior_value"``.
        """
        model_trace, guide_trace = super().traces(model, guide, *args, **kwargs)
        if self.alpha + self.lambda_ > 1:
            drawn = [site["name"] for site in latents(model_trace)]
            with PriorMessenger(drawn, model_trace) as prior:
                self._vectorized_num_particles(model)(*args, **kwargs)
            for name, site in prior.sites.items():
                node: Any = model_trace.nodes[name]
                node["prior_value"] = site["value"]
        return model_trace, guide_trace

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        alpha, lambda_, K = self.alpha, self.lambda_, self.num_particles
        compared = self._compared(model_trace, guide_trace)
        kls = kl_terms(model_trace, guide_trace, skip=compared if alpha == 1 else ())
        reconstruction = sum_terms(reconstruction_terms(model_trace)) / K
        kl = sum_terms(kls) / K if kls else torch.zeros_like(reconstruction)
        latent = kl
        if 0 != alpha != 1:
            latent = kl - alpha * sum_terms({name: kls[name] for name in compared}) / K
        divergences = {}
        if alpha + lambda_ > 1:
            for name in compared:
                if name in model_trace:
                    q: Any = guide_trace.nodes[name]
                    p: Any = model_trace.nodes[name]
                    divergences[f"divergence_{name}"] = self._divergence(p, q) * number_of_data(q)
            latent = latent + (alpha + lambda_ - 1) * sum_terms(divergences)
        return {
            "loss": self.kl_weight * latent - reconstruction,
            "reconstruction": reconstruction,
            "kl": torch.full_like(kl, torch.nan) if alpha == 1 and compared else kl,
            **divergences,
        }

    def _compared(self, model_trace: Trace, guide_trace: Trace) -> list[str]:
        """The sites whose KL has weight 1 - alpha: those with a divergence, and what only the guide has of them."""
        sites = [site["name"] for site in (*latents(guide_trace), *observations(guide_trace))]
        if isinstance(self.divergences, Mapping):
            unknown = sorted(set(self.divergences) - {name for name in sites if name in model_trace})
            if unknown:
                raise ValueError(f"divergences: expected names of latents, got {unknown}; the latents are {sites}")
            sites = [name for name in sites if name in self.divergences]
        return sites

    def _divergence(self, p: Site, q: Site) -> Tensor:
        """D at one latent, averaged over the particles."""
        name, law = q["name"], p["fn"]
        frames = plates(q)
        why = None
        if law.support.is_discrete:
            why = f"its law {type(law).__name__} is discrete, and a sample of it has no gradient"
        elif [frame.dim for frame in frames] != [-1]:
            why = f"expected it in the data plate (dim -1) alone, got the plates {[f.name for f in frames]}"
        elif mask_of(p) is not True or mask_of(q) is not True:
            why = "it is masked, and the aggregate posterior of a part of the batch is not known"
        elif frames[0].size < 2:
            why = _ONE_DATUM
        elif not law.has_rsample and torch.is_grad_enabled() and law.log_prob(p["prior_value"]).requires_grad:
            why = f"the prior {type(law).__name__} has parameters to learn, and no pathwise gradient"
        if why:
            raise ValueError(f"site {name!r}: no divergence of its aggregate posterior: {why}")
        divergence = self.divergences[name] if isinstance(self.divergences, Mapping) else self.divergences
        if isinstance(divergence, str):
            divergence = find(divergence, law.support, law.event_shape)
        z, prior = (
            value.reshape(self.num_particles, frames[0].size, *law.event_shape)
            for value in (q["value"], p["prior_value"])
        )
        return torch.stack([divergence(prior[k], z[k]) for k in range(self.num_particles)]).mean()
