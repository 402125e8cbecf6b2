r"""A normal law moved towards a target by Hamiltonian dynamics, with momentum that is drawn and left behind [1].

    z_0 ~ N(loc, scale^2),   rho_0 = gamma / sqrt(beta_0),   gamma ~ N(0, I)
    K times, with U = -log p(x, z) and step sizes eps:
        rho <- rho - (eps / 2) grad U(z)
        z   <- z + eps rho
        rho <- rho - (eps / 2) grad U(z)
        rho <- sqrt(beta_{k-1} / beta_k) rho,   1 / sqrt(beta_k) = (1 - 1 / sqrt(beta_0)) k^2 / K^2 + 1 / sqrt(beta_0)

Leapfrog steps keep the volume of (z, rho). Cooling multiplies it by beta_0^{d/2} in all. The density of rho_0 is that
of gamma times the same beta_0^{d/2}, so the two factors cancel. With N for the standard normal density

    p(x) = E w,   w = p(x, z_K) N(rho_K) / (N(z_0; loc, scale^2) N(gamma))

References:
    [1] Hamiltonian Variational Auto-Encoder (Caterini, Doucet and Sejdinovic, 2018), https://arxiv.org/abs/1805.11328
"""

import math
from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from ppvae.distributions.center import center
from ppvae.distributions.finite import finite, positive


class HamiltonianFlow(TorchDistribution):
    r"""The law of z_K on R^dim, and the weight of a draw in place of its density.

    The density of z_K is an integral over the momentum and not known. ``log_prob`` accepts the last draw only, and
    returns

    .. math::
        \log \hat q = \log N(z_0; \mathrm{loc}, \mathrm{scale}^2) + \log N(\gamma) - \log N(\rho_K),

    With it :math:`p(x, z_K) / \hat q` is an unbiased importance weight of p(x), so that the ELBO, the IWAE bound and
    estimates of log p(x) keep their meaning.

    :param loc: mean of z_0, shape (..., dim).
    :param scale: standard deviations of z_0, shape (..., dim).
    :param log_joint: log p(x, z) of shape (...) in nats from z of shape (..., dim), batch dimensions added on the left
        included.
    :param step_size: eps, shape (dim,), in units of z.
    :param beta_0: inverse temperature of the first momentum, positive; in (0, 1] in the paper.
    :param steps: K, the number of steps, at least 1. The last one ends at temperature 1.
    :raises ValueError: if ``steps`` is below 1. With validated arguments also for parameters that are not finite
        or, except for ``loc``, not positive.

    >>> _ = torch.manual_seed(0)
    >>> step, beta_0 = torch.full((2,), 0.1), torch.tensor(0.5)
    >>> law = HamiltonianFlow(torch.zeros(2), torch.ones(2), lambda z: -z.square().sum(-1) / 2, step, beta_0, steps=3)
    >>> z = law.rsample((1000,))
    >>> weight = -z.square().sum(-1) / 2 - law.log_prob(z)  # of an integral that is 2 pi
    >>> print(f"{weight.exp().mean():.2f}")
    6.22

    Source: Caterini, Doucet and Sejdinovic (2018), section 3, https://arxiv.org/abs/1805.11328
    """

    arg_constraints = {
        "loc": constraints.independent(finite, 1),
        "scale": constraints.independent(positive, 1),
        "step_size": constraints.independent(positive, 1),
        "beta_0": positive,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        log_joint: Callable[[Tensor], Tensor],
        step_size: Tensor,
        beta_0: Tensor,
        steps: int,
        validate_args: bool | None = None,
    ):
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}; without any the law is Normal(loc, scale)")
        self.log_joint, self.step_size, self.beta_0, self.steps = log_joint, step_size, beta_0, steps
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(HamiltonianFlow, _instance)
        new.log_joint, new.step_size, new.beta_0, new.steps = self.log_joint, self.step_size, self.beta_0, self.steps
        batch_shape = Size(batch_shape)
        new.loc, new.scale = (t.expand(batch_shape + self.event_shape) for t in (self.loc, self.scale))
        new._drawn = None
        super(HamiltonianFlow, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_drawn": None}  # a sample with its graph cannot be copied

    def rsample(self, sample_shape=Size()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + (dim,)``, with gradients to all parameters of the dynamics."""
        shape = Size(sample_shape) + self.loc.shape
        eps, gamma = (torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device) for _ in range(2))
        z, rho = self.move(self.loc + self.scale * eps, gamma / self.beta_0.sqrt())
        # The constants of the two momenta cancel.
        log_z_0 = -(eps.square() / 2 + self.scale.log() + math.log(2 * math.pi) / 2).sum(-1)
        self._drawn = (z, log_z_0 + (rho.square() - gamma.square()).sum(-1) / 2)
        return z

    def move(self, z: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """z_K and rho_K from z_0 and rho_0."""
        start = 1 / self.beta_0.sqrt()
        heat = start
        push = self._force(z)
        for k in range(1, self.steps + 1):
            rho = rho + self.step_size / 2 * push
            z = z + self.step_size * rho
            push = self._force(z)
            rho = rho + self.step_size / 2 * push
            cooler = (1 - start) * (k / self.steps) ** 2 + start
            rho, heat = cooler / heat * rho, cooler
        return z, rho

    def _force(self, z: Tensor) -> Tensor:
        """grad log p(x, z), which is needed in training and without."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "HamiltonianFlow: its steps follow a gradient, which torch.inference_mode forbids; use torch.no_grad"
            )
        learning, tracing = torch.is_grad_enabled(), torch.jit.is_tracing()
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            energy = self.log_joint(z).sum()
            try:
                return torch.autograd.grad(energy, z, create_graph=learning)[0]
            except RuntimeError as error:
                if tracing:
                    raise RuntimeError(
                        "HamiltonianFlow: its steps follow a gradient, which torch.jit.trace cannot hold for every "
                        "decoder; use Trace_ELBO in place of JitTrace_ELBO"
                    ) from error
                raise

    def log_prob(self, value: Tensor) -> Tensor:
        """log q-hat of the last draw in nats, shape ``(...)``.

        :raises ValueError: for any other value, and where gradients are asked of a draw that was made without.
        """
        if self._drawn is None or value is not self._drawn[0]:
            raise ValueError(
                "HamiltonianFlow: the density of a point is not known, only the weight of the law's last draw; train "
                "with ELBO or IWAE_ELBO, which ask for no other"
            )
        log_q = self._drawn[1]
        own = (self.loc, self.scale, self.step_size, self.beta_0)
        if torch.is_grad_enabled() and not log_q.requires_grad and any(t.requires_grad for t in own):
            raise ValueError(
                "HamiltonianFlow: the draw was made without gradients, and its weight has none; draw with rsample, or "
                "ask for the weight under torch.no_grad"
            )
        return log_q


@center.register
def _(law: HamiltonianFlow) -> Tensor:
    return law.move(law.loc, torch.zeros_like(law.loc))[0]
