"""ONNX graphs that compose copies from codes on the device that runs the detector, one per kind.

`feeds` says what goes up for a batch, `graph` computes what `render` in perturbation.py defines:
`x' = x + h·(b − x)`, in that form, so that what is not hidden is equal to the bit. They are made of
operators that ONNX Runtime and TensorRT have, and know nothing of either.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..perturbation import (
    Composer,
    FloatArray,
    GridMix,
    NoiseStep,
    PerturbationBatch,
    RegionMix,
    Stack,
    bilinear_matrix,
    cell_size,
)

OUTPUT = "pixels"
"""What every graph gives: (n, 3, h, w) float32."""
OPSET, IR_VERSION = 17, 8

Size = tuple[int, int]
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Feed:
    """What the graph `kind` is given for a batch: arrays as they go up, C-contiguous.

    `codes` have a row per copy, `constants` are the same for all of them. Those that are read-only
    need to go up only once as long as they exist.
    """

    kind: str
    codes: dict[str, NDArray[Any]]
    constants: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Part:
    """Copies first … last of a batch, which are those of `batch`; a Feed where there is a graph."""

    first: int
    last: int
    batch: PerturbationBatch
    frame: FloatArray
    feed: Feed | None

    @functools.cached_property
    def host(self) -> Composer:
        """How the host composes them."""
        return self.batch.composer(self.frame)


def parts(batch: PerturbationBatch, frame: FloatArray) -> list[Part]:
    """How each copy of a batch is made: a stack's batches one after the other."""
    found = []
    row = 0
    for single in _singles(batch):
        found.append(Part(row, row + len(single), single, frame, feed(single, frame)))
        row += len(single)
    return found


def _singles(batch: PerturbationBatch) -> Iterator[PerturbationBatch]:
    if isinstance(batch, Stack):
        for single in batch.batches:
            yield from _singles(single)
    else:
        yield batch


def feed(batch: PerturbationBatch, frame: FloatArray) -> Feed | None:
    """What goes up for a batch of copies of `frame` (3, h, w); None where there is no graph."""
    if type(batch) is RegionMix:
        return Feed(
            "regions",
            {"hidden": 1.0 - batch.codes.astype(np.float32, order="C")},
            {"labels": _array(batch.labels, np.int32), **_mixed(frame, batch.baseline)},
        )
    if type(batch) is GridMix:
        size, (height, width) = batch.grids.shape[1], frame.shape[1:]
        return Feed(
            "grids",
            {
                "hidden": 1.0 - batch.grids.astype(np.float32, order="C"),
                "shifts": _array(batch.shifts, np.int32),
            },
            {
                "down": _upsampling(size, height),
                "across": _upsampling(size, width),
                **_mixed(frame, batch.baseline),
            },
        )
    # noise in blocks is composed on the host: no method uses it by default
    if type(batch) is NoiseStep and batch.channels in (1, 3) and batch.cell == 1:
        mask = batch.mask
        return Feed(
            f"noise{batch.channels}",
            {
                "offsets": _array(batch.offsets, np.int32),
                "steps": batch.signs.astype(np.float32) * np.float32(batch.sigma),
            },
            {
                "center": _array(batch.center, np.float32),
                "table": _array(batch.table.whole, np.float32),
                "mask": _ones(batch.center.shape[1:]) if mask is None else _array(mask, np.float32),
            },
        )
    return None


def _mixed(frame: FloatArray, baseline: FloatArray) -> dict[str, NDArray[Any]]:
    return {"frame": _array(frame, np.float32), "baseline": _array(baseline, np.float32)}


