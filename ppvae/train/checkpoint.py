"""The state of a training run in one file, from which it continues to the same numbers.

A part of the run is anything with torch's pair ``state_dict`` and ``load_state_dict``. Tensors of the states are stored
as safetensors, all else as JSON; nothing is pickled.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppvae.io import describe, read, write_tensors
from ppvae.vae import VAE


class Stateful(Protocol):
    """A part of a run."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Checkpoint:
    """A file with the state of a run.

    :param path: where it lies; its folder is made where it does not exist.
    :param vae: whose class and options are recorded.
    :param settings: what must be the same where the run is continued, by name; JSON.
    :param parts: by name, what changes in the run.
    """

    def __init__(self, path: str | os.PathLike[str], vae: VAE, settings: dict[str, Any], parts: Mapping[str, Stateful]):
        self.path, self.parts = Path(path), parts
        self.header = {**describe(cast(nn.Module, vae)), "settings": json.loads(json.dumps(settings))}

    def save(self) -> None:
        """Replace the file, whole or not at all.

        :raises OSError: if it cannot be written; the file that was there is unchanged.
        """
        tensors: dict[str, Tensor] = {}
        states = {name: _encode(part.state_dict(), name, tensors) for name, part in self.parts.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path, "checkpoint", {**self.header, "states": states}, tensors)

    def load(self) -> None:
        """Bring the parts to the state in the file.

        :raises ValueError: if the file is none of ppvae's, damaged, or of a run with other settings, which are named.
        """
        header, tensors = read(self.path, "checkpoint")
        flat = [
            {"model": h["model"], **{f"option {k!r}": v for k, v in h["options"].items()}, **h["settings"]}
            for h in (header, self.header)
        ]
        missing = object()
        differ = [k for k in {**flat[0], **flat[1]} if flat[0].get(k, missing) != flat[1].get(k, missing)]
        if differ:
            words = "; ".join(f"{k}: expected {_short(flat[0].get(k))}, got {_short(flat[1].get(k))}" for k in differ)
            raise ValueError(
                f"{self.path}: the checkpoint is of another run: {words}. Resume with the data and options of that run "
                "(only the number of epochs may differ), or choose another file"
            )
        if header["states"].keys() != self.parts.keys():
            raise ValueError(f"{self.path}: expected the parts {sorted(self.parts)}, got {sorted(header['states'])}")
        for name, part in self.parts.items():
            try:
                state = _decode(header["states"][name], tensors)
                part.load_state_dict(state)
                if isinstance(part, Optimizer):
                    # Adam makes a float32 tensor of the number in which geoopt counts steps, and rounds otherwise then.
                    parameters = [p for group in part.param_groups for p in group["params"]]
                    for i, entries in state["state"].items():
                        numbers = {k: v for k, v in entries.items() if not isinstance(v, Tensor)}
                        part.state[parameters[i]].update(numbers)
            except (KeyError, TypeError, RuntimeError, ValueError) as error:
                raise ValueError(f"{self.path}: its state of the {name} does not fit this run: {error}") from error


class Generators:
    """The state of torch's global generators, of the CPU and of the device where that is another."""

    def __init__(self, device: torch.device):
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.keys() != self.state_dict().keys():
            raise ValueError(
                f"expected generators of {sorted(self.state_dict())}, got {sorted(state)}; use that device"
            )
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)


def fingerprint(tensors: tuple[Tensor, ...]) -> list[str]:
    """Shape, dtype and checksum of arrays."""
    return [
        f"{tuple(t.shape)} {t.dtype} crc32 {total:08x}" for t, total in zip(tensors, checksums(tensors), strict=True)
    ]


def checksums(tensors: tuple[Tensor, ...], before: Sequence[int] = ()) -> list[int]:
    """CRC-32 of each tensor, or of one that goes on from rows with the sums ``before``."""
    contents = [t.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data for t in tensors]
    return [zlib.crc32(content, start) for content, start in zip(contents, before or [0] * len(tensors), strict=True)]


def summarize(thing: Any, depth: int = 4) -> Any:
    """Type and plain attributes of an object as JSON, by which a continued run is recognised as the same."""
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, Tensor) and thing.numel() == 1:
        return thing.item()
    if isinstance(thing, (tuple, list)):
        return [summarize(value, depth - 1) for value in thing]
    if isinstance(thing, dict):
        return {str(name): summarize(value, depth - 1) for name, value in thing.items()}
    if hasattr(thing, "__qualname__"):  # a function or class
        return thing.__qualname__
    shallow = depth <= 0 or isinstance(thing, (Tensor, nn.Module))
    return {
        "type": type(thing).__qualname__,
        **({} if shallow else summarize(getattr(thing, "__dict__", {}), depth - 1)),
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON that keeps tuples and the types of keys; tensors go to ``tensors`` under their place in it."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[k, _encode(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (tuple, list)):
        values = [_encode(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
        return {"tuple": values} if isinstance(value, tuple) else values
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"checkpoint: {name} is a {type(value).__name__}; expected tensors, numbers, text, and lists and dicts of them"
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _decode(v, tensors) for k, v in content}
    if kind == "tuple":
        return tuple(_decode(v, tensors) for v in content)
    raise ValueError(f"unknown entry {kind!r}")
