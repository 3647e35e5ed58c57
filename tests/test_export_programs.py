"""`whyfake export` of torch.export programs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import files, nothing_written, one_error
from torch_models import CLASSES, export, logits, models, program

from whyfake.export.parity import parity_inputs

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread", "models_file")]


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_program(batch: int | None) -> None:
    program("p.pt2", batch=batch)
    result = export("p.pt2", *CLASSES[2], "--json")
    assert result.code == 0, result.err
    assert (f"batch freed, was {batch}" in result.err) == (batch is not None)
    said = json.loads(result.out)
    assert said["batch"] is None
    assert said["card"]["parity"]["max_abs"] <= 1e-5
    images = parity_inputs((40, 64), 6, seed=5)
    with torch.inference_mode():
        wanted = models().Net(2).eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits("out/d.onnx", images, 6), wanted, atol=1e-5)


def test_a_program_in_training_mode_is_refused() -> None:
    program("p.pt2", train=True)
    before = files()
    one_error(export("p.pt2", *CLASSES[2]), 1, "scores depend on the others in its batch")
    nothing_written(before)


def test_damaged_programs_are_one_line() -> None:
    program("p.pt2")
    Path("short.pt2").write_bytes(Path("p.pt2").read_bytes()[:5000])
    Path("text.pt2").write_text("hello")
    with zipfile.ZipFile("empty.pt2", "w"):
        pass
    before = files()
    for name in ("short.pt2", "text.pt2"):
        one_error(export(name, *CLASSES[2]), 1, f"{name} is no torch.export program, or damaged")
    one_error(export("empty.pt2", *CLASSES[2]), 1, "empty.pt2 cannot be read as a torch.export pro")
    one_error(export("gone.pt2", *CLASSES[2]), 1, "gone.pt2: cannot read the program: No such file")
    nothing_written(before)
