"""The command: what it writes, prints and returns; and that bad input is one line, no traceback."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image
from toys import PATCH, SIZE, make_card, planted_detector, planted_frame, save_model
from typer.testing import CliRunner

from whyfake import METHODS, Explanation
from whyfake.cli import app
from whyfake.explainers import EXPLAINERS
from whyfake.request import parse_methods
from whyfake.runtime.detector import Lane
from whyfake.settings import PRESETS, read_settings

COMMAND = Path(sys.executable).with_name("whyfake")
LIME = ("-m", "lime", "--samples", "64")
FILES = {"explanation.json", "arrays.npz", "overlay.png"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run of the command gave."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy.onnx, its card, and pictures that it calls fake."""
    folder = tmp_path_factory.mktemp("planted")
    planted_detector(folder, PATCH, SIZE).close()
    for index in range(4):
        Image.fromarray(planted_frame(PATCH, SIZE, index)).save(folder / f"p{index}.png")
    plain = np.full((*SIZE, 3), 120, np.uint8)
    Image.fromarray(plain).save(folder / "plain.png")
    return folder


@pytest.fixture
def toy(planted: Path, here: Path) -> Path:
    """The same, copied into the working folder; the detector's path."""
    for path in planted.iterdir():
        shutil.copy(path, here)
    return here / "toy.onnx"


def whyfake(*arguments: str | Path) -> Result:
    """Run the command in this process; anything but an orderly exit fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback: {result.exception!r}") from result.exception
    assert "Traceback" not in result.stdout + result.stderr
    return Result(result.exit_code, result.stdout, result.stderr)


def explain(*arguments: str | Path, detector: str = "toy.onnx") -> Result:
    return whyfake("explain", "-d", detector, "--threads", "1", *arguments)


def process(*arguments: str | Path, code: int | None = None) -> Result:
    """Run the installed command as its users do."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    assert code is None or done.returncode == code, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


def one_error(result: Result, code: int, *parts: str) -> None:
    """That exit code, nothing on stdout, and one line `error: …` with all the parts in it."""
    assert (result.code, result.out) == (code, ""), result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def folders(out: Path) -> list[str]:
    """`picture/method` of every folder with results, hidden ones too."""
    return sorted(str(path.parent.relative_to(out)) for path in out.rglob("explanation.json"))


def load_all(out: Path) -> dict[str, Explanation]:
    """Every visible result, read back: one that is not whole raises."""
    found = {}
    for folder in sorted(out.glob("*/*/")):
        if folder.is_dir() and not folder.name.startswith("."):
            found[str(folder.relative_to(out))] = Explanation.load(folder)
            assert {path.name for path in folder.iterdir()} == FILES
    return found


# --- explain


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


# --- names of result folders


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


