"""Save and load a VAE: its weights as safetensors, and in the header, as JSON, what is needed to build it again.

Nothing is pickled. Loading finds classes by name in the tables of models and of :mod:`ppvae.nn.registry`, and among
those that the caller hands over. It imports nothing by a path that stands in the file, and runs nothing from it. A
digest in the header tells a damaged file.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ppvae.nn import registry
from ppvae.version import __version__

FORMAT = 1  # changes when an older ppvae could no longer read the file


def save(vae: nn.Module, path: str | os.PathLike[str], record: dict[str, Any] | None = None) -> None:
    """Write a VAE to one file, whole or not at all.

    The file holds every parameter and buffer, and the class, options, dtype and version. A network of your own
    (``encoder``, ``decoder``) is described in it only if its ``__init__`` is decorated with
    :func:`ppvae.nn.records_options`; of any other it holds the weights alone, and is loaded with ``into``.

    :param path: where to, e.g. ``"model.safetensors"``; an existing file is replaced once the new one is complete.
    :param record: anything JSON can hold that should travel with the weights, e.g. the training record; :func:`read`
        returns it.
    :raises ValueError: if an option of the VAE is neither a number, text, list nor module.

    >>> from ppvae.models import GaussianVAE
    >>> save(GaussianVAE((8,), dim=2), "model.safetensors")
    >>> load("model.safetensors").dim
    2
    """
    write_tensors(path, "model", {**describe(vae), "record": record or {}}, vae.state_dict())


def load(path: str | os.PathLike[str], into: nn.Module | None = None, classes: Iterable[type] = ()) -> Any:
    """Read a VAE that :func:`save` wrote.

    :param path: the file.
    :param into: a VAE of the same class and options to fill; by default the VAE is built from the file.
    :param classes: classes of your own that the file may be built from, VAEs, heads and networks. A class that neither
        stands here nor in a table of ppvae is refused.
    :return: the VAE. One that was built here is on the CPU and in eval mode.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is not one of ppvae's, is damaged, or does not fit ``into``.

    >>> from ppvae.models import GaussianVAE
    >>> def make():  # with a network of one's own, whose weights alone are saved
    ...     return GaussianVAE((8,), dim=2, encoder=nn.Linear(8, 4))
    >>> vae = make()
    >>> save(vae, "model.safetensors")
    >>> again = load("model.safetensors", into=make())
    >>> torch.equal(vae.encoder.module.weight, again.encoder.module.weight)
    True
    """
    header, tensors = read(path, "model")
    if into is None:
        vae = _build(path, header, {_place(cls): cls for cls in classes})
        vae.to(next((t.dtype for t in tensors.values() if t.is_floating_point()), None)).eval()
    else:
        vae = into
        if _name(vae) != header["model"]:
            raise ValueError(f"{path}: expected the weights of a {_name(vae)}, got those of a {header['model']}")
    own = vae.state_dict()
    if own.keys() != tensors.keys():
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise ValueError(
            f"{path}: its weights do not fit the {type(vae).__name__}: missing {missing or 'none'}, unknown "
            f"{unknown or 'none'}; build `into` with the networks and options that were saved"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(
                f"{path}: {name}: expected {own[name].dtype} of shape {tuple(own[name].shape)}, got {tensor.dtype} of "
                f"shape {tuple(tensor.shape)}; build `into` with the options and dtype that were saved"
            )
    vae.load_state_dict(tensors)
    return vae


def read(path: str | os.PathLike[str], kind: str = "model") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file, without building anything.

    :param kind: ``"model"``, or ``"checkpoint"`` for what :func:`ppvae.fit` resumes from.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is not one of ppvae's, not of this kind, or damaged.

    >>> from ppvae.models import GaussianVAE
    >>> save(GaussianVAE((8,), dim=2), "model.safetensors", record={"epochs": 10})
    >>> header, tensors = read("model.safetensors")
    >>> header["model"], header["record"]
    ('gaussian-vae', {'epochs': 10})
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or truncated ({error})") from error
    if "ppvae" not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not written by ppvae")
    if metadata.get("sha256") != _digest(metadata["ppvae"], tensors):
        raise ValueError(f"{path}: damaged: its content is not what ppvae wrote; take another copy")
    try:
        header = json.loads(metadata["ppvae"])
        found, version = header["format"], header["version"]
        if found == FORMAT and not (isinstance(header["model"], str) and isinstance(header["options"], dict)):
            raise TypeError
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: a safetensors file, but its header was not written by ppvae") from error
    if found != FORMAT:
        raise ValueError(
            f"{path}: expected format {FORMAT}, got {found!r}: written by ppvae {version}, this is {__version__}"
        )
    if header["kind"] != kind:
        use = (
            "read it with ppvae.load" if kind == "checkpoint" else "continue it with fit(..., checkpoint=, resume=True)"
        )
        raise ValueError(f"{path}: expected a {kind}, got a {header['kind']}; {use}")
    return header, tensors


def write_tensors(path: str | os.PathLike[str], kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file that :func:`read` reads, whole or not at all."""
    text = json.dumps({"format": FORMAT, "kind": kind, "version": __version__, **header})
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    write(path, lambda file: save_file(copies, file, {"ppvae": text, "sha256": _digest(text, copies)}))


