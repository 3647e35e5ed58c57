"""Any classifier's graph in whyfake's own form: RGB pixels in, logits out, and the card to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..card import DetectorCard, InputSpec, OutputSpec
from ..onnx_edit import Chain
from ..onnx_graph import PIXELS, SCORES, GraphInfo, fit, fold

if TYPE_CHECKING:
    import onnx

_NEAREST = 2.0**-24  # as `Detector`: what float32 cannot tell from 0 or 1 is held just inside
_TINIEST = 1e-30


def canonical(
    graph: onnx.ModelProto, info: GraphInfo, card: DetectorCard, model: str
) -> tuple[onnx.ModelProto, DetectorCard]:
    """The graph from `whyfake_pixels` to `whyfake_scores`, and the card that fits it.

    In: float32 (N, 3, h, w) RGB in [0, 1]. Out: float32 logits (N, C), whose softmax is what
    `Detector` makes of the original with `card`; or (N, 1), the logit of `output.positive`. A fixed
    batch stays fixed. `model` names it in messages; `graph` is not changed. Raises CardError,
    DetectorError.
    """
    from onnx import TensorProto, helper

    port = fit(info, card, model)
    adapted, stripped = fold(graph, card, port)
    # where the graph hides its columns the card knows them; an answer of another size is an error
    columns = port.columns or (1 if card.output.positive is not None else len(card.classes))
    last = adapted.graph.node[-1]
    tail = Chain(adapted.graph, SCORES)
    last.output[0] = tail.current = tail.fresh("whyfake_step")
    tail.then("Reshape", np.array([-1, columns], np.int64))  # of (N, C, 1, 1), (N,) or (C,)
    _to_logits(tail, card.output.activation, columns, stripped)
    tail.nodes[-1].output[0] = SCORES
    adapted.graph.node.extend(tail.nodes)
    shape = [port.batch or "N", columns]
    del adapted.graph.output[:]
    adapted.graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, shape))
    return adapted, _card(card, columns)


def _to_logits(tail: Chain, activation: str, columns: int, stripped: bool) -> None:
    """Add the nodes that make logits of what the folded graph gives: `Detector`'s formulas."""
    if activation == "softmax" and not stripped:
        tail.then("Max", np.array(_TINIEST, np.float32))
        tail.then("Log")
    elif activation == "sigmoid" and columns > 1 and stripped:
        # independent sigmoids are normalised over the classes: the softmax of their logarithms
        tail.then("Neg")
        tail.then("Softplus")
        tail.then("Neg")
    elif activation == "sigmoid" and not stripped:
        tail.then("Max", np.array(_NEAREST, np.float32))
        tail.then("Min", np.array(1 - _NEAREST, np.float32))
        p = tail.current
        tail.then("Log")
        if columns == 1:  # log p − log(1 − p)
            log_p, tail.current = tail.current, p
            tail.then("Neg")
            tail.then("Add", np.array(1, np.float32))
            tail.then("Log")
            tail.then("Neg")
            tail.then("Add", log_p)


def _card(card: DetectorCard, columns: int) -> DetectorCard:
    """The card of the canonical graph; the colour that the network sees as zero stays known."""
    height, width = card.input.height, card.input.width
    neutral = card.input.neutral_color
    spec = InputSpec(height, width, name=PIXELS, layout="NCHW")
    if neutral != spec.neutral_color:
        spec = replace(spec, neutral=neutral)
    positive = card.output.positive if columns == 1 else None
    return replace(card, input=spec, output=OutputSpec("logits", SCORES, positive))
