r"""Hamiltonian Monte Carlo with thousands of chains at once, as a kernel of Pyro's MCMC [1, 2, 3].

A chain at q with potential energy U(q) = -log p(q) draws a momentum r ~ N(0, I), follows

    dq/dt = v^(1/2) r,   dr/dt = -v^(1/2) grad U(q)          v: the diagonal inverse mass

by L leapfrog steps of size e, and moves to the end with probability min(1, exp(H - H')), H = U(q) + |r|^2 / 2. All
chains make the same number of steps, so that one transition is L evaluations of the gradient, each of them for all
chains: r is moved by half a step at the ends and by whole steps between, and the gradient at the last point is the
first of the next transition.

::

    kernel = BatchedHMC(potential_fn=lambda q: (q["z"] ** 2).sum(-1) / 2, num_steps=10)
    mcmc = BatchedMCMC(kernel, 1000, warmup_steps=500, initial_params={"z": torch.randn(200, 16)})
    mcmc.run()
    mcmc.get_samples(group_by_chain=True)["z"]  # (200, 1000, 16)

    mcmc = BatchedMCMC(BatchedHMC(model, num_chains=100), 1000)  # or of a Pyro model
    mcmc.run(data)

References:
    [1] MCMC using Hamiltonian dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
    [2] The No-U-Turn Sampler (Hoffman and Gelman, 2014), section 3.2: the step size
        https://arxiv.org/abs/1111.4246
    [3] Running Markov Chain Monte Carlo on modern hardware and software (Sountsov, Carroll and Hoffman, 2024)
        https://arxiv.org/abs/2411.04260
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC
from pyro.infer.autoguide.initialization import InitMessenger, init_to_uniform
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.ops.dual_averaging import DualAveraging
from pyro.poutine.util import site_is_subsample
from torch import Size, Tensor
from torch.distributions import biject_to

from ppvae.random import seeded

Params = Mapping[str, Tensor]


class BatchedHMC(MCMCKernel):
    r"""Hamiltonian Monte Carlo in which each parameter has the chains as its leading dimension.

    It goes into :class:`BatchedMCMC`, which keeps chains as chains, or into ``pyro.infer.MCMC`` with ``num_chains=1``,
    which takes the chains for a dimension of the parameters. One of ``model``, ``potential_fn`` and ``value_and_grad``
    says what is sampled.

    A proposal whose energy is NaN, infinite, or more than ``max_energy_error`` above that of its chain is rejected, and
    counted as a divergence.

    :param model: Pyro model. It is run for all chains under one more plate on its left, so it has to broadcast, as for
        vectorised particles. Its latents are continuous, and sampled on the unconstrained space of their support.
    :param potential_fn: from a dict of tensors (chains, \*event) to the potential energies -log p in nats, shape
        (chains,); its gradient is taken by autograd of the sum.
    :param value_and_grad: from the same dict to the energies and the dict of their gradients, for a gradient in closed
        form.
    :param step_size: of the leapfrog steps; where they are adapted the search begins there. Without warm-up nothing is
        adapted.
    :param num_steps: leapfrog steps of a transition, L.
    :param jitter: each chain and transition multiplies its step size by a draw from U(1 - jitter, 1 + jitter), without
        which a trajectory may be a period of the target and come back to where it began.
    :param adapt_step_size: whether warm-up brings the acceptance to ``target_accept_prob``, by dual averaging [2].
    :param adapt_mass_matrix: whether v becomes the variance of the draws of the second quarter of warm-up, pooled over
        the chains; the search for the step size then starts anew for the second half.
    :param target_accept_prob: acceptance that warm-up aims at.
    :param step_size_per_chain: whether each chain has a step size of its own, or all chains of a target one.
    :param num_targets: where the chains do not have one target but several, how many: the chains of one target are
        consecutive, each target has as many, and step size and mass are pooled within it.
    :param num_chains: how many chains to start where a model is given and no ``initial_params`` are.
    :param init_strategy: where a model's chains start, as in Pyro's HMC.
    :param transforms: for a ``potential_fn`` on unconstrained space, name to the transform from constrained to
        unconstrained values, as in Pyro's HMC; draws are returned constrained.
    :param max_energy_error: nats.
    :param seed: of a generator of its own, so that equal seeds give equal chains and the global generators stay as they
        were; where None the global generator is used and moved.
    :raises ValueError: for options out of range, chains that start where the energy or its gradient is not finite, and
        energies of a shape other than (chains,).

    After a run ``sample_stats`` holds ``acceptance_rate``, ``step_size``, ``energy`` (H after the transition), ``lp``
    (-U) and ``diverging`` of each chain and draw, shape (chains, draws).

    Source: Neal (2011), https://arxiv.org/abs/1206.1901
    """

    _q: Tensor  # where the chains are, (chains, D)
    _U: Tensor
    _g: Tensor

    def __init__(
        self,
        model: Callable | None = None,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        value_and_grad: Callable[[dict[str, Tensor]], tuple[Tensor, Params]] | None = None,
        *,
        step_size: float = 0.1,
        num_steps: int = 10,
        jitter: float = 0.5,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        target_accept_prob: float = 0.8,
        step_size_per_chain: bool = False,
        num_targets: int = 1,
        num_chains: int | None = None,
        init_strategy: Callable = init_to_uniform,
        transforms: Mapping[str, Any] | None = None,
        max_energy_error: float = 1000.0,
        seed: int | None = None,
    ):
        if sum(source is not None for source in (model, potential_fn, value_and_grad)) != 1:
            raise ValueError("expected one of model, potential_fn and value_and_grad")
        for name, value, fits, expected in (
            ("step_size", step_size, step_size > 0, "above 0"),
            ("num_steps", num_steps, num_steps >= 1, "of at least 1"),
            ("jitter", jitter, 0 <= jitter < 1, "of at least 0 and below 1"),
            ("target_accept_prob", target_accept_prob, 0 < target_accept_prob < 1, "between 0 and 1"),
            ("num_targets", num_targets, num_targets >= 1, "of at least 1"),
            ("max_energy_error", max_energy_error, max_energy_error > 0, "above 0"),
        ):
            if not fits:
                raise ValueError(f"{name}: expected a number {expected}, got {value}")
        self.model, self.potential_fn, self.value_and_grad = model, potential_fn, value_and_grad
        self.transforms: dict[str, Any] = dict(transforms or {})
        self.num_steps, self.jitter = num_steps, jitter
        self.adapt_step_size, self.adapt_mass_matrix = adapt_step_size, adapt_mass_matrix
        self.target_accept_prob, self.max_energy_error = target_accept_prob, max_energy_error
        self.step_size_per_chain, self.num_targets, self.num_chains = step_size_per_chain, num_targets, num_chains
        self.init_strategy, self.seed = init_strategy, seed
        self._first_step_size = step_size
        self._initial_params: dict[str, Tensor] | None = None
        self._stats: dict[str, list[Tensor]] = {}
        self._averaging = DualAveraging()

    # What pyro.infer.MCMC asks of a kernel

    @property
    def initial_params(self) -> dict[str, Tensor] | None:
        """Where the chains start: a dict of tensors (chains, \\*event), unconstrained."""
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_params = params

    @torch.no_grad()
    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Begin a run; arguments are those of the model."""
        self._warmup_steps, self._t = warmup_steps, 0
        if self.model is not None:
            self._read_model(args, kwargs)
        params = self._initial_params
        if not params:
            raise ValueError("initial_params: expected where the chains start, a dict of tensors (chains, *event)")
        first = next(iter(params.values()))
        self._generator = None if self.seed is None else torch.Generator(first.device).manual_seed(self.seed)
        sizes = {name: tuple(value.shape[:1]) for name, value in params.items()}
        if len(set(sizes.values())) > 1 or () in sizes.values():
            raise ValueError(f"initial_params: expected the chains as the leading dimension of all, got {sizes}")
        self._C = first.shape[0]
        if self._C % self.num_targets:
            raise ValueError(f"expected as many chains for each of {self.num_targets} targets, got {self._C} in all")
        self._shapes = {name: params[name].shape[1:] for name in sorted(params)}
        self._take(params)
        self._last = dict(params)
        finite = self._U.isfinite() & self._g.isfinite().all(1)
        if not finite.all():
            raise ValueError(
                "initial_params: expected a finite energy and gradient at the start, not so for "
                f"{int((~finite).sum())} of {self._C} chains, first chain {int((~finite).nonzero()[0, 0])}"
            )
        G = self._C if self.step_size_per_chain else self.num_targets
        self._step_size = self._q.new_full((G,), self._first_step_size)
        self._v = torch.ones_like(self._q[: self.num_targets])
        self._moments: list[Tensor] = []
        self._stats = {name: [] for name in ("acceptance_rate", "step_size", "energy", "lp", "diverging")}
        self._search()

    def sample(self, params: Params) -> dict[str, Tensor]:
        """One transition of every chain."""
        if any(params[name] is not value for name, value in self._last.items()):  # moved by another kernel
            with torch.no_grad():
                self._take(params)
        with torch.no_grad():
            self._transition()
            if self._t < self._warmup_steps:
                self._adapt()
        self._t += 1
        self._last = self._unpack(self._q)
        return dict(self._last)

    def cleanup(self) -> None:
        """Forget where a model's chains began: the next run finds starts of its own. What was recorded stays."""
        if self.model is not None:
            self._initial_params = None

    def logging(self) -> dict[str, str]:
        """What the progress bar shows: the median step size, and the mean acceptance of the last transition."""
        return {"step size": f"{float(self._step_size.median()):.2e}", "acc. prob": f"{float(self._accept.mean()):.3f}"}

    def diagnostics(self) -> dict[str, Any]:
        """Draws in which a chain diverged, and the acceptance rate over all chains."""
        stats = self.sample_stats
        return {
            "divergences": stats["diverging"].any(0).nonzero()[:, 0].tolist(),
            "acceptance rate": float(stats["acceptance_rate"].mean()),
        }

    # For users

    @property
    def step_size(self) -> Tensor:
        """Step sizes: one for each target, or for each chain with ``step_size_per_chain``."""
        return self._step_size

    @property
    def inverse_mass_matrix(self) -> dict[str, Tensor]:
        """v for each parameter, shape (num_targets, \\*event)."""
        return self._unpack(self._v)

    @property
    def sample_stats(self) -> dict[str, Tensor]:
        """Statistics of the draws after warm-up, each of shape (chains, draws)."""
        return {name: torch.stack(values, 1) for name, values in self._stats.items() if values}

    # The transition

    def _transition(self) -> None:
        q, U, g = self._q, self._U, self._g
        r = torch.randn(q.shape, dtype=q.dtype, device=q.device, generator=self._generator)
        u = torch.rand((2, self._C), dtype=q.dtype, device=q.device, generator=self._generator)
        # Steps of the scaled problem, in which the mass is 1.
        e = self._per_chain(self._step_size) * (1 + self.jitter * (2 * u[0] - 1))
        s = e[:, None] * self._per_chain(self._v).sqrt()
        H = U + (r * r).sum(1) / 2
        q_new, r_new, U_new, g_new = leapfrog(self._energy, q, r, g, s, self.num_steps)
        H_new = U_new + (r_new * r_new).sum(1) / 2
        rise = H_new - H
        diverging = ~(rise.isfinite() & (rise <= self.max_energy_error))
        # In logs: exp(-H) underflows. A NaN is no acceptance.
        log_accept = torch.where(diverging, -math.inf, -rise.clamp(min=0))
        accepts = (u[1].log() < log_accept) & g_new.isfinite().all(1)
        self._accept = log_accept.exp()
        self._q = torch.where(accepts[:, None], q_new, q)
        self._g = torch.where(accepts[:, None], g_new, g)
        self._U = torch.where(accepts, U_new, U)
        if self._t >= self._warmup_steps:
            energy = torch.where(accepts, H_new, H)
            for name, value in (
                ("acceptance_rate", self._accept),
                ("step_size", e),
                ("energy", energy),
                ("lp", -self._U),
                ("diverging", diverging),
            ):
                self._stats[name].append(value)

    def _energy(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient at points q of shape (chains, D)."""
        if self.value_and_grad is not None:
            U, gradients = self.value_and_grad(self._unpack(q))
            g = self._pack(gradients)
        else:
            assert self.potential_fn is not None
            with torch.enable_grad():
                q = q.detach().requires_grad_()
                U = self.potential_fn(self._unpack(q))
                (g,) = torch.autograd.grad(U.sum(), q)
        if U.shape != q.shape[:1]:
            raise ValueError(f"expected potential energies of shape {tuple(q.shape[:1])}, got {tuple(U.shape)}")
        return U.detach(), g.detach()

    def _take(self, params: Params) -> None:
        """Stand at ``params``."""
        self._q = self._pack(params).detach().clone()
        self._U, self._g = self._energy(self._q)
        self._last = self._unpack(self._q)

    def _pack(self, params: Params) -> Tensor:
        parts = [params[name].reshape(params[name].shape[0], -1) for name in self._shapes]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _unpack(self, q: Tensor) -> dict[str, Tensor]:
        if len(self._shapes) == 1:
            [(name, shape)] = self._shapes.items()
            return {name: q.view(-1, *shape)}
        parts = q.split([shape.numel() for shape in self._shapes.values()], 1)
        return {n: part.reshape(-1, *shape) for (n, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def _per_chain(self, values: Tensor) -> Tensor:
        """Values of the targets, or of the chains, for each chain."""
        return values.repeat_interleave(self._C // values.shape[0], 0)

    # Warm-up

    def _adapt(self) -> None:
        if self.adapt_step_size:
            self._averaging.step(self.target_accept_prob - self._pooled(self._accept))
            log_e, log_average = self._averaging.get_state()
            last = self._t + 1 == self._warmup_steps
            self._step_size = (log_average if last else log_e).exp()
        if not self.adapt_mass_matrix:
            return
        half = self._warmup_steps // 2
        if half // 2 <= self._t < half:
            by_target = self._q.reshape(self.num_targets, -1, self._q.shape[1])
            if not self._moments:
                self._centre = by_target.mean(1)  # of the first draws: sums of squares about it do not cancel
            d = by_target - self._centre[:, None]
            self._moments.append(torch.stack([d.sum(1), (d * d).sum(1)]))
        if self._t + 1 == half and self._moments:
            n = len(self._moments) * self._C // self.num_targets
            total, squares = torch.stack(self._moments).sum(0)
            variance = (squares - total**2 / n) / max(n - 1, 1)
            # Shrunk as in Stan, so that few draws, or a chain that has not moved, leave no mass infinite.
            self._v = (n * variance + 5e-3) / (n + 5)
            self._search()

    def _search(self) -> None:
        """Double or halve each step size until the acceptance of one step crosses 0.8 [2], and average from there."""
        if not (self.adapt_step_size and self._warmup_steps):
            return
        q = self._q
        up = None
        searching = torch.ones_like(self._step_size, dtype=torch.bool)
        for _ in range(60):  # 2^60: beyond it, the energy is flat or nowhere finite, which warm-up will show
            r = torch.randn(q.shape, dtype=q.dtype, device=q.device, generator=self._generator)
            s = self._per_chain(self._step_size)[:, None] * self._per_chain(self._v).sqrt()
            _, r_new, U_new, _ = leapfrog(self._energy, q, r, self._g, s, 1)
            rise = U_new - self._U + ((r_new * r_new).sum(1) - (r * r).sum(1)) / 2
            accept = torch.where(rise.isfinite(), -rise.clamp(min=0), -math.inf).exp()
            now = self._pooled(accept) > 0.8
            up = now if up is None else up
            searching &= now == up
            if not searching.any():
                break
            self._step_size = torch.where(searching, self._step_size * torch.where(up, 2.0, 0.5), self._step_size)
        self._averaging = DualAveraging(prox_center=(10 * self._step_size).log())

    def _pooled(self, accept: Tensor) -> Tensor:
        return accept.reshape(self._step_size.shape[0], -1).mean(1)

    # A Pyro model as potential

    def _read_model(self, args: tuple, kwargs: dict) -> None:
        given = self._initial_params
        C = next(iter(given.values())).shape[0] if given else self.num_chains
        if C is None:
            raise ValueError("num_chains: expected how many chains to start, or initial_params")
        target = _ModelPotential(self.model, args, kwargs, C, self.init_strategy, self.seed)
        self.potential_fn, self.transforms = target, target.transforms
        if given is None:
            self._initial_params = target.initial_params()


def leapfrog(
    energy: Callable[[Tensor], tuple[Tensor, Tensor]], q: Tensor, r: Tensor, g: Tensor, s: Tensor, num_steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""L leapfrog steps of dq/dt = r, dr/dt = -grad U, from (q, r); time-reversible, and of Jacobian 1.

    :param energy: from q to U of shape (chains,) and its gradient of shape (chains, D).
    :param g: the gradient at q.
    :param s: step sizes, broadcast against q of shape (chains, D).
    :return: q, r, U(q) and the gradient at the end.
    """
    r = torch.addcmul(r, s, g, value=-0.5)
    for step in range(1, num_steps + 1):
        q = torch.addcmul(q, s, r)
        U, g = energy(q)
        r = torch.addcmul(r, s, g, value=-1.0 if step < num_steps else -0.5)
    return q, r, U, g


class _ModelPotential:
    """-log p of a Pyro model on unconstrained space, for all chains in one run under a plate on the left."""

    def __init__(self, model: Any, args: tuple, kwargs: dict, C: int, init_strategy: Any, seed: int | None):
        self.model, self.args, self.kwargs, self.C, self.seed = model, args, kwargs, C, seed
        self.init_strategy = init_strategy
        with seeded(seed), torch.no_grad(), poutine.block(), InitMessenger(init_strategy):
            trace = poutine.trace(model).get_trace(*args, **kwargs)
        dims = [f.dim for site in trace.nodes.values() for f in site.get("cond_indep_stack", ()) if f.vectorized]
        self.nesting = -min(dims, default=0)
        self.transforms, self.batch_shapes, self.event_dims = {}, {}, {}
        for name, site in trace.iter_stochastic_nodes():
            law: Any = site["fn"]
            if site_is_subsample(site):
                if law.subsample_size is not None and law.subsample_size < law.size:
                    raise ValueError(f"plate {name!r}: expected all data, as a subsample changes the target")
                continue
            if law.support.is_discrete:
                raise ValueError(f"site {name!r}: expected a continuous latent, got {type(law).__name__}")
            try:
                self.transforms[name] = biject_to(law.support).inv
            except NotImplementedError:
                raise ValueError(
                    f"site {name!r}: no map from R^d to {law.support} is registered with torch's biject_to; latents on "
                    "spheres are sampled by ppvae.posterior"
                ) from None
            self.batch_shapes[name], self.event_dims[name] = law.batch_shape, len(law.event_shape)

    def initial_params(self) -> dict[str, Tensor]:
        """Starts that :class:`InitMessenger` chooses, each chain until its energy and gradient are finite."""
        found: dict[str, Tensor] = {}
        missing = torch.ones(self.C, dtype=torch.bool)
        for attempt in range(100):
            seed = None if self.seed is None else self.seed + attempt
            with seeded(seed), torch.no_grad(), poutine.block():
                with InitMessenger(self.init_strategy), self._plate():
                    trace = poutine.trace(self.model).get_trace(*self.args, **self.kwargs)
            params = {}
            for name, transform in self.transforms.items():
                value = trace.nodes[name]["value"]
                event = value.shape[value.dim() - self.event_dims[name] :]
                value = value.reshape(self.C, *self.batch_shapes[name], *event)
                params[name] = transform(value).detach().requires_grad_()
            with torch.enable_grad():
                U = self(params)
                gradients = torch.autograd.grad(U.sum(), list(params.values()))
            fine = U.isfinite() & torch.stack([g.isfinite().reshape(self.C, -1).all(1) for g in gradients]).all(0)
            missing = missing.to(fine.device)
            for name, value in params.items():
                take = (missing & fine).reshape(-1, *[1] * (value.dim() - 1))
                found[name] = torch.where(take, value.detach(), found.get(name, value.detach()))
            missing &= ~fine
            if not missing.any():
                return found
        raise ValueError(f"model: found no start with a finite energy for {int(missing.sum())} of {self.C} chains")

    def __call__(self, params: Params) -> Tensor:
        values, log_jacobian = {}, torch.zeros(())
        for name, transform in self.transforms.items():
            value = transform.inv(params[name])
            jacobian = transform.log_abs_det_jacobian(value, params[name])
            log_jacobian = log_jacobian + jacobian.reshape(self.C, -1).sum(1)
            shape, event = self.batch_shapes[name], value.shape[value.dim() - self.event_dims[name] :]
            values[name] = value.reshape(self.C, *[1] * (self.nesting - len(shape)), *shape, *event)
        with poutine.block(), self._plate():
            trace = poutine.trace(poutine.condition(self.model, values)).get_trace(*self.args, **self.kwargs)
        trace.compute_log_prob()
        log_p = torch.zeros(())
        for site in trace.nodes.values():
            if site["type"] == "sample" and not site_is_subsample(site):
                full = site["log_prob"].expand(torch.broadcast_shapes(site["log_prob"].shape, self._chains()))
                log_p = log_p + full.reshape(self.C, -1).sum(1)
        return log_jacobian - log_p

    def _plate(self) -> Any:
        return pyro.plate("_chains", self.C, dim=-1 - self.nesting)

    def _chains(self) -> Size:
        return Size([self.C, *[1] * self.nesting])


class BatchedMCMC(MCMC):
    """``pyro.infer.MCMC`` for :class:`BatchedHMC`: what it returns has the chains as chains.

    ``get_samples(group_by_chain=True)``, ``diagnostics()`` and ``summary()`` are those of Pyro, and read (chains,
    draws, \\*event).

    :param kernel: a kernel whose parameters have the chains as leading dimension.
    :param num_samples: draws of each chain.
    :param warmup_steps: transitions before them; as many as draws where None, as in Pyro.
    :param initial_params: where the chains start, a dict of tensors (chains, \\*event), unconstrained.
    :param options: those of ``pyro.infer.MCMC`` beside ``num_chains``.
    """

    _samples: Any
    _diagnostics: Any

    def __init__(
        self,
        kernel: MCMCKernel,
        num_samples: int,
        warmup_steps: int | None = None,
        initial_params: dict[str, Tensor] | None = None,
        **options: Any,
    ):
        if "num_chains" in options:
            raise ValueError("num_chains: expected none, as the chains are the leading dimension of initial_params")
        super().__init__(kernel, num_samples, warmup_steps, initial_params, num_chains=1, **options)

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Run all chains; arguments are those of the model."""
        self.num_chains = 1  # of Pyro's loop, a second time too
        self._diagnostics = [None]
        super().run(*args, **kwargs)
        self._samples = {name: value[0].transpose(0, 1) for name, value in self._samples.items()}
        self.num_chains = next(iter(self._samples.values())).shape[0]
        stats = getattr(self.kernel, "sample_stats", {})
        if stats:
            self._diagnostics = [
                {"divergences": diverging.nonzero()[:, 0].tolist(), "acceptance rate": float(rate)}
                for diverging, rate in zip(stats["diverging"], stats["acceptance_rate"].mean(1), strict=True)
            ]
        else:
            self._diagnostics = self._diagnostics * self.num_chains
