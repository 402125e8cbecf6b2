r"""Doubly reparameterised gradients of the importance weighted bound [1].

    L     = log (1/K) sum_k w_k,   v_k = w_k / sum_j w_j,   z_k = z(eps_k, phi)
    theta   sum_k v_k   d log p(x, z_k) / d theta                       as the IWAE
    phi     sum_k v_k^2 d log w_k / d z_k  d z_k / d phi                log w with the guide's law held fixed

and with the ratio p(z) / q(z | x) in w to the power beta, as in a warm-up, (1 - beta) v_k + beta v_k^2 for v_k^2.

The IWAE's own gradient for phi has v_k d log w_k / d z_k along the path of the draw, less the score
v_k d log q(z_k | x) / d phi. A second reparameterisation turns the score into a path too, and v_k into v_k^2. What is
left vanishes draw by draw, not in the mean alone, where the guide is the posterior, and its signal does not drown in
noise as K grows. At K = 1 it is the ELBO by "sticking the landing" [2].

References:
    [1] Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019)
        https://arxiv.org/abs/1810.04152
    [2] Sticking the Landing (Roeder, Wu and Duvenaud, 2017), https://arxiv.org/abs/1703.09194
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO
from ppvae.infer.objectives.iwae import LogWeights
from ppvae.infer.sites import Needs, latents, mask_of, observations


class SplitELBO(TensorELBO):
    r"""Base of importance weighted bounds whose gradients for model and guide have weights of their own.

    A subclass says with which weight each log density enters each gradient, see :meth:`coefficients`. Draws are cut
    from the guide and joined to it again by their gradients, so what model and guide share (a prior made of the
    encoder) is right too: the gradient belongs to the density, not to the parameter.
    """

    @abstractmethod
    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, shape (particles, batch), of d log p(x, z) / d theta at fixed z, of d log w / dz, and of
        -kl_weight d log q(z | x) / d phi at fixed z; without gradients."""

    def needs(self, name: str) -> Needs:
        return "weights"

    def _get_trace(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        with _Leaves():
            return super()._get_trace(model, guide, args, kwargs)

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        w = LogWeights(model_trace, guide_trace, self.max_plate_nesting, self.num_particles)
        for site in latents(guide_trace):
            if mask_of(site) is not True:
                raise ValueError(
                    f"site {site['name']!r}: {type(self).__name__} weights gradients of whole draws, and it is masked"
                )
        factors = [site["name"] for site in observations(guide_trace)]
        if factors:
            raise ValueError(f"site {factors[0]!r}: {type(self).__name__} knows no factors in the guide; use IWAE_ELBO")
        log_w = w.log_w(self.kl_weight)
        loss = -(w.scale * (torch.logsumexp(log_w, 0) - math.log(self.num_particles))).sum().detach()
        if torch.is_grad_enabled():
            theta, z, phi = (w.scale * c for c in self.coefficients(log_w.detach()))
            surrogate = -(theta * w.log_p(self.kl_weight) - phi * self.kl_weight * w.log_q).sum()
            total = -(z * log_w).sum()
            for site in reversed([site for site in latents(guide_trace) if "path" in site]):
                (gradient,) = torch.autograd.grad(total, site["value"], retain_graph=True, materialize_grads=True)
                path = (gradient * site["path"]).sum()
                total, surrogate = total + path, surrogate + path
            loss = loss + (surrogate - surrogate.detach())
        return {"loss": loss, **{name: value.detach() for name, value in w.shown().items()}}


class DReG_ELBO(SplitELBO):
    r"""Importance weighted bound with K = ``num_particles`` samples, its gradient for the guide doubly reparameterised.

    .. math::
        \nabla_\varphi L = \sum_k v_k^2 \, \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \varphi},
        \qquad v_k = \frac{w_k}{\sum_j w_j}

    The loss is that of ``IWAE_ELBO``, and the gradients have the same mean, at every ``kl_weight``. The guide's density
    is taken at a copy of each draw, so a law that remembers how it made a draw (an inverse autoregressive flow) must
    find its inverse. Near the posterior the gradient has far less noise than the IWAE's; far from it, as at the start
    of a von Mises-Fisher guide, it can have more.

    :param num_particles: samples of the guide for each datum; 1 is the ELBO by "sticking the landing".
    :raises ValueError: where ``IWAE_ELBO`` raises one, and for a masked latent or a factor in the guide.

    Source: Tucker et al. (2019), https://arxiv.org/abs/1810.04152
    """

    def __init__(self, num_particles: int = 16, max_plate_nesting: int = 1):
        super().__init__(num_particles, max_plate_nesting)

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v = log_w.softmax(0)
        return v, v * (1 - self.kl_weight + self.kl_weight * v), torch.zeros_like(v)


class _Leaves(Messenger):
    """Give each draw that carries a gradient as a leaf, and keep the draw as ``"path"``."""

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] and isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
            msg["path"], msg["value"] = value, value.detach().requires_grad_()
