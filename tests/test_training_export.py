"""The file that the training ships: as calibrated, complete, and judged as its network is."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from training_toys import RECIPE, as_images, strict_json, unseen

pytest.importorskip("onnxscript")
import torch

import training.__main__ as command
from training.export import FALSE_ALARMS, Calibration, calibrate, export, score_pairs
from training.faces import read_faces
from training.fit import Fit, logits_of
from training.judge import judge
from training.metrics import auc
from training.network import Network, normalise
from training.pairs import make_plain_pair
from whyfake import load_detector
from whyfake.card import METADATA_KEY, DetectorCard
from whyfake.evaluate.forge import SelfBlend
from whyfake.inspection import inspect_model

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

ROOT = Path(__file__).resolve().parents[1]
CALIBRATION = Calibration(temperature=0.6, threshold=-0.4)


@pytest.fixture(scope="module")
def pictures(crops: Path) -> Any:
    """Unseen identities, uint8 (32, 3, 64, 64), as torch takes them."""
    return as_images(unseen(crops, RECIPE, hard=True))


@pytest.fixture(scope="module")
def spread(two_rounds: Fit, pictures: Any) -> Fit:
    """That run with a wider last layer: two rounds teach little, and all would score alike."""
    run = Fit(two_rounds.run, RECIPE, "cpu", workers=0)
    z = logits_of(run.average.module, pictures, run.device)
    last = run.average.module.fake
    with torch.no_grad():
        last.weight *= 1.5 / z.std()
        last.bias.copy_((last.bias - z.mean()) * 1.5 / z.std())
    return run


@pytest.fixture(scope="module")
def shipped(spread: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX file."""
    path = tmp_path_factory.mktemp("out") / "detector.onnx"
    with warnings.catch_warnings():
        # torch.export's own, from torch.utils._pytree
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        card = export(spread, CALIBRATION, path)
    assert card == DetectorCard.from_dict(metadata(path)[METADATA_KEY])
    return path


def metadata(path: Path) -> dict[str, Any]:
    return {item.key: json.loads(item.value) for item in onnx.load(path).metadata_props}


# export


@pytest.mark.parametrize(("temperature", "offset"), [(2.5, 0.8), (0.4, -3.0)])
def test_calibration_finds_the_temperature(temperature: float, offset: float) -> None:
    """Of logistic data, within 5 %: the standard error of 20,000 pictures is 1.5 %."""
    rng = np.random.default_rng(3)
    scores = offset + rng.normal(0, 2 * temperature, 20_000)
    fake = rng.random(20_000) < 1 / (1 + np.exp(-(scores - offset) / temperature))
    found = calibrate(scores[~fake], scores[fake])
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    alarms = (scores[~fake] > found.threshold).mean()
    assert alarms == pytest.approx(FALSE_ALARMS, abs=2 / (~fake).sum())


def test_pairs_are_scored_face_by_face(crops: Path) -> None:
    class Brightness(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, None]:
            return x.mean((1, 2, 3)), None

    faces = read_faces(crops, "validation", 1)
    sides = score_pairs(Brightness(), faces, RECIPE, 3, torch.device("cpu"))
    keys = [[1, 2_000_000 + turn, index] for turn in range(3) for index in range(len(faces))]
    pairs = [make_plain_pair(faces[key[2]], key, 64, SelfBlend()) for key in keys]
    for scores, name in zip(sides, ("real", "fake"), strict=True):
        brightness = np.array([getattr(pair, name).mean() for pair in pairs])
        assert scores == pytest.approx((brightness / 255 - 0.5) / 0.25, abs=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_the_file_gives_the_calibrated_probability(
    spread: Fit, shipped: Path, pictures: Any, batch: int
) -> None:
    """σ((z − threshold) / temperature) of the averaged network, within 1e-4: all is float32."""
    import onnxruntime

    images = pictures[3 : 3 + batch]
    z = logits_of(spread.average.module, images, spread.device)
    wanted = 1 / (1 + np.exp(-(z - CALIBRATION.threshold) / CALIBRATION.temperature))
    session = onnxruntime.InferenceSession(shipped, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": normalise(images).contiguous().numpy()})
    assert logits.shape == (batch, 2)
    assert 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])) == pytest.approx(wanted, abs=1e-4)
    with load_detector(shipped, device="cpu", batch=batch) as detector:
        assert detector.engine.batch == batch
        log_probs = detector.log_probs(images.numpy().astype(np.float32) / np.float32(255))
    assert np.exp(log_probs[:, 1]) == pytest.approx(wanted, abs=1e-4)


