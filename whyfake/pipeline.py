"""Joins frames, explainers and the detector: from pictures to explanations."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import PictureError, UsageError, WhyfakeError, unknown
from .explainers import (
    ADVERSARIAL,
    BASELINES,
    METHODS,
    AdversarialSample,
    Attribution,
    Scene,
    Target,
    baseline_image,
    check_baseline,
    options,
    parse_regions,
    region_map,
    region_means,
)
from .explanation import FAKE, Adversary, Explanation
from .media import Picture, fit_to, load_picture, picture_from_array
from .perturbation import FloatArray, Pixels
from .runtime import Delivered, Detector, Failed, Job, run
from .settings import Settings

PREDICTED = "predicted"
Image = str | Path | NDArray[np.uint8] | Picture
Asking = Generator[Any, FloatArray, None]


@dataclass(frozen=True)
class Request:
    """What is wanted of every frame: methods, target, baseline, seed and settings.

    `methods` are names out of `whyfake.explainers.METHODS`; `target` is `predicted`, `fake` or a
    class; `baseline` replaces that of the original forms. Raises UsageError.
    """

    methods: tuple[str, ...]
    target: str = PREDICTED
    baseline: str | None = None
    seed: int = 0
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, got {self.seed}")
        if self.baseline is not None:
            check_baseline(self.baseline)
            if all(name.endswith(ADVERSARIAL) for name in self.methods):
                raise UsageError(
                    f"{', '.join(self.methods)}: the adversarial form has its own baseline; "
                    f"leave out the baseline, or ask for {self.methods[0][: -len(ADVERSARIAL)]}"
                )

    def images(self) -> int:
        """The most images that one frame can cost."""
        explainers = [self.settings.explainer(_base(name)) for name in self.methods]
        nes = self.settings.nes.images() if self.adversarial else 0
        return 1 + nes + sum(explainer.images() for explainer in explainers)

    @property
    def adversarial(self) -> bool:
        """Whether any method wants the adversarial sample."""
        return any(name.endswith(ADVERSARIAL) for name in self.methods)


def parse_methods(text: str | Sequence[str], baseline: str | None = None) -> tuple[str, ...]:
    """Method names from `lime-adv,rise`, a list of names, or `all`. Raises UsageError.

    With baseline `adversarial`, original forms become adversarial ones.
    """
    names = text.split(",") if isinstance(text, str) else list(text)
    names = [name.strip().lower() for name in names if name.strip()]
    if not names:
        raise UsageError(f"name at least one method: all, {', '.join(METHODS)}")
    if "all" in names:
        names = list(METHODS)
    for name in names:
        if name not in METHODS:
            raise UsageError(unknown("method", name, (*METHODS, "all")))
    if baseline == "adversarial":
        names = [_base(name) + ADVERSARIAL for name in names]
    return tuple(dict.fromkeys(names))


def make_request(
    method: str | Sequence[str],
    *,
    target: str = PREDICTED,
    baseline: str | None = None,
    regions: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Request:
    """A checked request from a caller's words. Raises UsageError."""
    methods = parse_methods(method, baseline)
    settings = settings or Settings()
    if regions is not None:
        settings = dataclasses.replace(settings, regions=regions)
    own = None if baseline == "adversarial" else baseline
    return Request(methods, target, own, seed, settings)


