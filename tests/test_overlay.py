"""The pictures: sizes, heat where it belongs, outlines, text that stays put."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from whyfake.explainers import is_signed
from whyfake.explanation import Adversary, Explanation
from whyfake.report import overlay, png_bytes, strip
from whyfake.report.overlay import INK, MUTED, WARNING, _ends, _plain, heat_of, percent

HEAD = 76
"""Height of the caption above the picture."""
FLIPPED = Adversary(True, 7, 568, 6.8 / 255, 0.017, 0.61)
STUCK = Adversary(False, 80, 6481, 16 / 255, 0.0, 0.002)


def example(height: int = 60, width: int = 90, method: str = "lime", **changes: Any) -> Explanation:
    """Twelve regions (3 × 4 cells); only the cell in row 0, column 2 (label 2) has heat."""
    rng = np.random.default_rng(5)
    frame = cv2.GaussianBlur(rng.random((height, width, 3)), (0, 0), 3).astype(np.float32)
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    regions = (rows[:, None] * 4 + columns).astype(np.int32)
    scores = np.zeros(12, np.float32)
    scores[2] = 0.5
    plain = Explanation(
        source="somewhere/face.png",
        source_size=(height, width),
        method=method,
        baseline="mean",
        target="fake",
        predicted="fake",
        classes=("fake", "real"),
        real=("real",),
        scores={"fake": 0.983, "real": 0.017},
        frame=np.ascontiguousarray(frame.transpose(2, 0, 1)),
        heatmap=scores[regions],
        region_map=regions,
        region_scores=scores,
        adversary=None,
        adversarial=None,
        images=100,
        image_counts={"explain": 100},
        seconds=1.0,
        seed=0,
        settings={},
        detector={},
        versions={},
        signed=is_signed(method),
    )
    return dataclasses.replace(plain, **changes)


def with_scores(scores: list[float], **changes: Any) -> Explanation:
    given = np.resize(np.array(scores, np.float32), 12)
    plain = example(**changes)
    return dataclasses.replace(plain, region_scores=given, heatmap=given[plain.region_map])


def enlarged(explanation: Explanation, height: int, width: int) -> np.ndarray:
    frame = np.rint(explanation.frame.transpose(1, 2, 0) * 255).astype(np.uint8)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, ...], Any]]:
    """Every text drawn: what, its box (left, upper, right, lower), its colour."""
    texts: list[tuple[str, tuple[float, ...], Any]] = []
    draw_text = ImageDraw.ImageDraw.text

    def text(self: Any, xy: Any, text: str, fill: Any, font: Any, anchor: str) -> None:
        draw_text(self, xy, text, fill, font, anchor)
        box = self.textbbox(xy, text, font, anchor)
        texts.append((text, box, fill))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (256, 256, (512, 512)),  # whole factors where one fits
        (224, 224, (448, 448)),
        (60, 90, (480, 720)),
        (180, 320, (448, 796)),  # 3 × 320 is above 896
        (320, 180, (796, 448)),
        (600, 600, (600, 600)),
        (1000, 500, (896, 448)),  # shrunk
    ],
)
def test_size(height: int, width: int, shown: tuple[int, int]) -> None:
    rgb = overlay(example(height, width))
    assert rgb.dtype == np.uint8
    assert rgb.shape == (HEAD + shown[0] + 70, shown[1], 3)


def test_narrow_frame_leaves_room_for_the_caption() -> None:
    assert overlay(example(320, 64)).shape == (HEAD + 896 + 70, 448, 3)


def test_heat_lies_where_it_belongs_and_cold_places_show_the_frame() -> None:
    explanation = example(60, 90)
    shown = overlay(explanation, top=0)[HEAD : HEAD + 480].astype(int)
    change = np.abs(shown - enlarged(explanation, 480, 720)).max(axis=2)
    hot = cv2.resize(explanation.heatmap, (720, 480), interpolation=cv2.INTER_NEAREST) > 0
    inside = cv2.erode(hot.astype(np.uint8), np.ones((17, 17))) > 0  # heat is blurred by one pixel
    outside = cv2.dilate(hot.astype(np.uint8), np.ones((17, 17))) == 0
    assert change[inside].min() > 50
    assert change[outside].max() == 0


def test_opacity_rises_with_heat() -> None:
    explanation = with_scores([0, 0.1, 0.3, 1], frame=np.full((3, 60, 90), 0.5, np.float32))
    shown = overlay(explanation, top=0)[HEAD : HEAD + 480].astype(int)
    change = [np.linalg.norm(shown[240, 90 + 180 * column] - 128) for column in range(4)]
    assert change[0] == 0
    assert all(np.diff(change) > 10)
    # the end of Viridis, (253, 231, 37), four parts in five: yellow, not its blue mirror in BGR
    np.testing.assert_allclose(shown[240, 90 + 180 * 3], [228, 210, 55], atol=1)


def test_scale_of_unsigned_methods_runs_from_least_to_most() -> None:
    scores = [-0.2, 0.1, 0.4]
    heat = heat_of(with_scores(scores, method="rise-adv"))
    assert heat is not None
    np.testing.assert_allclose(heat[1:], [-0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(np.unique(heat[0]), [0, 0.5, 1], atol=1e-6)


def test_scale_of_signed_methods_starts_at_zero() -> None:
    heat = heat_of(with_scores([-0.2, 0.1, 0.4], method="shap-adv"))
    assert heat is not None
    np.testing.assert_allclose(heat[1:], [0, 0.4], rtol=1e-6)
    np.testing.assert_allclose(np.unique(heat[0]), [0, 0.25, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("method", "scores", "says"),
    [
        ("rise", [0.7], "nothing moved the score"),
        ("rise", [-0.7], "nothing moved the score"),
        ("sobol", [0.0], "nothing moved the score"),
        ("sobol", [0.7, 0.7 + 1e-7], "nothing moved the score"),  # float32 rounding, no heat
        ("lime", [0.0], "nothing moved the score"),
        ("lime", [-0.2, -0.1], "nothing spoke for the target"),
        ("shap-adv", [-0.2, 0.0], "nothing spoke for the target"),
    ],
)
def test_no_heat_is_said_and_not_drawn(
    written: list[Any], method: str, scores: list[float], says: str
) -> None:
    explanation = with_scores(scores, method=method)
    shown = overlay(explanation)[HEAD : HEAD + 480]
    np.testing.assert_array_equal(shown, enlarged(explanation, 480, 720))
    texts = {text: colour for text, _, colour in written}
    assert texts[f"no heat: {says}"] == WARNING
    strip([explanation])
    assert "no heat, baseline mean" in [text for text, *_ in written]


def test_regions_that_do_not_speak_for_the_target_have_no_badge(written: list[Any]) -> None:
    scores = [0.3, 0.2] + [-0.1] * 10
    overlay(with_scores(scores, method="lime"))
    assert [text for text, *_ in written if text.isdigit() and text != "0"] == ["1", "2"]
    written.clear()
    overlay(with_scores(scores, method="sobol"), top=4)
    assert [text for text, *_ in written if text.isdigit()] == ["1", "2", "3", "4"]


def test_badge_stands_inside_its_region(written: list[Any]) -> None:
    explanation = with_scores([0.1, 0.2, 0.9, 0.3, 0.1, 0.8, 0.1, 0.1, 0.1, 0.7, 0.1, 0.1])
    overlay(explanation, top=3)
    for rank, region in ((1, 2), (2, 5), (3, 9)):
        (box,) = [box for text, box, *_ in written if text == str(rank)]
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2  # on the picture: 8 times the frame
        assert explanation.region_map[int(y / 8), int(x / 8)] == region


def test_outline_runs_along_the_border_of_the_region() -> None:
    explanation = example()
    pictures = [overlay(explanation, top=top)[HEAD : HEAD + 480].astype(int) for top in (0, 1)]
    drawn = np.abs(pictures[1] - pictures[0]).max(axis=2) > 0
    left, top, right, bottom = (8 * side for side in explanation.regions[0]["box"])
    assert (left, top, right, bottom) == (360, 0, 544, 160)  # at the upper edge of the frame
    near = np.zeros(drawn.shape, bool)
    near[: bottom + 4, left - 4 : right + 4] = True
    near[8 : bottom - 12, left + 12 : right - 12] = False  # corners are rounded
    badge = np.zeros(drawn.shape, bool)
    badge[bottom // 2 - 20 : bottom // 2 + 20, left + 72 : right - 72] = True
    assert not drawn[~near & ~badge].any()
    middle = (left + right) // 2
    assert drawn[:4, middle].any()
    assert drawn[bottom - 4 : bottom + 4, middle].any()
    assert drawn[bottom // 2, left - 4 : left + 4].any()
    assert drawn[bottom // 2, right - 4 : right + 4].any()


def test_the_adversary_is_told(written: list[Any]) -> None:
    overlay(example(adversary=FLIPPED))
    overlay(example(adversary=STUCK))
    overlay(example(adversary=dataclasses.replace(STUCK, steps=0), predicted="real", target="real"))
    texts = {text: colour for text, _, colour in written}
    assert texts["flipped in 7 steps, Linf 6.8/255"] == MUTED
    assert texts["NOT FLIPPED in 80 steps"] == WARNING
    assert texts["already called real: nothing to flip"] == WARNING
    assert texts["real 1.7 %"] == INK


def test_target_and_its_probability(written: list[Any]) -> None:
    overlay(example(target="real", notes=("first note", "second note")))
    texts = [text for text, *_ in written]
    assert {"fake 98.3 %", "explains real 1.7 %", "speaks for real", "first note"} <= set(texts)
    assert "second note" not in texts


LONG = "A Class With a Name of Sixty Letters – as Écoles Would Have It"
NOTE = "something that the reader must know about this explanation, " * 5


@pytest.mark.parametrize(
    ("height", "width", "name", "note"),
    [
        pytest.param(64, 64, "fake", "short", id="usual"),
        pytest.param(64, 64, LONG, NOTE, id="long"),
        pytest.param(160, 30, LONG, NOTE, id="narrow"),
        pytest.param(90, 160, "W" * 60, "W" * 300, id="wide letters"),
        pytest.param(64, 64, "名" * 60, "", id="not in the font"),
    ],
)
def test_text_neither_leaves_the_picture_nor_overlaps(
    written: list[Any], height: int, width: int, name: str, note: str
) -> None:
    plain = example(height, width)
    sizes = overlay(plain).shape[1], strip([plain] * 2).shape
    long = example(
        height,
        width,
        method="a-method-with-a-rather-long-name-adv",
        source=f"folder/{name * 2}.png",
        target=name,
        predicted=name,
        scores={name: 0.99999, "real": 0.00001},
        adversary=STUCK,
        notes=(note,) if note else (),
    )
    written.clear()
    rgb = overlay(long)
    assert rgb.shape[1] == sizes[0]
    _check_boxes(written, rgb.shape)
    written.clear()
    rgb = strip([long] * 2)
    assert rgb.shape == sizes[1]
    _check_boxes(written, rgb.shape)


def _check_boxes(written: list[Any], shape: tuple[int, ...]) -> None:
    boxes = [box for text, box, *_ in written if text and not text.isdigit()]
    assert len(boxes) >= 5
    for left, upper, right, lower in boxes:
        assert left >= 0
        assert upper >= 0
        assert right <= shape[1]
        assert lower <= shape[0]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_long_note_is_cut_visibly(written: list[Any]) -> None:
    overlay(example(64, 64, notes=(NOTE,)))
    lines = [text for text, *_ in written if text in NOTE or text.rstrip("…") in NOTE]
    lines = [line for line in lines if "the" in line]
    assert len(lines) == 3
    assert lines[2].endswith("…")
    assert NOTE.startswith(" ".join(lines).rstrip("…"))


def test_signs_that_the_font_lacks_are_spelled() -> None:
    assert _plain("L∞ 3×4 → Écoles\n\t– 名 …") == "Linf 3x4 -> Ecoles - ? …"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.983, "98.3 %"),
        (1.0, "100.0 %"),
        (0.99999, ">99.9 %"),
        (0.00001, "<0.1 %"),
        (0.0, "0.0 %"),
    ],
)
def test_percent_never_rounds_to_certainty(p: float, text: str) -> None:
    assert percent(p) == text


def test_ends_of_the_scale_differ() -> None:
    assert _ends(0, 0.43211) == ("0", "0.432")
    assert _ends(0.981234, 0.981456) == ("0.9812", "0.9815")


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 2), (4, 1, 5), (5, 2, 5), (8, 2, 5), (10, 3, 5)]
)
def test_strip_has_a_tile_for_the_frame_and_each_explanation(
    written: list[Any], count: int, rows: int, columns: int
) -> None:
    explanations = [example(64, 96, method=f"rise{i}") for i in range(count)]
    rgb = strip(explanations)
    assert rgb.shape == (rows * (256 + 54 + 14) + 14 + 30, columns * (384 + 14) + 14, 3)
    frame = enlarged(explanations[0], 256, 384)
    np.testing.assert_array_equal(rgb[14 : 14 + 256, 14 : 14 + 384], frame)
    for tile in range(1, rows * columns):
        y, x = 14 + tile // 5 * (256 + 54 + 14), 14 + tile % 5 * (384 + 14)
        shown = rgb[y : y + 256, x : x + 384].astype(int)
        hot = np.abs(shown - frame).max(axis=2)[20:50, 230:270].mean()  # clear of badge, outline
        if tile <= count:
            assert hot > 50
            assert np.abs(shown - frame)[150:].max() == 0
        else:
            assert (shown == rgb[0, 0]).all()
    titles = [text for text, *_ in written]
    assert titles.index("face.png") < titles.index("rise0")
    assert [t for t in titles if t.startswith("rise")] == [f"rise{i}" for i in range(count)]


def test_strip_tells_who_flipped(written: list[Any]) -> None:
    strip([example(adversary=FLIPPED), example(adversary=STUCK), example(target="real")])
    texts = [text for text, *_ in written]
    assert {"NOT FLIPPED in 80 steps", "baseline mean", "lime, explains real"} <= set(texts)
    assert "fake 98.3 %" in texts


def test_strip_refuses_nothing_and_several_frames() -> None:
    with pytest.raises(ValueError, match="got none"):
        strip([])
    other = example(source="other.png", frame=np.zeros((3, 60, 90), np.float32))
    with pytest.raises(ValueError, match=r"face\.png and other\.png"):
        strip([example(), other, example()])


def test_top_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="got -1"):
        overlay(example(), top=-1)


def test_same_explanation_same_bytes() -> None:
    explanation = example(adversary=FLIPPED)
    assert png_bytes(overlay(explanation)) == png_bytes(overlay(explanation))
    assert png_bytes(strip([explanation])) == png_bytes(strip([explanation]))
    assert png_bytes(overlay(explanation)) != png_bytes(overlay(explanation, top=0))


def test_drawing_leaves_the_explanation_alone() -> None:
    explanation = example()
    arrays = [explanation.frame.copy(), explanation.heatmap.copy(), explanation.region_map.copy()]
    overlay(explanation)
    strip([explanation])
    now = [explanation.frame, explanation.heatmap, explanation.region_map]
    assert all(np.array_equal(a, b) for a, b in zip(arrays, now, strict=True))


def test_png_keeps_every_pixel_in_rgb_order() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with Image.open(io.BytesIO(png_bytes(rgb))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.array(image), rgb)
    with pytest.raises(ValueError, match=r"uint8 RGB .* got float32 \(5, 7, 3\)"):
        png_bytes(rgb.astype(np.float32))
