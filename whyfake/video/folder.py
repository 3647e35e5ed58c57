"""A clip's folder of results: its settings, its survey, its frames; one writer at a time.

CLIP/run.json        the settings, and the clip that they were applied to
CLIP/survey.jsonl    every look at the clip: faces, tracks, scores; grows line by line
CLIP/frames/ID/      crop.png; for explained ones a folder per method, and frame.json last of all
CLIP/frames.jsonl, summary.json, overlay.webm, report.html      at the end
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..errors import OutputError
from ..files import write_file


class ClipFolder:
    """The folder of one clip. Raises OutputError where it cannot be used."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[bytes] | None = None

    def open(self, record: Mapping[str, Any]) -> ClipFolder:
        """Claim the folder for this process, to write results of these settings into it.

        Raises OutputError where another process writes there, or where results of other settings
        stand there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot write there: {error.strerror or error}; choose another --out"
            ) from None
        try:
            self._agree(json.loads(json.dumps(record)))
        except BaseException:
            self.close()
            raise
        return self

    def _agree(self, record: dict[str, Any]) -> None:
        """Write the settings down, or find those that stand there to be the same."""
        stored = self.run()
        if stored is None:
            if self.survey_path.exists() or (self.path / "frames.jsonl").exists():
                raise OutputError(
                    f"{self.path}: holds results but no run.json that says how they were made: "
                    "choose another --out, or delete it"
                )
            self.write_json("run.json", record)
        elif stored != record:
            differs = "; ".join(_differences(stored, record)[:3])
            raise OutputError(
                f"{self.path}: made with other settings ({differs}): choose another --out, "
                "or delete it to start again"
            )

    def _claim(self) -> None:
        import fcntl

        stream = open(self.path / ".lock", "ab")  # noqa: SIM115 - held until close
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise OutputError(f"{self.path}: another whyfake is writing there") from None
        self._lock = stream

    def close(self) -> None:
        """Let others write there; the lock also ends with the process, however that ends."""
        if self._lock is not None:
            (self.path / ".lock").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> ClipFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def survey_path(self) -> Path:
        """Where the looks are."""
        return self.path / "survey.jsonl"

    def frame(self, identity: str) -> Path:
        """The folder of one sampled face."""
        return self.path / "frames" / identity

    def run(self) -> dict[str, Any] | None:
        """The settings that stand there; None where there are none."""
        return self.read_json("run.json")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object in the folder; None where it is not there. Raises OutputError."""
        path = self.path / name
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path}: cannot be read: {error}; delete it to start again"
            ) from None
        if not isinstance(data, dict):
            raise OutputError(f"{path}: wanted a JSON object; delete it to start again")
        return data

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON object, whole or not at all."""
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_file(self.path / name, text.encode())

    def write_lines(self, name: str, rows: Iterator[Mapping[str, Any]]) -> int:
        """Write JSON lines, whole or not at all, without holding them all; returns how many."""
        fresh = self.path / f".{name}.new"
        count = 0
        try:
            with open(fresh, "wb") as stream:
                for row in rows:
                    stream.write(line_of(row))
                    count += 1
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, self.path / name)
        except OSError as error:
            raise OutputError(
                f"{self.path / name}: cannot write: {error.strerror or error}"
            ) from None
        return count

    def looks(self) -> Iterator[dict[str, Any]]:
        """The survey's whole lines; a last one that was cut off by a kill is not there."""
        yield from lines_of(self.survey_path)


class SurveyWriter:
    """Appends looks to the survey: what is written is synced, a torn last line is cut off first."""

    def __init__(self, folder: ClipFolder) -> None:
        self._path = folder.survey_path
        whole = 0
        if self._path.exists():
            with open(self._path, "rb") as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
            os.truncate(self._path, whole)
        self._stream = open(self._path, "ab")  # noqa: SIM115 - closed by close()

    def write(self, rows: list[Mapping[str, Any]]) -> None:
        """Append lines and sync them. Raises OutputError."""
        try:
            self._stream.write(b"".join(line_of(row) for row in rows))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise OutputError(f"{self._path}: cannot write: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def line_of(row: Mapping[str, Any]) -> bytes:
    """A JSON object on a line of its own."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines, one at a time; a torn last line is left out.

    Raises OutputError for any other line that is not JSON.
    """
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                except ValueError:
                    raise OutputError(
                        f"{path}: line {number} is damaged: delete the folder to start again"
                    ) from None
                yield row
    except FileNotFoundError:
        return


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Where two JSON values differ, as `name: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys((*old, *new)):
            name = f"{where}.{key}" if where else str(key)
            found += _differences(old.get(key), new.get(key), name)
        return found
    if old == new:
        return []
    return [f"{where}: {json.dumps(old)[:60]}, now {json.dumps(new)[:60]}"]
