"""The model card's figures are those of the file that ships."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("av")

from training.__main__ import table
from training.fit import Recipe
from training.judge import judge
from whyfake.models import BUNDLED, model_file

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "results" / "bundled_detector.json"

pytestmark = pytest.mark.training


def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def test_the_model_card_shows_the_record() -> None:
    text = (ROOT / "docs" / "bundled-detector.md").read_text(encoding="utf-8")
    assert table(record()["sets"]) in text
    assert f"{record()['parameters']:,} parameters" in text
    assert f"{model_file(BUNDLED).stat().st_size / 1e6:.1f} MB" in text
    assert model_file(BUNDLED).stat().st_size < 6e6


def test_the_file_holds_the_recipe_of_the_record() -> None:
    import onnx

    metadata = {p.key: p.value for p in onnx.load(model_file(BUNDLED)).metadata_props}
    training = json.loads(metadata["whyfake.training"])
    assert training["recipe"] == record()["recipe"]
    assert training["calibration"] == record()["calibration"]
    assert not re.search(r"/(work|home|tmp)/", "".join(metadata.values()))


@pytest.mark.shared_data
@pytest.mark.slow
def test_the_figures_hold(shared: Path) -> None:
    """Judged again, within 1 % for another machine's rounding; and what was wanted, where it is."""
    sets = record()["sets"]
    again = judge(model_file(BUNDLED), shared / "faces", shared, Recipe(**record()["recipe"]))
    assert [row["set"] for row in again] == [row["set"] for row in sets]
    for row, wanted in zip(again, sets, strict=True):
        for name in ("auc", "accuracy", "false_alarms", "found"):
            assert row.get(name) == pytest.approx(wanted.get(name), abs=0.01), (row["set"], name)
    [pairs] = [row for row in again if row["set"] == "FF++ pairs together"]
    assert pairs["auc"] >= 0.80
    assert pairs["false_alarms"] <= 0.10
