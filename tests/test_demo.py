"""The demonstration: its files agree with one another, and its figures with the arrays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import look_at
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from toys import SIZE, linear_detector, linear_weights, make_card, save_model

from whyfake import Detector, Explanation, load_detector
from whyfake.demo import METHODS, Demo, demo_request, forged_portrait, portrait, run_demo
from whyfake.errors import OutputError
from whyfake.explainers import Nes, Sobol
from whyfake.media import fit_to
from whyfake.request import Request, make_request
from whyfake.results import Results
from whyfake.settings import Settings

INSIDE, OUTSIDE = (15, 25, 24, 40), (0, 10, 0, 16)  # cells of grid:8, in the true region and not
EXPLANATION = {"explanation.json", "arrays.npz", "overlay.png"}


def small_request(seed: int, budget: int, steps: int) -> Request:
    """What the demonstration asks, for a tenth of its images."""
    settings = Settings(nes=Nes(steps=steps)).with_budget(budget)
    settings = dataclasses.replace(settings, sobol=Sobol(design=8))
    return make_request(METHODS, target="fake", regions="grid:8", seed=seed, settings=settings)


def toy(folder: Path, margin: float, gain: float, patch: Any = INSIDE) -> Detector:
    """Reads one patch of the forged portrait; calls it fake by that margin, of pixels in [0, 1].

    NES moves pixels by 16/255 = 0.063: it flips a margin of 0.02, never one of 0.3.
    """
    weights = linear_weights(patch, SIZE)
    frame = fit_to(forged_portrait(0).image, SIZE)
    bias = margin - float((weights * frame).sum())
    return linear_detector(folder, weights, bias, gain=gain, threads=1)


DETECTORS: dict[str, Callable[[Path], Detector]] = {
    "bundled": lambda folder: load_detector(device="cpu", threads=1),
    "flips": lambda folder: toy(folder, 0.02, 100),
    "stubborn": lambda folder: toy(folder, 0.3, 5),
    "real": lambda folder: toy(folder, -0.02, 100),
}


@dataclass(frozen=True)
class Run:
    """A demonstration, where it is, and its detector, with what that had been asked."""

    folder: Path
    demo: Demo
    detector: Detector
    asked: int

    def explanations(self) -> dict[str, Explanation]:
        return {f.method: Explanation.load(self.folder / f.folder) for f in self.demo.findings}

    def pixels(self, name: str) -> NDArray[np.uint8]:
        with Image.open(self.folder / name) as image:
            assert image.mode == "RGB"
            return np.array(image)


def demonstrate(detector: Detector, out: Path, seed: int = 0) -> Run:
    # what the bundled detector finds is not what is tested here, so a few images do
    known = detector.card.name == "toy"
    request = small_request(seed, budget=256 if known else 64, steps=40 if known else 5)
    demo = run_demo(detector, request, Results(out))
    return Run(out, demo, detector, detector.images_seen)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A demonstration by the name of its detector, run once."""

    @cache
    def run(name: str) -> Run:
        folder = tmp_path_factory.mktemp(name)
        return demonstrate(DETECTORS[name](folder), folder / "größe #1 50%")

    return run


@pytest.fixture(params=DETECTORS)
def run(request: pytest.FixtureRequest, runs: Callable[[str], Run]) -> Run:
    """A demonstration with each of the detectors."""
    return runs(request.param)


class PageReader(HTMLParser):
    """The words of a page, the files it points to and the pictures it shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.files: list[str] = []
        self.pictures: dict[str, str] = {}  # by their titles
        self.warnings = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = {key: value or "" for key, value in attrs}
        self.files += [unquote(have[key]) for key in ("src", "href") if key in have]
        if tag == "img":
            self.pictures[have["alt"]] = unquote(have["src"])
        self.warnings += have.get("class") == "warning"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def strict_json(text: str) -> Any:
    """The text as JSON; NaN and Infinity, which Python writes and reads, are none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- what is written


