"""What is no picture, is damaged, too small or too large, is one clear line."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import H, W, load, noise
from PIL import Image

from whyfake.errors import PictureError
from whyfake.media import load_picture


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """An 8-bit RGB PNG of that size, whose pixels are `data`, compressed: there may be too few."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(PictureError) as caught:
        load_picture(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_the_hand_made_png_is_one(tmp_path: Path) -> None:
    rgb = noise(H, W, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    (tmp_path / "a.png").write_bytes(png(W, H, rows))
    np.testing.assert_array_equal(load(tmp_path / "a.png"), rgb)


def test_missing_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "there is no such file")
    refused(tmp_path, "is a folder, wanted a picture")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "none.png", "Not a directory")


@pytest.mark.parametrize(
    "content",
    [b"", b"this is text\n" * 9, bytes(500), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<svg/>"],
    ids=["empty", "text", "zeros", "PNG head", "JPEG head", "SVG"],
)
def test_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "is not a picture that can be read")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_truncated_pictures(tmp_path: Path, suffix: str) -> None:
    """Half a picture is none: it is not filled up with grey."""
    Image.fromarray(noise(64, 80, 3)).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"a.{suffix}"
    for keep in (len(content) // 2, len(content) * 9 // 10):
        path.write_bytes(content[:keep])
        refused(path)


def test_a_damaged_png(tmp_path: Path) -> None:
    Image.fromarray(noise(64, 80, 3)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "damaged or unreadable picture")


def test_a_decoder_that_fails_in_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVIF raises RuntimeError, EXIF struct.error, others what they like: it stays one line."""
    Image.fromarray(noise(H, W, 3)).save(tmp_path / "a.png")

    def fail(*args: Any) -> None:
        raise RuntimeError("colour planes\n  failed")

    monkeypatch.setattr(Image.Image, "convert", fail)
    refused(tmp_path / "a.png", "damaged or unreadable picture: colour planes failed")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (15, 400), (400, 15)])
def test_too_small(tmp_path: Path, width: int, height: int) -> None:
    Image.fromarray(noise(height, width, 3)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", f"is too small: {width}×{height} pixels, wanted 16 or more a side")


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (20_000, 20_000, "is too large: over 100,000,000 pixels"),
        (9_000, 12_000, "is too large: 9000×12000 pixels, the limit is 100,000,000"),
        (2_000_000, 60, "is too large: 2000000×60 pixels"),
    ],
)
def test_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, message: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height))

    def decode(*args: Any) -> None:
        pytest.fail("the pixels were decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    monkeypatch.setattr(Image.Image, "convert", decode)
    refused(tmp_path / "a.png", message)


def test_large_but_allowed_raises_no_warning(tmp_path: Path) -> None:
    """Pillow warns from 89 million pixels on; ours is the limit that counts, then too few data."""
    (tmp_path / "a.png").write_bytes(png(9_500, 10_000))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        refused(tmp_path / "a.png", "damaged or unreadable picture")
    assert not heard
