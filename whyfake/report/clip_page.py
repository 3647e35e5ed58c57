"""The page of a clip: one HTML file that holds its pictures and fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from .clip_chart import parts_grid, ticks, timeline
from .scene import Curve

VIEWS = (
    ("heat", "Heat"),
    ("original", "Original"),
    ("outlines", "Region outlines"),
    ("difference", "Adversarial difference"),
)

_PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_EMPTY_STAGE = (
    f'<img alt="" src="{_PIXEL}"><img alt="" src="{_PIXEL}" hidden><svg aria-hidden="true"></svg>'
)
"""Crop, heat or difference, outlines: filled by the script."""


@dataclass(frozen=True)
class ClipPage:
    """What the page of a clip says.

    `frames` is what the viewer shows, as JSON types: see clip_page.js. `rows` is the table, headed
    by `columns`; a cell may be (text, link). `parts` and `columns_of_parts` are the chart of face
    parts for `parts_method`, empty where no landmarks are known. `files` are (name, what it is).
    """

    title: str
    lead: Sequence[str]
    flags: Sequence[str]
    frames: Sequence[dict[str, Any]]
    tracks: Sequence[tuple[int, str]]
    methods: Sequence[str]
    curves: Sequence[Curve]
    gaps: Sequence[float]
    duration: float
    columns: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str, str]]]
    parts_method: str
    parts: Sequence[str]
    columns_of_parts: Sequence[dict[str, float]]
    facts: Sequence[tuple[str, str]]
    settings: str
    files: Sequence[tuple[str, str]]
    data_link: str | None = None
    overlay: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def clip_page(page: ClipPage) -> str:
    """The page as HTML; all text is escaped. Costs no images."""
    here = files("whyfake.report")
    body = [f"<header><h1>{escape(page.title)}</h1>"]
    body += [f'<p class="lead">{escape(text)}</p>' for text in page.lead]
    if page.flags:
        items = "".join(f"<li>{escape(text)}</li>" for text in page.flags)
        body.append(f'<ul class="flags" aria-label="What to keep in mind">{items}</ul>')
    body.append("</header><main>")
    if page.frames:
        body += [_viewer(page), _timeline(page), _side_by_side(page)]
    body += [_parts(page), _overlay(page), _table(page), _settings(page), _files(page)]
    body.append("</main>")
    data = json.dumps(list(page.frames), ensure_ascii=False, allow_nan=False)
    return _PAGE.format(
        title=escape(page.title),
        style=here.joinpath("clip_page.css").read_text("utf-8"),
        body="\n".join(part for part in body if part),
        data=data.replace("<", "\\u003c"),
        script=here.joinpath("clip_page.js").read_text("utf-8"),
    )


def _choices(name: str, legend: str, options: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<label class="choice"><input type="radio" name="{name}" '
        f'value="{escape(value, quote=True)}"{" checked" if index == 0 else ""}>'
        f"<span>{escape(text)}</span></label>"
        for index, (value, text) in enumerate(options)
    )
    return f"<fieldset><legend>{legend}</legend>{items}</fieldset>"


def _viewer(page: ClipPage) -> str:
    faces = [(str(track), text) for track, text in page.tracks]
    return f"""<section aria-labelledby="h-viewer">
<h2 id="h-viewer">Frame by frame</h2>
<div class="card viewer">
<div><div class="stage" id="stage">{_EMPTY_STAGE}</div>
<div class="scrub"><button id="back" aria-label="Frame before">‹</button>
<input type="range" id="slider" min="0" value="0" step="1" aria-label="Frame">
<button id="on" aria-label="Next frame">›</button></div>
<p class="muted" id="caption"></p></div>
<div>
{_choices("face", "Face", faces)}
{_choices("method", "Method", [(name, name) for name in page.methods])}
{_choices("view", "Show", VIEWS)}
<div aria-live="polite"><p class="now" id="now"></p></div>
<p class="muted" id="none" hidden></p>
<dl id="facts"></dl>
<h3>Best regions</h3>
<ol class="regions" id="regions"></ol>
</div></div></section>"""


def _timeline(page: ClipPage) -> str:
    title = "P(fake) over time. The table below has every number."
    axis = "".join(
        f'<span style="top:{94 - 88 * share:.0f}%">{share:.0%}</span>' for share in (0, 0.5, 1)
    )
    words = "".join(
        f'<span style="left:{at:.2f}%"{" class=end" if at > 97 else ""}>{escape(text)}</span>'
        for at, text in ticks(page.duration)
    )
    keys = [
        f'<li class="t{(track - 1) % 6 + 1}"><svg aria-hidden="true"><line x1="0" x2="22" y1="6" '
        f'y2="6" stroke="currentColor" stroke-width="3"/></svg> {escape(text)}</li>'
        for track, text in page.tracks
    ]
    keys.append("<li>● explained, ○ only scored</li>")
    if page.gaps:
        keys.append("<li>grey bars: no face</li>")
    return f"""<section aria-labelledby="h-time">
