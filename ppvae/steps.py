r"""One step of training: run as it is, compiled for a CPU, or captured in a CUDA graph.

A step takes a batch, differentiates the loss of the objective, clips the gradients and moves the parameters. What a
step costs beyond its arithmetic is Python: the traces of model and guide, their laws, the optimizer. Two ways leave
most of it out.

**inductor**, on a CPU: terms and gradients are traced once, without data (:func:`trace`), and the trace is compiled.
Random numbers are drawn by the operators that eager steps call, in their order, so that a seed gives the same draws.

**graph**, on CUDA: the whole step, from the rows of the batch to the sums for the history, is captured once and
launched again as one. What changes between steps lies in tensors on the device: rows, KL weight, learning rate, random
state. Nothing is read back but every :data:`CHECK` steps, to see that all losses were finite.

Both keep what Python does in the traced step: a network that counts its calls, or branches on anything but shapes, is
not for them, nor is a number of Python that changes, such as the ``beta`` of an objective that a callback sets. A value
read back (``.item()``, ``if x > 0``) cannot be traced, and the step then stays as it is. So does that of a batch of
another size, such as the last one of an epoch.
"""

import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, Protocol

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.optim import SGD, Optimizer
from tqdm import tqdm

from ppvae.infer import TensorELBO
from ppvae.vae import VAE

Transform = Callable[[Tensor], Tensor]
Mode = Literal["graph", "inductor", False]

#: Steps that earn the time of one compilation back: it takes about 15 s, and saves 0.8 ms of Python in a step of any
#: size. Both scale with the speed of the machine.
BREAK_EVEN = 20_000
#: Steps after which the device is asked whether all losses were finite, or fewer of batches that take this many bytes.
CHECK, HELD = 100, 2**28
#: Steps before a capture, in which libraries choose their kernels and the optimizer makes its state.
WARM_UP = 3


class Source(Protocol):
    """Where batches come from: what is iterated over are keys, small where the data lie on the device."""

    transform: Transform | None

    def take(self, *key: Tensor) -> tuple[Tensor, ...]:
        """The batch of a key, before the transform."""


class NotFiniteError(Exception):
    """A loss that is NaN or infinite, at a step of the epoch counted from 1."""

    def __init__(self, step: int, batch: tuple[Tensor, ...]):
        super().__init__(step)
        self.step, self.batch = step, batch


