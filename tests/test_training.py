"""The training of the bundled detector: resumable to the bit, exported as calibrated, judged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from test_training_data import synthetic_face, synthetic_folder
from toys import linear_detector, make_card

pytest.importorskip("torch")
pytest.importorskip("av")
pytest.importorskip("onnxscript")

import torch

import training.__main__ as command
from training.export import FALSE_ALARMS, Calibration, calibrate, export, score_pairs
from training.faces import FolderError, read_faces
from training.fit import Fit, Pairs, Recipe, fit, logits_of
from training.judge import Labelled, blended, ffpp, judge, row, self_blends, together
from training.metrics import auc, interval
from training.network import Network, normalise
from training.pairs import make_pair, make_plain_pair
from whyfake import load_detector
from whyfake.card import METADATA_KEY, DetectorCard
from whyfake.errors import UsageError
from whyfake.evaluate.forge import SelfBlend
from whyfake.inspection import inspect_model

pytestmark = pytest.mark.training

ROOT = Path(__file__).resolve().parents[1]
RECIPE = Recipe(seed=1, size=64, rounds=2, batch=4)
STEPS = 18  # a round: 18 identities × 2 faces, 4 a batch, 2 passes
CALIBRATION = Calibration(temperature=0.6, threshold=-0.4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_folder(tmp_path_factory.mktemp("data") / "faces")


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A run that nothing interrupted."""
    return fit(folder, tmp_path_factory.mktemp("run"), RECIPE, "cpu", workers=0)


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Any:
    """Unseen identities, uint8 (32, 3, 64, 64), as torch takes them."""
    return as_images(unseen(folder, RECIPE, hard=True))


@pytest.fixture(scope="module")
def spread(finished: Fit, pictures: Any) -> Fit:
    """That run with a wider last layer: two rounds teach little, and all would score alike."""
    run = Fit(finished.run, RECIPE, "cpu", workers=0)
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


def as_images(labelled: Labelled) -> Any:
    return torch.from_numpy(np.stack(labelled.pictures)).permute(0, 3, 1, 2).contiguous()


def metadata(path: Path) -> dict[str, Any]:
    return {item.key: json.loads(item.value) for item in onnx.load(path).metadata_props}


def strict_json(path: Path) -> Any:
    """JSON as the standard has it, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path.name} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def states(run: Fit) -> dict[str, Any]:
    parts = {"average": run.average, "network": run.network}
    return {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def assert_same(one: Fit, other: Fit) -> None:
    """To the bit."""
    first, second = states(one), states(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert one.curve == other.curve
    assert (one.turn, one.step) == (other.turn, other.step)


# fit


def test_another_run_is_the_same_to_the_bit(folder: Path, finished: Fit, tmp_path: Path) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - neither may matter
    assert_same(fit(folder, tmp_path / "run", RECIPE, "cpu", workers=0), finished)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    folder: Path, finished: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in round 2: that round is done anew from what round 1 left."""
    run = tmp_path / "run"
    learn = Fit._learn

    def stop(self: Fit, batch: tuple[Any, ...], total: int) -> float:
        if self.step == STEPS + 5:
            raise KeyboardInterrupt
        return learn(self, batch, total)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_learn", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(folder, run, RECIPE, "cpu", workers=0)
    assert Fit(run, RECIPE, "cpu", workers=0).step == STEPS
    assert_same(fit(folder, run, RECIPE, "cpu", workers=0), finished)


def test_a_finished_run_is_left_alone(
    folder: Path, finished: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fit, "train_round", None)
    before = (finished.run / "checkpoint.pt").read_bytes()
    assert_same(fit(folder, finished.run, RECIPE, "cpu", workers=0), finished)
    assert (finished.run / "checkpoint.pt").read_bytes() == before


def test_another_recipe_in_the_same_folder_is_refused(folder: Path, finished: Fit) -> None:
    with pytest.raises(FolderError, match=r"checkpoint\.pt was made with another recipe"):
        fit(folder, finished.run, replace(RECIPE, rounds=3), "cpu", workers=0)


def test_fewer_faces_than_a_batch_are_refused(folder: Path, tmp_path: Path) -> None:
    """36 train: nothing could be learnt of them, and the loss would be no number."""
    run = tmp_path / "run"
    with pytest.raises(FolderError, match="36 faces to train on are fewer than a batch, 37"):
        fit(folder, run, replace(RECIPE, batch=37), "cpu", workers=0)
    assert not run.exists()


