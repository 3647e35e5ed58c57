"""Writes a clip that browsers play: VP9 in WebM, or H.264 in MP4, with the times it is given."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError, UsageError, require, unknown

FORMATS = ("webm", "mp4")
_CODECS = {
    "webm": (
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "30", "lag-in-frames": "0"},
    ),
    "mp4": ("libx264", {"preset": "veryfast", "crf": "20"}),
}


class ClipWriter:
    """A clip under `path`, which is there when all of it is: frames go to a hidden file beside.

    `size` is height and width; an odd side is made even for MP4, whose players want that, by
    repeating its last row or column. Raises OutputError, UsageError, MissingExtraError.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], rate: Fraction) -> None:
        av = require("av", "video", "writing video")
        self.path = Path(path)
        kind = self.path.suffix[1:]
        if kind not in FORMATS:
            raise UsageError(unknown("video format", kind, FORMATS))
        codec, options = _CODECS[kind]
        self._fresh = self.path.with_name(f".{self.path.name}.new-{os.getpid()}.{kind}")
        self._even = 2 if kind == "mp4" else 1
        self._av = av
        self._last = -1
        for left in self.path.parent.glob(f".{self.path.name}.new-*"):  # of a killed run
            left.unlink(missing_ok=True)
        try:
            self._container = av.open(
                str(self._fresh), "w", options={"movflags": "faststart"} if kind == "mp4" else {}
            )
            self._stream = self._container.add_stream(codec, rate=rate, options=options)
        except (OSError, ValueError, av.error.FFmpegError) as error:
            raise OutputError(f"{path}: cannot write video there: {error}") from None
        height, width = (-(-side // self._even) * self._even for side in size)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        # ticks that hold any source's times to a tenth of a millisecond; WebM's own are 1 ms
        self._base = Fraction(1, 90_000)
        self._stream.codec_context.time_base = self._base
        if kind == "webm":
            self._stream.codec_context.bit_rate = 0

    def write(self, rgb: NDArray[np.uint8], time: float) -> None:
        """Add a frame (H, W, 3) that is shown from `time` on, in seconds; times rise."""
        rows, columns = (-side % self._even for side in rgb.shape[:2])
        if rows or columns:
            rgb = np.pad(rgb, ((0, rows), (0, columns), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        self._last = max(round(time / self._base), self._last + 1)
        frame.pts, frame.time_base = self._last, self._base
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (OSError, ValueError, self._av.error.FFmpegError) as error:
            raise OutputError(f"{self.path}: cannot write the clip: {error}") from None

    def finish(self) -> None:
        """Write what the encoder holds back, and let the clip appear."""
        self._mux(None)
        try:
            self._container.close()
            os.replace(self._fresh, self.path)
        except (OSError, self._av.error.FFmpegError) as error:
            raise OutputError(f"{self.path}: cannot write the clip: {error}") from None

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        with contextlib.suppress(OSError, ValueError, self._av.error.FFmpegError):
            self._container.close()
        self._fresh.unlink(missing_ok=True)