def transformed(transform: Transform | None, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The batch as model and guide get it."""
    return batch if transform is None else (transform(batch[0]), *batch[1:])


class Sums:
    """Sums of the terms over an epoch, kept on the device until they are read."""

    def __init__(self) -> None:
        self.total: dict[str, Any] = {}
        self.n = 0

    def add(self, terms: Mapping[str, Tensor | float]) -> None:
        """Add the terms of one batch; the number of its data is added to ``n`` by the caller."""
        for name, value in terms.items():
            if isinstance(value, float):
                self.total[name] = self.total.get(name, 0.0) + value
            elif name in self.total:
                self.total[name].add_(value.detach())
            else:
                self.total[name] = value.detach().clone()

    def clear(self) -> None:
        """Start anew, in the same tensors."""
        self.total = {n: v.zero_() if isinstance(v, Tensor) else 0.0 for n, v in self.total.items()}
        self.n = 0

    def mean(self) -> dict[str, float]:
        """Means in nats per datum, with ``elbo`` = reconstruction - kl where the objective tells them."""
        mean = {name: float(value) / self.n for name, value in self.total.items()}
        elbo = {"elbo": mean["reconstruction"] - mean["kl"]} if {"reconstruction", "kl"} <= mean.keys() else {}
        return {"loss": mean.pop("loss"), **elbo, **mean}


class Gradients:
    """The terms of the objective for a batch; the gradients of its loss per datum are put into the parameters."""

    def __init__(self, vae: VAE, objective: TensorELBO, parameters: list[nn.Parameter], transform: Transform | None):
        self.vae, self.objective, self.parameters, self.transform = vae, objective, parameters, transform
        self.checked = False

    def terms(self, *batch: Tensor) -> dict[str, Tensor]:
        """The terms for a batch before the transform."""
        return self.objective.all_terms(self.vae.model, self.vae.guide, *transformed(self.transform, batch))

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        # Pyro's own checks cost as much as its traces: they are made in the first step only.
        with nullcontext() if self.checked else pyro.validation_enabled(True):
            terms = self.terms(*batch)
        self.checked = True
        for parameter in self.parameters:
            parameter.grad = None
        (terms["loss"] / batch[0].shape[0]).backward()
        return terms


class Step:
    """One step of training, and what is known of those since ``clear``.

    :param gradients: terms and gradients for a batch.
    :param source: where the batch of a key is taken.
    :param optimizer: moves the parameters.
    :param clip_norm: greatest norm of all gradients together.
    """

    def __init__(
        self,
        gradients: Callable[..., dict[str, Tensor]],
        source: Source,
        optimizer: Optimizer,
        clip_norm: float | None = None,
    ):
        self.gradients, self.source, self.optimizer, self.clip_norm = gradients, source, optimizer, clip_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.sums, self.steps = Sums(), 0

    def __call__(self, *key: Tensor) -> None:
        """Train on the batch of a key.

        :raises NotFiniteError: if the loss is not finite; on a CPU the parameters are then those before the step.
        """
        self.steps += 1
        batch = self.source.take(*key)
        # On a CPU reading costs less than an operator.
        terms = {name: value.item() for name, value in self.gradients(*batch).items()}
        if not math.isfinite(terms["loss"]):
            raise NotFiniteError(self.steps, transformed(self.source.transform, batch))
        self._move()
        self.sums.add(terms)
        self.sums.n += batch[0].shape[0]

    def _move(self) -> None:
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()

    def mean(self) -> dict[str, float]:
        """Means of the terms over the steps since ``clear``."""
        return self.sums.mean()

    def clear(self) -> None:
        """Start the sums and the count of steps anew."""
        self.sums.clear()
        self.steps = 0


class DeviceStep(Step):
    """A step that does not wait for the device: the first loss that is not finite is kept there, and told later.

    Every :data:`CHECK` steps it is asked for, and until then the keys of the batches are kept. From the bad step on a
    fused optimizer leaves the parameters where they are, as it does for a gradient scaler.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        device = self.parameters[0].device
        #: 1 until a loss is not finite, then 0; the number of steps before that
        number = {"dtype": torch.float32, "device": device}  # which fused kernels read
        self.finite, self.good = torch.ones((), **number), torch.zeros((), **number)
        self.not_finite = torch.zeros((), **number)
        self.keys: list[tuple[Tensor, ...]] = []
        self.held = 0  # bytes of the keys
        if all(group.get("fused") for group in self.optimizer.param_groups):
            self.optimizer.found_inf = self.not_finite  # type: ignore[attr-defined]

    def launch(self, *key: Tensor) -> None:
        """All that the device does in a step."""
        terms = self.gradients(*self.source.take(*key))
        self.finite.mul_(torch.isfinite(terms["loss"].detach()))
        self.good.add_(self.finite)
        self.not_finite.copy_(1 - self.finite)
        self._move()
        self.sums.add(terms)

    def __call__(self, *key: Tensor) -> None:
        self.launch(*key)
        self.count(*key)

    def count(self, *key: Tensor) -> None:
        """What Python does in a step."""
        self.steps += 1
        self.sums.n += key[0].shape[0]
        self.keys.append(key)
        self.held += sum(t.nbytes for t in key)
        if len(self.keys) == CHECK or self.held > HELD:
            self.check()

    def check(self) -> None:
        """Ask the device whether all losses were finite.

        :raises NotFiniteError: if one was not.
        """
        if not self.finite.item():
            step = int(self.good.item()) + 1
            batch = self.source.take(*self.keys[step - 1 - self.steps + len(self.keys)])
            raise NotFiniteError(step, transformed(self.source.transform, batch))
        self.keys.clear()
        self.held = 0

    def mean(self) -> dict[str, float]:
        self.check()
        return super().mean()

    def clear(self) -> None:
        super().clear()
        self.keys.clear()
        self.held = 0
        self.good.zero_()


class Graph:
    """A :class:`DeviceStep`, captured once it is warm and then launched as one."""

    def __init__(
        self,
        step: DeviceStep,
        gradients: Gradients,
        say: Callable[[str], None],
        record: Callable[..., Callable] | None = None,
    ):
        self.step, self.gradients, self.say = step, gradients, say
        self.record = record or partial(record_graph, device=step.parameters[0].device)
        self.fixed: list[Any] = []  # what the optimizer had for numbers of Python when it was captured
        self.key: tuple[Tensor, ...] = ()
        self.replay: Callable[[], Any] | None = None
        self.warm, self.refused = 0, False

    def __call__(self, *key: Tensor) -> None:
        if not self.key:  # the size of the first batch is that of most
            self.key = tuple(t.clone() for t in key)
        if self.refused or [t.shape for t in key] != [t.shape for t in self.key]:
            return self.step(*key)
        if self.warm < WARM_UP:
            self.warm += 1
            return self.step(*key)
        if self.replay is None:
            self._capture()
            return self(*key)
        for static, tensor in zip(self.key, key, strict=True):
            static.copy_(tensor)
        self.replay()
        self.step.count(*key)

    def _capture(self) -> None:
        start = time.perf_counter()
        try:
            trace(self.gradients, self.step.source.take(*self.key))  # names what cannot be captured, unharmed
            self.fixed = self._numbers()
            self.replay = self.record(lambda: self.step.launch(*self.key))
            self.say(f"the training step was captured in a CUDA graph in {time.perf_counter() - start:.1f} s")
        except Exception as error:
            self.refused = True
            self.say(f"{explain(error)}; training goes on without a CUDA graph")

    def _numbers(self) -> list[Any]:
        groups = self.step.optimizer.param_groups
        return [{name: v for name, v in group.items() if name not in ("params", "lr")} for group in groups]

    def mean(self) -> dict[str, float]:
        """Means of the terms over the steps since ``clear``."""
        return self.step.mean()

    def clear(self) -> None:
        """Start the sums and the count of steps anew."""
        self.step.clear()
        if self.replay is not None and not self.refused and self._numbers() != self.fixed:
            self.refused = True
            self.say("the schedule changes more than the learning rate; training goes on without a CUDA graph")


def record_graph(launch: Callable[[], None], device: torch.device) -> Callable[[], Any]:
    """Capture what a function launches on a device, without doing it there; the result does it, whenever it is called.

    What Python does in the function is done, once.
    """
    before, cause = torch.cuda.current_stream(device), None
    # The stream that torch keeps for captures is of the device that was the current one at its first.
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    try:
        # Other threads go on making memory for batches.
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                launch()
            except Exception as error:
                cause = error
                raise
    except Exception as error:
        torch.cuda.set_stream(before)  # which torch leaves undone where it cannot end the capture
        raise cause or error from None
    return graph.replay


class Inductor:
    """:class:`Gradients`, compiled for the size of the first batch."""

    def __init__(self, eager: Gradients, say: Callable[[str], None]):
        self.eager, self.say = eager, say
        self.shapes: list[torch.Size] = []
        self.compiled: Callable[..., dict[str, Tensor]] | None = None
        self.refused = False

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        shapes = [t.shape for t in batch]
        first, self.shapes = not self.shapes, self.shapes or shapes
        if first or self.refused or shapes != self.shapes:
            return self.eager(*batch)
        if self.compiled is not None:
            return self.compiled(*batch)
        start = time.perf_counter()
        try:
            compiled = compile_graph(self.eager, batch)
            terms = compiled(*batch)
            self.compiled = compiled
            self.say(f"the training step was compiled in {time.perf_counter() - start:.1f} s")
            return terms
        except Exception as error:
            self.refused = True
            self.say(f"{explain(error)}; training goes on without compilation")
            return self.eager(*batch)


def compile_graph(eager: Gradients, batch: tuple[Tensor, ...]) -> Callable[..., dict[str, Tensor]]:
    """A function with the values and effects of :class:`Gradients` on batches of the shapes of this one."""
    import torch._inductor

    batch = tuple(t.contiguous() for t in batch)
    graph, tensors, names = trace(eager, batch)
    with torch.no_grad():
        # Inductor's own random numbers would be others than those of an eager step. The graph goes to it directly:
        # torch.compile would look at every call for changes of what is fixed here.
        function = torch._inductor.compile(
            graph, [*tensors, eager.objective.kl_weight, *batch], options={"fallback_random": True}
        )

    apart: list[bool] = []  # whether a gradient has the layout of its parameter, and memory of its own

    def compiled(*batch: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            values = function(*tensors, eager.objective.kl_weight, *(t.contiguous() for t in batch))
        gradients = values[len(names) :]
        if not apart:
            places = [None if g is None else g.data_ptr() for g in gradients]
            strides = zip(gradients, eager.parameters, strict=True)
            apart.extend(
                g is None or (g.stride() == p.stride() and places.count(place) == 1)
                for (g, p), place in zip(strides, places, strict=True)
            )
        for parameter, gradient, as_it_is in zip(eager.parameters, gradients, apart, strict=True):
            # An optimizer walks through the memory of both as one, and clipping changes each gradient in place.
            parameter.grad = gradient if as_it_is else torch.empty_like(parameter).copy_(gradient)
        return dict(zip(names, values, strict=False))

    return compiled


class _Loss(nn.Module):
    """The terms as a module, in which torch.func.functional_call can replace the tensors of the VAE."""

    def __init__(self, gradients: Gradients):
        super().__init__()
        self.vae, self.gradients = gradients.vae, gradients

    def forward(self, kl_weight: Tensor, *batch: Tensor) -> dict[str, Tensor]:
        objective = self.gradients.objective
        held = objective.kl_weight
        objective.kl_weight = kl_weight
        try:
            return self.gradients.terms(*batch)
        finally:
            objective.kl_weight = held


def trace(gradients: Gradients, batch: tuple[Tensor, ...]) -> tuple[GraphModule, list[Tensor], list[str]]:
    """Terms and gradients as one graph of operators, without running them: generators and buffers stay as they are.

    :return: the graph, a function of the tensors of the VAE, the KL weight and a batch, that returns the terms and the
        gradients; these tensors; and the names of the terms.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to import

    hooked = [p for p in gradients.parameters if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)]
    if hooked:
        raise ValueError(f"a parameter of shape {tuple(hooked[0].shape)} has a hook on its gradient")
    loss = _Loss(gradients)
    tensors = {**dict(loss.named_parameters()), **dict(loss.named_buffers())}
    place = {id(tensor): name for name, tensor in tensors.items()}
    trained = [place[id(p)] for p in gradients.parameters]
    names: list[str] = []

    def function(*inputs: Tensor) -> tuple[Tensor | None, ...]:
        state = dict(zip(tensors, inputs, strict=False))
        state |= {name: state[name].detach().requires_grad_() for name in trained}
        terms = functional_call(loss, state, inputs[len(tensors) :])
        gradient = torch.autograd.grad(
            terms["loss"] / batch[0].shape[0], [state[name] for name in trained], allow_unused=True
        )
        names[:] = terms
        return (*(value.detach() for value in terms.values()), *gradient)

    inputs = [*tensors.values(), gradients.objective.kl_weight, *batch]
    with pyro.validation_enabled(False):
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    return graph, list(tensors.values()), names


class _Call(nn.Module):
    """A function of batches that uses a VAE, as a module in which functional_call can replace the VAE's tensors."""

    def __init__(self, vae: VAE, function: Callable[..., Tensor]):
        super().__init__()
        self.vae, self.function = vae, function

    def forward(self, *batch: Tensor) -> Tensor:
        return self.function(*batch)


def trace_function(
    vae: VAE, function: Callable[..., Tensor], batch: tuple[Tensor, ...]
) -> tuple[GraphModule, list[Tensor]]:
    """A function of batches that uses a VAE, as one graph of operators, without running them and without gradients.

    :return: the graph, a function of the tensors of the VAE and a batch; and these tensors.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    call = _Call(vae, function)
    tensors = {**dict(call.named_parameters()), **dict(call.named_buffers())}

    def traced(*inputs: Tensor) -> Tensor:
        return functional_call(call, dict(zip(tensors, inputs, strict=False)), inputs[len(tensors) :])

    with pyro.validation_enabled(False), torch.no_grad():
        graph = make_fx(traced, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors.values(), *batch)
    return graph, list(tensors.values())


class CompiledLikelihood:
    """A function of batches that uses a VAE, compiled for the shapes of the first batch; others are run as they are.

    The draws are those of the function itself. What cannot be traced is run as it is too, and said.
    """

    def __init__(self, vae: VAE, function: Callable[..., Tensor], say: Callable[[str], None]):
        self.vae, self.function, self.say = vae, function, say
        self.shapes: list[torch.Size] = []
        self.compiled: Callable[..., Tensor] = function

    def __call__(self, *batch: Tensor) -> Tensor:
        shapes = [t.shape for t in batch]
        if not self.shapes:
            self.shapes = shapes
            self._compile(tuple(t.contiguous() for t in batch))
        if shapes != self.shapes:
            return self.function(*batch)
        return self.compiled(*(t.contiguous() for t in batch))

    def _compile(self, batch: tuple[Tensor, ...]) -> None:
        import torch._inductor

        start = time.perf_counter()
        try:
            graph, tensors = trace_function(self.vae, self.function, batch)
            with torch.no_grad():
                run = torch._inductor.compile(graph, [*tensors, *batch], options={"fallback_random": True})
            self.compiled = lambda *batch: run(*tensors, *batch)
            self.say(f"the likelihood was compiled in {time.perf_counter() - start:.1f} s")
        except Exception as error:
            self.say(f"{explain(error)}; the likelihood is computed without compilation")


def explain(error: Exception) -> str:
    """What kept a step from being traced, and where: the innermost sample site or module of the user's."""
    where = "the step"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        values = frame.f_locals
        module = values.get("self")
        site = next((v for v in values.values() if isinstance(v, dict) and v.get("type") == "sample"), None)
        if site is not None:
            where = f"site {site['name']!r} ({type(site['fn']).__name__})"
        elif isinstance(module, nn.Module) and not type(module).__module__.startswith(("torch.", "ppvae.steps")):
            where = f"{type(module).__name__}"
    kind = type(error).__name__
    if kind in ("DataDependentOutputException", "GuardOnDataDependentSymNode"):
        return f"{where} reads a value back (.item(), or a branch on it), which cannot be traced"
    if kind == "DynamicOutputShapeException":
        return f"{where} makes a tensor whose shape depends on values, which cannot be traced"
    return f"{where} cannot be traced: {kind}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def make_step(
    mode: Mode,
    vae: VAE,
    objective: TensorELBO,
    optimizer: Optimizer,
    source: Source,
    clip_norm: float | None,
    say: Callable[[str], None],
) -> Any:
    """A :class:`Step`, or what takes its place in a mode that :func:`settle` returned."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    eager = Gradients(vae, objective, parameters, source.transform)
    gradients = Inductor(eager, say) if mode == "inductor" else eager
    if parameters[0].device.type == "cpu":
        return Step(gradients, source, optimizer, clip_norm)
    if mode == "graph":
        _make_capturable(optimizer)  # once more, as a checkpoint has numbers of the host
        return Graph(DeviceStep(eager, source, optimizer, clip_norm), eager, say)
    return DeviceStep(gradients, source, optimizer, clip_norm)


def settle(mode: str | bool, vae: nn.Module, optimizer: Optimizer, steps: int, say: Callable[[str], None]) -> Mode:
    """The mode, where ``"auto"`` is what pays on this device with at least so many steps to come, and ``"graph"`` has
    an optimizer that can be captured.

    :raises ValueError: for a CUDA graph on another device.
    """
    device = optimizer.param_groups[0]["params"][0].device.type
    if mode == "graph" and device != "cuda":
        raise ValueError(f"compile: 'graph' captures a CUDA graph, got a model on {device}; 'inductor' compiles there")
    if device == "cuda" and mode in ("auto", "graph"):
        why = _make_capturable(optimizer)
        if why:
            say(f"{why}; training goes on without a CUDA graph")
        return False if why else "graph"
    # Their kernels are the same compiled, and slower by what surrounds them (benchmarks/step.py).
    convolves = any(
        isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d | nn.ConvTranspose3d) for m in vae.modules()
    )
    if device == "cpu" and mode == "auto" and not convolves and steps >= 2 * BREAK_EVEN:
        say(f"the training step will be compiled: {steps} steps are to come, and it pays from about {BREAK_EVEN}")
        return "inductor"
    return "inductor" if mode == "inductor" else False


def _make_capturable(optimizer: Optimizer) -> str:
    """Make an optimizer one that a CUDA graph can hold, with its learning rates on the device; else say why not."""
    if not type(optimizer).step.__module__.startswith("torch.optim."):
        return f"the step of {type(optimizer).__name__} is not one of torch's own, which can be captured"
    for group in optimizer.param_groups:
        if "capturable" not in group and not (isinstance(optimizer, SGD) and group["fused"]):
            return f"the step of {type(optimizer).__name__} cannot be captured (no capturable=True, not a fused SGD)"
    for parameter, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):  # kept on the host where it was not capturable
            state["step"] = state["step"].to(parameter.device, torch.float32)
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        # fused kernels read it in float32
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)
    return ""


def narrate(message: str) -> None:
    """A line on the standard error, above the progress bar."""
    tqdm.write(f"ppvae: {message}", file=sys.stderr)
