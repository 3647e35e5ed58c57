"""The command `whyfake` itself, and the options that several of its commands share."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import WhyfakeError

if TYPE_CHECKING:
    from ..settings import Settings

_ORDER = (
    *(
        "explain",
        "demo",
        "video",
        "report",
        "methods",
        "inspect",
        "export",
        "build",
        "bench",
        "doctor",
    ),
    *("evaluate", "table", "plot", "compare", "merge"),
)
"""Commands as `whyfake --help` lists them: what most people want first."""


class _Group(TyperGroup):
    """Turns errors into one line on stderr and an exit code: 1 for the input, 2 for usage."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped; what was finished is whole", err=True)
            raise typer.Exit(130) from None
        except WhyfakeError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    name="whyfake",
    cls=_Group,
    help="Why does this deepfake detector call this frame fake?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Card = Annotated[
    Path | None,
    typer.Option(help="Detector card (JSON), in place of the one in the model or beside it."),
]
Model = Annotated[
    str,
    typer.Option(
        "--detector",
        "-d",
        help="An ONNX file with its card, an engine of `whyfake build`, or bundled: the "
        "demonstration detector that comes along.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, ort-tensorrt or tensorrt (engines); with :N for one of several GPUs."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU cores to use; all by default.")]
Adversary = Annotated[
    str | None,
    typer.Option(
        help="What makes the adversarial sample: nes, square, square-bisect or square-nes.",
        show_default="nes",
    ),
]
Target = Annotated[
    str, typer.Option(help="Class to explain: predicted, fake (all but real), or a class name.")
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="What hidden pixels show in the original forms: mean, zero, black, gray, blur, "
        "noise, adversarial, or a picture. Each method has its own."
    ),
]
Regions = Annotated[
    str | None, typer.Option(help="slic:50, grid:8, quickshift, or a label map FILE.npy.")
]
Samples = Annotated[
    int | None,
    typer.Option(min=4, help="Images each method may ask for (not the adversarial sample)."),
]
Preset = Annotated[str, typer.Option(help="Settings to start from: default, fast, video or paper.")]
Config = Annotated[
    Path | None,
    typer.Option(help="TOML file of settings; `whyfake methods --toml` prints a full one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def _version(show: bool) -> None:
    if show:
        from .. import __version__

        typer.echo(f"whyfake {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def settings_of(
    name: str, config: Path | None, samples: int | None, adversary: str | None
) -> Settings:
    """The settings that the options of several commands name, each over the one before it."""
    from ..settings import preset, read_settings

    settings = preset(name)
    if config is not None:
        settings = read_settings(config, settings)
    if samples is not None:
        settings = settings.with_budget(samples)
    return settings if adversary is None else replace(settings, adversary=adversary)
