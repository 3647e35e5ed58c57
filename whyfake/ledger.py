"""The ledger of an evaluation: every result as it comes, in one SQLite file that survives a kill.

A result is keyed by detector, frame, kind, method, settings and seed, so nothing is stored twice,
and ledgers of several runs or machines can be merged.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .errors import OutputError

FILE = "ledger.sqlite3"
SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS results (
  key TEXT PRIMARY KEY, detector TEXT NOT NULL, frame TEXT NOT NULL, kind TEXT NOT NULL,
  method TEXT NOT NULL, settings TEXT NOT NULL, seed INTEGER NOT NULL, value TEXT NOT NULL,
  blob BLOB, images INTEGER NOT NULL, seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS of_frame ON results (detector, frame);
CREATE TABLE IF NOT EXISTS pictures (
  detector TEXT NOT NULL, path TEXT NOT NULL, frame TEXT, label TEXT NOT NULL, grp TEXT NOT NULL,
  clip TEXT NOT NULL, complete TEXT, error TEXT, PRIMARY KEY (detector, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS detectors (
  detector TEXT PRIMARY KEY, value TEXT NOT NULL
) WITHOUT ROWID;
"""
_RESULT = "key, detector, frame, kind, method, settings, seed, value, blob, images, seconds"
_PICTURE = "detector, path, frame, label, grp, clip, complete, error"


@dataclass(frozen=True)
class Record:
    """One result: what it is of, what came out (`value`, JSON types; `blob`, bytes), its cost.

    `images` is what was asked for it and for nothing else: those of all records of a run add up to
    what the detector was shown.
    """

    detector: str
    frame: str
    kind: str
    method: str
    settings: dict[str, Any]
    seed: int
    value: dict[str, Any]
    blob: bytes | None = None
    images: int = 0
    seconds: float = 0.0
    key: str = field(default="")

    def __post_init__(self) -> None:
        if not self.key:
            key = result_key(
                self.detector, self.frame, self.kind, self.method, self.settings, self.seed
            )
            object.__setattr__(self, "key", key)


