"""What cameras, sites and codecs do to a picture, drawn once and done to both sides of a pair.

Real and forged face get the same treatment, so that nothing here tells one from the other.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import cv2
import numpy as np

from whyfake.media import resize

from .faces import Rgb

Treatment = Callable[[Rgb], Rgb]


def draw_treatment(rng: np.random.Generator, size: int) -> Treatment:
    """A drawn chain: light, sharpness, grain, codec, and the detector's size at its end."""
    chain: list[Treatment] = [_light(rng)]
    chain += [_sharpness(rng)] if rng.random() < 0.4 else []
    chain += [_grain(rng)] if rng.random() < 0.2 else []
    chain += [_rescale(rng)] if rng.random() < 0.3 else []
    codec = rng.random()
    if codec < 0.45:
        chain.append(_jpeg(int(rng.integers(40, 100))))
    elif codec < 0.7:
        chain.append(_h264(int(rng.integers(18, 33))))
    chain.append(resize_to(size))

    def apply(rgb: Rgb) -> Rgb:
        for step in chain:
            rgb = step(rgb)
        return rgb

    return apply


def _light(rng: np.random.Generator) -> Treatment:
    gain, shift = 1 + 0.2 * rng.uniform(-1, 1), 20 * rng.uniform(-1, 1)
    tint = rng.uniform(-10, 10, 3)
    gamma = float(np.exp(0.25 * rng.uniform(-1, 1)))
    saturation = 1 + 0.3 * rng.uniform(-1, 1) if rng.random() > 0.03 else 0.0
    levels = 255 * (np.arange(256) / 255) ** gamma
    tables = [(levels - 128) * gain + 128 + shift + tint[c] for c in range(3)]
    table = np.stack(tables, axis=1).clip(0, 255).round().astype(np.uint8)[None]

    def apply(rgb: Rgb) -> Rgb:
        rgb = np.asarray(cv2.LUT(rgb, table))
        grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return np.asarray(cv2.addWeighted(rgb, saturation, grey, 1 - saturation, 0))

    return apply


def _sharpness(rng: np.random.Generator) -> Treatment:
    sigma, amount = rng.uniform(0.5, 1.5), rng.uniform(0.2, 1.0)
    sharpen = rng.random() < 0.6

    def apply(rgb: Rgb) -> Rgb:
        blurred = cv2.GaussianBlur(rgb, (0, 0), sigma)
        if not sharpen:
            return np.asarray(blurred)
        return np.asarray(cv2.addWeighted(rgb, 1 + amount, blurred, -amount, 0))

    return apply


def _grain(rng: np.random.Generator) -> Treatment:
    seed, sigma = int(rng.integers(2**31)), rng.uniform(1, 6)

    def apply(rgb: Rgb) -> Rgb:
        noise = np.random.default_rng(seed).standard_normal(rgb.shape, np.float32)
        return np.asarray((rgb + noise * np.float32(sigma)).clip(0, 255).round(), np.uint8)

    return apply


def _rescale(rng: np.random.Generator) -> Treatment:
    share = rng.uniform(0.5, 1.0)
    how = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)[rng.integers(3)]

    def apply(rgb: Rgb) -> Rgb:
        side = max(48, round(rgb.shape[0] * share))
        small = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, rgb.shape[1::-1], interpolation=how))

    return apply


def _jpeg(quality: int) -> Treatment:
    def apply(rgb: Rgb) -> Rgb:
        _, coded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))

    return apply


def _h264(crf: int) -> Treatment:
    """H.264 at a constant rate factor, as a face-forensics data set stores its clips."""

    def apply(rgb: Rgb) -> Rgb:
        stream = io.BytesIO()
        even = np.ascontiguousarray(rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2])
        with av.open(stream, "w", format="h264") as clip:
            track = clip.add_stream("libx264", rate=25, options={"crf": str(crf)})
            track.codec_context.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
            track.height, track.width, track.pix_fmt = *even.shape[:2], "yuv420p"
            clip.mux(track.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
            clip.mux(track.encode())
        stream.seek(0)
        with av.open(stream, format="h264") as clip:
            return np.asarray(next(clip.decode(video=0)).to_ndarray(format="rgb24"))

    return apply


def resize_to(size: int) -> Treatment:
    """As whyfake fits a picture to its detector."""
    return lambda rgb: resize(rgb, (size, size))
