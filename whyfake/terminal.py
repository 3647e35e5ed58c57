"""What the command line prints: progress on stderr, tables or JSON lines on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

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

from .batch import Failure, PictureDone, Saved
from .explainers import ADVERSARIAL, EXPLAINERS, options

if TYPE_CHECKING:
    from .demo import Demo
    from .explanation import Explanation
    from .request import Request
    from .runtime import Detector
    from .settings import Settings


def _stdout() -> Console:
    """The terminal, or 140 columns where the output is a file or a pipe."""
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, highlight=False, markup=False, emoji=False)


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
            f"{engine.batch}), {', '.join(self._request.methods)}, seed {self._request.seed}",
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

    def close(self, out: Path) -> None:
        """Print the table, where the results are, and what failed."""
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
        _stdout().print(table)


def _cells(saved: Saved) -> list[str]:
    explanation = saved.explanation
    # a weight of 1e-15 is rounding, not a region that speaks for the target
    best = [r for r in explanation.regions[:3] if r["score"] > 1e-9 or not explanation.signed]
    return [
        saved.folder.parent.name,
        f"{explanation.predicted} {explanation.scores[explanation.predicted]:.1%}",
        explanation.method,
        flipped_in_words(explanation),
        ", ".join(f"{r['region']} ({r['score']:.2g})" for r in best) or "none",
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


def print_demo(demo: Demo, *, as_json: bool) -> None:
    """Print what the demonstration found, and where its page is."""
    if as_json:
        print(json.dumps(demo.to_dict(), ensure_ascii=False))
        return
    console = _stdout()
    p_fake = ", ".join(f"{name} {p:.1%}" for name, p in demo.p_fake.items())
    console.print(f"P(fake): {p_fake}; {demo.area:.0%} of the frame is forged")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method")
    for name in ("heat in the true region", "over chance", "images", "seconds"):
        table.add_column(name, justify="right")
    for row in demo.findings:
        energy = "none" if row.energy is None else f"{row.energy:.0%}"
        gain = "–" if row.gain is None else f"{row.gain:.1f}×"
        table.add_row(row.method, energy, gain, f"{row.images:,}", f"{row.seconds:.1f}")
    console.print(table)
    console.print(f"look at {demo.page}", soft_wrap=True)


def open_page(path: Path) -> None:
    """Show a page in the user's browser, or say that there is none."""
    import webbrowser

    if not webbrowser.open(path.absolute().as_uri()):
        Console(stderr=True, highlight=False).print("no browser found here", style="yellow")


def print_inspection(report: dict[str, Any], *, as_json: bool) -> None:
    """Print what `inspect_model` found."""
    console = _stdout()
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    rows = {
        "model": report["model"],
        "sha256": report["sha256"],
        "graph": f"opset {report['opset']}, {report['nodes']} nodes",
        "inputs": "; ".join(_tensor_line(t) for t in report["inputs"]),
        "outputs": "; ".join(_tensor_line(t) for t in report["outputs"]),
        "card": report["card_from"] or "none",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(Text(key, style="bold"), Text(value))
    console.print(table)
    if report["card"] is not None:
        console.print_json(json.dumps(report["card"]))
    for problem in report["problems"]:
        console.print(Text(f"problem: {problem}"), style="red", soft_wrap=True)
    if "card_start" in report:
        console.print("a card to start from (check every value):")
        console.print_json(json.dumps(report["card_start"]))
    for advice in report["advice"]:
        console.print(Text(f"advice: {advice}"), style="yellow", soft_wrap=True)
    if not report["problems"]:
        console.print("card and graph agree", style="green")


def _tensor_line(tensor: dict[str, Any]) -> str:
    shape = "×".join("?" if dim is None else str(dim) for dim in tensor["shape"])
    ending = f", ends in {tensor['activation']}" if tensor.get("activation") else ""
    return f"{tensor['name']} {tensor['dtype']} {shape}{ending}"


def print_methods(settings: Settings, *, as_json: bool) -> None:
    """Print every method with its cost in images, baseline and settings."""
    rows: list[dict[str, Any]] = [
        {
            "method": name,
            "images": settings.explainer(name).images(),
            "baseline": EXPLAINERS[name].baseline,
            "adversarial": name + ADVERSARIAL,
            "settings": options(settings.explainer(name)),
        }
        for name in EXPLAINERS
    ]
    nes: dict[str, Any] = {"images": settings.nes.images(), "settings": options(settings.nes)}
    if as_json:
        print(json.dumps({"methods": rows, "nes": nes, "regions": settings.regions}))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("method", "adversarial form", "images", "baseline", "settings"):
        table.add_column(column, justify="right" if column == "images" else "left")
    for row in rows:
        table.add_row(
            row["method"],
            row["adversarial"],
            f"{row['images']:,}",
            row["baseline"],
            _settings_line(row["settings"]),
        )
    table.add_row(
        "nes", "makes their sample", f"≤ {nes['images']:,}", "", _settings_line(nes["settings"])
    )
    _stdout().print(table)


def _settings_line(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in settings.items()
    )
