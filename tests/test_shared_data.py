"""On a published detector and real FaceForensics++ frames (not part of the project)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from whyfake import Detector, explain, explain_many, load_detector
from whyfake.explainers import Nes
from whyfake.media import fit_to, load_picture
from whyfake.runtime import Delivered, Job, run
from whyfake.settings import Settings

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def meso4() -> Iterator[Detector]:
    from outside import SHARED

    with load_detector(SHARED / "detectors" / "meso4_df.onnx", device="cpu") as detector:
        yield detector


def fakes(shared: Path) -> list[Path]:
    return sorted((shared / "ffpp_pairs" / "Deepfakes" / "fake").glob("*.png"))


def test_scores_are_those_of_the_published_graph(meso4: Detector, shared: Path) -> None:
    """exp(log p) against the graph's own sigmoid; 1e-6 is float32 rounding near one."""
    session = onnxruntime.InferenceSession(
        str(shared / "detectors" / "meso4_df.onnx"), providers=["CPUExecutionProvider"]
    )
    frames = np.stack([fit_to(load_picture(p).rgb, meso4.size) for p in fakes(shared)[:8]])
    p_real = session.run(None, {"input": frames})[0][:, 0]
    np.testing.assert_allclose(np.exp(meso4.log_probs(frames)[:, 0]), p_real, atol=1e-6)


def test_softmax_detector_agrees_with_its_graph(shared: Path) -> None:
    path = shared / "detectors" / "classnseg_full46.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with load_detector(path, device="cpu") as detector:
        frames = np.stack([fit_to(load_picture(p).rgb, detector.size) for p in fakes(shared)[:2]])
        expected = session.run(None, {"input": frames})[0]
        np.testing.assert_allclose(np.exp(detector.log_probs(frames)), expected, atol=1e-5)


def test_nes_flips_flagged_frames_inside_the_ball(meso4: Detector, shared: Path) -> None:
    """At least 95 % of the frames that are called fake, within ε and [0, 1]."""
    nes = Nes()
    paths = fakes(shared)
    frames = [fit_to(load_picture(path).rgb, meso4.size) for path in paths]
    called = meso4.log_probs(np.stack(frames)).argmax(axis=1)
    flagged = [i for i in range(len(frames)) if called[i] not in meso4.real]
    assert len(flagged) >= 30
    jobs = (
        Job(i, frames[i], nes.attack(frames[i], meso4.real, seed=0, rng=np.random.default_rng(i)))
        for i in flagged
    )
    samples = {e.key: e.value for e in run(meso4, jobs) if isinstance(e, Delivered)}
    assert sum(s.flipped for s in samples.values()) >= 0.95 * len(flagged)
    for index, sample in samples.items():
        assert np.abs(sample.image - frames[index]).max() <= nes.epsilon + 1e-6
        assert sample.image.min() >= 0
        assert sample.image.max() <= 1
        asked_again = meso4.log_probs(sample.image[None])[0].argmax()
        assert sample.flipped == (asked_again in meso4.real)


def test_same_bits_beside_other_frames(meso4: Detector, shared: Path) -> None:
    settings = Settings().with_budget(200)
    paths = fakes(shared)[:4]
    together = list(explain_many(meso4, paths, method="rise,lime-adv", settings=settings))
    alone = explain(meso4, paths[2], method="lime-adv", settings=settings)
    assert np.array_equal(together[5].heatmap, alone.heatmap)
    assert together[5].adversarial is not None
    assert alone.adversarial is not None
    assert np.array_equal(together[5].adversarial, alone.adversarial)


def test_eyes_and_mouth_before_nose(meso4: Detector, shared: Path) -> None:
    """What is known of this detector: pasting eyes or mouth moves it, the nose does not.

    Over ten frames, the top region of lime-adv is nearer to an eye or the mouth than to the nose in
    most. Landmarks are the data set's.
    """
    import csv

    with open(shared / "ffpp_pairs" / "index.csv") as stream:
        rows = {int(r["frame"]): r for r in csv.DictReader(stream) if r["method"] == "Deepfakes"}
    paths = fakes(shared)[::4]
    settings = Settings().with_budget(1000)
    hits = 0
    for found in explain_many(meso4, paths, method="lime-adv", settings=settings):
        row = {k: float(v) for k, v in rows[int(Path(found.source).stem)].items() if k != "method"}
        ys, xs = np.nonzero(found.region_map == found.regions[0]["region"])
        centre = np.array([xs.mean(), ys.mean()])
        mouth = ((row["rmx"] + row["lmx"]) / 2, (row["rmy"] + row["lmy"]) / 2)
        parts = {"re": (row["rex"], row["rey"]), "le": (row["lex"], row["ley"]), "mouth": mouth}
        nose = np.linalg.norm(centre - np.array([row["nx"], row["ny"]]))
        hits += min(np.linalg.norm(centre - np.array(p)) for p in parts.values()) < nose
    assert hits >= 0.8 * len(paths)
