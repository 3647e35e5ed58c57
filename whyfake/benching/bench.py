"""Measures the bare engine over layouts, then every method against the fastest of them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..card import DetectorCard
from ..errors import WhyfakeError
from ..models import model_file
from ..request import make_request
from ..runtime import Detector, load_detector
from ..runtime.layout import Rate, choose, remember
from ..runtime.load import is_engine
from ..runtime.throughput import Bare, Layout, layout_of, layouts
from .methods import MethodRun, Shortened, Step, run_methods
from .roofline import flops_a_picture, peak

BATCHES = (1, 2, 4, 8, 16, 32)
GPU_BATCHES = (1, 8, 32, 64, 128, 256)
FINALISTS = 3
"""How many of the fastest layouts are measured again, beside the rule's, before one is chosen."""
CHOOSING = 10
"""How many times as long that takes, in all, as one raw measurement."""


@dataclass(frozen=True)
class RawRate:
    """The bare engine at one layout; `fraction` is that of the GPU's peak, where it is known."""

    layout: Layout
    images_s: float
    flop_s: float | None
    fraction: float | None


@dataclass
class Bench:
    """All that was measured of one detector."""

    detector: dict[str, Any]
    gflops: float | None
    best: Layout
    used: Layout
    """What the methods ran at: `best` where it clearly beat the rule's."""
    note: str
    """Where that is remembered, or why not."""
    raw: list[RawRate] = field(default_factory=list)
    runs: list[MethodRun] = field(default_factory=list)

    def median(self, method: str, frames: int, value: str = "efficiency") -> float | None:
        """The median of a value over repeats; None where it was not measured."""
        mine = [r for r in self.runs if r.method == method and r.frames == frames]
        values = [v for v in (getattr(run, value) for run in mine) if v is not None]
        return statistics.median(values) if values else None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, medians included."""
        content = dataclasses.asdict(self)
        content["median_efficiency"] = {
            f"{frames} frame{'s' * (frames > 1)}": {
                method: self.median(method, frames)
                for method in dict.fromkeys(run.method for run in self.runs)
            }
            for frames in sorted({run.frames for run in self.runs})
        }
        return content


@dataclass(frozen=True)
class Opening:
    """How the detector is opened: what `load_detector` takes."""

    model: str
    card: Path | None = None
    device: str = "auto"
    threads: int | None = None
    compose: str = "auto"

    def open(self, layout: Layout | None = None, card: DetectorCard | None = None) -> Detector:
        """The detector at a layout, or at the rule's; an engine file at its own."""
        return load_detector(
            self.model,
            card=card or self.card,
            device=self.device,
            threads=self.threads,
            compose=self.compose,
            layout=None if is_engine(self.model) else layout,
            tune=False,
        )


def bench(
    opening: Opening, wanted: Shortened, step: Step = lambda text, done, total: None
) -> Iterator[RawRate | MethodRun | Bench]:
    """Measure, and yield each result as it is there, the whole of it last.

    The layout that was found is remembered as soon as it is known. `step` is told what is being
    measured, and how far that is. Raises what load_detector does, and UsageError.
    """
    for method in wanted.methods:
        make_request(method)
    with opening.open() as first:
        engine, found, size = first.engine, first.layout, first.size
        about = {
            "name": first.card.name,
            "sha256": first.sha256,
            "size": list(size),
            "engine": engine.name,
            "device": engine.device,
            "precision": engine.precision,
            "compose": opening.compose,
        }
        rule = layout_of(engine)
        tried = _tried(first)
    cost = None if is_engine(opening.model) else flops_a_picture(model_file(opening.model))
    most = None if engine.device == "cpu" else peak(_gpu_name(engine.device), engine.precision)

    def bare_engine() -> Bare:
        return Bare(lambda layout: opening.open(layout).engine, size)

    with bare_engine() as bare:
        raw = []
        for done, layout in enumerate(tried):
            step(str(layout), done, len(tried))
            speeds = [bare.measure(layout, wanted.seconds / 3).images_s for _ in range(3)]
            raw.append(_raw_rate(layout, statistics.median(speeds), cost, most))
            yield raw[-1]
        fastest = [row.layout for row in sorted(raw, key=lambda row: -row.images_s)]
        best = fastest[0]
        step("choosing", len(tried), len(tried))
        composed = about["device"] == "cpu"
        finalists, seconds = fastest[:FINALISTS], CHOOSING * wanted.seconds
        used, note = choose(bare, finalists, rule, seconds, composed=composed), ""
        if found.key is not None:
            try:
                rates = tuple(Rate(row.layout, row.images_s) for row in raw)
                note = f"remembered in {remember(found.key, used, rates)}"
            except WhyfakeError as error:
                note = f"not remembered: {error}"
    whole = Bench(about, None if cost is None else cost / 1e9, best, used, note, raw)

    def open_used(card: DetectorCard | None) -> Detector:
        return opening.open(used, card)

    # anew: large batches leave large arenas, which are not the methods'
    with bare_engine() as bare:
        # noise may have made another layout than the fastest the best: it is not to flatter
        rivals = list(dict.fromkeys((best, used, rule)))
        whole.runs = run_methods(open_used, bare, rivals, wanted, step)
    yield from whole.runs
    yield whole


def _tried(detector: Detector) -> list[Layout]:
    """The layouts to measure: of an engine that fixes its batch, those with that batch."""
    engine = detector.engine
    rule, on_gpu = layout_of(engine), engine.device != "cpu"
    if detector.layout.key is None:  # an engine file: it has one batch and its own lanes
        return [rule]
    batches = (GPU_BATCHES if on_gpu else BATCHES) if engine.free_batch else (rule.batch,)
    found = layouts(batches, rule.lanes * rule.threads, on_gpu)
    return found if rule in found else [rule, *found]


def _raw_rate(layout: Layout, images_s: float, cost: float | None, most: float | None) -> RawRate:
    flop_s = None if cost is None else images_s * cost
    fraction = None if flop_s is None or most is None else flop_s / most
    return RawRate(layout, round(images_s, 2), flop_s, fraction)


def _gpu_name(device: str) -> str:
    """What the driver calls a device such as cuda:1; nothing where it cannot be asked."""
    from ..runtime.cuda import devices

    try:
        return str(devices()[int(device.rpartition(":")[2])]["name"])
    except (WhyfakeError, IndexError, ValueError):  # without a name there is no roofline
        return ""