def write(path: str | os.PathLike[str], put: Callable[[str], Any]) -> None:
    """Let ``put`` write a temporary file beside ``path`` and rename it, so that ``path`` is always a whole file.

    :raises OSError: if the file cannot be written; the old one, where there is one, is still there.

    >>> write("notes.txt", lambda temporary: Path(temporary).write_text("whole or not at all"))
    >>> Path("notes.txt").read_text()
    'whole or not at all'
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist; make it first")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        put(temporary)
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files for the owner alone
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, (OSError, SafetensorError)):
            old = "; the file that was there is unchanged" if path.exists() else ""
            raise OSError(f"{path}: could not be written: {error}{old}") from error
        raise


def describe(vae: nn.Module) -> dict[str, Any]:
    """The class and options of a VAE as JSON.

    >>> from ppvae.models import GaussianVAE
    >>> describe(GaussianVAE((8,), dim=2))["model"]
    'gaussian-vae'
    """
    return {"model": _name(vae), "options": {k: _option(v) for k, v in getattr(vae, "options", {}).items()}}


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _option(value: Any) -> Any:
    """An option as JSON: plain values as they are, parts of a VAE by class and options, other modules by class."""
    if isinstance(value, nn.Module):
        options: Any = getattr(value, "options", None)
        name = type(value).__name__
        if options is not None and registry.named(name) is type(value):
            return {"head": name, "options": {k: _option(v) for k, v in options.items()}}
        described: dict[str, Any] = {"network": name}
        if options is not None:
            with contextlib.suppress(ValueError):  # of an option that cannot be described: then `into` is left
                described |= {"options": {k: _option(v) for k, v in options.items()}, "class": _place(type(value))}
        return described
    if isinstance(value, Mapping):
        return {"named": {str(name): _option(v) for name, v in value.items()}}
    if isinstance(value, (tuple, list)):
        return [_option(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"cannot save the option {value!r} of type {type(value).__name__}: expected a number, text, list or module"
    )


def _tables() -> dict[str, str]:
    """Where each class of the tables of models is defined -> its name in them."""
    from ppvae import models  # the table of models, at run time

    known = {f"ppvae.models.{file}:{cls}": name for name, (file, cls) in models.TABLE.items()}
    return known | {point.value: point.name for point in entry_points(group="ppvae.models")}


def _place(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _name(vae: nn.Module) -> str:
    """The name of a VAE's class in the tables of models, or where it is defined."""
    place = _place(type(vae))
    return _tables().get(place, place)


def _build(path: Any, header: dict[str, Any], own: dict[str, type]) -> nn.Module:
    from ppvae import models

    name = header["model"]
    if name not in _tables().values() and name not in own:
        raise ValueError(
            f"{path}: holds a {name}, which is in no table of models; hand its class over, load(path, classes=[...]), "
            "or build it and use load(path, into=vae)"
        )
    options = {option: _revive(path, value, own) for option, value in header["options"].items()}
    try:
        with torch.random.fork_rng(devices=[]):  # for initial weights that are replaced at once
            return (own.get(name) or models.find(name))(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: the options in its header do not fit {name}: {error}") from error


def _revive(path: Any, value: Any, own: dict[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_revive(path, v, own) for v in value)
    if not isinstance(value, dict):
        return value
    if "named" in value:
        return {name: _revive(path, v, own) for name, v in value["named"].items()}
    if "head" in value:
        name, cls = value["head"], registry.named(value["head"])
        if cls is None:
            raise ValueError(f"{path}: {name!r} is not a part of a VAE that ppvae knows (see ppvae.nn.registry)")
    else:
        name = str(value.get("class"))
        cls = own.get(name) or _model_at(name)
        if cls is None:
            raise ValueError(
                f"{path}: the VAE has a network of the user's own ({value.get('network')}); build it and use "
                "load(path, into=vae), or hand the network's class over, load(path, classes=[...]), if its options are "
                "recorded (ppvae.nn.records_options)"
            )
    try:
        return cls(**{k: _revive(path, v, own) for k, v in value["options"].items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the options in its header do not fit {name}: {error}") from error


def _model_at(place: str) -> type | None:
    """The class of the tables of models that is defined there, such as an embedding that is a VAE itself."""
    from ppvae import models

    name = _tables().get(place)
    return None if name is None else models.find(name)
