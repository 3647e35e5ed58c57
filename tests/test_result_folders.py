"""Folders of results: one for each picture, whatever it is called; written whole, or again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import LIME, explain, folders, load_all, whyfake
from PIL import Image

from whyfake import Explanation


def test_pictures_of_one_name_do_not_overwrite_each_other(toy: Path, here: Path) -> None:
    for index, folder in enumerate(("a", "b", "c/a")):
        (here / folder).mkdir(parents=True)
        shutil.copy(f"p{index}.png", here / folder / "face.png")
    pictures = ["a/face.png", "b/face.png", "c/a/face.png"]
    assert explain(*pictures, *LIME).code == 0
    out = here / "whyfake-out"
    first = {name: e.source for name, e in load_all(out).items()}
    assert sorted(first.values()) == sorted(str(here / picture) for picture in pictures)
    assert {"face/lime", "b-face/lime"} < set(first)
    # again, the other way round and one by one: every picture keeps its folder
    assert explain(*reversed(pictures), *LIME).code == 0
    assert explain(pictures[1], *LIME).code == 0
    assert {name: e.source for name, e in load_all(out).items()} == first


def test_a_rerun_overwrites_whole(toy: Path, here: Path) -> None:
    folder = here / "whyfake-out" / "p0" / "lime"
    assert explain("p0.png", *LIME, "--seed", "1").code == 0
    (folder / "overlay.png").write_bytes(b"spoilt")
    (folder / "left over.txt").write_text("from another version")
    assert explain("p0.png", *LIME, "--seed", "2").code == 0
    assert list(load_all(here / "whyfake-out")) == ["p0/lime"]  # exactly the three files
    assert Explanation.load(folder).seed == 2
    with Image.open(folder / "overlay.png") as image:
        image.load()


@pytest.mark.parametrize("half", [b"", b'{"schema": 1, "sou'])
def test_a_half_written_leftover_does_not_change_a_name(toy: Path, here: Path, half: bytes) -> None:
    """What a killed run left in the picture's folder is swept, not taken for another picture."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = here / "whyfake-out" / "p0" / f".lime.new-{ended.pid}"
    left.mkdir(parents=True)
    (left / "explanation.json").write_bytes(half)
    assert explain("p0.png", *LIME).code == 0
    assert folders(here / "whyfake-out") == ["p0/lime"]
    assert [path.name for path in (here / "whyfake-out" / "p0").iterdir()] == ["lime"]


@pytest.mark.parametrize("name", ["...png", "..png"])
def test_no_name_leads_out_of_the_folder(toy: Path, here: Path, name: str) -> None:
    """The stem of `...png` is `..`."""
    shutil.copy("p0.png", name)
    assert explain(name, *LIME, "-o", "deep/results").code == 0
    (found,) = here.rglob("explanation.json")
    inside = found.relative_to(here / "deep" / "results")
    assert len(inside.parts) == 3
    assert inside.parts[0] not in ("..", ".")


ODD_NAMES = [
    "frame [1].png",
    "[bold]x.png",
    "größe 漢字.png",
    "-x.png",
    "a'b\"c.png",
    ".hidden.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names(toy: Path, here: Path, name: str) -> None:
    shutil.copy("p0.png", name)
    result = explain(*LIME, "--", name)
    assert result.code == 0
    stem = Path(name).stem
    assert folders(here / "whyfake-out") == [f"{stem}/lime"]
    assert result.out.splitlines()[1].startswith(stem)  # as it is, not taken for markup
    lines = explain(*LIME, "--json", "--", name).out.splitlines()
    assert json.loads(lines[0])["source"] == str(here / name)


def test_names_that_look_like_markup(toy: Path, here: Path) -> None:
    """`[/x]` would close a style in rich, and fail."""
    card = json.loads((here / "toy.card.json").read_text())
    card |= {"name": "[/toy]", "classes": ["[/real]", "[red]fake"], "real": ["[/real]"]}
    (here / "toy.card.json").write_text(json.dumps(card))
    result = explain("p0.png", *LIME, "-o", "[/out]")
    assert result.code == 0
    assert "[red]fake 9" in result.out
    assert "[/toy] on cpu" in result.err
    assert "explanations in [/out]/" in result.err
    assert whyfake("inspect", "toy.onnx").code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes")
def test_a_file_name_that_is_no_text(toy: Path, here: Path) -> None:
    """Bytes that are not UTF-8: explained, or refused in words, but no traceback."""
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy("p0.png", name)
    for options in ((), ("--json",)):
        result = explain(name, "p1.png", *LIME, *options)
        assert "p1/lime" in folders(here / "whyfake-out")
        if result.code:
            assert "error: " in result.err
        else:
            assert len(folders(here / "whyfake-out")) == 2
