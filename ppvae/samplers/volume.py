r"""The volume of a Riemannian metric as an unnormalised density on R^d, and how much of its mass is background.

.. math::
    \pi(z) \propto \det G(z)^{p/2} \, b(z)

with respect to Lebesgue measure dz; at p = 1 and b = 1 the uniform law of the Riemannian manifold [1]. It is a
potential, not a law: its mass is not known. For the posterior-covariance metric [1]

    G(z) >= lambda exp(-tau |z|^2) I

everywhere, so what is there without any centroid has the mass

    B = int (lambda exp(-tau |z|^2))^{p d / 2} b(z) dz,   at b = 1:  lambda^{p d / 2} (2 pi / (p d tau))^{d/2}

and a centroid far from others has M_i = det Sigma_i^{-(p-1)/2} (2 pi rho^2 / (p d))^{d/2} b(mu_i). At b = 1 and
tau = 0 the background, and so the law, is improper. At small tau it is proper and empty: B / sum M_i is
(lambda / (tau rho^2))^{d/2} / N at p = 1, which is 1e22 for tau = 1e-5, lambda = 0.01, rho = 1 and N = 100 in 16
dimensions.

References:
    [1] A Geometric Perspective on Variational Autoencoders (Chadebec & Allassonnière, 2022)
        https://arxiv.org/abs/2209.07370
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions import Normal
from torch import Tensor

from ppvae.manifolds import PosteriorCovarianceMetric, as_metric
from ppvae.random import seeded
from ppvae.samplers.centroid_mixture import CentroidMixture, half_log_dets, log_prob_anywhere

__all__ = ["Mass", "RiemannianVolume"]


@dataclass(frozen=True)
class Mass:
    """An importance sampling estimate of the mass of a volume.

    :param log_mass: logarithm of the integral of det G^{p/2} b.
    :param error: its standard error.
    :param background: B over the mass: the part of the law that no centroid has a share in.
    :param ess: effective sample size 1 / sum w^2 of the normalised weights.
    """

    log_mass: float
    error: float
    background: float
    ess: float


class RiemannianVolume:
    r"""The potential :math:`-\log \pi(z) = -\tfrac{p}{2} \log \det G(z) - \log b(z)`, up to a constant.

    :param metric: a metric, an object with ``metric(z)``, or a function z -> G(z).
    :param power: p, above 0.
    :param base: b, a law on R^d: the prior, say, or for a box ``Uniform(low, high).to_event(1)``. Where None, b = 1:
        for a posterior-covariance metric whose decay leaves the background less than half of the mass.
    :param procedure: the name "chadebec2022" allows the improper law of [1], of which their short chains see a part.
    :raises ValueError: if the law is improper, or for the most part background; if it is not known to be proper.

    Where a base law leaves more than half of the mass to the background, a warning says so.
    """

    def __init__(
        self,
        metric: Any,
        power: float = 1.0,
        base: Any = None,
        procedure: Literal["chadebec2022"] | None = None,
    ):
        self.metric, self.power, self.base = as_metric(metric), float(power), base
        if not 0 < power < math.inf:
            raise ValueError(f"power: expected a finite number above 0, got {power}")
        if procedure not in (None, "chadebec2022"):
            raise ValueError(f'procedure: expected "chadebec2022" or None, got {procedure!r}')
        if base is not None and (len(base.batch_shape) or len(base.event_shape) != 1):
            raise ValueError(
                f"base: expected one law on R^d, got batch shape {tuple(base.batch_shape)} and event shape "
                f"{tuple(base.event_shape)}; use .to_event(1)"
            )
        if procedure is None:
            self._check()

    def __repr__(self) -> str:
        share = f", background {self.background:.2%}" if isinstance(self.metric, PosteriorCovarianceMetric) else ""
        return f"RiemannianVolume({type(self.metric).__name__}, power={self.power:g}, base={self.base}{share})"

    def log_density(self, z: Tensor) -> Tensor:
        """log pi(z) up to a constant, shape ``(...)``; -inf outside the support of the base."""
        value = self.power * self.metric.log_volume(z)
        return value if self.base is None else value + log_prob_anywhere(self.base, z)

    def log_density_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(z), shape ``(...)``, and its gradient, shape ``(..., d)``; that of the volume in closed form."""
        value, grad = self.metric.log_volume_and_grad(z)
        value, grad = self.power * value, self.power * grad
        if self.base is None:
            return value, grad
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_base = log_prob_anywhere(self.base, z)
            if log_base.requires_grad:
                grad = grad + torch.autograd.grad(log_base.sum(), z, materialize_grads=True)[0]
        return value + log_base.detach(), grad

    def potential_fn(self, params: Mapping[str, Tensor]) -> Tensor:
        """-log pi at ``params["z"]``, for Pyro's kernels."""
        return -self.log_density(params["z"])

    def value_and_grad(self, params: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """-log pi and its gradient at ``params["z"]``, for :class:`~ppvae.infer.BatchedHMC`."""
        value, grad = self.log_density_and_grad(params["z"])
        return -value, {"z": -grad}

    @property
    def log_background_mass(self) -> float:
        """log B, by 10 000 draws of the base where there are a base and a decay."""
        metric = self._of_centroids("log_background_mass")
        d = metric.centroids.shape[1]
        half = self.power * d / 2
        log_lambda = math.log(metric.regularization) if metric.regularization else -math.inf
        if self.base is None:
            if not metric.decay:
                return math.inf if metric.regularization else -math.inf
            return half * log_lambda + d / 2 * math.log(math.pi / (half * metric.decay))
        if not metric.decay:
            return half * log_lambda
        with seeded(0):
            square = self.base.sample((10_000,)).double().square().sum(1)
        return half * log_lambda + float(torch.logsumexp(-half * metric.decay * square, 0)) - math.log(10_000)

    @property
    def log_centroid_masses(self) -> Tensor:
        """log M_i, shape (N,), in float64: each as if it were alone, and the base constant about it."""
        metric = self._of_centroids("log_centroid_masses")
        d = metric.centroids.shape[1]
        one = d / 2 * math.log(2 * math.pi * metric.temperature**2 / (self.power * d))
        masses = (self.power - 1) * half_log_dets(metric) + one
        return (
            masses if self.base is None else masses + log_prob_anywhere(self.base, metric.centroids).detach().double()
        )

    @property
    def background(self) -> float:
        """B / (B + sum_i M_i): the part of the mass that is background, where the centroids lie apart from each other.

        Where they do not, det G is larger than this says, and the part smaller: :meth:`mass` estimates it.
        """
        centroids = float(torch.logsumexp(self.log_centroid_masses, 0))
        log_odds = centroids - self.log_background_mass
        return 1 / (1 + math.exp(log_odds)) if log_odds < 700 else 0.0

    def proposal(self, fraction: float = 0.05) -> CentroidMixture:
        """The mixture near the centroids in proportion to their M_i, and a ``fraction`` of the background's own law."""
        metric = self._of_centroids("independence proposals")
        background = self.base
        d = metric.centroids.shape[1]
        if background is None and metric.decay:
            background = Normal(metric.centroids.new_zeros(d), (self.power * d * metric.decay) ** -0.5).to_event(1)
        return CentroidMixture(metric, self.power, self.log_centroid_masses, background, fraction)

    def mass(self, num_samples: int = 10_000, seed: int | None = 0) -> Mass:
        """The mass, and the part of it that is background, by importance sampling from :meth:`proposal`."""
        law = self.proposal(0.5)
        with torch.no_grad(), seeded(seed):
            z = law.sample((num_samples,))
            log_w = (self.log_density(z) - law.log_prob(z)).double()
        log_mass = float(torch.logsumexp(log_w, 0)) - math.log(num_samples)
        w = (log_w - log_w.max()).exp()
        w = w / w.sum()
        error = math.sqrt(max(float((w * w).sum()) - 1 / num_samples, 0.0))
        return Mass(log_mass, error, math.exp(self.log_background_mass - log_mass), float(1 / (w * w).sum()))

    def _of_centroids(self, what: str) -> PosteriorCovarianceMetric:
        if not isinstance(self.metric, PosteriorCovarianceMetric):
            raise ValueError(f"{what}: expected a PosteriorCovarianceMetric, got {type(self.metric).__name__}")
        return self.metric

    def _check(self) -> None:
        if not isinstance(self.metric, PosteriorCovarianceMetric):
            if self.base is None:
                raise ValueError(
                    f"base: expected a law, as the volume of R^d by a {type(self.metric).__name__} may be infinite; "
                    "take the prior, or a box, Uniform(low, high).to_event(1)"
                )
            return
        background = self.background
        if background <= 0.5:
            return
        if self.base is not None:
            warnings.warn(
                f"{background:.1%} of the mass is background, det G of the regularization alone: most draws are from "
                "the base law. Take a narrower base, a smaller regularization or a larger decay",
                stacklevel=3,
            )
            return
        metric = self.metric
        d = metric.centroids.shape[1]
        centroids = float(torch.logsumexp(self.log_centroid_masses, 0))
        enough = (
            2
            * math.pi
            / (self.power * d)
            * math.exp(self.power * math.log(metric.regularization) - 2 / d * (math.log(0.01) + centroids))
        )
        what = (
            "at decay 0 det G is constant far away, so the law is improper"
            if not metric.decay
            else f"at decay {metric.decay:g} the background has {background:.4%} of the mass, exp("
            f"{self.log_background_mass - centroids:.1f}) times that of the centroids"
        )
        raise ValueError(
            f"RiemannianVolume: {what}. Give a base law (the prior, or a box: Uniform(low, high).to_event(1)), a "
            f'metric with decay of at least {enough:.2g} (1% background), or ask for procedure="chadebec2022"'
        )
