r"""A function that uses a VAE, traced to one graph of operators and compiled.

What Python costs beside the arithmetic, the traces of model and guide and their laws, is paid once. The graph draws
random numbers by the operators that the function calls, in their order, so a seed gives the same draws.

The graph keeps what Python does while it is traced. A network that counts its calls, or branches on anything but
shapes, must run eagerly. So must a function that reads a value back (``.item()``, ``if x > 0``): it cannot be traced.
"""

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule

from ppvae.vae import VAE

__all__ = ["Compiled", "compile_function", "explain", "log_line", "trace"]


class _Call(nn.Module):
    """A function that uses a VAE, as a module in which ``functional_call`` can replace the tensors of the VAE."""

    def __init__(self, vae: VAE, function: Callable[..., Any]):
        super().__init__()
        self.vae, self.function = vae, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def trace(vae: VAE, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[GraphModule, list[Tensor]]:
    """A function that uses a VAE as one graph of operators.

    No operator runs on data while the function is traced: the generators and the buffers stay as they are. In the
    graph each trained parameter is a leaf, which the function may differentiate with respect to.

    :param function: takes tensors and returns a tensor, or a tuple of tensors and None.
    :param inputs: tensors of the shapes for which the graph is made.
    :return: the graph, a function of the tensors of the VAE and the inputs; and the tensors of the VAE.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to import

    call = _Call(vae, function)
    tensors = {**dict(call.named_parameters()), **dict(call.named_buffers())}

    def traced(*values: Tensor) -> Any:
        state = dict(zip(tensors, values, strict=False))
        leaves = {name: state[name].detach().requires_grad_() for name, t in tensors.items() if t.requires_grad}
        return functional_call(call, state | leaves, values[len(tensors) :])

    with pyro.validation_enabled(False):
        graph = make_fx(traced, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors.values(), *inputs)
    return graph, list(tensors.values())


def compile_function(vae: VAE, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
    """A function that uses a VAE, compiled by Inductor for inputs of these shapes."""
    import torch._inductor

    inputs = tuple(t.contiguous() for t in inputs)
    graph, tensors = trace(vae, function, inputs)
    with torch.no_grad():
        # Inductor's own random numbers would differ from those of an eager run. The graph goes to Inductor directly,
        # since torch.compile would look for changes of what is fixed here at every call.
        run = torch._inductor.compile(graph, [*tensors, *inputs], options={"fallback_random": True})

    def compiled(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return run(*tensors, *(t.contiguous() for t in inputs))

    return compiled


class Compiled:
    """A function of batches, compiled for the shapes of the first batch; batches of other shapes run eagerly.

    If the function cannot be compiled, a line says so and it runs eagerly.

    :param eager: the function.
    :param build: makes the compiled function for a batch.
    :param name: what the function is called in messages.
    :param announce: takes the messages.
    :param warm_up: how many batches run eagerly before the function is compiled.
    """

    def __init__(
        self,
        eager: Callable[..., Any],
        build: Callable[[tuple[Tensor, ...]], Callable[..., Any]],
        name: str,
        announce: Callable[[str], None],
        warm_up: int = 0,
    ):
        self.eager, self.build, self.name, self.announce, self.warm_up = eager, build, name, announce, warm_up
        self.shapes: list[torch.Size] = []
        self.compiled: Callable[..., Any] | None = None
        self.refused = False

    def __call__(self, *batch: Tensor) -> Any:
        shapes = [t.shape for t in batch]
        self.shapes = self.shapes or shapes
        if self.refused or shapes != self.shapes:
            return self.eager(*batch)
        if self.compiled is not None:
            return self.compiled(*batch)
        if self.warm_up:
            self.warm_up -= 1
            return self.eager(*batch)
        return self._compile(batch)

    def _compile(self, batch: tuple[Tensor, ...]) -> Any:
        start = time.perf_counter()
        try:
            compiled = self.build(batch)
            result = compiled(*batch)
        except Exception as error:
            self.refused = True
            self.announce(f"{explain(error, self.name)}; {self.name} runs eagerly")
            return self.eager(*batch)
        self.compiled = compiled
        self.announce(f"{self.name} was compiled in {time.perf_counter() - start:.1f} s")
        return result


def explain(error: Exception, name: str) -> str:
    """Why a function could not be traced, and where: the innermost sample site or module of the user's.

    :param name: what the function is called, where the error belongs to no site and no module.
    """
    where = name
    for frame, _ in traceback.walk_tb(error.__traceback__):
        values = frame.f_locals
        module = values.get("self")
        site = next((v for v in values.values() if isinstance(v, dict) and v.get("type") == "sample"), None)
        if site is not None:
            where = f"site {site['name']!r} ({type(site['fn']).__name__})"
        elif isinstance(module, nn.Module) and not type(module).__module__.startswith(("torch.", __name__)):
            where = type(module).__name__
    kind = type(error).__name__
    if kind in ("DataDependentOutputException", "GuardOnDataDependentSymNode"):
        return f"{where} reads a value back (.item(), or a branch on it), which cannot be traced"
    if kind == "DynamicOutputShapeException":
        return f"{where} makes a tensor whose shape depends on values, which cannot be traced"
    return f"{where} cannot be traced: {kind}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def log_line(message: str) -> None:
    """Print a line to the standard error."""
    print(f"ppvae: {message}", file=sys.stderr)
