"""From a finished run to the file that ships: calibrated, with its decision at the threshold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from whyfake.card import METADATA_KEY, DetectorCard
from whyfake.evaluate.forge import SelfBlend
from whyfake.files import write_file

from .faces import Face
from .fit import Fit, Recipe, logits_of
from .metrics import Scores
from .network import MEAN, STD, Network
from .pairs import make_plain_pair

NAME = "whyfake-sbi-128"
FALSE_ALARMS = 0.05  # on unseen identities' real faces, at the shipped threshold
CALIBRATION_ROUND = 2_000_000  # a key that no training round has
NOTICE = (
    "the bundled detector is for demonstration: small, trained on self-blended faces, "
    "no evidence about any real picture (docs/bundled-detector.md)"
)


@dataclass(frozen=True)
class Calibration:
    """P(fake) = σ((z − threshold) / temperature), fitted on faces that training did not see."""

    temperature: float
    threshold: float


def score_pairs(
    network: nn.Module, faces: list[Face], recipe: Recipe, repeats: int, device: torch.device
) -> tuple[Scores, Scores]:
    """Logits of real and forged faces, undegraded: (repeats·faces,) each, face by face."""
    turns = range(CALIBRATION_ROUND, CALIBRATION_ROUND + repeats)
    keys = [[recipe.seed, turn, i] for turn in turns for i in range(len(faces))]
    pairs = [make_plain_pair(faces[key[-1]], key, recipe.size, SelfBlend()) for key in keys]
    sides = (np.stack([p.real for p in pairs]), np.stack([p.fake for p in pairs]))
    real, fake = (logits_of(network, torch.from_numpy(side), device) for side in sides)
    return real, fake


def calibrate(real: Scores, fake: Scores) -> Calibration:
    """The threshold that `FALSE_ALARMS` of the real ones pass, and the likeliest temperature.

    The temperature is fitted with a free offset, so that it says how fast odds change with the
    logit; the offset is then the threshold's, so that 50 % is the decision.
    """
    threshold = float(np.quantile(real, 1 - FALSE_ALARMS))
    scores = np.concatenate([real, fake])
    labels = np.arange(len(scores)) >= len(real)

    def loss(scale: float, offset: float) -> float:
        signed = np.where(labels, 1, -1) * (scores - offset) * math.exp(scale)
        return float(np.logaddexp(0, -signed).mean())

    def best_offset(scale: float) -> float:
        bounds = (float(scores.min()), float(scores.max()))
        return float(minimize_scalar(lambda o: loss(scale, o), bounds=bounds, method="bounded").x)

    found = minimize_scalar(lambda s: loss(s, best_offset(s)), bounds=(-4, 4), method="bounded")
    return Calibration(temperature=math.exp(-found.x), threshold=threshold)


class Shipped(nn.Module):
    """Normalised images to two logits, *real* and *fake*, calibrated."""

    def __init__(self, network: Network, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():  # σ(2a) is the softmax of −a and a; folded into the last layer
            half = 2 * calibration.temperature
            network.fake.weight /= half
            network.fake.bias.copy_((network.fake.bias - calibration.threshold) / half)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) to (N, 2)."""
        fake = self.network.logit(x)
        return torch.stack([-fake, fake], 1)


def export(run: Fit, calibration: Calibration, path: Path) -> DetectorCard:
    """Write the ONNX file with its card inside; returns the card."""
    import onnx

    network = Network()
    network.load_state_dict(run.average.module.state_dict())
    shipped = Shipped(network.eval(), calibration).eval()
    size = run.recipe.size
    program = torch.onnx.export(
        shipped,
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )
    model = program.model_proto
    card = _card(run)
    training = {"recipe": asdict(run.recipe), "rounds": run.turn}
    training["calibration"] = asdict(calibration)
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:  # the exporter notes paths of this machine in every node
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    onnx.helper.set_model_props(
        model, {METADATA_KEY: json.dumps(card.to_dict()), "whyfake.training": json.dumps(training)}
    )
    onnx.checker.check_model(model, full_check=True)
    write_file(path, model.SerializeToString())
    return card


def _card(run: Fit) -> DetectorCard:
    size = run.recipe.size
    data: Mapping[str, Any] = {
        "schema": 1,
        "name": NAME,
        "input": {
            "name": "image",
            "height": size,
            "width": size,
            "color": "RGB",
            "range": [0, 1],
            "mean": list(MEAN),
            "std": list(STD),
        },
        "output": {"name": "logits", "activation": "logits"},
        "classes": ["real", "fake"],
        "real": ["real"],
        "crop_margin": 1.5,
        "source": "whyfake's own training/, on self-blended images (arXiv 2204.08376)",
        "license": "Apache-2.0",
        "notice": NOTICE,
    }
    return DetectorCard.from_dict(data)