def test_that_comparison_can_fail(spread: Fit, pictures: Any) -> None:
    """The pictures score apart, and the averaged network is not the last one."""
    z = logits_of(spread.average.module, pictures[3:8], spread.device)
    assert np.ptp(z) > 0.5
    last = Network()
    last.load_state_dict(spread.network.state_dict())
    last.fake.load_state_dict(spread.average.module.fake.state_dict())
    assert np.abs(z - logits_of(last, pictures[3:8], spread.device)).max() > 0.1


def test_the_card_inside_is_complete(shipped: Path, pictures: Any) -> None:
    report = inspect_model(shipped)
    assert (report["problems"], report["advice"]) == ([], [])
    assert report["card_from"].endswith("(metadata)")
    assert report["batch"] is None
    card = DetectorCard.from_dict(metadata(shipped)[METADATA_KEY])
    assert (card.classes, card.real, card.crop_margin) == (("real", "fake"), ("real",), 1.5)
    assert (card.input.height, card.input.width, card.input.name) == (64, 64, "image")
    assert (card.output.activation, card.output.name) == ("logits", "logits")
    assert all((card.name, card.source, card.license, "demonstration" in card.notice))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (card.input.mean, card.input.std))
    assert torch.allclose((pictures / 255 - mean) / std, normalise(pictures), atol=1e-6)


def test_the_file_tells_its_recipe_and_nothing_of_this_machine(shipped: Path) -> None:
    record = metadata(shipped)["whyfake.training"]
    assert record == {"recipe": asdict(RECIPE), "rounds": 2, "calibration": asdict(CALIBRATION)}
    model = onnx.load(shipped)
    for weights in model.graph.initializer:  # random bytes, that may spell anything
        weights.ClearField("raw_data")
    content = model.SerializeToString()
    assert len(content) < 100_000
    for trace in (b"/work", b"/tmp", b"site-packages", b".py", b"/home", str(ROOT).encode()):
        assert trace not in content


def test_it_is_small(shipped: Path) -> None:
    assert sum(p.numel() for p in Network().parameters()) < 2_000_000
    assert shipped.stat().st_size < 6_000_000


# judge


def test_judging_unseen_identities_agrees_with_the_network(
    crops: Path, spread: Fit, shipped: Path
) -> None:
    rows = judge(shipped, crops, None, RECIPE)
    rows = [rows[0], rows[3]]  # plain and degraded
    people = {face.identity for face in read_faces(crops, "test", RECIPE.seed)}
    for hard, figures in zip((False, True), rows, strict=True):
        labelled = unseen(crops, RECIPE, hard=hard)
        assert set(labelled.groups) == people
        assert (figures["real"], figures["fake"], figures["groups"]) == (16, 16, 4)
        assert not any(name.endswith("_95") for name in figures)
        z = logits_of(spread.average.module, as_images(labelled), spread.device)
        fake = np.arange(32) >= 16
        assert labelled.fake == fake.tolist()
        assert figures["auc"] == pytest.approx(auc(z, fake), abs=1 / 256)  # one pair
        above = z > CALIBRATION.threshold
        assert 0.1 < above.mean() < 0.9
        assert figures["found"] == pytest.approx(above[fake].mean(), abs=1e-4)
        assert figures["false_alarms"] == pytest.approx(above[~fake].mean(), abs=1e-4)


# the command


def test_the_command_records_what_it_measured(
    crops: Path,
    spread: Fit,
    shipped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All four steps on a finished run, but for the export, which takes the file made above."""
    run, out = tmp_path / "run", tmp_path / "out.onnx"
    shutil.copytree(spread.run, run)
    exported: list[Calibration] = []

    def copy(_: Fit, calibration: Calibration, path: Path) -> None:
        exported.append(calibration)
        shutil.copy(shipped, path)

    monkeypatch.setattr(command, "export", copy)
    flags = ["--seed", "1", "--size", "64", "--rounds", "2", "--batch", "4"]
    where = [
        str(crops),
        "--run",
        str(run),
        "--out",
        str(out),
        "--workers",
        "0",
        "--threads",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["training", *where, "--device", "cpu", *flags])
    command.main()
    record = strict_json(run / "results.json")
    assert record["recipe"] == asdict(RECIPE)
    assert record["parameters"] == sum(p.numel() for p in Network().parameters())
    held_out = read_faces(crops, "validation", 1)
    trained = Fit(run, RECIPE, "cpu", workers=0)
    sides = score_pairs(trained.average.module, held_out, RECIPE, 4, trained.device)
    assert exported == [calibrate(*sides)]
    assert record["calibration"] == asdict(exported[0])
    assert record["sets"] == judge(out, crops, None, RECIPE)
    assert capsys.readouterr().out.startswith(command.table(record["sets"]) + "\n")
    curve = cv2.imread(str(run / "curve.png"))
    assert curve.shape == (420, 840, 3)
    assert curve.std() > 5
