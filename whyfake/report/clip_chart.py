"""Charts of a clip as plain SVG in percent of their box: they fit any width without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from .scene import Curve

LEFT, RIGHT, TOP, BOTTOM = 0.0, 100.0, 6.0, 94.0  # percent of the plot's box


def timeline(curves: Sequence[Curve], gaps: Sequence[float], duration: float, title: str) -> str:
    """P(fake) over time, a line a track; `gaps` are sampled times without any face.

    A point is full where the frame was explained, a ring where it was only scored. A line breaks
    where a face is away for more than three times the usual step.
    """
    marks = []
    for share in (0.0, 0.5, 1.0):
        kind = "half" if share == 0.5 else "grid"
        y = f"{_y(share):.2f}%"
        marks.append(f'<line class="{kind}" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
    for time in gaps:
        x = f"{_x(time, duration):.3f}%"
        marks.append(f'<line class="gap" x1="{x}" x2="{x}" y1="{TOP}%" y2="{BOTTOM}%"/>')
    for curve in curves:
        marks.append(f'<g class="track t{_shade(curve.track)}">{_curve(curve, duration)}</g>')
    marks.append('<line id="playhead" x1="-9" x2="-9" y1="0" y2="100%"/>')
    return (
        f'<svg id="timeline" class="timeline" role="img" aria-label="{escape(title, quote=True)}">'
        + "".join(marks)
        + "</svg>"
    )


def ticks(duration: float) -> list[tuple[float, str]]:
    """Where the time axis has its words: percent, and seconds as text; six at the most."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
    step = next((s for s in steps if duration / s <= 5.5), duration / 5)
    count = int(duration / step + 1e-9)
    return [(_x(k * step, duration), _clock(k * step, step)) for k in range(count + 1)]


def parts_grid(parts: Sequence[str], columns: Sequence[Mapping[str, float]]) -> str:
    """A row a part of the face, a column an explained frame: how much of the best regions is there.

    The SVG of one row each, as (name, picture, mean) table cells stand beside it on the page.
    """
    width = 100 / max(len(columns), 1)
    rows = []
    for part in parts:
        shares = [column.get(part, 0.0) for column in columns]
        cells = "".join(
            f'<rect x="{index * width:.3f}%" y="0" width="{width + 0.05:.3f}%" height="100%" '
            f'fill-opacity="{share:.3f}"/>'
            for index, share in enumerate(shares)
            if share > 0
        )
        mean = sum(shares) / max(len(shares), 1)
        rows.append(
            f'<tr><th scope="row">{escape(part)}</th>'
            f'<td class="cells"><svg aria-hidden="true">{cells}</svg></td>'
            f"<td>{mean:.0%}</td></tr>"
        )
    return "".join(rows)


def _curve(curve: Curve, duration: float) -> str:
    points = curve.points
    steps = sorted(b[0] - a[0] for a, b in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0.0
    lines = "".join(
        f'<line x1="{_x(a[0], duration):.3f}%" y1="{_y(a[1]):.2f}%" '
        f'x2="{_x(b[0], duration):.3f}%" y2="{_y(b[1]):.2f}%"/>'
        for a, b in pairwise(points)
        if b[0] - a[0] <= 3 * usual
    )
    dots = "".join(
        f'<circle class="{"asked" if explained else "scored"}" r="{4 if explained else 3}" '
        f'cx="{_x(time, duration):.3f}%" cy="{_y(share):.2f}%"/>'
        for time, share, explained in points
    )
    return lines + dots


def _x(time: float, duration: float) -> float:
    return LEFT + min(max(time / max(duration, 1e-9), 0.0), 1.0) * (RIGHT - LEFT)


def _y(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def _shade(track: int) -> int:
    return (track - 1) % 6 + 1


def _clock(seconds: float, step: float) -> str:
    if seconds >= 60:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    return f"{seconds:.1f} s" if step < 1 else f"{seconds:.0f} s"
