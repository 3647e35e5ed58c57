"""`whyfake explain`, `demo`, `inspect` and `methods`."""

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


@app.command(
    epilog="Examples: [bold]whyfake explain face.png[/]   |   "
    "[bold]whyfake explain frames/*.png -d detector.onnx -m all -o out --seed 7[/]   |   "
    "[bold]whyfake explain face.png -d detector.onnx -m rise --json | jq .regions[0][/]"
)
def explain(
    pictures: Annotated[
        list[Path],
        typer.Argument(
            help="Face crops: picture files, folders of them, patterns in quotes, lists (.txt), "
            "or - for a list on stdin."
        ),
    ],
    detector: Model = "bundled",
    method: Annotated[
        str,
        typer.Option("--method", "-m", help="Several by commas; paper: its eight; or all."),
    ] = "lime-adv",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path(
        "whyfake-out"
    ),
    target: Target = "predicted",
    baseline: Baseline = None,
    regions: Regions = None,
    samples: Samples = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    preset: Preset = "default",
    adversary: Adversary = None,
    config: Config = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Skip pictures that are finished in --out; other settings: an error."
        ),
    ] = False,
    card: Card = None,
    json: AsJson = False,
) -> None:
    """Explain pictures: heat maps, ranked regions and the sample that the detector calls real."""
    from ..batch import expand, explain_to_folder
    from ..index import unfinished, write_index
    from ..request import check_request, make_request
    from ..results import Results
    from ..terminal.opening import first_record, open_aloud, tune_aloud
    from ..terminal.run import Report

    settings = settings_of(preset, config, samples, adversary)
    request = make_request(
        method, target=target, baseline=baseline, regions=regions, seed=seed, settings=settings
    )
    sources = expand(pictures)
    begun = first_record(sorted(out.glob("*/*/explanation.json"))) if resume else None
    with open_aloud(
        detector,
        card=card,
        device=device,
        threads=threads,
        begun=begun,
    ) as opened:
        check_request(request, opened)
        results = Results(out)
        todo = unfinished(sources, request, opened, results) if resume else sources
        tune_aloud(opened, len(todo) * request.images())
        with Report(len(todo), request, opened, as_json=json) as report:
            for outcome in explain_to_folder(opened, todo, request, results, report.tick):
                report.show(outcome)
        failed = {failure.source: str(failure.error) for failure in report.failures}
        write_index(results, sources, request, failed)
        report.close(out, skipped=len(sources) - len(todo))
    if report.failures:
        raise typer.Exit(1)


@app.command(
    epilog="Examples: [bold]whyfake demo --open[/]   |   "
    "[bold]whyfake demo -d detector.onnx --out my-demo --json | jq .findings[/]"
)
def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for page and pictures; an earlier demo in it is replaced."
        ),
    ] = Path("whyfake-demo"),
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    detector: Model = "bundled",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    json: AsJson = False,
) -> None:
    """Forge a portrait, ask why it is called fake, and hold the answers to the truth."""
    from ..demo import demo_request, run_demo
    from ..results import Results
    from ..runtime import load_detector
    from ..terminal.demo import open_page, print_demo
    from ..terminal.run import Report

    request = demo_request(seed)
    # at the rule's layout: the same seed gives the same page, whatever was measured before
    with load_detector(detector, device=device, threads=threads, tune=False) as opened:
        results = Results(out)
        with Report(1, request, opened, as_json=json) as report:
            found = run_demo(opened, request, results, report.tick)
    print_demo(found, as_json=json)
    if show:
        open_page(results.folder / "index.html")


@app.command(epilog="Example: [bold]whyfake inspect detector.onnx --json[/]")
def inspect(
    model: Annotated[str, typer.Argument(help="An ONNX file, an engine, or bundled.")],
    card: Card = None,
    json: AsJson = False,
) -> None:
    """Show a detector's card, graph and hash, and what is missing; what an engine was built for."""
    from ..inspection import inspect_model
    from ..terminal.inspection import print_inspection

    report = inspect_model(model, card)
    print_inspection(report, as_json=json)
    if report["problems"]:
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]whyfake methods --toml > settings.toml[/]")
def methods(
    preset: Annotated[str, typer.Option(help="default, fast, video or paper.")] = "default",
    toml: Annotated[bool, typer.Option("--toml", help="Print all settings as TOML.")] = False,
    json: AsJson = False,
) -> None:
    """List the methods, what they cost in images, and every setting."""
    from ..settings import preset as preset_of
    from ..terminal.inspection import print_methods

    settings = preset_of(preset)
    if toml:
        typer.echo(settings.to_toml(), nl=False)
    else:
        print_methods(settings, as_json=json)
