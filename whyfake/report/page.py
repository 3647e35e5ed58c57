"""A page of pictures with what is known about them: one HTML file, no scripts, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from .overlay import INK, MUTED, PAPER, WARNING, Colour


@dataclass(frozen=True)
class Tile:
    """A picture, by its path beside the page, with a title and lines of text under it.

    `share`, in [0, 1], draws a bar; `mark` a line on it.
    """

    picture: str
    title: str
    lines: tuple[str, ...] = ()
    share: float | None = None
    mark: float | None = None


@dataclass(frozen=True)
class Section:
    """A heading, a text, and pictures side by side."""

    heading: str
    text: str
    tiles: tuple[Tile, ...]


def page(
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    warnings: Sequence[str] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as HTML: warnings on top, then paragraphs, sections of pictures, and small facts.

    All text is escaped; pictures are named by paths relative to the page. Costs no images.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    body += [f'<p class="warning">{escape(text)}</p>' for text in warnings]
    body += [f'<p class="lead">{escape(text)}</p>' for text in lead]
    body += [_section(section) for section in sections]
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts)
    body += [f"<dl>{rows}</dl>"] if rows else []
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(body))


def _section(section: Section) -> str:
    tiles = "\n".join(_tile(tile) for tile in section.tiles)
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    return (
        f"<section><h2>{escape(section.heading)}</h2>{text}"
        f'<div class="tiles">\n{tiles}\n</div></section>'
    )


def _tile(tile: Tile) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in tile.lines)
    source = escape(quote(tile.picture), quote=True)
    title = escape(tile.title, quote=True)
    return (
        f'<figure><a href="{source}"><img src="{source}" alt="{title}"></a>'
        f"<figcaption><b>{title}</b>{lines}{_bar(tile)}</figcaption></figure>"
    )


def _bar(tile: Tile) -> str:
    if tile.share is None:
        return ""
    mark = "" if tile.mark is None else f'<s style="left:{_percent(tile.mark)}"></s>'
    return f'<span class="bar"><i style="width:{_percent(tile.share)}"></i>{mark}</span>'


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


_STYLE = f"""
:root {{ color-scheme: dark; }}
body {{ margin: 0 auto; max-width: 1240px; padding: 28px 20px 48px; background: {_css(PAPER)};
  color: {_css(INK)}; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 28px; margin: 0 0 8px; }}
h2 {{ font-size: 20px; margin: 32px 0 4px; }}
p {{ margin: 4px 0 12px; max-width: 78ch; color: {_css(MUTED)}; }}
p.lead {{ color: {_css(INK)}; font-size: 17px; }}
p.warning {{ color: {_css(WARNING)}; border-left: 3px solid {_css(WARNING)}; padding-left: 12px; }}
.tiles {{ display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); }}
figure {{ margin: 0; min-width: 0; max-width: 420px; }}
img {{ width: 100%; display: block; border-radius: 6px; }}
figcaption b, figcaption span {{ display: block; }}
figcaption b {{ margin-top: 8px; }}
figcaption span {{ color: {_css(MUTED)}; font-size: 14px; }}
.bar {{ position: relative; height: 8px; margin-top: 8px; border-radius: 4px; background: #3a3f47;
  overflow: hidden; }}
.bar i {{ position: absolute; inset: 0 auto 0 0; background: #e8663c; }}
.bar s {{ position: absolute; top: 0; bottom: 0; width: 2px; background: {_css(INK)}; }}
dl {{ display: grid; grid-template-columns: minmax(0, max-content) minmax(0, 1fr);
  gap: 2px 16px; margin-top: 36px;
  color: {_css(MUTED)}; font-size: 14px; }}
dt {{ color: {_css(INK)}; }}
dd {{ margin: 0; }}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
