"""`whyfake demo`, and the bundled detector as the default of every command."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from PIL import Image
from toys import PATCH, SIZE, linear_detector, linear_weights, planted_frame
from typer.testing import CliRunner

from whyfake import Explanation, load_detector
from whyfake.cli import app
from whyfake.demo import METHODS
from whyfake.errors import DetectorError
from whyfake.explainers import Nes, Sobol
from whyfake.models import BUNDLED, model_file
from whyfake.request import Request, make_request
from whyfake.runtime.lane import Lane
from whyfake.settings import Settings

LIME = ("-m", "lime", "--samples", "64", "--threads", "1")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run of the command gave."""

    code: int
    out: str
    err: str

    @property
    def notes(self) -> list[str]:
        """What it told about its detector."""
        return [line for line in self.err.splitlines() if line.startswith("note: ")]


def whyfake(*arguments: str | Path) -> Result:
    """Run the command in this process; anything but an orderly exit fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback: {result.exception!r}") from result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def demo(*arguments: str | Path) -> Result:
    """`whyfake demo` with the toy detector."""
    return whyfake("demo", "-d", "toy.onnx", "--threads", "1", *arguments)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a toy detector and a picture that it calls fake."""
    monkeypatch.chdir(tmp_path)
    linear_detector(tmp_path, linear_weights(PATCH, SIZE), -0.05, gain=20.0).close()
    Image.fromarray(planted_frame(PATCH, SIZE)).save(tmp_path / "face.png")
    return tmp_path


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demonstrations ask for a tenth of their images, but for the slow ones."""
    if request.node.get_closest_marker("slow"):
        return

    def small_request(seed: int) -> Request:
        settings = Settings(nes=Nes(steps=5)).with_budget(64)
        settings = dataclasses.replace(settings, sobol=Sobol(design=8))
        return make_request(METHODS, target="fake", seed=seed, settings=settings)

    monkeypatch.setattr("whyfake.demo.demo_request", small_request)


def strict_json(text: str) -> Any:
    """The text as JSON; NaN, which Python writes and reads, is none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- whyfake demo


def test_the_table(here: Path) -> None:
    result = demo("--seed", "3")
    assert result.code == 0
    stored = strict_json((here / "whyfake-demo" / "demo.json").read_text(encoding="utf-8"))
    assert stored["seed"] == 3
    first, header, *rows, last = result.out.splitlines()
    p_fake = ", ".join(f"{name} {p:.1%}" for name, p in stored["p_fake"].items())
    assert first == f"P(fake): {p_fake}; {stored['area']:.0%} of the frame is forged"
    assert re.split(r"\s{2,}", header.strip())[:2] == ["method", "heat in the true region"]
    assert [row.split()[0] for row in rows] == list(METHODS)
    for row, finding in zip(rows, stored["findings"], strict=True):
        share, gain, images = row.split()[1:4]
        energy = finding["energy"]
        assert share == ("none" if energy is None else f"{energy:.0%}")
        assert gain == ("–" if energy is None else f"{finding['gain']:.1f}×")
        assert images == f"{finding['images']:,}"
    assert last == f"look at {here / 'whyfake-demo' / 'index.html'}"
    assert "toy on cpu (onnxruntime" in result.err


def test_json_is_one_object(here: Path) -> None:
    result = demo("--json", "--out", "größe #1")
    assert result.code == 0
    [line] = result.out.splitlines()
    found = strict_json(line)
    stored = (here / "größe #1" / "demo.json").read_text(encoding="utf-8")
    assert found == strict_json(stored)
    assert found["page"] == str(here / "größe #1" / "index.html")
    assert Path(found["page"]).is_file()


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_examples(flag: str) -> None:
    result = whyfake("demo", flag)
    assert result.code == 0
    words = " ".join(result.out.split())
    assert "Examples: whyfake demo --open | whyfake demo -d detector.onnx" in words
    assert "demo" in whyfake(flag).out


@pytest.mark.parametrize("there_is_one", [True, False])
def test_open_shows_the_page(
    here: Path, monkeypatch: pytest.MonkeyPatch, there_is_one: bool
) -> None:
    opened: list[str] = []

    def browser(url: str, *args: Any) -> bool:
        opened.append(url)
        return there_is_one

    monkeypatch.setattr("webbrowser.open", browser)
    result = demo("--open", "--out", "größe #1 50%")
    assert result.code == 0
    [url] = opened
    parts = urlparse(url)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    assert Path(unquote(parts.path)) == here / "größe #1 50%" / "index.html"
    assert ("no browser found here" in result.err.splitlines()) == (not there_is_one)


def test_nothing_is_opened_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail(f"opened {url}"))
    assert demo().code == 0


