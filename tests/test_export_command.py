"""`whyfake export` of ONNX files: what it writes and prints, and that bad input leaves no file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import PREPARED, SIGMOID, SOFTMAX, Toy, external, frames, log_softmax, reshape
from onnx import helper, numpy_helper
from test_cli import one_error, process, whyfake
from toys import PATCH, planted_detector, planted_frame
from toys import SIZE as PLANTED

from whyfake import explain, load_detector
from whyfake.exporting import export_detector
from whyfake.settings import Settings
from whyfake.sources import ExportRequest


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(toy: Toy, card: dict[str, Any] | None, name: str = "toy") -> None:
    onnx.save(toy.model(), f"{name}.onnx")
    if card is not None:
        Path(f"{name}.card.json").write_text(json.dumps(card))


def nothing_written(before: set[str]) -> None:
    """No file, whole or in part, and no folder, has come beside those that were there."""
    assert {str(path) for path in Path().rglob("*")} == before


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


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


# --- what must not be exported


def batch_mean(toy: Toy) -> Any:
    """The toy, less the mean of its scores over the batch."""
    model = toy.model()
    nodes = model.graph.node
    mean = helper.make_node("ReduceMean", ["z"], ["mu"], axes=[0], keepdims=1)
    nodes.insert(len(nodes) - 1, mean)
    nodes.insert(len(nodes) - 1, helper.make_node("Sub", ["z", "mu"], ["own"]))
    nodes[-1].input[0] = "own"
    return model


def test_a_graph_that_mixes_its_batch_is_refused() -> None:
    put(Toy(), Toy().card())
    onnx.save(batch_mean(Toy()), "toy.onnx")
    before = files()
    result = whyfake("export", "toy.onnx", "-o", "out/ours.onnx")
    one_error(result, 1, "toy.onnx: a picture's scores depend on the others in its batch")
    nothing_written(before)


def test_rows_that_differ_in_a_fixed_batch_are_refused() -> None:
    """What a picture gets depends on where in the batch it stands."""
    rows = ("Add", {}, np.array([[0, 0], [1, 0]], np.float32))
    put(Toy(batch=2, tail=(rows,)), Toy().card())
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx")
    one_error(result, 1, "depend on the others in its batch")


def test_over_the_tolerance_is_an_error_and_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adoption that is wrong by a thousandth."""
    from whyfake.export import adopt

    put(Toy(), Toy().card())
    plain = adopt.canonical

    def wrong(*arguments: Any) -> Any:
        model, card = plain(*arguments)
        for tensor in model.graph.initializer:
            if tensor.name == "b":
                bias = numpy_helper.to_array(tensor) + np.array([0.002, 0], np.float32)
                tensor.CopyFrom(numpy_helper.from_array(bias, "b"))
        return model, card

    monkeypatch.setattr("whyfake.sources.canonical", wrong)
    before = files()
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx")
    one_error(result, 1, "differs from its source by up to 0.00", "over the tolerance of 0.0001")
    nothing_written(before)
    assert whyfake("export", "toy.onnx", "-o", "ours.onnx", "--tolerance", "0.01").code == 0


