"""What `whyfake export` prints: what it wrote, and how near that is to its source."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import stdout

if TYPE_CHECKING:
    from ..exporting import Exported


def print_exported(done: Exported, *, as_json: bool) -> None:
    """Print what was written and how near it is to its source; notes go to stderr."""
    error = Console(stderr=True, highlight=False, markup=False, emoji=False)
    for note in done.notes:
        error.print(Text(f"note: {note}"), style="yellow", soft_wrap=True)
    if as_json:
        print(json.dumps(done.to_dict(), ensure_ascii=False))
        return
    card, parity = done.card, done.card.parity
    spec = card.input
    batch = "any batch" if done.batch is None else f"batches of {done.batch}"
    batches = ", ".join(str(batch) for batch in parity["batches"])
    real = ", ".join(card.real)
    rows = {
        "wrote": f"{done.path} ({done.size / 1e6:.1f} MB, opset {done.opset}, {done.nodes} nodes)",
        "detector": f"{card.name}: RGB {spec.height}×{spec.width} in [0, 1], {batch}",
        "classes": f"{', '.join(card.classes)} (real: {real})",
        "parity": f"|Δ| of {parity['unit']} at most {parity['max_abs']:.1e}, on average "
        f"{parity['mean_abs']:.1e}; {parity['flips']} of {parity['inputs']} decisions flip "
        f"(batches of {batches})",
        "held to": str(parity["reference"]),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(Text(key, style="bold"), Text(value))
    stdout().print(table)
