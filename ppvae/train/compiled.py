r"""A training step without the cost of Python: compiled by Inductor on a CPU, or captured in a CUDA graph.

**inductor**: terms and gradients are traced once (:mod:`ppvae.tracing`) and the trace is compiled.

**graph**: the whole step, from the rows of the batch to the totals for the history, is captured once and launched as
one. What changes between steps lies in tensors on the device: rows, KL weight, learning rate, random state.

Both keep the numbers of Python that the traced step had, such as the ``beta`` of an objective. If a step cannot be
traced, a line says so and it runs eagerly. So does a batch of another size, such as the last one of an epoch.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ppvae.tracing import Compiled, compile_function, explain, trace
from ppvae.train.step import DeviceStep, EpochTotals, Gradients, Measured, Source, Step
from ppvae.vae import VAE

Mode = Literal["graph", "inductor", False]

#: Steps that earn the time of one compilation back: it takes about 15 s, and saves 0.8 ms of Python in a step of any
#: size. Both scale with the speed of the machine.
BREAK_EVEN = 20_000
#: Steps before a capture, in which libraries choose their kernels and the optimizer makes its state.
WARM_UP = 3


class GradientFunction:
    """:class:`Gradients` as a function of tensors alone, for :func:`ppvae.tracing.trace`.

    It takes the KL weight and a batch, and returns the terms, then the gradient of each parameter, and then the number
    of data if that is a tensor. A number of Python is one for all batches of these shapes.
    """

    def __init__(self, gradients: Gradients):
        self.gradients = gradients
        place = {id(p): name for name, p in gradients.vae.named_parameters()}
        self.trained = [place[id(p)] for p in gradients.parameters]
        self.names: list[str] = []  #: of the terms, known after a call
        self.number_of_data: float | None = None  #: where it is a number of Python, known after a call

    def __call__(self, kl_weight: Tensor, *batch: Tensor) -> tuple[Tensor | None, ...]:
        objective = self.gradients.objective
        own, objective.kl_weight = objective.kl_weight, kl_weight
        try:
            terms, number_of_data = self.gradients.measure(*batch)
        finally:
            objective.kl_weight = own
        parameters = dict(self.gradients.vae.named_parameters())  # in a trace these are its leaves
        gradients = torch.autograd.grad(
            terms["loss"] / number_of_data, [parameters[name] for name in self.trained], allow_unused=True
        )
        self.names[:] = terms
        values = (*(value.detach() for value in terms.values()), *gradients)
        if isinstance(number_of_data, Tensor):
            return (*values, number_of_data.detach())
        self.number_of_data = number_of_data
        return values


def check_hooks(parameters: list[nn.Parameter]) -> None:
    """Raise a ValueError if a parameter has a hook on its gradient, which a compiled step would not call."""
    hooked = [p for p in parameters if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)]
    if hooked:
        raise ValueError(f"a parameter of shape {tuple(hooked[0].shape)} has a hook on its gradient")


def compile_gradients(eager: Gradients, batch: tuple[Tensor, ...]) -> Callable[..., Measured]:
    """A function with the values and effects of :class:`Gradients` on batches of the shapes of this one."""
    check_hooks(eager.parameters)
    function = GradientFunction(eager)
    run = compile_function(eager.vae, function, (eager.objective.kl_weight, *batch))
    usable: list[bool] = []  # whether a gradient has the layout of its parameter, and memory of its own

    def compiled(*batch: Tensor) -> Measured:
        values = run(eager.objective.kl_weight, *batch)
        gradients = values[len(function.names) :][: len(eager.parameters)]
        if not usable:
            usable.extend(_usable(gradients, eager.parameters))
        for parameter, gradient, as_it_is in zip(eager.parameters, gradients, usable, strict=True):
            # An optimizer walks through the memory of both as one, and clipping changes each gradient in place.
            parameter.grad = gradient if as_it_is else torch.empty_like(parameter).copy_(gradient)
        number_of_data = values[-1] if function.number_of_data is None else function.number_of_data
        return dict(zip(function.names, values, strict=False)), number_of_data

    return compiled


def _usable(gradients: list[Tensor | None], parameters: list[nn.Parameter]) -> list[bool]:
    places = [None if g is None else g.data_ptr() for g in gradients]
    return [
        g is None or (g.stride() == p.stride() and places.count(place) == 1)
        for g, p, place in zip(gradients, parameters, places, strict=True)
    ]


class Graph:
    """A :class:`DeviceStep` that is captured in a CUDA graph once it is warm, and then launched as one.

    :param gradients: those of the step.
    :param announce: takes messages.
    :param record: captures what a function launches, see :func:`record_graph`.
    """

    def __init__(
        self,
        step: DeviceStep,
        gradients: Gradients,
        announce: Callable[[str], None],
        record: Callable[..., Callable] | None = None,
    ):
        self.step, self.gradients, self.announce = step, gradients, announce
        self.record = record or partial(record_graph, device=step.parameters[0].device)
        self.fixed: list[Any] = []  # the optimizer's numbers of Python at the capture
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
            check_hooks(self.gradients.parameters)
            # A trace names what cannot be captured, and does no harm; a failed capture can.
            inputs = (self.gradients.objective.kl_weight, *self.step.source.batch(*self.key))
            trace(self.gradients.vae, GradientFunction(self.gradients), inputs)
            self.fixed = self._numbers()
            self.replay = self.record(lambda: self.step.launch(*self.key))
            self.announce(f"the training step was captured in a CUDA graph in {time.perf_counter() - start:.1f} s")
        except Exception as error:
            self.refused = True
            self.announce(f"{explain(error, 'the training step')}; it runs eagerly, without a CUDA graph")

    def _numbers(self) -> list[Any]:
        groups = self.step.optimizer.param_groups
        return [{name: v for name, v in group.items() if name not in ("params", "lr")} for group in groups]

    def mean(self) -> dict[str, float]:
        """Means of the terms over the steps since ``clear``."""
        return self.step.mean()

    def clear(self) -> None:
        """Start the totals and the count of steps again from zero."""
        self.step.clear()
        if self.replay is not None and not self.refused and self._numbers() != self.fixed:
            self.refused = True
            self.announce(
                "the schedule changes more than the learning rate; the training step runs eagerly, without a CUDA graph"
            )


def record_graph(launch: Callable[[], None], device: torch.device) -> Callable[[], Any]:
    """Capture what a function launches on a device, without running it there.

    What Python does in the function is done once, during the capture.

    :return: a function that runs on the device what was captured.
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
        torch.cuda.set_stream(before)  # torch does not, if it cannot end the capture
        raise cause or error from None
    return graph.replay


