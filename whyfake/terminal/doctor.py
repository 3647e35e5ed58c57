"""What `whyfake doctor` prints."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..doctor import examine
from . import stdout

_STYLES = {"ok": "green", "note": "yellow", "absent": "dim", "missing": "red", "broken": "red"}


def examine_aloud() -> dict[str, Any]:
    """Examine, and say on stderr what is being tried."""
    console = Console(stderr=True, highlight=False)
    with console.status("looking …") as status:
        return examine(lambda text: status.update(f"{text} …"))


def print_doctor(report: dict[str, Any], *, as_json: bool) -> None:
    """Print what was found, group by group, and what mends what does not work."""
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    console, system = stdout(), report["system"]
    about = f"whyfake {system['whyfake']}, Python {system['python']}, {system['platform']}"
    console.print(f"{about}, {system['cpus']} CPUs", style="bold", soft_wrap=True)
    if system["jetson"]:
        console.print(f"Jetson: {system['jetson']}", soft_wrap=True)
    group = None
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("", "status", "name"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail", overflow="fold")
    for check in report["checks"]:
        style = _STYLES[check["status"]]
        table.add_row(
            Text(check["group"] if check["group"] != group else "", style="bold"),
            Text(check["status"], style=style),
            Text(check["name"]),
            Text(check["detail"], style=style if check["status"] in ("missing", "broken") else ""),
        )
        group = check["group"]
    console.print(table)
    _print_mends(console, report["checks"])
    good = "what is installed works" if report["ok"] else "something does not work: see above"
    console.print(good, style="green" if report["ok"] else "red")


def _print_mends(console: Console, checks: list[dict[str, Any]]) -> None:
    """The commands, each once, those that are needed first."""
    for title, statuses in (
        ("to mend it:", ("missing", "broken")),
        ("to add what is not there:", ("absent", "note")),
    ):
        names: dict[str, list[str]] = {}
        for check in checks:
            if check["mend"] and check["status"] in statuses:
                names.setdefault(check["mend"], []).append(check["name"])
        if names:
            console.print(title, style="bold")
        for mend, given in names.items():
            console.print(f"  {mend}", Text(f"  # {', '.join(given)}", style="dim"), soft_wrap=True)
