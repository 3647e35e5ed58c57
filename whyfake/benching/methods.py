"""Runs each method on one frame and on many, against the bare engine before, amid and after."""

from __future__ import annotations

import dataclasses
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..card import DetectorCard
from ..errors import UsageError, WhyfakeError
from ..explainers import METHODS, Nes
from ..pipeline import explain_events
from ..request import make_request
from ..runtime import Detector, Gate
from ..runtime.throughput import Bare, Layout, Speed
from ..settings import Settings
from .memory import forget_peak, peak_mb

MANY = 32
"""Frames in flight where there are many."""
_SHARE = 256
"""Images of each of many frames at the least, where its method's budget is not smaller."""
_SIDE = 256
_SLICE = 0.2
"""How long the bare engine is measured at a time beside a run, of `Shortened.seconds`."""
_APART = 0.4
"""How long the run goes on in between."""

Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Shortened:
    """How much is measured. `images`: of each method, and the most of NES (their own budgets by
    default; on a detector that never flips NES takes all its steps); `seconds`: of each raw
    measurement; `repeats`: of each method. Raises UsageError.
    """

    methods: Sequence[str] = METHODS
    images: int | None = None
    seconds: float = 1.0
    repeats: int = 1
    many: bool = True

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 4:
            raise UsageError(f"images must be 4 or more, got {self.images}")
        if self.repeats < 1:
            raise UsageError(f"repeats must be 1 or more, got {self.repeats}")

    def settings(self, frames: int) -> Settings:
        """Settings for each of `frames` frames: of many, a share of one's images, but not so few
        that what every frame costs anyhow (its superpixels) is most of what is measured.
        """
        plain = Settings()
        nes = plain.nes
        if self.images is not None:
            plain = plain.with_budget(self.images)
            nes = _shorter(nes, self.images)
        if frames > 1:
            most = plain.rise.images()
            share = max(most // frames, min(_SHARE, most))
            least = min(4 * (plain.sobol.grid**2 + 2), plain.sobol.images())  # or it asks nothing
            plain = plain.with_budget(share)
            sobol = plain.sobol.with_budget(max(share, least))
            plain = dataclasses.replace(plain, sobol=sobol)
            nes = _shorter(nes, nes.images() // frames)
        return dataclasses.replace(plain, nes=nes)


def _shorter(nes: Nes, images: int) -> Nes:
    steps = max(1, (images - 1) // (2 * nes.pairs + 1))
    return dataclasses.replace(nes, steps=min(nes.steps, steps))


@dataclass(frozen=True)
class Timed:
    """One run of a method on `frames` frames at once, as it was measured.

    `cpu_seconds`: of all threads; `host`: the lanes' seconds by stage, in sum.
    """

    method: str
    frames: int
    images: int
    seconds: float
    cpu_seconds: float
    host: dict[str, float]
    bytes_in: int
    bytes_out: int
    peak_mb: float | None


@dataclass(frozen=True)
class MethodRun(Timed):
    """A run held to the bare engine.

    `efficiency` = (images ÷ raw_images_s) ÷ seconds, raw being the mean of right before and right
    after, of the layout that was the fastest over all runs. `cpu_efficiency` is the same of CPU
    time, which a busy machine blurs less: what composing and all else take of the cores; None on
    GPUs.
    """

    raw_images_s: float
    efficiency: float
    cpu_efficiency: float | None


def run_methods(
    open_detector: Callable[[DetectorCard | None], Detector],
    bare: Bare,
    rivals: Sequence[Layout],
    wanted: Shortened,
    step: Step,
) -> list[MethodRun]:
    """Every method, `wanted.repeats` times, on one frame and then on MANY together.

    `rivals`: the layouts that may be the fastest; all methods are held to the one whose median over
    all measurements is the highest. Each run to whichever was faster just then would be held to
    its luck: the best of two noisy numbers is higher than either.
    """
    timed: list[tuple[Timed, list[Speed]]] = []
    with calls_it_fake(open_detector) as detector:
        frames = [count for count in (1, MANY) if count == 1 or wanted.many]
        total = len(frames) * wanted.repeats * len(wanted.methods)
        for method in wanted.methods:  # what is imported or built at first use is not to be timed
            _explain(detector, portraits(1), method, 0, _tiny())
        for count in frames:
            pictures = portraits(count)
            for repeat in range(wanted.repeats):
                for method in wanted.methods:
                    step(f"{method}, {count} frame{'s' * (count > 1)}", len(timed), total)
                    timed.append(_timed(detector, bare, rivals, wanted, method, pictures, repeat))
    speeds = [statistics.median(own[n].images_s for _, own in timed) for n in range(len(rivals))]
    fastest = speeds.index(max(speeds))
    return [_held_to(run, own[fastest]) for run, own in timed]


def _timed(
    detector: Detector,
    bare: Bare,
    rivals: Sequence[Layout],
    wanted: Shortened,
    method: str,
    pictures: list[NDArray[np.uint8]],
    seed: int,
) -> tuple[Timed, list[Speed]]:
    """One run, and the mean speed of each rival before, amid and after it."""
    settings = wanted.settings(len(pictures))
    beside = _Beside(bare, rivals, wanted.seconds)
    seen, stages, up = detector.images_seen, detector.stages.copy(), detector.bytes_up
    tells = forget_peak()
    with beside:
        start, cpu = time.perf_counter(), time.process_time()
        _explain(detector, pictures, method, seed, settings, beside.gate)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    top = peak_mb() if tells else None
    spent = detector.stages.since(stages)
    run = Timed(
        method=method,
        frames=len(pictures),
        images=detector.images_seen - seen,
        seconds=round(wall - beside.gate.stood / detector.engine.lanes, 4),
        cpu_seconds=round(cpu - beside.cpu_seconds, 4),
        host={name: round(value, 4) for name, value in spent.seconds().items()},
        bytes_in=detector.bytes_up - up,
        bytes_out=spent.bytes_out,
        peak_mb=top,
    )
    return run, beside.speeds()


class _Beside:
    """Measures the bare engine before a run, again and again amid it, and after it.

    Other tenants of a machine change its speed within a second or two; what lies close together in
    time they change alike. Amid the run its lanes stand still meanwhile, and that is not counted.
    """

    def __init__(self, bare: Bare, rivals: Sequence[Layout], seconds: float) -> None:
        self.gate = Gate()
        self.cpu_seconds = 0.0
        self._bare = bare
        self._rivals = rivals
        self._seconds = seconds
        self._found: list[list[Speed]] = []
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="beside", daemon=True)

    def __enter__(self) -> None:
        self._measure()
        self._thread.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        if kind is None:
            self._measure()

    def _watch(self) -> None:
        try:
            while not self._ended.wait(_APART * self._seconds):
                with self.gate.stopped():
                    cpu = time.process_time()
                    self._measure()
                    self.cpu_seconds += time.process_time() - cpu
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._failure = error

    def _measure(self) -> None:
        share = _SLICE * self._seconds
        self._found.append([self._bare.measure(layout, share) for layout in self._rivals])

    def speeds(self) -> list[Speed]:
        """The mean speed of each rival."""
        return [_mean([found[n] for found in self._found]) for n in range(len(self._rivals))]


def _mean(speeds: list[Speed]) -> Speed:
    own = [speed.cpu_s for speed in speeds if speed.cpu_s is not None]
    return Speed(
        statistics.fmean(speed.images_s for speed in speeds),
        statistics.fmean(own) if len(own) == len(speeds) else None,
    )


def _held_to(run: Timed, raw: Speed) -> MethodRun:
    return MethodRun(
        **vars(run),
        raw_images_s=round(raw.images_s, 2),
        efficiency=round(run.images / raw.images_s / run.seconds, 4),
        cpu_efficiency=(
            None if raw.cpu_s is None else round(run.images * raw.cpu_s / run.cpu_seconds, 4)
        ),
    )


def _explain(
    detector: Detector,
    pictures: list[NDArray[np.uint8]],
    method: str,
    seed: int,
    settings: Settings,
    gate: Gate | None = None,
) -> bool:
    """Explain pictures, all in flight together; whether the first was called real."""
    request = make_request(method, seed=seed, settings=settings)
    real = False
    for outcome in explain_events(detector, pictures, request, in_flight=len(pictures), gate=gate):
        if isinstance(outcome.value, WhyfakeError):
            raise outcome.value
        if outcome.value is not None and outcome.index == 0:
            real = outcome.value.called_real
    return real


def calls_it_fake(open_detector: Callable[[DetectorCard | None], Detector]) -> Detector:
    """The detector, with `real` put on the other class if it calls the picture real.

    The adversarial forms have work to do only on what is called fake; for speed it does not matter
    which class is called what.
    """
    detector = open_detector(None)
    if not _explain(detector, portraits(1), "lime", 0, _tiny()):
        return detector
    card = dataclasses.replace(detector.card, real=detector.card.fake)
    detector.close()
    return open_detector(card)


def _tiny() -> Settings:
    """Settings that cost next to nothing."""
    return Settings(nes=Nes(steps=1)).with_budget(4)


def portraits(count: int) -> list[NDArray[np.uint8]]:
    """Crops of a portrait that may be used freely: the astronaut, NASA, from scikit-image."""
    import skimage.data

    whole = skimage.data.astronaut()
    return [
        np.ascontiguousarray(whole[n : n + _SIDE, 96 + n : 96 + n + _SIDE]) for n in range(count)
    ]
