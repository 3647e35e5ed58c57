"""Files and folders that appear whole or not at all: write beside, then rename."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .errors import OutputError


def write_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` hold exactly these files, replacing what stood there.

    The files are written and synced in a hidden folder beside it, which is then renamed; whoever
    looks at `folder` sees the old result or the new one. Raises OutputError.
    """
    folder = Path(folder)
    fresh, stale = _beside(folder, "new"), _beside(folder, "old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file, wanted a folder for the result")
        fresh.mkdir()
        for name, content in files.items():
            _write(fresh / name, content)
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write the result: {error.strerror or error}") from None
    finally:  # after Ctrl-C too, between whichever two lines: the old result stands, or the new one
        if os.path.exists(stale) and not os.path.exists(folder):
            stale.rename(folder)
        _remove(fresh)
        _remove(stale)


def write_file(path: str | Path, content: bytes) -> None:
    """Write one file whole or not at all. Raises OutputError."""
    path = Path(path)
    fresh = _beside(path, "new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        _write(fresh, content)
        os.replace(fresh, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror or error}") from None
    finally:
        _remove(fresh)


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}.{kind}-{os.getpid()}"


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sweep(path: Path) -> None:
    """Remove what a killed process left; restore the old result if it died between two renames."""
    name = glob.escape(path.name)
    for left in path.parent.glob(f".{name}.old-*"):
        if not path.exists() and not _alive(left):
            left.rename(path)
    for kind in ("new", "old"):
        for left in path.parent.glob(f".{name}.{kind}-*"):
            if not _alive(left):
                _remove(left)


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there; what cannot be removed now is swept later."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _alive(left: Path) -> bool:
    """Whether the process that made it, which is not this one, still runs."""
    try:
        owner = int(left.name.rpartition("-")[2])
        if owner == os.getpid():
            return False
        os.kill(owner, 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def cache_root() -> Path:
    """Where whyfake keeps what can be made again, and looks for files that it does not bring.

    WHYFAKE_CACHE where that is set, else `whyfake` in the user's cache; it may not exist.
    """
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("WHYFAKE_CACHE") or Path(user) / "whyfake")


def cache_folder(name: str) -> Path:
    """A folder in it, made if need be. Raises OutputError."""
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made: {error.strerror or error}; set WHYFAKE_CACHE to a folder "
            "that can be written"
        ) from None
    return folder
