"""Judges one frame's explanations: against its mask, by deletion and insertion, and by attacks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..evaluate.deletion import area_under, deletion, heat_parts, insertion
from ..evaluate.localisation import (
    energy_above_floor,
    energy_in_mask,
    overlap,
    pointing_game,
    top_regions_precision,
)
from ..evaluate.radius import smallest_radius
from ..evaluate.together import together
from ..evaluate.top_regions import top_regions
from ..evaluate.verdict import Case, Judge, Verdict, judge
from ..explainers import Nes, Square, Target, options
from ..explainers.base import LabelMap
from ..ledger import canonical, digest
from .plan import ATTACKS, RADIUS, SECOND
from .state import Asking, FrameState, Ranked, trusted


def localise(state: FrameState, regions: LabelMap, item: Ranked) -> Asking:
    """A coroutine that asks nothing: the explanation against the mask."""
    mask = state.task.mask
    assert mask is not None
    settings = {
        "explanation": digest(item.settings),
        "mask": hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16],
    }

    def make() -> Asking:
        yield from ()  # it asks nothing
        value: dict[str, Any] = {
            "energy": energy_in_mask(item.heatmap, mask),
            "above": energy_above_floor(item.heatmap, mask, signed=item.signed),
            "pointing": pointing_game(item.heatmap, mask),
            "overlap": overlap(item.heatmap, mask),
            "area": float(mask.mean()),
        }
        for top in state.plan.tops:
            best = top_regions(item.region_scores, top, signed=item.signed)
            value[f"precision_{top}"] = top_regions_precision(regions, best, mask)
        return {key: None if number != number else number for key, number in value.items()}, None

    yield from state.once("localisation", item.method, settings, state.plan.seeds[0], make())


def curves(state: FrameState, regions: LabelMap, target: Target, item: Ranked) -> Asking:
    """A coroutine: deletion and insertion; 2·(parts + 1) images."""
    parts, seed = state.plan.curve_parts, state.plan.seeds[0]
    settings = {"explanation": digest(item.settings), "parts": parts}

    def make() -> Asking:
        maker = state.maker(seed)
        labels = heat_parts(item.heatmap, parts, maker.rng("curves"))
        gone, blurred = maker.baseline("zero", regions), maker.baseline("blur", regions)
        falling = yield from deletion(target, labels, gone)
        rising = yield from insertion(target, labels, blurred)
        value = {
            "deletion": area_under(falling),
            "insertion": area_under(rising),
            "deletion_curve": falling.tolist(),
            "insertion_curve": rising.tolist(),
        }
        return value, None

    yield from state.once("curves", item.method, settings, seed, make())


def attack_settings(attack: Judge, regions: str, labels: Sequence[int]) -> dict[str, Any]:
    """What an attack is keyed by: the judge and the regions, not whose top regions these are.

    So methods that agree share one attack.
    """
    return {**options(attack), "regions": regions, "labels": sorted(labels)}


def attacks(state: FrameState, case: Case, ranked: Sequence[Ranked]) -> Asking:
    """A coroutine: both judges on all top regions, in step, so that one frame fills a batch."""
    plan = state.plan
    wanted = {
        tuple(sorted(top_regions(item.region_scores, top, signed=item.signed)))
        for item in ranked
        for top in plan.tops
    }
    if ATTACKS in plan.parts:
        nes = yield from trusted(state, plan.attack, plan.seeds[0])
        assert isinstance(nes, Nes)
        running = [_attack(state, case, nes, plan.attack, labels) for labels in sorted(wanted)]
        yield from together(running, width=state.width(2 * nes.pairs + 1))
    if SECOND in plan.parts:
        square = plan.square
        running = [_attack(state, case, square, square, labels) for labels in sorted(wanted)]
        yield from together(running, width=state.width(1))


def _attack(
    state: FrameState, case: Case, attack: Judge, asked: Judge, labels: tuple[int, ...]
) -> Asking:
    """One attack and, by the first judge, the smallest radius that still flips.

    `asked` is the judge as the plan has it; `attack` may have a larger σ, as the detector needs it.
    """
    plan, seed = state.plan, state.plan.seeds[0]
    settings = attack_settings(asked, plan.settings.regions, labels)
    # the same draws whatever the regions: methods differ by their regions, not by luck
    stage = f"judge {asked.name} {canonical(options(asked))}"

    def make() -> Asking:
        verdict = yield from judge(attack, case, labels, state.maker(seed).rng(stage))
        return asdict(verdict), None

    record = yield from state.once("attack", asked.name, settings, seed, make())
    if RADIUS not in plan.parts or isinstance(attack, Square):
        return
    first = Verdict(**{**record.value, "labels": labels})

    def shrink() -> Asking:
        rng = state.maker(seed).rng(f"radius {stage}")
        smallest, _ = yield from smallest_radius(attack, case, first, rng, plan.radii)
        return {"smallest": smallest}, None

    wider = {**settings, "radii": list(plan.radii)}
    yield from state.once("radius", asked.name, wider, seed, shrink())
