"""Pictures of every kind come out as upright 8-bit RGB with the right values.

All are wider than high or higher than wide, with noise in them, so that a swap or flip shows.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import H, Rgb, W, load, noise
from PIL import Image

from whyfake.errors import PictureError
from whyfake.media import load_picture, picture_from_array


def smooth(height: int = 48, width: int = 80) -> Rgb:
    """A picture that JPEG keeps to a few levels, with no symmetry."""
    y, x = np.indices((height, width))
    planes = [40 + 2 * x, 60 + 3 * y, 200 - x - y]
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)


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
