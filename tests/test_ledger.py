"""The ledger: nothing lost, nothing doubled, whatever kills the writer; merging; locks; damage."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from whyfake.errors import OutputError
from whyfake.ledger import FILE, Ledger, Merged, PictureRow, Record

WRITER = textwrap.dedent("""
    import sys
    from whyfake.ledger import Ledger, Record
    with Ledger(sys.argv[1], write=True) as ledger:
        there = ledger.of_frame("d", "f")
        for number in range(int(sys.argv[2])):
            record = Record("d", "f", "attack", "nes", {"n": number}, 0, {"v": number}, b"x" * 5000)
            if record.key in there:
                continue
            ledger.add([record])
            print(number, flush=True)
""")


def record(number: int, **changes: Any) -> Record:
    parts: dict[str, Any] = {
        "detector": "d",
        "frame": "f",
        "kind": "attack",
        "method": "nes",
        "settings": {"n": number},
        "seed": 0,
        "value": {"v": number},
        "blob": b"abc",
        "images": 7,
        "seconds": 0.5,
    }
    return Record(**{**parts, **changes})


def picture(path: str, **changes: Any) -> PictureRow:
    parts: dict[str, Any] = {"frame": "f", "label": "fake", "group": "g", "clip": "c"}
    return PictureRow("d", path, **{**parts, **changes})


def test_what_is_added_is_read_back_equal_and_once(tmp_path: Path) -> None:
    with Ledger(tmp_path, write=True) as ledger:
        ledger.add([record(1), record(2)], [picture("a"), picture("b", error="broken")])
        ledger.add([record(1, value={"v": "another"}), record(3)], [picture("b", complete="p")])
        ledger.add_detector("d", {"name": "toy", "classes": ["real", "fake"]})
    with Ledger(tmp_path) as ledger:
        found = ledger.of_frame("d", "f")
        assert found == {r.key: r for r in (record(1), record(2), record(3))}
        assert ledger.of_frame("other", "f") == {}
        assert [r.blob for r in ledger.results("d")] == [None] * 3
        assert len(list(ledger.results("d", "explanation"))) == 0
        assert ledger.pictures("d") == [picture("a"), picture("b", complete="p")]
        assert ledger.detectors() == {"d": {"name": "toy", "classes": ["real", "fake"]}}


@pytest.mark.parametrize(
    "change",
    [
        {"detector": "e"},
        {"frame": "g"},
        {"kind": "radius"},
        {"method": "square"},
        {"settings": {"n": 1, "epsilon": 0.1}},
        {"seed": 1},
    ],
)
def test_each_part_of_the_key_tells_results_apart(change: dict[str, Any]) -> None:
    assert record(1, **change).key != record(1).key
    assert record(1, value={}, images=0).key == record(1).key


def test_a_key_does_not_depend_on_the_order_of_settings() -> None:
    assert record(1, settings={"a": 1, "b": 2}).key == record(1, settings={"b": 2, "a": 1}).key


def test_twenty_random_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """What a writer said is stored is there after SIGKILL at any moment, each once."""
    rng = random.Random(0)
    said: list[int] = []
    total = 100_000
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(total)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()  # it is past its start: now it is killed while it writes
        time.sleep(rng.uniform(0, 0.03))
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read()
        writer.stdout.close()
        writer.wait()
        lines = (first + rest).split("\n")
        said += [int(line) for line in lines[:-1]]  # a last line without its end is not all said
    assert len(said) == len(set(said)), "a result was made twice"
    with Ledger(tmp_path, write=True) as ledger:
        stored = sorted(r.settings["n"] for r in ledger.results("d"))
        assert ledger._base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert set(said) <= set(stored)
    assert stored == list(range(len(stored)))
    assert len(stored) - len(said) <= 20  # stored, but killed before it could say so


def test_one_writer_at_a_time_but_readers_are_free(tmp_path: Path) -> None:
    with Ledger(tmp_path, write=True) as ledger:
        ledger.add([record(1)])
        with pytest.raises(OutputError, match="another whyfake is writing there"):
            Ledger(tmp_path, write=True)
        with Ledger(tmp_path) as reader:
            assert len(reader.of_frame("d", "f")) == 1
    Ledger(tmp_path, write=True).close()


def test_merging_takes_what_is_missing_and_counts_what_differs(tmp_path: Path) -> None:
    with (
        Ledger(tmp_path / "a", write=True) as a,
        Ledger(tmp_path / "b", write=True) as b,
    ):
        a.add_detector("d", {"name": "toy"})
        b.add_detector("d", {"name": "toy"})
        a.add([record(1), record(2)], [picture("p"), picture("q", complete="x")])
        b.add([record(2), record(3), record(1, value={"v": 1.5}), record(4, frame="g")])
        b.add(pictures=[picture("p", complete="x"), picture("q"), picture("r", frame="g")])
        assert a.merge(b) == Merged(added=2, equal=1, differing=1)
        assert a.of_frame("d", "f")[record(1).key].value == {"v": 1}
        assert [p.complete for p in a.pictures("d")] == ["x", "x", None]
        assert a.merge(b) == Merged(added=0, equal=3, differing=1)


def test_what_is_no_ledger_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a folder that `whyfake evaluate` wrote"):
        Ledger(tmp_path)
    (tmp_path / FILE).write_bytes(b"not a database at all" * 100)
    for write in (False, True):
        with pytest.raises(OutputError, match="cannot be used: file is not a database"):
            Ledger(tmp_path, write=write)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        Ledger(tmp_path / "file" / "inside", write=True)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path, write=True) as ledger:
        ledger._base.execute("PRAGMA user_version = 99")
    with pytest.raises(OutputError, match="written by another whyfake"):
        Ledger(tmp_path)


def test_a_full_disk_is_an_error_and_what_was_there_stays(tmp_path: Path) -> None:
    with Ledger(tmp_path, write=True) as ledger:
        ledger.add([record(1)])
        pages = ledger._base.execute("PRAGMA page_count").fetchone()[0]
        ledger._base.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(OutputError, match="full"):
            ledger.add([record(n, blob=os.urandom(50_000)) for n in (2, 3)])
        assert len(ledger.of_frame("d", "f")) == 1
