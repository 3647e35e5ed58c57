"""Forged faces: what is changed is known to the pixel."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whyfake.errors import UsageError
from whyfake.evaluate import Forgery, SelfBlend, ellipse_mask, self_blend

NOTHING = SelfBlend(
    colour=0, contrast=0, scale=0, shift=0, detail=1, ratios=(1.0,), blur=(0, 0), warp=0, side=0
)
"""All differences at zero; what is left is sharpening, which some draws choose in place of detail.

It leaves a face of one colour alone."""
SIZE = (60, 84)  # rows, columns
MASK = ellipse_mask(SIZE, (26, 50), (18, 22))


def noise(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A face (H, W, 3) in which no two pixels are alike, so that whatever is changed shows."""
    return np.random.default_rng(seed).integers(20, 230, (*size, 3), np.uint8)


def flat(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.full((*size, 3), (200, 120, 40), np.uint8)


def same(a: Forgery, b: Forgery) -> bool:
    return all(
        np.array_equal(getattr(a, item.name), getattr(b, item.name))
        for item in dataclasses.fields(Forgery)
    )


# --- blending

shares = st.floats(0, 1)
blends = st.builds(
    SelfBlend,
    colour=st.floats(0, 60),
    contrast=st.floats(0, 0.5),
    scale=st.floats(0, 0.2),
    shift=st.floats(0, 0.2),
    detail=st.floats(0.05, 1),
    ratios=st.lists(st.floats(0.05, 1), min_size=1, max_size=3).map(tuple),
    blur=st.tuples(shares, shares).map(lambda pair: tuple(sorted(0.3 * s for s in pair))),
    warp=st.floats(0, 0.2),
    side=st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(16, 70), columns=st.integers(16, 70), seed=st.integers(0, 2**32), how=blends
)
def test_only_what_the_mask_names_is_changed(
    rows: int, columns: int, seed: int, how: SelfBlend
) -> None:
    face, size = noise((rows, columns), seed % 7), (rows, columns)
    given_face = face.copy()
    mask = ellipse_mask(size, (0.45 * rows, 0.55 * columns), (rows / 4, columns / 5))
    forged = self_blend(face, mask, seed=seed, how=how)
    assert (forged.image.dtype, forged.image.shape) == (np.uint8, (rows, columns, 3))
    assert (forged.original.dtype, forged.original.shape) == (np.uint8, (rows, columns, 3))
    assert (forged.mask.dtype, forged.mask.shape) == (np.float32, size)
    assert forged.mask.min() >= 0
    assert forged.mask.max() <= np.float32(max(how.ratios))
    untouched = forged.mask == 0
    assert untouched.any()
    np.testing.assert_array_equal(forged.image[untouched], forged.original[untouched])
    np.testing.assert_array_equal(face, given_face)  # the caller's stays as it is
    # the region: not empty, inside the mask, and no more than the pixels of half its peak
    assert forged.region.any()
    assert (forged.mask[forged.region] >= forged.mask.max() / 2).all()
    assert (forged.mask[~forged.region] < forged.mask.max() / 2).all()


def test_each_pixel_is_the_stated_mix() -> None:
    """Around black, copy white: the image is the mask itself, in 255 steps."""
    mask = ellipse_mask(SIZE, (26, 50), (18, 22))
    how = SelfBlend(colour=255, ratios=(0.5, 0.8), side=0)
    black = np.zeros((*SIZE, 3), np.uint8)
    for seed in range(6):
        forged = self_blend(black, mask, seed=seed, how=how)
        inside = forged.mask == forged.mask.max()
        for channel in range(3):
            peak = int(forged.image[inside, channel].max())
            wanted = forged.mask / forged.mask.max() * peak  # the copy is of one colour
            # half a step for the rounding of the image, and half of one for that of the peak
            assert np.abs(forged.image[..., channel] - wanted).max() < 1.001


def test_same_seed_same_bits() -> None:
    face = noise(SIZE)
    forged = [self_blend(face, MASK, seed=seed) for seed in range(12)]
    again = [self_blend(face, MASK, seed=seed) for seed in range(12)]
    assert all(same(a, b) for a, b in zip(forged, again, strict=True))
    for a, b in itertools.combinations(forged, 2):
        assert not np.array_equal(a.image, b.image)
    for a, b in itertools.combinations([[3], [3, 1], [3, 2]], 2):
        assert not same(self_blend(face, MASK, seed=a), self_blend(face, MASK, seed=b))


def test_forge_takes_its_draws_from_the_generator_it_is_given() -> None:
    face, rng = noise(SIZE), np.random.default_rng(5)
    first, second = SelfBlend().forge(face, MASK, rng), SelfBlend().forge(face, MASK, rng)
    assert same(first, self_blend(face, MASK, seed=5))
    assert not same(second, first)


@pytest.mark.parametrize("view", ["mirrored", "transposed", "every other"])
def test_a_view_of_a_picture_is_as_good_as_a_copy(view: str) -> None:
    face, mask = noise((120, 168)), ellipse_mask((120, 168), (50, 90), (30, 40))
    cut: dict[str, Any] = {"mirrored": np.s_[:, ::-1], "every other": np.s_[::2, ::2]}
    if view == "transposed":
        face, mask = face.transpose(1, 0, 2), mask.T
    else:
        face, mask = face[cut[view]], mask[cut[view]]
    assert not face.flags.c_contiguous
    for seed in range(4):
        copied = self_blend(face.copy(), mask.copy(), seed=seed)
        assert same(self_blend(face, mask, seed=seed), copied)


def test_no_difference_is_no_forgery() -> None:
    """Where the copy does not differ, whatever the mask is, the image is the face."""
    face = flat(SIZE)
    for seed, side in itertools.product(range(20), (0.0, 1.0)):
        how = dataclasses.replace(NOTHING, side=side, blur=(0.0, 0.3), warp=0.1, ratios=(0.3, 1.0))
        forged = self_blend(face, MASK, seed=seed, how=how)
        np.testing.assert_array_equal(forged.image, face)
        np.testing.assert_array_equal(forged.original, face)


def test_detail_of_one_is_the_face_to_the_bit_or_sharper() -> None:
    """Full resolution changes nothing; the draws that sharpen instead do."""
    face = noise(SIZE)
    forged = [self_blend(face, MASK, seed=seed, how=NOTHING) for seed in range(40)]
    equal = [bool((f.image == face).all()) for f in forged]
    assert 0 < sum(equal) < 40
    for f in itertools.compress(forged, np.logical_not(equal)):
        inside = f.mask == 1
        assert f.image[inside].astype(float).std() > 1.1 * face[inside].astype(float).std()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"colour": 40}, id="colour"),
        pytest.param({"contrast": 0.4}, id="contrast"),
        pytest.param({"scale": 0.4}, id="scale"),
        pytest.param({"shift": 0.2}, id="shift"),
    ],
)
def test_each_setting_alone_makes_a_difference(change: dict[str, float]) -> None:
    """On a smooth face: what sharpening does to it is less than what the setting does."""
    rows, columns = np.indices(SIZE)
    smooth = np.stack([2 * rows + 40, columns + 60, rows + columns], axis=2).astype(np.uint8)

    def worst(how: SelfBlend) -> float:
        changed = [self_blend(smooth, MASK, seed=s, how=how).image.astype(int) for s in range(12)]
        return float(np.median([np.abs(image - smooth)[MASK > 0].mean() for image in changed]))

    assert worst(dataclasses.replace(NOTHING, **change)) > worst(NOTHING) + 1


