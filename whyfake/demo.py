"""The demonstration: forge a portrait, ask why it is called fake, hold the answer to the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batch import Failure, Saved, explain_to_folder
from .evaluate import Forgery, SelfBlend, ellipse_mask, energy_above_floor
from .explanation import Explanation
from .files import write_file
from .media import fit_to, printable
from .perturbation import FloatArray
from .report import Section, Tile, page, png_bytes
from .request import Request, make_request
from .results import Results
from .runtime import Detector

METHODS = ("lime-adv", "shap-adv", "sobol-adv", "rise-adv")
SIDE = 256
CROP = (slice(0, 220), slice(120, 340))  # the face in the picture that scikit-image ships
CENTRE, RADII = (128.0, 122.0), (70.0, 52.0)  # of the inner face in the crop: row, column
HOW = SelfBlend(colour=30.0, detail=0.35, ratios=(1.0,), side=0.0)


@dataclass(frozen=True)
class Finding:
    """How much of a method's heat lies in the true region: `energy`, and `gain` over chance.

    Both are None where no heat speaks for the target, as with a detector whose score does not move.
    `images` are those of the method alone; the adversarial sample is counted once for all.
    """

    method: str
    energy: float | None
    gain: float | None
    images: int
    seconds: float
    folder: str


@dataclass(frozen=True)
class Demo:
    """What a demonstration found, and where its page is.

    `area` is the true region's share of the frame; `p_fake` what the detector gives the original,
    the forgery and, where there is one, the adversarial sample; `images` all that were asked.
    """

    page: str
    seed: int
    area: float
    p_fake: Mapping[str, float]
    adversary: Mapping[str, Any] | None
    findings: tuple[Finding, ...]
    images: int
    detector: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def portrait() -> NDArray[np.uint8]:
    """NASA's portrait of Eileen Collins, her face: uint8 RGB (256, 256, 3). Public domain."""
    import cv2
    import skimage.data

    face = skimage.data.astronaut()[CROP]
    return np.asarray(cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


def forged_portrait(seed: int) -> Forgery:
    """The portrait with the inner face replaced by a changed copy of itself."""
    mask = ellipse_mask((SIDE, SIDE), CENTRE, RADII)
    return HOW.forge(portrait(), mask, np.random.default_rng([seed, 1999]))


def demo_request(seed: int) -> Request:
    """The four adversarial methods, asked why the forged portrait is called fake."""
    return make_request(METHODS, target="fake", seed=seed)


def run_demo(
    detector: Detector, request: Request, results: Results, tick: Callable[[], None] | None = None
) -> Demo:
    """Forge the portrait, explain it, and write pictures, explanations and `index.html`.

    Costs the images of the explanations and one more. Raises OutputError, DetectorError,
    EngineError.
    """
    forgery = forged_portrait(request.seed)
    folder = results.folder
    truth = forgery.region
    lit = np.where(truth[..., None], forgery.image, forgery.image // 4)
    pictures = {"original": forgery.original, "forgery": forgery.image, "truth": lit}
    for name, picture in pictures.items():
        write_file(folder / f"{name}.png", png_bytes(picture))
    found: list[Saved] = []
    source = str((folder / "forgery.png").absolute())
    for outcome in explain_to_folder(detector, [source], request, results, tick):
        if isinstance(outcome, Failure):
            raise outcome.error
        if isinstance(outcome, Saved):
            found.append(outcome)
    demo = _judge(detector, request, forgery, found, folder)
    first = found[0].explanation
    if first.adversarial is not None:
        write_file(folder / "adversarial.png", png_bytes(_bytes_of(first.adversarial)))
    else:  # one of an earlier run
        (folder / "adversarial.png").unlink(missing_ok=True)
    write_file(folder / "demo.json", (json.dumps(demo.to_dict(), indent=1) + "\n").encode())
    write_file(folder / "index.html", _page(demo, first, detector.card.notice).encode())
    return demo


def _judge(
    detector: Detector, request: Request, forgery: Forgery, found: list[Saved], folder: Path
) -> Demo:
    """Ask for the original's score, and measure each method's heat against the truth."""
    first = found[0].explanation
    region = np.repeat(forgery.region[..., None], 3, axis=2) * np.uint8(255)
    truth = fit_to(region, detector.size)[0] > 0.5
    area = float(truth.mean())
    log_probs = detector.log_probs(fit_to(forgery.original, detector.size)[None])[0]
    p_real = np.exp(log_probs[list(detector.real)].astype(np.float64)).sum()
    p_fake = {"original": 1 - float(p_real), "forgery": first.p_target}
    if first.adversary is not None:
        p_fake["adversarial"] = 1 - first.adversary.score_after
    findings = []
    for saved in sorted(found, key=lambda s: request.methods.index(s.explanation.method)):
        explanation = saved.explanation
        energy = energy_above_floor(explanation.heatmap, truth, signed=explanation.signed)
        findings.append(
            Finding(
                method=explanation.method,
                energy=None if np.isnan(energy) else energy,
                gain=None if np.isnan(energy) else energy / area,
                images=explanation.image_counts["explainer"],
                seconds=explanation.seconds,
                folder=saved.folder.relative_to(folder).as_posix(),
            )
        )
    return Demo(
        page=printable((folder / "index.html").absolute()),
        seed=request.seed,
        area=area,
        p_fake=p_fake,
        adversary=None if first.adversary is None else asdict(first.adversary),
        findings=tuple(findings),
        images=sum(saved.explanation.images for saved in found) + 1,
        detector=first.detector,
    )


def _page(demo: Demo, first: Explanation, notice: str) -> str:
    """The demonstration's page."""
    pictures = [
        Tile("original.png", "Original", (f"P(fake) {demo.p_fake['original']:.1%}",)),
        Tile("forgery.png", "Forgery", (f"P(fake) {demo.p_fake['forgery']:.1%}",)),
        Tile("truth.png", "True region", (f"{demo.area:.0%} of the frame was replaced",)),
    ]
    warnings = [notice] if notice else []
    if demo.adversary is not None:
        sample = demo.adversary
        fate = "called real" if sample["flipped"] else "NOT flipped: still called fake"
        lines = (
            f"P(fake) {demo.p_fake['adversarial']:.1%}, {fate}",
            f"{sample['steps']} steps of NES, {sample['images']:,} images",
            f"no pixel changed by more than {sample['linf'] * 255:.0f} of 255",
        )
        pictures.append(Tile("adversarial.png", "Adversarial sample", lines))
    warnings += first.notes
    answers = tuple(
        Tile(
            f"{finding.folder}/overlay.png",
            finding.method,
            (_in_words(finding), f"{finding.images:,} images"),
            share=finding.energy,
            mark=demo.area,
        )
        for finding in demo.findings
    )
    sections = [
        Section(
            "What the detector was shown",
            "NASA's portrait of Eileen Collins, and the same portrait with the inner face replaced "
            "by a copy of itself that is a little off in colour, detail and place.",
            tuple(pictures),
        ),
        Section(
            "What each method answers",
            ("Hidden pixels show the adversarial sample. " if demo.adversary else "")
            + "Bar: the share of heat inside the true region, measured from the bottom of the "
            "colour scale; line: the region's share of the frame, which is what chance would give.",
            answers,
        ),
    ]
    facts = [
        ("Images asked", f"{demo.images:,}"),
        ("Detector", f"{demo.detector['name']} ({demo.detector['sha256'][:12]})"),
        ("Run by", f"{demo.detector['engine']}, {demo.detector['device']}"),
        ("Seed", str(demo.seed)),
        ("Versions", ", ".join(f"{name} {number}" for name, number in first.versions.items())),
    ]
    said = "fake" if not first.called_real else "real"
    lead = [f"The forgery is called {said}. Do the explanations point at what was forged?"]
    title = "Why is this portrait called fake?" if said == "fake" else "Is this portrait fake?"
    return page(title, lead, sections, warnings, facts)


def _in_words(finding: Finding) -> str:
    if finding.energy is None or finding.gain is None:
        return "no heat that speaks for fake"
    return f"{finding.energy:.0%} of the heat in the true region, {finding.gain:.1f}× chance"


def _bytes_of(frame: FloatArray) -> NDArray[np.uint8]:
    """A frame (3, h, w) in [0, 1] as uint8 RGB (h, w, 3)."""
    pixels = np.rint(frame.transpose(1, 2, 0) * 255).clip(0, 255)
    return np.asarray(pixels, np.uint8)
