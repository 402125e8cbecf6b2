r"""The KL of the ELBO in three parts, each with a weight [1]: beta-TCVAE, and FactorVAE without its discriminator [2].

    q(z) = (1/N) sum_n q(z | x_n),   z = (z_1, ..., z_d)
    (1/N) sum_n KL(q(z | x_n) || p(z)) = I(x; z)                        what z knows of the data
                                       + KL(q(z) || prod_j q(z_j))      the total correlation
                                       + sum_j KL(q(z_j) || p(z_j))     each coordinate against its prior

Of N data a step sees M. For z drawn from x_i, one of them,

    q(z) ~ (1/N) q(z | x_i) + (N - 1) / (N (M - 1)) sum_{j != i} q(z | x_j)

is unbiased, and exact for M = N. Its logarithm is not: it is too small, so that the mutual information comes out too
large. The minibatch-weighted estimate (1/NM) sum_j q(z | x_j) of [1] has a bias of its own, log N for M = N.

References:
    [1] Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018)
        https://arxiv.org/abs/1802.04942
    [2] Disentangling by Factorising (Kim and Mnih, 2018), https://arxiv.org/abs/1802.05983
"""

import math
from collections.abc import Iterator

import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, Independent

from ppvae.infer.objectives.base import TensorELBO, reconstruction_terms
from ppvae.infer.sites import Site, base_law, latents, mask_of, plates, scales_differ


