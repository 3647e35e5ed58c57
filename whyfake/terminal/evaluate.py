"""What `whyfake evaluate`, `merge` and `compare` print: progress on stderr, tables on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..evaluation import Done, Stored
from ..evaluation.facts import gather
from ..evaluation.tables import tables
from ..report.tables import markdown

if TYPE_CHECKING:
    from ..evaluate.manifest import Manifest
    from ..evaluation import Plan
    from ..evaluation.crew import Evaluators
    from ..ledger import Ledger, Merged


class EvaluationReport:
    """Shows an evaluation: a live bar on stderr, at its end the tables and what was left out."""

    def __init__(self, manifest: Manifest, plan: Plan, crew: Evaluators, *, as_json: bool) -> None:
        self.failures: list[Done] = []
        self._manifest, self._plan, self._crew = manifest, plan, crew
        self._images = 0
        self._json = as_json
        self._resumed = 0
        self._error = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pictures, {task.fields[seen]:,} images asked"),
            TimeElapsedColumn(),
            console=self._error,
            transient=True,
        )
        self._task = self._bar.add_task("evaluating", total=len(manifest.entries), seen=0)

    def __enter__(self) -> EvaluationReport:
        facts, count = self._crew.facts, len(self._manifest.entries)
        self._say(
            f"{facts['name']} on {facts['device']} ({facts['engine']}), {count} pictures, "
            f"{', '.join(self._plan.methods)}, at most {self._plan.images(count):,} images",
            "dim",
        )
        if self._crew.notice:
            self._say(f"note: {self._crew.notice}", "yellow")
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tick(self) -> None:
        """Move the bar."""
        self._bar.update(self._task, seen=self._images)

    def show(self, event: Stored | Done) -> None:
        """Take in one event of the run."""
        if isinstance(event, Stored):
            self._images += event.record.images
            if self._json:
                record = event.record
                line: dict[str, Any] = {
                    "path": event.path,
                    "kind": record.kind,
                    "method": record.method,
                }
                line |= {"seed": record.seed, "value": record.value, "images": record.images}
                print(json.dumps(line, ensure_ascii=False), flush=True)
            return
        self._bar.advance(self._task)
        self._resumed += event.resumed
        if event.error is not None:
            self.failures.append(event)
            self._say(f"error: {event.error}", "red")

    def close(self, ledger: Ledger, out: Path) -> None:
        """Print the tables, where the results are, and what was left out."""
        self._bar.stop()
        if not self._json:
            print(markdown(tables(gather(ledger, self._crew.sha256))), end="")
        resumed = f", {self._resumed} pictures were done before" if self._resumed else ""
        self._say(f"{out}/: {self._images:,} images asked{resumed}", "dim")
        if self._manifest.problems:
            self._say(f"{len(self._manifest.problems)} left out:")
            for problem in self._manifest.problems:
                self._say(f"  {problem}", "red")
        if self.failures:
            self._say(f"{len(self.failures)} of {len(self._manifest.entries)} pictures failed:")
            for failure in self.failures:
                self._say(f"  {failure.error}", "red")

    def _say(self, line: str, style: str = "") -> None:
        self._error.print(Text(line), style=style, soft_wrap=True)


def print_merged(folder: Path, merged: Merged) -> None:
    """What a merge took from one folder."""
    print(f"{folder}: {merged.added:,} results taken over, {merged.equal:,} were there already")
    if merged.differing:
        Console(stderr=True, highlight=False, markup=False, emoji=False).print(
            Text(
                f"{folder}: {merged.differing:,} results differ from those that were there, which "
                "stay: the runs were made on machines or versions that round differently"
            ),
            style="yellow",
            soft_wrap=True,
        )
