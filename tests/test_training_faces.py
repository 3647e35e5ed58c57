"""Faces that the bundled detector learns from: split by identity, read with landmarks, cropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from training_toys import EACH, IDENTITIES, layout, synthetic_face, synthetic_folder

from training.faces import SPLITS, Face, FolderError, crop, identity_of, read_faces

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_folder(tmp_path_factory.mktemp("data") / "faces")


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
