"""`whyfake export` of ONNX files: what it writes and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import files, one_error, process, whyfake
from graphs import PREPARED, SIGMOID, SOFTMAX, Toy, external, frames, log_softmax, put, reshape
from toys import PATCH, planted_detector, planted_frame
from toys import SIZE as PLANTED

from whyfake import explain, load_detector
from whyfake.exporting import export_detector
from whyfake.settings import Settings
from whyfake.sources import ExportRequest

pytestmark = pytest.mark.usefixtures("here")


def test_an_onnx_file_is_adopted() -> None:
    toy = Toy(classes=3, scale=255, batch=1, tail=(reshape(1, 3), SOFTMAX))
    card = toy.card(input=PREPARED["all"], output={"activation": "softmax"}, crop_margin=1.3)
    put(toy, card)
    result = whyfake("export", "toy.onnx", "-o", "new/folder/ours.onnx", "--json")
    assert result.code == 0, result.err
    assert result.err == "note: batch freed, was 1\n"
    said = json.loads(result.out)
    assert said["path"] == "new/folder/ours.onnx"
    assert said["batch"] is None
    parity = said["card"]["parity"]
    assert parity["inputs"] == 64
    assert parity["batches"] == [1, 7, 32]
    assert parity["max_abs"] <= parity["tolerance"] == 1e-4
    assert parity["flips"] == 0
    assert (parity["unit"], parity["reference"]) == ("log-probabilities", "toy.onnx")
    assert files() == {"toy.onnx", "toy.card.json", "new", "new/folder", "new/folder/ours.onnx"}
    images = frames(5)
    with load_detector("new/folder/ours.onnx", device="cpu", batch=5) as detector:
        assert detector.sha256 == said["sha256"]
        assert detector.card.to_dict() == said["card"]
        assert detector.card.crop_margin == 1.3
        got = detector.log_probs(images)
    np.testing.assert_allclose(got, log_softmax(toy.logits(images, card)), 1e-5, 2e-6)


def test_what_it_prints() -> None:
    put(Toy(), Toy().card())
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx")
    assert result.code == 0
    assert result.err == ""
    lines = [line.split(maxsplit=1) for line in result.out.splitlines()]
    assert [line[0] for line in lines] == ["wrote", "detector", "classes", "parity", "held"]
    assert "any batch" in lines[1][1]
    assert "0 of 64 decisions flip (batches of 1, 7, 32)" in lines[3][1]
    assert whyfake("inspect", "ours.onnx").code == 0


def test_adopting_twice_changes_nothing_more() -> None:
    toy = Toy(classes=3, tail=(SIGMOID,))
    put(toy, toy.card(input=PREPARED["all"], output={"activation": "sigmoid"}))
    first = json.loads(whyfake("export", "toy.onnx", "-o", "one.onnx", "--json").out)
    second = json.loads(whyfake("export", "one.onnx", "-o", "one.onnx", "--json").out)
    assert second["card"]["parity"]["max_abs"] < 1e-6  # sums in batches of other sizes
    assert second["card"]["parity"]["reference_sha256"] == first["sha256"]
    for said in (first, second):
        del said["card"]["parity"]
    assert first["card"] == second["card"]


def test_a_batch_that_is_built_in_stays_and_is_told() -> None:
    rows = ("Add", {}, np.zeros((2, 3), np.float32))
    toy = Toy(classes=3, batch=2, tail=(rows,))
    put(toy, toy.card())
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx", "--json")
    assert result.err == "note: the batch stays fixed at 2: the graph is built around it\n"
    said = json.loads(result.out)
    assert said["batch"] == 2
    assert said["card"]["parity"]["batches"] == [2]


@pytest.mark.parametrize("tail", [(reshape(1, 2),), (reshape(1, 2), reshape(1, 1, 2))])
def test_a_batch_that_is_named_free_but_is_not(tail: tuple[Any, ...]) -> None:
    """An exporter's dynamic axis over a Reshape for one picture."""
    shape = ("n", 2) if len(tail) == 1 else ("n", 1, 2)
    toy = Toy(tail=tail, output_shape=shape)
    put(toy, toy.card())
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx", "--json")
    assert result.code == 0, result.err
    assert "note: its batch is named free, but only one picture at a time runs" in result.err
    assert "note: batch freed, was 1" in result.err
    images = frames(5)
    with load_detector("ours.onnx", device="cpu", batch=5) as detector:
        got = detector.log_probs(images)
    np.testing.assert_allclose(got, log_softmax(toy.logits(images, toy.card())), 1e-5, 2e-6)