def explain(
    detector: Detector,
    image: Image,
    *,
    method: str = "lime-adv",
    target: str = PREDICTED,
    baseline: str | None = None,
    regions: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Explanation:
    """Explain one picture: a path, or a uint8 RGB array (H, W, 3).

    `method` is one name out of `whyfake.METHODS`; `target` is `predicted`, `fake` or a class name;
    `baseline` a name or a picture's path; `regions` as `slic:50`, `grid:8`, `quickshift` or a .npy
    file. Costs `explanation.images`. The same seed gives the same result to the bit. Raises
    PictureError, UsageError, DetectorError, EngineError.
    """
    if len(parse_methods(method)) != 1:
        raise UsageError(f"explain takes one method, got '{method}': use explain_many")
    [explanation] = explain_many(
        detector,
        [image],
        method=method,
        target=target,
        baseline=baseline,
        regions=regions,
        seed=seed,
        settings=settings,
    )
    return explanation


def explain_many(
    detector: Detector,
    images: Iterable[Image],
    *,
    method: str | Sequence[str] = "lime-adv",
    target: str = PREDICTED,
    baseline: str | None = None,
    regions: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    on_error: Callable[[str, WhyfakeError], None] | None = None,
) -> Iterator[Explanation]:
    """Explain many pictures together; yields in their order, method by method.

    Takes what `explain` takes; `method` may name several (`"lime-adv,rise"`, a list, `"all"`),
    which then share one adversarial sample a picture. `images` is read lazily. A picture that fails
    raises its error, or goes to `on_error(source, error)` where that is given: the rest goes on.
    """
    request = make_request(
        method, target=target, baseline=baseline, regions=regions, seed=seed, settings=settings
    )
    held: dict[int, list[Explanation]] = {}
    ended: set[int] = set()
    turn = 0
    for outcome in explain_events(detector, images, request):
        if isinstance(outcome.value, WhyfakeError):
            if on_error is None:
                raise outcome.value
            on_error(outcome.source, outcome.value)
        elif outcome.value is not None:
            held.setdefault(outcome.index, []).append(outcome.value)
        if outcome.last:
            ended.add(outcome.index)
        while turn in held or turn in ended:
            yield from held.pop(turn, ())
            if turn not in ended:
                break
            ended.remove(turn)
            turn += 1


@dataclass(frozen=True)
class Outcome:
    """What became of picture `index`: an explanation, an error, or (`last`, None) its end."""

    index: int
    source: str
    value: Explanation | WhyfakeError | None
    last: bool


def explain_events(
    detector: Detector,
    images: Iterable[Image],
    request: Request,
    tick: Callable[[], None] | None = None,
) -> Iterator[Outcome]:
    """Explain pictures together and hand out each explanation as soon as it is there.

    Errors of a picture are outcomes, not exceptions. Raises UsageError for what is wrong with the
    request itself. `tick` is called a few times a second.
    """
    check_request(request, detector)
    sources: dict[int, str] = {}
    unread: list[Outcome] = []

    def jobs() -> Iterator[Job]:
        for index, image in enumerate(images):
            try:
                picture = _picture(image)
                frame = fit_to(picture.rgb, detector.size)
            except PictureError as error:
                unread.append(Outcome(index, _name(image), error, last=True))
                continue
            sources[index] = picture.source
            yield Job(index, frame, _explain_frame(picture, frame, detector, request))

    for event in run(detector, jobs(), tick=tick):
        yield from unread
        unread.clear()
        source = sources[event.key]
        if isinstance(event, Failed):
            yield Outcome(event.key, source, event.error, last=True)
        elif isinstance(event, Delivered) and event.last:
            yield Outcome(event.key, source, None, last=True)
        else:
            value = dataclasses.replace(event.value, seconds=round(event.seconds, 4))
            yield Outcome(event.key, source, value, last=False)
    yield from unread


def _picture(image: Image) -> Picture:
    if isinstance(image, Picture):
        return image
    if isinstance(image, np.ndarray):
        return picture_from_array(image)
    return load_picture(image)


def _name(image: Image) -> str:
    if isinstance(image, Picture):
        return image.source
    return "<array>" if isinstance(image, np.ndarray) else str(image)


def check_request(request: Request, detector: Detector) -> None:
    """Raise UsageError or PictureError for a request that no picture can meet on this detector."""
    resolve_target(request.target, detector, 0)
    if parse_regions(request.settings.regions)[0] in ("grid", "file"):
        region_map(request.settings.regions, np.zeros((3, *detector.size), np.float32))
    if request.baseline is not None and request.baseline not in BASELINES:
        load_picture(request.baseline)


def resolve_target(name: str, detector: Detector, predicted: int) -> Target:
    """The target called `name`; `predicted` is the column that the detector ranks first.

    Raises UsageError for a class that the detector does not have.
    """
    classes = detector.card.classes
    if name == PREDICTED:
        return Target(classes[predicted], (predicted,))
    if name == FAKE:
        others = [c for c in range(len(classes)) if c not in detector.real]
        return Target(FAKE, tuple(others))
    if name not in classes:
        raise UsageError(unknown("class", name, (*dict.fromkeys((*classes, FAKE, PREDICTED)),)))
    return Target(name, (classes.index(name),))


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
        self.called_real = False
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


def _explain_frame(
    picture: Picture, frame: FloatArray, detector: Detector, request: Request
) -> Asking:
    """The coroutine of one frame: detect it, make its adversarial sample once, run each method."""
    state = _Frame(picture, frame, detector, request)
    log_probs = yield from state.counted(_detect(frame), "detection")
    predicted = int(log_probs.argmax())
    target = resolve_target(request.target, detector, predicted)
    state.called_real = predicted in detector.real
    state.regions = region_map(request.settings.regions, frame)
    for method in request.methods:
        adversarial = method.endswith(ADVERSARIAL) and not state.called_real
        if adversarial and state.adversary is None:
            attack = request.settings.nes.attack(
                frame, detector.real, seed=request.seed, rng=state.rng("nes")
            )
            state.adversary = yield from state.counted(attack, "adversary")
        explainer = request.settings.explainer(_base(method))
        baseline_name = "adversarial" if adversarial else request.baseline or explainer.baseline
        if adversarial:
            assert state.adversary is not None
            baseline = state.adversary.image
        else:
            baseline = state.baseline(baseline_name)
        scene = Scene(baseline, state.regions, state.rng(_base(method)))
        asking = explainer.explain(frame, target, scene)
        attribution = yield from state.counted(asking, "explainer")
        yield _explanation(state, method, baseline_name, target, log_probs, attribution)
        state.counts = {}


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
    explainer = request.settings.explainer(_base(method))
    settings: dict[str, Any] = {"regions": request.settings.regions, "target": request.target}
    settings[explainer.name] = options(explainer)
    if adversary is not None:
        settings["nes"] = options(request.settings.nes)
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
        adversary=None if adversary is None else _adversary(adversary),
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
        },
        versions=_versions(),
        notes=_notes(state, method, baseline, adversary),
    )


def _adversary(sample: AdversarialSample) -> Adversary:
    return Adversary(
        flipped=sample.flipped,
        steps=sample.steps,
        images=sample.images,
        linf=sample.linf,
        score_before=sample.score_before,
        score_after=sample.score_after,
    )


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
    height, width = state.picture.size
    want = state.detector.size
    if abs(height * want[1] - width * want[0]) > max(height * want[1], width * want[0]) * 0.02:
        notes.append(
            f"the picture was stretched from {width}×{height} to {want[1]}×{want[0]}: "
            "a face crop of the detector's shape explains better"
        )
    return tuple(notes)


def _base(method: str) -> str:
    return method.removesuffix(ADVERSARIAL)


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("whyfake", "numpy", "scipy", "scikit-image")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
