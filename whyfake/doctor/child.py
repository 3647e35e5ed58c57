"""Runs a function in a process of its own, where it may crash, hang or print without harm."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# The child finds the modules that its parent finds, not those of the folder it happens to run in.
_CHILD = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from whyfake.doctor.child import answer; answer(*sys.argv[2:])"
)


@dataclass(frozen=True)
class Answer:
    """What a child said: `value`, or in one line why there is none.

    `kind` is the name of the exception's class, `crash` for a process that died, or `timeout`.
    """

    value: Any = None
    error: str | None = None
    kind: str | None = None


class Children:
    """Starts children, and sees to it that none outlives this block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[str]] = set()
        self._ended = False

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            for child in self._live:
                _kill(child)

    def ask(self, function: str, *arguments: Any, timeout: float = 60.0) -> Answer:
        """Call `function` ("package.module:name") with JSON arguments; it returns JSON.

        `timeout` is in seconds. Whatever goes wrong in the child is in the answer.
        """
        command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
        with self._child([*command, function, json.dumps(arguments)]) as child:
            try:
                out, err = child.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                return Answer(error=f"gave no answer in {timeout:g} s", kind="timeout")
        code = child.returncode
        if code < 0:
            return Answer(error=f"crashed with {_signal(-code)}{_last_line(err)}", kind="crash")
        try:
            return Answer(**json.loads(out))
        except (ValueError, TypeError):
            return Answer(error=f"ended with exit code {code}{_last_line(err)}", kind="crash")

    @contextlib.contextmanager
    def _child(self, command: list[str]) -> Iterator[subprocess.Popen[str]]:
        with self._lock:
            if self._ended:
                raise RuntimeError("no child is started any more")
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._live.add(child)
        try:
            yield child
        finally:
            with self._lock:
                _kill(child)
                self._live.discard(child)
            with child:  # closes its pipes and waits for it
                pass


def _kill(child: subprocess.Popen[str]) -> None:
    """End the child and all that it started; nothing where it has ended."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(err: str) -> str:
    """The last thing that the child said, where it said something."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return f" ({lines[-1][:200]})" if lines else ""


def answer(function: str, arguments: str) -> None:
    """The child's side: call, and write the answer to standard output, which is ours alone."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    said: dict[str, Any] = {"value": None, "error": None, "kind": None}
    module, _, name = function.partition(":")
    try:
        said["value"] = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    except BaseException as error:  # noqa: BLE001 - broken packages raise anything, SystemExit too
        text = " ".join(str(error).split())[:300]
        said["kind"] = type(error).__name__
        said["error"] = text or said["kind"]
    out.write(json.dumps(said))
    out.flush()
    os._exit(0)  # a library that crashes while it is unloaded has answered all the same
