"""Where explanations go: a folder per picture and method, and never two pictures in one."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .errors import OutputError
from .explanation import Explanation
from .files import write_file
from .report import overlay, png_bytes, strip


class Results:
    """A folder of results: `<picture>/<method>/{explanation.json, arrays.npz, overlay.png}`.

    Raises OutputError at once where nothing can be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._owners: dict[str, str] = {}
        self._names: dict[str, str] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot write there: {error.strerror or error}; choose another --out"
            ) from None

    def save(self, explanation: Explanation) -> Path:
        """Write one explanation with its overlay, whole or not at all; returns its folder."""
        folder = self.folder / self.name_of(explanation.source) / explanation.method
        explanation.save(folder, {"overlay.png": png_bytes(overlay(explanation))})
        return folder

    def save_strip(self, explanations: Sequence[Explanation]) -> Path:
        """Write one picture's methods side by side, as `<picture>/strip.png`."""
        path = self.folder / self.name_of(explanations[0].source) / "strip.png"
        write_file(path, png_bytes(strip(explanations)))
        return path

    def name_of(self, source: str) -> str:
        """The folder name of a picture: its file name, made longer where another one has that.

        A picture keeps its name when it is explained again.
        """
        if source not in self._names:
            path = Path(source)
            digest = hashlib.sha256(source.encode()).hexdigest()[:8]
            plain = path.stem if path.stem.strip(".") else "picture"  # `...png` has the stem `..`
            names = [plain, f"{path.parent.name}-{plain}", f"{plain}-{digest}"]
            name = next((name for name in names if self._free(name, source)), names[-1])
            self._names[source] = name
            self._owners[name] = source
        return self._names[source]

    def _free(self, name: str, source: str) -> bool:
        if name in self._owners:
            return self._owners[name] == source
        for stored in sorted((self.folder / name).glob("[!.]*/explanation.json")):
            try:
                return bool(json.loads(stored.read_text(encoding="utf-8"))["source"] == source)
            except (OSError, ValueError, KeyError, TypeError):
                return False
        return True
