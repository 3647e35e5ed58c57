"""What the bundled detector learns from: faces by identity, pairs, treatments; and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("av")

from training.degrade import _h264, _jpeg, draw_treatment, resize_to
from training.faces import SPLITS, Face, FolderError, crop, identity_of, read_faces
from training.metrics import accuracy, auc, false_alarms, found, interval
from training.pairs import PARTS, PLACE, Pair, make_pair, make_plain_pair
from whyfake.evaluate.forge import SelfBlend

pytestmark = pytest.mark.training

Rgb = NDArray[np.uint8]
IDENTITIES, EACH = 24, 2


def layout() -> NDArray[np.float32]:
    """68 landmarks (68, 2) of an upright face in iBUG 300-W order, x and y in [0, 1]."""
    turn = np.pi * np.arange(17) / 16
    jaw = np.stack([0.5 - 0.5 * np.cos(turn), 0.25 + 0.75 * np.sin(turn)], axis=1)
    brow = np.stack([np.linspace(0.12, 0.42, 5), 0.12 - 0.05 * np.sin(np.pi * np.arange(5) / 4)], 1)
    bridge = np.stack([np.full(4, 0.5), np.linspace(0.25, 0.5, 4)], axis=1)
    nostrils = np.stack([np.linspace(0.4, 0.6, 5), [0.55, 0.57, 0.58, 0.57, 0.55]], axis=1)
    eye = ring(6, (0.28, 0.27), (0.08, 0.03))
    mouth, lips = ring(12, (0.5, 0.75), (0.17, 0.07)), ring(8, (0.5, 0.75), (0.11, 0.03))
    right_brow, right_eye = (
        part * [-1, 1] + [1, 0] for part in (brow[::-1], eye[[3, 2, 1, 0, 5, 4]])
    )
    parts = [jaw, brow, right_brow, bridge, nostrils, eye, right_eye, mouth, lips]
    return np.concatenate(parts).astype(np.float32)


def ring(count: int, centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[Any]:
    angle = np.pi + 2 * np.pi * np.arange(count) / count
    return np.array(centre) + np.array(radii) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def synthetic_face(seed: int, identity: str = "id00") -> Face:
    """Smooth blobs with grain, taller than wide, with landmarks inside."""
    rng = np.random.default_rng([seed, 1])
    height, width = int(rng.integers(140, 161)), int(rng.integers(120, 137))
    coarse = rng.integers(60, 200, (7, 6, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = smooth + rng.normal(0, 5, smooth.shape)
    corner, extent = rng.uniform([22, 34], [28, 40]), rng.uniform([66, 78], [76, 90])
    landmarks = (corner + extent * layout()).astype(np.float32)
    rgb = np.clip(grain, 0, 255).astype(np.uint8)
    return Face(f"{identity}_{seed}.jpg", identity, rgb, landmarks)


def synthetic_folder(folder: Path, identities: int = IDENTITIES) -> Path:
    """`identities` people, two pictures each, with landmarks68.csv."""
    folder.mkdir(parents=True)
    columns = [f"{axis}{index}" for index in range(68) for axis in "xy"]
    lines = [",".join(["file", *columns])]
    for number in range(identities * EACH):
        face = synthetic_face(number, f"id{number // EACH:02d}")
        bgr = np.ascontiguousarray(face.rgb[..., ::-1])
        assert cv2.imwrite(str(folder / face.name), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
        lines.append(",".join([face.name, *(f"{v:.2f}" for v in face.landmarks.ravel())]))
    (folder / "landmarks68.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_folder(tmp_path_factory.mktemp("data") / "faces")


# faces


def test_splits_share_out_every_face_and_no_identity_twice(folder: Path) -> None:
    splits = {split: read_faces(folder, split, seed=3) for split in SPLITS}
    people = {split: {face.identity for face in faces} for split, faces in splits.items()}
    assert {split: len(names) for split, names in people.items()} == {
        "train": 18,  # of 24: 0.75, then up to 0.85 rounded
        "validation": 2,
        "test": 4,
    }
    assert len(set.union(*people.values())) == sum(map(len, people.values())) == IDENTITIES
    names = [face.name for faces in splits.values() for face in faces]
    assert sorted(names) == sorted(path.name for path in folder.glob("*.jpg"))
    for faces in splits.values():
        assert [face.name for face in faces] == sorted(face.name for face in faces)
        assert all(face.identity == identity_of(face.name) for face in faces)


def test_splits_are_seeded(folder: Path) -> None:
    def tested(seed: int) -> tuple[str, ...]:
        return tuple(face.name for face in read_faces(folder, "test", seed))

    order = np.random.default_rng([5, 68]).permutation(IDENTITIES)  # of sorted names
    assert {name.split("_")[0] for name in tested(5)} == {f"id{n:02d}" for n in order[20:]}
    assert len({tested(seed) for seed in range(6)}) > 3


def test_pictures_come_as_rgb_with_their_own_landmarks(folder: Path) -> None:
    face = read_faces(folder, "train", seed=0)[5]
    true = synthetic_face(int(face.name.split("_")[1].split(".")[0]), face.identity)
    assert face.landmarks == pytest.approx(true.landmarks, abs=0.006)  # two decimals in the file
    assert face.rgb.shape == true.rgb.shape
    error = np.abs(face.rgb.astype(float) - true.rgb).mean()
    swapped = np.abs(face.rgb[..., ::-1].astype(float) - true.rgb).mean()
    assert error < 8 < swapped  # JPEG and its halved colours cost less than swapped channels


def no_table(folder: Path) -> None:
    (folder / "landmarks68.csv").unlink()


def short_line(folder: Path) -> None:
    table = folder / "landmarks68.csv"
    lines = table.read_text().splitlines()
    lines[7] = lines[7].rsplit(",", 1)[0]
    table.write_text("\n".join(lines))


def not_a_number(folder: Path) -> None:
    table = folder / "landmarks68.csv"
    table.write_text(table.read_text().replace("id03_6.jpg,", "id03_6.jpg,left"))


def not_finite(folder: Path) -> None:
    table = folder / "landmarks68.csv"
    lines = table.read_text().splitlines()
    name, _, rest = lines[7].split(",", 2)
    lines[7] = f"{name},nan,{rest}"
    table.write_text("\n".join(lines))


def all_in_one_point(folder: Path) -> None:
    table = folder / "landmarks68.csv"
    lines = table.read_text().splitlines()
    lines[7] = ",".join([lines[7].split(",")[0], *["50"] * 136])
    table.write_text("\n".join(lines))


def no_picture(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        path.unlink()


def broken_picture(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        path.write_bytes(b"no picture")


def few_identities(folder: Path) -> None:
    table = folder / "landmarks68.csv"
    table.write_text("\n".join(table.read_text().splitlines()[: 1 + 19 * EACH]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_table, r"landmarks68\.csv.*No such file"),
        (short_line, r"landmarks68\.csv: wanted 'file' and 68 landmarks a line"),
        (not_a_number, r"landmarks68\.csv: wanted 'file' and 68 landmarks a line.*left"),
        (not_finite, r"landmarks68\.csv: the landmarks of id03_6\.jpg span no face"),
        (all_in_one_point, r"landmarks68\.csv: the landmarks of id03_6\.jpg span no face"),
        (no_picture, r"id\d\d_\d+\.jpg: listed in landmarks68\.csv, but no readable picture"),
        (broken_picture, r"id\d\d_\d+\.jpg: listed in landmarks68\.csv, but no readable picture"),
        (few_identities, r"landmarks68\.csv: wanted faces of 20 identities or more"),
    ],
)
def test_a_bad_folder_is_named(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    place = synthetic_folder(tmp_path / "faces")
    spoil(place)
    with pytest.raises(FolderError, match=message):
        read_faces(place, "train", seed=0)


def test_twenty_identities_are_enough(tmp_path: Path) -> None:
    place = synthetic_folder(tmp_path / "faces", identities=20)
    assert [len(read_faces(place, split, 0)) for split in SPLITS] == [30, 4, 6]


def dotted_face(extent: float, index: int, seed: int) -> Face:
    """A dark picture, wider than high, with a bright dot at one landmark, off the pixels' grid."""
    rng = np.random.default_rng([seed, 2])
    height, width = round(2.0 * extent), round(2.6 * extent)
    corner = np.array([0.9, 0.55]) * extent + rng.uniform(0, 1, 2)
    landmarks = (corner + extent * np.array([0.75, 0.9]) * layout()).astype(np.float32)
    rows, columns = np.indices((height, width))
    x, y = landmarks[index]
    sigma = 0.03 * extent
    dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return Face("dot", "dot", np.repeat(dot.round()[..., None], 3, 2).astype(np.uint8), landmarks)


