"""`whyfake video` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import (
    Adversary,
    AsJson,
    Baseline,
    Card,
    Config,
    Device,
    Model,
    Preset,
    Regions,
    Samples,
    Seed,
    Target,
    Threads,
    app,
    settings_of,
)

_FRAMES = "Frames to ask about"


@app.command(
    epilog="Examples: [bold]whyfake video clip.mp4 -d detector.onnx -o out[/]   |   "
    "[bold]whyfake video a.mp4 b.mp4 -d detector.onnx -m lime-adv,rise-adv --fps 2[/]   |   "
    "[bold]whyfake video clip.mp4 --every 10 --explain top:5 --json | jq .top_regions[/]"
)
def video(
    clips: Annotated[list[Path], typer.Argument(help="Clips: any file that FFmpeg reads.")],
    detector: Model = "bundled",
    method: Annotated[
        str,
        typer.Option("--method", "-m", help="Several by commas; paper: its eight; or all."),
    ] = "lime-adv",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results: a folder per clip in it.")
    ] = Path("whyfake-out"),
    every: Annotated[
        int | None, typer.Option(min=1, help=f"{_FRAMES}: one in so many.", show_default=False)
    ] = None,
    fps: Annotated[float | None, typer.Option(help=f"{_FRAMES}: so many a second.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help=f"{_FRAMES}: so many in all; 32 by default.")
    ] = None,
    explain: Annotated[
        str, typer.Option(help="Which of them to explain: fake, all, or top:K by P(fake).")
    ] = "fake",
    faces: Annotated[str, typer.Option(help="all, or largest: the largest in each frame.")] = "all",
    face_model: Annotated[
        Path | None,
        typer.Option(
            help="YuNet's ONNX file; or WHYFAKE_FACE_MODEL, or ~/.cache/whyfake. Without it a "
            "built-in cascade looks for frontal faces.",
            show_default=False,
        ),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Face boxes from a JSON file, in place of finding them.")
    ] = None,
    no_face: Annotated[
        bool, typer.Option("--no-face", help="The frames are face crops already.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Crop's side in face boxes; as the card says, or 1.3.", show_default=False
        ),
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Turn crops so that eyes are level.")] = (
        False
    ),
    smooth: Annotated[
        float, typer.Option(min=0, help="Smooth the heat shown over so many seconds; 0: not.")
    ] = 0.0,
    cold: Annotated[
        bool, typer.Option("--cold", help="Do not start from the neighbouring frame's sample.")
    ] = False,
    overlay: Annotated[str, typer.Option(help="webm, mp4 or none.")] = "webm",
    target: Target = "predicted",
    baseline: Baseline = None,
    regions: Regions = None,
    samples: Samples = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    preset: Preset = "video",
    adversary: Adversary = None,
    config: Config = None,
    card: Card = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")] = False,
    json: AsJson = False,
) -> None:
    """Explain clips: faces, scores over time, heat on every frame, an overlay and a page.

    Run again, it goes on where it was stopped.
    """
    from ..media import Sampling, make_finder
    from ..request import make_request
    from ..terminal.opening import first_record, open_aloud
    from ..terminal.video import run_clips
    from ..video import Output, Plan, clip_folders, parse_choice

    settings = settings_of(preset, config, samples, adversary)
    if every is fps is frames is None:
        frames = 32
    plan = Plan(
        request=make_request(
            method, target=target, baseline=baseline, regions=regions, seed=seed, settings=settings
        ),
        sampling=Sampling(every, fps, frames),
        choice=parse_choice(explain),
        faces=faces,
        margin=margin,
        align=align,
        warm=not cold,
    )
    output = Output(None if overlay == "none" else overlay, smooth)
    finder = make_finder(model=face_model, boxes=boxes, whole=no_face)
    begun = first_record(folder / "run.json" for _, folder in clip_folders(clips, out))
    # of --every and --fps nothing is known yet
    planned = len(clips) * (frames or 0) * plan.request.images()
    with open_aloud(
        detector, card=card, device=device, threads=threads, planned=planned, begun=begun
    ) as opened:
        failed = run_clips(clips, opened, out, plan, finder, output, as_json=json, quiet=quiet)
    if failed:
        raise typer.Exit(1)


@app.command(
    epilog="Example: [bold]whyfake report whyfake-out/clip[/]   writes report.html in it anew"
)
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="A clip's folder of results, or a folder of such folders.")
    ],
) -> None:
    """Write the page of a clip's results again, from what stands in its folder."""
    from ..video import result_folders, write_page
    from ..video.folder import ClipFolder

    for folder in result_folders(folders):
        write_page(ClipFolder(folder))
        typer.echo(str(folder / "report.html"))
