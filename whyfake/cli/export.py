"""`whyfake export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import AsJson, Card, Seed, app

_MODEL, _CARD = "The model", "What the card says of it"


@app.command(
    epilog="Examples: [bold]whyfake export ff.ckpt --arch tf_efficientnetv2_b0 "
    "--classes Real,DeepFakes,FaceSwap --real Real --size 224 -o ff.onnx[/]   |   "
    "[bold]whyfake export my.models:meso --classes real,fake --real real --size 256 -o m.onnx[/]"
    "   |   [bold]whyfake export theirs.onnx --card theirs.card.json -o ours.onnx[/]"
)
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (with --arch), module:callable, a torch.export program.pt2, or an "
            "ONNX file to adopt."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.")],
    arch: Annotated[
        str | None,
        typer.Option(help="timm architecture of the checkpoint.", rich_help_panel=_MODEL),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="What stands before the weights' names in the checkpoint; found by itself.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle",
            help="Let code that is pickled in the file run. Only for files you would execute.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(help="Class names in the order of the scores.", rich_help_panel=_CARD),
    ] = None,
    real: Annotated[
        str | None, typer.Option(help="Which of them mean real.", rich_help_panel=_CARD)
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(help="For one score a picture: the class it scores.", rich_help_panel=_CARD),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help="What its scores are: logits, softmax, sigmoid or log_softmax.",
            rich_help_panel=_CARD,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Side of its pictures, or HEIGHTxWIDTH; timm knows it.", rich_help_panel=_CARD
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Per channel, subtracted after --range; timm knows it.", rich_help_panel=_CARD
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Per channel, divided by.", rich_help_panel=_CARD)
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range", help="What 0 and 1 become first: 0,255 or -1,1.", rich_help_panel=_CARD
        ),
    ] = None,
    color: Annotated[
        str | None, typer.Option(help="RGB or BGR, as it was trained.", rich_help_panel=_CARD)
    ] = None,
    crop_margin: Annotated[
        float | None,
        typer.Option(help="Side of its crops ÷ side of the face box.", rich_help_panel=_CARD),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name in results.", rich_help_panel=_CARD)
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--source", help="Where it is from.", rich_help_panel=_CARD)
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="Its licence.", rich_help_panel=_CARD)
    ] = None,
    card: Card = None,
    tolerance: Annotated[
        float, typer.Option(help="How far its scores may be from the source's.")
    ] = 1e-4,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Write a detector as one ONNX file, pixels to logits, after holding it to its source."""
    from ..exporting import export_detector
    from ..sources import ExportRequest
    from ..terminal.export import print_exported
    from ..terminal.steps import Steps

    said: dict[str, Any] = {
        "name": name,
        "classes": _names(classes),
        "real": _names(real),
        "crop_margin": crop_margin,
        "source": origin,
        "license": license_,
        "input": _given(
            **_sides(size),
            mean=_numbers(mean, 3, "--mean"),
            std=_numbers(std, 3, "--std"),
            range=_numbers(value_range, 2, "--range"),
            color=color,
        ),
        "output": _given(activation=activation, positive=positive),
    }
    request = ExportRequest(
        source=source,
        arch=arch,
        card=card,
        said=_given(**said),
        prefix=prefix,
        trust_pickle=trust_pickle,
        tolerance=tolerance,
        seed=seed,
    )
    with Steps() as steps:
        done = export_detector(request, out, steps.count)
    print_exported(done, as_json=json)


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, {})}


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(text: str | None, count: int, option: str) -> list[float] | None:
    """`0.5` or `0.485,0.456,0.406`; one number stands for all three channels."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1 and count == 3:
        values *= 3
    if len(values) != count:
        raise UsageError(f"{option} must be {count} numbers, comma-separated, got '{text}'")
    return values


def _sides(text: str | None) -> dict[str, int]:
    """`224` or `256x192` (height × width)."""
    if text is None:
        return {}
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise UsageError(f"--size must be a side such as 224, or HEIGHTxWIDTH, got '{text}'")
    return {"height": int(sides[0]), "width": int(sides[-1])}
