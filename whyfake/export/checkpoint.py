"""Reads checkpoints without running what is pickled in them; puts their weights into a model."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DetectorError, EngineError, UsageError, one_line, require

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]

_NESTED = ("state_dict", "model_state_dict", "model", "net", "params", "state_dict_ema")
_SAFE_SINCE = (2, 6)  # before, `weights_only` could be made to run code (CVE-2025-32434)
_SHOWN = 3


def read_state(path: str | Path, *, trust_pickle: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name: a plain state dict, Lightning's, or safetensors.

    Nothing pickled runs unless `trust_pickle`. Raises DetectorError, MissingExtraError.
    """
    path = Path(path)
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise DetectorError(f"{path}: cannot read the checkpoint: {error.strerror}") from None
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = _state_in(tensors_only(path, str(path), trust_pickle=trust_pickle))
    if not state:
        raise DetectorError(f"{path} holds no weights: wanted a state dict, or a Lightning file")
    return state


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    require("safetensors", "export", "reading safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DetectorError(f"{path} is damaged or cut short: {one_line(error)}") from None
    return state


def safe_torch() -> Any:
    """The package torch, new enough that `weights_only` keeps its word. Raises EngineError."""
    torch = require("torch", "export", "reading checkpoints")
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_SINCE:
        raise EngineError(
            f"torch {torch.__version__} can be made to run code by a checkpoint: "
            "pip install -U 'torch>=2.6'"
        )
    return torch


def tensors_only(file: Any, name: str, *, trust_pickle: bool = False) -> Any:
    """What torch saved in a file (a path or a stream): tensors and plain containers.

    Anything else would be code that runs as it loads, and needs `trust_pickle`. Raises
    DetectorError; `name` is the file's.
    """
    torch = safe_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is an error
            return torch.load(file, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is not None:
            raise DetectorError(
                f"{name} holds pickled code ({code[1]}), which would run as it loads: re-save its "
                "state dict alone, or, if you trust where it is from, pass --trust-pickle"
            ) from None
        raise DetectorError(f"{name} is no checkpoint, or damaged or cut short") from error
    except Exception as error:  # torch raises a dozen kinds for damaged files
        if "TorchScript" in str(error):
            raise DetectorError(
                f"{name} is a TorchScript program: save its state dict, or export it with "
                "torch.export.save as .pt2"
            ) from None
        raise DetectorError(f"{name} is no checkpoint, or damaged or cut short") from error


def _state_in(raw: Any) -> dict[str, torch.Tensor]:
    """The state dict in what a checkpoint holds: itself, or under one of the usual keys."""
    import torch

    if isinstance(raw, torch.nn.Module):  # unpickled because it is trusted
        raw = raw.state_dict()
    if not isinstance(raw, Mapping):
        return {}
    for key in _NESTED:
        nested = raw.get(key)
        if isinstance(nested, torch.nn.Module):
            nested = nested.state_dict()
        if isinstance(nested, Mapping):
            raw = nested
            break
    return {str(name): value for name, value in raw.items() if isinstance(value, torch.Tensor)}


def load_state(
    model: torch.nn.Module, state: State, where: str, *, prefix: str | None = None
) -> tuple[str, ...]:
    """Put a checkpoint's weights into a model: every one of them, under one prefix.

    Lightning calls them `model.…`, DataParallel `module.…`; the prefix is found unless it is
    given. Returns notes about what the file holds beside the model. Raises DetectorError (they do
    not fit), UsageError (several prefixes fit).
    """
    wanted = model.state_dict()
    # a counter that nothing reads in evaluation, and that old checkpoints do not have
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    if prefix is None:
        prefix = _find_prefix(needed, state, where)
    inside = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    _check_fit(model, needed, inside, where, prefix)
    model.load_state_dict(inside, strict=False)
    beside = [name for name in state if not name.startswith(prefix)]
    if not beside:
        return ()
    return (f"{where}: {_some(beside)} left out: not part of the model, which is '{prefix}…'",)


def _find_prefix(needed: list[str], state: State, where: str) -> str:
    """The prefix under which most of the model's names are in the state."""
    found: dict[str, int] = {}
    names = set(needed)
    for name in state:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in names:
                prefix = "".join(part + "." for part in parts[:cut])
                found[prefix] = found.get(prefix, 0) + 1
    whole = [prefix for prefix, count in found.items() if count == len(names)]
    if len(whole) > 1:
        listed = ", ".join(f"'{prefix}'" for prefix in whole)
        raise UsageError(
            f"{where} holds the model {len(whole)} times, under {listed}: choose with --prefix"
        )
    if whole:
        return whole[0]
    return max(found, key=lambda prefix: found[prefix]) if found else ""


def _check_fit(
    model: torch.nn.Module, needed: list[str], inside: State, where: str, prefix: str
) -> None:
    """Refuse weights that are missing, left over or of another shape. Raises DetectorError."""
    wanted = model.state_dict()
    missing = [name for name in needed if name not in inside]
    unknown = [name for name in inside if name not in wanted]
    other = [n for n, v in inside.items() if n in wanted and v.shape != wanted[n].shape]
    if not (missing or unknown or other):
        return
    heads = {n.rsplit(".", 1)[0] for n in other}
    rows = [inside[n].shape[0] for n in other if n.endswith("bias")]
    if not missing and not unknown and len(heads) == 1 and rows:
        head = heads.pop()
        asked = wanted[head + ".bias"].shape[0]
        raise DetectorError(
            f"{where}: its head '{head}' gives {rows[0]} scores, not {asked}: name as many "
            "--classes (for one score, two and --positive)"
        )
    complaints = [
        f"{_some(names)} {what}"
        for names, what in (
            (missing, "missing"),
            (unknown, "not known to it"),
            (other, "of another shape"),
        )
        if names
    ]
    raise DetectorError(
        f"{where} does not fit this architecture: {'; '.join(complaints)}"
        + (f" (under '{prefix}')" if prefix else "")
    )


def _some(names: list[str]) -> str:
    """`3 weights (a, b, c)`, `12 weights (a, b, c, …)`."""
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} weight{'s' if len(names) != 1 else ''} ({shown})"
