"""`whyfake.explain_video`: a clip explained from Python in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..media import Sampling, make_finder
from ..request import PREDICTED, make_request
from ..runtime import Detector
from ..settings import Settings, preset
from .plan import Plan, parse_choice
from .run import ClipResult, Output, Watcher, explain_clip


def explain_video(
    detector: Detector,
    clip: str | Path,
    out: str | Path,
    *,
    method: str | Sequence[str] = "lime-adv",
    every: int | None = None,
    fps: float | None = None,
    frames: int | None = None,
    explain: str = "fake",
    faces: str = "all",
    face_model: str | Path | None = None,
    boxes: str | Path | None = None,
    no_face: bool = False,
    margin: float | None = None,
    align: bool = False,
    warm: bool = True,
    smooth: float = 0.0,
    overlay: str | None = "webm",
    target: str = PREDICTED,
    baseline: str | None = None,
    regions: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    watcher: Watcher | None = None,
) -> ClipResult:
    """Explain a clip into the folder `out`, as `whyfake video` does; a second call goes on.

    One of `every`, `fps` and `frames` says which frames are asked about, 32 in all by default;
    `settings` is the preset `video` by default. The rest is as on the command line. Costs
    `summary["images"]["total"]` in all, and in this call what was not finished before. Raises
    VideoError, UsageError, OutputError, DetectorError, EngineError, MissingExtraError.
    """
    if every is None and fps is None and frames is None:
        frames = 32
    request = make_request(
        method,
        target=target,
        baseline=baseline,
        regions=regions,
        seed=seed,
        settings=settings or preset("video"),
    )
    plan = Plan(
        request,
        Sampling(every, fps, frames),
        parse_choice(explain),
        faces=faces,
        margin=margin,
        align=align,
        warm=warm,
    )
    finder = make_finder(model=face_model, boxes=boxes, whole=no_face)
    return explain_clip(
        detector, clip, out, plan, finder, output=Output(overlay, smooth), watcher=watcher
    )