# --- bad input


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("-m", "lmie"), ["unknown method 'lmie': did you mean 'lime'?", "owen-adv, all, paper"]),
        (("-m", "lime,rsie"), ["unknown method 'rsie': did you mean 'rise'?"]),
        (("-m", ""), ["name at least one method"]),
        (("-m", ","), ["name at least one method"]),
        (("--target", "fkae"), ["unknown class 'fkae': did you mean 'fake'?", "predicted"]),
        (
            ("-m", "lime", "--baseline", "balck"),
            ["unknown baseline 'balck': did you mean 'black'?"],
        ),
        (("-m", "lime", "--baseline", "none.png"), ["unknown baseline 'none.png'"]),
        (("-m", "lime-adv", "--baseline", "black"), ["lime-adv", "has its own baseline"]),
        (("--regions", "slcic:50"), ["unknown regions 'slcic:50': did you mean 'slic:N'?"]),
        (("--regions", "slic:none"), ["'slic:none' must give a number"]),
        (("--regions", "grid:0"), ["'grid:0' must give a number of 1 or more"]),
        (("--regions", "none.npy"), ["there is no file 'none.npy'"]),
        (("--preset", "papr"), ["unknown preset 'papr': did you mean 'paper'?"]),
        (("--device", "gpu"), ["device must be auto, cpu, cuda, tensorrt", "got 'gpu'"]),
        (("--device", "cuda:x"), ["device must be auto, cpu, cuda, tensorrt", "got 'cuda:x'"]),
        (("--config", "none.toml"), ["none.toml: cannot read the settings"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options(toy: Path, here: Path, options: Sequence[str], parts: list[str]) -> None:
    one_error(explain("p0.png", *options), 2, *parts)
    assert not (here / "whyfake-out").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[rise]\nmaks = 4", ["[rise]", "unknown setting 'maks': did you mean 'masks'?"]),
        ("[riise]\nmasks = 4", ["unknown setting 'riise': did you mean 'rise'?"]),
        ('[rise]\nmasks = "many"', ["[rise] masks must be", "got 'many'"]),
        ("[rise]\nmasks = 4.5", ["[rise] masks must be", "got 4.5"]),
        ("[rise]\ndebiased = 1", ["[rise] debiased must be", "got 1"]),
        ("[rise]\np = 2.0", ["p must lie in (0, 1), got 2.0"]),
        ("rise = 3", ["[rise] must be a table, got 3"]),
        ("regions = 3", ["regions must be", "got 3"]),
        ("regions = 'slic:x'", ["'slic:x' must give a number"]),
        ("[nes]\nsigma = 0", ["sigma must be positive, got 0"]),
        ("[nes", ["not valid TOML"]),
        ("\x00", ["not valid TOML"]),
    ],
)
def test_wrong_settings(toy: Path, here: Path, text: str, parts: list[str]) -> None:
    (here / "own.toml").write_text(text)
    one_error(explain("p0.png", "--config", "own.toml"), 2, *parts)


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain"],
        ["explain", "-d", "toy.onnx"],
        ["explain", "p0.png", "-d", "toy.onnx", "--nope"],
        ["explain", "p0.png", "-d", "toy.onnx", "--samples", "3"],
        ["explain", "p0.png", "-d", "toy.onnx", "--samples", "many"],
        ["explain", "p0.png", "-d", "toy.onnx", "--seed", "-1"],
        ["explain", "p0.png", "-d", "toy.onnx", "--threads", "0"],
        ["expalin", "p0.png"],
        ["inspect"],
        ["methods", "--preset", "none"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines(toy: Path, arguments: list[str]) -> None:
    result = whyfake(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err


def test_a_picture_that_is_not_there(toy: Path, here: Path) -> None:
    result = explain("none.png", *LIME)
    assert (result.code, result.out) == (1, "")
    assert f"error: {here / 'none.png'}: there is no such file" in result.err
    assert "1 of 1 pictures failed" in result.err


def test_one_bad_picture_among_good_ones(toy: Path, here: Path) -> None:
    (here / "text.png").write_text("this is no picture")
    for options in ((), ("--json",)):
        result = explain("p0.png", "text.png", "p1.png", *LIME, *options)
        assert result.code == 1
        assert folders(here / "whyfake-out") == ["p0/lime", "p1/lime"]
        assert len(load_all(here / "whyfake-out")) == 2
        summary = result.err[result.err.index("1 of 3 pictures failed") :]
        assert f"{here / 'text.png'} is not a picture that can be read" in summary
        lines = result.out.splitlines()
        if options:
            assert [Path(json.loads(line)["source"]).name for line in lines] == ["p0.png", "p1.png"]
        else:
            assert [line.split()[0] for line in lines] == ["picture", "p0", "p1"]


def test_an_empty_folder(toy: Path, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "empty" / "notes.txt").write_text("no picture")
    one_error(explain("empty"), 1, "empty: no pictures in that folder", ".png")


def test_a_detector_that_gives_nan(toy: Path, here: Path) -> None:
    size = SIZE
    save_model(
        here,
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Log", ["product"], ["y"]),
        ],
        {"w": np.full((3 * size[0] * size[1], 2), -1, np.float32)},
        size=size,
        columns=2,
        card=make_card(size),
        name="nan",
    )
    result = explain("p0.png", "p1.png", *LIME, detector="nan.onnx")
    assert (result.code, result.out) == (1, "")
    assert "gave NaN or infinite scores" in result.err
    assert "2 of 2 pictures failed" in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an ONNX model"),
        (b"some text\n", "is not a readable ONNX model"),
        (b"\x89PNG\r\n\x1a\n", "is not a readable ONNX model"),
        (None, "cannot read the model: No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", ["explain", "inspect"])
def test_what_is_no_detector(
    toy: Path, here: Path, content: bytes | None, message: str, command: str
) -> None:
    if content is not None:
        (here / "odd.onnx").write_bytes(content)
    arguments = ["p0.png", "-d", "odd.onnx"] if command == "explain" else ["odd.onnx"]
    one_error(whyfake(command, *arguments), 1, "odd.onnx", message)


def test_a_card_that_contradicts_the_graph(toy: Path, here: Path) -> None:
    card = make_card((SIZE[0], SIZE[1] + 1))
    (here / "other.json").write_text(json.dumps(card))
    wanted = "toy.onnx expects 3×40×64, the card says 3×40×65: re-export, or pass --card"
    one_error(explain("p0.png", "--card", "other.json"), 1, wanted)
    one_error(explain("p0.png", "--card", "none.json"), 1, "none.json: cannot read the card")
    (here / "other.json").write_text("{")
    one_error(explain("p0.png", "--card", "other.json"), 1, "other.json: not valid JSON")
    (here / "toy.card.json").unlink()
    one_error(explain("p0.png"), 1, "toy.onnx has no detector card", "whyfake inspect toy.onnx")


@pytest.mark.parametrize("out", ["p0.png", "p0.png/results"])
def test_nowhere_to_write_is_said_before_anything_is_asked(
    toy: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    def asked(*args: Any) -> None:
        pytest.fail("an image was asked")

    monkeypatch.setattr(Lane, "run", asked)
    one_error(explain("p0.png", "-o", out), 1, f"{out}: cannot write there", "choose another --out")


def test_a_picture_whose_folder_cannot_be_made(toy: Path, here: Path) -> None:
    (here / "whyfake-out").mkdir()
    (here / "whyfake-out" / "p0").write_text("a file of that name")
    result = explain("p0.png", *LIME)
    assert (result.code, result.out) == (1, "")
    assert re.search(r"^error: .*p0/lime: cannot write the result", result.err, re.MULTILINE)
    assert (here / "whyfake-out" / "p0").read_text() == "a file of that name"


def test_cuda_where_there_is_none(toy: Path, here: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("for the CPU package")
    one_error(
        explain("p0.png", "--device", "cuda"),
        1,
        "this onnxruntime has no CUDA provider",
        "pip install 'whyfake[gpu]'",
        "--device cpu",
    )


def test_without_onnxruntime(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    one_error(explain("p0.png"), 1, "'onnxruntime'", "not installed: pip install 'whyfake[cpu]'")
    assert whyfake("inspect", "toy.onnx").code == 0  # needs none


# --- inspect, methods, help


def test_inspect(toy: Path) -> None:
    result = whyfake("inspect", "toy.onnx")
    assert result.code == 0
    for part in ("toy.card.json", "opset 17", "x float n×3×40×64", "y float n×2", '"height": 40'):
        assert part in result.out
    assert "card and graph agree" in result.out
    report = json.loads(whyfake("inspect", "toy.onnx", "--json").out)
    assert report["inputs"] == [{"name": "x", "dtype": "float", "shape": ["n", 3, 40, 64]}]
    assert report["outputs"][0]["shape"] == ["n", 2]
    assert (report["problems"], report["layout"], report["batch"]) == ([], "NCHW", None)
    assert report["card"]["classes"] == ["real", "fake"]


def test_inspect_without_a_card_prints_one_to_start_from(toy: Path, here: Path) -> None:
    (here / "toy.card.json").unlink()
    result = whyfake("inspect", "toy.onnx")
    assert result.code == 1
    assert "problem: toy.onnx has no detector card" in result.out
    start = result.out[result.out.index("{", result.out.index("a card to start from")) :]
    card = json.loads(start)
    report = json.loads(whyfake("inspect", "toy.onnx", "--json").out)
    assert report["card_start"] == card
    (here / "toy.card.json").write_text(json.dumps(card))
    assert whyfake("inspect", "toy.onnx").code == 0
    assert explain("p0.png", *LIME).code == 0


def test_inspect_a_card_that_contradicts_its_graph(toy: Path, here: Path) -> None:
    (here / "toy.card.json").write_text(json.dumps(make_card((40, 65))))
    for options in ((), ("--json",)):
        result = whyfake("inspect", "toy.onnx", *options)
        assert result.code == 1
        assert "toy.onnx expects 3×40×64, the card says 3×40×65" in result.out


def test_words_for_several_methods() -> None:
    paper = ("lime", "shap", "sobol", "rise", "lime-adv", "shap-adv", "sobol-adv", "rise-adv")
    assert parse_methods("paper") == paper
    assert parse_methods("all") == METHODS
    assert parse_methods("hsic, paper,lime") == ("hsic", *paper)
    assert parse_methods("paper", "adversarial") == paper[4:]


def test_methods() -> None:
    result = whyfake("methods")
    assert result.code == 0
    for method in METHODS:
        assert method in result.out
    data = json.loads(whyfake("methods", "--json").out)
    assert [row["method"] for row in data["methods"]] == list(EXPLAINERS)
    for row in data["methods"]:
        assert row["images"] == PRESETS["default"].explainer(row["method"]).images()


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_settings_as_toml_round_trip(here: Path, preset: str) -> None:
    result = whyfake("methods", "--toml", "--preset", preset)
    assert result.code == 0
    (here / "own.toml").write_text(result.out)
    for base in PRESETS.values():
        assert read_settings(here / "own.toml", base) == PRESETS[preset]


def test_settings_from_toml_are_used(toy: Path, here: Path) -> None:
    text = whyfake("methods", "--toml").out
    changed = re.sub(r"(\[lime\]\nsamples = )\d+", r"\g<1>48", text)
    assert changed != text
    (here / "own.toml").write_text(changed)
    assert explain("p0.png", "-m", "lime", "--config", "own.toml").code == 0
    stored = Explanation.load(here / "whyfake-out" / "p0" / "lime")
    assert stored.settings["lime"]["samples"] == 48
    assert stored.image_counts["explainer"] == 48


@pytest.mark.parametrize(
    "arguments", [(), ("explain",), ("inspect",), ("methods",)], ids=lambda a: " ".join(a) or "all"
)
def test_help(arguments: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        result = whyfake(*arguments, flag)
        assert result.code == 0
        assert "Usage: " in result.out
        assert result.err == ""


def test_version() -> None:
    from whyfake import __version__

    assert whyfake("--version").out == f"whyfake {__version__}\n"


HEAVY = "numpy onnxruntime onnx cv2 skimage scipy PIL torch tensorrt threadpoolctl rich.progress"


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
        import sys
        sys.argv = ["whyfake", *{arguments}]
        from whyfake.cli import main
        try:
            main()
        finally:
            print([name for name in {HEAVY!r}.split() if name in sys.modules], file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr.strip() == "[]"
    assert "whyfake" in done.stdout


# --- as a process


def test_the_installed_command(toy: Path, here: Path) -> None:
    done = process("explain", "p0.png", "-d", "toy.onnx", *LIME, "--json", code=0)
    (line,) = done.out.splitlines()
    assert json.loads(line) == Explanation.load(here / "whyfake-out" / "p0" / "lime").to_dict()
    assert "Traceback" not in done.err

    one_error(
        process("explain", "p0.png", "-d", "toy.onnx", "-m", "lmie"), 2, "did you mean 'lime'"
    )
    one_error(process("explain", "p0.png", "-d", "p0.png"), 1, "is not a readable ONNX model")
    shown = process("--debug", "explain", "p0.png", "-d", "p0.png", code=1)
    assert shown.err.startswith("Traceback (most recent call last)")
    assert "whyfake.errors.DetectorError: p0.png is not a readable ONNX model" in shown.err


def test_a_reader_that_leaves(toy: Path) -> None:
    """As `whyfake explain … --json | head -n 1`: the pipe breaks, and nobody needs a traceback."""
    command = [COMMAND, "explain", "p0.png", "p1.png", "p2.png", "-d", "toy.onnx", *LIME, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        errors = child.stderr.read()
    assert child.returncode != 0
    assert "Traceback" not in errors


LONG = "regions = 'grid:4'\n[lime]\nsamples = 16\n[rise]\nmasks = 5_000_000\n"
"""LIME is there at once; RISE would take minutes."""


def started(here: Path) -> subprocess.Popen[str]:
    """A run over four pictures that has written its first result and has long to go."""
    (here / "long.toml").write_text(LONG)
    pictures = [f"p{index}.png" for index in range(4)]
    options = ["-d", "toy.onnx", "-m", "lime,rise", "--config", "long.toml"]
    child = subprocess.Popen(
        [COMMAND, "explain", *pictures, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((here / "whyfake-out").glob("*/lime/explanation.json")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # let it also print what it has written
    return child


def hidden(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if path.name.startswith(".")]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_whole_results(toy: Path, here: Path) -> None:
    child = started(here)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "stopped; what was finished is whole" in err
    assert "Traceback" not in out + err
    results = load_all(here / "whyfake-out")
    assert results
    assert {name.split("/")[1] for name in results} == {"lime"}
    assert hidden(here / "whyfake-out") == []
    assert re.search(r"^p\d +fake .* lime ", out, re.MULTILINE)  # what was done is in the table


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_kill_leaves_whole_results(toy: Path, here: Path) -> None:
    child = started(here)
    child.kill()
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    assert load_all(here / "whyfake-out")


KILLED_AT = {
    # the call that dies, on a first run and where results stand (two renames each)
    "in a file": ("files._write", 5, 5),
    "before the folder appears": ("pathlib.Path.rename", 2, 4),
    "between the renames": ("pathlib.Path.rename", 2, 3),
    "before the strip appears": ("os.replace", 1, 1),
}


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("rerun", [False, True], ids=["first run", "rerun"])
@pytest.mark.parametrize("place", KILLED_AT.values(), ids=KILLED_AT.keys())
def test_killed_at_the_worst_moment(
    toy: Path, here: Path, place: tuple[str, int, int], rerun: bool
) -> None:
    """kill −9 in the middle of writing: what can be seen is whole; the next run sweeps the rest."""
    out = here / "whyfake-out"
    arguments = ["explain", "p0.png", "-d", "toy.onnx", "-m", "lime,sobol", "--samples", "64"]
    if rerun:
        assert whyfake(*arguments, "--seed", "1").code == 0
    code = f"""
        import os, pathlib, signal, sys
        from whyfake import files
        from whyfake.cli import main

        owner, _, name = {place[0]!r}.rpartition(".")
        owner = eval(owner)
        real = getattr(owner, name)
        calls = 0

        def dying(target, *args):
            global calls
            calls += 1
            if calls == {place[1 + rerun]}:
                if name == "_write":  # half of it
                    target.write_bytes(args[0][: len(args[0]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(target, *args)

        setattr(owner, name, dying)
        sys.argv = ["whyfake", *{arguments!r}, "--seed", "2"]
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    seeds = {name: explanation.seed for name, explanation in load_all(out).items()}
    assert seeds.pop("p0/lime") == 2
    assert seeds.get("p0/sobol") in (None, 1, 2)  # not there, the old one, or the new one
    assert seeds or hidden(out)
    assert whyfake(*arguments, "--seed", "3").code == 0
    assert hidden(out) == []
    seeds = {name: explanation.seed for name, explanation in load_all(out).items()}
    assert seeds == {"p0/lime": 3, "p0/sobol": 3}
    assert {path.name for path in (out / "p0").iterdir()} == {"lime", "sobol", "strip.png"}
