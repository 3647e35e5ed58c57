"""Files and folders that appear whole or not at all: write beside, then rename."""

from __future__ import annotations

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
    fresh = folder.parent / f".{folder.name}.new-{os.getpid()}"
    stale = folder.parent / f".{folder.name}.old-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        fresh.mkdir()
        for name, content in files.items():
            with open(fresh / name, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if stale.exists() and not folder.exists():
            stale.rename(folder)
        raise OutputError(f"{folder}: cannot write the result: {error.strerror or error}") from None
    except BaseException:  # Ctrl-C between two files: nothing half-written stays
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(stale, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left; restore the old result if it died between two renames."""
    for left in folder.parent.glob(f".{folder.name}.old-*"):
        if not folder.exists() and not _alive(left):
            left.rename(folder)
    for kind in ("new", "old"):
        for left in folder.parent.glob(f".{folder.name}.{kind}-*"):
            if not _alive(left):
                shutil.rmtree(left, ignore_errors=True)


def _alive(left: Path) -> bool:
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


def write_file(path: str | Path, content: bytes) -> None:
    """Write one file whole or not at all. Raises OutputError."""
    path = Path(path)
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror or error}") from None
    finally:
        fresh.unlink(missing_ok=True)