@pytest.mark.parametrize(
    ("extent", "sides", "enlarges", "tolerance"),
    [
        (60.0, (128, 160), True, 0.1),
        (220.0, (64, 96), False, 0.2),
        (170.0, (150, 180), False, 0.2),
    ],
)
@pytest.mark.parametrize("index", [30, 36, 45, 54, 8])
def test_landmarks_follow_the_picture(
    extent: float, sides: tuple[int, int], enlarges: bool, tolerance: float, index: int
) -> None:
    """To a tenth of the crop's pixels, by the dot's centre of mass, where pixels are interpolated.

    Shrinking rounds the picture's sides and is allowed one pixel; landmarks are no better.
    """
    mirrored = set()
    for seed in range(12):
        face = dotted_face(extent, index, seed)
        rgb, landmarks = crop(face, np.random.default_rng([seed, 3]), sides)
        scale = np.ptp(landmarks[:, 1]) / np.ptp(face.landmarks[:, 1])
        assert (scale > 1) == enlarges
        mirrored.add(bool(landmarks[0, 0] > landmarks[16, 0]))
        light = rgb[..., 0].astype(float)
        light[light < 8] = 0
        rows, columns = np.indices(light.shape)
        centre = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
        assert np.abs(centre - landmarks[index]).max() < tolerance
    assert mirrored == {False, True}


