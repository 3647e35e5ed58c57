"""`whyfake export` of torch models: checkpoints, callables, programs; and what may not run."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import pickle
import shutil
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from outside import import_timm
from test_cli import one_error, whyfake
from test_export_command import files, nothing_written

from whyfake import explain, load_detector
from whyfake.card import DetectorCard
from whyfake.errors import DetectorError, EngineError, UsageError
from whyfake.export.modules import module_from_timm
from whyfake.export.parity import parity_inputs
from whyfake.onnx_graph import PIXELS
from whyfake.settings import Settings
from whyfake.sources import ExportRequest, open_source

torch = pytest.importorskip("torch")
timm = import_timm()

pytestmark = pytest.mark.export

ARCH = "mobilenetv3_small_050"
MODELS = textwrap.dedent("""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Net(nn.Module):
        def __init__(self, scores=2, tail=None):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
            self.fc, self.tail = nn.Linear(8, scores), tail
            self.norm.running_mean.normal_(0, 0.3)
            self.norm.running_var.uniform_(0.5, 1.5)
        def forward(self, x):
            x = self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)) * 8)
            return x if self.tail is None else self.tail(x)

    def net(): return Net()
    def one(): return Net(1)
    def flat(): return Net(1, lambda x: x[:, 0])
    def sigmoid(): return Net(1, nn.Sigmoid())
    def sigmoids(): return Net(3, nn.Sigmoid())
    def softmax(): return Net(3, nn.Softmax(1))
    def log_softmax(): return Net(3, nn.LogSoftmax(1))
    def half(): return Net().half()
    def double(): return Net().double().train()

    class Stubborn(nn.BatchNorm2d):
        def train(self, mode=True): return super().train(True)
    def stubborn():
        model = Net()
        model.norm = Stubborn(8)
        return model
    def forgetful():
        model = Net()
        model.norm = nn.BatchNorm2d(8, track_running_stats=False)
        return model
    class Functional(Net):
        def forward(self, x):
            return super().forward(F.batch_norm(x, None, None, training=True))
    def functional(): return Functional()
    class Centred(Net):
        def forward(self, x):
            x = super().forward(x)
            return x - x.mean(0, keepdim=True)
    def centred(): return Centred()
    class Drop(Net):
        def forward(self, x): return super().forward(F.dropout(x, 0.5, True))
    def drop(): return Drop()
    class Pair(Net):
        def forward(self, x): return super().forward(x), x
    def pair(): return Pair()
    class Row(Net):
        def forward(self, x): return super().forward(x).reshape(1, -1)
    def row(): return Row()
    class Forked(Net):
        def forward(self, x): return super().forward(x if x.sum() > 0 else -x)
    def forked(): return Forked()
    class Labels(Net):
        def forward(self, x): return super().forward(x).argmax(1)
    def labels(): return Labels()
    def nan():
        model = Net()
        model.fc.bias.data.fill_(float("nan"))
        return model
    def huge():
        model = Net()
        model.more = nn.Parameter(torch.empty(600_000_000, device="meta"))
        return model
    def broken(): raise RuntimeError("no\\nweights here")
    def number(): return 3
    class Namespace:
        build = net
""")
CLASSES = {2: ["--classes=real,fake", "--real=real"], 3: ["--classes=real,df,fs", "--real=real"]}
SIZE = ["--size=40x64"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with models.py, imported afresh in each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("models.py").write_text(MODELS)
    yield tmp_path
    sys.modules.pop("models", None)


def models() -> Any:
    """models.py, as the command imports it."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module("models")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """The state dict of a small timm model whose running statistics are not those of a new one."""
    return state_of(ARCH, 3)


def state_of(arch: str, scores: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=scores)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return dict(model.state_dict())


def lightning(state: dict[str, Any], prefix: str = "model.") -> dict[str, Any]:
    """What Lightning's Trainer saves, with the loss's weights beside the model's."""
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {
            **{prefix + name: value for name, value in state.items()},
            "criterion.weight": torch.ones(3),
        },
        "hyper_parameters": {"lr": 1e-3, "classes": ["a", "b"]},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
    }


def reference(arch: str, state: dict[str, Any], images: Any) -> Any:
    """The logits of timm's own model on pictures that timm's own figures normalise."""
    model = timm.create_model(arch, num_classes=len(state[next(reversed(state))])).eval()
    model.load_state_dict(state)
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        return model((torch.from_numpy(images) - mean) / std).numpy()


def logits(path: str, images: Any, batch: int) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    return np.concatenate([session.run(None, {PIXELS: part})[0] for part in parts])


def export(source: str, *options: str) -> Any:
    return whyfake("export", source, "-o", "out/d.onnx", *options)


