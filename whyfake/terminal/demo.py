"""What `whyfake demo` prints, and the browser it opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from . import stdout

if TYPE_CHECKING:
    from ..demo import Demo


def print_demo(demo: Demo, *, as_json: bool) -> None:
    """Print what the demonstration found, and where its page is."""
    if as_json:
        print(json.dumps(demo.to_dict(), ensure_ascii=False))
        return
    console = stdout()
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
