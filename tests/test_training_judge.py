"""Judging a trained detector: figures in closed form, and the sets they are of."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from toys import linear_detector, make_card
from training_toys import RECIPE, synthetic_folder, unseen

pytest.importorskip("onnxscript")
from training.faces import FolderError, read_faces
from training.judge import Labelled, ffpp, row, self_blends, together
from training.metrics import auc, interval
from training.pairs import make_pair, make_plain_pair
from whyfake import load_detector
from whyfake.card import DetectorCard
from whyfake.evaluate.forge import SelfBlend

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_folder(tmp_path_factory.mktemp("data") / "faces")


GREYS = [50, 100, 140, 120, 200, 220, 250]
FAKE = [False, False, False, True, True, True, True]
TOY = (32, 48)


def greys(name: str, values: list[int], fake: list[bool], groups: list[str]) -> Labelled:
    """Even pictures, none of the detector's size."""
    pictures = [np.full((40 + n, 60 - n, 3), value, np.uint8) for n, value in enumerate(values)]
    return Labelled(name, pictures, fake, groups)


@pytest.fixture
def brightness(tmp_path: Path) -> Path:
    """A detector that calls fake what is brighter than 127.5."""
    weights = np.full((3, *TOY), 1 / (3 * TOY[0] * TOY[1]), np.float32)
    linear_detector(tmp_path, weights, -0.5, gain=10).close()
    return tmp_path / "toy.onnx"


def test_a_row_in_closed_form(brightness: Path) -> None:
    labelled = greys("greys", GREYS, FAKE, ["a", "a", "b", "b", "c", "c", "d"])
    expected = {"set": "greys", "real": 3, "fake": 4, "groups": 4}
    with load_detector(brightness, device="cpu") as detector:
        figures = row(detector, labelled)
    assert figures == {
        **expected,
        "auc": 0.9167,  # 11 of 12 pairs
        "accuracy": 0.7143,
        "false_alarms": 0.3333,
        "found": 0.75,
    }
    turned = DetectorCard.from_dict(make_card(TOY, classes=["fake", "real"]))
    with load_detector(brightness, card=turned, device="cpu") as detector:
        figures = row(detector, labelled)
    assert figures == {
        **expected,
        "auc": 0.0833,
        "accuracy": 0.2857,
        "false_alarms": 0.6667,
        "found": 0.25,
    }


def test_a_row_has_intervals_from_ten_groups_and_no_figure_without_its_class(
    brightness: Path,
) -> None:
    names = [str(n) for n in range(7)]
    twice = together(
        "twice", [greys("a", GREYS, FAKE, names), greys("b", GREYS, FAKE, [*"tuvwxyz"])]
    )
    assert (twice.name, len(twice.pictures), twice.fake) == ("twice", 14, FAKE * 2)
    assert twice.groups == [*names, *"tuvwxyz"]
    with load_detector(brightness, device="cpu") as detector:
        figures = row(detector, twice)
        alone = row(detector, greys("real", GREYS[:3], FAKE[:3], names[:3]))
    scores = np.array(GREYS * 2, np.float64)
    bounds = interval(auc, scores, np.array(twice.fake), twice.groups)
    assert figures["groups"] == 14
    assert figures["auc"] == 0.9167
    assert figures["auc_95"] == pytest.approx(bounds, abs=1e-4)
    assert {name for name in figures if name.endswith("_95")} == {
        f"{name}_95" for name in ("auc", "accuracy", "false_alarms", "found")
    }
    assert set(alone) == {"set", "real", "fake", "groups", "accuracy", "false_alarms"}


def test_pairs_of_a_clip_are_read_by_side(tmp_path: Path) -> None:
    for side, value in (("real", 30), ("fake", 200)):
        place = tmp_path / "Deepfakes" / side
        place.mkdir(parents=True)
        for n in range(2):
            cv2.imwrite(str(place / f"{n}.png"), np.full((20, 30, 3), value + n, np.uint8))
    labelled = ffpp(tmp_path / "Deepfakes")
    assert [int(picture[0, 0, 0]) for picture in labelled.pictures] == [30, 31, 200, 201]
    assert labelled.fake == [False, False, True, True]
    assert set(labelled.groups) == {"Deepfakes"}
    with pytest.raises(FolderError, match=r"nowhere: wanted pictures in real/ and fake/"):
        ffpp(tmp_path / "nowhere")


def test_pairs_are_plain_or_treated_and_grouped_by_identity(folder: Path) -> None:
    faces = read_faces(folder, "test", RECIPE.seed)
    for hard, make in ((False, make_plain_pair), (True, make_pair)):
        labelled = unseen(folder, RECIPE, hard=hard)
        for turn, index in ((0, 0), (1, 5)):
            pair = make(faces[index], [1, 3_000_000 + turn, index], 64, SelfBlend())
            place = turn * len(faces) + index
            assert np.array_equal(labelled.pictures[place], pair.real.transpose(1, 2, 0))
            assert np.array_equal(labelled.pictures[place + 16], pair.fake.transpose(1, 2, 0))
            assert labelled.groups[place] == labelled.groups[place + 16] == faces[index].identity


def test_the_sets_are_of_unseen_people_but_for_the_last(folder: Path) -> None:
    sets = self_blends(folder, RECIPE)  # all its pictures are of 130 to 180 pixels
    people = {
        split: {f.identity for f in read_faces(folder, split, 1)} for split in ("test", "train")
    }
    assert [set(labelled.groups) <= people["test"] for labelled in sets] == [True] * 4 + [False]
    assert set(sets[-1].groups) <= people["train"]
    assert len({labelled.name for labelled in sets}) == 5
    plain, full, half = (np.stack(labelled.pictures).astype(float) for labelled in sets[:3])
    pairs = len(plain) // 2
    moved = [np.abs(s[:pairs] - s[pairs:]).mean() for s in (half, full)]
    assert moved[0] == pytest.approx(moved[1] / 2, rel=0.1)  # half the weight, half the change