def test_a_broken_card_is_not_passed_over() -> None:
    put(Toy(), Toy().card())
    Path("toy.card.json").write_text("{")
    options = ["--classes=real,df", "--real=real", "--activation=logits"]
    one_error(whyfake("export", "toy.onnx", "-o", "ours.onnx", *options), 1, "not valid JSON")


def test_options_stand_in_for_a_card_and_over_one() -> None:
    toy = Toy(classes=3, scale=255, tail=(SOFTMAX,))
    put(toy, None)
    spec = PREPARED["all"]
    options = [
        "--classes=real,df,f2f",
        "--real=real",
        "--range=0,255",
        "--color=BGR",
        "--mean=104,117,123",
        "--std=58.4,57.1,57.4",
        "--crop-margin=1.5",
        "--name=ours",
        "--source=a paper",
        "--license=MIT",
    ]
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx", "--json", *options)
    assert result.code == 0, result.err
    card = json.loads(result.out)["card"]
    assert (card["name"], card["source"], card["license"]) == ("ours", "a paper", "MIT")
    images = frames(3)
    with load_detector("ours.onnx", device="cpu") as detector:
        got = detector.log_probs(images)
    wanted = toy.logits(images, toy.card(input=spec))
    np.testing.assert_allclose(got, log_softmax(wanted), 1e-5, 2e-6)
    over = whyfake("export", "ours.onnx", "-o", "named.onnx", "--name", "other", "--json")
    assert json.loads(over.out)["card"]["name"] == "other"


def test_explanations_are_the_same_after_adoption() -> None:
    """With mean and std, whose colour SOBOL and RISE hide pixels with."""
    planted_detector(Path(), PATCH, PLANTED).close()
    card = json.loads(Path("toy.card.json").read_text())
    card["input"].update(mean=[0.5, 0.4, 0.3], std=[0.5, 0.5, 0.5])
    Path("toy.card.json").write_text(json.dumps(card))
    assert whyfake("export", "toy.onnx", "-o", "ours.onnx").code == 0
    frame = planted_frame(PATCH, PLANTED)
    settings = Settings().with_budget(200)
    for method in ("lime", "sobol", "rise"):
        scores = []
        for model in ("toy.onnx", "ours.onnx"):
            with load_detector(model, device="cpu", threads=1) as detector:
                found = explain(detector, frame, method=method, settings=settings)
                scores.append(found.region_scores)
        np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)
        assert np.abs(scores[0]).max() > 1e-2


def test_weights_in_a_file_beside_come_in(tmp_path: Path) -> None:
    toy = Toy()
    path = external(tmp_path, toy)
    assert whyfake("export", path, "-o", "ours.onnx").code == 0
    (tmp_path / "big.data").unlink()
    with load_detector("ours.onnx", device="cpu") as detector:
        got = detector.log_probs(frames(2))
    np.testing.assert_allclose(got, log_softmax(toy.logits(frames(2), toy.card())), 1e-5, 2e-6)


def test_help_has_examples() -> None:
    done = process("export", "--help", code=0)
    assert "whyfake export ff.ckpt --arch tf_efficientnetv2_b0" in " ".join(done.out.split())


def test_a_source_is_opened_from_python() -> None:
    toy = Toy(classes=3, tail=(SOFTMAX,))
    put(toy, toy.card(output={"activation": "softmax"}))
    told: list[tuple[str, int, int]] = []
    request = ExportRequest("toy.onnx", tolerance=1e-5)
    done = export_detector(request, "ours.onnx", lambda *step: told.append(step))
    assert done.batch is None
    assert done.size == Path("ours.onnx").stat().st_size
    assert list(dict.fromkeys(step[0] for step in told)) == [
        "reading",
        "asking the source",
        "rewriting",
        "holding it to the source",
    ]
    # each step that counts images ends at its total
    last = {step[0]: step[1:] for step in told}
    assert last["asking the source"] == (43, 43)
    assert last["holding it to the source"] == (256, 256)
