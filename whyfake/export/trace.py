"""A torch module as an ONNX graph with a free batch, and as a function of pictures."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..card import DetectorCard
from ..errors import DetectorError, one_line, require
from ..perturbation import FloatArray

if TYPE_CHECKING:
    import onnx
    import torch

INPUT, OUTPUT = "pixels", "scores"
OPSET = 20
"""The newest that TensorRT 10.3 (JetPack 6) reads."""
_LIMIT = 2**31 - 2**20  # bytes of weights: protobuf takes 2 GB, with the graph around them


def evaluated(module: Any, what: str) -> torch.nn.Module:
    """The module in evaluation mode, in float32, on the CPU.

    Raises DetectorError where it is no module, is too large, or has parts that stay in training.
    """
    package = require("torch", "export", "exporting a torch model")
    if not isinstance(module, package.nn.Module):
        raise DetectorError(
            f"{what} returned an object of type {type(module).__name__}, wanted a torch.nn.Module"
        )
    tensors = (*module.parameters(), *module.buffers())
    size = sum(tensor.numel() for tensor in tensors) * 4  # in float32
    if size > _LIMIT:
        raise DetectorError(
            f"{what} has {size / 2**30:.1f} GB of weights: one ONNX file holds 2 GB at most"
        )
    try:
        module = module.eval().float().cpu()
    except Exception as error:  # the module's own train() is the user's code
        raise DetectorError(
            f"{what} cannot be brought to the CPU in evaluation mode: {one_line(error)}"
        ) from error
    for name, part in module.named_modules():
        if part.training:
            raise DetectorError(
                f"{what}: '{name or type(part).__name__}' stays in training mode after .eval(), so "
                "scores would depend on the rest of the batch"
            )
    checked: torch.nn.Module = module
    return checked


def scores_of(module: Any, card: DetectorCard, images: FloatArray, what: str) -> FloatArray:
    """What the module gives, (n, C) float32, for pictures (n, 3, h, w) RGB in [0, 1].

    They are prepared as the card says. Raises DetectorError.
    """
    import torch

    spec = card.input
    pixels = images[:, ::-1] if spec.color == "BGR" else images
    low, high = spec.range
    mean, std = (np.reshape(v, (3, 1, 1)).astype(np.float64) for v in (spec.mean, spec.std))
    prepared = (pixels * (high - low) + low - mean) / std
    if spec.layout == "NHWC":
        prepared = prepared.transpose(0, 2, 3, 1)
    try:
        with torch.inference_mode(), _one_thread():
            answer = module(torch.from_numpy(np.ascontiguousarray(prepared, np.float32)))
    except Exception as error:
        shape = "×".join(str(side) for side in prepared.shape)
        raise DetectorError(
            f"{what} fails on pictures of {shape}: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(answer, torch.Tensor):
        raise DetectorError(
            f"{what} returns a {type(answer).__name__}, wanted a tensor of scores: wrap it"
        )
    if not answer.is_floating_point() or answer.ndim == 0 or len(answer) != len(images):
        raise DetectorError(
            f"{what} returns {str(answer.dtype).removeprefix('torch.')} "
            f"{tuple(answer.shape)} for {len(images)} pictures, wanted a row of scores for each"
        )
    scores: FloatArray = answer.float().reshape(len(images), -1).numpy()
    return scores


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """At small batches torch's threads mostly wait for one another: on a busy machine five times
    as long as one thread takes (EfficientNetV2-B0, one picture at a time)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def onnx_from_module(module: torch.nn.Module, card: DetectorCard, what: str) -> onnx.ModelProto:
    """Trace a module with a free batch, by torch's dynamo exporter. Raises DetectorError."""
    import torch

    height, width = card.input.height, card.input.width
    shape = (2, height, width, 3) if card.input.layout == "NHWC" else (2, 3, height, width)
    return _exported(
        module, what, args=(torch.zeros(shape),), dynamic_shapes=({0: torch.export.Dim("N")},)
    )


def onnx_from_program(program: Any, what: str) -> onnx.ModelProto:
    """An exported program (torch.export) as a graph; its batch is as free as it was traced."""
    return _exported(program, what)


def _exported(model: Any, what: str, **options: Any) -> onnx.ModelProto:
    require("onnxscript", "export", "exporting a torch model")
    import torch

    try:
        with quiet():
            program = torch.onnx.export(
                model,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
                **options,
            )
            found: onnx.ModelProto = program.model_proto
    except Exception as error:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {one_line(cause, 160)}"
        raise DetectorError(f"{what} cannot be traced by torch.export: {reason}") from error
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Tracing logs, warns and prints a great deal; what matters comes as an exception."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
