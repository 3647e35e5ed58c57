"""What every explainer promises, on wide, tall and square frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from games import answered
from numpy.typing import NDArray
from toys import (
    PATCH,
    SCENES,
    SIZE,
    conv_detector,
    linear_detector,
    linear_weights,
    planted_detector,
    planted_frame,
)

import whyfake
from whyfake import METHODS, Detector, Explanation, explain, explain_many
from whyfake.explainers import EXPLAINERS, Scene, Target
from whyfake.perturbation import FloatArray
from whyfake.runtime import drive
from whyfake.settings import Settings, read_settings

QUICK = Settings().with_budget(400)
STOPPING = ("lime", "shap", "sobol", "rise", "owen")
DESIGNED = QUICK.merge(
    {
        "lime": {"design": "hadamard"},
        "shap": {"contexts": "paired", "pairs": 2, "nodes_per_round": 4},
        "sobol": {"scramble": True, "steps": "half"},
        "rise": {"sampling": "stratified", "adjusted": True},
    },
    "test",
)
"""Fewer and better questions."""
SURE = DESIGNED.merge(
    {name: {"confidence": 0.7, "top": 2, "least": 64} for name in STOPPING}, "test"
)
"""The same, stopping early."""
DRAW_NOTHING = ("sobol", "shap", "owen")  # a fixed design; ties alone
Built = tuple[Detector, NDArray[np.uint8], tuple[int, int, int, int]]


@pytest.fixture(scope="module", params=SCENES, ids=lambda s: f"{s[0][0]}x{s[0][1]}")
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    size, patch = request.param
    folder = tmp_path_factory.mktemp("planted")
    return planted_detector(folder, patch, size), planted_frame(patch, size), patch


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, NDArray[np.uint8]]:
    folder = tmp_path_factory.mktemp("wide")
    return planted_detector(folder, PATCH, SIZE), planted_frame(PATCH, SIZE)


def same(one: Explanation, other: Explanation) -> bool:
    """Equal to the bit, but for the time it took."""
    arrays = ("frame", "heatmap", "region_map", "region_scores")
    return (
        all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)
        and one.image_counts == other.image_counts
        and one.adversary == other.adversary
        and (one.adversarial is None) == (other.adversarial is None)
        and (one.adversarial is None or np.array_equal(one.adversarial, other.adversarial))
        and {**one.to_dict(), "seconds": 0} == {**other.to_dict(), "seconds": 0}
    )


@pytest.mark.parametrize("method", METHODS)
def test_maximum_lies_in_the_planted_patch(scene: Built, method: str) -> None:
    detector, picture, (top, bottom, left, right) = scene
    explanation = explain(detector, picture, method=method, regions="grid:8")
    assert explanation.predicted == "fake"
    row, column = np.unravel_index(explanation.heatmap.argmax(), explanation.heatmap.shape)
    assert top <= row < bottom
    assert left <= column < right
    best = explanation.regions[0]["box"]
    assert left <= best[0] < best[2] <= right
    assert top <= best[1] < best[3] <= bottom
    if method.endswith("-adv"):
        assert explanation.adversary is not None
        assert explanation.adversary.flipped


@pytest.mark.parametrize("method", METHODS)
def test_shapes_counts_and_settings(scene: Built, method: str) -> None:
    detector, picture, _ = scene
    before = detector.images_seen
    explanation = explain(detector, picture, method=method, settings=QUICK)
    assert explanation.images == detector.images_seen - before
    assert explanation.images == sum(explanation.image_counts.values())
    assert explanation.heatmap.shape == picture.shape[:2] == explanation.region_map.shape
    assert explanation.heatmap.dtype == np.float32
    assert explanation.region_map.dtype == np.int32
    assert len(explanation.region_scores) == explanation.region_map.max() + 1
    name = method.removesuffix("-adv")
    assert explanation.image_counts["explainer"] <= QUICK.explainer(name).images() <= 400
    assert np.array_equal(explanation.frame, picture.transpose(2, 0, 1) / np.float32(255))


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bits_other_seed_other_draws(
    wide: tuple[Detector, NDArray[np.uint8]], method: str
) -> None:
    detector, picture = wide
    one, again, other = (
        explain(detector, picture, method=method, settings=QUICK, seed=seed) for seed in (3, 3, 4)
    )
    assert same(one, again)
    assert np.array_equal(one.heatmap, other.heatmap) == (method in DRAW_NOTHING)


@pytest.mark.parametrize("settings", [DESIGNED, SURE], ids=["designed", "sure"])
@pytest.mark.parametrize("method", [m for m in METHODS if m.removesuffix("-adv") in STOPPING])
def test_designed_questions_keep_every_promise(
    scene: Built, method: str, settings: Settings, tmp_path: Path
) -> None:
    """The patch is found, images are counted, a second run beside another frame is the same."""
    detector, picture, (top, bottom, left, right) = scene
    (tmp_path / "settings.toml").write_text(settings.to_toml())
    settings = read_settings(tmp_path / "settings.toml", Settings())
    before = detector.images_seen
    one = explain(detector, picture, method=method, settings=settings, regions="grid:8")
    assert one.images == detector.images_seen - before
    explainer = settings.explainer(method.removesuffix("-adv"))
    assert one.image_counts["explainer"] <= explainer.images() <= 400
    box = one.regions[0]["box"]
    assert left <= box[0] < box[2] <= right
    assert top <= box[1] < box[3] <= bottom
    assert (one.confidence is None) == (settings == DESIGNED)
    [_, beside] = explain_many(
        detector, [picture[::-1], picture], method=method, settings=settings, regions="grid:8"
    )
    assert same(one, beside)


def test_frames_beside_it_and_batch_sizes_change_nothing(tmp_path: Path) -> None:
    """The bits of a frame's explanation depend on that frame alone, at every engine batch."""
    pictures = [planted_frame(PATCH, SIZE, seed) for seed in range(5)]
    quick = Settings().with_budget(200)
    for batch in (1, 3, 16):
        detector = planted_detector(tmp_path / str(batch), PATCH, SIZE, engine_batch=batch)
        assert detector.engine.batch == batch
        together = list(explain_many(detector, pictures, method="all", settings=quick))
        count = len(METHODS)
        assert len(together) == 5 * count
        alone = list(explain_many(detector, [pictures[3]], method="all", settings=quick))
        for one, other in zip(together[3 * count : 4 * count], alone, strict=True):
            assert same(one, other), one.method