<h2 id="h-time">Fake score over time</h2>
<p class="muted">P(fake) of each sampled face. Above the dashed line the detector calls it fake
where there are two classes. Click a point to see its frame above.</p>
<div class="card"><div class="plot"><div class="axis">{axis}</div>
{timeline(page.curves, page.gaps, page.duration, title)}</div>
<div class="times">{words}</div><ul class="legend">{"".join(keys)}</ul></div></section>"""


def _side_by_side(page: ClipPage) -> str:
    if len(page.methods) < 2:
        return ""
    tiles = "".join(
        f'<figure data-method="{escape(name, quote=True)}"><div class="stage">{_EMPTY_STAGE}</div>'
        f"<figcaption><b>{escape(name)}</b><span></span></figcaption></figure>"
        for name in page.methods
    )
    return f"""<section aria-labelledby="h-side">
<h2 id="h-side">Methods side by side</h2>
<p class="muted">The frame chosen above; each heat map on its own scale.</p>
<div class="tiles">{tiles}</div></section>"""


def _parts(page: ClipPage) -> str:
    if not page.parts_method:
        return ""
    if not page.parts:
        return """<section aria-labelledby="h-parts"><h2 id="h-parts">Parts of the face</h2>
<p class="muted">Not known: what found the faces gives no landmarks.</p></section>"""
    return f"""<section aria-labelledby="h-parts">
<h2 id="h-parts">Which part of the face, over time</h2>
<p class="muted">{escape(page.parts_method)}: the share of the five best regions' score that lies on
each part, a column an explained frame, in the order of time. Right and left are the person's.</p>
<div class="card"><table class="parts"><thead><tr><th scope="col">part</th>
<th scope="col">first frame to last</th><th scope="col">mean</th></tr></thead>
<tbody>{parts_grid(page.parts, page.columns_of_parts)}</tbody></table></div></section>"""


def _overlay(page: ClipPage) -> str:
    if page.overlay is None:
        return ""
    source = escape(quote(page.overlay), quote=True)
    return f"""<section aria-labelledby="h-film">
<h2 id="h-film">The clip with its heat</h2>
<p class="muted">Heat belongs to the sampled frames, whose boxes are whole; between them the last
one stays on the face. The film is the file {escape(page.overlay)} beside this page.</p>
<video controls preload="metadata" src="{source}" aria-label="The clip with heat maps, without
sound"></video></section>"""


def _table(page: ClipPage) -> str:
    head = "".join(
        f'<th scope="col"{_WORDS if name in _TEXTS else ""}>{escape(name)}</th>'
        for name in page.columns
    )
    lines = []
    for row in page.rows:
        cells = [
            f"<td{_WORDS if name in _TEXTS else ''}>{_cell(value)}</td>"
            for name, value in zip(page.columns, row, strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"""<section aria-labelledby="h-table">
<h2 id="h-table">Every number</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Table of every number"><table>
<caption>{len(page.rows):,} rows: a row a sampled face and method</caption>
<thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div></section>"""


_TEXTS = ("called", "method", "best regions", "flags", "began at")
_WORDS = ' class="words"'


def _cell(value: str | tuple[str, str, str]) -> str:
    """Text, or a link into the viewer: (text, frame, method)."""
    if isinstance(value, str):
        return escape(value)
    text, frame, method = (escape(part, quote=True) for part in value)
    return f'<a href="#h-viewer" data-frame="{frame}" data-method="{method}">{text}</a>'


def _settings(page: ClipPage) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in page.facts)
    notes = "".join(f"<p>{escape(note)}</p>" for note in page.notes)
    return f"""<section aria-labelledby="h-settings">
<h2 id="h-settings">How it was made</h2>{notes}<dl>{rows}</dl>
<details><summary>All settings and seeds</summary>
<pre tabindex="0">{escape(page.settings)}</pre></details></section>"""


def _files(page: ClipPage) -> str:
    items = "".join(
        f'<li><a href="{escape(quote(name), quote=True)}" download>{escape(name)}</a> '
        f'<span class="muted">{escape(what)}</span></li>'
        for name, what in page.files
    )
    if page.data_link:
        items = (
            f'<li><a href="{page.data_link}" download="frames.jsonl">frames.jsonl, from this page'
            '</a> <span class="muted">every number, should the folder be lost</span></li>' + items
        )
    return f"""<section aria-labelledby="h-files">
<h2 id="h-files">Files</h2><ul class="files">{items}</ul></section>"""


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="whyfake">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
<noscript><p>The viewer needs JavaScript; the table has every number.</p></noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
