"""Reads clips: upright RGB frames with their true times, however the file stores them."""

from __future__ import annotations

import dataclasses
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, VideoError, require
from .pictures import MAX_PIXELS, MIN_SIDE, printable


@dataclass(frozen=True)
class ClipInfo:
    """What a file says of its pictures: `width` and `height` as they are to be seen.

    Turned upright, with square pixels. `rate` is the average in frames a second (29.97 is
    30000/1001), `frames` and `duration` (seconds) are counted in the file, not taken from its
    header; `variable` says that the frames are not evenly spaced. `promised` is the duration that
    the header claims, 0 where it claims none.
    """

    source: str
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int
    duration: float
    variable: bool
    rotation: int
    codec: str
    promised: float
    times: array[float] = dataclasses.field(repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """One frame: its number, its time in seconds from the first, and uint8 RGB (H, W, 3)."""

    index: int
    time: float
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class Sampling:
    """Which frames are looked at closely: every so many, so many a second, or so many in all.

    Raises UsageError unless exactly one is given and positive.
    """

    every: int | None = None
    fps: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        if len(given) != 1:
            names = " and ".join(f"--{name}" for name in given) or "none of them"
            raise UsageError(f"sampling: give one of --every, --fps and --frames, got {names}")
        [(name, value)] = given.items()
        if not 0 < value < float("inf"):
            raise UsageError(f"sampling: --{name} must be positive, got {value}")

    def indices(self, info: ClipInfo) -> list[int]:
        """The numbers of the frames, in order, without repeats; by time where it is uneven."""
        if self.every is not None:
            return list(range(0, info.frames, self.every))
        if self.fps is not None:
            wanted = (k / self.fps for k in range(int(info.duration * self.fps) + 1))
            return _unique(_first_at(info.times, time) for time in wanted)
        assert self.frames is not None
        if self.frames >= info.frames:
            return list(range(info.frames))
        step = info.duration / self.frames
        chosen = set(_unique(_nearest(info.times, (k + 0.5) * step) for k in range(self.frames)))
        # where frames are rare, two wishes meet in one of them; the others stand in, in order
        spare = (index for index in range(info.frames) if index not in chosen)
        chosen.update(next(spare) for _ in range(self.frames - len(chosen)))
        return sorted(chosen)


def _unique(indices: Iterator[int]) -> list[int]:
    return list(dict.fromkeys(index for index in indices if index >= 0))


def _first_at(times: array[float], wanted: float) -> int:
    """The first frame at that time or later, to a tenth of a millisecond; −1 after the end."""
    index = bisect_left(times, wanted - 1e-4)
    return index if index < len(times) else -1


def _nearest(times: array[float], wanted: float) -> int:
    index = bisect_left(times, wanted)
    near = [i for i in (index - 1, index) if 0 <= i < len(times)]
    return min(near, key=lambda i: abs(times[i] - wanted))


def probe(path: str | Path) -> ClipInfo:
    """Read a clip's facts, and count its frames without decoding more than the first.

    Raises VideoError, MissingExtraError.
    """
    with _opened(path) as container:
        stream = _video_stream(container, path)
        first = next(_decoded(container, stream), None)
        if first is None:
            raise VideoError(f"{path}: not one frame can be decoded: empty or damaged clip")
        rotation = round(first.rotation / 90) * 90 % 360
        ratio = float(stream.sample_aspect_ratio or 1) or 1.0
        width, height = max(round(first.width * ratio), 1), first.height
        if rotation in (90, 270):
            width, height = height, width
        if width * height > MAX_PIXELS or min(width, height) < MIN_SIDE:
            raise VideoError(
                f"{path}: frames of {width}×{height} pixels; wanted {MIN_SIDE} or more a side "
                f"and {MAX_PIXELS:,} in all at the most"
            )
    with _opened(path) as container:
        stream = _video_stream(container, path)
        base = Fraction(stream.time_base or Fraction(1, 1000))
        claimed = float(stream.duration * base) if stream.duration else 0.0
        if not claimed and container.duration and len(container.streams) == 1:
            claimed = container.duration / 1e6  # the file's; with sound in it, that of the sound
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        ticks, last = _ticks(container, stream)
        codec = str(stream.codec_context.name)
    start = ticks[0] if ticks else 0
    times = array("d", ((tick - start) * float(base) for tick in ticks))
    if not times:
        times = array("d", [0.0])
    gaps = np.diff(np.asarray(times))
    usual = float(np.median(gaps)) if len(gaps) else 1 / float(rate)
    variable = bool(len(gaps) and (abs(gaps - usual) > max(2 * float(base), 0.1 * usual)).any())
    if len(gaps):
        counted = Fraction(len(gaps)) / ((ticks[-1] - start) * base)
        # the header's rate where it is true: 30000/1001 and not what rounded ticks add up to
        rate = rate if abs(counted / rate - 1) < 0.005 else counted.limit_denominator(100_000)
    return ClipInfo(
        source=printable(path),
        width=width,
        height=height,
        rate=rate,
        time_base=base,
        frames=len(times),
        duration=times[-1] + (last * float(base) if last else usual),
        variable=variable,
        rotation=rotation,
        codec=codec,
        promised=claimed,
        times=times,
    )


def read_frames(info: ClipInfo, path: str | Path, notes: list[str]) -> Iterator[ClipFrame]:
    """Decode a clip's frames one at a time, upright, in the order in which they are shown.

    What is damaged is left out, and `notes` says how much. Raises VideoError if no frame is left.
    """
    damaged: list[str] = []
    count, time, start = 0, 0.0, None
    sizes = set()
    with _opened(path) as container:
        stream = _video_stream(container, path)
        for frame in _decoded(container, stream, damaged):
            if frame.pts is not None:
                start = frame.pts if start is None else start
                time = float((frame.pts - start) * info.time_base)
            elif count:
                time = count / float(info.rate)
            sizes.add((frame.width, frame.height))
            yield ClipFrame(count, time, _upright(frame, info))
            count += 1
    if not count:
        raise VideoError(f"{path}: not one frame can be decoded: empty or damaged clip")
    if len(sizes) > 1:
        notes.append(f"the picture's size changes: {len(sizes)} sizes, scaled to the first")
    if damaged:
        notes.append(f"{len(damaged)} damaged packets were left out: {damaged[0]}")
    if info.promised - time > max(0.5, 2 / float(info.rate)):
        notes.append(
            f"the clip is cut short: its header promises {info.promised:.2f} s, "
            f"{time:.2f} s can be read"
        )


def _upright(frame: Any, info: ClipInfo) -> NDArray[np.uint8]:
    size = (info.width, info.height)
    if info.rotation in (90, 270):
        size = size[::-1]
    if (frame.width, frame.height) != size:
        frame = frame.reformat(width=size[0], height=size[1], format="rgb24")
    rgb = frame.to_ndarray(format="rgb24")
    # the angle is counter-clockwise, as np.rot90 turns
    return np.ascontiguousarray(np.rot90(rgb, info.rotation // 90))


def _opened(path: str | Path) -> Any:
    """The container; a file that is none is said to be so."""
    av = require("av", "video", "reading video")
    path = Path(path)
    if not path.is_file():
        what = "is a folder, wanted a clip" if path.is_dir() else "there is no such file"
        raise VideoError(f"{path}: {what}")
    if not path.stat().st_size:
        raise VideoError(f"{path}: the file is empty")
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError, UnicodeError) as error:
        raise VideoError(
            f"{path}: not a clip that can be read, or cut off before its index: {_reason(error)}"
        ) from None


def _video_stream(container: Any, path: str | Path) -> Any:
    streams = [s for s in container.streams.video if not _is_cover(s)]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing readable"
        container.close()
        raise VideoError(f"{path}: no video in that file, only {kinds}")
    if streams[0].codec_context is None:
        container.close()
        raise VideoError(f"{path}: its video codec is not known to this FFmpeg")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _is_cover(stream: Any) -> bool:
    """Whether it is a music file's cover picture. PyAV before 17 gives a flag, later an int."""
    disposition = stream.disposition
    return bool(getattr(disposition, "value", disposition) & _ATTACHED_PICTURE)


_ATTACHED_PICTURE = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC


def _decoded(container: Any, stream: Any, damaged: list[str] | None = None) -> Iterator[Any]:
    """Frames as they are shown; packets that cannot be decoded are named in `damaged`."""
    av = require("av", "video", "reading video")
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            if damaged is not None:
                damaged.append(_reason(error))
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError as error:
            if damaged is not None:
                damaged.append(_reason(error))


def _ticks(container: Any, stream: Any) -> tuple[array[int], int]:
    """When each packet's frame is shown, sorted, in ticks of the time base; the last one's length.

    Packets without a time get that of an even rate.
    """
    av = require("av", "video", "reading video")
    shown: list[tuple[int, int]] = []
    step = round(1 / (Fraction(stream.average_rate or 25) * Fraction(stream.time_base)))
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                known = packet.pts if packet.pts is not None else packet.dts
                at = known if known is not None else len(shown) * step
                shown.append((at, packet.duration or 0))
    except av.error.FFmpegError:
        pass  # a damaged end: what could be read counts; reading the frames says so
    shown.sort()
    return array("q", (at for at, _ in shown)), shown[-1][1] if shown else 0


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