@pytest.mark.parametrize("out", ["face.png", "face.png/inside"])
def test_nowhere_to_write_is_said_before_anything_is_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.setattr(Lane, "run", lambda *args: pytest.fail("an image was asked"))
    before = (here / "face.png").read_bytes()
    result = demo("-o", out)
    assert (result.code, result.out) == (1, "")
    [line] = result.err.splitlines()
    assert line.startswith(f"error: {out}: cannot write there")
    assert (here / "face.png").read_bytes() == before


def test_a_page_that_cannot_be_written(here: Path) -> None:
    (here / "out" / "index.html").mkdir(parents=True)
    result = demo("-o", "out")
    assert (result.code, result.out) == (1, "")
    assert re.search(r"^error: out/index\.html: cannot write", result.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-d", "none.onnx"), 1, "none.onnx: cannot read the model: No such file"),
        (("-d", "face.png"), 1, "face.png is not a readable ONNX model"),
        (("--device", "gpu"), 2, "device must be auto, cpu, cuda, tensorrt or ort-tensorrt"),
    ],
)
def test_wrong_detectors_and_devices(
    here: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = whyfake("demo", *arguments)
    assert (result.code, result.out) == (code, "")
    [line] = result.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (here / "whyfake-demo").exists()


# --- the bundled detector


def test_bundled_is_a_name_and_a_path_is_a_path(here: Path) -> None:
    assert BUNDLED == "bundled"
    assert model_file("bundled").is_file()
    assert model_file("bundled").suffix == ".onnx"
    for path in (Path("bundled"), "./bundled", "bundled.onnx", str(here / "bundled")):
        assert model_file(path) == Path(path)
    with pytest.raises(DetectorError, match="bundled: cannot read the model"):
        load_detector(Path("bundled"))
    (here / "bundled").write_bytes((here / "toy.onnx").read_bytes())
    (here / "bundled.card.json").write_bytes((here / "toy.card.json").read_bytes())
    with load_detector("./bundled", device="cpu", threads=1) as detector:
        assert detector.card.name == "toy"
    with load_detector(device="cpu", threads=1) as detector:
        assert detector.card.name != "toy"
        assert set(detector.card.classes) == {"real", "fake"}


def test_the_notice_of_the_default_detector_is_told_once(here: Path) -> None:
    with load_detector(device="cpu", threads=1) as detector:
        notice = detector.card.notice
    assert "demonstration" in notice
    Image.fromarray(planted_frame(PATCH, SIZE, 1)).save(here / "other.png")
    result = whyfake("explain", "face.png", "other.png", *LIME, "--json")
    assert result.code == 0
    assert result.notes == [f"note: {notice}"]
    assert [json.loads(line)["method"] for line in result.out.splitlines()] == ["lime"] * 2
    stored = Explanation.load(here / "whyfake-out" / "face" / "lime")
    assert stored.detector["name"] == detector.card.name


def test_a_notice_is_shown_as_it_is(here: Path) -> None:
    card = json.loads((here / "toy.card.json").read_text())
    (here / "toy.card.json").write_text(json.dumps({**card, "notice": "[/red] largely untested"}))
    for command in (("demo",), ("explain", "face.png", "-m", "lime", "--samples", "64")):
        result = whyfake(*command, "-d", "toy.onnx", "--threads", "1")
        assert result.code == 0
        assert result.notes == ["note: [/red] largely untested"]
        assert "untested" not in result.out
    page = (here / "whyfake-demo" / "index.html").read_text(encoding="utf-8")
    assert '<p class="warning">[/red] largely untested</p>' in page


def test_without_a_notice_there_is_no_line() -> None:
    for result in (demo(), whyfake("explain", "face.png", "-d", "toy.onnx", *LIME)):
        assert result.code == 0
        assert result.notes == []


def test_inspect_bundled() -> None:
    """Its card says all there is to say, and nothing that whyfake does not know."""
    result = whyfake("inspect", "bundled", "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert (report["problems"], report["advice"]) == ([], [])
    assert report["card"]["notice"]
    text = whyfake("inspect", "bundled").out
    assert "card and graph agree" in text
    assert "advice" not in text


@pytest.mark.slow
def test_the_demonstration_keeps_its_promise(here: Path) -> None:
    """What a newcomer sees: called fake, flipped, and explained by what was forged."""
    result = whyfake("demo", "--json")
    assert result.code == 0
    found = strict_json(result.out)
    assert (found["seed"], np.isfinite(found["area"])) == (0, True)
    assert found["p_fake"]["forgery"] > 0.5
    assert found["p_fake"]["original"] < 0.5
    assert found["adversary"]["flipped"]
    gains = {finding["method"]: finding["gain"] for finding in found["findings"]}
    assert gains["lime-adv"] >= 2, gains
    assert gains["rise-adv"] >= 2, gains
