"""Charts as PNG: bars with intervals, and curves. Needs the extra `plot`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import require

Bars = Mapping[str, Sequence[tuple[float, float, float]]]
"""Method → (mean, low, high) for each series; NaN ends draw no interval."""


def bars(title: str, axis: str, series: Sequence[str], values: Bars) -> bytes:
    """Grouped horizontal bars, a group a method, a bar a series, with intervals."""
    figure, axes = _figure(title, 0.28 * len(values) * (len(series) + 1) + 1.4)
    step = 1 / (len(series) + 1)
    for number, name in enumerate(series):
        places = [row + number * step for row in range(len(values))]
        means = [points[number][0] for points in values.values()]
        ends = [points[number][1:] for points in values.values()]
        below = [mean - low for mean, (low, _) in zip(means, ends, strict=True)]
        above = [high - mean for mean, (_, high) in zip(means, ends, strict=True)]
        axes.barh(places, means, step * 0.9, xerr=[below, above], label=name, capsize=2)
    axes.set_yticks([row + step * (len(series) - 1) / 2 for row in range(len(values))])
    axes.set_yticklabels(list(values))
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.legend()
    return _png(figure)


def curves(
    title: str, across: str, up: str, x: Sequence[float], values: Mapping[str, Sequence[float]]
) -> bytes:
    """A line for each method over the same points."""
    figure, axes = _figure(title, 4.6)
    for number, (name, y) in enumerate(values.items()):
        style = "-" if name.endswith("-adv") else "--" if number < 8 else ":"
        axes.plot(x, y, style, marker="o", markersize=3, label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return _png(figure)


def _figure(title: str, height: float) -> tuple[Any, Any]:
    require("matplotlib", extra="plot", purpose="whyfake plot")
    from matplotlib.figure import Figure  # no pyplot: no window, no state

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()
