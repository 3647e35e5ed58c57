"""Pictures of every kind come out as upright 8-bit RGB with the right values, or as one clear line.

All are wider than high or higher than wide, with noise in them, so that a swap or flip shows.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from whyfake.errors import PictureError
from whyfake.media import Picture, fit_to, load_picture, picture_from_array

Rgb = NDArray[np.uint8]
H, W = 18, 26


def noise(*shape: int, top: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(len(shape)).integers(0, top, shape, dtype=dtype)


def smooth(height: int = 48, width: int = 80) -> Rgb:
    """A picture that JPEG keeps to a few levels, with no symmetry."""
    y, x = np.indices((height, width))
    planes = [40 + 2 * x, 60 + 3 * y, 200 - x - y]
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)


def load(path: Path) -> Rgb:
    """Read with every warning an error (pytest's setting), and check what always holds."""
    picture = load_picture(path)
    assert isinstance(picture, Picture)
    assert picture.source == str(path)
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.ndim == 3
    assert picture.rgb.shape[2] == 3
    assert picture.rgb.flags.c_contiguous
    assert picture.size == picture.rgb.shape[:2]
    return picture.rgb


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


# --- depths and modes


def test_plain_rgb(tmp_path: Path) -> None:
    rgb = noise(H, W, 3)
    for suffix in ("png", "bmp", "tif", "webp"):
        options = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", **options)
        np.testing.assert_array_equal(load(tmp_path / f"a.{suffix}"), rgb)


def test_16_bit_rgb_is_scaled(tmp_path: Path) -> None:
    deep = noise(H, W, 3, top=65536, dtype=np.uint16)
    deep[0, :6, 0] = [0, 255, 256, 32768, 65279, 65535]
    assert cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    rgb = load(tmp_path / "a.png")
    # Pillow keeps the high byte: never more than one level from the nearest
    assert np.abs(rgb - np.rint(deep / 257)).max() <= 1
    assert (rgb[0, 0, 0], rgb[0, 5, 0]) == (0, 255)


def test_16_bit_rgba_is_scaled_and_laid_on_white(tmp_path: Path) -> None:
    deep = noise(H, W, 4, top=65536, dtype=np.uint16)
    deep[: H // 2, :, 3] = 65535
    deep[H // 2 :, :, 3] = 0
    assert cv2.imwrite(str(tmp_path / "a.png"), deep[..., [2, 1, 0, 3]])
    rgb = load(tmp_path / "a.png")
    assert np.abs(rgb[: H // 2] - np.rint(deep[: H // 2, :, :3] / 257)).max() <= 1
    assert (rgb[H // 2 :] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_to_the_nearest(tmp_path: Path, suffix: str) -> None:
    deep = noise(H, W, top=65536, dtype=np.uint16)
    deep[0, :4] = [0, 128, 129, 65535]
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), deep)
    rgb = load(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(rgb, np.rint(deep / 257)[..., None].repeat(3, 2))
    assert rgb[0, :4, 0].tolist() == [0, 0, 1, 255]


def test_float_grey_is_taken_as_zero_to_one(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).random((H, W), np.float32)
    grey[0, :2] = [0, 1]
    assert cv2.imwrite(str(tmp_path / "a.tif"), grey)
    wanted = np.rint(grey.astype(np.float64) * 255)
    np.testing.assert_array_equal(load(tmp_path / "a.tif"), wanted[..., None].repeat(3, 2))
    for odd in (1.5, -0.1, np.nan):  # not clipped in silence
        grey[3, 4] = odd
        assert cv2.imwrite(str(tmp_path / "b.tif"), grey)
        with pytest.raises(PictureError, match="wanted 0 to 1"):
            load_picture(tmp_path / "b.tif")


def test_8_bit_grey(tmp_path: Path) -> None:
    grey = noise(H, W)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path / "a.png"), grey[..., None].repeat(3, 2))


def test_1_bit(tmp_path: Path) -> None:
    bits = noise(H, W, top=2).astype(bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert mode_of(tmp_path / "a.png") == "1"
    np.testing.assert_array_equal(load(tmp_path / "a.png"), bits[..., None].repeat(3, 2) * 255)


def over_white(color: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.float64]:
    share = alpha[..., None] / 255
    return np.asarray(color * share + 255 * (1 - share))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = noise(H, W, 4)
    rgba[:, :5, 3] = 0
    rgba[:, 5:10, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    rgb = load(tmp_path / "a.png")
    assert (rgb[:, :5] == 255).all()
    np.testing.assert_array_equal(rgb[:, 5:10], rgba[:, 5:10, :3])
    assert np.abs(rgb - over_white(rgba[..., :3], rgba[..., 3])).max() <= 1


def test_grey_with_alpha(tmp_path: Path) -> None:
    la = noise(H, W, 2)
    la[:, :5, 1] = 0
    Image.fromarray(la).save(tmp_path / "a.png")
    assert mode_of(tmp_path / "a.png") == "LA"
    rgb = load(tmp_path / "a.png")
    assert (rgb[:, :5] == 255).all()
    assert np.abs(rgb - over_white(la[..., :1].repeat(3, 2), la[..., 1])).max() <= 1


@pytest.mark.parametrize("transparency", [2, bytes([255, 128, 0, 255])], ids=["index", "alphas"])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    index = noise(H, W, top=4)
    palette = np.array([[250, 10, 20], [0, 200, 90], [7, 8, 9], [120, 0, 255]], np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putdata(index.ravel().tolist())
    image.putpalette(palette.ravel().tolist())
    image.save(tmp_path / "a.png", transparency=transparency)
    assert mode_of(tmp_path / "a.png") == "P"
    alphas = [255, 255, 0, 255] if isinstance(transparency, int) else list(transparency)
    wanted = over_white(palette[index], np.array(alphas)[index])
    rgb = load(tmp_path / "a.png")
    assert np.abs(rgb - wanted).max() <= 1
    assert (rgb[index == 2] == 255).all()
    np.testing.assert_array_equal(rgb[index == 3], palette[index][index == 3])


def test_palette_without_transparency(tmp_path: Path) -> None:
    rgb = np.array([[9, 8, 7], [200, 100, 50], [0, 255, 0]], np.uint8)[noise(H, W, top=3)]
    Image.fromarray(rgb).quantize(3).save(tmp_path / "a.png")
    assert mode_of(tmp_path / "a.png") == "P"
    np.testing.assert_array_equal(load(tmp_path / "a.png"), rgb)


def test_a_transparent_colour(tmp_path: Path) -> None:
    """An RGB PNG whose tRNS chunk names one colour."""
    rgb = noise(H, W, 3)
    rgb[:, :5] = [1, 2, 3]
    Image.fromarray(rgb).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert mode_of(tmp_path / "a.png") == "RGB"
    loaded = load(tmp_path / "a.png")
    assert (loaded[:, :5] == 255).all()
    np.testing.assert_array_equal(loaded[:, 5:], rgb[:, 5:])


def test_cmyk_jpeg(tmp_path: Path) -> None:
    rgb = smooth()
    cmyk = np.dstack([255 - rgb, np.zeros(rgb.shape[:2], np.uint8)])
    Image.fromarray(cmyk, mode="CMYK").save(tmp_path / "a.jpg", quality=100)
    assert mode_of(tmp_path / "a.jpg") == "CMYK"
    assert np.abs(load(tmp_path / "a.jpg").astype(int) - rgb).max() <= 4


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame(tmp_path: Path, suffix: str) -> None:
    colors = np.array([[9, 8, 7], [200, 100, 50], [0, 255, 0]], np.uint8)
    first, second = colors[noise(H, W, top=3)], np.full((H, W, 3), 77, np.uint8)
    options = {"lossless": True} if suffix == "webp" else {}
    frames = [Image.fromarray(first), Image.fromarray(second)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2
    np.testing.assert_array_equal(load(path), first)


# --- orientation


def stored(upright: Rgb, orientation: int) -> Rgb:
    """How a camera stores a picture that shows `upright` once the EXIF orientation is applied.

    From the EXIF specification: what the 0th row and 0th column of the file are in the scene.
    """
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.transpose(1, 0, 2),  # left, top
        6: upright[:, ::-1].transpose(1, 0, 2),  # right, top
        7: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: upright[::-1].transpose(1, 0, 2),  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = smooth()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    image = Image.fromarray(np.ascontiguousarray(stored(upright, orientation)))
    image.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    rgb = load(tmp_path / f"a.{suffix}")
    assert rgb.shape == upright.shape
    assert np.abs(rgb.astype(int) - upright).max() <= (6 if suffix == "jpg" else 0)


def test_an_orientation_that_means_nothing_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    rgb = noise(H, W, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load(tmp_path / "a.png"), rgb)


def test_odd_metadata_do_not_spoil_a_good_picture(tmp_path: Path) -> None:
    """EXIF of which only half is there, or noise: no warning, no error."""
    rgb = noise(H, W, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera's maker " * 20
    block = exif.tobytes()
    for name, odd in (("half", block[: len(block) // 2]), ("noise", b"Exif\0\0II*\0" + bytes(9))):
        path = tmp_path / f"{name}.png"
        Image.fromarray(rgb).save(path, exif=odd)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            loaded = load_picture(path).rgb
        assert not heard
        assert loaded.shape in ((H, W, 3), (W, H, 3))
        assert sorted(loaded.ravel()) == sorted(rgb.ravel())


# --- what is no picture


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


# --- arrays


def test_pictures_from_arrays() -> None:
    rgb = noise(H, W, 3)
    picture = picture_from_array(rgb, "frame 7")
    assert (picture.source, picture.size) == ("frame 7", (H, W))
    np.testing.assert_array_equal(picture.rgb, rgb)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((H, W, 3), np.float32), r"got float32 \(18, 26, 3\)"),
        (np.zeros((H, W), np.uint8), r"got uint8 \(18, 26\)"),
        (np.zeros((H, W, 4), np.uint8), r"got uint8 \(18, 26, 4\)"),
        (np.zeros((3, H, W), np.uint8), r"got uint8 \(3, 18, 26\)"),
        (np.zeros((8, 40, 3), np.uint8), "<array> is too small: 40×8 pixels"),
    ],
)
def test_arrays_that_are_no_pictures(array: NDArray[Any], message: str) -> None:
    with pytest.raises(PictureError, match=message):
        picture_from_array(array)


# --- fitting to the detector's size


def test_at_its_size_a_picture_is_unchanged() -> None:
    rgb = noise(H, W, 3)
    frame = fit_to(rgb, (H, W))
    assert frame.dtype == np.float32
    assert frame.shape == (3, H, W)
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(np.rint(frame * 255), rgb.transpose(2, 0, 1))
    np.testing.assert_allclose(frame, rgb.transpose(2, 0, 1) / 255, rtol=1e-7)


@pytest.mark.parametrize(("down", "across"), [(2, 2), (3, 2), (1, 4), (5, 1)])
def test_shrinking_averages_blocks(down: int, across: int) -> None:
    rgb = noise(H * down, W * across, 3)
    blocks = rgb.reshape(H, down, W, across, 3).mean(axis=(1, 3))
    frame = fit_to(rgb, (H, W))
    assert frame.shape == (3, H, W)
    # rounded to a level of 8 bits
    assert np.abs(frame * 255 - blocks.transpose(2, 0, 1)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("tall", [True, False])
def test_shrinking_one_side_averages_though_the_other_grows(tall: bool) -> None:
    """Stripes one pixel wide become their mean; picking every fourth would give black or white."""
    stripes = np.zeros((4 * H, W // 2, 3), np.uint8)
    stripes[::2] = 200
    if not tall:
        stripes = np.ascontiguousarray(stripes.transpose(1, 0, 2))
    frame = fit_to(stripes, (H, W) if tall else (W, H))
    assert frame.shape == ((3, H, W) if tall else (3, W, H))
    np.testing.assert_allclose(frame * 255, 100, atol=1)


@pytest.mark.parametrize(("height", "width"), [(H * 2, W), (H, W * 3), (H * 2, W * 3), (7, 90)])
def test_height_and_width_are_not_swapped(height: int, width: int) -> None:
    """Along each side a ramp stays a ramp, to a level: enlarging and shrinking keep the place."""
    y, x = np.indices((64, 40))
    rgb = np.stack([y * 3, x * 5, np.full_like(x, 90)], axis=2).astype(np.uint8)
    frame = fit_to(rgb, (height, width)) * 255
    rows = ((np.arange(height) + 0.5) * 64 / height - 0.5) * 3
    columns = ((np.arange(width) + 0.5) * 40 / width - 0.5) * 5
    inner_rows, inner_columns = slice(2, -2), slice(5, -5)
    assert frame.shape == (3, height, width)
    np.testing.assert_allclose(
        frame[0, inner_rows, inner_columns].mean(axis=1), rows[inner_rows], atol=2
    )
    np.testing.assert_allclose(
        frame[1, inner_rows, inner_columns].mean(axis=0), columns[inner_columns], atol=2
    )
    np.testing.assert_allclose(frame[2], 90, atol=1e-4)


def test_enlarging_stays_in_range_and_keeps_flat_areas() -> None:
    rgb = np.zeros((H, W, 3), np.uint8)
    rgb[:, W // 2 :] = 255
    frame = fit_to(rgb, (H * 3, W * 2))
    assert frame.min() == 0
    assert frame.max() == 1
    assert (frame[:, :, : W - 4] == 0).all()
    assert (frame[:, :, W + 4 :] == 1).all()
