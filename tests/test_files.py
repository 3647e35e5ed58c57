"""Results on disk are whole or not there, whatever interrupts the writing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whyfake.errors import OutputError
from whyfake.files import write_file, write_folder

OLD = {"a.txt": b"old a", "only-old.txt": b"old"}
NEW = {"a.txt": b"new a", "b.bin": bytes(range(256)) * 40}


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_holds_exactly_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er" / "lime"
    write_folder(folder, OLD)
    assert held(folder) == OLD
    write_folder(folder, NEW)
    assert held(folder) == NEW
    assert [path.name for path in folder.parent.iterdir()] == ["lime"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture" / "strip.png"
    for content in (b"old", b"newer"):
        write_file(path, content)
        assert held(path.parent) == {"strip.png": content}


class Stopped(BaseException):
    """As Ctrl-C: not an Exception."""


STEPS: list[tuple[Any, str]] = [
    (Path, "mkdir"),
    (os, "fsync"),
    (Path, "rename"),
]


@pytest.mark.parametrize("error", [Stopped(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_whatever_fails_the_old_folder_stands_or_the_new_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
    error: BaseException,
) -> None:
    """Each call of each step fails once, before or after it did its work."""
    folder = tmp_path / "lime"
    for after in (False, True):
        write_folder(folder, OLD)
        real: Callable[..., Any] = getattr(owner, name)
        calls = 0

        def failing(*args: Any, real: Any = real, after: bool = after, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != call + 1:
                return real(*args, **kwargs)
            if after:
                real(*args, **kwargs)
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            with contextlib.suppress(Stopped, OutputError):
                write_folder(folder, NEW)
            assert calls > 0
        assert held(folder) in (OLD, NEW)
        assert [path.name for path in tmp_path.iterdir()] == ["lime"]


@pytest.mark.parametrize("error", [Stopped(), OSError(28, "No space left on device")])
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "strip.png"
    write_file(path, b"old")

    def fail(*args: Any) -> None:
        raise error

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises((Stopped, OutputError)):
                write_file(path, b"new")
        assert held(tmp_path) == {"strip.png": b"old"}


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    pid = dead_process()
    for name in ("lime", "lime-adv"):
        write_folder(tmp_path / name, OLD)
    for left in (f".lime.new-{pid}", f".lime.old-{pid}", f".lime-adv.new-{pid}"):
        write_folder(tmp_path / left, {"half": b"x"})
    write_file(tmp_path / "strip.png", b"old")
    (tmp_path / f".strip.png.new-{pid}").write_bytes(b"half")

    write_folder(tmp_path / "lime", NEW)
    assert held(tmp_path / "lime") == NEW
    names = {path.name for path in tmp_path.iterdir()}
    # another method's leavings are swept when that is written
    left = {f".lime-adv.new-{pid}", f".strip.png.new-{pid}"}
    assert names == {"lime", "lime-adv", "strip.png", *left}
    write_folder(tmp_path / "lime-adv", NEW)
    write_file(tmp_path / "strip.png", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"lime", "lime-adv", "strip.png"}


def test_an_old_result_between_two_renames_comes_back(tmp_path: Path) -> None:
    """Killed after the old folder moved away: even if the next writer fails, the old one stands."""
    folder = tmp_path / "lime"
    write_folder(tmp_path / f".lime.old-{dead_process()}", OLD)
    with pytest.raises(TypeError):
        write_folder(folder, {"a.txt": "text, not bytes"})  # type: ignore[dict-item]
    assert held(folder) == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["lime"]


def test_what_a_living_process_is_writing_stays(tmp_path: Path) -> None:
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        other = tmp_path / f".lime.new-{living.pid}"
        write_folder(other, {"half": b"x"})
        write_folder(tmp_path / "lime", NEW)
        assert held(other) == {"half": b"x"}
    finally:
        living.communicate(b"\n")


def test_names_with_brackets_are_names(tmp_path: Path) -> None:
    """`[1]` is no pattern: leavings of `a1` stay, those of `a[1]` go."""
    pid = dead_process()
    for left in (f".a[1].new-{pid}", f".a1.new-{pid}"):
        write_folder(tmp_path / left, {"half": b"x"})
    write_folder(tmp_path / "a[1]", NEW)
    assert {path.name for path in tmp_path.iterdir()} == {"a[1]", f".a1.new-{pid}"}


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for write in (
        lambda: write_folder(tmp_path / "file" / "lime", NEW),
        lambda: write_file(tmp_path / "file" / "strip.png", b"x"),
        lambda: write_folder(tmp_path / "file", NEW),
    ):
        with pytest.raises(OutputError) as caught:
            write()
        assert str(tmp_path / "file") in str(caught.value)
        assert "\n" not in str(caught.value)
    write_folder(tmp_path / "folder", OLD)
    with pytest.raises(OutputError, match="folder: cannot write"):
        write_file(tmp_path / "folder", b"x")
    assert held(tmp_path / "folder") == OLD
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", OLD)
    (tmp_path / "lime").symlink_to(tmp_path / "elsewhere")
    write_folder(tmp_path / "lime", NEW)
    assert held(tmp_path / "lime") == NEW
    assert held(tmp_path / "elsewhere") == OLD
    assert {path.name for path in tmp_path.iterdir()} == {"lime", "elsewhere"}
