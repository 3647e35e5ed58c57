"""A detector with stems, and copies that can be put together behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from toys import make_card, save_model

from whyfake import Detector, load_detector
from whyfake.perturbation import RegionMix
from whyfake.runtime import Job, shelves, stem

SIZE = (40, 48)
CELLS = np.kron(np.arange(30).reshape(5, 6), np.ones((8, 8), int))


def saved(folder: Path, batch: int | str = "n", name: str = "toy") -> Path:
    """Two convolutions with poolings, a third one, and a head: three places to cut."""
    rng = np.random.default_rng(0)
    nodes, constants, current, channels = [], {}, "x", 3
    for number, more in enumerate((4, 6, 8)):
        weights = rng.normal(0, 0.4, (more, channels, 3, 3))
        constants[f"w{number}"] = weights.astype(np.float32)
        made = [f"{op}{number}" for op in ("conv", "relu", "pool")]
        nodes += [
            helper.make_node("Conv", [current, f"w{number}"], made[:1], pads=[1] * 4),
            helper.make_node("Relu", made[:1], made[1:2]),
            helper.make_node("MaxPool", made[1:2], made[2:], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        current, channels = made[2], more
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]
    constants["head"] = rng.normal(0, 1, (channels, 2)).astype(np.float32)
    card = make_card(SIZE)
    return save_model(
        folder, nodes, constants, size=SIZE, columns=2, card=card, batch=batch, name=name
    )


def opened(folder: Path, compose: str) -> Detector:
    """The detector with two lanes, its copies composed as said; a file of its own for each way."""
    path = saved(folder, name=compose)
    return load_detector(path, device="cpu", threads=2, compose=compose)


def pictures(seed: int = 0) -> Any:
    """A frame and a baseline."""
    return np.random.default_rng(seed).random((2, 3, *SIZE), np.float32)


def random_codes(rows: int, regions: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2, (rows, regions), np.uint8)


def behind(
    detector: Detector, batch: RegionMix, frame: Any, memory: shelves.Memory | None = None
) -> Any:
    """How it is put together; None as whole pictures."""
    found = detector.prepare(batch, frame, memory)
    return found if isinstance(found, stem.StemCopies) else None


def asking(batches: list[RegionMix]) -> Any:
    """A coroutine that asks these, and returns all scores."""
    answers = []
    for batch in batches:
        answers.append((yield batch))
    return np.concatenate(answers)


def jobs(count: int, sizes: tuple[int, ...] = (90, 37, 3)) -> list[Job]:
    found = []
    for number in range(count):
        frame, baseline = pictures(number)
        batches = [
            RegionMix(random_codes(rows, 30, number), CELLS, baseline)
            for rows in sizes[: 1 + number % len(sizes)]
        ]
        found.append(Job(f"frame {number}", frame, asking(batches)))
    return found