def test_one_method_alone_equals_it_among_all(wide: tuple[Detector, NDArray[np.uint8]]) -> None:
    detector, picture = wide
    everything = {
        e.method: e for e in explain_many(detector, [picture], method="all", settings=QUICK)
    }
    for method in METHODS:
        alone = explain(detector, picture, method=method, settings=QUICK)
        assert np.array_equal(alone.heatmap, everything[method].heatmap)


def test_one_adversarial_sample_serves_all_and_is_counted_once(
    wide: tuple[Detector, NDArray[np.uint8]],
) -> None:
    detector, picture = wide
    before = detector.images_seen
    found = list(explain_many(detector, [picture], method="all", settings=QUICK))
    assert sum(e.images for e in found) == detector.images_seen - before
    adversarial = [e for e in found if e.adversary is not None]
    assert len(adversarial) == len(EXPLAINERS)
    assert len({e.adversary for e in adversarial}) == 1
    made = [e.image_counts.get("adversary", 0) for e in adversarial]
    assert adversarial[0].adversary is not None
    assert made == [adversarial[0].adversary.images] + [0] * (len(EXPLAINERS) - 1)
    assert sum(e.image_counts.get("detection", 0) for e in found) == 1


def test_thread_counts_agree(tmp_path: Path) -> None:
    picture = planted_frame((8, 16, 16, 32), (32, 48))
    found = []
    for threads in (1, 2, 3):
        model = conv_detector(tmp_path).card  # writes the model
        detector = whyfake.load_detector(
            tmp_path / "conv.onnx", card=model, device="cpu", threads=threads
        )
        assert detector.engine.lanes == threads
        found.append(list(explain_many(detector, [picture], method="all", settings=QUICK)))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert np.array_equal(one.region_scores, two.region_scores)  # asked: 1e-5; kept: bits


