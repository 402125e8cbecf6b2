"""Save and load a VAE: its weights as safetensors, and in the header, as JSON, what is needed to build it again.

Nothing is pickled. Loading finds classes by name in the tables of models and heads; it imports nothing by a path that
stands in the file, and runs nothing from it.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import ppvae
import ppvae.nn

_FORMAT = "1"  # changes when an older ppvae could no longer read the file


def save(vae: nn.Module, path: str | os.PathLike[str], record: dict[str, Any] | None = None) -> None:
    """Write a VAE to one file, whole or not at all.

    The file holds every parameter and buffer, and the class, options, dtype and version. Networks of the user's own (``encoder``,
    ``decoder``) are not described in it, only their weights: load them with ``into``.

    :param path: where to, e.g. ``"model.safetensors"``; an existing file is replaced once the new one is complete.
    :param record: anything JSON can hold that should travel with the weights, e.g. the training record.
    """
    header = {"format": _FORMAT, "version": ppvae.__version__, "model": _name(vae), "record": record or {}}
    header["options"] = {name: _describe(value) for name, value in getattr(vae, "options", {}).items()}
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in vae.state_dict().items()
    }
    write(path, lambda file: save_file(tensors, file, {"ppvae": json.dumps(header)}))


def load(path: str | os.PathLike[str], into: nn.Module | None = None) -> Any:
    """Read a VAE that :func:`save` wrote.

    :param path: the file.
    :param into: a VAE of the same class and options to fill, needed where it has networks of the user's own or a class that
        no table of models lists; where None the VAE is built from the file.
    :return: the VAE, on the CPU where it was built here.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is not one of ppvae's, is damaged, or does not fit ``into``.
    """
    header, tensors = read(path)
    if into is None:
        vae = _build(path, header)
        vae.to(next(t.dtype for t in tensors.values() if t.is_floating_point()))
    else:
        vae = into
        if _name(vae) != header["model"]:
            raise ValueError(
                f"{path}: expected the weights of a {_name(vae)}, got those of a {header['model']}"
            )
    own = vae.state_dict()
    if own.keys() != tensors.keys():
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise ValueError(
            f"{path}: its weights do not fit the {type(vae).__name__}: missing {missing or 'none'}, unknown {unknown or 'none'}; "
            "build `into` with the networks and options that were saved"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(
                f"{path}: {name}: expected {own[name].dtype} of shape {tuple(own[name].shape)}, got {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}; build `into` with the options and dtype that were saved"
            )
    vae.load_state_dict(tensors)
    return vae


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file, without building anything.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is not one of ppvae's, or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or truncated ({error})") from error
    try:
        header = json.loads(metadata["ppvae"])
        if header["format"] != _FORMAT:
            raise ValueError(
                f"{path}: expected format {_FORMAT}, got {header['format']!r}; it was written by ppvae {header['version']}"
            )
        if not isinstance(header["model"], str) or not isinstance(header["options"], dict):
            raise TypeError
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: a safetensors file, but its header was not written by ppvae.save"
        ) from error
    return header, tensors


def write(path: str | os.PathLike[str], put: Callable[[str], Any]) -> None:
    """Let ``put`` write a temporary file beside ``path`` and rename it, so that ``path`` is always a whole file."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent or ".")
    os.close(handle)
    try:
        put(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files for the owner alone
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _describe(value: Any) -> Any:
    """An option as JSON: plain values as they are, heads of ppvae.nn by name and options, other modules by class alone."""
    if isinstance(value, nn.Module):
        if getattr(ppvae.nn, type(value).__name__, None) is type(value) and hasattr(value, "options"):
            return {
                "head": type(value).__name__,
                "options": {k: _describe(v) for k, v in value.options.items()},
            }
        return {"network": type(value).__name__}
    if isinstance(value, (tuple, list)):
        return [_describe(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"cannot save the option {value!r} of type {type(value).__name__}: expected a number, text, list or module"
    )


def _name(vae: nn.Module) -> str:
    return f"{type(vae).__module__}:{type(vae).__qualname__}"


def _build(path: Any, header: dict[str, Any]) -> nn.Module:
    from ppvae import models  # the table of models, at run time

    known = {f"ppvae.models.{file}:{cls}": name for name, (file, cls) in models.TABLE.items()}
    known |= {point.value: point.name for point in entry_points(group="ppvae.models")}
    if header["model"] not in known:
        raise ValueError(
            f"{path}: holds a {header['model']}, which is in no table of models; build it and use load(path, into=vae)"
        )
    try:
        return models.find(known[header["model"]])(
            **{k: _revive(path, v) for k, v in header["options"].items()}
        )
    except TypeError as error:
        raise ValueError(
            f"{path}: the options in its header do not fit {header['model']}: {error}"
        ) from error


def _revive(path: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_revive(path, v) for v in value)
    if isinstance(value, dict):
        if "head" not in value:
            raise ValueError(
                f"{path}: the VAE has a network of the user's own ({value.get('network')}); build it and use load(path, into=vae)"
            )
        head = getattr(ppvae.nn, value["head"], None) if value["head"] in ppvae.nn.__all__ else None
        if not (isinstance(head, type) and issubclass(head, nn.Module)):
            raise ValueError(f"{path}: {value['head']!r} is not a head of ppvae.nn")
        return head(**{k: _revive(path, v) for k, v in value["options"].items()})
    return value