def test_a_run_leaves_a_checkpoint_and_its_curve(finished: Fit) -> None:
    assert sorted(p.name for p in finished.run.iterdir()) == ["checkpoint.pt", "curve.json"]
    record = strict_json(finished.run / "curve.json")
    assert record == {"recipe": asdict(RECIPE), "curve": finished.curve}
    assert [point["round"] for point in record["curve"]] == [1, 2]
    assert all(0 <= point["validation_auc"] <= 1 for point in record["curve"])
    saved = torch.load(finished.run / "checkpoint.pt", weights_only=True)
    assert (saved["turn"], saved["step"]) == (2, 2 * STEPS)
    assert saved["average"]["n_averaged"] == 2 * STEPS
    for name, value in finished.network.state_dict().items():
        assert torch.equal(saved["network"][name], value)


def test_a_damaged_checkpoint_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"junk")
    with pytest.raises(FolderError, match=r"checkpoint\.pt is damaged: remove it"):
        fit(folder, tmp_path, RECIPE, "cpu", workers=0)


@pytest.mark.parametrize(
    "change",
    [{"size": 100}, {"size": 48}, {"rounds": 0}, {"passes": 0}, {"batch": 0}, {"seed": -1}],
    ids=str,
)
def test_recipes_that_cannot_be(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(change))} must be"):
        replace(RECIPE, **change)


def test_it_learns_a_trivial_batch(tmp_path: Path) -> None:
    """Black is real, white is fake, all over: 30 steps bring the loss to a tenth."""
    run = Fit(tmp_path, RECIPE, "cpu", workers=0)
    run.network.train()
    black = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    batch = (black, black + 255, torch.ones(4, 8, 8))
    losses = [run._learn(batch, total=1000) for _ in range(30)]
    assert np.mean(losses[-3:]) < 0.1 * losses[0]
    run.network.eval()
    logits, where = run.network(normalise(torch.cat(batch[:2])))
    assert logits[:4].max() < logits[4:].min()
    assert where[:4].max() < where[4:].min()


def test_every_second_pass_is_mirrored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def record(_: Fit, batch: tuple[Any, ...], total: int) -> float:
        seen.append(tuple(part.numpy() for part in batch))
        return float(len(seen))

    monkeypatch.setattr(Fit, "_learn", record)
    run = Fit(tmp_path, replace(RECIPE, passes=3), "cpu", workers=0)
    ticks: list[None] = []
    loss = run.train_round(read_faces(folder, "train", 1), lambda: ticks.append(None))
    assert len(ticks) == len(seen) == 27
    assert loss == np.mean(np.arange(1, 28))
    first, second, third = (
        sorted(b"".join(part.tobytes() for part in parts) for parts in passed)
        for passed in (
            seen[:9],
            [tuple(part[..., ::-1] for part in batch) for batch in seen[9:18]],
            seen[18:],
        )
    )
    assert first == second == third
    assert len(set(first)) == 9


def test_a_round_forges_anew_and_coarsely_at_first() -> None:
    faces = [synthetic_face(0), synthetic_face(1)]
    rounds = [Pairs(faces, RECIPE, turn) for turn in (7, 8, 8)]  # equally fine
    for side in (0, 1):
        assert not torch.equal(rounds[0][1][side], rounds[1][1][side])
        assert torch.equal(rounds[1][1][side], rounds[2][1][side])
    again = Pairs(faces, RECIPE, 7, repeats=3)
    assert len(again) == 6
    assert torch.equal(again[1][0], rounds[0][1][0])
    assert not torch.equal(again[3][0], again[1][0])
    recipe = replace(RECIPE, rounds=100, easy=0.2)
    colours = [recipe.blend(turn).colour for turn in range(100)]
    assert colours[:21:10] == pytest.approx([50, 35, 20])
    assert recipe.blend(0).ratios == (1.0,)
    assert all(recipe.blend(turn) == SelfBlend() for turn in range(20, 100))


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


def test_pairs_are_scored_face_by_face(folder: Path) -> None:
    class Brightness(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, None]:
            return x.mean((1, 2, 3)), None

    faces = read_faces(folder, "validation", 1)
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


GREYS = [50, 100, 140, 120, 200, 220, 250]
FAKE = [False, False, False, True, True, True, True]
TOY = (32, 48)


