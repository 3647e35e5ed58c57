"""One frame's coroutine: detect it, make its adversarial sample once, run each method."""

from __future__ import annotations

import functools
import hashlib
import platform
import zlib
from collections.abc import Generator
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .explainers import (
    ADVERSARIAL,
    BASELINES,
    AdversarialSample,
    Attribution,
    Nes,
    Scene,
    Target,
    base_name,
    baseline_image,
    options,
    region_map,
    region_means,
    trusted_nes,
)
from .explanation import Adversary, Explanation
from .media import Picture, fit_to, load_picture
from .perturbation import FloatArray, Pixels
from .request import Request, resolve_target
from .runtime import Detector, Promise

Asking = Generator[Any, FloatArray, None]


@dataclass(frozen=True)
class Link:
    """How a frame hangs on its neighbour in a clip: by the perturbation that made it *real*.

    NES begins with what `before` holds (None: at the frame itself), and `after` is kept with this
    frame's perturbation (None where there is none). `name` is the neighbour's.
    """

    before: Promise | None
    after: Promise
    name: str = ""


class _Frame:
    """One frame's state while its methods run: regions, baselines, counts, the one adversary."""

    def __init__(
        self, picture: Picture, frame: FloatArray, detector: Detector, request: Request
    ) -> None:
        self.picture = picture
        self.frame = frame
        self.detector = detector
        self.request = request
        self.key = int.from_bytes(hashlib.sha256(frame.tobytes()).digest()[:8], "little")
        self.counts: dict[str, int] = {}
        self.adversary: AdversarialSample | None = None
        self.start: str | None = None
        self.called_real = False
        self.nes = request.settings.nes
        self.trust = 1.0
        self.regions: NDArray[np.int32]

    def rng(self, stage: str) -> np.random.Generator:
        """Draws that depend on seed, frame and stage, never on what else is being explained."""
        return np.random.default_rng([self.request.seed, self.key, zlib.crc32(stage.encode())])

    def counted(self, coroutine: Generator[Any, FloatArray, Any], purpose: str) -> Any:
        """Delegate to a coroutine, adding up the images that it asks for."""
        scores = None
        while True:
            try:
                batch = coroutine.send(scores)  # type: ignore[arg-type]
            except StopIteration as stop:
                return stop.value
            self.counts[purpose] = self.counts.get(purpose, 0) + len(batch)
            scores = yield batch

    def baseline(self, name: str) -> FloatArray:
        """The baseline image (3, h, w) of that name, or from a picture's path."""
        if name not in BASELINES:
            return fit_to(load_picture(name).rgb, self.detector.size)
        neutral = self.detector.card.input.neutral_color
        return baseline_image(name, self.frame, self.regions, neutral, self.rng("noise"))


def explain_frame(
    picture: Picture,
    frame: FloatArray,
    detector: Detector,
    request: Request,
    link: Link | None = None,
) -> Asking:
    """The coroutine of one frame: detect it, make its adversarial sample once, run each method.

    With a `link`, its sample begins with the perturbation of the frame before it in the clip.
    """
    try:
        yield from _explain(_Frame(picture, frame, detector, request), link)
    finally:
        if link is not None:  # whoever waits goes on, whatever became of this frame
            link.after.keep(None)


def _explain(state: _Frame, link: Link | None) -> Asking:
    frame, detector, request = state.frame, state.detector, state.request
    log_probs = yield from state.counted(_detect(frame), "detection")
    predicted = int(log_probs.argmax())
    target = resolve_target(request.target, detector, predicted)
    state.called_real = predicted in detector.real
    state.regions = region_map(request.settings.regions, frame)
    for method in request.methods:
        adversarial = method.endswith(ADVERSARIAL) and not state.called_real
        if adversarial and state.adversary is None:
            nes = yield from _trusted(state)
            start = None
            if link is not None and link.before is not None:
                yield link.before
                start = link.before.value
                state.start = None if start is None else link.name
            attack = nes.attack(
                frame, detector.real, seed=request.seed, rng=state.rng("nes"), start=start
            )
            state.adversary = yield from state.counted(attack, "adversary")
            if link is not None:
                link.after.keep(state.adversary.image - frame)
        explainer = request.settings.explainer(base_name(method))
        baseline_name = "adversarial" if adversarial else request.baseline or explainer.baseline
        if adversarial:
            assert state.adversary is not None
            baseline = state.adversary.image
        else:
            baseline = state.baseline(baseline_name)
        scene = Scene(baseline, state.regions, state.rng(base_name(method)))
        asking = explainer.explain(frame, target, scene)
        attribution = yield from state.counted(asking, "explainer")
        yield _explanation(state, method, baseline_name, target, log_probs, attribution)
        state.counts = {}


