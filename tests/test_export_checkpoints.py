"""`whyfake export` of checkpoints: all kinds, held to timm's own model, or one line."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import files, nothing_written, one_error
from outside import import_timm
from torch_models import ARCH, CLASSES, export, lightning, logits, reference, state_of

from whyfake.card import DetectorCard
from whyfake.errors import DetectorError, UsageError
from whyfake.export.modules import module_from_timm
from whyfake.export.parity import parity_inputs
from whyfake.sources import ExportRequest, open_source

torch = pytest.importorskip("torch")
timm = import_timm()

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread", "models_file")]


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """The state dict of a small timm model whose running statistics are not those of a new one."""
    return state_of(ARCH, 3)


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
