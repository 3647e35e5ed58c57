"""What `whyfake explain` cannot do is one line on stderr and an exit code, and no traceback."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import LIME, explain, folders, load_all, one_error, whyfake
from onnx import helper
from toys import SIZE, make_card, save_model

from whyfake.runtime.lane import Lane


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
