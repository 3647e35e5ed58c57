"""The command, in this process or as its users run it, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

from typer.testing import CliRunner

from whyfake import Explanation
from whyfake.cli import app

COMMAND = Path(sys.executable).with_name("whyfake")
LIME = ("-m", "lime", "--samples", "64")
FILES = {"explanation.json", "arrays.npz", "overlay.png"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run of the command gave."""

    code: int
    out: str
    err: str


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


def python(code: str) -> Result:
    """Run code in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
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


def hidden(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if path.name.startswith(".")]


def files() -> set[str]:
    """All that stands in the working folder."""
    return {str(path) for path in Path().rglob("*")}


def nothing_written(before: set[str]) -> None:
    """No file, whole or in part, and no folder, has come beside those that were there."""
    assert files() == before
