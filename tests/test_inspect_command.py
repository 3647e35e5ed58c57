"""What the command tells: `inspect`, `methods`, help and version."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import LIME, explain, python, whyfake
from toys import make_card

from whyfake import METHODS, Explanation
from whyfake.explainers import EXPLAINERS
from whyfake.request import parse_methods
from whyfake.settings import PRESETS, read_settings

pytestmark = pytest.mark.usefixtures("here")


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
    done = python(code)
    assert (done.code, done.err.strip()) == (0, "[]")
    assert "whyfake" in done.out
