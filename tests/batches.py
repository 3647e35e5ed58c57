"""Batches of every kind, drawn at random."""

from __future__ import annotations

import dataclasses

import numpy as np

from whyfake.noise_table import NoiseTable
from whyfake.perturbation import (
    GridMix,
    NoiseStep,
    PerturbationBatch,
    Pixels,
    RegionMix,
    cell_size,
)

ROUNDING = 1e-6
"""A few float32 operations on numbers near one: each is off by at most 6e-8."""

KINDS = ("regions", "grids", "noise1", "noise3", "masked1", "masked3", "blocks", "pixels")


def region_mix(
    rng: np.random.Generator, count: int, size: tuple[int, int], regions: int = 4
) -> RegionMix:
    """Codes of all kinds: zeros, ones and between; labels that need not all occur."""
    codes = rng.choice([0.0, 1.0, 0.25, rng.random()], (count, regions))
    labels = rng.integers(0, regions, size)
    return RegionMix(codes, labels, rng.random((3, *size), np.float32))


def grid_mix(
    rng: np.random.Generator, count: int, size: tuple[int, int], cells: int = 3
) -> GridMix:
    grids = rng.random((count, cells, cells)) if rng.random() < 0.5 else None
    if grids is None:  # what RISE sends
        grids = rng.integers(0, 2, (count, cells, cells), np.uint8)
    shifts = rng.integers(0, [cell_size(cells, side) for side in size], (count, 2))
    return GridMix(grids, shifts, rng.random((3, *size), np.float32))


def noise_step(
    rng: np.random.Generator, count: int, size: tuple[int, int], channels: int, masked: bool
) -> NoiseStep:
    length = channels * size[0] * size[1]
    return NoiseStep(
        center=rng.random((3, *size), np.float32),
        table=NoiseTable(int(rng.integers(1000)), 3 * length),
        offsets=rng.integers(0, 2 * length + 1, count),
        signs=rng.integers(-1, 2, count),
        sigma=0.1,
        channels=channels,
        mask=rng.integers(0, 2, size).astype(np.float32) if masked else None,
    )


def batch_of(
    kind: str, rng: np.random.Generator, count: int, size: tuple[int, int]
) -> PerturbationBatch:
    """A batch of any kind, with few or many regions or cells."""
    if kind == "regions":
        return region_mix(rng, count, size, int(rng.choice([1, 2, 50])))
    if kind == "grids":
        return grid_mix(rng, count, size, int(rng.integers(1, 6)))
    if kind == "pixels":
        return Pixels(rng.random((count, 3, *size), np.float32))
    if kind == "blocks":  # one value for several pixels: without a graph
        fine = noise_step(rng, count, size, 3, True)
        return dataclasses.replace(fine, cell=2, offsets=fine.offsets // 4)
    return noise_step(rng, count, size, int(kind[-1]), kind.startswith("masked"))
