"""`whyfake explain`: what it writes, prints and returns."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import FILES, LIME, explain, folders, load_all
from PIL import Image
from toys import PATCH

from whyfake import METHODS, Explanation


def test_one_picture(toy: Path, here: Path) -> None:
    result = explain("p0.png", "--samples", "64")
    assert result.code == 0
    out = here / "whyfake-out"
    assert folders(out) == ["p0/lime-adv"]
    assert {path.name for path in (out / "p0" / "lime-adv").iterdir()} == FILES
    explanation = Explanation.load(out / "p0" / "lime-adv")
    assert explanation.source == str(here / "p0.png")
    assert explanation.predicted == "fake"
    assert explanation.adversary is not None
    assert explanation.adversary.flipped
    with Image.open(out / "p0" / "lime-adv" / "overlay.png") as image:
        assert min(image.size) > 300
    # the table
    header, row = result.out.splitlines()
    assert re.split(r"\s{2,}", header.strip()) == [
        "picture",
        "class and score",
        "method",
        "flipped?",
        "top regions",
        "images",
        "seconds",
    ]
    cells = re.split(r"\s{2,}", row.strip())
    score = explanation.scores["fake"]
    steps = explanation.adversary.steps
    assert cells[:4] == ["p0", f"fake {score:.1%}", "lime-adv", f"yes, {steps} steps"]
    best = explanation.regions[0]
    assert cells[4].startswith(f"{best['region']} ({best['score']:.2g})")
    assert cells[5] == f"{explanation.images:,}"
    # what is not the result is on stderr
    assert "toy on cpu (onnxruntime" in result.err
    assert "1 explanations in whyfake-out/" in result.err
    assert f"({explanation.images:,} images asked)" in result.err


def test_the_planted_patch_is_found_through_the_command(toy: Path, here: Path) -> None:
    explain("p0.png", "-m", "lime-adv", "--samples", "400", "--regions", "grid:8")
    explanation = Explanation.load(here / "whyfake-out" / "p0" / "lime-adv")
    top, bottom, left, right = PATCH
    x0, y0, x1, y1 = explanation.regions[0]["box"]
    assert top <= y0 < y1 <= bottom
    assert left <= x0 < x1 <= right


def test_several_pictures_and_methods(toy: Path, here: Path) -> None:
    result = explain("p0.png", "p1.png", "-m", "lime,rise-adv", "--samples", "64", "-o", "results")
    assert result.code == 0
    wanted = ["p0/lime", "p0/rise-adv", "p1/lime", "p1/rise-adv"]
    assert folders(here / "results") == wanted
    assert list(load_all(here / "results")) == wanted
    rows = [re.split(r"\s{2,}", line.strip()) for line in result.out.splitlines()[1:]]
    assert [f"{row[0]}/{row[2]}" for row in rows] == wanted
    flipped = {f"{row[0]}/{row[2]}": row[3] for row in rows}
    assert flipped["p0/lime"] == "–"
    assert flipped["p0/rise-adv"].startswith("yes, ")


def test_a_folder_stands_for_its_pictures(toy: Path, here: Path) -> None:
    (here / "pictures").mkdir()
    for name in ("b.png", "a.PNG"):
        shutil.copy("p0.png", here / "pictures" / name)
    (here / "pictures" / "notes.txt").write_text("no picture")
    result = explain("pictures", "pictures/b.png", *LIME)
    assert result.code == 0
    assert folders(here / "whyfake-out") == ["a/lime", "b/lime"]


def test_all_methods(toy: Path, here: Path) -> None:
    result = explain("p0.png", "-m", "all", "--samples", "64")
    assert result.code == 0
    out = here / "whyfake-out"
    assert folders(out) == sorted(f"p0/{method}" for method in METHODS)
    assert len(METHODS) == 14
    assert {path.name for path in (out / "p0").iterdir()} == {*METHODS, "strip.png"}
    with Image.open(out / "p0" / "strip.png") as image:
        assert image.width > image.height
    asked = sum(explanation.images for explanation in load_all(out).values())
    assert f"({asked:,} images asked)" in result.err


def test_json_lines(toy: Path, here: Path) -> None:
    result = explain("p0.png", "p1.png", "-m", "lime,sobol-adv", "--samples", "64", "--json")
    assert result.code == 0
    lines = result.out.splitlines()
    assert result.out.endswith("\n")
    assert len(lines) == 4
    stored = load_all(here / "whyfake-out")
    for line in lines:
        data = json.loads(line)
        key = f"{Path(data['source']).stem}/{data['method']}"
        text = (here / "whyfake-out" / key / "explanation.json").read_text("utf-8")
        assert data == json.loads(text)
        assert data == stored.pop(key).to_dict()
    assert stored == {}
    assert "toy on cpu" in result.err
    assert "4 explanations in" in result.err


def test_the_same_seed_gives_the_same_result(toy: Path, here: Path) -> None:
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        options = ("-m", "rise", "--samples", "64", "--seed", seed, "-o", out)
        assert explain("p0.png", *options).code == 0
    a, b, c = (Explanation.load(here / out / "p0" / "rise") for out in "abc")
    np.testing.assert_array_equal(a.heatmap, b.heatmap)
    assert (a.seed, c.seed) == (3, 4)
    assert not np.array_equal(a.heatmap, c.heatmap)


@pytest.mark.parametrize("method", ["all", "lime-adv"])
def test_nothing_to_flip(toy: Path, here: Path, method: str) -> None:
    result = explain("plain.png", "-m", method, "--samples", "64")
    assert result.code == 0
    rows = result.out.splitlines()[1:]
    assert len(rows) == (len(METHODS) if method == "all" else 1)
    assert all("nothing to flip" in row and "real 100.0%" in row for row in rows)
    for explanation in load_all(here / "whyfake-out").values():
        assert explanation.adversary is None
        assert "nothing to flip" in explanation.notes[0]
