"""Reads a torch.export program (.pt2) without running anything that it could smuggle in.

`torch.export.load` falls back to full unpickling, evaluates symbolic expressions, and resolves
names of functions. So the archive is looked through first: what it may hold is listed here, and
anything else needs the user's trust.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DetectorError, one_line
from .checkpoint import safe_torch, tensors_only
from .trace import quiet

_MEMBERS = re.compile(
    r"[^/]+/(models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.data/\w+|\.format_version|version)"
)
_TARGETS = re.compile(
    r"(torch\.ops\.(aten|prims)\.(?!from_file\b)\w+\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(int|float|max|min|not|ite|sum|sqrt))"
)
_EXPRESSION = re.compile(
    r"(Symbol\('[su]\d+'|positive=True|integer=True|nonnegative=True|Integer|Mul|Add|Max|Min|Mod"
    r"|FloorDiv|CeilDiv|PythonMod|Pow|[su]\d+|\d+|[-+*/(), ])*"
)
_TREE = re.compile(r"builtins\.(tuple|list|dict)")


def program_from_pt2(path: str | Path, *, trust_pickle: bool = False) -> Any:
    """The torch.export.ExportedProgram in a file, on the CPU. Raises DetectorError."""
    torch = safe_torch()
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DetectorError(f"{path}: cannot read the program: {error.strerror or error}") from None
    if not trust_pickle:
        content = _looked_through(path, content)
    try:
        with quiet():
            return torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise DetectorError(
            f"{path} cannot be read as a torch.export program by torch {torch.__version__}: "
            f"{one_line(error)}"
        ) from error


def _looked_through(path: Path, content: bytes) -> bytes:
    """The archive packed anew from members that hold weights and a graph of known operations.

    Anew, because two readers of one zip file may see different things in it. Raises DetectorError.
    """
    packed = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
            for name in dict.fromkeys(old.namelist()):
                member = old.read(name)
                if not _MEMBERS.fullmatch(name):
                    _refuse(path, f"the member '{name}'")
                if name.endswith(".json"):
                    _look_through_json(path, name, json.loads(member))
                if name.endswith(".pt"):
                    tensors_only(io.BytesIO(member), str(path))
                new.writestr(name, member)
    except (zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise DetectorError(
            f"{path} is no torch.export program, or damaged or cut short: {one_line(error)}"
        ) from None
    return packed.getvalue()


def _look_through_json(path: Path, name: str, content: Any) -> None:
    for key, value in _pairs(content):
        if key == "use_pickle" and value:
            _refuse(path, f"pickled tensors in '{name}'")
        elif key in ("guards_code", "treespec_namedtuple_fields") and value:
            _refuse(path, f"'{key}'")
        elif key == "target" and isinstance(value, str) and not _TARGETS.fullmatch(value):
            _refuse(path, f"the operation '{value}'")
        elif key == "expr_str" and not _EXPRESSION.fullmatch(str(value)):
            _refuse(path, f"the expression '{value}'")
        elif key in ("in_spec", "out_spec") and isinstance(value, str) and value:
            for inner, kind in _pairs(json.loads(value)):
                if inner == "type" and kind is not None and not _TREE.fullmatch(str(kind)):
                    _refuse(path, f"the type '{kind}'")


def _pairs(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(content, list):
        for value in content:
            yield from _pairs(value)


def _refuse(path: Path, what: str) -> None:
    raise DetectorError(
        f"{path} holds {what}, which may run code as it loads: if you trust where it is from, pass "
        "--trust-pickle"
    )


def picture_shape(program: Any, what: str) -> tuple[int | None, tuple[int, int], str]:
    """Batch (None: free), height and width, and layout of a program's only input.

    Raises DetectorError where it does not take one batch of pictures.
    """
    names = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    shape = list(getattr(inputs[0], "shape", ())) if len(inputs) == 1 else []
    sides = [int(side) if isinstance(side, int) else None for side in shape]
    if len(sides) == 4 and None not in sides[1:]:
        batch = sides[0]
        if sides[1] == 3:
            return batch, (int(sides[2] or 0), int(sides[3] or 0)), "NCHW"
        if sides[3] == 3:
            return batch, (int(sides[1] or 0), int(sides[2] or 0)), "NHWC"
    raise DetectorError(
        f"{what} takes {len(inputs)} inputs {[tuple(getattr(i, 'shape', ())) for i in inputs]}, "
        "wanted one batch of pictures (N, 3, h, w) of a fixed size"
    )
