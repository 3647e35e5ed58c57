"""Joins frames, explainers and the detector: from pictures to explanations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import PictureError, UsageError, WhyfakeError
from .explanation import Explanation
from .frame import Link, explain_frame
from .media import Picture, fit_to, load_picture, picture_from_array, printable
from .request import PREDICTED, Request, check_request, make_request, parse_methods
from .runtime import Delivered, Detector, Failed, Gate, Job, run
from .settings import Settings

Image = str | Path | NDArray[np.uint8] | Picture


@dataclass(frozen=True, eq=False)
class Linked:
    """A picture out of a clip, and its link to the one before it."""

    picture: Picture
    link: Link


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

    Takes what `explain` takes; `method` may name several (`"lime-adv,rise"`, a list, `"paper"`),
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
    images: Iterable[Image | Linked],
    request: Request,
    tick: Callable[[], None] | None = None,
    in_flight: int | None = None,
    gate: Gate | None = None,
) -> Iterator[Outcome]:
    """Explain pictures together and hand out each explanation as soon as it is there.

    Errors of a picture are outcomes, not exceptions. Raises UsageError for what is wrong with the
    request itself. `tick` is called a few times a second. `in_flight`: the most
    pictures begun at once (what keeps the engine full by default). `gate` stops the lanes.
    """
    check_request(request, detector)
    sources: dict[int, str] = {}
    unread: list[Outcome] = []

    def jobs() -> Iterator[Job]:
        for index, item in enumerate(images):
            image, link = (item.picture, item.link) if isinstance(item, Linked) else (item, None)
            try:
                picture = _picture(image)
                frame = fit_to(picture.rgb, detector.size)
            except PictureError as error:
                unread.append(Outcome(index, _name(image), error, last=True))
                if link is not None:
                    link.after.keep(None)
                continue
            sources[index] = picture.source
            yield Job(index, frame, explain_frame(picture, frame, detector, request, link))

    for event in run(detector, jobs(), in_flight=in_flight, tick=tick, gate=gate):
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
    return "<array>" if isinstance(image, np.ndarray) else printable(image)
