"""Checks that a model/guide pair keeps the contract that training, prediction and metrics build on."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import Tensor

from ppvae.infer import ELBO, IWAE_ELBO, CenterMessenger, EnumeratedELBO, TensorELBO
from ppvae.infer.sites import is_deterministic, latents
from ppvae.inputs import check_support, to_tensors
from ppvae.isolation import isolated_param_store
from ppvae.predict import encode, generate, log_likelihood, reconstruct
from ppvae.random import seeded
from ppvae.train import fit
from ppvae.vae import evaluating


def check_vae(
    make: Callable[[], Any],
    data: Any,
    *,
    given: tuple[Any, ...] = (),
    objective: Callable[[int], TensorELBO] = ELBO,
    seed: int = 0,
) -> dict[str, str]:
    """Check a VAE class of one's own; each check is one of the rules that the rest of the library relies on.

    ::

        check_vae(lambda: MyVAE(shape=(1, 8, 8)), x)

    :param make: builds a new instance.
    :param data: at least 8 data of shape (n, *shape) in the support of the likelihood.
    :param given: what model and guide are conditioned on, n rows each.
    :param objective: makes the objective of a number of particles: ``EnumeratedELBO`` for a latent that is enumerated,
        ``lambda K: InfoVAE_ELBO(alpha=1, num_particles=K)`` for a deterministic encoder.
    :param seed: seed of all draws.
    :return: the checks made, by name, with what each found.
    :raises AssertionError: if a rule is broken; the message names the rule, what was expected and what came.
    """
    with seeded(seed):
        vae = make()
        batch = to_tensors(vae, (data, *given))
        if batch[0].shape[0] < 8:
            raise ValueError(f"data: expected at least 8 data, got {batch[0].shape[0]}")
        check_support(vae, batch)
        return {
            "sites": _sites(vae, batch, objective),
            "batch sizes": _batch_sizes(vae, batch, objective),
            "left dimensions": _left_dimensions(vae, batch, objective),
            "gradients": _gradients(vae, batch, objective),
            "objectives": _objectives(vae, batch, objective),
            "plain SVI": _svi(make, batch, objective),
            "parameter store": _store(vae, batch, objective),
            "copies": _copies(vae, batch),
            "predictive": _predictive(vae, batch),
            "fit": _fit(make, batch, objective),
        }


def _traces(vae: Any, batch: tuple[Tensor, ...], objective: TensorELBO) -> Any:
    """With latents that an objective enumerates drawn."""
    drawing = ELBO(objective.num_particles) if isinstance(objective, EnumeratedELBO) else objective
    with isolated_param_store(), pyro.validation_enabled(True), torch.no_grad():
        return drawing.traces(vae.model, vae.guide, *batch)


def _sites(vae: Any, batch: tuple[Tensor, ...], objective: Callable[[int], TensorELBO]) -> str:
    model_trace, guide_trace = _traces(vae, batch, objective(1))
    n, x = batch[0].shape[0], model_trace.nodes.get("x")
    assert x is not None and x["type"] == "sample" and x["is_observed"], (
        "sites: expected the data observed at a sample site named 'x' (pyro.sample('x', law, obs=x))"
    )
    for trace in (model_trace, guide_trace):
        plate = trace.nodes.get("data")
        assert plate is not None, (
            "sites: expected pyro.plate('data', x.shape[0]) in model and guide, found no plate of this name"
        )
        frames = [f for s in latents(trace) for f in s["cond_indep_stack"] if f.name == "data"]
        assert all(f.dim == -1 and f.size == n for f in frames), (
            f"sites: expected the plate 'data' at dim -1 with size x.shape[0] = {n}, got "
            f"{[(f.dim, f.size) for f in frames]}"
        )
    event = tuple(x["fn"].event_shape)
    assert event == tuple(vae.shape), (
        f"sites: expected the law of x to have event shape {tuple(vae.shape)}, got {event}"
    )
    own, theirs = {s["name"] for s in latents(model_trace)}, {s["name"] for s in latents(guide_trace)}
    assert own <= theirs, (
        f"sites: expected the guide to sample every latent of the model, it misses {sorted(own - theirs)}"
    )
    return f"latents {sorted(own)}, observed x of shape {event}"


def _batch_sizes(vae: Any, batch: tuple[Tensor, ...], objective: Callable[[int], TensorELBO]) -> str:
    sizes = objective(1).min_batch, 3, batch[0].shape[0]
    for n in sizes:
        part = tuple(t[:n] for t in batch)
        with torch.no_grad():
            loss = _loss(vae, part, objective(1))
        assert torch.isfinite(loss), f"batch sizes: expected a finite loss for a batch of {n}, got {loss.item()}"
    return f"{sizes[0]}, 3 and all"


def _loss(vae: Any, batch: tuple[Tensor, ...], objective: TensorELBO) -> Tensor:
    with isolated_param_store():
        return objective.differentiable_loss(vae.model, vae.guide, *batch)


def _left_dimensions(vae: Any, batch: tuple[Tensor, ...], objective: Callable[[int], TensorELBO]) -> str:
    """Five particles at once must give, for each, the densities of a run by itself."""
    with evaluating(vae), isolated_param_store(), torch.no_grad():
        model_trace, guide_trace = _traces(vae, batch, objective(5))
        x = model_trace.nodes["x"]
        together = x["fn"].log_prob(x["value"])
        assert together.shape == (5, batch[0].shape[0]), (
            f"left dimensions: expected log p(x|z) of shape (5, {batch[0].shape[0]}) for 5 particles, "
            f"got {tuple(together.shape)}; wrap networks in ppvae.nn.Batched"
        )
        for k in range(5):
            values = {s["name"]: s["value"][k] for s in latents(guide_trace)}
            alone: Any = poutine.trace(poutine.condition(vae.model, values)).get_trace(*batch).nodes["x"]
            worst = (alone["fn"].log_prob(alone["value"]) - together[k]).abs().max().item()
            scale = together[k].abs().max().item() + 1
            assert worst <= 1e-4 * scale, (
                f"left dimensions: particle {k} has another log p(x|z) within 5 particles than alone (by "
                f"{worst:.2g} nats); "
                "a network mixes left dimensions: wrap it in ppvae.nn.Batched"
            )
    return "5 particles, each as if alone"


def _gradients(vae: Any, batch: tuple[Tensor, ...], objective: Callable[[int], TensorELBO]) -> str:
    vae.zero_grad(set_to_none=True)
    _loss(vae, batch, objective(4)).backward()
    parameters = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    without = [name for name, p in parameters.items() if p.grad is None]
    assert not without, f"gradients: expected one for every parameter, none reached {without}"
    bad = [name for name, p in parameters.items() if not torch.isfinite(p.grad).all()]
    assert not bad, f"gradients: expected finite ones, NaN or infinite in {bad}"
    vae.zero_grad(set_to_none=True)
    return f"finite in all {len(parameters)} parameters"


def _objectives(vae: Any, batch: tuple[Tensor, ...], make: Callable[[int], TensorELBO]) -> str:
    objectives = [make(1), make(3)]
    if make is ELBO:
        objectives.append(IWAE_ELBO(3))
    for objective in objectives:
        found = {}
        for entry in ("loss", "differentiable_loss", "loss_and_grads"):
            with evaluating(vae), isolated_param_store(), seeded(1):
                found[entry] = getattr(objective, entry)(vae.model, vae.guide, *batch).detach().item()
        vae.zero_grad(set_to_none=True)
        low, high = min(found.values()), max(found.values())
        assert high - low <= 1e-5 * max(1.0, abs(high)), (
            f"objectives: expected the same number from every entry point of {type(objective).__name__}, got {found}"
        )
    names = ", ".join(f"{type(objective).__name__}({objective.num_particles})" for objective in objectives)
    return f"{names}: three entry points agree"


def _deterministic(vae: Any, batch: tuple[Tensor, ...]) -> bool:
    """Whether the guide has no density, as a deterministic encoder: importance weights are not defined then."""
    with isolated_param_store():
        laws = [site["fn"] for site in latents(poutine.trace(vae.guide).get_trace(*batch))]
    return any(is_deterministic(law) for law in laws)


def _svi(make: Callable[[], Any], batch: tuple[Tensor, ...], objective: Callable[[int], TensorELBO]) -> str:
    """Two instances, trained one after the other by plain SVI: each must move all its own parameters."""
    loss = Trace_ELBO() if objective is ELBO else objective(1)
    with pyro.get_param_store().scope():
        for which in ("first", "second"):
            vae = make()
            before = {name: p.detach().clone() for name, p in vae.named_parameters() if p.requires_grad}
            svi = SVI(vae.model, vae.guide, pyro.optim.PyroOptim(torch.optim.Adam, {"lr": 1e-2}), loss)
            for _ in range(3):
                svi.step(*batch)
            still = [name for name, p in vae.named_parameters() if name in before and torch.equal(p, before[name])]
            assert not still, (
                f"plain SVI: expected the {which} instance to learn, its parameters {still} did not move; call "
                "ppvae.nn.register(self) "
                "first in model and in guide"
            )
    return "two instances learn"


def _store(vae: Any, batch: tuple[Tensor, ...], objective: Callable[[int], TensorELBO]) -> str:
    before = set(pyro.get_param_store().keys())
    x, given = batch[0][:8], tuple(t[:8] for t in batch[1:])
    _loss(vae, (x, *given), objective(1))
    encode(vae, x, *given)
    generate(vae, 2, *(t[:2] for t in given))
    reconstruct(vae, x, *given)
    if not _deterministic(vae, batch):
        log_likelihood(vae, x, *given, num_samples=2)
    fit(vae, (x, *given), objective=objective(1), epochs=1, progress=False)
    added = set(pyro.get_param_store().keys()) - before
    assert not added, f"parameter store: expected it unchanged by fit and predictions, found {sorted(added)[:3]} in it"
    return "unchanged by fit and predictions"


def _copies(vae: Any, batch: tuple[Tensor, ...]) -> str:
    with evaluating(vae), isolated_param_store():
        one = _centers(vae, batch)
        for how, other in (("deepcopy", copy.deepcopy(vae)), ("pickle", pickle.loads(pickle.dumps(vae)))):
            two = _centers(other, batch)
            assert all(torch.equal(one[name], two[name]) for name in one), (
                f"copies: a {how} encodes otherwise than the original"
            )
    return "deepcopy and pickle encode alike"


def _centers(vae: Any, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    with torch.no_grad(), CenterMessenger():
        return {s["name"]: s["value"] for s in latents(poutine.trace(vae.guide).get_trace(*batch))}


def _predictive(vae: Any, batch: tuple[Tensor, ...]) -> str:
    with evaluating(vae), isolated_param_store(), torch.no_grad():
        draws = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=2, parallel=True)(*batch)
    shape = tuple(draws["x"].shape)
    expected = (2, *batch[0].shape)
    assert shape == expected, f"predictive: expected x of shape {expected} from Pyro's Predictive, got {shape}"
    return f"x of shape {shape}"


def _fit(make: Callable[[], Any], batch: tuple[Tensor, ...], objective: Callable[[int], TensorELBO]) -> str:
    settings: dict[str, Any] = {"epochs": 30, "batch_size": batch[0].shape[0], "lr": 1e-2, "seed": 0}
    losses = fit(make(), batch, objective=objective(1), progress=False, **settings).history["loss"]
    assert min(losses[-5:]) < losses[0], (
        f"fit: expected the loss to fall in 30 epochs, it went from {losses[0]:.3f} to {losses[-1]:.3f}"
    )
    return f"loss {losses[0]:.2f} -> {losses[-1]:.2f} nats in 30 epochs"