def greys(name: str, values: list[int], fake: list[bool], groups: list[str]) -> Labelled:
    """Even pictures, none of the detector's size."""
    pictures = [np.full((40 + n, 60 - n, 3), value, np.uint8) for n, value in enumerate(values)]
    return Labelled(name, pictures, fake, groups)


@pytest.fixture
def brightness(tmp_path: Path) -> Path:
    """A detector that calls fake what is brighter than 127.5."""
    weights = np.full((3, *TOY), 1 / (3 * TOY[0] * TOY[1]), np.float32)
    linear_detector(tmp_path, weights, -0.5, gain=10).close()
    return tmp_path / "toy.onnx"


def test_a_row_in_closed_form(brightness: Path) -> None:
    labelled = greys("greys", GREYS, FAKE, ["a", "a", "b", "b", "c", "c", "d"])
    expected = {"set": "greys", "real": 3, "fake": 4, "groups": 4}
    with load_detector(brightness, device="cpu") as detector:
        figures = row(detector, labelled)
    assert figures == {
        **expected,
        "auc": 0.9167,  # 11 of 12 pairs
        "accuracy": 0.7143,
        "false_alarms": 0.3333,
        "found": 0.75,
    }
    turned = DetectorCard.from_dict(make_card(TOY, classes=["fake", "real"]))
    with load_detector(brightness, card=turned, device="cpu") as detector:
        figures = row(detector, labelled)
    assert figures == {
        **expected,
        "auc": 0.0833,
        "accuracy": 0.2857,
        "false_alarms": 0.6667,
        "found": 0.25,
    }


def test_a_row_has_intervals_from_ten_groups_and_no_figure_without_its_class(
    brightness: Path,
) -> None:
    names = [str(n) for n in range(7)]
    twice = together(
        "twice", [greys("a", GREYS, FAKE, names), greys("b", GREYS, FAKE, [*"tuvwxyz"])]
    )
    assert (twice.name, len(twice.pictures), twice.fake) == ("twice", 14, FAKE * 2)
    assert twice.groups == [*names, *"tuvwxyz"]
    with load_detector(brightness, device="cpu") as detector:
        figures = row(detector, twice)
        alone = row(detector, greys("real", GREYS[:3], FAKE[:3], names[:3]))
    scores = np.array(GREYS * 2, np.float64)
    bounds = interval(auc, scores, np.array(twice.fake), twice.groups)
    assert figures["groups"] == 14
    assert figures["auc"] == 0.9167
    assert figures["auc_95"] == pytest.approx(bounds, abs=1e-4)
    assert {name for name in figures if name.endswith("_95")} == {
        f"{name}_95" for name in ("auc", "accuracy", "false_alarms", "found")
    }
    assert set(alone) == {"set", "real", "fake", "groups", "accuracy", "false_alarms"}


def test_pairs_of_a_clip_are_read_by_side(tmp_path: Path) -> None:
    for side, value in (("real", 30), ("fake", 200)):
        place = tmp_path / "Deepfakes" / side
        place.mkdir(parents=True)
        for n in range(2):
            cv2.imwrite(str(place / f"{n}.png"), np.full((20, 30, 3), value + n, np.uint8))
    labelled = ffpp(tmp_path / "Deepfakes")
    assert [int(picture[0, 0, 0]) for picture in labelled.pictures] == [30, 31, 200, 201]
    assert labelled.fake == [False, False, True, True]
    assert set(labelled.groups) == {"Deepfakes"}
    with pytest.raises(FolderError, match=r"nowhere: wanted pictures in real/ and fake/"):
        ffpp(tmp_path / "nowhere")


def unseen(folder: Path, recipe: Recipe, *, hard: bool) -> Labelled:
    faces = read_faces(folder, "test", recipe.seed)
    return blended("unseen", faces, recipe, SelfBlend(), hard=hard)


def test_pairs_are_plain_or_treated_and_grouped_by_identity(folder: Path) -> None:
    faces = read_faces(folder, "test", RECIPE.seed)
    for hard, make in ((False, make_plain_pair), (True, make_pair)):
        labelled = unseen(folder, RECIPE, hard=hard)
        for turn, index in ((0, 0), (1, 5)):
            pair = make(faces[index], [1, 3_000_000 + turn, index], 64, SelfBlend())
            place = turn * len(faces) + index
            assert np.array_equal(labelled.pictures[place], pair.real.transpose(1, 2, 0))
            assert np.array_equal(labelled.pictures[place + 16], pair.fake.transpose(1, 2, 0))
            assert labelled.groups[place] == labelled.groups[place + 16] == faces[index].identity