def test_the_files(run: Run) -> None:
    wanted = {"original.png", "forgery.png", "truth.png", "demo.json", "index.html"}
    wanted |= {f"forgery/{method}/{name}" for method in METHODS for name in EXPLANATION}
    wanted |= {"forgery/strip.png"} | ({"adversarial.png"} if run.demo.adversary else set())
    files = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*") if p.is_file()}
    assert files == wanted
    assert run.demo.page == str(run.folder / "index.html")


def test_the_page_points_to_files_that_exist(run: Run) -> None:
    reader = PageReader(run.folder / "index.html")
    assert all((run.folder / name).is_file() for name in reader.files if name != "data:,")
    shown = {"Original": "original.png", "Forgery": "forgery.png", "True region": "truth.png"}
    if run.demo.adversary:
        shown["Adversarial sample"] = "adversarial.png"
    shown |= {method: f"forgery/{method}/overlay.png" for method in METHODS}
    assert reader.pictures == shown


def test_the_json_is_what_was_found(run: Run) -> None:
    stored = strict_json((run.folder / "demo.json").read_text(encoding="utf-8"))
    assert stored == strict_json(json.dumps(run.demo.to_dict()))
    assert [finding["method"] for finding in stored["findings"]] == list(METHODS)


def test_the_pictures_are_the_forgery_and_its_truth(run: Run) -> None:
    forgery = forged_portrait(0)
    np.testing.assert_array_equal(run.pixels("original.png"), portrait())
    np.testing.assert_array_equal(run.pixels("forgery.png"), forgery.image)
    truth = run.pixels("truth.png")
    np.testing.assert_array_equal(truth[forgery.region], forgery.image[forgery.region])
    np.testing.assert_array_equal(truth[~forgery.region], forgery.image[~forgery.region] // 4)
    changed = (run.pixels("forgery.png") != run.pixels("original.png")).any(axis=2)
    assert not changed[forgery.mask == 0].any()
    assert changed[forgery.region].mean() > 0.95
    rows, columns = np.nonzero(forgery.region)
    assert (rows.mean(), columns.mean()) == pytest.approx((128, 122), abs=8)  # it may move a bit


def test_the_figures_are_those_of_the_arrays(run: Run) -> None:
    demo, region = run.demo, forged_portrait(0).region
    size = run.detector.size
    white = np.repeat(region[..., None], 3, axis=2) * np.uint8(255)
    truth = fit_to(white, size)[0] > 0.5
    assert demo.area == truth.mean()
    assert demo.area == pytest.approx(region.mean(), abs=0.01)  # the same share at another size
    for finding, explanation in zip(demo.findings, run.explanations().values(), strict=True):
        assert explanation.method == finding.method
        assert explanation.target == "fake"
        heat = explanation.heatmap.astype(np.float64)
        if finding.method in ("sobol-adv", "rise-adv"):
            heat -= heat.min()
        heat = np.maximum(heat, 0)
        if finding.energy is None or finding.gain is None:
            assert finding.gain is finding.energy
            assert not heat.any()
        else:
            assert finding.energy == pytest.approx(heat[truth].sum() / heat.sum(), abs=1e-6)
            assert finding.gain == pytest.approx(finding.energy / demo.area, rel=1e-12)
        assert finding.seconds == explanation.seconds
        np.testing.assert_array_equal(explanation.frame, fit_to(run.pixels("forgery.png"), size))


def test_the_scores_are_those_of_the_pictures(run: Run) -> None:
    size, first = run.detector.size, run.explanations()["lime-adv"]
    frames = {name: fit_to(run.pixels(f"{name}.png"), size) for name in ("original", "forgery")}
    assert (run.demo.adversary is None) == first.called_real
    if run.demo.adversary is not None:
        assert first.adversary is not None
        assert first.adversarial is not None
        assert run.demo.adversary == dataclasses.asdict(first.adversary)
        frames["adversarial"] = first.adversarial
        shown = run.pixels("adversarial.png").transpose(2, 0, 1) / 255
        assert np.abs(shown - first.adversarial).max() <= 0.5001 / 255  # the nearest of 256 values
        assert run.demo.adversary["flipped"] == (run.demo.p_fake["adversarial"] < 0.5)
    p_fake = np.exp(run.detector.log_probs(np.stack(list(frames.values())))[:, 1])
    # batches of other sizes may round otherwise
    assert run.demo.p_fake == pytest.approx(dict(zip(frames, p_fake, strict=True)), abs=1e-5)


def test_every_image_is_counted(run: Run) -> None:
    demo, explanations = run.demo, run.explanations()
    assert demo.images == run.asked
    assert demo.images == sum(e.images for e in explanations.values()) + 1
    for finding in demo.findings:
        assert finding.images == explanations[finding.method].image_counts["explainer"]
    adversary = 0 if demo.adversary is None else demo.adversary["images"]
    assert demo.images == sum(f.images for f in demo.findings) + adversary + 2


def test_the_page_says_what_was_found(run: Run) -> None:
    demo, reader = run.demo, PageReader(run.folder / "index.html")
    for p_fake in demo.p_fake.values():
        assert f"P(fake) {p_fake:.1%}" in reader.text
    for finding in demo.findings:
        if finding.energy is not None:
            words = (
                f"{finding.energy:.0%} of the heat in the true region, {finding.gain:.1f}× chance"
            )
            assert words in reader.words
        assert f"{finding.images:,} images" in reader.words
    assert f"{demo.area:.0%} of the frame was replaced" in reader.words
    assert f"{demo.images:,}" in reader.words
    card = run.detector.card
    assert f"{card.name} ({run.detector.sha256[:12]})" in reader.words
    notes = run.explanations()["lime-adv"].notes
    warnings = [text for text in (card.notice, *notes) if text]
    assert all(reader.words.count(text) == 1 for text in warnings)
    assert reader.warnings == len(warnings)


def test_what_became_of_the_adversarial_sample(runs: Callable[[str], Run]) -> None:
    texts = {name: PageReader(runs(name).folder / "index.html").text for name in DETECTORS}
    assert ", called real\n" in texts["flips"]
    assert "NOT flipped" not in texts["flips"]
    assert "NOT flipped: still called fake\n" in texts["stubborn"]
    assert "40 steps of NES, 3,2" in texts["stubborn"]  # 81 a step, and one
    assert "no pixel changed by more than 16 of 255" in texts["stubborn"]
    for name in ("flips", "stubborn"):
        assert "The forgery is called fake." in texts[name]


def test_a_forgery_that_is_called_real(runs: Callable[[str], Run]) -> None:
    run = runs("real")
    assert run.demo.adversary is None
    assert set(run.demo.p_fake) == {"original", "forgery"}
    assert run.demo.p_fake["forgery"] < 0.5
    text = PageReader(run.folder / "index.html").text
    assert "The forgery is called real." in text
    assert "the detector calls this picture real: there is nothing to flip" in text
    for words in ("Adversarial sample", "flipped", "steps of NES", "show the adversarial sample"):
        assert words not in text


def test_heat_lies_where_the_detector_looks(runs: Callable[[str], Run], tmp_path: Path) -> None:
    """The detector that reads a patch of the true region gains; one that reads another does not."""
    other = demonstrate(toy(tmp_path, 0.02, 100, OUTSIDE), tmp_path / "out")
    for inside, outside in zip(runs("flips").demo.findings, other.demo.findings, strict=True):
        assert inside.gain is not None
        assert inside.gain > 2
        assert outside.gain is not None
        assert outside.gain < 1


def test_all_fake_classes_count_as_fake(tmp_path: Path) -> None:
    """Logits [0, 1, 1] of [swapped, real, drawn] for any picture: P(fake) is (1 + e) / (1 + 2e)."""
    path = save_model(
        tmp_path,
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["y"]),
        ],
        {"w": np.zeros((3 * 40 * 64, 3), np.float32), "b": np.array([0, 1, 1], np.float32)},
        size=SIZE,
        columns=3,
        card=make_card(SIZE, classes=["swapped", "real", "drawn"]),
    )
    demo = demonstrate(load_detector(path, device="cpu", threads=1), tmp_path / "out").demo
    wanted = (1 + np.e) / (1 + 2 * np.e)
    assert list(demo.p_fake.values()) == pytest.approx([wanted] * len(demo.p_fake), rel=1e-5)


