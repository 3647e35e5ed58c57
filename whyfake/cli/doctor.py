"""`whyfake doctor`."""

from __future__ import annotations

import typer

from .app import AsJson, app


@app.command(
    epilog="Examples: [bold]whyfake doctor[/]   |   "
    "[bold]whyfake doctor --json | jq '.checks[] | select(.mend)'[/]"
)
def doctor(json: AsJson = False) -> None:
    """Try out packages, GPUs, providers and the bundled detector; say what mends what is missing.

    Exit code 0: what is installed works. 1: something is broken, or nothing can run a detector.
    """
    from ..terminal.doctor import examine_aloud, print_doctor

    report = examine_aloud()
    print_doctor(report, as_json=json)
    if not report["ok"]:
        raise typer.Exit(1)