def test_the_sets_are_of_unseen_people_but_for_the_last(folder: Path) -> None:
    sets = self_blends(folder, RECIPE)  # all its pictures are of 130 to 180 pixels
    people = {
        split: {f.identity for f in read_faces(folder, split, 1)} for split in ("test", "train")
    }
    assert [set(labelled.groups) <= people["test"] for labelled in sets] == [True] * 4 + [False]
    assert set(sets[-1].groups) <= people["train"]
    assert len({labelled.name for labelled in sets}) == 5
    plain, full, half = (np.stack(labelled.pictures).astype(float) for labelled in sets[:3])
    pairs = len(plain) // 2
    moved = [np.abs(s[:pairs] - s[pairs:]).mean() for s in (half, full)]
    assert moved[0] == pytest.approx(moved[1] / 2, rel=0.1)  # half the weight, half the change


def test_judging_unseen_identities_agrees_with_the_network(
    folder: Path, spread: Fit, shipped: Path
) -> None:
    rows = judge(shipped, folder, None, RECIPE)
    rows = [rows[0], rows[3]]  # plain and degraded
    people = {face.identity for face in read_faces(folder, "test", RECIPE.seed)}
    for hard, figures in zip((False, True), rows, strict=True):
        labelled = unseen(folder, RECIPE, hard=hard)
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


def test_every_field_of_a_recipe_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {item.name: type(item.default)(item.default * 3 + 1) for item in fields(Recipe)}
    flags = [
        part
        for name, value in values.items()
        for part in ("--" + name.replace("_", "-"), str(value))
    ]
    monkeypatch.setattr(sys, "argv", ["training", "faces", "--run", "runs/a", *flags])
    options = command._parse()
    assert {name: getattr(options, name) for name in values} == values
    assert all(type(getattr(options, f.name)) is type(f.default) for f in fields(Recipe))
    monkeypatch.setattr(sys, "argv", ["training", "faces", "--run", "runs/a"])
    options = command._parse()
    assert Recipe(**{f.name: getattr(options, f.name) for f in fields(Recipe)}) == Recipe()
    assert (options.faces, options.run, options.out) == (Path("faces"), Path("runs/a"), None)


def test_table() -> None:
    rows: list[dict[str, Any]] = [
        {"set": "a", "real": 3, "fake": 4, "groups": 12, "auc": 0.91666, "auc_95": [0.8, 1.0]},
        {"set": "b", "real": 5, "fake": 0, "groups": 1, "accuracy": 0.5, "false_alarms": 0.125},
    ]
    assert command.table(rows).splitlines() == [
        "| set | real / fake | groups | AUC | accuracy | false alarms | found |",
        "|---|---:|---:|---|---|---|---|",
        "| a | 3 / 4 | 12 | 0.917 (0.800–1.000) | – | – | – |",
        "| b | 5 / 0 | 1 | – | 0.500 | 0.125 | – |",
    ]


def test_the_command_records_what_it_measured(
    folder: Path,
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
    where = [str(folder), "--run", str(run), "--out", str(out), "--workers", "0", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["training", *where, "--device", "cpu", *flags])
    command.main()
    record = strict_json(run / "results.json")
    assert record["recipe"] == asdict(RECIPE)
    assert record["parameters"] == sum(p.numel() for p in Network().parameters())
    held_out = read_faces(folder, "validation", 1)
    trained = Fit(run, RECIPE, "cpu", workers=0)
    sides = score_pairs(trained.average.module, held_out, RECIPE, 4, trained.device)
    assert exported == [calibrate(*sides)]
    assert record["calibration"] == asdict(exported[0])
    assert record["sets"] == judge(out, folder, None, RECIPE)
    assert capsys.readouterr().out.startswith(command.table(record["sets"]) + "\n")
    curve = cv2.imread(str(run / "curve.png"))
    assert curve.shape == (420, 840, 3)
    assert curve.std() > 5


def test_missing_test_sets_are_said_before_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = [str(folder), "--run", str(tmp_path / "run"), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["training", *where])
    with pytest.raises(SystemExit, match=r"^error: .*: wanted a folder ffpp_pairs in it$"):
        command.main()
    assert not (tmp_path / "run").exists()


def test_a_bad_folder_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", "nowhere", "--run", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: nowhere/landmarks68.csv: ")
    assert not (tmp_path / "run").exists()
