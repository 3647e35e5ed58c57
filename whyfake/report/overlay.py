"""Draws an explanation as a finished picture: frame, heat, best regions, and what was decided."""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ..explanation import Explanation
from ..perturbation import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Rgb = NDArray[np.uint8]
Colour = tuple[int, int, int]
Pair = tuple[int, int]
Heat = tuple[FloatArray, float, float]
"""Heat to draw: levels (h, w) in [0, 1], and the values that 0 and 1 stand for."""

PAPER: Colour = (22, 24, 28)
INK: Colour = (238, 240, 243)
MUTED: Colour = (166, 172, 181)
WARNING: Colour = (255, 176, 66)
OPACITY = 0.8  # of the hottest place; it falls with the heat, and cold places show the frame
TILES_A_ROW = 5
SPELLED = {"∞": "inf", "×": "x", "→": "->", "–": "-", "—": "-", "−": "-", "≤": "<=", "≥": ">="}


def overlay(explanation: Explanation, *, top: int = 5) -> Rgb:
    """One explanation as a picture (H, W, 3) uint8 RGB.

    The frame is enlarged (shorter side about 448 pixels, longer side 896 at most) under its heat,
    the `top` best regions outlined and numbered, between a caption and a colour bar. LIME and SHAP
    show what speaks for the target: their scale starts at 0, and regions that score 0 or less are
    not outlined. The other scales run from the least heat to the most. Costs no images.
    Raises ValueError if `top` is negative.
    """
    if top < 0:
        raise ValueError(f"overlay: top must be 0 or more, got {top}")
    heat = heat_of(explanation)
    picture, outlined = _picture(explanation, heat, _size(explanation, 448, 896), top, radius=12)
    width, head = max(picture.width, 448), 76
    left, right, below = 18, width - 18, head + picture.height
    notes = _lines("".join(explanation.notes[:1]), 15, right - left, most=3)
    noted = below + (70 if heat else 42)
    image, draw = _sheet(width, noted + (21 * len(notes) + 8 if notes else 0))
    image.paste(picture, ((width - picture.width) // 2, head))

    used = _write(draw, (left, width // 2), 25, explanation.method, 22, INK)
    decided, p = explanation.predicted, percent(explanation.scores[explanation.predicted])
    _write(draw, (right, left + used + 24), 25, decided, 22, INK, p)
    text, colour = _origin(explanation)
    used = _write(draw, (right, width // 4), 53, text, 15, colour)
    p = "" if explanation.target == decided else percent(explanation.p_target)
    _write(draw, (left, right - used - 24), 53, f"explains {explanation.target}", 15, MUTED, p)

    text = f"regions 1 to {outlined}, best first" if outlined > 1 else "region 1" * outlined
    used = _write(draw, (right, width // 2), below + 22, text, 15, MUTED)
    text, colour = _meaning(explanation, heat)
    _write(draw, (left, right - used - 24), below + 22, text, 15, colour)
    if heat:
        low, high = _ends(*heat[1:])
        start = left + _write(draw, (left, right), below + 48, low, 15, MUTED) + 10
        stop = right - _write(draw, (right, left), below + 48, high, 15, MUTED) - 10
        image.paste(_bar(stop - start), (start, below + 44))
    for line, note in enumerate(notes):
        _write(draw, (left, right), noted + 6 + 21 * line, note, 15, INK)
    return np.array(image)


def strip(explanations: Sequence[Explanation]) -> Rgb:
    """One frame and its explanations side by side: (H, W, 3) uint8 RGB, five tiles a row at most.

    The first tile is the frame; each other one holds the heat of one explanation, on its own scale,
    with its three best regions. Costs no images. Raises ValueError if there are none or they are
    not of one frame.
    """
    if not explanations:
        raise ValueError("strip: wanted one explanation or more, got none")
    first = explanations[0]
    for other in explanations:
        if not np.array_equal(first.frame, other.frame):
            raise ValueError(f"strip: wanted one frame, got {first.source} and {other.source}")
    height, width = _size(first, 256, 384)
    margin, tile = 14, max(width, 224)
    across, down = tile + margin, height + 54 + margin
    tiles = len(explanations) + 1
    bottom = -(-tiles // TILES_A_ROW) * down + margin
    image, draw = _sheet(min(tiles, TILES_A_ROW) * across + margin, bottom + 30)

    for index, explanation in enumerate([first, *explanations]):
        x, y = margin + index % TILES_A_ROW * across, margin + index // TILES_A_ROW * down
        heat, tail = (heat_of(explanation) if index else None), ""
        picture, _ = _picture(explanation, heat, (height, width), 3, radius=9)
        text, colour = _origin(explanation)
        title = explanation.method
        if index == 0:
            name = _plain(PurePath(first.source).name)[::-1]  # a frame's number ends its name
            title = "".join(_lines(name, 16, tile))[::-1]
            text, colour, tail = first.predicted, MUTED, percent(first.scores[first.predicted])
        elif heat is None:
            text, colour = f"no heat, {text}", WARNING
        if explanation.target != first.target:
            title += f", explains {explanation.target}"
        image.paste(picture, (x, y))
        _write(draw, (x, x + tile), y + height + 17, title, 16, INK)
        _write(draw, (x, x + tile), y + height + 38, text, 13, colour, tail)

    start = margin + _write(draw, (margin, across), bottom + 10, "least", 13, MUTED) + 8
    image.paste(_bar(96), (start, bottom + 6))
    span, tail = (start + 104, image.width - margin), "(own scale each; 1 to 3: best regions)"
    _write(draw, span, bottom + 10, f"most for {first.target}", 13, MUTED, tail)
    return np.array(image)


def png_bytes(rgb: Rgb) -> bytes:
    """A picture (H, W, 3) uint8 RGB as a PNG file. Raises ValueError for any other array."""
    from PIL import Image

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"png_bytes: wanted uint8 RGB (H, W, 3), got {rgb.dtype} {rgb.shape}")
    stream = io.BytesIO()
    # level 1: a sixth larger, in a quarter of the time
    Image.fromarray(rgb).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def heat_of(explanation: Explanation, smoothed: FloatArray | None = None) -> Heat | None:
    """The heat, or what stands in for it, on its scale; None where there is none to show."""
    heat = (explanation.heatmap if smoothed is None else smoothed).astype(np.float64)
    low, high = 0.0 if explanation.signed else float(heat.min()), float(heat.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # no more than float32 rounding
        return None
    return ((heat - low) / (high - low)).clip(0, 1).astype(np.float32), low, high


def _size(explanation: Explanation, short: int, long: int) -> Pair:
    """Height and width to draw at: the shorter `short`, or a whole factor; none above `long`."""
    height, width = explanation.frame.shape[1:]
    factor: float = -(-short // min(height, width))
    if factor * max(height, width) > long:
        factor = min(max(short / min(height, width), 1), long / max(height, width))
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _picture(
    explanation: Explanation, heat: Heat | None, size: Pair, top: int, radius: int
) -> tuple[Image, int]:
    """Frame, heat, outlines and badges at this size; and how many regions are outlined."""
    import cv2
    from PIL import Image, ImageDraw

    frame = np.rint(explanation.frame.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    way = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_CUBIC
    rgb = cv2.resize(frame, size[::-1], interpolation=way)
    if heat is None:
        return Image.fromarray(rgb), 0
    level = cv2.resize(heat[0], size[::-1], interpolation=cv2.INTER_LINEAR)
    rgb = _blended(rgb, level)
    least = 0.0 if explanation.signed else -np.inf
    best = [r for r in explanation.regions[:top] if r["score"] > least and r["area"] > 0]
    masks = [explanation.region_map == region["region"] for region in best]
    lines = [line for mask in masks for line in _outlines(mask, size)]
    for colour, thickness in ((PAPER, 4 if radius > 10 else 3), (INK, 1)):
        cv2.polylines(rgb, lines, True, colour, thickness, cv2.LINE_AA, 4)
    spots: list[Pair] = []
    for mask in masks:
        large = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        x, y = _placed(large > 0, level, spots, radius)
        for colour, reach in ((PAPER, radius + 1.5), (INK, radius)):
            cv2.circle(rgb, (16 * x, 16 * y), round(16 * reach), colour, -1, cv2.LINE_AA, 4)
        spots.append((x, y))
    image = Image.fromarray(rgb)
    for region, (x, y) in zip(best, spots, strict=True):
        number = str(region["rank"])
        points = radius * (1.4 if len(number) == 1 else 1.1)
        at = (x + 0.5, y + 0.36 * points)  # figures are 0.72 of the size high
        ImageDraw.Draw(image).text(at, number, PAPER, _font(points), "ms")
    return image, len(best)


@functools.cache
def viridis() -> Rgb:
    """The colours (256, 3) of heat from 0 to 1; read-only."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    table = np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])
    table.flags.writeable = False
    return table


def _blended(rgb: Rgb, level: FloatArray) -> Rgb:
    """Heat (h, w) in [0, 1] over a picture (h, w, 3): where it is 0 the picture stays as it is.

    The colours are Viridis: perceptually uniform, and no face has its greens.
    """
    colours = viridis()[np.rint(level * 255).astype(np.uint8)].astype(np.float32)
    mixed: Rgb = np.rint(rgb + OPACITY * level[..., None] ** 0.7 * (colours - rgb)).astype(np.uint8)
    return mixed


def _bar(width: int) -> Image:
    """The scale from 0 to 1, as it looks over a grey frame."""
    from PIL import Image

    level = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(10, axis=0)
    return Image.fromarray(_blended(np.full((10, width, 3), 128, np.uint8), level))


def _outlines(mask: NDArray[np.bool_], size: Pair) -> list[NDArray[np.int32]]:
    """Outlines of a mask (h, w) at another size: (N, 2) x and y in sixteenths of a pixel."""
    import cv2
    from skimage.measure import find_contours

    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1)
    soft = soft if soft.max() > 0.5 else mask.astype(np.float32)
    lines = []
    for contour in find_contours(np.pad(soft, 1), 0.5):
        points = (contour - 0.5) * (np.array(size) / mask.shape) - 0.5
        points = points.clip(1, np.array(size) - 2)  # along the frame's edge, just inside it
        lines.append(np.rint(points[:, ::-1] * 16).astype(np.int32))
    return lines


def _placed(mask: NDArray[np.bool_], level: FloatArray, taken: Sequence[Pair], radius: int) -> Pair:
    """Where a badge of this radius goes, (x, y): in the mask (h, w), near the centre of its heat.

    Where the mask leaves room, the badge is wholly inside it and the picture, and clear of the
    badges `taken`; otherwise it is as far inside as can be.
    """
    import cv2

    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask)
    middle = [np.average(axis, weights=level[mask] + 1e-3) for axis in (rows, columns)]
    away = np.hypot(rows - middle[0], columns - middle[1]) / sum(mask.shape)
    down, across = mask.shape[0] - 1 - rows, mask.shape[1] - 1 - columns
    lack = np.maximum(radius + 2.0 - np.minimum.reduce([rows, columns, down, across]), 0)
    for x, y in taken:
        lack += np.maximum(2 * radius + 4 - np.hypot(columns - x, rows - y), 0)
    best = np.argmax(np.minimum(depth[mask], radius + 4) - away - 1000 * lack)
    return int(columns[best]), int(rows[best])


def _origin(explanation: Explanation) -> tuple[str, Colour]:
    """What the frame was compared with: the adversarial sample and how it fared, or a baseline."""
    adversary = explanation.adversary
    if adversary is None:
        return f"baseline {explanation.baseline}", MUTED
    steps = f"{adversary.steps} step{'' if adversary.steps == 1 else 's'}"
    if adversary.flipped:
        return f"flipped in {steps}, L∞ {adversary.linf * 255:.1f}/255", MUTED
    if explanation.called_real:
        return "already called real: nothing to flip", WARNING
    return f"NOT FLIPPED in {steps}", WARNING


def _meaning(explanation: Explanation, heat: Heat | None) -> tuple[str, Colour]:
    """What the colours mean, or why there are none."""
    if heat:
        return f"{'speaks' if explanation.signed else 'matters'} for {explanation.target}", INK
    against = explanation.signed and explanation.heatmap.min() < 0
    return f"no heat: nothing {'spoke for the target' if against else 'moved the score'}", WARNING


def percent(p: float) -> str:
    """A probability, never rounded to certainty."""
    text = f"{100 * p:.1f} %"
    return {"100.0 %": ">99.9 %", "0.0 %": "<0.1 %"}.get(text, text) if 0 < p < 1 else text


def _ends(low: float, high: float) -> tuple[str, str]:
    """Both in as few digits as tell them apart, three at least."""
    pairs = ((f"{low:.{digits}g}", f"{high:.{digits}g}") for digits in range(3, 18))
    return next(pair for pair in pairs if pair[0] != pair[1])


@functools.cache
def _font(size: float) -> FreeTypeFont:
    """Pillow's own font, the same on every machine."""
    from PIL import ImageFont

    return cast("FreeTypeFont", ImageFont.load_default(size))


@functools.cache
def _glyph(char: str) -> str:
    """The character, or what stands for it where the font lacks it; `?` where nothing does."""
    missing = bytes(_font(15).getmask("\uffff"))
    for shown in (char, SPELLED.get(char, ""), unicodedata.normalize("NFKD", char)[0]):
        if shown and shown.isprintable() and bytes(_font(15).getmask(shown)) != missing:
            return shown
    return "?"


def _plain(text: str) -> str:
    """`text` without line breaks, in characters that the font has."""
    return "".join(map(_glyph, " ".join(text.split())))


def _lines(text: str, size: int, room: float, most: int = 1) -> list[str]:
    """`text` in at most so many lines, broken between words where it can be; … ends a cut one."""
    rest, lines = _plain(text), list[str]()
    while rest and len(lines) < most:
        line, end, last = rest, len(rest), len(lines) == most - 1
        while end and _font(size).getlength(line) > room:
            end -= 1
            line = rest[:end].rstrip() + "…" * last
        if end < len(rest) and not last and " " in rest[: end + 1]:
            line = rest[: rest.rindex(" ", 0, end + 1)]
        lines.append(line)
        rest = rest[len(line) :].lstrip()
    return lines


def _sheet(width: int, height: int) -> tuple[Image, ImageDraw]:
    """An empty sheet, and the pen that writes on it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), PAPER)
    return image, ImageDraw.Draw(image)


def _write(
    draw: ImageDraw, span: Pair, y: int, text: str, size: int, colour: Colour, tail: str = ""
) -> int:
    """Text about height y from x = span[0] towards span[1], leftwards if that is less.

    It is shortened to fit, but for the tail. Returns the width that it takes.
    """
    font, tail = _font(size), tail and f" {tail}"
    room = abs(span[1] - span[0]) - font.getlength(tail)
    text = "".join(_lines(text, size, room)) + tail
    draw.text((span[0], y), text, colour, font, "lm" if span[0] < span[1] else "rm")
    return round(font.getlength(text))
