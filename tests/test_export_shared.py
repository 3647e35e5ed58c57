"""Adopting published detectors: the same decisions and explanations on real frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import whyfake
from outside import SHARED

from whyfake import Detector, explain, load_detector
from whyfake.media import fit_to, load_picture
from whyfake.settings import Settings

pytestmark = pytest.mark.shared_data

DETECTORS = sorted((SHARED / "detectors").glob("*.onnx"))


def adopted(model: Path, folder: Path) -> Detector:
    result = whyfake("export", model, "-o", folder / "adopted.onnx", "--json")
    assert result.code == 0, result.err
    return load_detector(folder / "adopted.onnx", device="cpu")


def test_meso4_decides_the_same_on_all_frames(tmp_path: Path, shared: Path) -> None:
    paths = sorted((shared / "ffpp_pairs").glob("*/real/*.png"))
    paths += sorted((shared / "ffpp_pairs").glob("*/fake/*.png"))
    paths += sorted((shared / "faces").glob("*.jpg"))
    assert len(paths) == 2100
    model = shared / "detectors" / "meso4_df.onnx"
    decided = []
    with load_detector(model, device="cpu") as before, adopted(model, tmp_path) as after:
        for start in range(0, len(paths), 100):
            part = paths[start : start + 100]
            frames = np.stack([fit_to(load_picture(path).rgb, before.size) for path in part])
            wanted, got = before.log_probs(frames), after.log_probs(frames)
            assert np.array_equal(got.argmax(axis=1), wanted.argmax(axis=1))
            np.testing.assert_allclose(got, wanted, atol=1e-5)
            decided += wanted.argmax(axis=1).tolist()
    assert 0.1 < np.mean(decided) < 0.9  # both decisions are there


@pytest.mark.parametrize("model", DETECTORS, ids=lambda path: path.stem)
def test_explanations_are_the_same(tmp_path: Path, shared: Path, model: Path) -> None:
    """Region scores of every method, within 1e-4, on a frame that each of them calls fake."""
    meso = "meso" in model.stem
    pair = ("Deepfakes", "fake", "0480.png") if meso else ("FaceSwap", "fake", "0240.png")
    path = shared.joinpath("ffpp_pairs", *pair)
    settings = Settings().with_budget(500 if meso else 200)
    with load_detector(model, device="cpu") as before, adopted(model, tmp_path) as after:
        for method in ("lime", "shap", "sobol", "rise", "lime-adv"):
            scores = [
                explain(detector, path, method=method, settings=settings).region_scores
                for detector in (before, after)
            ]
            # some scores are small all over: hold them to a hundredth of what they span, too
            bound = min(1e-4, 0.01 * float(np.ptp(scores[0])))
            assert bound > 0
            np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=bound)
