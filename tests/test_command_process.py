"""The installed command as a process: stopped, killed, or left by its reader, results are whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import COMMAND, LIME, hidden, load_all, one_error, process, python, whyfake

from whyfake import Explanation


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
    done = python(code)
    assert done.code == -signal.SIGKILL, done.err
    seeds = {name: explanation.seed for name, explanation in load_all(out).items()}
    assert seeds.pop("p0/lime") == 2
    assert seeds.get("p0/sobol") in (None, 1, 2)  # not there, the old one, or the new one
    assert seeds or hidden(out)
    assert whyfake(*arguments, "--seed", "3").code == 0
    assert hidden(out) == []
    seeds = {name: explanation.seed for name, explanation in load_all(out).items()}
    assert seeds == {"p0/lime": 3, "p0/sobol": 3}
    assert {path.name for path in (out / "p0").iterdir()} == {"lime", "sobol", "strip.png"}
