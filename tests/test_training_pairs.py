"""Pairs that the bundled detector learns from: forged under their mask, treated alike."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from training_toys import synthetic_face

from training.degrade import _h264, _jpeg, draw_treatment, resize_to
from training.pairs import PARTS, PLACE, Pair, make_pair, make_plain_pair
from whyfake.evaluate.forge import SelfBlend

pytestmark = pytest.mark.training

Rgb = NDArray[np.uint8]


# treatments


@pytest.mark.parametrize("size", [64, 128])
def test_both_sides_get_one_treatment(size: int) -> None:
    """Equal pictures stay equal to the bit, whatever was treated in between."""
    outputs = []
    for seed in range(60):
        side = 128 + seed  # odd ones too
        picture = cv2.resize(synthetic_face(seed % 5).rgb, (side, side))
        treat = draw_treatment(np.random.default_rng(seed), size)
        kept, first = picture.copy(), treat(picture)
        treat(picture[::-1].copy())
        assert np.array_equal(picture, kept)
        assert np.array_equal(first, treat(kept))
        assert first.dtype == np.uint8
        assert first.shape == (size, size, 3)
        outputs.append(first)
    assert len({output.tobytes() for output in outputs}) == 60


def test_draws_differ_and_one_draw_repeats() -> None:
    picture = cv2.resize(synthetic_face(1).rgb, (131, 131))
    outputs = [draw_treatment(np.random.default_rng(n), 64)(picture).tobytes() for n in range(40)]
    assert len(set(outputs)) == 40
    assert outputs[7] == draw_treatment(np.random.default_rng(7), 64)(picture).tobytes()


def loss_of_detail(treated: Rgb, picture: Rgb) -> float:
    """Root mean square error, in 0 … 255."""
    return float(np.sqrt(np.mean((treated.astype(float) - picture) ** 2)))


@pytest.mark.parametrize("side", [128, 131, 49])
def test_h264_costs_more_detail_at_a_higher_rate_factor(side: int) -> None:
    picture = cv2.resize(synthetic_face(2).rgb, (side, side))
    even = side // 2 * 2
    errors = []
    for crf in (18, 28, 40):
        treated = _h264(crf)(picture)
        assert treated.shape == (even, even, 3)
        assert np.array_equal(treated, _h264(crf)(picture))
        errors.append(loss_of_detail(treated, picture[:even, :even]))
    assert 0 < 1.2 * errors[0] < errors[1] < errors[2] / 1.2
    assert errors[2] < 25  # still that picture, in its own colours


def test_jpeg_costs_more_detail_at_a_lower_quality() -> None:
    picture = cv2.resize(synthetic_face(2).rgb, (131, 131))
    good, poor = (loss_of_detail(_jpeg(quality)(picture), picture) for quality in (95, 40))
    assert 0 < 1.2 * good < poor < 25


def test_resize_averages_when_shrinking() -> None:
    board = (255 * (np.indices((128, 128)).sum(axis=0) % 2)).astype(np.uint8)
    picture = np.repeat(board[..., None], 3, axis=2)
    assert np.abs(resize_to(64)(picture).astype(int) - 127.5).max() <= 0.5
    assert np.array_equal(resize_to(128)(picture), picture)
    assert resize_to(160)(picture).shape == (160, 160, 3)


# pairs


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("make", [make_pair, make_plain_pair])
def test_pairs_are_seeded_and_of_the_stated_form(make: Callable[..., Pair], size: int) -> None:
    face, seen = synthetic_face(3), set()
    for index in range(12):
        pair, again = (make(face, [7, 1, index], size, SelfBlend()) for _ in range(2))
        for name in ("real", "fake", "mask"):
            assert np.array_equal(getattr(pair, name), getattr(again, name))
        for side in (pair.real, pair.fake):
            assert side.shape == (3, size, size)
            assert side.dtype == np.uint8
            assert side.flags.c_contiguous
        assert pair.mask.shape == (size // PLACE, size // PLACE)
        assert pair.mask.dtype == np.float32
        assert 0 <= pair.mask.min() <= pair.mask.max() <= 1 + 1e-6  # OpenCV's means, in float32
        assert pair.mask.max() > 0.2
        seen.add(pair.fake.tobytes())
    assert len(seen) == 12


@pytest.mark.parametrize("size", [64, 128])
def test_a_plain_pair_differs_under_its_mask_alone(size: int) -> None:
    """To the bit: places and pixels have common edges, so an unmarked place holds no forged one."""
    outside = inside = 0
    for seed in range(12):
        pair = make_plain_pair(synthetic_face(seed), [seed], size, SelfBlend())
        apart = np.abs(pair.real.astype(int) - pair.fake).max(axis=0)
        cells = apart.reshape(size // PLACE, PLACE, size // PLACE, PLACE).max(axis=(1, 3))
        assert not cells[pair.mask == 0].any()
        outside += int((pair.mask == 0).sum())
        inside += int((cells[pair.mask > 0.4] > 0).sum())
    assert outside > 12 * 4  # corners at least
    assert inside > 12 * (size // PLACE) ** 2 / 8


def test_the_mask_lies_where_the_pair_differs() -> None:
    """The marked places take the most of what differs: rows and columns are not swapped."""
    strong = SelfBlend(colour=60, ratios=(1.0,), blur=(0.01, 0.02), warp=0)
    upright = turned = 0.0
    for seed in range(20):
        pair = make_pair(synthetic_face(seed), [seed, 5], 128, strong)
        apart = np.abs(pair.real.astype(float) - pair.fake).sum(axis=0)
        cells = apart.reshape(16, PLACE, 16, PLACE).mean(axis=(1, 3))
        upright += float((cells * pair.mask).sum() / np.linalg.norm(pair.mask))
        turned += float((cells * pair.mask.T).sum() / np.linalg.norm(pair.mask))
    assert upright > 1.1 * turned


def test_parts_are_drawn_with_chances() -> None:
    assert sum(PARTS.values()) == pytest.approx(1)
