"""`whyfake export` of what makes a torch module: traced as it answers, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from commands import files, nothing_written, one_error, whyfake
from torch_models import CLASSES, SIZE, export, models

from whyfake import explain, load_detector
from whyfake.card import DetectorCard
from whyfake.errors import DetectorError
from whyfake.export.parity import parity_inputs
from whyfake.settings import Settings

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread", "models_file")]


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
