r"""Terms of the regularised auto-encoder (RAE) [1]: what holds the codes of a deterministic encoder together.

    loss = -E log p(x | g(x)) + lambda_z (1/2) |g(x)|^2 + lambda_f |J_f(g(x))|_F^2

with f(z) the mean of p(x | z) and J_f its Jacobian. No prior is matched; a density of the codes is fitted afterwards,
by ``ppvae.samplers.mixture`` or ``flow``:

    objective = Regularized(InfoVAE_ELBO(alpha=1, lambda_=0), code=CodeNorm(0.01), smooth=DecoderGradient(0.001))
    fit(WassersteinVAE(shape), x, objective=objective)

References:
    [1] From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436
"""

from collections.abc import Callable

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppvae.infer.sites import Site, base_support, latents


class CodeNorm:
    r"""Half the squared norm of the codes, :math:`\sum_i |z_i|^2 / 2` over all Euclidean latents.

    :param weight: what it is multiplied with in the loss.
    :raises ValueError: in training, if a latent is not Euclidean.
    """

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        norms = []
        for site in latents(model_trace):
            support = base_support(site["fn"].support)
            if support is not constraints.real:
                raise ValueError(f"site {site['name']!r}: the norm of a code is for Euclidean latents, got {support}")
            norms.append(site["value"].square().sum() / 2)
        return torch.stack(norms).sum()


class DecoderGradient:
    r"""Squared Frobenius norm of the decoder's Jacobian at the codes, :math:`\sum_i |J_f(z_i)|_F^2`.

    Estimated without bias from one direction :math:`v` of signs a datum, as :math:`|J_f^\top v|^2` [2]. The codes are
    held fixed: the term is the decoder's.

    :param weight: what it is multiplied with in the loss.
    :raises ValueError: in training, if a latent is discrete, or the law of x has no mean that moves with the latents.

    References:
        [2] A stochastic estimator of the trace of the influence matrix (Hutchinson, 1990)
            https://doi.org/10.1080/03610919008812866
    """

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        with torch.no_grad():
            guide_trace = poutine.trace(guide).get_trace(*batch)
        codes = []
        for site in latents(guide_trace):
            if not site["value"].is_floating_point():
                raise ValueError(f"site {site['name']!r}: a decoder has no gradient in a discrete latent")
            site["value"] = site["value"].detach().requires_grad_()
            codes.append(site["value"])
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            x: Site = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch).nodes["x"]
            f = x["fn"].mean
            if not f.requires_grad:
                raise ValueError(f"site 'x': the mean of {type(x['fn']).__name__} does not move with the latents")
            v = torch.randint(0, 2, f.shape, device=f.device).to(f.dtype) * 2 - 1
            gradients = torch.autograd.grad((v * f).sum(), codes, create_graph=learning, materialize_grads=True)
        return torch.stack([g.square().sum() for g in gradients]).sum()
