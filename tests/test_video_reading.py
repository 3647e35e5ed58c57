"""Reading clips: true times, upright pictures, samples, and one clear line for what is no clip."""

from __future__ import annotations

import wave
from array import array
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av")
from clips import number_of, numbered, write_clip

from whyfake.errors import UsageError, VideoError
from whyfake.media import ClipInfo, Sampling, probe, read_frames


def read(path: Path) -> tuple[ClipInfo, list[float], list[int], list[str]]:
    info, notes = probe(path), list[str]()
    frames = [(f.index, f.time, number_of(f.rgb)) for f in read_frames(info, path, notes)]
    assert [index for index, _, _ in frames] == list(range(len(frames)))
    return info, [time for _, time, _ in frames], [number for _, _, number in frames], notes


def test_2997_stays_2997(tmp_path: Path) -> None:
    """Rate and times are those of 30000/1001, not of 29 or 30."""
    path = write_clip(tmp_path / "ntsc.mp4", numbered(45), rate=Fraction(30_000, 1001))
    info, times, numbers, notes = read(path)
    assert info.rate == Fraction(30_000, 1001)
    assert (info.frames, info.variable, notes) == (45, False, [])
    np.testing.assert_allclose(times, np.arange(45) * 1001 / 30_000, atol=1e-9)
    assert numbers == list(range(45))
    assert info.duration == pytest.approx(45 * 1001 / 30_000, abs=1e-9)


@pytest.mark.parametrize(("suffix", "tolerance"), [("mp4", 1e-5), ("mkv", 1e-3), ("webm", 1e-3)])
def test_uneven_times_are_kept(tmp_path: Path, suffix: str, tolerance: float) -> None:
    """Frames at odd moments keep them, to the tick of their container (1 ms in Matroska)."""
    wanted = [0.0, 0.04, 0.08, 0.5, 0.54, 1.3, 1.31, 2.0]
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = write_clip(tmp_path / f"odd.{suffix}", numbered(8), times=wanted, codec=codec)
    info, times, numbers, _ = read(path)
    np.testing.assert_allclose(times, wanted, atol=tolerance)
    np.testing.assert_allclose(info.times, wanted, atol=tolerance)
    assert info.variable
    assert numbers == list(range(8))


def test_times_begin_at_the_first_frame(tmp_path: Path) -> None:
    """A clip cut out of a longer one may begin at 100 s: its first frame is at 0."""
    path = write_clip(tmp_path / "late.mkv", numbered(5), times=[100 + 0.04 * k for k in range(5)])
    _, times, _, _ = read(path)
    np.testing.assert_allclose(times, 0.04 * np.arange(5), atol=1e-3)


def turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """The clip with this display matrix (a, b, c, d) in its track header, as phones write it."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[at + 4 * place : at + 4 * place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["90 clockwise", "180", "90 counter-clockwise"],
)
def test_rotation_is_applied(tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    """A bright top left corner ends where the matrix puts it."""
    stored = np.full((64, 96, 3), 40, np.uint8)
    stored[:24, :24] = 220
    path = turned(write_clip(tmp_path / "turned.mp4", [stored] * 3), matrix)
    info = probe(path)
    upright = np.rot90(stored, turns)
    assert (info.height, info.width) == upright.shape[:2]
    for frame in read_frames(info, path, []):
        assert frame.rgb.shape == upright.shape
        assert np.abs(frame.rgb.astype(int) - upright).mean() < 6


def test_one_frame(tmp_path: Path) -> None:
    info, times, numbers, notes = read(write_clip(tmp_path / "one.mp4", numbered(1)))
    assert (info.frames, times, numbers, notes) == (1, [0.0], [0], [])
    assert 0 < info.duration < 1


def test_odd_sides_and_wide_pixels(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "odd.webm", numbered(3, (33, 51)), codec="libvpx-vp9")
    info = probe(path)
    assert (info.height, info.width) == (33, 51)


def test_8k(tmp_path: Path) -> None:
    frames = numbered(2, (4320, 7680))
    path = write_clip(tmp_path / "8k.mp4", frames, codec="mjpeg")
    info, _, numbers, _ = read(path)
    assert (info.height, info.width, numbers) == (4320, 7680, [0, 1])


def test_a_clip_cut_in_half_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "cut.mp4", noisy(60), options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    info, times, _, notes = read(path)
    assert 10 < len(times) < 60
    assert any("cut short: its header promises 2.40 s" in note for note in notes), notes
    assert info.promised == pytest.approx(2.4)


def noisy(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(count)]


def test_a_clip_with_a_damaged_middle_keeps_the_rest(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "damaged.mkv", noisy(60))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    info = probe(path)
    notes: list[str] = []
    frames = sum(1 for _ in read_frames(info, path, notes))
    assert 20 < frames < 60
    assert any("cut short" in note or "damaged packets" in note for note in notes), notes


def make_broken(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no clip\n" * 200)
    elif kind == "folder":
        path.mkdir()
    elif kind == "audio only":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(16_000))
    elif kind == "no index":
        write_clip(path, numbered(30))
        content = path.read_bytes()
        path.write_bytes(content[: content.index(b"moov") - 4])
    elif kind == "header only":
        write_clip(path, numbered(30), options={"movflags": "faststart"})
        content = path.read_bytes()
        path.write_bytes(content[: content.index(b"mdat") + 4])
    elif kind == "tiny":
        write_clip(path, numbered(3, (8, 8)))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "there is no such file"),
        ("empty", "the file is empty"),
        ("text", "not a clip that can be read"),
        ("folder", "is a folder, wanted a clip"),
        ("audio only", "no video in that file, only audio"),
        ("no index", "cut off before its index"),
        ("header only", "not one frame can be decoded"),
        ("tiny", "frames of 8×8 pixels; wanted 16 or more"),
    ],
)
def test_what_is_no_clip_is_one_clear_line(tmp_path: Path, kind: str, words: str) -> None:
    path = make_broken(tmp_path, kind)
    with pytest.raises(VideoError) as caught:
        probe(path)
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(path))
    assert "\n" not in message


def info_of(times: list[float], last: float = 0.04) -> ClipInfo:
    return ClipInfo(
        source="",
        width=64,
        height=64,
        rate=Fraction(25),
        time_base=Fraction(1, 1000),
        frames=len(times),
        duration=times[-1] + last,
        variable=False,
        rotation=0,
        codec="",
        promised=0.0,
        times=array("d", times),
    )


GAPS = st.lists(st.floats(0.001, 3), min_size=0, max_size=60)


@given(gaps=GAPS, frames=st.integers(1, 80))
def test_so_many_frames_are_so_many(gaps: list[float], frames: int) -> None:
    """Exactly that many, or all there are; in order, none twice, whatever the times."""
    info = info_of(np.concatenate([[0.0], np.cumsum(gaps)]).tolist())
    found = Sampling(frames=frames).indices(info)
    assert len(found) == min(frames, info.frames)
    assert found == sorted(set(found))
    assert found[0] >= 0
    assert found[-1] < info.frames


@given(gaps=GAPS, fps=st.floats(0.2, 40))
def test_so_many_a_second_by_the_clock(gaps: list[float], fps: float) -> None:
    """Brute force: walk the frames, and take each that is the first at or after a due time."""
    info = info_of(np.concatenate([[0.0], np.cumsum(gaps)]).tolist())
    expected, due = [], 0
    for index, time in enumerate(info.times):
        if time >= due / fps - 1e-4:
            expected.append(index)
            while due / fps - 1e-4 <= time:
                due += 1
    assert Sampling(fps=fps).indices(info) == expected


def test_every_tenth() -> None:
    info = info_of((0.04 * np.arange(31)).tolist())
    assert Sampling(every=10).indices(info) == [0, 10, 20, 30]
    assert Sampling(frames=3).indices(info) == [5, 15, 26]  # the middles of three thirds


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, "got none of them"),
        ({"every": 2, "fps": 1.0}, "got --every and --fps"),
        ({"fps": 0.0}, "--fps must be positive, got 0.0"),
        ({"fps": float("nan")}, "--fps must be positive, got nan"),
        ({"frames": -1}, "--frames must be positive, got -1"),
    ],
)
def test_wrong_sampling_is_said(wanted: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampling(**wanted)  # type: ignore[arg-type]
