"""A long clip takes no more memory than a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
from clips import brightness_detector, write_clip

RUN = """
import json, resource, sys
from whyfake import explain_video, load_detector
from whyfake.explainers import Lime, Nes
from whyfake.settings import Settings
clip, boxes, model, out = sys.argv[1:]
with load_detector(model, device="cpu", threads=2) as detector:
    done = explain_video(detector, clip, out, every=10, boxes=boxes, explain="all", smooth=0.5,
                         settings=Settings(nes=Nes(steps=1, pairs=2), lime=Lime(samples=16),
                                           regions="grid:4"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak": peak, "explained": done.summary["explained"]}))
"""


def peak(folder: Path, frames: int) -> float:
    """The most memory in MB that a run over so many frames of 640 × 480 takes, as its own process.

    All stages: survey, every tenth frame explained, heat smoothed, overlay, page.
    """
    rng = np.random.default_rng(0)
    still = np.kron(rng.integers(40, 200, (60, 80, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    clip = write_clip(folder / f"{frames}.mp4", (np.roll(still, 2 * k, 1) for k in range(frames)))
    boxes = folder / f"{frames}.json"
    boxes.write_text(json.dumps({k: [[200, 100, 200, 200]] for k in range(0, frames, 5)}))
    words = [
        str(clip),
        str(boxes),
        str(folder / "toy" / "brightness.onnx"),
        str(folder / clip.stem),
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["explained"] == frames // 10
    return float(found["peak"])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    """1,000 frames against 250: 750 frames more would be 690 MB, 75 samples of 440 kB 33 MB.

    What is kept a sampled face is a line of text and, for the page, some 20 kB of pictures.
    """
    brightness_detector(tmp_path / "toy", 0.3, size=(192, 192)).close()
    short, long = peak(tmp_path, 250), peak(tmp_path, 1000)
    assert long - short < 15, (short, long)
