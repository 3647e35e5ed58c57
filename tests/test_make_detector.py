"""The benchmark's EfficientNetV2-B0-sized detector: a real network's arithmetic, without torch."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from whyfake import explain, explain_many, load_detector
from whyfake.settings import Settings

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "make_detector.py"


@pytest.fixture(scope="module")
def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_detector", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_size_is_that_of_the_published_network(maker: Any) -> None:
    model = maker.efficientnetv2_b0()
    # timm: 7.14 M with 1,000 classes, of which 998 × 1,281 we leave out; 0.73 G multiply-adds
    assert maker.parameter_count(model) == pytest.approx(7.14e6 - 998 * 1281, rel=0.01)
    assert maker.multiply_adds(model) == pytest.approx(0.73e9, rel=0.03)


def test_frames_beside_it_change_nothing_at_batch_2(maker: Any, tmp_path: Path) -> None:
    """Convolutions, depthwise convolutions and GEMMs give a picture the same bits in each slot."""
    path = tmp_path / "b0.onnx"
    model = maker.efficientnetv2_b0(height=64, width=96)
    onnx.save(model, path)
    path.with_suffix(".card.json").write_text(json.dumps(maker.card(height=64, width=96)))
    pictures = [
        np.random.default_rng(n).integers(0, 255, (64, 96, 3)).astype(np.uint8) for n in range(4)
    ]
    settings = Settings().with_budget(75)
    with load_detector(path, device="cpu") as detector:
        assert detector.engine.batch == 2
        together = list(explain_many(detector, pictures, method="lime,rise", settings=settings))
        for index in range(4):
            alone = explain(detector, pictures[index], method="rise", settings=settings)
            assert np.array_equal(alone.heatmap, together[2 * index + 1].heatmap)
