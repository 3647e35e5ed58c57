"""`whyfake evaluate`, `table`, `plot`, `compare` and `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import (
    Adversary,
    AsJson,
    Card,
    Config,
    Device,
    Model,
    Preset,
    Samples,
    Seed,
    Threads,
    app,
    settings_of,
)

Folder = Annotated[Path, typer.Argument(help="A folder that `whyfake evaluate` wrote.")]


@app.command(
    epilog="Examples: [bold]whyfake evaluate frames.csv -d detector.onnx -o eval[/]   |   "
    "[bold]whyfake evaluate --ffpp FF++ -d detector.onnx -m lime,lime-adv --suite paper -o eval[/]"
)
def evaluate(
    manifest: Annotated[
        Path | None,
        typer.Argument(
            help="CSV with the columns path and label, and if wanted group, clip, mask, landmarks."
        ),
    ] = None,
    detector: Model = "bundled",
    methods: Annotated[
        str,
        typer.Option("--methods", "-m", help="Several by commas; paper: its eight; or all."),
    ] = "paper",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the ledger; a run in it goes on.")
    ] = Path("whyfake-eval"),
    suite: Annotated[
        str, typer.Option(help="What to measure: flip-rate, localisation, paper or all.")
    ] = "all",
    ffpp: Annotated[
        Path | None, typer.Option(help="FaceForensics++ face crops, in place of a manifest.")
    ] = None,
    ffpp_list: Annotated[
        Path | None,
        typer.Option(help="The paper's space-separated list of test frames, for --ffpp."),
    ] = None,
    dfdc: Annotated[Path | None, typer.Option(help="DFDC face crops.")] = None,
    celeb_df: Annotated[Path | None, typer.Option(help="Celeb-DF face crops.")] = None,
    frames: Annotated[
        int, typer.Option(min=1, help="Pictures a video, in these three layouts.")
    ] = 10,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pictures of the manifest that are no use.")
    ] = False,
    samples: Samples = None,
    seed: Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Explain with so many seeds, to measure stability.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(help="Spread it over a Ray cluster: its address, or local for this machine."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers for --ray; as many as fit by default.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    preset: Preset = "default",
    adversary: Adversary = None,
    config: Config = None,
    card: Card = None,
    json: AsJson = False,
) -> None:
    """Does the explanation tell the truth? Judge methods on many pictures; resumable."""
    from ..errors import UsageError
    from ..evaluate.manifest import fitted, refuse
    from ..evaluation import make_plan
    from ..evaluation.crew import LocalCrew, Opening
    from ..evaluation.sources import manifest_from
    from ..evaluation.spread import Crew
    from ..ledger import Ledger, known_detectors
    from ..terminal.evaluate import EvaluationReport
    from ..terminal.opening import say_layout

    if workers is not None and ray is None:
        raise UsageError("--workers is for --ray: give its address, or --ray local")
    settings = settings_of(preset, config, samples, adversary)
    plan = make_plan(methods, suite=suite, seed=seed, seeds=seeds, settings=settings)
    listed = manifest_from(
        manifest, ffpp=ffpp, ffpp_list=ffpp_list, dfdc=dfdc, celeb_df=celeb_df, frames=frames
    )
    begun = known_detectors(out)
    planned = plan.images(len(listed.entries))
    opening = Opening(detector, card, device, threads, planned, begun)
    opened: LocalCrew | Crew = LocalCrew(opening) if ray is None else Crew(ray, opening, workers)
    if isinstance(opened, LocalCrew):
        say_layout(opened.detector)
    facts: dict[str, Any] = opened.facts
    with opened as crew:
        usable = fitted(listed, facts["classes"], facts["real"])
        refuse(usable, skip_bad=skip_bad)
        with (
            Ledger(out, write=True) as ledger,
            EvaluationReport(usable, plan, crew, as_json=json) as report,
        ):
            for event in crew.evaluate(usable.entries, plan, ledger, report.tick):
                report.show(event)
            report.close(ledger, out)
    if report.failures or usable.problems:
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]whyfake table eval --format latex > table.tex[/]")
def table(
    folder: Folder,
    form: Annotated[str, typer.Option("--format", "-f", help="md, csv, latex or html.")] = "md",
) -> None:
    """Print the tables of an evaluation, also of one that is still running."""
    from ..errors import UsageError, unknown
    from ..evaluation.facts import gather
    from ..evaluation.tables import tables
    from ..ledger import Ledger
    from ..report.tables import FORMATS

    if form not in FORMATS:
        raise UsageError(unknown("format", form, FORMATS))
    with Ledger(folder) as ledger:
        found = ledger.detectors()
        made = [t for name in found for t in tables(gather(ledger, name), several=len(found) > 1)]
    typer.echo(FORMATS[form](made), nl=False)


@app.command(epilog="Example: [bold]whyfake plot eval --out figures[/]")
def plot(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the pictures; FOLDER/plots.")
    ] = None,
) -> None:
    """Draw an evaluation: bars with intervals, accuracy over radii. Needs the extra plot."""
    from ..errors import OutputError
    from ..evaluation.facts import gather
    from ..evaluation.plots import plot as draw
    from ..ledger import Ledger

    with Ledger(folder) as ledger:
        found = {name: gather(ledger, name) for name in ledger.detectors()}
    place = out or folder / "plots"
    written = [
        path
        for facts in found.values()
        for path in draw(facts, place / facts.detector["name"] if len(found) > 1 else place)
    ]
    if not written:
        raise OutputError(f"{folder}: no attack in it yet: nothing to draw")
    for path in written:
        typer.echo(path)


@app.command(
    epilog="Examples: [bold]whyfake compare eval-fp32 eval-fp16[/]   |   "
    "[bold]whyfake compare eval:lime eval:lime-adv[/]"
)
def compare(
    a: Annotated[str, typer.Argument(help="FOLDER of an evaluation, or FOLDER:METHOD.")],
    b: Annotated[str, typer.Argument(help="What to hold against it, on the same pictures.")],
    form: Annotated[str, typer.Option("--format", "-f", help="md, csv, latex or html.")] = "md",
) -> None:
    """Compare two detectors, methods or precisions: maps, decisions, paired differences."""
    from ..errors import UsageError, unknown
    from ..evaluation.compare import compare as held
    from ..evaluation.compare import side
    from ..report.tables import FORMATS

    if form not in FORMATS:
        raise UsageError(unknown("format", form, FORMATS))
    typer.echo(FORMATS[form](held(side(a), side(b))), nl=False)


@app.command(epilog="Example: [bold]whyfake merge machine1 machine2 --out both[/]")
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `whyfake evaluate` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to merge into.")],
) -> None:
    """Merge the results of several evaluations into one ledger."""
    from ..ledger import Ledger
    from ..terminal.evaluate import print_merged

    with Ledger(out, write=True) as ledger:
        for folder in folders:
            with Ledger(folder) as other:
                print_merged(folder, ledger.merge(other))
