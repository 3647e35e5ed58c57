"""whyfake's own rows of `peers.py`: the same frame, segments, baseline and number of images."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_runs import (
    CELLS,
    GRID,
    NODES_PER_ROUND,
    P_KEEP,
    Case,
    Oracle,
    Watch,
    fate_of_sample,
    peak_mb,
)

import whyfake
from whyfake.explainers import Lime, Nes, Rise, Shap, Sobol, Target
from whyfake.explainers.baselines import baseline_image
from whyfake.explainers.lime import RidgeFit
from whyfake.perturbation import RegionMix
from whyfake.runtime import Delivered, Job, run
from whyfake.settings import Settings


def ours(case: Case, row: str, options: dict[str, Any]) -> dict[str, Any]:
    """One run of whyfake; `lime.whyfake-same` asks what package `lime` draws from that seed."""
    method = row.partition(".")[0]
    began = time.perf_counter()
    detector = whyfake.load_detector(
        case.folder / "detector.onnx",
        card=case.folder / "card.json",
        device="cpu",
        threads=case.cores,
    )
    loaded = time.perf_counter() - began
    with detector:
        if method == "nes":
            result = nes(case, detector, options)
        elif row == "lime.whyfake-same":
            np.save(options["heat"], same_questions(case, detector, options))
            result = {"images": detector.images_seen}
        else:
            result = explanation(case, detector, method, options)
    return {"load_seconds": loaded, **result}


def settings(method: str, images: int) -> Settings:
    """The peers' settings; for SOBOL `images` is the design's number of rows."""
    if method == "lime":
        return Settings(lime=Lime(samples=images))
    if method == "shap":
        return Settings(shap=Shap(samples=images, nodes_per_round=NODES_PER_ROUND))
    if method == "rise":
        return Settings(rise=Rise(masks=images, grid=GRID, p=P_KEEP))
    if method == "sobol":
        return Settings(sobol=Sobol(design=images, grid=CELLS))
    return Settings().with_budget(images)


def explanation(
    case: Case, detector: whyfake.Detector, method: str, options: dict[str, Any]
) -> dict[str, Any]:
    """A timed `whyfake.explain`, after a small one that imports what is needed."""

    def explain(images: int, seed: int) -> whyfake.Explanation:
        return whyfake.explain(
            detector,
            case.rgb,
            method=method,
            baseline=options["baseline"],
            regions=str(case.folder / "labels.npy"),
            seed=seed,
            settings=settings(method, images),
        )

    began = time.perf_counter()
    explain(20 if method != "sobol" else 2, options["seed"] + 1)
    first, watch = time.perf_counter() - began, Watch()
    found = explain(options["images"], options["seed"])
    spent = watch.spent()
    np.save(options["heat"], found.heatmap)
    return {"first_seconds": first, **spent, "images": found.images}


def same_questions(
    case: Case, detector: whyfake.Detector, options: dict[str, Any]
) -> NDArray[np.float64]:
    """whyfake's LIME (h, w) on the very rows that package `lime` draws from the same seed."""
    regions = int(case.labels.max()) + 1
    draws = np.random.RandomState(options["seed"])
    codes = draws.randint(0, 2, options["images"] * regions).reshape(-1, regions).astype(np.uint8)
    codes[0] = 1
    rng = np.random.default_rng(0)  # a mean needs none
    baseline = baseline_image("mean", case.frame, case.labels, (0, 0, 0), rng)
    scores = detector.ask(RegionMix(codes, case.labels, baseline), case.frame)
    fit = RidgeFit(regions, Lime().kernel_width)
    fit.add(codes, Target("", (case.target,)).score(scores))
    return fit.solve(Lime().alpha)[case.labels]


def nes(case: Case, detector: whyfake.Detector, options: dict[str, Any]) -> dict[str, Any]:
    """A timed NES, its noise table drawn anew, after a step that warms the engine."""

    def sample(steps: int, seed: int) -> Any:
        attack = dataclasses.replace(Nes(), steps=steps).attack(
            case.frame, detector.real, seed=seed, rng=np.random.default_rng([seed, 1])
        )
        [event] = run(detector, [Job(0, case.frame, attack)])
        if not isinstance(event, Delivered):
            raise event.error
        return event.value

    began = time.perf_counter()
    sample(1, options["seed"] + 1000)
    first, watch = time.perf_counter() - began, Watch()
    found = sample(options["steps"], options["seed"])
    spent = {**watch.spent(), "peak_mb": peak_mb()}
    fate = fate_of_sample(case, Oracle(case.model, case.cores), found)
    return {"first_seconds": first, **spent, **fate}