def test_a_map_without_heat_is_told_in_json_and_words(tmp_path: Path) -> None:
    """A saturated detector's score does not move: energy and gain have no value."""
    run = demonstrate(toy(tmp_path, 1.0, 200), tmp_path / "out")
    assert run.demo.p_fake["forgery"] == 1
    stored = strict_json((run.folder / "demo.json").read_text(encoding="utf-8"))
    without = [f["method"] for f in stored["findings"] if f["energy"] is None]
    assert {"shap-adv", "sobol-adv", "rise-adv"} <= set(without)
    assert all((f["gain"] is None) == (f["energy"] is None) for f in stored["findings"])
    reader = PageReader(run.folder / "index.html")
    assert "nan" not in reader.text
    assert sum("no heat" in words for words in reader.words) == len(without)


# --- again


@pytest.mark.parametrize("name", ["bundled", "flips"])
def test_the_same_seed_gives_the_same_bits(
    runs: Callable[[str], Run], tmp_path: Path, name: str
) -> None:
    run, again = runs(name), demonstrate(DETECTORS[name](tmp_path), tmp_path / "other folder")

    def plain(run: Run) -> dict[str, Any]:
        data: dict[str, Any] = strict_json((run.folder / "demo.json").read_text(encoding="utf-8"))
        assert data.pop("page") == run.demo.page
        for finding in data["findings"]:
            assert finding.pop("seconds") >= 0
        return data

    assert plain(run) == plain(again)
    pictures = sorted(path.relative_to(run.folder) for path in run.folder.rglob("*.png"))
    assert len(pictures) >= 8
    for path in pictures:
        assert (run.folder / path).read_bytes() == (again.folder / path).read_bytes(), path
    pages = [(r.folder / "index.html").read_bytes() for r in (run, again)]
    assert pages[0] == pages[1]


