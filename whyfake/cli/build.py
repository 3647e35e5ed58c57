"""`whyfake build`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import AsJson, Card, app

if TYPE_CHECKING:
    from ..perturbation import FloatArray


@app.command(
    epilog="Examples: [bold]whyfake build detector.onnx --out detector.engine[/]   |   "
    "[bold]whyfake build detector.onnx -o d.engine --precision int8 --calibration faces/[/]   |   "
    "[bold]whyfake explain face.png -d detector.engine[/]"
)
def build(
    model: Annotated[str, typer.Argument(help="An ONNX detector with its card, or bundled.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The engine to write; its card goes beside it.")
    ],
    precision: Annotated[
        str,
        typer.Option(help="What it computes in: fp32, tf32, fp16, bf16 or int8."),
    ] = "fp16",
    max_batch: Annotated[int, typer.Option(min=1, help="The largest batch it takes.")] = 256,
    best_batch: Annotated[
        int | None,
        typer.Option(min=1, help="The batch it is tuned for; measured where there is a GPU."),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="For int8: pictures, or folders of them, like those it will see."),
    ] = None,
    flavour: Annotated[
        str | None,
        typer.Option(help="tensorrt, or rtx (TensorRT for RTX); what is installed by default."),
    ] = None,
    gpu: Annotated[int, typer.Option(min=0, help="Which GPU to build for.")] = 0,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="Most GPU memory for layers' scratch, in MB.")
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="TensorRT's optimisation level: 0 builds fast, 5 runs."),
    ] = None,
    max_flips: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of decisions that may differ from float32."),
    ] = 0.05,
    card: Card = None,
    json: AsJson = False,
) -> None:
    """Compile a detector to a TensorRT engine, and hold it against the original."""
    from ..batch import expand
    from ..building import BuildRequest, build_engine
    from ..terminal.build import print_built
    from ..terminal.steps import Steps

    pictures = expand(calibration) if calibration else None

    def calibrate(size: tuple[int, int]) -> FloatArray:
        import numpy as np

        from ..media import fit_to, load_picture

        return np.stack([fit_to(load_picture(path).rgb, size) for path in pictures or ()])

    command = ["whyfake", "build", model, "--out", str(out), "--precision", precision]
    command += ["--max-batch", str(max_batch)]
    for option, value in (
        ("--best-batch", best_batch),
        ("--flavour", flavour),
        ("--workspace", workspace),
        ("--level", level),
        ("--card", card),
        *(("--calibration", path) for path in calibration or ()),
    ):
        command += [] if value is None else [option, str(value)]
    request = BuildRequest(
        model=model,
        out=out,
        precision=precision,
        max_batch=max_batch,
        best_batch=best_batch,
        calibration=calibrate if pictures else None,
        flavour=flavour,
        card=card,
        index=gpu,
        workspace=None if workspace is None else workspace << 20,
        level=level,
        max_flips=max_flips,
        command=shlex.join(command),
    )
    with Steps() as steps:
        built = build_engine(request, steps.show)
    print_built(built, as_json=json)
