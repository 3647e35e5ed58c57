"""Tables as text: Markdown, CSV, LaTeX or HTML."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Interval(Protocol):
    """A mean with its interval, NaN where there is none."""

    @property
    def mean(self) -> float:
        """The mean."""
        ...

    @property
    def low(self) -> float:
        """The interval's lower end."""
        ...

    @property
    def high(self) -> float:
        """The interval's upper end."""
        ...


Cell = str | int | float | Interval


@dataclass(frozen=True)
class Table:
    """A title, column names, rows as long as these, and what a reader must know."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


def text(cell: Cell) -> str:
    """A cell as a person reads it: three digits, the interval in brackets, – for NaN."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return number(cell)
    if math.isnan(cell.low):
        return number(cell.mean)
    return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"


def number(value: float) -> str:
    """Three digits or so: 0.123, 12.3, 1,234; – for NaN."""
    if math.isnan(value):
        return "–"
    if abs(value) < 10:
        return f"{value:.2f}" if abs(value) >= 0.995 else f"{value:.3f}"
    return f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def markdown(tables: list[Table]) -> str:
    """GitHub's tables under headings."""
    parts = []
    for table in tables:
        lines = [f"## {table.title}", ""]
        lines += [table.note, ""] if table.note else []
        lines.append(_bar(table.columns))
        lines.append(_bar(["---" if index == 0 else "---:" for index in range(len(table.columns))]))
        lines += [_bar([text(cell).replace("|", "\\|") for cell in row]) for row in table.rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _bar(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def comma_separated(tables: list[Table]) -> str:
    """One line a row, the table's title first; a mean with an interval takes three columns.

    Numbers in full, empty where NaN.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for index, table in enumerate(tables):
        if index:
            writer.writerow([])
        spread = [
            any(isinstance(row[i], Interval) for row in table.rows)
            for i in range(len(table.columns))
        ]
        heads = ["table"]
        for name, wide in zip(table.columns, spread, strict=True):
            heads += [name, f"{name}, low", f"{name}, high"] if wide else [name]
        writer.writerow(heads)
        for row in table.rows:
            cells: list[str] = [table.title]
            for cell in row:
                cells += _plain(cell)
            writer.writerow(cells)
    return stream.getvalue()


def _plain(cell: Cell) -> list[str]:
    if isinstance(cell, Interval):
        return [_full(cell.mean), _full(cell.low), _full(cell.high)]
    return [_full(cell) if isinstance(cell, float) else str(cell)]


def _full(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def latex(tables: list[Table]) -> str:
    """`tabular` in `table`, with the note as caption; needs no package but an encoding of UTF-8."""
    parts = []
    for table in tables:
        heads = " & ".join(_tex(name) for name in table.columns)
        body = [" & ".join(_tex(text(cell)) for cell in row) + r" \\" for row in table.rows]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    rf"\caption{{{_tex(table.title)}. {_tex(table.note)}}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
                    r"\hline",
                    rf"{heads} \\",
                    r"\hline",
                    *body,
                    r"\hline",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "ε": r"$\varepsilon$",
    "∞": r"$\infty$",
}


def _tex(plain: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in plain)


def page(tables: list[Table]) -> str:
    """A page of its own that fetches nothing."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>whyfake evaluation</title><style>"
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}div{overflow-x:auto}"
        "th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ccc}"
        "td{white-space:nowrap}"
        "th:first-child,td:first-child{text-align:left}p{color:#555;max-width:60rem}</style>"
    ]
    for table in tables:
        head = "".join(f"<th>{html.escape(name)}" for name in table.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text(cell))}" for cell in row) for row in table.rows
        )
        parts.append(
            f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
            f"<div><table><thead><tr>{head}</thead><tbody>{rows}</tbody></table></div>"
        )
    return "\n".join(parts) + "\n"


FORMATS: dict[str, Callable[[list[Table]], str]] = {
    "md": markdown,
    "csv": comma_separated,
    "latex": latex,
    "html": page,
}