def _trusted(state: _Frame) -> Generator[Any, FloatArray, Nes]:
    """NES's settings, with a larger σ where the detector's arithmetic asks for one."""
    detector, nes = state.detector, state.request.settings.nes
    if detector.exact:
        return nes
    choosing = trusted_nes(
        nes,
        state.frame,
        detector.real,
        seed=state.request.seed,
        rng=state.rng("sigma"),
        precision=detector.engine.precision,
    )
    state.nes, state.trust = yield from state.counted(choosing, "sigma")
    return state.nes


def _detect(frame: FloatArray) -> Generator[Pixels, FloatArray, FloatArray]:
    answer = yield Pixels(frame[None])
    log_probs: FloatArray = answer[0]
    return log_probs


def _explanation(
    state: _Frame,
    method: str,
    baseline: str,
    target: Target,
    log_probs: FloatArray,
    attribution: Attribution,
) -> Explanation:
    detector, request = state.detector, state.request
    card = detector.card
    adversary = state.adversary if baseline == "adversarial" else None
    scores = attribution.region_scores
    if scores is None:
        scores = region_means(attribution.heatmap, state.regions)
    explainer = request.settings.explainer(base_name(method))
    settings: dict[str, Any] = {"regions": request.settings.regions, "target": request.target}
    settings[explainer.name] = options(explainer)
    if adversary is not None:
        settings["nes"] = options(state.nes)
        if state.start is not None:
            settings["start"] = state.start
    return Explanation(
        source=state.picture.source,
        source_size=state.picture.size,
        method=method,
        baseline=baseline,
        target=target.name,
        predicted=card.classes[int(log_probs.argmax())],
        classes=card.classes,
        real=card.real,
        scores={
            name: float(np.exp(np.float64(value)))
            for name, value in zip(card.classes, log_probs, strict=True)
        },
        frame=state.frame,
        heatmap=attribution.heatmap,
        region_map=state.regions,
        region_scores=scores.astype(np.float32),
        adversary=None if adversary is None else _record(adversary),
        adversarial=None if adversary is None else adversary.image,
        images=sum(state.counts.values()),
        image_counts=dict(state.counts),
        seconds=0.0,
        seed=request.seed,
        settings=settings,
        detector={
            "name": card.name,
            "sha256": detector.sha256,
            "engine": detector.engine.name,
            "device": detector.engine.device,
            "precision": detector.engine.precision,
        },
        versions=_versions(),
        signed=explainer.signed,
        notes=_notes(state, method, baseline, adversary),
    )


def _record(sample: AdversarialSample) -> Adversary:
    """What an explanation keeps of its sample beside the image."""
    return Adversary(**{item.name: getattr(sample, item.name) for item in fields(Adversary)})


def _notes(
    state: _Frame, method: str, baseline: str, adversary: AdversarialSample | None
) -> tuple[str, ...]:
    notes = []
    if state.called_real:
        note = "the detector calls this picture real: there is nothing to flip"
        if method.endswith(ADVERSARIAL):
            note += f"; {method} hides pixels with the original baseline, {baseline}, instead"
        notes.append(note)
    if adversary is not None and not adversary.flipped:
        notes.append(
            f"not flipped: the adversarial sample is still called fake after {adversary.steps} "
            "steps, so what it hides is less than it should be"
        )
    if adversary is not None and state.trust < 1:
        notes.append(
            f"the detector computes in {state.detector.engine.precision}: NES searched at sigma "
            f"{state.nes.sigma:.3g}, where differences of scores correlate about "
            f"{state.trust:.2f} with exact ones"
        )
    height, width = state.picture.size
    want = state.detector.size
    if abs(height * want[1] - width * want[0]) > max(height * want[1], width * want[0]) * 0.02:
        notes.append(
            f"the picture was stretched from {width}×{height} to {want[1]}×{want[0]}: "
            "a face crop of the detector's shape explains better"
        )
    return tuple(notes)


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("whyfake", "numpy", "scipy", "scikit-image")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
