"""What `whyfake build` prints: the engine, what it fits, and how far it is from float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..tensorrt_api import TITLES
from . import stdout

if TYPE_CHECKING:
    from ..building import Built


def print_built(built: Built, *, as_json: bool) -> None:
    """Print what was written; what was not measured goes to stderr."""
    record = built.card.engine
    parity = record["parity"]
    if as_json:
        print(json.dumps(built.to_dict(), ensure_ascii=False))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for key, value in engine_rows(record).items():
            table.add_row(Text(key, style="bold"), Text(value))
        console = stdout()
        console.print(Text(f"{built.engine} ({built.size / 1e6:.1f} MB)", style="bold"))
        console.print(table)
    if record["gpu"] is None:
        what = "predicted, not measured" if "flips" in parity else "not measured"
        Console(stderr=True, highlight=False, markup=False, emoji=False).print(
            f"note: no GPU here that it fits: the engine was not run, its parity is {what}, and "
            f"batch {record['profile']['best']} a guess; to know, build where it will run",
            style="yellow",
            soft_wrap=True,
        )


def engine_rows(record: Mapping[str, Any]) -> dict[str, str]:
    """An engine's record in words, row by row."""
    profile, parity = record["profile"], record["parity"]
    rows = {
        "built by": f"{TITLES[record['flavour']]} {record['version']}",
        "precision": record["precision"],
        "batches": f"{profile['min']} to {profile['max']}, tuned for {profile['best']}",
        "fits": _fits(record),
    }
    if "flips" in parity:
        rows["parity"] = (
            f"{parity['how']}: |Δ log p| at most {parity['max_abs']:.1e}, on average "
            f"{parity['mean_abs']:.1e}; {parity['flips']} of {parity['inputs']} decisions flip"
        )
        rows["NES"] = _nes(parity["nes"])
    elif parity:
        rows["parity"] = parity["how"]
    return rows


def _fits(record: Mapping[str, Any]) -> str:
    if record["flavour"] == "rtx":
        return f"RTX GPUs from Ampere on, under TensorRT for RTX {record['version']}"
    return (
        f"{record['gpu']} (compute capability {record['compute_capability']}) under TensorRT "
        f"{record['version']}, {record['platform']}"
    )


def _nes(found: Mapping[str, Any]) -> str:
    refused = f"refused on {found['refused']} of {found['frames']} pictures" * bool(
        found["refused"]
    )
    if found["sigma"] is None:
        return refused
    text = (
        f"at sigma up to {found['sigma']:.3g} its differences correlate {found['correlation']:.3f} "
        "or better with float32's"
    )
    return f"{text}; {refused}" if refused else text
