"""Children of the doctor: whatever happens in one is an answer, and none outlives its block."""

from __future__ import annotations

import os
import textwrap
import threading
import time
from pathlib import Path

import pytest

from whyfake.doctor.child import Answer, Children

MODULE = """
import ctypes, os, subprocess, sys, time
def double(x): return {"twice": 2 * x}
def noisy(): print("noise"); os.write(1, b"more"); os.system("echo shell"); return "clear"
def fails(): raise ValueError("two\\nlines")
def wordless(): raise OSError
def leaves(): sys.exit(7)
def dies(): sys.stderr.write("last words\\n"); sys.stderr.flush(); os._exit(3)
def segfaults(): ctypes.string_at(0)
def aborts(): os.abort()
def hangs(mark):
    child = subprocess.Popen(["sleep", "300"])
    open(mark, "w").write(f"{os.getpid()} {child.pid}")
    time.sleep(300)
def no_json(): return {1, 2}
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `trouble` on the path."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "trouble.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path / "lib")


def ask(function: str, *arguments: object, timeout: float = 30.0) -> Answer:
    with Children() as children:
        return children.ask(f"trouble:{function}", *arguments, timeout=timeout)


def test_a_value_comes_back() -> None:
    assert ask("double", 21) == Answer({"twice": 42})


def test_what_a_library_prints_does_not_spoil_the_answer() -> None:
    assert ask("noisy") == Answer("clear")


@pytest.mark.parametrize(
    ("function", "error", "kind"),
    [
        ("fails", "two lines", "ValueError"),
        ("wordless", "OSError", "OSError"),
        ("leaves", "7", "SystemExit"),
        ("dies", "ended with exit code 3 (last words)", "crash"),
        ("segfaults", "crashed with SIGSEGV", "crash"),
        ("aborts", "crashed with SIGABRT", "crash"),
        ("not_there", "module 'trouble' has no attribute 'not_there'", "AttributeError"),
    ],
)
def test_every_end_is_told(function: str, error: str, kind: str) -> None:
    assert ask(function) == Answer(error=error, kind=kind)


def test_an_answer_that_is_no_json_is_told() -> None:
    said = ask("no_json")
    assert said.kind == "crash"
    assert "set is not JSON serializable" in (said.error or "")


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody reaped has."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_hanging_child_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert ask("hangs", str(mark), timeout=2) == Answer(
        error="gave no answer in 2 s", kind="timeout"
    )
    assert all(gone(int(pid)) for pid in mark.read_text().split())


def test_leaving_the_block_ends_what_another_thread_waits_for(tmp_path: Path) -> None:
    mark, said = tmp_path / "mark", []
    with Children() as children:
        waiter = threading.Thread(
            target=lambda: said.append(children.ask("trouble:hangs", str(mark), timeout=60))
        )
        waiter.start()
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.02)
    waiter.join(10)
    assert said[0].error == "crashed with SIGKILL"
    assert all(gone(int(pid)) for pid in mark.read_text().split())
    with pytest.raises(RuntimeError, match="no child is started any more"):
        children.ask("trouble:double", 1)


def test_the_folder_it_runs_in_is_no_source_of_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong json')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert os.getcwd() == str(tmp_path)
    assert ask("double", 1) == Answer({"twice": 2})
