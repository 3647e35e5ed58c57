"""One frame's coroutine: detect it, make its adversarial sample once, run each method."""

from __future__ import annotations

import functools
import platform
from collections.abc import Generator
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np

from .explainers import (
    ADVERSARIAL,
    AdversarialSample,
    Target,
    base_name,
    nes_in,
    options,
    region_map,
)
from .explanation import Adversary, Explanation
from .later import Later
from .making import Found, Maker, counted, detect
from .media import Picture
from .perturbation import FloatArray
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
        self.maker = Maker(frame, detector, request.seed)
        self.counts: dict[str, int] = {}
        self.adversary: AdversarialSample | None = None
        self.start: str | None = None
        self.called_real = False
        self.attack = request.settings.attack()
        self.trust = 1.0
        self.regions = Later(lambda: region_map(request.settings.regions, frame))

    def counted(self, coroutine: Generator[Any, FloatArray, Any], purpose: str) -> Any:
        """Delegate to a coroutine, adding up the images that it asks for."""
        made, images = yield from counted(coroutine)
        if images:
            self.counts[purpose] = self.counts.get(purpose, 0) + images
        return made


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
    detector, request, maker = state.detector, state.request, state.maker
    yield state.regions
    log_probs = yield from state.counted(detect(state.frame), "detection")
    predicted = int(log_probs.argmax())
    target = resolve_target(request.target, detector, predicted)
    state.called_real = predicted in detector.real
    for method in request.methods:
        adversarial = method.endswith(ADVERSARIAL) and not state.called_real
        if adversarial and state.adversary is None:
            yield from _make_sample(state, link)
        explainer = request.settings.explainer(base_name(method))
        baseline_name = "adversarial" if adversarial else request.baseline or explainer.baseline
        if adversarial:
            assert state.adversary is not None
            baseline = state.adversary.image
        else:
            baseline = maker.baseline(baseline_name, state.regions)
        asking = maker.attribution(explainer, target, state.regions, baseline)
        found = yield from state.counted(asking, "explainer")
        yield _explanation(state, method, baseline_name, target, log_probs, found)
        state.counts = {}


def _make_sample(state: _Frame, link: Link | None) -> Asking:
    """The sample that all adversarial forms share, from the neighbour's where there is one."""
    choosing = state.maker.trusted(state.attack)
    state.attack, state.trust = yield from state.counted(choosing, "sigma")
    start = None
    if link is not None and link.before is not None:
        yield link.before
        start = link.before.value
        state.start = None if start is None else link.name
    making = state.maker.sample(state.attack, start)
    state.adversary = yield from state.counted(making, "adversary")
    if link is not None:
        link.after.keep(state.adversary.image - state.frame)


def _explanation(
    state: _Frame,
    method: str,
    baseline: str,
    target: Target,
    log_probs: FloatArray,
    found: Found,
) -> Explanation:
    detector, request = state.detector, state.request
    card = detector.card
    adversary = state.adversary if baseline == "adversarial" else None
    explainer = request.settings.explainer(base_name(method))
    settings: dict[str, Any] = {"regions": request.settings.regions, "target": request.target}
    settings[explainer.name] = options(explainer)
    if adversary is not None:
        settings[state.attack.name] = options(state.attack)
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
        heatmap=found.heatmap,
        region_map=state.regions.get(),
        region_scores=found.region_scores.astype(np.float32),
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
            "composition": detector.engine.composition,
            "batch": detector.engine.batch,
            "threads": detector.engine.threads,
        },
        versions=_versions(),
        signed=explainer.signed,
        notes=_notes(state, method, baseline, adversary),
        confidence=found.confidence,
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
    nes = nes_in(state.attack)
    if adversary is not None and nes is not None and state.trust < 1:
        notes.append(
            f"the detector computes in {state.detector.engine.precision}: NES searched at sigma "
            f"{nes.sigma:.3g}, where differences of scores correlate about "
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
