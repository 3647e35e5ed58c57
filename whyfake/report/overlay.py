"""Draws an explanation as a finished picture: frame, heat, best regions, and what was decided."""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError
from ..explanation import Explanation

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Rgb = NDArray[np.uint8]
Colour = tuple[int, int, int]

PAPER: Colour = (22, 24, 28)
INK: Colour = (238, 240, 243)
MUTED: Colour = (166, 172, 181)
WARNING: Colour = (255, 176, 66)

OPACITY = 0.8
"""Of the hottest place; it falls with the heat, so that cold places show the frame itself."""
NOISE = 1e-6
"""Heat that spans less than this, relative to its size, is float32 rounding and counts as constant."""
TILES_A_ROW = 5
SPELLED = {"∞": "inf", "×": "x", "→": "->", "–": "-", "—": "-", "−": "-", "≤": "<=", "≥": ">="}
"""For signs that Pillow's own font lacks."""


@dataclass(frozen=True, eq=False)
class _Heat:
    """Heat to draw: `level` (h, w) float32 in [0, 1], and the values at 0 and 1."""

    level: NDArray[np.float32]
    low: float
    high: float


def overlay(explanation: Explanation, *, top: int = 5) -> Rgb:
    """One explanation as a picture (H, W, 3) uint8 RGB.

    The frame is enlarged (shorter side about 448 pixels, longer side 896 at most) under its heat,
    the `top` best regions outlined and numbered, between a caption and a colour bar. LIME and SHAP
    show what speaks for the target: their scale starts at 0, and regions that score 0 or less are
    not outlined. The other scales run from the least heat to the most. Costs no images.
    Raises OutputError if the heat is not finite, ValueError if `top` is negative.
    """
    from PIL import Image, ImageDraw

    if top < 0:
        raise ValueError(f"overlay: top must be 0 or more, got {top}")
    heat = _heat_of(explanation)
    picture, outlined = _picture(explanation, heat, _size(explanation, 448, 896), top, 12)
    width, body, title = max(picture.shape[1], 448), _font(15), _font(22)
    left, right = 18, width - 18
    notes = _wrap(explanation.notes[0], body, right - left, 3) if explanation.notes else []
    header = 76
    below = header + picture.shape[0]
    noted = below + (70 if heat else 42)
    canvas = _sheet(noted + (21 * len(notes) + 8 if notes else 0), width)
    _paste(canvas, picture, header, (width - picture.shape[1]) // 2)

    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    used = _write(draw, (left, left + width // 2), 25, explanation.method, title, INK)
    name, score = _decision(explanation)
    _write(draw, (left + used + 24, right), 25, name, title, INK, tail=score, align="right")
    what, colour = _origin(explanation)
    used = _write(draw, (left + width // 4, right), 53, what, body, colour, align="right")
    name, score = _explained(explanation)
    _write(draw, (left, right - used - 24), 53, name, body, MUTED, tail=score)

    legend = f"regions 1 to {outlined}, best first" if outlined > 1 else "region 1" if outlined else ""
    used = _write(draw, (left + width // 2, right), below + 22, legend, body, MUTED, align="right")
    label = _label(explanation, heat)
    _write(draw, (left, right - used - 24), below + 22, label, body, INK if heat else WARNING)
    if heat:
        low, high = _ends(heat)
        start = left + _write(draw, (left, right), below + 48, low, body, MUTED) + 10
        stop = right - _write(draw, (left, right), below + 48, high, body, MUTED, align="right") - 10
        image.paste(Image.fromarray(_bar(stop - start, 10)), (start, below + 44))
    for index, note in enumerate(notes):
        _write(draw, (left, right), noted + 6 + 21 * index, note, body, INK)
    return np.array(image)


def strip(explanations: Sequence[Explanation]) -> Rgb:
    """One frame and its explanations side by side: (H, W, 3) uint8 RGB, five tiles a row at most.

    The first tile is the frame; each other one holds the heat of one explanation, on its own scale,
    with its three best regions. Costs no images. Raises ValueError if there are none or they are
    not of one frame, OutputError if a heat is not finite.
    """
    from PIL import Image, ImageDraw

    if not explanations:
        raise ValueError("strip: wanted one explanation or more, got none")
    first = explanations[0]
    for other in explanations:
        if not np.array_equal(first.frame, other.frame):
            raise ValueError(
                f"strip: wanted explanations of one frame, got {first.source} and {other.source}"
            )
    height, width = _size(first, 256, 384)
    tile, margin, caption = max(width, 224), 14, 54
    columns = min(len(explanations) + 1, TILES_A_ROW)
    rows = -(-(len(explanations) + 1) // TILES_A_ROW)
    across, down = tile + margin, height + caption + margin
    canvas = _sheet(rows * down + margin + 30, columns * across + margin)
    body, title = _font(13), _font(16)
    heats = [_heat_of(explanation) for explanation in explanations]
    pictures = [_enlarged(first, (height, width))]
    pictures += [
        _picture(explanation, heat, (height, width), 3, 10)[0]
        for explanation, heat in zip(explanations, heats, strict=True)
    ]
    corners = [
        (margin + index // TILES_A_ROW * down, margin + index % TILES_A_ROW * across)
        for index in range(len(pictures))
    ]
    for (y, x), picture in zip(corners, pictures, strict=True):
        _paste(canvas, picture, y, x + (tile - width) // 2)

    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for index, (y, x) in enumerate(corners):
        if index == 0:
            heading, (text, tail), colour = PurePath(first.source).name, _decision(first), MUTED
        else:
            explanation, heat = explanations[index - 1], heats[index - 1]
            heading, tail = explanation.method, ""
            text, colour = _origin(explanation)
            if explanation.target != first.target:
                heading += f", explains {explanation.target}"
            if heat is None:
                text = f"no heat, {text}"
        _write(draw, (x + 2, x + tile - 2), y + height + 17, heading, title, INK)
        _write(draw, (x + 2, x + tile - 2), y + height + 38, text, body, colour, tail=tail)

    middle, left, right = rows * down + margin + 10, margin + 2, canvas.shape[1] - margin - 2
    left += _write(draw, (left, right), middle, "least", body, MUTED) + 8
    image.paste(Image.fromarray(_bar(96, 10)), (left, middle - 4))
    left += 96 + 8
    legend = f"most heat for {first.target}, each on its own scale; 1 to 3: best regions"
    _write(draw, (left, right), middle, legend, body, MUTED)
    return np.array(image)


def png_bytes(rgb: Rgb) -> bytes:
    """A picture (H, W, 3) uint8 RGB as a PNG file. Raises ValueError for any other array."""
    from PIL import Image

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"png_bytes: wanted uint8 RGB (H, W, 3), got {rgb.dtype} {rgb.shape}")
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="PNG")
    return stream.getvalue()


def _heat_of(explanation: Explanation) -> _Heat | None:
    """The heat on its scale; None where there is none to show."""
    heat = explanation.heatmap.astype(np.float64)
    if not np.isfinite(heat).all():
        raise OutputError(f"{explanation.source}: the heat map of {explanation.method} is not finite")
    low, high = 0.0 if explanation.signed else float(heat.min()), float(heat.max())
    if high - low <= NOISE * max(abs(low), abs(high)):
        return None
    return _Heat(((heat - low) / (high - low)).clip(0, 1).astype(np.float32), low, high)


def _size(explanation: Explanation, short: int, long: int) -> tuple[int, int]:
    """Height and width to draw at: the shorter side `short`, or more if that is a whole factor.

    The longer side is never above `long`.
    """
    height, width = explanation.frame.shape[1:]
    factor: float = -(-short // min(height, width))
    if factor * max(height, width) > long:
        factor = min(short / min(height, width), long / max(height, width))
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _enlarged(explanation: Explanation, size: tuple[int, int]) -> Rgb:
    """The frame as uint8 RGB at another size."""
    import cv2

    frame = np.rint(explanation.frame.clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
    way = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_CUBIC
    enlarged: Rgb = cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=way)
    return enlarged


def _picture(
    explanation: Explanation, heat: _Heat | None, size: tuple[int, int], top: int, radius: int
) -> tuple[Rgb, int]:
    """Frame, heat, outlines and badges at this size; and how many regions are outlined."""
    import cv2

    rgb = _enlarged(explanation, size)
    if heat is None:
        return rgb, 0
    level = cv2.resize(heat.level, size[::-1], interpolation=cv2.INTER_LINEAR)
    rgb = _blend(rgb, level)
    least = 0.0 if explanation.signed else -np.inf
    best = [r for r in explanation.regions[:top] if r["score"] > least and r["area"] > 0]
    masks = [explanation.region_map == region["region"] for region in best]
    lines = [line for mask in masks for line in _outlines(mask, size)]
    for colour, thickness in ((PAPER, 5), (INK, 2)):
        cv2.polylines(rgb, lines, True, colour, thickness, cv2.LINE_AA, 4)
    spots: list[tuple[int, int]] = []
    for mask in masks:
        large = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        spots.append(_place(large > 0, spots, radius))
    return _badges(rgb, [r["rank"] for r in best], spots, radius), len(best)


def _colours(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colour (…, 3) RGB of each heat in [0, 1]: perceptually uniform."""
    import cv2

    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
    rgb: NDArray[np.float32] = table[:, 0, ::-1].astype(np.float32)
    return rgb[np.rint(level * 255).astype(np.uint8)]


def _blend(rgb: Rgb, level: NDArray[np.float32]) -> Rgb:
    """Heat (h, w) in [0, 1] over a picture (h, w, 3): where it is 0 the picture stays as it is."""
    alpha = (OPACITY * np.sqrt(level))[..., None]
    return np.rint(rgb + alpha * (_colours(level) - rgb)).astype(np.uint8)


def _bar(width: int, height: int) -> Rgb:
    """The scale, least to most."""
    level = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(height, axis=0)
    return _colours(level).astype(np.uint8)


def _outlines(mask: NDArray[np.bool_], size: tuple[int, int]) -> list[NDArray[np.int32]]:
    """Outlines of a mask (h, w) at another size: (N, 2) x and y in sixteenths of a pixel."""
    import cv2
    from skimage.measure import find_contours

    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)
    soft = soft if soft.max() > 0.5 else mask.astype(np.float32)
    scale = np.array(size) / mask.shape
    lines = []
    for contour in find_contours(np.pad(soft, 1), 0.5):
        points = ((contour - 0.5) * scale - 0.5).clip(1, np.array(size) - 2)
        lines.append(np.rint(points[:, ::-1] * 16).astype(np.int32))
    return lines


def _place(
    mask: NDArray[np.bool_], taken: Sequence[tuple[int, int]], radius: int
) -> tuple[int, int]:
    """Where a badge of this radius goes, (x, y): in the mask (h, w), as far from its edge as can be.

    Where the mask leaves room it is clear of the badges `taken`, and wholly in the picture.
    """
    import cv2

    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.indices(mask.shape)
    edge = np.minimum(np.minimum(rows, columns), np.minimum(rows[::-1], columns[:, ::-1]))
    lack = np.maximum(radius + 2 - edge, 0).astype(np.float64)
    for x, y in taken:
        lack += np.maximum(2 * radius + 4 - np.hypot(columns - x, rows - y), 0)
    y, x = divmod(int(np.argmax(np.where(mask, depth - 1000 * lack, -np.inf))), mask.shape[1])
    return x, y


def _badges(
    rgb: Rgb, ranks: Sequence[int], spots: Sequence[tuple[int, int]], radius: int
) -> Rgb:
    """Round numbered badges."""
    import cv2
    from PIL import Image, ImageDraw

    for spot in spots:
        for colour, size in ((PAPER, radius + 1.5), (INK, radius)):
            cv2.circle(rgb, [16 * c for c in spot], round(16 * size), colour, -1, cv2.LINE_AA, 4)
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    for rank, (x, y) in zip(ranks, spots, strict=True):
        font = _font(radius * (1.4 if rank < 10 else 1.1))
        left, upper, right, lower = font.getbbox(str(rank))
        draw.text((x + 0.5 - (left + right) / 2, y + 0.5 - (upper + lower) / 2), str(rank), PAPER, font)
    return np.array(image)


def _decision(explanation: Explanation) -> tuple[str, str]:
    """The class that the detector decided for, and its probability."""
    scores, real = explanation.scores, explanation.settings.get("real", ())
    name = explanation.decided
    if name in scores:
        return name, _percent(scores[name])
    if not real:
        return name, ""
    p_real = sum(p for other, p in scores.items() if other in real)
    return name, _percent(p_real if name == "real" else 1 - p_real)


def _explained(explanation: Explanation) -> tuple[str, str]:
    """The target, with its probability where the decision does not say it."""
    same = explanation.target == explanation.decided
    return f"explains {explanation.target}", "" if same else _percent(explanation.p_target)


def _origin(explanation: Explanation) -> tuple[str, Colour]:
    """What the method compared the frame with: how the adversarial sample fared, or the baseline."""
    adversary = explanation.adversary
    if adversary is None:
        return f"baseline {explanation.baseline}", MUTED
    if adversary.flipped:
        steps = f"{adversary.steps} step{'' if adversary.steps == 1 else 's'}"
        return f"flipped in {steps}, L∞ {adversary.linf * 255:.1f}/255", MUTED
    if adversary.steps == 0:
        return "nothing to flip: called real already", WARNING
    return f"NOT FLIPPED in {adversary.steps} steps", WARNING


def _label(explanation: Explanation, heat: _Heat | None) -> str:
    """What the colours mean."""
    if heat is None:
        return "no heat: nothing moved the score"
    return f"{'speaks' if explanation.signed else 'matters'} for {explanation.target}"


def _percent(p: float) -> str:
    """A probability, never rounded to certainty."""
    if 0.9995 <= p < 1:
        return ">99.9 %"
    return "<0.1 %" if 0 < p < 0.0005 else f"{p:.1%}".replace("%", " %")


def _ends(heat: _Heat) -> tuple[str, str]:
    """The ends of the scale in as few digits as tell them apart, three at least."""
    pairs = ((f"{heat.low:.{d}g}", f"{heat.high:.{d}g}") for d in range(3, 18))
    return next(pair for pair in pairs if pair[0] != pair[1])


def _sheet(height: int, width: int) -> Rgb:
    return np.full((height, width, 3), PAPER, np.uint8)


def _paste(sheet: Rgb, picture: Rgb, y: int, x: int) -> None:
    sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


@functools.cache
def _font(size: float) -> FreeTypeFont:
    """Pillow's own font, the same on every machine."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert not isinstance(font, ImageFont.ImageFont)
    return font


@functools.cache
def _drawable(char: str) -> bool:
    """Whether the font has this character: it looks unlike a character that no font has."""
    font = _font(15)
    return char.isprintable() and bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))


def _plain(text: str) -> str:
    """`text` on one line, in characters that the font has."""
    chars = []
    for char in " ".join(text.split()):
        if not _drawable(char) and char != " ":
            bare = unicodedata.normalize("NFKD", char)[0]
            char = SPELLED.get(char, bare if _drawable(bare) else "?")
        chars.append(char)
    return "".join(chars)


def _elided(text: str, font: FreeTypeFont, room: float) -> str:
    """As much of `text` as fits."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text.rstrip() + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrap(text: str, font: FreeTypeFont, room: int, lines: int) -> list[str]:
    """`text` in at most so many lines."""
    words, wrapped = _plain(text).split(" "), [""]
    for index, word in enumerate(words):
        longer = f"{wrapped[-1]} {word}".strip()
        if wrapped[-1] and font.getlength(longer) > room:
            if len(wrapped) == lines:
                wrapped[-1] = " ".join([wrapped[-1], *words[index:]])
                break
            longer = word
            wrapped.append("")
        wrapped[-1] = longer
    return [_elided(line, font, room) for line in wrapped]


def _write(
    draw: ImageDraw,
    span: tuple[int, int],
    y: int,
    text: str,
    font: FreeTypeFont,
    colour: Colour,
    *,
    tail: str = "",
    align: str = "left",
) -> int:
    """Text centred on height y between two x, shortened to fit, but not its tail: the width used."""
    tail = _plain(tail) and " " + _plain(tail)
    room = span[1] - span[0] - font.getlength(tail)
    text = _elided(_plain(text), font, room) + tail
    x, anchor = (span[0], "lm") if align == "left" else (span[1], "rm")
    draw.text((x, y), text, colour, font, anchor)
    return round(font.getlength(text))
