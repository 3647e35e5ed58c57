"""Reads pictures: whatever depth, grey, alpha and orientation, uint8 RGB comes out, or an error."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PictureError
from ..perturbation import FloatArray

MIN_SIDE = 16
MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it stands on disk: `rgb` uint8 (H, W, 3), upright; `source` its path."""

    source: str
    rgb: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


def load_picture(path: str | Path) -> Picture:
    """Read a picture file as RGB.

    16-bit samples are scaled to 8, grey is repeated, transparency is laid on white, and EXIF
    orientation is applied. The size is looked at before pixels are decoded. Raises PictureError.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    if path.is_dir():
        raise PictureError(f"{path} is a folder, wanted a picture")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and odd metadata; what matters is an error
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                _check_size(path, *image.size)
                rgb = _upright(_to_rgb(image), image.getexif().get(_ORIENTATION))
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise PictureError(
            f"{path} is not a picture that can be read (PNG, JPEG, WebP, …)"
        ) from None
    except Image.DecompressionBombError:
        raise PictureError(f"{path} is too large: over {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # noqa: BLE001 - each decoder of Pillow's raises kinds of its own
        reason = " ".join(str(error).split())
        raise PictureError(f"{path}: damaged or unreadable picture: {reason}") from None
    return Picture(printable(path), rgb)


def printable(path: str | Path) -> str:
    """The path as text that can be printed and stored: bytes that are not UTF-8 as `\\xe9`."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def picture_from_array(rgb: NDArray[np.uint8], source: str = "<array>") -> Picture:
    """A picture from uint8 RGB (H, W, 3). Raises PictureError."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise PictureError(f"wanted a uint8 RGB array (H, W, 3), got {rgb.dtype} {rgb.shape}")
    _check_size(source, rgb.shape[1], rgb.shape[0])
    return Picture(source, rgb)


def _check_size(what: str | Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"{what} is too large: {width}×{height} pixels, the limit is {MAX_PIXELS:,}; "
            "crop the face first"
        )
    if min(width, height) < MIN_SIDE:
        raise PictureError(
            f"{what} is too small: {width}×{height} pixels, wanted {MIN_SIDE} or more a side"
        )


def _to_rgb(image: Any) -> NDArray[np.uint8]:
    """8-bit RGB from any mode that Pillow reads."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        full = 65535 if image.mode != "F" else 1
        low, high = grey.min(), grey.max()
        if not (low >= 0 and high <= full):
            raise ValueError(f"grey values from {low:g} to {high:g}, wanted 0 to {full}")
        grey8 = np.rint(grey / full * 255).astype(np.uint8)
        return np.repeat(grey8[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _upright(rgb: NDArray[np.uint8], orientation: Any) -> NDArray[np.uint8]:
    """The picture as EXIF's orientation (1 to 8) wants it seen; anything else leaves it alone."""
    if orientation in (5, 6, 7, 8):  # stored on its side: rows are columns
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def fit_to(rgb: NDArray[np.uint8], size: tuple[int, int]) -> FloatArray:
    """The picture (H, W, 3) at the detector's size (h, w), as float32 (3, h, w) in [0, 1].

    Resized as `resize` does.
    """
    pixels = resize(rgb, size).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels.astype(np.float32) / np.float32(255))


def resize(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture (H, W, 3) at another size (h, w).

    The whole picture is kept: where its shape differs it is stretched. Shrinking averages pixels,
    enlarging interpolates bicubically; at the right size nothing changes.
    """
    import cv2

    # one after the other: where a side grows, OpenCV's INTER_AREA averages neither
    smaller = min(rgb.shape[0], size[0]), min(rgb.shape[1], size[1])
    if rgb.shape[:2] != smaller:
        rgb = cv2.resize(rgb, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != size:
        rgb = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_CUBIC)
    return rgb
