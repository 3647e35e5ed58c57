"""What a run of explanations shows: a live bar on stderr, then a table, or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..batch import Failure, PictureDone, Saved
from . import stdout

if TYPE_CHECKING:
    from ..explanation import Explanation
    from ..request import Request
    from ..runtime import Detector


class Report:
    """Shows a run: a live bar on stderr, and at its end a table, or JSON lines as they come."""

    def __init__(
        self, pictures: int, request: Request, detector: Detector, *, as_json: bool
    ) -> None:
        self.failures: list[Failure] = []
        self._rows: list[Saved] = []
        self._request = request
        self._detector = detector
        self._json = as_json
        self._error = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("images, {task.fields[rate]:.0f}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._error,
            transient=True,
        )
        self._spent: dict[str, int] = {}
        self._pictures, self._done = pictures, 0
        self._expected = pictures * request.images()
        self._task = self._bar.add_task(self._label(), total=self._expected, rate=0.0)

    def __enter__(self) -> Report:
        card = self._detector.card.name
        engine = self._detector.engine
        self._error.print(
            f"{card} on {engine.device} ({engine.name}, {engine.lanes} lanes, batch "
            f"{engine.batch}), {', '.join(self._request.methods)}, at most "
            f"{self._request.images():,} images a picture, seed {self._request.seed}",
            style="dim",
            soft_wrap=True,
        )
        if self._detector.card.notice:
            self._error.print(
                Text(f"note: {self._detector.card.notice}"), style="yellow", soft_wrap=True
            )
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if kind is not None and self._rows:
            self._table()

    def _label(self) -> str:
        return f"{self._done}/{self._pictures} pictures"

    def tick(self) -> None:
        """Move the bar."""
        task = self._bar.tasks[0]
        seen = self._detector.images_seen
        elapsed = task.elapsed or 1e-9
        self._bar.update(
            self._task, completed=seen, total=max(self._expected, seen), rate=seen / elapsed
        )

    def show(self, outcome: Saved | Failure | PictureDone) -> None:
        """Take in one result of the run."""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            self._expected -= self._request.images() - self._spent.pop(outcome.source, 0)
            self._error.print(Text(f"error: {outcome.error}"), style="red", soft_wrap=True)
            self._spent[outcome.source] = self._request.images()
        elif isinstance(outcome, PictureDone):
            # NES stops as soon as it can: what it did not ask for will not come
            self._expected -= self._request.images() - self._spent.pop(outcome.source, 0)
            self._done += 1
            self._bar.update(self._task, description=self._label())
        else:
            explanation = outcome.explanation
            source = explanation.source
            self._spent[source] = self._spent.get(source, 0) + explanation.images
            self._rows.append(outcome)
            if self._json:
                print(json.dumps(explanation.to_dict(), ensure_ascii=False), flush=True)

    def close(self, out: Path, skipped: int = 0) -> None:
        """Print the table, where the results are, what was finished before, and what failed."""
        if skipped:
            self._error.print(f"{skipped} pictures were finished before", style="dim")
        if self._rows:
            self._table()
            self._error.print(
                f"{len(self._rows)} explanations in {out}/ "
                f"({self._detector.images_seen:,} images asked)",
                style="dim",
                soft_wrap=True,
            )
        if self.failures:
            self._error.print(f"{len(self.failures)} of {self._pictures} pictures failed:")
            for failure in self.failures:
                self._error.print(Text(f"  {failure.error}"), style="red", soft_wrap=True)

    def _table(self) -> None:
        if self._json:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("picture", "class and score", "method", "flipped?", "top regions"):
            table.add_column(name, overflow="fold")
        for name in ("images", "seconds"):
            table.add_column(name, justify="right")
        order = {name: rank for rank, name in enumerate(self._request.methods)}
        for saved in sorted(
            self._rows, key=lambda s: (s.explanation.source, order[s.explanation.method])
        ):
            table.add_row(*_cells(saved))
        stdout().print(table)


def _cells(saved: Saved) -> list[str]:
    explanation = saved.explanation
    # a weight of 1e-15 is rounding, not a region that speaks for the target
    best = [r for r in explanation.regions[:3] if r["score"] > 1e-9 or not explanation.signed]
    return [
        saved.folder.parent.name,
        f"{explanation.predicted} {explanation.scores[explanation.predicted]:.1%}",
        explanation.method,
        flipped_in_words(explanation),
        (", ".join(f"{r['region']} ({r['score']:.2g})" for r in best) or "none")
        + ("" if explanation.confidence is None else f"; {explanation.confidence:.0%} sure"),
        f"{explanation.images:,}",
        f"{explanation.seconds:.1f}",
    ]


def flipped_in_words(explanation: Explanation) -> str:
    """`yes, 7 steps`, `NO`, `nothing to flip`, or a dash where there is no adversarial sample."""
    if explanation.adversary is not None:
        steps = explanation.adversary.steps
        if explanation.adversary.flipped:
            return f"yes, {steps} step{'s' if steps != 1 else ''}"
        return "NO"
    return "nothing to flip" if explanation.called_real else "–"
