"""Compiles whyfake/*.c into one library where there is a C compiler; compiled.py does without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fPIC", "-shared")


def compile_library(sources: Iterable[Path], library: Path) -> str | None:
    """Make the library, whole or not at all; returns why it could not be made.

    The compiler is `$CC`, or cc. Where it or the C library cannot choose between functions when
    they are loaded, the plain ones are made.
    """
    compiler = os.environ.get("CC") or "cc"
    why = ""
    try:
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            for options in ((), ("-DWHYFAKE_PLAIN",)):
                command = [*compiler.split(), *FLAGS, *options, "-o", str(made), *map(str, sources)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode == 0:
                    made.replace(library)
                    return None
                why = f"{compiler}: {done.stderr.strip()[-500:]}"
    except OSError as error:
        why = f"{error.filename or compiler}: {error.strerror or error}"
    return why


class Compiling(BuildHookInterface):
    """Puts the library into wheels, and beside its source for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel is for this platform then."""
        package = Path(self.root) / "whyfake"
        self._folder: Path | None = None
        if version == "editable":
            library = package / "compiled.so.1"
        else:
            self._folder = Path(tempfile.mkdtemp())
            library = self._folder / "compiled.so.1"
        why = compile_library(sorted(package.glob("*.c")), library)
        if why is not None:
            self.app.display_warning(
                f"whyfake is installed without its compiled parts, and slower: {why}"
            )
            return
        if version != "editable":
            build_data["force_include"][str(library)] = "whyfake/compiled.so.1"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made for the wheel."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