def test_freeing_that_proves_wrong_falls_back_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewritten graph that parity does not bear out: the batch stays as it was."""
    from whyfake.export import batch

    put(Toy(batch=1, tail=(reshape(1, 2),)), Toy().card())
    plain = batch.free_batch

    def wrong(*arguments: Any) -> Any:
        return None if (model := plain(*arguments)) is None else _with_batch_mean(model)

    def _with_batch_mean(model: Any) -> Any:
        nodes = model.graph.node
        last = nodes[-1].input[0]
        mean = helper.make_node("ReduceMean", [last], ["mu"], axes=[0], keepdims=1)
        nodes.insert(len(nodes) - 1, mean)
        nodes.insert(len(nodes) - 1, helper.make_node("Sub", [last, "mu"], ["own"]))
        nodes[-1].input[0] = "own"
        return model

    monkeypatch.setattr("whyfake.sources.free_batch", wrong)
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["batch"] == 1
    first, second = result.err.splitlines()
    assert first.startswith("note: the batch could not be freed: toy.onnx: what was exported diff")
    assert second == "note: the batch stays fixed at 1: the graph is built around it"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nope.onnx"], 1, "nope.onnx: cannot read the model: No such file"),
        (["junk.onnx"], 1, "junk.onnx is not a readable ONNX model"),
        (["bare.onnx"], 1, "bare.onnx has no detector card"),
        (["bare.onnx", "--classes=a,b", "--real=a"], 1, "say what its scores are: --activation"),
        (["toy.onnx", "--classes=a,b,c", "--real=a"], 1, "gives 2 scores an image, the card names"),
        (["toy.onnx", "--real=rael"], 1, "unknown class 'rael': did you mean 'real'?"),
        (["toy.onnx", "--size=9"], 1, "toy.onnx expects 3×5×7, the card says 3×9×9"),
        (["toy.onnx", "--size=big"], 2, "--size must be a side such as 224, or HEIGHTxWIDTH"),
        (["toy.onnx", "--mean=1,2"], 2, "--mean must be 3 numbers, comma-separated, got '1,2'"),
        (["toy.onnx", "--range=1"], 2, "--range must be 2 numbers"),
        (["toy.onnx", "--tolerance=0"], 2, "tolerance must lie in (0, 1), got 0"),
        (["toy.onnx", "--card=none.json"], 1, "none.json: cannot read the card"),
        (["weights.pth"], 2, "weights.pth holds weights only: name their architecture"),
        (["something"], 2, "cannot tell what something is: wanted detector.onnx, program.pt2"),
        (["not a module:x y"], 2, "is no module:callable"),
    ],
)
def test_bad_input_is_one_line_and_no_file(arguments: list[str], code: int, said: str) -> None:
    put(Toy(), Toy().card())
    put(Toy(), None, "bare")
    Path("junk.onnx").write_text("junk")
    before = files()
    one_error(whyfake("export", *arguments, "-o", "deep/ours.onnx"), code, said)
    nothing_written(before)


def test_an_opset_that_is_too_old_is_one_line() -> None:
    put(Toy(opset=6), Toy().card())
    result = whyfake("export", "toy.onnx", "-o", "ours.onnx")
    one_error(result, 1, "toy.onnx: opset too old: it is 6, wanted 13 or later")


@pytest.mark.parametrize("how", ["above", "link"])
def test_weights_outside_the_folder_are_not_read(tmp_path: Path, how: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = external(inside, Toy())
    (inside / "big.data").rename(tmp_path / "big.data")
    if how == "above":
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../big.data"
        path.write_bytes(model.SerializeToString())
    else:
        (inside / "big.data").symlink_to(tmp_path / "big.data")
    before = files()
    result = whyfake("export", path, "-o", "ours.onnx")
    one_error(result, 1, "big.onnx: cannot read its external data")
    nothing_written(before)


def test_weights_in_a_file_beside_come_in(tmp_path: Path) -> None:
    toy = Toy()
    path = external(tmp_path, toy)
    assert whyfake("export", path, "-o", "ours.onnx").code == 0
    (tmp_path / "big.data").unlink()
    with load_detector("ours.onnx", device="cpu") as detector:
        got = detector.log_probs(frames(2))
    np.testing.assert_allclose(got, log_softmax(toy.logits(frames(2), toy.card())), 1e-5, 2e-6)


@pytest.mark.parametrize(
    ("out", "code", "said"),
    [
        ("ours.engine", 2, "export writes ONNX: --out must end in .onnx, got ours.engine"),
        ("taken.onnx", 1, "taken.onnx is a folder, wanted a file"),
        ("toy.onnx/x/ours.onnx", 1, "toy.onnx/x/ours.onnx: cannot write there"),
    ],
)
def test_places_that_cannot_be_written(out: str, code: int, said: str) -> None:
    put(Toy(), Toy().card())
    Path("taken.onnx").mkdir()
    before = files()
    one_error(whyfake("export", "toy.onnx", "-o", out), code, said)
    nothing_written(before)


def test_a_full_disk_leaves_the_old_file() -> None:
    put(Toy(), Toy().card())
    Path("ours.onnx").write_text("old")
    before = files()
    code = textwrap.dedent("""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        from whyfake.cli import main
        main()
    """)
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, "export", "toy.onnx", "-o", "ours.onnx"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: ours.onnx: cannot write: File too large\n"
    assert Path("ours.onnx").read_text() == "old"
    nothing_written(before)


def test_ctrl_c_leaves_no_file() -> None:
    """Stopped in the middle of holding it to its source."""
    put(Toy(), Toy().card())
    before = files()
    code = textwrap.dedent("""
        import time
        import whyfake.exporting
        plain = whyfake.exporting.measure_parity
        def slow(*arguments):
            arguments[-1](1)
            print("in the middle", flush=True)
            time.sleep(60)
            return plain(*arguments)
        whyfake.exporting.measure_parity = slow
        from whyfake.cli import main
        main()
    """)
    with subprocess.Popen(
        [sys.executable, "-B", "-c", code, "export", "toy.onnx", "-o", "ours.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "in the middle\n"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "stopped; what was finished is whole\n"
    nothing_written(before)


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


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("w.pth").write_bytes(b"")
    arguments = ["--arch=resnet18", "--classes=a,b", "--real=a", "-o", "ours.onnx"]
    result = whyfake("export", "w.pth", *arguments)
    one_error(result, 1, "needs the package 'torch'", "pip install 'whyfake[export]'")
