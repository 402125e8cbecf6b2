"""Latents from the volume of a metric, by Markov chains that are handed back with them.

References:
    [1] A Geometric Perspective on Variational Autoencoders (Chadebec & Allassonnière, 2022)
        https://arxiv.org/abs/2209.07370
"""

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.infer import HMC, MCMC, NUTS
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.ops.stats import split_gelman_rubin
from torch import Tensor

from ppvae.infer.batched_hmc import BatchedHMC, BatchedMCMC
from ppvae.infer.independence import Cycle, IndependenceMetropolis
from ppvae.inputs import integer
from ppvae.manifolds import PosteriorCovarianceMetric
from ppvae.predict import decode
from ppvae.random import seeded
from ppvae.samplers.chadebec2022 import PublishedHMC
from ppvae.samplers.samples import Samples
from ppvae.samplers.volume import RiemannianVolume
from ppvae.vae import VAE, check_vae_interface, device_and_dtype

__all__ = ["riemannian"]

Kernel = Callable[..., MCMCKernel]


def riemannian(
    vae: VAE,
    metric: Any,
    num_samples: int,
    *given: Any,
    kernel: str | Kernel = "batched-hmc",
    power: float = 1.0,
    base: Any = None,
    embeddings: Any = None,
    num_chains: int | None = None,
    num_draws: int | None = None,
    warmup_steps: int | None = None,
    procedure: Literal["chadebec2022", "chadebec2022-as-published"] | None = None,
    seed: int | None = None,
) -> Samples:
    r"""Draw latents z from the volume det G(z)^{power/2} base(z) of a metric, and decode them.

    ::

        metric = ppvae.riemannian_metric(vae, x_train)
        samples = ppvae.samplers.riemannian(vae, metric, 64, base=Normal(torch.zeros(16), 1.0).to_event(1))
        samples.chains  # the MCMC, for ppvae.to_inference_data

    :param vae: a VAE with one latent, a vector of R^d.
    :param metric: a metric, or a :class:`RiemannianVolume`, which brings its power and base.
    :param num_samples: number of samples. They are spread evenly over the draws of all chains.
    :param given: what the model is conditioned on, num_samples rows each.
    :param kernel: the name of a kernel, or a function that makes one, as ``NUTS`` or ``partial(HMC, num_steps=5)``; it
        is given ``potential_fn``, or where it takes one ``value_and_grad``, on ``{"z": (..., d)}``:

        - "batched-hmc": :class:`~ppvae.infer.BatchedHMC`, all chains at once, gradient in closed form;
        - "hmc", "nuts": those of Pyro, one chain after another;
        - "independence": proposals from the mixture of Gaussians near the centroids, all chains at once;
        - "mixed": a transition of the first and one of the third.
    :param power: p of the volume.
    :param base: base law of the volume.
    :param embeddings: where chains start, drawn at random: latents of shape (n, d), e.g. ``encode(vae, x)``; where None
        the centroids of the metric.
    :param num_chains: number of chains; where None 1 for kernels of Pyro, else one for each sample but at most 500.
    :param num_draws: draws of each chain after warm-up; where None as many as the samples need, but at least 100.
    :param warmup_steps: transitions before them, in which step sizes adapt; where None as many as draws.
    :param procedure: "chadebec2022" for the procedure described in [1]: a chain for each sample, from a random one of
        ``embeddings``, which must be given, 100 transitions of 10 leapfrog steps of 0.01, the last state taken, on the
        volume with power 1 and no base even where it is improper. "chadebec2022-as-published" is the same with the
        momentum and the gradient of their code, see :mod:`ppvae.samplers.chadebec2022`.
    :param seed: seed of the chains; where None the global generator is used and moved.
    :return: the decoded samples, the latents, and the ``pyro.infer.MCMC``.
    :raises ValueError: as :class:`RiemannianVolume` does, in particular where the law is improper.

    Where split R-hat of a coordinate is above 1.05 a warning says that the chains have not mixed, but for the named
    procedures, whose chains are not meant to.
    """
    check_vae_interface(vae)
    num_samples = integer("num_samples", num_samples)
    if procedure is not None:
        if kernel != "batched-hmc" or power != 1.0 or base is not None or isinstance(metric, RiemannianVolume):
            raise ValueError(f"procedure={procedure!r} has its own kernel, power and base; expected a metric alone")
        if any(number is not None for number in (num_chains, num_draws, warmup_steps)):
            raise ValueError(f"procedure={procedure!r} has its own numbers of chains, draws and warm-up steps")
        return _chadebec2022(vae, metric, num_samples, given, embeddings, procedure, seed)
    if isinstance(metric, RiemannianVolume):
        if power != 1.0 or base is not None:
            raise ValueError("expected power and base in the RiemannianVolume, not beside it")
        volume = metric
    else:
        volume = RiemannianVolume(metric, power, base)
    made = _make(kernel, volume)
    of_pyro = isinstance(made, HMC)
    chains = num_chains or (1 if of_pyro else min(num_samples, 500))
    draws = num_draws or max(math.ceil(num_samples / chains), 100)
    if chains * draws < num_samples:
        raise ValueError(
            f"expected at least {num_samples} draws of all chains for as many samples, got {chains} chains of {draws}"
        )
    with seeded(seed):
        z = _starts(vae, volume.metric, embeddings, chains)
        if of_pyro:
            mcmc = MCMC(
                made,
                draws,
                draws if warmup_steps is None else warmup_steps,
                {"z": z if chains > 1 else z[0]},
                num_chains=chains,
                disable_progbar=True,
            )
        else:
            mcmc = BatchedMCMC(made, draws, warmup_steps, {"z": z}, disable_progbar=True)
        mcmc.run()
    drawn = mcmc.get_samples(group_by_chain=True)["z"]  # (chains, draws, d)
    _say_mixing(drawn)
    flat = drawn.transpose(0, 1).flatten(0, 1)
    taken = flat[torch.linspace(0, len(flat) - 1, num_samples, dtype=torch.float64).round().long()]
    return Samples(decode(vae, taken, *given).cpu().numpy(), taken.cpu().numpy(), mcmc)