def test_crops_are_square_within_sides_and_seeded() -> None:
    face = synthetic_face(4)
    sizes, crops = set(), []
    for seed in range(40):
        rgb, landmarks = crop(face, np.random.default_rng(seed), (90, 93))
        again, same = crop(face, np.random.default_rng(seed), (90, 93))
        assert np.array_equal(rgb, again)
        assert np.array_equal(landmarks, same)
        assert rgb.shape == (rgb.shape[0], rgb.shape[0], 3)
        assert rgb.dtype == np.uint8
        assert landmarks.dtype == np.float32
        sizes.add(rgb.shape[0])
        crops.append(rgb.tobytes())
    assert sizes == {90, 91, 92, 93}
    assert len(set(crops)) == 40


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


# metrics


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({fake for _, fake in rows}) == 2
    )
)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], np.float64)
    fake = np.array([label for _, label in rows])
    pairs = [(f > r) + 0.5 * (f == r) for f in scores[fake] for r in scores[~fake]]
    assert auc(scores, fake) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_metrics_in_closed_form() -> None:
    scores = np.array([-2.0, 3.0, 0.0, 0.0, 4.0, 0.5, -0.5, 0.0])
    fake = np.array([False, False, False, False, True, True, True, True])
    assert auc(scores, fake) == 10 / 16
    assert accuracy(scores, fake) == 5 / 8  # 0 is not above 0: called real
    assert false_alarms(scores, fake) == 1 / 4
    assert found(scores, fake) == 2 / 4


@pytest.mark.parametrize("label", [False, True])
def test_one_class_has_no_auc(label: bool) -> None:
    scores, fake = np.array([-1.0, 1.0, 2.0]), np.full(3, label)
    assert np.isnan(auc(scores, fake))
    assert np.isnan(false_alarms(scores, fake)) == label
    assert np.isnan(found(scores, fake)) != label
    assert accuracy(scores, fake) == (2 / 3 if label else 1 / 3)


def grouped(groups: int, each: int) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Half of the groups called right throughout, half wrong; each has as many fakes as reals."""
    fake = np.tile(np.arange(each) % 2 == 1, groups)
    right = np.repeat(np.arange(groups) % 2 == 0, each)
    names = [f"person {index // each}" for index in range(groups * each)]
    return np.where(fake == right, 1.0, -1.0), fake, names


def test_interval_draws_whole_groups() -> None:
    """Ten groups, five of them right: the count of right ones is binomial, 2 to 8 in 95 %.

    Had it drawn pictures, 500 of them would seem to say five times as much.
    """
    scores, fake, names = grouped(10, 50)
    assert interval(accuracy, scores, fake, names) == pytest.approx((0.2, 0.8))
    alone = interval(accuracy, scores, fake, [str(n) for n in range(len(scores))])
    assert alone is not None
    assert alone[1] - alone[0] == pytest.approx(4 * 0.5 / np.sqrt(500), rel=0.1)


def test_interval_narrows_with_groups_and_holds_the_estimate() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for groups in (10, 40, 160):
        fake = np.tile([False, True], groups * 2)
        scores = rng.normal(size=groups * 4) + np.repeat(rng.normal(size=groups), 4) + fake
        names = [str(index // 4) for index in range(groups * 4)]
        for metric in (auc, accuracy, false_alarms, found):
            bounds = interval(metric, scores, fake, names, draws=500)
            assert bounds is not None
            assert bounds[0] < metric(scores, fake) < bounds[1]
            widths.append(bounds[1] - bounds[0])
        assert interval(auc, scores, fake, names, 50) == interval(auc, scores, fake, names, 50)
    table = np.array(widths).reshape(3, 4)
    assert (np.diff(table, axis=0) < 0).all()


def test_a_handful_of_groups_has_no_interval() -> None:
    scores, fake, names = grouped(9, 10)
    assert interval(accuracy, scores, fake, names) is None
    scores, fake, names = grouped(10, 10)
    assert interval(accuracy, scores, fake, names) is not None


def test_groups_of_one_class_do_not_spoil_an_interval() -> None:
    """Draws without a single fake have no AUC and are left out, not counted as 0 or NaN."""
    fake = np.arange(12) == 0
    names = [str(index) for index in range(12)]
    assert interval(auc, fake.astype(np.float64), fake, names) == (1.0, 1.0)
