"""What a GPU machine can show of whyfake: every way to run a detector there, held to the CPU.

    scripts/gpu_check.sh                            # all of it, with the tests that need a GPU
    python benchmarks/gpu_check.py --devices cpu    # the same figures where there is no GPU

For each device: parity of its scores with ONNX Runtime's on the CPU; raw throughput over batch
sizes, on pictures that are there already; copies composed on the host against copies composed on
the device (scores, images a second, bytes that go up); then every method on one frame and on 32
frames in flight: images, wall, bytes, and engine efficiency = images ÷ best raw throughput ÷ wall.
`tensorrt` is an engine built on the spot, in each of the precisions. What a machine lacks is listed
with the reason, not left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import whyfake
from whyfake.benching.methods import calls_it_fake, portraits
from whyfake.building import BuildRequest, build_engine
from whyfake.errors import WhyfakeError
from whyfake.explainers import Directions, Nes
from whyfake.export.parity import measure_parity, parity_inputs
from whyfake.likeness import nes_likeness, throughput
from whyfake.perturbation import GridMix, RegionMix
from whyfake.request import parse_methods
from whyfake.runtime.choosing import composition_rates

DEVICES = ("cuda", "ort-tensorrt", "tensorrt:fp32", "tensorrt:tf32", "tensorrt:fp16")
BATCHES = (1, 8, 16, 32, 64, 128, 256)


def open_on(
    device: str, model: Path, folder: Path, card: Any, batch: int | None, compose: str = "auto"
) -> Any:
    """The detector on a device; `tensorrt:fp16` builds an engine first, once."""
    kind, _, precision = device.partition(":")
    if kind != "tensorrt":
        return whyfake.load_detector(model, device=device, batch=batch, card=card, compose=compose)
    engine = folder / f"{precision}.engine"
    if not engine.exists():
        own = folder / "card.json"
        own.write_text(json.dumps(card.to_dict()))
        build_engine(
            BuildRequest(str(model), engine, precision, card=own, best_batch=64, max_flips=1.0)
        )
    return whyfake.load_detector(engine, batch=batch, compose=compose)


def composition(detector: Any) -> dict[str, Any]:
    """Both ways to compose, held against one another: scores, speed and bytes, kind by kind.

    `difference` is the largest of log-probabilities; `bytes_an_image` what goes up.
    """
    rng = np.random.default_rng(0)
    height, width = detector.size
    [rgb] = portraits(1)
    frame = np.ascontiguousarray(rgb[:height, :width].transpose(2, 0, 1), np.float32) / 255
    count = 3 * detector.engine.batch - 1  # with a tail
    rows = np.arange(height * width).reshape(height, width) * 50 // (height * width)
    shifts = rng.integers(0, min(height, width) // 8, (count, 2))
    batches = {
        "regions": RegionMix(rng.random((count, 50)), rows, 1 - frame),
        "grids": GridMix(rng.integers(0, 2, (count, 8, 8)), shifts, 1 - frame),
        "noise": Directions((height, width), 1, 0, rng).batch(frame, count // 2, 0.05, None),
    }
    found = {}
    for kind, batch in batches.items():
        scores, cost = {}, {}
        for way in detector.engine.compositions:
            lane, up = detector.lane_on(way), detector.engine.bytes_up
            copies = detector.prepared(batch, frame, way)
            parts = []
            most = lane.most(detector.engine)
            for start in range(0, len(batch), most):
                stop = min(start + most, len(batch))
                lane.compose(copies, start, stop, 0)
                parts.append(lane.run(stop - start))
            scores[way] = detector.decode(np.concatenate(parts))
            cost[way] = (detector.engine.bytes_up - up) / len(batch)
        difference = float(np.abs(scores["device"] - scores["host"]).max())
        found[kind] = {"difference": difference, "bytes_an_image": cost}
    return {
        "chosen": detector.settle_composition(),
        "why": detector.engine.composition_why,
        "images_s": composition_rates(detector, 1.0),
        "kinds": found,
    }


def measure(device: str, model: Path, card: Any, folder: Path, args: Any) -> Any:
    """Parity, raw throughput and every method on one device."""
    rates: dict[int, float] = {}
    for batch in BATCHES:
        try:
            # composed there, nothing goes up while it is measured: the engine alone
            way = "host" if device == "cpu" else "device"
            with open_on(device, model, folder, card, batch, way) as detector:
                rates[batch] = throughput(detector, 1.0)
        except WhyfakeError as error:
            if not rates:  # not too large: not there
                raise
            print(f"  {device}, batch {batch}: {error}", file=sys.stderr)
    best = max(rates, key=lambda batch: rates[batch])
    settings = whyfake.Settings(nes=Nes(steps=10))
    if args.samples is not None:
        settings = whyfake.Settings(nes=Nes(steps=1)).with_budget(args.samples)
    with (
        whyfake.load_detector(model, device="cpu", card=card) as reference,
        open_on(device, model, folder, card, best) as detector,
    ):
        inputs = parity_inputs(reference.size)
        parity = measure_parity(reference.log_probs, detector.log_probs, inputs, batches=(32,))
        likeness = nes_likeness(reference, detector, inputs[::2][:4])
        composed = composition(detector)
        methods = {
            f"{method}, {count} frame{'s' * (count > 1)}": timed(
                detector, method, count, settings, rates[best]
            )
            for method in parse_methods("paper")
            for count in (1, args.frames)
        }
        engine = {"name": detector.engine.name, "lanes": detector.engine.lanes, "batch": best}
    return {
        "engine": engine,
        "raw_images_s": rates,
        "parity": {**parity.to_dict(), "nes": likeness},
        "composition": composed,
        "methods": methods,
    }


def timed(detector: Any, method: str, count: int, settings: Any, rate: float) -> dict[str, float]:
    """One method on `count` frames at once; the frames are shifted, so that all are different."""
    frames = portraits(count)
    list(whyfake.explain_many(detector, frames[:1], method=method, settings=settings))  # warm
    up, seen, started = detector.engine.bytes_up, detector.images_seen, time.perf_counter()
    list(whyfake.explain_many(detector, frames, method=method, settings=settings))
    wall, images = time.perf_counter() - started, detector.images_seen - seen
    return {
        "images": images,
        "seconds": wall,
        "bytes_up": detector.engine.bytes_up - up,
        "efficiency": images / rate / wall,
    }


def gpu_name() -> str:
    """The GPU and its driver, as nvidia-smi has them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"none ({error})"


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX detector (EfficientNetV2-B0)")
    parser.add_argument("--devices", default=",".join(DEVICES), help="comma-separated")
    parser.add_argument("--samples", type=int, help="images a method asks, for a quick look")
    parser.add_argument("--frames", type=int, default=32, help="frames in flight")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "gpu": gpu_name()},
        "whyfake": whyfake.__version__,
        "devices": {},
        "not_run": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model
        if model is None:
            model = folder / "b0.onnx"
            maker = Path(__file__).with_name("make_detector.py")
            subprocess.run([sys.executable, str(maker), str(model)], check=True)
        with calls_it_fake(
            lambda card: whyfake.load_detector(model, card=card, device="cpu")
        ) as plain:
            card = dataclasses.replace(plain.card, parity={}, engine={})
        for device in args.devices.split(","):
            print(f"{device} …", file=sys.stderr)
            try:
                report["devices"][device] = measure(device, model, card, folder, args)
            except WhyfakeError as error:
                report["not_run"][device] = str(error)
                print(f"  not run: {error}", file=sys.stderr)
    text = json.dumps(report, indent=1) + "\n"
    if args.out is not None:
        args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