def _make(kernel: str | Kernel, volume: RiemannianVolume) -> MCMCKernel:
    def independence(potential_fn: Any) -> MCMCKernel:
        return IndependenceMetropolis(potential_fn, {"z": volume.proposal()})

    def mixed(potential_fn: Any) -> MCMCKernel:
        return Cycle([BatchedHMC(value_and_grad=volume.value_and_grad), independence(potential_fn)])

    named: dict[str, Kernel] = {
        "batched-hmc": BatchedHMC,
        "hmc": HMC,
        "nuts": NUTS,
        "independence": independence,
        "mixed": mixed,
    }
    if isinstance(kernel, str):
        if kernel not in named:
            raise ValueError(f"kernel: expected {', '.join(named)} or a function that makes a kernel, got {kernel!r}")
        kernel = named[kernel]
    if "value_and_grad" in inspect.signature(kernel).parameters:
        return kernel(value_and_grad=volume.value_and_grad)
    return kernel(potential_fn=volume.potential_fn)


def _starts(vae: VAE, metric: Any, embeddings: Any, n: int) -> Tensor:
    if embeddings is None:
        if not isinstance(metric, PosteriorCovarianceMetric):
            raise ValueError("embeddings: expected latents to start from, e.g. ppvae.encode(vae, x), got None")
        embeddings = metric.centroids
    device, dtype = device_and_dtype(vae)
    embeddings = torch.as_tensor(embeddings).to(device, dtype)
    if embeddings.dim() != 2 or not len(embeddings):
        raise ValueError(f"embeddings: expected shape (n, d), got {tuple(embeddings.shape)}")
    return embeddings[torch.randint(len(embeddings), (n,)).to(device)]


def _chadebec2022(
    vae: VAE, metric: Any, n: int, given: tuple[Any, ...], embeddings: Any, procedure: str, seed: int | None
) -> Samples:
    if embeddings is None:
        raise ValueError(
            f"procedure={procedure!r} starts at embeddings of the training data: embeddings=encode(vae, x)"
        )
    volume = RiemannianVolume(metric, procedure="chadebec2022")
    if procedure == "chadebec2022":
        kernel: MCMCKernel = BatchedHMC(
            value_and_grad=volume.value_and_grad,
            step_size=0.01,
            num_steps=10,
            jitter=0.0,
            adapt_step_size=False,
            adapt_mass_matrix=False,
        )
    elif procedure == "chadebec2022-as-published":
        if not isinstance(volume.metric, PosteriorCovarianceMetric):
            raise ValueError(f"procedure={procedure!r}: expected a PosteriorCovarianceMetric")
        kernel = PublishedHMC(volume.metric)
    else:
        raise ValueError(f'procedure: expected "chadebec2022", "chadebec2022-as-published" or None, got {procedure!r}')
    with seeded(seed):
        mcmc = BatchedMCMC(kernel, 100, 0, {"z": _starts(vae, volume.metric, embeddings, n)}, disable_progbar=True)
        mcmc.run()
    z = mcmc.get_samples(group_by_chain=True)["z"][:, -1]
    return Samples(decode(vae, z, *given).cpu().numpy(), z.cpu().numpy(), mcmc)


def _say_mixing(drawn: Tensor) -> None:
    if drawn.shape[1] < 4:
        warnings.warn("chains of fewer than 4 draws: whether they have mixed is not known", stacklevel=3)
        return
    r_hat = split_gelman_rubin(drawn, chain_dim=0, sample_dim=1)
    worst = float(r_hat.nan_to_num(nan=math.inf).max())
    if not worst <= 1.05:
        warnings.warn(
            f"the chains have not mixed: split R-hat of a coordinate of z is {worst:.2f}, where at most 1.05 is "
            "expected; the samples depend on where the chains started. ppvae.diagnostics.convergence(samples.chains) "
            "says more",
            stacklevel=3,
        )