# --- timm with a checkpoint


@pytest.mark.slow
def test_efficientnet_from_a_lightning_checkpoint() -> None:
    arch = "tf_efficientnetv2_b0"
    state = state_of(arch, 5)
    torch.save(lightning(state), "ff.ckpt")
    result = export(
        "ff.ckpt",
        f"--arch={arch}",
        "--classes=Real,NeuralTextures,Face2Face,DeepFakes,FaceSwap",
        "--real=Real",
        "--size=224",
        "--crop-margin=1.3",
        "--json",
    )
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert (said["opset"], said["batch"]) == (20, None)
    assert said["bytes"] < 30e6
    card = DetectorCard.from_dict(said["card"])
    assert card.input.neutral_color == (0.485, 0.456, 0.406)
    assert card.output.activation == "logits"
    assert card.parity["max_abs"] <= 1e-4
    assert card.parity["flips"] == 0
    assert (card.parity["inputs"], card.parity["unit"]) == (64, "logits")
    assert card.parity["reference"] == f"{arch} with ff.ckpt"
    assert "torch" in card.parity["versions"]
    images = parity_inputs((224, 224), 64, seed=9)  # other ones than the export saw
    wanted = reference(arch, state, images)
    assert wanted.std(axis=0).min() > 1e-3  # the scores of these weights differ between pictures
    for batch in (1, 7, 64):
        np.testing.assert_allclose(logits("out/d.onnx", images, batch), wanted, atol=1e-4)
    content = Path("out/d.onnx").read_bytes()
    assert os.getcwd().encode() not in content
    assert Path(torch.__file__).parent.as_posix().encode() not in content


CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": lambda state: state,
    "lightning": lightning,
    "data parallel": lambda state: {"state_dict": lightning(state, "module.")["state_dict"]},
    "deeply wrapped": lambda state: lightning(state, "model.backbone."),
    "without counters": lambda state: {
        name: value for name, value in state.items() if "num_batches" not in name
    },
    "half": lambda state: {
        name: value.half() if value.is_floating_point() else value for name, value in state.items()
    },
}


@pytest.mark.parametrize("kind", [*CHECKPOINTS, "safetensors", "legacy"])
def test_kinds_of_checkpoints(weights: dict[str, Any], kind: str) -> None:
    """The module gives what timm's own gives with the same weights, to the bit."""
    state, path = weights, "w.ckpt"
    if kind == "safetensors":
        from safetensors.torch import save_file

        path = "w.safetensors"
        save_file(state, path)
    elif kind == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(CHECKPOINTS[kind](state), path)
    if kind == "half":
        halves = CHECKPOINTS[kind](state)
        state = {n: v.float() if v.is_floating_point() else v for n, v in halves.items()}
    module, notes = module_from_timm(ARCH, path, 3)
    own = timm.create_model(ARCH, num_classes=3).eval()
    own.load_state_dict(state)
    images = torch.from_numpy(parity_inputs((96, 64), 4, seed=5))
    with torch.inference_mode():
        wanted = own(images)
        assert torch.equal(module(images), wanted)
    assert wanted.std(dim=0).min() > 1e-3
    left = "w.ckpt: 1 weight (criterion.weight) left out: not part of the model, which is '"
    beside = kind in ("lightning", "data parallel", "deeply wrapped")
    assert [note.startswith(left) for note in notes] == [True] * beside


def test_a_model_that_is_held_twice_needs_a_prefix(weights: dict[str, Any]) -> None:
    ema = {name: value + 0.1 if "classifier" in name else value for name, value in weights.items()}
    both = {**lightning(weights)["state_dict"], **{"ema." + n: v for n, v in ema.items()}}
    torch.save({"state_dict": both}, "w.ckpt")
    with pytest.raises(UsageError, match=r"2 times, under 'model.', 'ema.': choose with --p"):
        module_from_timm(ARCH, "w.ckpt", 3)
    module, notes = module_from_timm(ARCH, "w.ckpt", 3, prefix="ema.")
    assert torch.equal(module.classifier.bias, ema["classifier.bias"])
    assert len(notes) == 1


