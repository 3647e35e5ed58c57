"""Explanations: saved, loaded back equal, valid against the schema that is shipped."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from toys import PATCH, SIZE, planted_detector, planted_frame

from whyfake import Explanation, WhyfakeError, explain, explain_many
from whyfake.errors import OutputError
from whyfake.settings import Settings

QUICK = Settings().with_budget(200)


@pytest.fixture(scope="module")
def explanations(tmp_path_factory: pytest.TempPathFactory) -> list[Explanation]:
    detector = planted_detector(tmp_path_factory.mktemp("toy"), PATCH, SIZE)
    grey = np.full((*SIZE, 3), 128, np.uint8)
    pictures = [planted_frame(PATCH, SIZE), grey]
    return list(explain_many(detector, pictures, method="lime,rise-adv", settings=QUICK))


def test_schema_is_valid_and_holds(explanations: list[Explanation]) -> None:
    text = files("whyfake").joinpath("schema/explanation.schema.json").read_text("utf-8")
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert len(explanations) == 4
    for explanation in explanations:
        data = explanation.to_dict()
        validator.validate(data)
        assert set(schema["required"]) == set(data) == set(schema["properties"])
        broken = {**data, "regions": [{**data["regions"][0], "box": [1, 2]}]}
        assert not validator.is_valid(broken)
        assert not validator.is_valid({k: v for k, v in data.items() if k != "adversary"})


def test_loads_back_equal(explanations: list[Explanation], tmp_path: Path) -> None:
    for index, explanation in enumerate(explanations):
        folder = tmp_path / str(index)
        explanation.save(folder, {"more.txt": b"beside"})
        loaded = Explanation.load(folder)
        assert loaded == explanation
        assert loaded.to_dict() == explanation.to_dict()
        assert sorted(p.name for p in folder.iterdir()) == [
            "arrays.npz",
            "explanation.json",
            "more.txt",
        ]
    assert explanations[0] != explanations[1]
    assert explanations[0] != dataclasses.replace(explanations[0], seed=99)
    changed = explanations[0].heatmap.copy()
    changed[0, 0] += 1
    assert explanations[0] != dataclasses.replace(explanations[0], heatmap=changed)


def test_regions_are_ranked_with_true_boxes(explanations: list[Explanation]) -> None:
    explanation = explanations[0]
    regions = explanation.regions
    assert [r["rank"] for r in regions] == list(range(1, len(regions) + 1))
    assert sum(r["area"] for r in regions) == SIZE[0] * SIZE[1]
    scores = [r["score"] for r in regions]
    assert scores == sorted(scores, reverse=True)
    for region in regions:
        inside = explanation.region_map == region["region"]
        left, top, right, bottom = region["box"]
        rows, columns = np.nonzero(inside)
        assert (left, top) == (columns.min(), rows.min())
        assert (right, bottom) == (columns.max() + 1, rows.max() + 1)
        assert region["area"] == inside.sum()


def test_heat_maps_back_to_the_source(explanations: list[Explanation]) -> None:
    explanation = explanations[0]
    assert np.array_equal(explanation.heatmap_at(*SIZE), explanation.heatmap)
    large = explanation.heatmap_at(3 * SIZE[0], 2 * SIZE[1])
    assert large.shape == (3 * SIZE[0], 2 * SIZE[1])
    row, column = np.unravel_index(large.argmax(), large.shape)
    small = np.unravel_index(explanation.heatmap.argmax(), explanation.heatmap.shape)
    assert abs(row / 3 - small[0]) <= 2
    assert abs(column / 2 - small[1]) <= 2


def test_older_results_did_not_say_whether_heat_has_a_sign(
    explanations: list[Explanation], tmp_path: Path
) -> None:
    for number, explanation in enumerate(explanations):
        folder = tmp_path / str(number)
        explanation.save(folder)
        stored = folder / "explanation.json"
        data = json.loads(stored.read_text())
        del data["signed"]
        stored.write_text(json.dumps(data))
        assert Explanation.load(folder) == explanation
    assert {e.signed for e in explanations} == {True, False}


def test_damaged_results_are_one_error(explanations: list[Explanation], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no readable explanation"):
        Explanation.load(tmp_path / "nowhere")
    explanations[0].save(tmp_path / "a")
    arrays = tmp_path / "a" / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:100])
    with pytest.raises(OutputError, match="no readable explanation"):
        Explanation.load(tmp_path / "a")
    explanations[0].save(tmp_path / "a")
    stored = tmp_path / "a" / "explanation.json"
    stored.write_text(stored.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(OutputError, match="newer whyfake"):
        Explanation.load(tmp_path / "a")


def test_a_save_that_fails_leaves_the_old_result(
    explanations: list[Explanation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explanations[0].save(tmp_path / "a")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            explanations[1].save(tmp_path / "a")
    assert Explanation.load(tmp_path / "a") == explanations[0]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_explain_many_keeps_order_and_reports_errors(tmp_path: Path) -> None:
    detector = planted_detector(tmp_path, PATCH, SIZE)
    pictures: list[object] = [planted_frame(PATCH, SIZE, seed) for seed in range(4)]
    pictures.insert(2, tmp_path / "missing.png")
    failed: list[tuple[str, WhyfakeError]] = []
    found = list(
        explain_many(
            detector,
            pictures,  # type: ignore[arg-type]
            method=["lime", "sobol"],
            settings=QUICK,
            on_error=lambda source, error: failed.append((source, error)),
        )
    )
    assert [e.method for e in found] == ["lime", "sobol"] * 4
    for index, picture in enumerate(p for p in pictures if isinstance(p, np.ndarray)):
        assert np.array_equal(found[2 * index].frame, picture.transpose(2, 0, 1) / np.float32(255))
    assert len(failed) == 1
    assert "there is no such file" in str(failed[0][1])
    with pytest.raises(WhyfakeError, match="there is no such file"):
        list(explain_many(detector, pictures, settings=QUICK))  # type: ignore[arg-type]


def test_target_fake_is_everything_but_real(tmp_path: Path) -> None:
    detector = planted_detector(tmp_path, PATCH, SIZE)
    picture = planted_frame(PATCH, SIZE)
    of_fake = explain(detector, picture, method="lime", target="fake", settings=QUICK)
    of_real = explain(detector, picture, method="lime", target="real", settings=QUICK)
    # p(real) = 1 − p(fake): the linear fit turns its sign
    np.testing.assert_allclose(of_real.region_scores, -of_fake.region_scores, atol=1e-6)
    assert of_fake.p_target == pytest.approx(1 - of_real.p_target)
