r"""Metropolis steps that propose from a fixed law, and kernels one after another; for many chains at once.

A chain at z draws z' ~ q, whatever z is, and moves there with probability

    min(1, (pi(z') / q(z')) / (pi(z) / q(z)))

which leaves pi as it is for every q that is positive where pi is. The chains mix at a geometric rate where pi / q is
bounded [1]; where it is large, a chain stays.

References:
    [1] Rates of convergence of the Hastings and Metropolis algorithms (Mengersen & Tweedie, 1996)
        https://doi.org/10.1214/aos/1033066201
    [2] Monte Carlo sampling methods using Markov chains and their applications (Hastings, 1970)
        https://doi.org/10.1093/biomet/57.1.97
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

Params = Mapping[str, Tensor]


class IndependenceMetropolis(MCMCKernel):
    r"""Metropolis-Hastings with proposals from a law that does not depend on the state, for many chains at once.

    It goes into :class:`~ppvae.infer.BatchedMCMC`: parameters have the chains as their leading dimension.

    :param potential_fn: from a dict of tensors (chains, \*event) to the potential energies -log pi, shape (chains,).
    :param proposal: name of a parameter to the law that it is drawn from, of batch shape ().

    Source: Hastings (1970), https://doi.org/10.1093/biomet/57.1.97
    """

    model = None
    initial_params: Any = None  # a property of the base class

    def __init__(self, potential_fn: Callable[[Params], Tensor], proposal: Mapping[str, Any]):
        self.potential_fn, self.proposal = potential_fn, dict(proposal)
        self.transforms: dict[str, Any] = {}
        self._stats: dict[str, list[Tensor]] = {}
        self._last: dict[str, Tensor]
        self._log_pi: Tensor
        self._log_w: Tensor

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Begin a run."""
        params = self.initial_params
        if not params or set(params) != set(self.proposal):
            raise ValueError(f"initial_params: expected {sorted(self.proposal)}, got {sorted(params or [])}")
        self._warmup_steps, self._t = warmup_steps, 0
        self._stats = {name: [] for name in ("acceptance_rate", "lp", "diverging")}
        self._take(params)

    @torch.no_grad()
    def sample(self, params: Params) -> dict[str, Tensor]:
        """One proposal for every chain."""
        if any(params[name] is not value for name, value in self._last.items()):  # moved by another kernel
            self._take(params)
        first = next(iter(params.values()))
        new = {name: law.sample(first.shape[:1]) for name, law in self.proposal.items()}
        log_pi, log_w = self._weigh(new)
        rise = log_w - self._log_w
        u = torch.rand(first.shape[0], dtype=first.dtype, device=first.device)
        accepts = u.log() < rise  # a NaN is no acceptance
        self._log_pi = torch.where(accepts, log_pi, self._log_pi)
        self._log_w = torch.where(accepts, log_w, self._log_w)
        self._last = {
            name: torch.where(accepts.reshape(-1, *[1] * (value.dim() - 1)), value, params[name])
            for name, value in new.items()
        }
        self._accept = rise.nan_to_num(nan=-torch.inf).clamp(max=0).exp()
        if self._t >= self._warmup_steps:
            self._stats["acceptance_rate"].append(self._accept)
            self._stats["lp"].append(self._log_pi)
            self._stats["diverging"].append(torch.zeros_like(accepts))
        self._t += 1
        return dict(self._last)

    def logging(self) -> dict[str, str]:
        """What the progress bar shows."""
        return {"acc. prob": f"{float(self._accept.mean()):.3f}"}

    def diagnostics(self) -> dict[str, Any]:
        """The acceptance rate over all chains."""
        return {"divergences": [], "acceptance rate": float(self.sample_stats["acceptance_rate"].mean())}

    @property
    def sample_stats(self) -> dict[str, Tensor]:
        """``acceptance_rate``, ``lp`` and ``diverging`` (never) after warm-up, each of shape (chains, draws)."""
        return {name: torch.stack(values, 1) for name, values in self._stats.items() if values}

    def _weigh(self, params: Params) -> tuple[Tensor, Tensor]:
        log_pi = -self.potential_fn(params)
        log_q = torch.stack([law.log_prob(params[name]) for name, law in self.proposal.items()]).sum(0)
        return log_pi, log_pi - log_q

    def _take(self, params: Params) -> None:
        with torch.no_grad():
            self._last = dict(params)
            self._log_pi, self._log_w = self._weigh(params)


class Cycle(MCMCKernel):
    """Kernels one after another: a transition is one of each, in order.

    :param kernels: kernels with one target, whose parameters have the chains as leading dimension.

    ``sample_stats`` are those of the first kernel, those of the i-th under names that end in ``_i``, and ``lp`` of the
    last; ``energy`` is left out, as the state has moved on from it.
    """

    model = None

    def __init__(self, kernels: Sequence[MCMCKernel]):
        self.kernels: Sequence[Any] = list(kernels)
        self.transforms: dict[str, Any] = {}

    @property
    def initial_params(self) -> Any:
        """Where the chains start."""
        return self.kernels[0].initial_params

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        for kernel in self.kernels:
            kernel.initial_params = params

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Begin a run."""
        for kernel in self.kernels:
            kernel.setup(warmup_steps, *args, **kwargs)

    def sample(self, params: Params) -> Params:
        """One transition of each kernel."""
        for kernel in self.kernels:
            params = kernel.sample(params)
        return params

    def logging(self) -> dict[str, str]:
        """What the progress bar shows: that of the first kernel."""
        return self.kernels[0].logging()

    def diagnostics(self) -> dict[str, Any]:
        """Those of the first kernel."""
        return self.kernels[0].diagnostics()

    @property
    def sample_stats(self) -> dict[str, Tensor]:
        """Statistics of all kernels, each of shape (chains, draws)."""
        first, *others = [kernel.sample_stats for kernel in self.kernels]
        stats = {name: value for name, value in first.items() if name != "energy"}
        for i, other in enumerate(others, 1):
            stats |= {f"{name}_{i}": value for name, value in other.items() if name not in ("energy", "lp")}
            stats["lp"] = other.get("lp", stats["lp"])
        return stats
