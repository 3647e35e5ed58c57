"""How a detector is best fed on this machine: found by a short measurement, and remembered.

Without a measurement a rule holds (see onnxruntime_engine.py), so that a fresh machine gives the
same bits as any other. A measured layout may change the last bits of scores; it is used where it
was measured on purpose, and a layout other than the rule's must be clearly faster, again and again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import cache_folder, cache_root, write_file
from .engine import Engine, cpu_count
from .throughput import Bare, Layout, layout_of, layouts

CLEARLY = 1.03
"""How much faster than the rule's a layout must be, in the median of ROUNDS rounds."""
ROUNDS = 5
AGAIN = 4
"""… and in so many of the rounds: a lucky one decides nothing."""
SECONDS = 2.0
"""What a measurement takes, about, beside opening the model."""
WORTH = 10
"""Work of so many times SECONDS is worth a measurement."""

_CPU_BATCHES = (1, 2, 4, 8)
_GPU_BATCHES = (16, 32, 64, 128)
_FOLDER = "layouts"

Open = Callable[[Layout], Engine]


@dataclass(frozen=True)
class Rate:
    """Images a second at one layout."""

    layout: Layout
    images_s: float


@dataclass(frozen=True)
class Found:
    """A layout and how it was come by: `rule`, `asked`, `remembered` or `measured`.

    `rates` is what was measured just now. `note` says what went wrong with remembering it, if
    anything.
    """

    layout: Layout
    how: str
    rates: tuple[Rate, ...] = field(default=(), repr=False)
    note: str = ""
    key: dict[str, Any] | None = field(default=None, repr=False)
    """What it is remembered by; None for an engine file, which has a layout of its own."""


def machine_key(digest: str, engine: Engine, threads: int | None) -> dict[str, Any]:
    """What a layout holds for: the graph that is run (its SHA-256), this machine, this engine."""
    return {
        "schema": 2,  # 1 was measured without pictures to compose
        "detector": digest,
        "processor": processor(),
        "cores": cpu_count(),
        "engine": engine.name,
        "device": engine.device,
        "threads": threads,
    }


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def remembered(key: dict[str, Any]) -> Layout | None:
    """The layout that was found for this; None where there is none, or it cannot be read."""
    try:
        stored = json.loads(_path(key, cache_root() / _FOLDER).read_text("utf-8"))
        layout = Layout(**stored["layout"])
        counts = [layout.batch, layout.lanes, layout.threads]
        if stored["key"] != key or not all(type(n) is int and 1 <= n <= 4096 for n in counts):
            return None
    except (OSError, ValueError, TypeError, KeyError):  # a cache: what is broken is not there
        return None
    return layout