class TotalCorrelation_ELBO(TensorELBO):
    r"""Objective of the beta-TCVAE, for latents of any kind that are independent of each other given x.

    .. math::
        L = \sum_i E \log p(x_i \mid z_i)
            - w \, N \Bigl( \alpha \, I(x; z) + \beta \, KL \bigl( q(z) \,\|\, \textstyle\prod_j q(z_j) \bigr)
            + \gamma \sum_j KL(q(z_j) \| p(z_j)) \Bigr), \qquad w = \texttt{kl\_weight}

    j is a coordinate where guide and prior are products of laws of one coordinate each (``Normal(...).to_event(1)``).
    Any other latent, a point of a sphere for one, is a single z_j, and several latents are several. At alpha = beta =
    gamma = 1 it is the ELBO with its KL from samples, whatever the estimate of q(z).

    :param beta: weight of the total correlation, at least 0.
    :param alpha: weight of the mutual information, at least 0.
    :param gamma: weight of the KL of the coordinates, at least 0.
    :param num_data: N, the number of training data. Where None the batch is taken for all of them, and q(z) for the
        mean over the batch, of which the mutual information is at most log M.
    :param num_particles: samples of the guide for each datum, each a sample of q(z) by itself.
    :raises ValueError: for a negative weight; in training, if there is but one z_j, the batch has one datum or more
        than N, or a latent is discrete, deterministic, masked, scaled, drawn from another, the guide's alone or not in
        the data plate alone.

    The terms ``mutual_information``, ``total_correlation`` and ``coordinate_kl`` of the history are nats per datum, and
    their sum is ``kl``.

    Source: Chen et al. (2018), https://arxiv.org/abs/1802.04942
    """

    def __init__(
        self,
        beta: float = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        num_data: int | None = None,
        num_particles: int = 1,
        max_plate_nesting: int = 1,
    ):
        super().__init__(num_particles, max_plate_nesting)
        for name, value in (("beta", beta), ("alpha", alpha), ("gamma", gamma)):
            if not value >= 0:
                raise ValueError(f"{name}: expected at least 0, got {value}")
        if num_data is not None and num_data < 2:
            raise ValueError(f"num_data: expected at least 2, got {num_data}")
        self.beta, self.alpha, self.gamma, self.num_data = beta, alpha, gamma, num_data
        self.min_batch, self.max_batch = 2, num_data

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        pairs: list[Tensor] = []
        priors: list[Tensor] = []
        scale: Tensor | float = 1.0
        if is_validation_enabled():
            _check_independence(guide_trace)
        for q in latents(guide_trace):
            self._check(model_trace, q)
            p: Site = model_trace.nodes[q["name"]]
            scale = q["scale"]
            M = q["value"].shape[-1 - len(q["fn"].event_shape)]
            data = q["value"].dim() - 1 - len(q["fn"].event_shape)  # the dimension of the data, particles left of it
            each = q["value"].movedim(data, 0).unsqueeze(data + 1)
            product = _is_product(q["fn"]) and _is_product(p["fn"])
            # [i, k, j]: log q(z_ki | x_j)
            pairs += (pair.reshape(M, self.num_particles, M) for pair in _densities(q["fn"], each, product))
            priors += (term.reshape(self.num_particles, M) for term in _densities(p["fn"], q["value"], product))
        if len(pairs) < 2:
            raise ValueError(
                "TotalCorrelation_ELBO: expected several coordinates or latents, got one: a single one has no total "
                "correlation; use ELBO, or Beta_ELBO for another weight"
            )
        log_share = self._log_share(M, pairs[0])
        log_q_each = [(pair + log_share).logsumexp(-1).mT for pair in pairs]  # [k, i]
        joint = torch.stack(pairs).sum(0)
        log_q = (joint + log_share).logsumexp(-1).mT
        log_q_given_x = joint.diagonal(dim1=0, dim2=2)
        log_p = torch.stack(priors).sum(0)
        log_product = torch.stack(log_q_each).sum(0)
        parts = {
            "mutual_information": log_q_given_x - log_q,
            "total_correlation": log_q - log_product,
            "coordinate_kl": log_product - log_p,
        }
        parts = {name: (scale * part).sum() / self.num_particles for name, part in parts.items()}
        weights = (self.alpha, self.beta, self.gamma)
        latent = torch.stack([weight * part for weight, part in zip(weights, parts.values(), strict=True)]).sum()
        reconstruction = self.mean(reconstruction_terms(model_trace))
        return {
            "loss": self.kl_weight * latent - reconstruction,
            "reconstruction": reconstruction,
            "kl": torch.stack([*parts.values()]).sum(),
            **parts,
        }

    def check_batch_size(self, size: int) -> None:
        """Raise a ValueError for a batch of one datum, or of more than N."""
        most = "" if self.num_data is None else f" and at most num_data = {self.num_data}"
        if size < 2 or (self.num_data is not None and size > self.num_data):
            raise ValueError(
                f"TotalCorrelation_ELBO: expected a batch of at least 2{most} data, got one of {size}; choose a "
                "batch_size that leaves no single datum over, and for num_data the number of training data"
            )

    def _log_share(self, M: int, like: Tensor) -> Tensor:
        """log of the weight that q(z_i | x_j) has in q(z_i), shape (M, 1, M)."""
        self.check_batch_size(M)
        N = M if self.num_data is None else self.num_data
        own = torch.eye(M, dtype=torch.bool, device=like.device)[:, None]
        log_other = math.log(N - 1) - math.log(N) - math.log(M - 1)
        return torch.where(own, like.new_full((), -math.log(N)), like.new_full((), log_other))

    def _check(self, model_trace: Trace, q: Site) -> None:
        frames, law = plates(q), base_law(q["fn"])
        why = None
        if q["name"] not in model_trace:
            why = "the guide alone has it, so q(z) is not known"
        elif law.support is not None and law.support.is_discrete:
            why = f"its law {type(law).__name__} is discrete, and a sample of it has no gradient"
        elif [frame.dim for frame in frames] != [-1]:
            why = f"expected it in the data plate (dim -1) alone, got the plates {[f.name for f in frames]}"
        elif mask_of(q) is not True or mask_of(model_trace.nodes[q["name"]]) is not True:
            why = "it is masked, and the aggregate posterior of a part of the batch is not known"
        elif scales_differ(q["scale"], model_trace.nodes[q["name"]]["scale"]):
            why = "its scales in model and guide differ; weight the latent terms with kl_weight, not with poutine.scale"
        if why:
            raise ValueError(f"site {q['name']!r}: no total correlation: {why}")


def _check_independence(guide_trace: Trace) -> None:
    """That no latent's law is made from another latent: then q(z | x_j) at a z of x_i would be another law."""
    sites = list(latents(guide_trace))
    for site in sites:
        others = [s for s in sites if s is not site and s["value"].requires_grad]
        with torch.enable_grad():
            density = site["fn"].log_prob(site["value"].detach()).sum()
        if not others or not density.requires_grad:
            continue
        found = torch.autograd.grad(density, [s["value"] for s in others], retain_graph=True, allow_unused=True)
        for other, gradient in zip(others, found, strict=True):
            if gradient is not None:
                raise ValueError(
                    f"site {site['name']!r}: no total correlation: the guide draws it from {other['name']!r}; expected "
                    "latents that are independent given x"
                )


def _is_product(law: Distribution) -> bool:
    """Whether the law is a product of laws of one coordinate each."""
    return isinstance(law, Independent) and len(law.event_shape) == 1 and not law.base_dist.event_shape


def _densities(law: Distribution, z: Tensor, product: bool) -> Iterator[Tensor]:
    """log densities at z, of each coordinate or of all at once."""
    if product:
        yield from law.base_dist.log_prob(z).unbind(-1)  # type: ignore[attr-defined]
    else:
        yield law.log_prob(z)
