"""Composition by ONNX Runtime where the detector's session is: bound outputs, no copies."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..perturbation import FloatArray, PerturbationBatch
from .canvas import Canvas, Constants, OnDevice
from .composition import OUTPUT, graph, parts

Place = tuple[str, int]
"""ONNX Runtime's words for a device: `cpu` or `cuda`, and which."""


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """What ONNX Runtime raises inside is an EngineError that says what it failed at."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen kinds of its own
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"onnxruntime failed {what}: {reason}") from None


class OrtComposition:
    """The sessions that compose, one a kind, made when first wanted, and what is up for them.

    `open_session` opens a serialised graph where the detector runs.
    """

    def __init__(
        self,
        ort: Any,
        open_session: Callable[[bytes], Any],
        place: Place,
        size: tuple[int, int],
        count: Callable[[int], None],
    ) -> None:
        self.place, self.size = place, size
        self._ort = ort
        self._open = open_session
        self._count = count
        self._lock = threading.Lock()
        self._sessions: dict[str, Any] = {}
        self._constants: Constants[Any] = Constants(self._send)

    def _send(self, array: NDArray[Any]) -> Any:
        self._count(array.nbytes)
        if self.place[0] == "cpu":  # there a value is its array, which it would keep alive
            array = array.copy()
        with failing("to upload a batch"):
            return self._ort.OrtValue.ortvalue_from_numpy(array, *self.place)

    def upload(self, batch: PerturbationBatch, frame: FloatArray) -> list[OnDevice[Any]]:
        """What does not change from copy to copy, sent up."""
        ready = []
        for part in parts(batch, frame):
            constants = None
            if part.feed is not None:
                constants = {n: self._constants.get(a) for n, a in part.feed.constants.items()}
            ready.append(OnDevice(part, constants))
        return ready

    def session(self, kind: str) -> Any:
        """The session of a kind; it may be run by many threads."""
        with self._lock:
            if kind not in self._sessions:
                self._sessions[kind] = self._open(graph(kind, self.size))
            return self._sessions[kind]


class OrtCanvas(Canvas[Any]):
    """Pictures in a value on the device, which is bound as the detector's input."""

    def __init__(
        self,
        ort: Any,
        composition: OrtComposition,
        detector: Any,
        rows: int,
        count: Callable[[int], None],
    ) -> None:
        super().__init__(rows, composition.size, count)
        self._composition = composition
        self._place = composition.place
        self._detector = detector
        self._value = ort.OrtValue.ortvalue_from_numpy(
            np.zeros((rows, *self._shape), np.float32), *self._place
        )
        self._io = detector.io_binding()
        self._io.bind_ortvalue_input(detector.get_inputs()[0].name, self._value)
        for item in detector.get_outputs():
            self._io.bind_output(item.name, "cpu")

    def _draw(
        self,
        kind: str,
        codes: dict[str, NDArray[Any]],
        constants: dict[str, Any],
        row: int,
        rows: int,
    ) -> None:
        session = self._composition.session(kind)
        with failing("to compose"):
            io = session.io_binding()
            for name, array in codes.items():
                io.bind_cpu_input(name, array)
            for name, value in constants.items():
                io.bind_ortvalue_input(name, value)
            self._execute(session, io, row, rows)

    def _show(self, images: FloatArray, row: int) -> None:
        session = self._composition.session("images")
        with failing("to upload pictures"):
            io = session.io_binding()
            io.bind_cpu_input("images", images)
            self._execute(session, io, row, len(images))

    def _execute(self, session: Any, io: Any, row: int, rows: int) -> None:
        """Let a graph write rows of the detector's input, and wait: sessions have own streams."""
        shape = (rows, *self._shape)
        at = self._value.data_ptr() + row * 4 * math.prod(self._shape)
        io.bind_output(OUTPUT, *self._place, np.float32, shape, at)
        io.synchronize_inputs()
        session.run_with_iobinding(io)
        io.synchronize_outputs()

    def run(self) -> NDArray[np.float32]:
        """The detector's scores for all rows."""
        with failing("on a batch"):
            self._detector.run_with_iobinding(self._io)
            scores: NDArray[np.float32] = self._io.copy_outputs_to_cpu()[0]
        return scores
