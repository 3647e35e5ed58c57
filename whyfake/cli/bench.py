"""`whyfake bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson, Card, Device, Threads, app


@app.command(
    epilog="Examples: [bold]whyfake bench detector.onnx[/]   |   "
    "[bold]whyfake bench detector.onnx --quick[/]   |   "
    "[bold]whyfake bench detector.onnx -m lime,rise --repeats 5 --out bench.json[/]"
)
def bench(
    detector: Annotated[str, typer.Argument(help="An ONNX file, an engine, or bundled.")] = (
        "bundled"
    ),
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Several by commas; paper: its eight; or all.")
    ] = "paper",
    images: Annotated[
        int | None,
        typer.Option(min=4, help="Images of each method, and the most of NES; their own budgets."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Runs of each method; the median is shown.")
    ] = 1,
    one_frame: Annotated[
        bool, typer.Option("--one-frame", help="One frame alone, not 32 at once besides.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="--images 256, --one-frame, short raw measurements.")
    ] = False,
    compose: Annotated[
        str, typer.Option(help="Copies on the host, as whole pictures; on the device; or auto.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write everything there, as JSON.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    card: Card = None,
    json: AsJson = False,
) -> None:
    """How fast the engine is, how much of that reaches each method, and the best layout.

    The layout (batch, lanes, threads) is remembered for this detector on this machine.
    """
    from ..benching import Opening, Shortened
    from ..request import parse_methods
    from ..terminal.bench import bench_aloud

    wanted = Shortened(
        methods=parse_methods(methods),
        images=images or (256 if quick else None),
        seconds=0.3 if quick else 1.0,
        repeats=repeats,
        many=not (quick or one_frame),
    )
    opening = Opening(detector, card, device, threads, compose)
    bench_aloud(opening, wanted, out, as_json=json)
