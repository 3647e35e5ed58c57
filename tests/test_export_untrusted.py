"""What may not run: code that is pickled in a checkpoint, or smuggled into a program."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import files, nothing_written, one_error
from torch_models import ARCH, CLASSES, export, lightning, logits, program, reference, state_of

from whyfake.errors import EngineError
from whyfake.export.parity import parity_inputs

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread", "models_file")]


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """The state dict of a small timm model whose running statistics are not those of a new one."""
    return state_of(ARCH, 3)


# --- checkpoints


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("PWNED",)


def malicious_files(state: dict[str, Any]) -> list[str]:
    torch.save({**state, "x": Malicious()}, "zip.pth")
    torch.save({"x": Malicious(), **state}, "old.pth", _use_new_zipfile_serialization=False)
    torch.save({**lightning(state), "hyper_parameters": Malicious()}, "light.ckpt")
    Path("raw.pkl").write_bytes(pickle.dumps(Malicious()))
    Path("raw2.pkl").write_bytes(pickle.dumps(Malicious(), protocol=2))
    return ["zip.pth", "old.pth", "light.ckpt", "raw.pkl", "raw2.pkl"]


def test_a_malicious_pickle_runs_no_code(weights: dict[str, Any]) -> None:
    names = malicious_files(weights)
    shutil.copy("zip.pth", "renamed.safetensors")
    before = files()
    for name in [*names, "renamed.safetensors"]:
        result = export(name, f"--arch={ARCH}", *CLASSES[3])
        one_error(result, 1, name)
        if "pickled code" in result.err:
            assert "mkdir" in result.err
            assert "--trust-pickle" in result.err
    nothing_written(before)  # PWNED is not there
    with contextlib.suppress(Exception):
        torch.load("zip.pth", weights_only=False)
    assert Path("PWNED").is_dir()  # the test can tell: it would have run


def test_pickled_code_needs_trust(weights: dict[str, Any]) -> None:
    checkpoint = {**lightning(weights), "hyper_parameters": argparse.Namespace(lr=1)}
    torch.save(checkpoint, "w.ckpt")
    arguments = ["w.ckpt", f"--arch={ARCH}", *CLASSES[3], "--size=64", "--json"]
    one_error(export(*arguments), 1, "pickled code (argparse.Namespace)", "--trust-pickle")
    result = export(*arguments, "--trust-pickle")
    assert result.code == 0, result.err
    images = parity_inputs((64, 64), 6, seed=5)
    wanted = reference(ARCH, weights, images)
    assert wanted.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(logits("out/d.onnx", images, 5), wanted, atol=1e-4)


def test_a_torch_that_cannot_keep_the_promise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from whyfake.export.checkpoint import safe_torch

    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(EngineError, match=r"torch 2.5.1\+cpu can be made to run code by a checkpo"):
        safe_torch()


# --- programs


def altered(member: str, change: Callable[[bytes], bytes], *, add: str = "") -> None:
    """p.pt2 as bad.pt2, with one member changed and one added."""
    with zipfile.ZipFile("p.pt2") as old, zipfile.ZipFile("bad.pt2", "w") as new:
        changed = False
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(member):
                changed = True
                content = change(content)
            new.writestr(name, content)
        assert changed
        if add:
            new.writestr(old.namelist()[0].split("/")[0] + add, b"x")


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save((Malicious(),), buffer)
    return buffer.getvalue()


MODEL = "models/model.json"
SMUGGLED: dict[str, tuple[Any, str]] = {
    "sample inputs": (
        lambda: altered("sample_inputs/model.pt", lambda _: pickled()),
        "pickled code",
    ),
    "an expression": (
        lambda: altered(MODEL, _instead(b"Symbol('s", b"__import__('os').mkdir('PWNED'),('s")),
        "the expression",
    ),
    "an operation": (
        lambda: altered(MODEL, _instead(b"torch.ops.aten.relu.default", b"torch.os.mkdir")),
        "the operation 'torch.os.mkdir'",
    ),
    "a file to write": (
        lambda: altered(MODEL, _instead(b"aten.relu.default", b"aten.from_file.default")),
        "the operation 'torch.ops.aten.from_file.default'",
    ),
    "pickled weights": (
        lambda: altered(
            "weights_config.json", _instead(b'"use_pickle": false', b'"use_pickle": 1')
        ),
        "pickled tensors",
    ),
    "guards": (
        lambda: altered(MODEL, _instead(b'"guards_code": []', b'"guards_code": ["print(1)"]')),
        "'guards_code'",
    ),
    "a type": (
        lambda: altered(MODEL, _instead(b"builtins.dict", b"models.Namespace")),
        "the type 'models.Namespace'",
    ),
    "machine code": (
        lambda: altered(MODEL, lambda content: content, add="/data/aotinductor/model/a.so"),
        "the member",
    ),
}


def _instead(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new)

    return change


@pytest.mark.parametrize("how", SMUGGLED)
def test_nothing_smuggled_into_a_program_runs(how: str) -> None:
    program("p.pt2")
    make, said = SMUGGLED[how]
    make()
    before = files()
    one_error(export("bad.pt2", *CLASSES[2]), 1, "bad.pt2 holds", said, "--trust-pickle")
    nothing_written(before)
