"""What `whyfake bench` shows: progress on stderr, then tables, or JSON."""

from __future__ import annotations

import json
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import __version__
from ..benching import MANY, Bench, Opening, Shortened, bench
from ..files import write_file
from ..runtime.engine import cpu_count
from ..runtime.layout import processor
from . import stdout

_STAGES = ("composing", "running", "handing_back", "resuming", "waiting")


def bench_aloud(opening: Opening, wanted: Shortened, out: Path | None, *, as_json: bool) -> None:
    """Measure with a bar on stderr; print tables or JSON; write JSON to `out` if it is given."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False, markup=False, emoji=False),
        transient=True,
    )
    task = bar.add_task("opening", total=None)

    def step(text: str, done: int, total: int) -> None:
        bar.update(task, description=text, completed=done, total=total)

    with bar:
        for event in bench(opening, wanted, step):
            whole = event
    assert isinstance(whole, Bench)  # the last event is
    record = _record(whole, wanted)
    if out is not None:
        write_file(out, (json.dumps(record, indent=1) + "\n").encode())
    if as_json:
        print(json.dumps(record, ensure_ascii=False))
    else:
        _print(whole, record)


def _record(whole: Bench, wanted: Shortened) -> dict[str, Any]:
    return {
        "schema": 1,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": cpu_count()},
        "versions": {"python": platform.python_version(), "whyfake": __version__},
        "wanted": {"images": wanted.images, "seconds": wanted.seconds, "repeats": wanted.repeats},
        **whole.to_dict(),
    }


def _print(whole: Bench, record: dict[str, Any]) -> None:
    console, about, machine = stdout(), whole.detector, record["machine"]
    cost = "" if whole.gflops is None else f", {whole.gflops:.2f} GFLOP a picture"
    console.print(f"{about['name']}, {about['size'][0]}×{about['size'][1]}{cost}", style="bold")
    console.print(
        f"{about['engine']} on {about['device']}, {about['precision']}; "
        f"{machine['processor']}, {machine['cores']} cores",
        style="dim",
        soft_wrap=True,
    )
    console.print(_raw_table(whole))
    console.print(f"methods run at {whole.used}: {whole.note}", style="dim", soft_wrap=True)
    for frames in (1, MANY):
        if any(run.frames == frames for run in whole.runs):
            console.print()
            console.print(_method_table(whole, frames))
    console.print(
        "efficiency: (images ÷ best raw rate) ÷ wall. CPU: the same of processor time. Shares are "
        "of the lanes' time.",
        style="dim",
        soft_wrap=True,
    )


def _raw_table(whole: Bench) -> Table:
    known = any(row.fraction is not None for row in whole.raw)
    table = _table("layout", "images/s", "GFLOP/s", *["of the GPU's peak"] * known, "")
    for row in whole.raw:
        table.add_row(
            str(row.layout),
            f"{row.images_s:,.0f}",
            "–" if row.flop_s is None else f"{row.flop_s / 1e9:,.0f}",
            *["–" if row.fraction is None else f"{row.fraction:.1%}"] * known,
            "fastest" if row.layout == whole.best else "",
        )
    return table


def _method_table(whole: Bench, frames: int) -> Table:
    title = "1 frame" if frames == 1 else f"{frames} frames at once"
    table = _table(
        title, "images", "wall, s", "efficiency", "CPU", "composing", "engine", "Python", "waiting",
        "MB to engine", "peak MB",
    )  # fmt: skip
    mine = [run for run in whole.runs if run.frames == frames]
    for method in dict.fromkeys(run.method for run in mine):
        runs = [run for run in mine if run.method == method]
        last = runs[-1]
        total = sum(last.host[name] for name in _STAGES) or 1.0
        share = {name: last.host[name] / total for name in _STAGES}
        efficiency, cpu = (
            whole.median(method, frames, name) for name in ("efficiency", "cpu_efficiency")
        )
        wall, top = whole.median(method, frames, "seconds"), whole.median(method, frames, "peak_mb")
        table.add_row(
            method,
            f"{last.images:,}",
            f"{wall:.2f}",
            f"{efficiency:.3f}",
            "–" if cpu is None else f"{cpu:.3f}",
            f"{share['composing']:.1%}",
            f"{share['running']:.1%}",
            f"{share['handing_back'] + share['resuming']:.1%}",
            f"{share['waiting']:.1%}",
            f"{last.bytes_in / 1e6:,.0f}",
            "–" if top is None else f"{top:.0f}",
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, name in enumerate(names):
        table.add_column(name, justify="right" if position else "left")
    return table