def test_side_says_which_of_the_two_is_changed() -> None:
    face = noise(SIZE)
    still = dataclasses.replace(NOTHING, colour=40.0, contrast=0.3)
    for seed in range(12):
        inner = self_blend(face, MASK, seed=seed, how=still)
        np.testing.assert_array_equal(inner.original, face)
        assert (inner.image[inner.mask == 1] != face[inner.mask == 1]).any(axis=1).mean() > 0.9
        outer = self_blend(face, MASK, seed=seed, how=dataclasses.replace(still, side=1.0))
        np.testing.assert_array_equal(outer.image[outer.mask == 1], face[outer.mask == 1])
        assert (outer.original != face).any(axis=2).mean() > 0.9
        np.testing.assert_array_equal(outer.image[outer.mask == 0], outer.original[outer.mask == 0])
        np.testing.assert_array_equal(inner.mask, outer.mask)  # the same draws make it
    drawn = [
        np.array_equal(self_blend(face, MASK, seed=s, how=SelfBlend(side=0.5)).original, face)
        for s in range(40)
    ]
    assert 8 < sum(drawn) < 32  # a fair coin falls outside 3 times in 10,000


def test_ratios_weigh_the_copy() -> None:
    peaks = set()
    for seed in range(30):
        how = dataclasses.replace(NOTHING, ratios=(0.25, 0.75))
        peaks.add(float(self_blend(flat(SIZE), MASK, seed=seed, how=how).mask.max()))
    assert peaks == {0.25, 0.75}


def test_a_mask_that_is_not_roughened_stays_in_place() -> None:
    """No warp, no shift, no scale, the least softening: only the outline's pixels change."""
    rows, columns = np.indices(SIZE)
    outline = np.zeros(SIZE, bool)
    for down, across in itertools.product((-2, -1, 0, 1, 2), repeat=2):
        outline |= np.roll(MASK, (down, across), (0, 1)) != MASK
    forged = self_blend(flat(SIZE), MASK, how=NOTHING)
    np.testing.assert_array_equal(forged.mask[~outline], MASK[~outline])
    weight = forged.mask.sum()
    centre = (rows * forged.mask).sum() / weight, (columns * forged.mask).sum() / weight
    assert centre == pytest.approx((26, 50), abs=1e-3)
    np.testing.assert_array_equal(forged.region, MASK > 0)


