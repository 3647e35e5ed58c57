"""The commands video and report, and explain's batches: streams, codes, words, and kill -9."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
import toys
from clips import without_seconds, write_clip
from PIL import Image
from typer.testing import CliRunner, Result

from whyfake.cli import app

COMMAND = Path(sys.executable).with_name("whyfake")
QUICK = ("--samples", "40", "--regions", "grid:4", "--overlay", "none", "--no-face")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no face model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHYFAKE_FACE_MODEL", raising=False)
    monkeypatch.delenv("WHYFAKE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    return tmp_path


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy.onnx and crops.mp4: six frames of face crops that it calls fake."""
    folder = tmp_path_factory.mktemp("planted")
    toys.planted_detector(folder, toys.PATCH, toys.SIZE).close()
    frames = [toys.planted_frame(toys.PATCH, toys.SIZE, seed) for seed in (1, 1, 2, 2, 3, 3)]
    write_clip(folder / "crops.mp4", frames, rate=10)
    for index, frame in enumerate(frames[::2]):
        Image.fromarray(frame).save(folder / f"p{index}.png")
    return folder


def read(path: Path) -> list[str]:
    return path.read_text().splitlines()


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def video(planted: Path, *words: object) -> Result:
    return call("video", planted / "crops.mp4", "-d", planted / "toy.onnx", *QUICK, *words)


def test_a_table_and_the_files(planted: Path, here: Path) -> None:
    done = video(planted, "--frames", 3)
    assert done.exit_code == 0, done.output
    assert re.search(r"crops\.mp4 +1 +0\.10 to 0\.50 +9\d\.\d%", done.stdout), done.stdout
    assert "3 of 3 faces in 3 frames explained" in done.stderr
    assert "whyfake-out/crops/report.html" in done.stderr
    assert (here / "whyfake-out" / "crops" / "report.html").is_file()


def test_json_is_a_line_a_face_and_a_summary(planted: Path, here: Path) -> None:
    done = video(planted, "--frames", 3, "--json", "-m", "lime-adv,rise")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [json.loads(x) for x in read(here / "whyfake-out/crops/frames.jsonl")]
    made = [{k: v for k, v in line.items() if k != "clip"} for line in lines[:-1]]
    assert sorted(made, key=lambda row: str(row["id"])) == rows  # as they come, not in order
    assert lines[-1]["summary"]["explained"] == 3
    assert lines[-1]["clip"] == lines[0]["clip"] == "crops.mp4"


def test_quiet_says_nothing(planted: Path) -> None:
    done = video(planted, "--frames", 2, "--quiet")
    assert (done.exit_code, done.output) == (0, "")


def test_a_clip_that_cannot_be_read_does_not_stop_the_others(planted: Path, here: Path) -> None:
    (here / "broken.mp4").write_text("no clip")
    done = call(
        "video", "broken.mp4", planted / "crops.mp4", "gone.mp4", "-d", planted / "toy.onnx",
        *QUICK, "--frames", 2,
    )  # fmt: skip
    assert done.exit_code == 1
    assert "broken.mp4: not a clip that can be read" in done.stderr
    assert "gone.mp4: there is no such file" in done.stderr
    assert (here / "whyfake-out/crops/report.html").is_file()
    assert "Traceback" not in done.output


def test_two_clips_of_one_name_have_folders_of_their_own(planted: Path, here: Path) -> None:
    for folder in ("a", "b"):
        (here / folder).mkdir()
        (here / folder / "crops.mp4").write_bytes((planted / "crops.mp4").read_bytes())
    words = ("-d", planted / "toy.onnx", *QUICK, "--frames", 1)
    assert call("video", "a/crops.mp4", "b/crops.mp4", *words).exit_code == 0
    assert len(list(here.glob("whyfake-out/crops-*/report.html"))) == 2
    again = call("video", "b/crops.mp4", "a/crops.mp4", *words, "--json")
    assert [json.loads(x)["summary"]["explained"] for x in again.stdout.splitlines()] == [1, 1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--every", "2", "--fps", "3"), 2, "give one of --every, --fps and --frames"),
        (("--fps", "0"), 2, "--fps must be positive, got 0.0"),
        (("--explain", "fakes"), 2, "did you mean 'fake'?"),
        (("--explain", "top:0"), 2, "unknown choice of frames 'top:0'"),
        (("--faces", "larges"), 2, "did you mean 'largest'?"),
        (("--margin", "0"), 2, "margin must be 0.5 to 10"),
        (("--face-model", "gone.onnx"), 2, "--face-model: there is no file gone.onnx"),
        (("--overlay", "avi"), 2, "unknown overlay 'avi'"),
        (("--method", "limes"), 2, "did you mean 'lime'?"),
        (("--out", "/proc/nowhere"), 1, "cannot write there"),
    ],
)
def test_wrong_words_are_one_line(
    planted: Path, words: Sequence[str], code: int, message: str
) -> None:
    quick = ("--samples", "40", "--regions", "grid:4")
    done = call("video", planted / "crops.mp4", "-d", planted / "toy.onnx", *quick, *words)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_the_cascade_is_stated(planted: Path, here: Path) -> None:
    done = call(
        "video", planted / "crops.mp4", "-d", planted / "toy.onnx", "--frames", 1,
        "--overlay", "none",
    )  # fmt: skip
    assert "faces are looked for by scikit-image's cascade" in done.stderr
    assert "the card has no crop_margin; 1.3 is taken" in done.stderr
    assert "no face was found in any sampled frame" in done.stderr
    assert done.exit_code == 0