@pytest.mark.parametrize("name", EXPLAINERS)
def test_scheduler_equals_the_plain_driver(
    wide: tuple[Detector, NDArray[np.uint8]], name: str
) -> None:
    detector, picture = wide
    whole = explain(
        detector, picture, method=name, baseline="gray", settings=QUICK, regions="grid:8"
    )
    scene = Scene(np.full_like(whole.frame, 0.5), whole.region_map, np.random.default_rng(0))
    target = Target("fake", (1,))
    one = drive(QUICK.explainer(name).explain(whole.frame, target, scene), detector, whole.frame)
    scene = Scene(scene.baseline, scene.regions, np.random.default_rng(0))
    asked = QUICK.explainer(name).explain(whole.frame, target, scene)
    result, _ = answered(asked, lambda batch: detector.ask(batch, whole.frame))
    assert np.array_equal(one.heatmap, result.heatmap)
    if name in DRAW_NOTHING:  # the pipeline must give the same bits too
        assert np.array_equal(one.heatmap, whole.heatmap)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_mirrored_frame_mirrored_map(name: str, tmp_path: Path) -> None:
    """Turning frame, baseline, regions and detector upside down turns the map, in distribution."""
    weights = linear_weights(PATCH, SIZE)
    upright = linear_detector(tmp_path / "a", weights, 0.0, gain=30)
    turned = linear_detector(tmp_path / "b", np.ascontiguousarray(weights[:, ::-1]), 0.0, gain=30)
    picture = planted_frame(PATCH, SIZE)

    def heat(detector: Detector, rgb: NDArray[np.uint8]) -> FloatArray:
        return explain(detector, rgb, method=name, regions="grid:8", baseline="gray").heatmap

    one = heat(upright, picture)
    two = heat(turned, np.ascontiguousarray(picture[::-1]))[::-1]
    # SHAP, Owen and SOBOL draw nothing that matters here; the others agree up to sampling error
    limit = {
        "shap": 0.999, "sobol": 0.9, "lime": 0.95, "rise": 0.95,
        "hsic": 0.9, "kernelshap": 0.95, "owen": 0.95,
    }[name]  # fmt: skip
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > limit


@pytest.mark.parametrize("name", EXPLAINERS)
def test_what_the_detector_ignores_scores_nothing(name: str, tmp_path: Path) -> None:
    """Debiased where the method has a floor; relative to the planted patch."""
    detector = linear_detector(tmp_path, linear_weights(PATCH, SIZE), 0.0, gain=3)
    settings = Settings().merge({"rise": {"debiased": True}}, "test")
    explanation = explain(
        detector, planted_frame(PATCH, SIZE), method=name, baseline="gray",
        regions="grid:8", settings=settings, target="fake",
    )  # fmt: skip
    top, bottom, left, right = PATCH
    patch = np.zeros(SIZE, bool)
    patch[top - 6 : bottom + 6, left - 10 : right + 10] = True  # RISE blurs by a cell, 6×10
    inside = explanation.heatmap[top:bottom, left:right].mean()
    # 4,000 masks leave RISE a sampling noise of a few per cent; the others draw far less
    assert np.abs(explanation.heatmap[~patch]).max() < (0.35 if name == "rise" else 0.1) * inside


def test_a_picture_called_real_says_there_is_nothing_to_flip(
    wide: tuple[Detector, NDArray[np.uint8]],
) -> None:
    detector, _ = wide
    grey = np.full((*SIZE, 3), 128, np.uint8)
    grey[::5] = 90
    for explanation in explain_many(detector, [grey], method="all", settings=QUICK):
        assert explanation.predicted == explanation.target == "real"
        assert explanation.adversary is None
        assert explanation.adversarial is None
        assert "nothing to flip" in explanation.notes[0]
        name = explanation.method.removesuffix("-adv")
        assert explanation.baseline == EXPLAINERS[name].baseline


def test_not_flipped_is_said(wide: tuple[Detector, NDArray[np.uint8]]) -> None:
    detector, picture = wide
    settings = QUICK.merge({"nes": {"epsilon": 0.002, "steps": 3}}, "test")
    explanation = explain(detector, picture, method="lime-adv", settings=settings)
    assert explanation.adversary is not None
    assert not explanation.adversary.flipped
    assert explanation.adversary.steps == 3
    assert any(note.startswith("not flipped") for note in explanation.notes)