def remember(key: dict[str, Any], layout: Layout, rates: tuple[Rate, ...]) -> Path:
    """Keep a layout for the next time; returns the file. Raises OutputError."""
    path = _path(key, cache_folder(_FOLDER))
    table = [{**asdict(rate.layout), "images_s": round(rate.images_s, 2)} for rate in rates]
    content = {"key": key, "layout": asdict(layout), "measured": table}
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def layout_from_record(record: Mapping[str, Any], threads: int | None) -> Layout | None:
    """The layout that results were made with, from what they keep of their detector.

    None, the rule's, where they keep none. The number of lanes changes no score: they are what
    `threads`, or the machine, has cores for, and on a GPU the rule's two.
    """
    batch, own = record.get("batch"), record.get("threads", 1)
    if type(batch) is not int or type(own) is not int or batch < 1 or own < 1:
        return None
    if str(record.get("device", "cpu")) != "cpu":
        return Layout(batch, 2, own)
    return Layout(batch, max(1, (threads or cpu_count()) // own), own)


def _path(key: dict[str, Any], folder: Path) -> Path:
    text = json.dumps(key, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def settle(
    engine: Engine,
    open_engine: Open,
    key: dict[str, Any],
    size: tuple[int, int],
    planned: int,
) -> tuple[Engine, Found]:
    """The engine at the layout that is remembered, or measured now where that is worth it.

    `engine` stands open at the rule's layout, for pictures of `size` (h, w); it comes back, or is
    closed and another one comes. `planned` is how many images will be asked at the least: where
    they will take WORTH times what a measurement does, and nothing is remembered, it is made.
    """
    rule = layout_of(engine)
    layout, found = remembered(key), Found(rule, "rule")
    if layout is not None and (engine.free_batch or layout.batch == rule.batch):
        found = Found(layout, "remembered")
    elif planned and planned > WORTH * SECONDS * _first_rate(engine, size):
        found = measure(open_engine, rule, size, engine)
        try:
            remember(key, found.layout, found.rates)
        except OutputError as error:  # it serves this run all the same, and the caller says so
            found = replace(found, note=str(error))
    found = replace(found, key=key)
    if found.layout == rule:
        return engine, found
    engine.close()
    return open_engine(found.layout), found


def _first_rate(engine: Engine, size: tuple[int, int]) -> float:
    """Images a second, roughly: the fastest of one lane's first runs, times the lanes."""
    feed = {engine.inputs[0]: engine.host_array((engine.batch, 3, *size))}
    fastest, deadline = float("inf"), time.perf_counter() + 0.1
    for _ in range(8):
        start = time.perf_counter()
        engine.run(feed)
        fastest = min(fastest, time.perf_counter() - start)
        if time.perf_counter() > deadline:
            break
    return engine.batch * engine.lanes / max(fastest, 1e-6)


def measure(
    open_engine: Open, rule: Layout, size: tuple[int, int], engine: Engine, seconds: float = SECONDS
) -> Found:
    """Try layouts for about `seconds`, and choose. Costs no images: the detector is not asked.

    `rule` is the layout to beat; `engine` says where it runs and whether its batch is free. On a
    CPU lanes compose pictures as well: while a lane does, the others run, and one lane of all cores
    has no others.
    """
    on_gpu = engine.device != "cpu"
    free = _GPU_BATCHES if on_gpu else _CPU_BATCHES
    tried = layouts(free if engine.free_batch else (rule.batch,), rule.lanes * rule.threads, on_gpu)
    others = [layout for layout in tried if layout != rule]
    share = seconds / 2 / (len(others) + 1)
    deadline = time.perf_counter() + 4 * seconds  # large models: a single run outlasts its share
    with Bare(open_engine, size) as bare:
        rates: list[Rate] = []
        for layout in (rule, *others):
            if rates and time.perf_counter() > deadline:
                break
            speed = bare.measure(layout, share, composed=not on_gpu)
            rates.append(Rate(layout, speed.images_s))
        best = max(rates, key=lambda rate: rate.images_s).layout
        chosen = choose(bare, [best], rule, seconds / 2, composed=not on_gpu)
    return Found(chosen, "measured", tuple(rates))


def choose(
    bare: Bare, candidates: Sequence[Layout], rule: Layout, seconds: float, *, composed: bool
) -> Layout:
    """The fastest candidate if it is clearly faster than the rule's, else that; in ROUNDS rounds of
    all of them, within `seconds` in all. `composed`: with pictures to compose (`Bare.measure`).
    """
    others = [layout for layout in candidates if layout != rule]
    if not others:
        return rule
    share = seconds / ROUNDS / (len(others) + 1)
    rounds = [
        {
            layout: bare.measure(layout, share, composed=composed).images_s
            for layout in (rule, *others)
        }
        for _ in range(ROUNDS)
    ]
    best = max(others, key=lambda layout: statistics.median(round_[layout] for round_ in rounds))
    pairs = [round_[best] / round_[rule] for round_ in rounds]
    clear = statistics.median(pairs) > CLEARLY and sum(pair > CLEARLY for pair in pairs) >= AGAIN
    return best if clear else rule