@dataclass(frozen=True)
class PictureRow:
    """A picture of a manifest: its frame's hash (None where it could not be read), and its fate.

    `complete` is the digest of the plan that was carried out on it, None while it is under way.
    """

    detector: str
    path: str
    frame: str | None
    label: str
    group: str
    clip: str
    complete: str | None = None
    error: str | None = None


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """A short hash of JSON types."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def result_key(
    detector: str, frame: str, kind: str, method: str, settings: dict[str, Any], seed: int
) -> str:
    """What a result is found by."""
    text = canonical([detector, frame, kind, method, settings, seed])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def known_detectors(folder: str | Path) -> dict[str, dict[str, Any]]:
    """What a folder's ledger has of detectors, by hash; nothing where there is none yet.

    Raises OutputError where there is one that cannot be read.
    """
    if not (Path(folder) / FILE).is_file():
        return {}
    with Ledger(folder) as ledger:
        return ledger.detectors()


class Ledger:
    """`FOLDER/ledger.sqlite3`, opened to write (made if need be; one process at a time) or to read.

    Each `add` is one transaction, on the disk when it returns. Raises OutputError.
    """

    def __init__(self, folder: str | Path, *, write: bool = False) -> None:
        self.path = Path(folder) / FILE
        self._lock: IO[bytes] | None = None
        if not write and not self.path.is_file():
            raise OutputError(
                f"{folder}: there is no {FILE}: name a folder that `whyfake evaluate` wrote"
            )
        with _reported(self.path):
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(self.path)
            mode = "rwc" if write else "ro"
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            self._base = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
        try:
            with _reported(self.path):
                self._prepare(write)
        except BaseException:
            self.close()
            raise

    def _prepare(self, write: bool) -> None:
        version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA):
            raise OutputError(f"{self.path}: written by another whyfake (its schema is {version})")
        if write:
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")

    def add(self, records: Iterable[Record] = (), pictures: Iterable[PictureRow] = ()) -> None:
        """Store results and what is known of pictures, all of it or nothing.

        A result that is there already stays as it is; a picture's row is replaced.
        """
        with self._transaction() as base:
            base.executemany(
                f"INSERT OR IGNORE INTO results ({_RESULT}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                [_row_from_record(record) for record in records],
            )
            base.executemany(
                f"INSERT OR REPLACE INTO pictures ({_PICTURE}) VALUES (?,?,?,?,?,?,?,?)",
                [
                    (p.detector, p.path, p.frame, p.label, p.group, p.clip, p.complete, p.error)
                    for p in pictures
                ],
            )

    def add_detector(self, detector: str, value: dict[str, Any]) -> None:
        """Store what is known of a detector: name, classes, engine."""
        with self._transaction() as base:
            base.execute(
                "INSERT OR REPLACE INTO detectors VALUES (?,?)", (detector, canonical(value))
            )

    def detectors(self) -> dict[str, dict[str, Any]]:
        """What is known of each detector, by its hash."""
        with _reported(self.path):
            rows = self._base.execute("SELECT detector, value FROM detectors ORDER BY detector")
            return {key: json.loads(value) for key, value in rows}

    def pictures(self, detector: str) -> list[PictureRow]:
        """The pictures of a detector, by path."""
        with _reported(self.path):
            rows = self._base.execute(
                f"SELECT {_PICTURE} FROM pictures WHERE detector = ? ORDER BY path", (detector,)
            )
            return [PictureRow(*row) for row in rows]

    def of_frame(self, detector: str, frame: str) -> dict[str, Record]:
        """All results of one frame, by key."""
        where = "WHERE detector = ? AND frame = ?"
        return {r.key: r for r in self._select(where, (detector, frame), blobs=True)}

    def results(
        self, detector: str, kind: str | None = None, *, blobs: bool = False
    ) -> Iterator[Record]:
        """A detector's results, in the order of their frames; `blob` is None unless asked for."""
        where = "WHERE detector = ? AND kind = coalesce(?, kind) ORDER BY frame, key"
        yield from self._select(where, (detector, kind), blobs=blobs)

    def _select(self, where: str, values: tuple[Any, ...], *, blobs: bool) -> Iterator[Record]:
        columns = _RESULT if blobs else _RESULT.replace("blob", "NULL")
        with _reported(self.path):
            for row in self._base.execute(f"SELECT {columns} FROM results {where}", values):
                yield _record_from_row(row)

    def merge(self, other: Ledger) -> Merged:
        """Take over what another ledger holds and this one does not; nothing here is changed.

        Results of one key whose values differ are counted: two machines that round differently.
        """
        merged = Merged()
        for detector, value in other.detectors().items():
            if detector not in self.detectors():
                self.add_detector(detector, value)
            mine = {row.path: row for row in self.pictures(detector)}
            by_frame: dict[str, Record] = {}
            frame = None
            for record in other.results(detector, blobs=True):
                if record.frame != frame:
                    merged = self._take(detector, frame, by_frame, merged)
                    by_frame, frame = {}, record.frame
                by_frame[record.key] = record
            merged = self._take(detector, frame, by_frame, merged)
            # last: a picture counts as done only where its results are
            self.add(pictures=[p for p in other.pictures(detector) if _better(p, mine.get(p.path))])
        return merged

    def _take(
        self, detector: str, frame: str | None, records: dict[str, Record], so_far: Merged
    ) -> Merged:
        if frame is None:
            return so_far
        mine = self.of_frame(detector, frame)
        fresh = [record for key, record in records.items() if key not in mine]
        self.add(fresh)
        both = [key for key in records if key in mine]
        differing = sum(
            (records[key].value, records[key].blob) != (mine[key].value, mine[key].blob)
            for key in both
        )
        equal = so_far.equal + len(both) - differing
        return Merged(so_far.added + len(fresh), equal, so_far.differing + differing)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _reported(self.path):
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file and let others write."""
        self._base.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Merged:
    """What a merge did: results taken over, and those that both had, equal or differing."""

    added: int = 0
    equal: int = 0
    differing: int = 0


def _better(theirs: PictureRow, mine: PictureRow | None) -> bool:
    """Whether another ledger knows more of a picture: it is done there, or known at all."""
    return mine is None or (mine.complete is None and theirs.complete is not None)


def _row_from_record(record: Record) -> tuple[Any, ...]:
    return (
        record.key,
        record.detector,
        record.frame,
        record.kind,
        record.method,
        canonical(record.settings),
        record.seed,
        canonical(record.value),
        record.blob,
        record.images,
        record.seconds,
    )


def _record_from_row(row: tuple[Any, ...]) -> Record:
    key, detector, frame, kind, method, settings, seed, value, blob, images, seconds = row
    plain = Record(
        detector, frame, kind, method, json.loads(settings), seed, json.loads(value), key=key
    )
    return replace(plain, blob=blob, images=images, seconds=seconds)


def _locked(path: Path) -> IO[bytes]:
    """A lock that ends with this process, however it ends. Raises OutputError where it is held."""
    stream = open(path.with_name(f".{path.name}.lock"), "ab")  # noqa: SIM115 - closed by Ledger
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise OutputError(
            f"{path.parent}: another whyfake is writing there: wait for it, or choose another --out"
        ) from None
    return stream


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into OutputError."""
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(f"{path}: the ledger cannot be used: {error}") from None
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None
