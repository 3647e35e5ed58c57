"""A live line on stderr for work in steps: what is being done, how much of it, and for how long."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Shows one step at a time while it is open, and leaves nothing behind."""

    def __init__(self) -> None:
        # the stream of now: torch, as it traces, takes sys.stderr away, and the line must live on
        console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, detail="")

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, step: str, share: float | None = None, detail: str = "") -> None:
        """Show a step; `share`, 0 to 1, is how much of it is done, where that is known."""
        self._bar.update(
            self._task,
            description=step,
            completed=share or 0.0,
            total=None if share is None else 1.0,
            detail=detail,
        )

    def count(self, step: str, done: int, total: int) -> None:
        """Show a step by the images that it has asked; `total` 0 where it asks none."""
        share = done / total if total else None
        self.show(step, share, f"{done}/{total} images" if total else "")
