"""Torch modules to export: a timm architecture with a checkpoint, or what a callable returns."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DetectorError, UsageError, one_line, require
from .checkpoint import load_state, read_state, safe_torch
from .trace import evaluated

if TYPE_CHECKING:
    import torch


def module_from_timm(
    arch: str,
    checkpoint: str | Path,
    scores: int,
    *,
    size: tuple[int, int] | None = None,
    prefix: str | None = None,
    trust_pickle: bool = False,
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """A timm architecture with that many scores and a checkpoint's weights, ready to be traced.

    Nothing is fetched. Returns it with notes. Raises DetectorError, UsageError, MissingExtraError.
    """
    safe_torch()
    timm = require("timm", "export", "building an architecture by name")
    if not timm.is_model(arch):  # `hf-hub:…` and other addresses are none, and are not followed
        near = difflib.get_close_matches(arch, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"timm has no architecture '{arch}': {hint}See timm.list_models()")
    state = read_state(checkpoint, trust_pickle=trust_pickle)
    try:
        model = _created(timm, arch, scores, size)
    except Exception as error:
        raise DetectorError(f"timm cannot build '{arch}': {one_line(error)}") from error
    notes = load_state(model, state, str(checkpoint), prefix=prefix)
    return evaluated(model, arch), notes


def _created(timm: Any, arch: str, scores: int, size: tuple[int, int] | None) -> Any:
    """The architecture; one with position embeddings is told of a size that is not its own."""
    model = timm.create_model(arch, pretrained=False, num_classes=scores)
    own = tuple(input_of(model)["size"])
    if size is None or size == own or not hasattr(model, "pos_embed"):
        return model
    return timm.create_model(arch, pretrained=False, num_classes=scores, img_size=size)


def input_of(module: Any) -> dict[str, Any]:
    """`size`, `mean` and `std` that a timm model was made for; nothing of other modules."""
    if not hasattr(module, "pretrained_cfg"):
        return {}
    timm = require("timm", "export", "reading a timm model's data configuration")
    found = timm.data.resolve_model_data_config(module)
    return {
        "size": tuple(found["input_size"][1:]),
        "mean": list(found["mean"]),
        "std": list(found["std"]),
    }


def module_from_callable(name: str) -> torch.nn.Module:
    """What `package.module:callable` returns when it is called; runs that code.

    The working folder is looked in first. Raises DetectorError, UsageError, MissingExtraError.
    """
    safe_torch()
    where, _, attribute = name.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        try:
            found: Any = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not (where + ".").startswith(error.name + "."):
                raise
            raise UsageError(f"there is no module '{where}' here or installed") from None
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise UsageError(f"module '{where}' has no '{attribute}'")
            found = getattr(found, part)
        module = found()
    except UsageError:
        raise
    except Exception as error:
        raise DetectorError(f"{name} failed: {type(error).__name__}: {one_line(error)}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    return evaluated(module, name)
