"""The commands evaluate, table and merge: what they print and refuse; and twenty kills."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluations import entries, results, small
from typer.testing import CliRunner

from whyfake import Detector
from whyfake.cli import app
from whyfake.evaluation import evaluate
from whyfake.ledger import Ledger

COMMAND = Path(sys.executable).with_name("whyfake")


def command(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def test_the_command_and_its_tables(forged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = (
        "evaluate",
        forged / "m.csv",
        "-d",
        forged / "toy.onnx",
        "-m",
        "lime",
        "-o",
        out,
    )
    options = ("--suite", "localisation", "--samples", "70", "--device", "cpu")
    text, errors = command(*base, *options)
    assert "## Localisation" in text
    assert "| all | lime | 4 |" in text
    assert "images asked" in errors
    assert command("table", out)[0] == text
    rows = list(csv.reader(io.StringIO(command("table", out, "--format", "csv")[0])))
    assert rows[0][:3] == ["table", "group", "pictures"]
    means = {row[2]: row for row in rows if row and row[:2] == ["Localisation", "all"]}
    assert float(means["gaussian"][4]) > 0
    page = command("table", out, "-f", "html")[0]
    assert page.count("<table>") == page.count("</table>") >= 3
    assert "http" not in page
    tex = command("table", out, "-f", "latex")[0]
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") >= 3
    _, errors = command("table", out, "-f", "xml", code=2)
    assert "unknown format 'xml'" in errors
    lines = command(
        *base, "--suite", "localisation", "--samples", "64", "--json", "--device", "cpu"
    )
    parsed = [json.loads(line) for line in lines[0].splitlines()]
    assert {line["kind"] for line in parsed} == {"explanation", "localisation"}


def test_nothing_is_asked_where_the_manifest_is_wrong(forged: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path,label\n{forged}/p0.png,fake\nnone.png,fake\n")
    out = tmp_path / "out"
    base = (
        "evaluate",
        tmp_path / "m.csv",
        "-d",
        forged / "toy.onnx",
        "-m",
        "lime",
        "-o",
        out,
    )
    options = ("--suite", "localisation", "--samples", "64", "--device", "cpu")
    _, errors = command(*base, *options, code=1)
    assert "none.png: there is no such file" in errors
    assert not out.exists()
    text, errors = command(*base, *options, "--skip-bad", code=1)
    assert "1 left out:" in errors
    assert errors.rstrip().endswith("none.png: there is no such file")
    assert "| all | 1 |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the pictures by one of MANIFEST"),
        (("m.csv", "--dfdc", "x"), "got MANIFEST and --dfdc"),
        (("m.csv", "--ffpp-list", "x"), "give its folder by --ffpp"),
        (("m.csv", "--suite", "flips"), "unknown suite 'flips': did you mean 'flip-rate'"),
        (("m.csv", "-m", "grad-cam"), "unknown method 'grad-cam'"),
    ],
)
def test_wrong_command_lines(forged: Path, arguments: tuple[str, ...], message: str) -> None:
    _, errors = command("evaluate", *arguments, "-d", forged / "toy.onnx", code=2)
    assert message in errors


def test_merging_two_machines(forged: Path, tmp_path: Path, planted: Detector) -> None:
    plan = small(methods=("lime",), controls=("random",), parts=frozenset({"masks"}))
    both = entries(forged)[:2]
    for name, some in (("one", both[:1]), ("two", both[1:]), ("all", both)):
        with Ledger(tmp_path / name, write=True) as ledger:
            list(evaluate(planted, some, plan, ledger))
    out, _ = command("merge", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "merged")
    assert out.count("results taken over") == 2
    with Ledger(tmp_path / "merged") as merged, Ledger(tmp_path / "all") as expected:
        assert results(merged) == results(expected)
        assert merged.pictures(planted.sha256) == expected.pictures(planted.sha256)


@pytest.mark.slow
def test_twenty_random_kills_of_the_command(forged: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments; in the end, the same results as of a run that was left alone."""
    rng = random.Random(0)
    base = [
        str(COMMAND),
        "evaluate",
        str(forged / "m.csv"),
        "-d",
        str(forged / "toy.onnx"),
    ]
    base += ["-m", "lime,lime-adv", "--suite", "flip-rate", "--samples", "64", "--device", "cpu"]
    subprocess.run([*base, "-o", str(tmp_path / "through")], check=True, capture_output=True)
    sizes = []
    for _ in range(20):
        running = subprocess.Popen(
            [*base, "-o", str(tmp_path / "killed")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(1.0, 4.0))
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        if (tmp_path / "killed" / "ledger.sqlite3").exists():
            with Ledger(tmp_path / "killed", write=True) as ledger:
                sizes.append(len(results(ledger)) if ledger.detectors() else 0)
    assert sizes == sorted(sizes)  # nothing that was stored is lost
    subprocess.run([*base, "-o", str(tmp_path / "killed")], check=True, capture_output=True)
    with Ledger(tmp_path / "through") as through, Ledger(tmp_path / "killed") as killed:
        assert results(killed) == results(through)