def test_another_seed_gives_another_forgery(tmp_path: Path) -> None:
    demo = demonstrate(toy(tmp_path, 0.02, 100), tmp_path / "out", seed=1)
    assert demo.demo.seed == 1
    np.testing.assert_array_equal(demo.pixels("forgery.png"), forged_portrait(1).image)
    assert not np.array_equal(forged_portrait(1).image, forged_portrait(0).image)
    assert demo_request(7).seed == 7


@pytest.mark.parametrize("name", ["index.html", "demo.json", "forgery", "forgery.png"])
def test_what_cannot_be_written(tmp_path: Path, name: str) -> None:
    """Something of the wrong kind has that name: a folder for a file, a file for the folder."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).touch() if name == "forgery" else (out / name / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match=rf"{name}.*: cannot write"):
        demonstrate(toy(tmp_path, -0.02, 100), out)


def test_files_that_are_there_are_left_alone(runs: Callable[[str], Run], tmp_path: Path) -> None:
    """Even another picture's results under the name that the forgery would have."""
    out = tmp_path / "50% of #1"
    (out / "forgery" / "lime").mkdir(parents=True)
    own = {
        out / "notes.txt": "mine",
        out / "forgery" / "own.png": "mine too",
        out / "forgery" / "lime" / "explanation.json": '{"source": "/elsewhere/forgery.png"}',
        tmp_path / "original.png": "beside",
    }
    for path, text in own.items():
        path.write_text(text)
    run = demonstrate(toy(tmp_path, -0.02, 100), out)
    assert {path: path.read_text() for path in own} == own
    assert {f.folder for f in run.demo.findings} == {f"50% of #1-forgery/{m}" for m in METHODS}
    reader = PageReader(out / "index.html")
    assert all((out / name).is_file() for name in reader.files if name != "data:,")
    # and once more: the same names, and nothing is left from before
    files = sorted(out.rglob("*"))
    demonstrate(run.detector, out)
    assert sorted(out.rglob("*")) == files


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["bundled", "real"])
def test_the_browser_has_nothing_to_say(
    runs: Callable[[str], Run], tmp_path: Path, name: str, width: int
) -> None:
    run = runs(name)
    seen = look_at(run.folder / "index.html", tmp_path, width)
    assert (seen.console, seen.missing, seen.overhang) == ([], [], 0)
    assert len(seen.pictures) == 3 + (run.demo.adversary is not None) + len(METHODS)