def _array(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Of that type and C-contiguous; itself where it is."""
    return np.ascontiguousarray(array, dtype)


@functools.lru_cache(maxsize=16)
def _upsampling(size: int, length: int) -> FloatArray:
    matrix = bilinear_matrix(size, length)
    matrix.flags.writeable = False
    return matrix


@functools.lru_cache(maxsize=4)
def _ones(size: Size) -> FloatArray:
    """The mask that lets all pixels move: a factor of one changes no bit."""
    ones = np.ones(size, np.float32)
    ones.flags.writeable = False
    return ones


def shapes(kind: str, size: Size, batch: int) -> dict[str, Shapes]:
    """Smallest, likeliest and largest shape of every input, for back-ends that must know.

    The likeliest are those of the paper's settings. A feed beyond the largest does not fit.
    """
    height, width = size
    image = {"regions": "frame", "grids": "frame"}.get(kind, "center")
    plane = {name: _fixed((3, height, width)) for name in (image, "baseline")}
    rows = (1, batch, batch)
    if kind == "regions":
        hidden = _free(*((n, regions) for n, regions in zip(rows, (1, 64, 1024), strict=True)))
        return {"hidden": hidden, "labels": _fixed((height, width)), **plane}
    if kind == "grids":
        cells = (1, 8, 32)
        high, wide = (9 * cell_size(8, side) for side in size)
        most = max((s + 1) * cell_size(s, side) for side in size for s in range(1, cells[2] + 1))
        return {
            "hidden": _free(*((n, s, s) for n, s in zip(rows, cells, strict=True))),
            "shifts": _free(*((n, 2) for n in rows)),
            "down": ((1, 1), (high, 8), (most, cells[2])),
            "across": ((1, 1), (wide, 8), (most, cells[2])),
            **plane,
        }
    del plane["baseline"]
    return {
        "offsets": _free(*((n,) for n in rows)),
        "steps": _free(*((n,) for n in rows)),
        **plane,
        "table": ((1,), (1 << 22,), (1 << 26,)),
        "mask": _fixed((height, width)),
    }


def _fixed(shape: tuple[int, ...]) -> Shapes:
    return shape, shape, shape


def _free(*three: tuple[int, ...]) -> Shapes:
    low, likely, high = three
    return low, likely, high


def fits(made: Feed, size: Size, batch: int) -> bool:
    """Whether all that a feed needs is within `shapes`, whatever the number of copies."""
    given = {**{n: a[:1] for n, a in made.codes.items()}, **made.constants}
    return all(
        len(given[name].shape) == len(high)
        and all(a <= b <= c for a, b, c in zip(low, given[name].shape, high, strict=True))
        for name, (low, _, high) in shapes(made.kind, size, batch).items()
    )


@functools.lru_cache(maxsize=16)
def graph(kind: str, size: Size) -> bytes:
    """The serialised graph of a kind for pictures of that size.

    `regions`, `grids`, `noise1` and `noise3` (channels of noise); inputs are those of their Feed.
    `images` passes pictures on, for back-ends whose only way to move them is a graph.
    """
    from onnx import TensorProto, checker, helper

    build = {"regions": _regions, "grids": _grids, "images": _images}.get(kind)
    nodes, inputs, constants = build(size) if build else _noise(size, int(kind[-1]))
    floats, integers = TensorProto.FLOAT, TensorProto.INT32
    whole = ("labels", "shifts", "offsets")
    model = helper.make_model(
        helper.make_graph(
            nodes,
            f"whyfake_{kind}",
            [
                helper.make_tensor_value_info(name, integers if name in whole else floats, shape)
                for name, shape in inputs.items()
            ],
            [helper.make_tensor_value_info(OUTPUT, floats, ["n", 3, *size])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="whyfake",
    )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


_Inputs = dict[str, list[Any]]
_Parts = tuple[list[Any], _Inputs, list[Any]]


def _regions(size: Size) -> _Parts:
    from onnx import helper

    nodes = [helper.make_node("Gather", ["hidden", "labels"], ["mask"], axis=1), *_mix()]
    inputs: _Inputs = {"hidden": ["n", "r"], "labels": [*size]}
    inputs |= _images_of("frame", "baseline", size=size)
    return nodes, inputs, [_integers("one", [1])]


def _grids(size: Size) -> _Parts:
    """A copy's rows of `down` and `across` are cut out where its shifts say; then two products."""
    from onnx import helper

    nodes = []
    for side, matrix in (("y", "down"), ("x", "across")):
        nodes += [
            helper.make_node("Gather", ["shifts", f"{side}_axis"], [f"{side}_shift"], axis=1),
            helper.make_node("Add", [f"{side}_shift", f"{side}_all"], [f"{side}_rows"]),
            helper.make_node("Gather", [matrix, f"{side}_rows"], [f"{matrix}_cut"], axis=0),
        ]
    nodes += [
        helper.make_node("Transpose", ["across_cut"], ["across_up"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["hidden", "across_up"], ["wide"]),
        helper.make_node("MatMul", ["down_cut", "wide"], ["mask"]),
        *_mix(),
    ]
    inputs: _Inputs = {
        "hidden": ["n", "s", "s"],
        "shifts": ["n", 2],
        "down": ["ph", "s"],
        "across": ["pw", "s"],
        **_images_of("frame", "baseline", size=size),
    }
    constants = [_integers("one", [1])]
    for axis, side in enumerate("yx"):
        constants.append(_integers(f"{side}_axis", [axis], np.int32))
        constants.append(_integers(f"{side}_all", np.arange(size[axis])[None], np.int32))
    return nodes, inputs, constants


def _noise(size: Size, channels: int) -> _Parts:
    from onnx import helper

    nodes = [
        helper.make_node("Reshape", ["offsets", "column"], ["start"]),
        helper.make_node("Add", ["start", "places"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["noise"], axis=0),
        helper.make_node("Reshape", ["steps", "column"], ["step"]),
        helper.make_node("Mul", ["noise", "step"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "mask"], ["masked"]),
        helper.make_node("Add", ["center", "masked"], [OUTPUT]),
    ]
    inputs: _Inputs = {
        "offsets": ["n"],
        "steps": ["n"],
        **_images_of("center", size=size),
        "table": ["t"],
        "mask": [*size],
    }
    places = np.arange(channels * size[0] * size[1]).reshape(1, channels, *size)
    constants = [_integers("column", [-1, 1, 1, 1]), _integers("places", places, np.int32)]
    return nodes, inputs, constants


def _images(size: Size) -> _Parts:
    from onnx import helper

    return [helper.make_node("Identity", ["images"], [OUTPUT])], {"images": ["n", 3, *size]}, []


def _mix() -> list[Any]:
    """`frame + mask·(baseline − frame)` for masks (n, h, w) of what is hidden."""
    from onnx import helper

    return [
        helper.make_node("Unsqueeze", ["mask", "one"], ["masks"]),
        helper.make_node("Sub", ["baseline", "frame"], ["difference"]),
        helper.make_node("Mul", ["difference", "masks"], ["change"]),
        helper.make_node("Add", ["frame", "change"], [OUTPUT]),
    ]


def _images_of(*names: str, size: Size) -> _Inputs:
    return {name: [3, *size] for name in names}


def _integers(name: str, values: Any, dtype: Any = np.int64) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(values, dtype), name)
