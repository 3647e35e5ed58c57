"""One frame's coroutine: detect it, explain it, judge the explanations.

Every result is handed out as it comes; what the ledger holds already is not asked again. One
detection and one adversarial sample serve every method.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluate.controls import GAUSSIAN, RANDOM, centred_gaussian, face_parts, random_heat
from ..evaluate.manifest import FAKE, REAL
from ..evaluate.together import together
from ..evaluate.verdict import Case
from ..explainers import (
    ADVERSARIAL,
    AdversarialSample,
    Target,
    base_name,
    options,
    region_map,
    region_means,
)
from ..explainers.base import LabelMap
from ..ledger import Record, result_key
from ..making import detect
from ..perturbation import FloatArray
from ..runtime import Detector
from .judging import attacks, curves, localise
from .plan import CURVES, LOCALISATION, Plan
from .state import Asking, FrameState, Ranked, Task, array_of, trusted


def judge_frame(task: Task, detector: Detector, plan: Plan, known: Mapping[str, Record]) -> Asking:
    """The coroutine of one frame. A real frame, or one that is misclassified, is only detected."""
    state = FrameState(task, detector, plan, dict(known))
    found = yield from state.once("detection", "", {}, 0, _detect(task.frame))
    log_probs = np.array(found.value["log_probs"], np.float32)
    predicted = int(log_probs.argmax())
    accepted = accepted_columns(task.label, detector)
    if task.label == REAL or predicted not in accepted:
        return
    regions = region_map(plan.settings.regions, task.frame)
    target = Target(detector.card.classes[predicted], (predicted,))
    first: list[Ranked] = []
    for seed in plan.seeds:
        ranked = yield from _explanations(state, regions, target, seed)
        first = first or ranked
    case = Case(task.frame, regions, log_probs, target, detector.real, accepted, plan.seeds[0])
    if LOCALISATION in plan.parts and task.mask is not None:
        for item in first:
            yield from localise(state, regions, item)
    if CURVES in plan.parts:
        asking = [curves(state, regions, target, item) for item in first]
        yield from together(asking, width=state.width(plan.curve_parts))
    yield from attacks(state, case, first)


def accepted_columns(label: str, detector: Detector) -> tuple[int, ...]:
    """The columns that are right for a label: of `fake`, all but the real ones."""
    classes = range(len(detector.card.classes))
    if label == REAL:
        return detector.real
    if label == FAKE:
        return tuple(c for c in classes if c not in detector.real)
    return (detector.card.classes.index(label),)


def _detect(frame: FloatArray) -> Asking:
    log_probs = yield from detect(frame)
    return {"log_probs": [float(value) for value in log_probs]}, None


def _explanations(
    state: FrameState, regions: LabelMap, target: Target, seed: int
) -> Generator[Any, FloatArray, list[Ranked]]:
    """Every method's explanation, and on the first seed the controls."""
    plan, ranked = state.plan, []
    sample: FloatArray | None = None
    for method in plan.methods:
        settings = plan.explanation_settings(method)
        key = result_key(state.detector.sha256, state.hash, "explanation", method, settings, seed)
        if method.endswith(ADVERSARIAL) and sample is None and key not in state.known:
            sample = yield from _sample(state, seed)
        making = _explain(state, method, regions, target, seed, sample)
        record = yield from state.once("explanation", method, settings, seed, making)
        ranked.append(_ranked(record, regions))
    if seed == plan.seeds[0]:
        for control in plan.controls:
            if control in (RANDOM, GAUSSIAN) or state.task.landmarks is not None:
                heat = _control(state, control, regions, seed)
                settings = plan.explanation_settings(control)
                scores = region_means(heat, regions)
                making = _given(_scores_value(scores, heat))
                yield from state.once("explanation", control, settings, seed, making)
                ranked.append(Ranked(control, settings, heat, scores.astype(np.float32)))
    return ranked


def _sample(state: FrameState, seed: int) -> Generator[Any, FloatArray, FloatArray]:
    """The adversarial sample that all of this seed's adversarial forms share."""
    asked = state.plan.settings.attack()
    attack = yield from trusted(state, asked, seed)

    def make() -> Asking:
        made: AdversarialSample = yield from state.maker(seed).sample(attack)
        value = {
            "flipped": made.flipped,
            "steps": made.steps,
            "linf": made.linf,
            "score_before": made.score_before,
            "score_after": made.score_after,
        }
        return value, zlib.compress(made.image.tobytes())

    record = yield from state.once("sample", asked.name, options(asked), seed, make())
    return array_of(record, state.task.frame.shape)


def _explain(
    state: FrameState,
    method: str,
    regions: LabelMap,
    target: Target,
    seed: int,
    sample: FloatArray | None,
) -> Asking:
    explainer, maker = state.plan.settings.explainer(base_name(method)), state.maker(seed)
    if method.endswith(ADVERSARIAL):
        assert sample is not None
        baseline = sample
    else:
        baseline = maker.baseline(explainer.baseline, regions)
    found = yield from maker.attribution(explainer, target, regions, baseline)
    value = _scores_value(found.region_scores, found.heatmap)
    if found.confidence is not None:
        value["confidence"] = found.confidence
    return value, zlib.compress(found.heatmap.tobytes())


def _control(state: FrameState, name: str, regions: LabelMap, seed: int) -> FloatArray:
    """A control's heat; made anew each time, and so not kept."""
    if name == RANDOM:
        return random_heat(regions, state.maker(seed).rng(RANDOM))
    if name == GAUSSIAN:
        return centred_gaussian(*regions.shape)
    assert state.task.landmarks is not None
    return face_parts(regions.shape[0], regions.shape[1], state.task.landmarks)


def _given(value: dict[str, Any]) -> Asking:
    yield from ()  # it asks nothing
    return value, None


def _scores_value(scores: NDArray[np.float64], heatmap: FloatArray) -> dict[str, Any]:
    plain = [float(score) for score in scores.astype(np.float32)]
    return {"region_scores": plain, "shape": list(heatmap.shape)}


def _ranked(record: Record, regions: LabelMap) -> Ranked:
    scores = np.array(record.value["region_scores"])
    return Ranked(record.method, record.settings, array_of(record, regions.shape), scores)