def test_what_a_card_leaves_out_is_timms(weights: dict[str, Any]) -> None:
    card = {
        "input": {"height": 64, "width": 64},
        "output": {"activation": "logits"},
        "classes": ["real", "df", "fs"],
        "real": ["real"],
        "crop_margin": 1.3,
    }
    torch.save(weights, "w.pth")
    Path("c.json").write_text(json.dumps(card))
    request = ExportRequest("w.pth", arch=ARCH, card=Path("c.json"))
    found = open_source(request).card
    assert (found.input.mean, found.input.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.crop_margin == 1.3


def test_a_vision_transformer_at_another_size() -> None:
    """Its position embeddings are made for one size: timm must be told."""
    arch = "vit_tiny_patch16_224"
    state = timm.create_model(arch, num_classes=2, img_size=(64, 48)).state_dict()
    torch.save(state, "w.pth")
    module, _ = module_from_timm(arch, "w.pth", 2, size=(64, 48))
    assert module(torch.zeros(1, 3, 64, 48)).shape == (1, 2)
    with pytest.raises(DetectorError, match=r"1 weight \(pos_embed\) of another shape"):
        module_from_timm(arch, "w.pth", 2)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--classes=real,df", "--real=real"], 1, "its head 'classifier' gives 3 scores, not 2"),
        (["--classes=a,b", "--real=a", "--positive=b"], 1, "gives 3 scores, not 1"),
        ([*CLASSES[3], "--arch=resnet18"], 1, "does not fit this architecture: 98 weights (conv1"),
        ([*CLASSES[3], "--arch=mobilenetv3_small_100"], 1, "of another shape"),
        ([*CLASSES[3], "--arch=mobilenet_small_050"], 2, f"did you mean {ARCH}"),
        ([*CLASSES[3], "--arch=hf-hub:timm/x"], 2, "timm has no architecture 'hf-hub:timm/x'"),
        ([], 2, "name its classes in the order of its scores"),
        ([*CLASSES[3], "--activation=sigmod"], 1, "unknown activation 'sigmod'"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_file(
    weights: dict[str, Any], options: list[str], code: int, said: str
) -> None:
    torch.save(weights, "w.pth")
    before = files()
    one_error(export("w.pth", f"--arch={ARCH}", "--size=64", *options), code, said)
    nothing_written(before)


def test_damaged_checkpoints_are_one_line(weights: dict[str, Any]) -> None:
    torch.save(weights, "whole.pth")
    whole = Path("whole.pth").read_bytes()
    Path("short.pth").write_bytes(whole[: len(whole) // 2])
    Path("empty.pth").write_bytes(b"")
    Path("text.pth").write_text("hello there")
    Path("short.safetensors").write_bytes(b"\x00\x10\x00\x00")
    torch.save({"epoch": 3}, "none.pth")
    torch.save([1, 2], "list.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is a thing of the past
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), "script.pt")
    Path("folder.pth").mkdir()
    before = files()
    for name, said in {
        "short.pth": "short.pth is no checkpoint, or damaged or cut short",
        "empty.pth": "empty.pth is no checkpoint, or damaged or cut short",
        "text.pth": "text.pth is no checkpoint, or damaged or cut short",
        "short.safetensors": "short.safetensors is damaged or cut short",
        "none.pth": "none.pth holds no weights",
        "list.pth": "list.pth holds no weights",
        "script.pt": "script.pt is a TorchScript program",
        "folder.pth": "folder.pth: cannot read the checkpoint: Is a directory",
        "gone.pth": "gone.pth: cannot read the checkpoint: No such file",
    }.items():
        one_error(export(name, f"--arch={ARCH}", *CLASSES[3]), 1, said)
    nothing_written(before)


# --- what may not run


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


def program(name: str, *, batch: int | None = None, train: bool = False) -> None:
    net = models().Net(2).train(train)
    free = None if batch else ({0: torch.export.Dim("b")},)
    exported = torch.export.export(net, (torch.zeros(batch or 2, 3, 40, 64),), dynamic_shapes=free)
    torch.export.save(exported, name)


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


# --- callables


HEADS = {
    "net": [*CLASSES[2]],
    "Namespace.build": [*CLASSES[2]],
    "half": [*CLASSES[2]],
    "double": [*CLASSES[2]],
    "one": [*CLASSES[2], "--positive=fake"],
    "flat": [*CLASSES[2], "--positive=real"],
    "sigmoid": [*CLASSES[2], "--positive=fake", "--activation=sigmoid"],
    "sigmoids": [*CLASSES[3], "--activation=sigmoid"],
    "softmax": [*CLASSES[3], "--activation=softmax"],
    "log_softmax": [*CLASSES[3], "--activation=log_softmax"],
}


@pytest.mark.parametrize("name", HEADS)
def test_callables(name: str) -> None:
    spec = ["--color=BGR", "--range=0,255", "--mean=100,110,120", "--std=60"]
    result = export(f"models:{name}", *HEADS[name], *SIZE, *spec)
    assert result.code == 0, result.err
    images = parity_inputs((40, 64), 5, seed=5)
    mean = np.array([100, 110, 120], np.float32)[:, None, None]
    module = getattr(models(), name.split(".")[-1], models().net)().float().eval()
    with torch.inference_mode():
        got = module(torch.from_numpy((images[:, ::-1] * 255 - mean) / 60)).double().numpy()
    with load_detector("out/d.onnx", device="cpu") as detector:
        p = np.exp(detector.log_probs(images))
    if name in ("one", "flat"):
        positive = 1 / (1 + np.exp(-got.reshape(5)))
        column = 1 if name == "one" else 0
        np.testing.assert_allclose(p[:, column], positive, atol=1e-5)
        return
    if name == "sigmoid":
        np.testing.assert_allclose(p[:, 1], got[:, 0], atol=1e-5)
        return
    wanted = got if name in ("softmax", "sigmoids") else np.exp(got)
    np.testing.assert_allclose(p, wanted / wanted.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stubborn", "'norm' stays in training mode after .eval()"),
        ("forgetful", "a picture's scores depend on the others in its batch"),
        ("functional", "a picture's scores depend on the others in its batch"),
        ("centred", "a picture's scores depend on the others in its batch"),
        ("drop", "gives the same picture other scores when it is asked again"),
        ("pair", "returns a tuple, wanted a tensor of scores"),
        ("row", "for 7 pictures, wanted a row of scores for each"),
        ("labels", "returns int64 (1,) for 1 pictures, wanted a row of scores"),
        ("forked", "cannot be traced by torch.export: "),
        ("nan", "gave NaN or infinite scores for 21 of 21 pictures"),
        ("huge", "GB of weights: one ONNX file holds 2 GB at most"),
        ("broken", "models:broken failed: RuntimeError: no weights here"),
        ("number", "returned an object of type int, wanted a torch.nn.Module"),
    ],
)
def test_models_that_cannot_be_explained_or_traced(name: str, said: str) -> None:
    before = files()
    one_error(export(f"models:{name}", *CLASSES[2], *SIZE), 1, said)
    nothing_written(before)


@pytest.mark.parametrize(
    ("source", "options", "code", "said"),
    [
        ("models:nothing", [*CLASSES[2], *SIZE], 2, "module 'models' has no 'nothing'"),
        ("no.module:net", [*CLASSES[2], *SIZE], 2, "there is no module 'no.module' here"),
        ("models:net", [*CLASSES[2]], 2, "say how large its pictures are, such as --size 224"),
        (
            "models:net",
            [*CLASSES[3], *SIZE],
            1,
            "gives 2 scores an image, the card names 3",
        ),
        ("models:one", [*CLASSES[2], *SIZE], 1, "and the one it scores in output.positive"),
        ("models:softmax", [*CLASSES[3], *SIZE], 1, "ends in softmax: pass --activation softmax"),
    ],
)
def test_what_is_said_must_fit(source: str, options: list[str], code: int, said: str) -> None:
    before = files()
    one_error(export(source, *options), code, said)
    nothing_written(before)


def test_an_export_explains() -> None:
    """What was exported answers an explainer, and is as inspect wants it."""
    assert export("models:net", *CLASSES[2], *SIZE, "--crop-margin=1.3").code == 0
    assert whyfake("inspect", "out/d.onnx").code == 0
    onnx.checker.check_model(onnx.load("out/d.onnx"), full_check=True)
    frame = (parity_inputs((40, 64), 1)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    with load_detector("out/d.onnx", device="cpu", threads=1) as detector:
        found = explain(detector, frame, method="rise", settings=Settings().with_budget(64))
        assert detector.images_seen == found.images


def test_a_module_is_traced_as_it_answers() -> None:
    """Tracing that goes wrong is seen by parity: here the graph is one of another model."""
    from whyfake.export.trace import onnx_from_module

    def another(module: Any, card: DetectorCard, what: str) -> Any:
        module.fc.bias.data += 0.01
        graph = onnx_from_module(module, card, what)
        module.fc.bias.data -= 0.01
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whyfake.sources.onnx_from_module", another)
        before = files()
        result = export("models:net", *CLASSES[2], *SIZE)
    one_error(result, 1, "differs from its source by up to 0.01 (logits), over the tolerance")
    nothing_written(before)


def test_tracing_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    from whyfake.export.trace import onnx_from_module

    card = DetectorCard.from_dict(
        {
            "input": {"height": 40, "width": 64},
            "output": {"activation": "logits"},
            "classes": ["real", "fake"],
            "real": ["real"],
        }
    )
    onnx_from_module(models().Net().eval(), card, "net")
    with pytest.raises(DetectorError):
        onnx_from_module(models().Forked().eval(), card, "forked")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