def test_warp_and_blur_and_shift_do_what_they_say() -> None:
    def masks(**changes: Any) -> list[NDArray[np.float32]]:
        how = dataclasses.replace(NOTHING, **changes)
        return [self_blend(flat(SIZE), MASK, seed=seed, how=how).mask for seed in range(10)]

    [plain] = {mask.tobytes() for mask in masks()}  # the same for every seed
    assert len({mask.tobytes() for mask in masks(warp=0.1)}) == 10
    soft = [np.count_nonzero((mask > 0) & (mask < 0.99)) for mask in masks(blur=(0.15, 0.15))]
    hard = [np.count_nonzero((mask > 0) & (mask < 0.99)) for mask in masks()]
    assert min(soft) > 3 * max(hard)
    # shift 0.1 of the mask's width: at most so far in either direction
    width = np.sqrt(MASK.sum())
    rows, columns = np.indices(SIZE)
    moves = []
    for mask in masks(shift=0.1):
        moves += [(rows * mask).sum() / mask.sum() - 26, (columns * mask).sum() / mask.sum() - 50]
    assert 0.05 * width < max(np.abs(moves)) <= 0.1 * width + 0.1
    areas = [mask.sum() / np.frombuffer(plain, np.float32).sum() for mask in masks(scale=0.1)]
    assert 0.9**2 - 0.02 < min(areas) < 0.97
    assert 1.03 < max(areas) < 1.1**2 + 0.02


@pytest.mark.parametrize("size", [(16, 16), (1, 16), (16, 1), (2, 3), (1, 1), (300, 1), (9, 70)])
def test_very_small_and_thin_faces(size: tuple[int, int]) -> None:
    """Whole faces, and one pixel of them."""
    pixel = np.zeros(size, np.float32)
    pixel[size[0] // 2, size[1] // 2] = 1
    for seed, mask in itertools.product(range(20), (np.ones(size, np.float32), pixel)):
        forged = self_blend(noise(size), mask, seed=seed)
        assert forged.image.shape == (*size, 3)
        assert forged.region.any()
        outside = forged.mask == 0
        np.testing.assert_array_equal(forged.image[outside], forged.original[outside])


@pytest.mark.parametrize("change", [{"warp": 1.0}, {"shift": 1.0}], ids=["warp", "shift"])
def test_a_mask_that_leaves_the_face_is_refused(change: dict[str, float]) -> None:
    """A line along the edge, and large settings: something is forged, or it is said."""
    mask = np.zeros((20, 30), np.float32)
    mask[0] = 1
    refused = 0
    for seed in range(60):
        try:
            forged = self_blend(noise((20, 30)), mask, seed=seed, how=SelfBlend(**change))
        except UsageError:
            refused += 1
            continue
        assert forged.region.any()
    assert 0 < refused < 60


# --- what is refused


def spoilt(value: float) -> NDArray[np.float32]:
    mask = MASK.copy()
    mask[3, 5] = value
    return mask


@pytest.mark.parametrize(
    ("face", "where", "message"),
    [
        (noise(SIZE) / 255, MASK, r"uint8 RGB \(H, W, 3\), got float64 \(60, 84, 3\)"),
        (noise(SIZE)[..., 0], MASK, r"uint8 RGB \(H, W, 3\), got uint8 \(60, 84\)"),
        (np.dstack([noise(SIZE)] * 2), MASK, r"got uint8 \(60, 84, 6\)"),
        (noise(SIZE), MASK.T, r"face's shape \(60, 84\), got \(84, 60\)"),
        (noise(SIZE), np.ones((67, 2)), r"68 landmarks \(68, 2\).*got \(67, 2\)"),
        (noise(SIZE), np.zeros(SIZE), "the mask is empty"),
        (noise(SIZE), 0.5 * MASK, "the mask is empty"),
        (noise(SIZE), np.full((68, 2), 500.0), "the mask is empty"),  # landmarks off the picture
        (noise((0, 0)), np.ones((0, 0)), "the mask is empty"),
        (noise(SIZE), spoilt(1.1), r"must lie in \[0, 1\]"),
        (noise(SIZE), spoilt(-0.1), r"must lie in \[0, 1\]"),
        (noise(SIZE), spoilt(np.nan), r"must lie in \[0, 1\]"),
        (noise(SIZE), np.full((68, 2), np.nan), r"68 finite landmarks \(68, 2\)"),
    ],
)
def test_faces_and_masks_that_do_not_fit(
    face: NDArray[Any], where: NDArray[Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        self_blend(face, where)


BAD = [
    *itertools.product(
        ["colour", "contrast", "scale", "shift", "warp", "side", "detail"],
        [-0.1, np.nan, np.inf],
    ),
    *itertools.product(["contrast", "shift", "warp", "side", "detail"], [1.01]),
    ("colour", 256.0),
    ("detail", 0.0),
    ("scale", 1.0),  # would shrink the copy to nothing
    *itertools.product(["ratios"], [(), (0.0,), (1.0, 1.1), (np.nan,), (-0.5, 1.0)]),
    *itertools.product(["blur"], [(0.2, 0.1), (-0.1, 0.1), (0.1,), (0.0, np.nan), (0.0, np.inf)]),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_settings_that_make_no_sense(field: str, value: float | Sequence[float]) -> None:
    with pytest.raises(UsageError, match=rf"SelfBlend: {field} must .*got ") as caught:
        SelfBlend(**{field: value})
    assert str(value) in str(caught.value)
