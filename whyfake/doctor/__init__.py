"""What works on this machine, what does not, and the one command that mends it.

Nothing is believed that was not tried: packages are loaded, providers run a model, the bundled
detector is asked, each in a child process, since broken libraries crash and hang.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import cache_folder
from .check import BAD, BROKEN, NOTE, OK, Check
from .child import Answer, Children
from .engines import detector_checks, provider_checks, tensorrt_checks
from .gpu import Gpus, device_nodes, jetson, kernel_driver
from .packages import compiled_check, package_checks, start_imports, versions

__all__ = ["examine"]


def examine(tick: Callable[[str], None], *, timeout: float = 120.0) -> dict[str, Any]:
    """All that `whyfake doctor` says, as JSON types (schema/doctor.schema.json).

    `tick(text)` is told what is tried; `timeout` is in seconds, for each child. Costs the bundled
    detector two images a device. What is found is never raised.
    """
    # the children end before the pool waits for the threads that wait for them
    with ThreadPoolExecutor(2) as pool, Children() as children:

        def ask(function: str, *arguments: Any) -> Future[Answer]:
            name = f"whyfake.doctor.probes:{function}"
            return pool.submit(children.ask, name, *arguments, timeout=timeout)

        tick("asking the driver, loading packages")
        seen, started, available = ask("gpus"), start_imports(ask), ask("providers")
        gpus = Gpus(seen.result(), nodes=device_nodes(), kernel=kernel_driver())
        checks = package_checks(started, ask, gpu=bool(gpus.found))
        checks += [compiled_check(), *gpus.checks]
        tick("running a model on each provider, loading TensorRT")
        providers = provider_checks(available.result(), gpus, ask)
        checks += providers + tensorrt_checks(gpus, ask)
        tick("asking the bundled detector")
        checks += detector_checks(providers, ask)
    checks += folder_checks()
    return {
        "schema": 1,
        "ok": not any(check.status in BAD for check in checks),
        "system": _system(),
        "packages": versions(),
        "driver": {"cuda": gpus.cuda, "kernel": gpus.kernel},
        "gpus": gpus.found,
        "checks": [asdict(check) for check in checks],
    }


def _system() -> dict[str, Any]:
    from .. import __version__

    return {
        "whyfake": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "jetson": jetson(),
    }


def folder_checks() -> list[Check]:
    """Whether the folders for temporary files, engines and timings, and results can be written."""
    checks = [_folder("temporary files", Path(tempfile.gettempdir()), BROKEN, "TMPDIR")]
    try:
        checks.append(_folder("cache", cache_folder(""), NOTE, "WHYFAKE_CACHE"))
    except OutputError as error:
        checks.append(Check("folders", "cache", NOTE, str(error), "export WHYFAKE_CACHE=FOLDER"))
    checks.append(_folder("results (here)", Path.cwd(), NOTE, None))
    return checks


def _folder(name: str, folder: Path, otherwise: str, variable: str | None) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        mend = f"export {variable}=FOLDER" if variable else "whyfake explain … --out FOLDER"
        detail = f"{folder} cannot be written: {error.strerror or error}"
        return Check("folders", name, otherwise, detail, mend)
    return Check("folders", name, OK, f"{folder}, {free:.1f} GiB free")