def test_without_av_one_line_says_what_to_install(
    planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    done = video(planted, "--frames", 1)
    assert done.exit_code == 1
    assert "reading video needs the package 'av'" in done.stderr
    assert "pip install 'whyfake[video]'" in done.stderr
    assert "Traceback" not in done.output


def test_report_writes_the_page_again(planted: Path, here: Path) -> None:
    video(planted, "--frames", 2)
    page = here / "whyfake-out" / "crops" / "report.html"
    text = page.read_text()
    page.unlink()
    done = call("report", "whyfake-out")
    assert done.exit_code == 0
    assert done.stdout.strip() == "whyfake-out/crops/report.html"
    assert page.read_text() == text
    done = call("report", here / "no-cache")
    assert done.exit_code == 1
    assert "no results of a clip there" in done.stderr


def test_damaged_results_are_said(planted: Path, here: Path) -> None:
    video(planted, "--frames", 2)
    folder = here / "whyfake-out" / "crops"
    arrays = next(folder.glob("frames/*/lime-adv/arrays.npz"))
    arrays.write_bytes(arrays.read_bytes()[:100])
    done = call("report", folder)
    assert done.exit_code == 1
    assert "no readable explanation there" in done.stderr
    (folder / "run.json").write_text("{")
    done = video(planted, "--frames", 2)
    assert done.exit_code == 1
    assert "run.json: cannot be read" in done.stderr


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def started(planted: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["-d", planted / "toy.onnx", "--no-face", "--frames", 6, "-o", out, "--samples", 400]
    return subprocess.Popen(
        [COMMAND, "video", planted / "crops.mp4", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )


@pytest.mark.slow
def test_killed_at_twenty_random_moments(planted: Path, here: Path) -> None:
    """What ends at last is what a run that nobody kills makes.

    A run that ends before its kill makes way for a fresh folder, so that every kill hits one that
    is under way: in its start, its survey, its explanations, its overlay or its page.
    """
    begun = time.monotonic()
    assert started(planted, here / "whole").wait() == 0
    life = time.monotonic() - begun
    expected = without_seconds(here / "whole" / "crops")
    rng, folder, hits = random.Random(2), 0, 0
    while hits < 20:
        out = here / f"out{folder}"
        run = started(planted, out)
        try:
            code = run.wait(rng.uniform(0.1, 1.0) * life)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            hits += 1
            continue
        assert code == 0
        folder += 1
        assert without_seconds(out / "crops") == expected
    last = here / f"out{folder}"
    assert started(planted, last).wait() == 0
    assert without_seconds(last / "crops") == expected
    left = [path.name for path in (last / "crops").rglob(".*")]
    assert left == []


def test_ctrl_c_is_said_and_what_is_done_is_whole(planted: Path, here: Path) -> None:
    words = ["-d", planted / "toy.onnx", "--no-face", "--frames", 6, "--samples", 3000]
    run = subprocess.Popen(
        [COMMAND, "video", planted / "crops.mp4", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    frames = here / "whyfake-out" / "crops" / "frames"
    while not list(frames.glob("*/frame.json")):
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, words_said = run.communicate(timeout=60)
    assert run.returncode == 130, words_said
    assert "stopped; what was finished is whole" in words_said
    assert "Traceback" not in words_said
    assert not [path for path in frames.rglob(".*") if path.name != ".lock"]


def test_a_full_disk_is_one_line_and_leaves_what_is_done(
    planted: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up at the third explanation; with room again the run goes on."""
    from whyfake import files

    original, calls = files._write, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")
        original(path, content)

    monkeypatch.setattr(files, "_write", full)
    done = video(planted, "--frames", 6)
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.output
    monkeypatch.setattr(files, "_write", original)
    done = video(planted, "--frames", 6)
    assert done.exit_code == 0
    whole = video(planted, "--frames", 6, "--out", "whole")
    assert whole.exit_code == 0
    assert without_seconds(here / "whyfake-out/crops") == without_seconds(here / "whole/crops")


# --- explain: folders, patterns, lists, standard input, and --resume ---


def explain(planted: Path, *words: object, stdin: str | None = None) -> Result:
    quick = ("-d", planted / "toy.onnx", "-m", "lime", "--samples", 40, "--json")
    words = ("explain", *words, *quick)
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def sources(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return sorted(Path(json.loads(line)["source"]).name for line in done.stdout.splitlines())


def test_what_may_be_named(planted: Path, here: Path) -> None:
    """A folder, a pattern, a list and standard input mean the same three pictures."""
    wanted = ["p0.png", "p1.png", "p2.png"]
    lines = "".join(f"{planted / name}\n\n" for name in wanted)
    (here / "list.txt").write_text(lines)
    assert sources(explain(planted, planted)) == wanted
    assert sources(explain(planted, planted / "p?.png")) == wanted
    assert sources(explain(planted, planted / "**" / "p[02].png")) == ["p0.png", "p2.png"]
    assert sources(explain(planted, "list.txt")) == wanted
    assert sources(explain(planted, "-", stdin=lines)) == wanted
    assert sources(explain(planted, "list.txt", planted / "p1.png")) == wanted


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("q*.png", "no file matches that pattern"),
        ("empty.txt", "no picture is named there"),
        ("-", "standard input: no picture is named there"),
    ],
)
def test_nothing_named_is_said(planted: Path, here: Path, word: str, message: str) -> None:
    (here / "empty.txt").write_text("\n \n")
    done = explain(planted, word, stdin="")
    assert done.exit_code == 1
    assert message in done.stderr


def test_explain_resumes(planted: Path, here: Path) -> None:
    """What is finished is not asked again; a method or picture that is missing is."""
    first = explain(planted, planted / "p0.png", planted / "p1.png", "--resume")
    assert sources(first) == ["p0.png", "p1.png"]
    again = explain(planted, planted, "--resume")
    assert sources(again) == ["p2.png"]
    assert "2 pictures were finished before" in again.stderr
    rows = [json.loads(line) for line in read(here / "whyfake-out/frames.jsonl")]
    assert [Path(row["source"]).name for row in rows] == ["p0.png", "p1.png", "p2.png"]
    for row in rows:
        record: dict[str, Any] = row["methods"]["lime"]
        path = here / "whyfake-out" / record["files"]["explanation"]
        data = json.loads(path.read_text())
        assert record["top_regions"][0]["region"] == data["regions"][0]["region"]
        assert row["images"] == data["images"]
    assert sources(explain(planted, planted, "--resume")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seed", "3"), "seed: 0, now 3"),
        (("--regions", "grid:4"), 'regions: "slic:50", now "grid:4"'),
        (("--target", "fake"), 'target: "predicted", now "fake"'),
        (("--baseline", "gray"), 'baseline: "mean", now "gray"'),
    ],
)
def test_explain_does_not_mix_settings(planted: Path, words: Sequence[str], message: str) -> None:
    assert explain(planted, planted / "p0.png").exit_code == 0
    done = explain(planted, planted / "p0.png", "--resume", *words)
    assert done.exit_code == 1
    assert message in done.stderr
    assert explain(planted, planted / "p0.png", *words).exit_code == 0  # made again


def test_explain_sees_a_picture_that_has_changed(planted: Path, here: Path) -> None:
    picture = here / "mine.png"
    Image.fromarray(toys.planted_frame(toys.PATCH, toys.SIZE, 1)).save(picture)
    assert explain(planted, picture).exit_code == 0
    Image.fromarray(np.full((*toys.SIZE, 3), 130, np.uint8)).save(picture)
    done = explain(planted, picture, "--resume")
    assert done.exit_code == 1
    assert "the picture itself has changed" in done.stderr
