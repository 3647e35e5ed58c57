"""What a run over clips shows: a bar on stderr, then a table of tracks; or JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..errors import EngineError, OutputError, UsageError, WhyfakeError
from ..media import printable
from ..video import FaceDone, FaceFailed, Output, Plan, clip_folders, explain_clip
from . import stdout

if TYPE_CHECKING:
    from ..media import Finder
    from ..runtime import Detector
    from ..video import ClipResult


def run_clips(
    clips: Sequence[Path],
    detector: Detector,
    out: Path,
    plan: Plan,
    finder: Finder,
    output: Output,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """Explain clips one after the other and show how it goes; returns how many had a failure.

    A clip that cannot be read is named, and the next one is taken. Raises what would stop every
    clip: UsageError, OutputError, EngineError.
    """
    failed = 0
    show = Show(detector, plan, finder, as_json=as_json, quiet=quiet)
    show.begin()
    for clip, folder in clip_folders(clips, out):
        try:
            with show.clip(clip):
                result = explain_clip(
                    detector, clip, folder, plan, finder, output=output, watcher=show
                )
        except (UsageError, OutputError, EngineError):
            raise
        except WhyfakeError as error:
            show.error(str(error))
            failed += 1
            continue
        show.result(result, output)
        failed += bool(result.failures)
    return failed


class Show:
    """Watches a run and shows it."""

    def __init__(
        self, detector: Detector, plan: Plan, finder: Finder, *, as_json: bool, quiet: bool
    ) -> None:
        self._detector, self._plan, self._finder = detector, plan, finder
        self._json, self._quiet = as_json, quiet
        self._error = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            console=self._error,
            transient=True,
            disable=quiet,
        )
        self._task: TaskID | None = None
        self._stage, self._total, self._done = "", 0, 0
        self._clip, self._seen, self._started = "", 0, 0.0

    def begin(self) -> None:
        """Say what is run, on what, and what finds the faces."""
        if self._quiet:
            return
        card, engine = self._detector.card, self._detector.engine
        self._error.print(
            f"{card.name} on {engine.device} ({engine.name}, {engine.lanes} lanes, batch "
            f"{engine.batch}), {', '.join(self._plan.request.methods)}, seed "
            f"{self._plan.request.seed}",
            style="dim",
            soft_wrap=True,
        )
        if self._finder.name == "cascade":
            self._error.print(
                "note: faces are looked for by scikit-image's cascade: frontal ones only, no "
                "landmarks, more false finds. YuNet does better: --face-model FILE",
                style="yellow",
                soft_wrap=True,
            )
        elif not self._finder.whole:
            self._error.print(f"faces: {self._finder.name}", style="dim", soft_wrap=True)
        if self._plan.margin is None and card.crop_margin is None and not self._finder.whole:
            self._error.print(
                f"note: the card has no crop_margin; {self._plan.margin_for(self._detector)} is "
                "taken: --margin",
                style="yellow",
                soft_wrap=True,
            )
        if card.notice:
            self._error.print(Text(f"note: {card.notice}"), style="yellow", soft_wrap=True)

    def clip(self, clip: Path) -> Progress:
        """The bar of one clip, to be entered."""
        for task in list(self._bar.task_ids):
            self._bar.remove_task(task)
        self._clip, self._task = printable(clip.name), None
        return self._bar

    def stage(self, name: str, total: int) -> None:
        """A pass begins."""
        self._stage, self._total, self._done = name, total, 0
        self._seen, self._started = self._detector.images_seen, time.monotonic()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"{self._clip}: {name}", total=total or None, words="")

    def step(self, done: int) -> None:
        """So many frames of the pass are done."""
        self._done = done + 1
        self._update(f"{self._done}/{self._total} frames{self._left()}")

    def tick(self) -> None:
        """The detector is being asked."""
        asked = self._detector.images_seen - self._seen
        rate = asked / max(time.monotonic() - self._started, 1e-9)
        words = f"{self._done}/{self._total} faces, {asked:,} images, {rate:.0f}/s"
        self._update(words + self._left())

    def show(self, event: FaceDone | FaceFailed) -> None:
        """A face is explained, or not."""
        self._done += 1
        if isinstance(event, FaceFailed):
            self.error(f"{event.face.identity}: {event.error}")
        elif self._json:
            print(json.dumps({"clip": self._clip, **event.record}, ensure_ascii=False), flush=True)
        self.tick()

    def _update(self, words: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=self._done, words=words)

    def _left(self) -> str:
        if not self._done or self._done >= self._total:
            return ""
        spent = time.monotonic() - self._started
        left = round(spent / self._done * (self._total - self._done))
        return f", {left // 60}:{left % 60:02d} left"

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self._error.print(Text(f"error: {text}"), style="red", soft_wrap=True)

    def result(self, result: ClipResult, output: Output) -> None:
        """A clip is done: its tracks, what was asked, and where everything is."""
        summary = result.summary
        if self._json:
            line = {"clip": self._clip, "folder": printable(result.folder), "summary": summary}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif not self._quiet:
            stdout().print(_table(summary))
        for note in summary["notes"]:
            self._error.print(Text(f"note: {note}"), style="yellow", soft_wrap=True)
        if self._quiet:
            return
        made = ["report.html", *([f"overlay.{output.overlay}"] if output.overlay else [])]
        self._error.print(Text(_words(summary)), style="dim", soft_wrap=True)
        self._error.print(
            Text(", ".join(printable(result.folder / name) for name in made)), soft_wrap=True
        )


def _table(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("clip", "face", "seconds", "P(fake) mean", "least to most"):
        table.add_column(name, overflow="fold")
    for name in ("sampled", "called fake", "explained"):
        table.add_column(name, justify="right")
    for track in summary["tracks"]:
        table.add_row(
            summary["clip"]["name"],
            str(track["track"]),
            f"{track['first']:.2f} to {track['last']:.2f}",
            f"{track['mean_p_fake']:.1%}",
            f"{track['least_p_fake']:.1%} to {track['most_p_fake']:.1%}",
            str(track["sampled"]),
            str(track["called_fake"]),
            str(track["explained"]),
        )
    return table


def _words(summary: dict[str, Any]) -> str:
    """What was asked, in a sentence or two."""
    words = (
        f"{summary['explained']} of {_many(summary['faces'], 'face')} in "
        f"{_many(summary['sampled_frames'], 'frame')} explained, "
        f"{_many(summary['images']['total'], 'image')} in all"
    )
    if summary["no_face"]:
        words += f"; no face in {_many(summary['no_face'], 'frame')}"
    starts = summary["adversary_by_start"]
    if starts["neighbour"]["frames"]:
        words += (
            f". Adversarial samples: {starts['own frame']['images_per_frame']:.0f} images a frame "
            f"from the frame itself, {starts['neighbour']['images_per_frame']:.0f} from a "
            f"neighbour's; {starts['own frame']['flipped'] + starts['neighbour']['flipped']} of "
            f"{starts['own frame']['frames'] + starts['neighbour']['frames']} flipped"
        )
    return words + "."


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