def make_step(
    mode: Mode,
    gradients: Gradients,
    source: Source,
    optimizer: Optimizer,
    clip_norm: float | None,
    totals: EpochTotals,
    announce: Callable[[str], None],
) -> Step | Graph:
    """A step of training in a mode that :func:`resolve_compile_mode` returned."""
    run: Callable[..., Any] = gradients
    if mode == "inductor":
        run = Compiled(gradients, partial(compile_gradients, gradients), "the training step", announce, warm_up=1)
    if gradients.parameters[0].device.type == "cpu":
        return Step(run, source, optimizer, clip_norm, totals)
    if mode == "graph":
        _make_capturable(optimizer)  # once more, since a checkpoint has numbers of the host
        return Graph(DeviceStep(gradients, source, optimizer, clip_norm, totals), gradients, announce)
    return DeviceStep(run, source, optimizer, clip_norm, totals)


def resolve_compile_mode(
    mode: str | bool, vae: VAE, optimizer: Optimizer, steps: int, announce: Callable[[str], None]
) -> Mode:
    """How the steps run.

    "auto" is resolved to what pays on this device with this many steps to come. "graph" is kept if the optimizer can be
    captured.

    :raises ValueError: for a CUDA graph on another device.
    """
    device = optimizer.param_groups[0]["params"][0].device.type
    if mode == "graph" and device != "cuda":
        raise ValueError(f"compile: 'graph' captures a CUDA graph, got a model on {device}; 'inductor' compiles there")
    if device == "cuda" and mode in ("auto", "graph"):
        reason = _make_capturable(optimizer)
        if reason:
            announce(f"{reason}; the training step runs eagerly, without a CUDA graph")
        return False if reason else "graph"
    # The kernels of convolutions are the same when compiled, and what surrounds them is slower (benchmarks/step.py).
    convolves = any(
        isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d | nn.ConvTranspose3d) for m in vae.modules()
    )
    if device == "cpu" and mode == "auto" and not convolves and steps >= 2 * BREAK_EVEN:
        announce(f"the training step will be compiled: {steps} steps are to come, and it pays from about {BREAK_EVEN}")
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
        if isinstance(state.get("step"), Tensor):  # on the host as long as the optimizer was not capturable
            state["step"] = state["step"].to(parameter.device, torch.float32)
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        # fused kernels read it in float32
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)
    return ""
