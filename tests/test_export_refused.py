"""What `whyfake export` refuses of ONNX files, or is stopped in writing, leaves no file."""

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
from commands import files, nothing_written, one_error, whyfake
from graphs import Toy, external, put, reshape
from onnx import helper, numpy_helper

pytestmark = pytest.mark.usefixtures("here")


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


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("w.pth").write_bytes(b"")
    arguments = ["--arch=resnet18", "--classes=a,b", "--real=a", "-o", "ours.onnx"]
    result = whyfake("export", "w.pth", *arguments)
    one_error(result, 1, "needs the package 'torch'", "pip install 'whyfake[export]'")
