"""Torch models and checkpoints to export, and what torch itself says of them."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from commands import whyfake
from outside import import_timm

from whyfake.onnx_graph import PIXELS

torch = pytest.importorskip("torch")
timm = import_timm()

ARCH = "mobilenetv3_small_050"
MODELS = textwrap.dedent("""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Net(nn.Module):
        def __init__(self, scores=2, tail=None):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
            self.fc, self.tail = nn.Linear(8, scores), tail
            self.norm.running_mean.normal_(0, 0.3)
            self.norm.running_var.uniform_(0.5, 1.5)
        def forward(self, x):
            x = self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)) * 8)
            return x if self.tail is None else self.tail(x)

    def net(): return Net()
    def one(): return Net(1)
    def flat(): return Net(1, lambda x: x[:, 0])
    def sigmoid(): return Net(1, nn.Sigmoid())
    def sigmoids(): return Net(3, nn.Sigmoid())
    def softmax(): return Net(3, nn.Softmax(1))
    def log_softmax(): return Net(3, nn.LogSoftmax(1))
    def half(): return Net().half()
    def double(): return Net().double().train()

    class Stubborn(nn.BatchNorm2d):
        def train(self, mode=True): return super().train(True)
    def stubborn():
        model = Net()
        model.norm = Stubborn(8)
        return model
    def forgetful():
        model = Net()
        model.norm = nn.BatchNorm2d(8, track_running_stats=False)
        return model
    class Functional(Net):
        def forward(self, x):
            return super().forward(F.batch_norm(x, None, None, training=True))
    def functional(): return Functional()
    class Centred(Net):
        def forward(self, x):
            x = super().forward(x)
            return x - x.mean(0, keepdim=True)
    def centred(): return Centred()
    class Drop(Net):
        def forward(self, x): return super().forward(F.dropout(x, 0.5, True))
    def drop(): return Drop()
    class Pair(Net):
        def forward(self, x): return super().forward(x), x
    def pair(): return Pair()
    class Row(Net):
        def forward(self, x): return super().forward(x).reshape(1, -1)
    def row(): return Row()
    class Forked(Net):
        def forward(self, x): return super().forward(x if x.sum() > 0 else -x)
    def forked(): return Forked()
    class Labels(Net):
        def forward(self, x): return super().forward(x).argmax(1)
    def labels(): return Labels()
    def nan():
        model = Net()
        model.fc.bias.data.fill_(float("nan"))
        return model
    def huge():
        model = Net()
        model.more = nn.Parameter(torch.empty(600_000_000, device="meta"))
        return model
    def broken(): raise RuntimeError("no\\nweights here")
    def number(): return 3
    class Namespace:
        build = net
""")
CLASSES = {2: ["--classes=real,fake", "--real=real"], 3: ["--classes=real,df,fs", "--real=real"]}
SIZE = ["--size=40x64"]


def models() -> Any:
    """models.py, as the command imports it."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module("models")
    finally:
        sys.path.pop(0)


def state_of(arch: str, scores: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=scores)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return dict(model.state_dict())


def lightning(state: dict[str, Any], prefix: str = "model.") -> dict[str, Any]:
    """What Lightning's Trainer saves, with the loss's weights beside the model's."""
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {
            **{prefix + name: value for name, value in state.items()},
            "criterion.weight": torch.ones(3),
        },
        "hyper_parameters": {"lr": 1e-3, "classes": ["a", "b"]},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
    }


def reference(arch: str, state: dict[str, Any], images: Any) -> Any:
    """The logits of timm's own model on pictures that timm's own figures normalise."""
    model = timm.create_model(arch, num_classes=len(state[next(reversed(state))])).eval()
    model.load_state_dict(state)
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        return model((torch.from_numpy(images) - mean) / std).numpy()


def logits(path: str, images: Any, batch: int) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    return np.concatenate([session.run(None, {PIXELS: part})[0] for part in parts])


def export(source: str, *options: str) -> Any:
    return whyfake("export", source, "-o", "out/d.onnx", *options)


def program(name: str, *, batch: int | None = None, train: bool = False) -> None:
    net = models().Net(2).train(train)
    free = None if batch else ({0: torch.export.Dim("b")},)
    exported = torch.export.export(net, (torch.zeros(batch or 2, 3, 40, 64),), dynamic_shapes=free)
    torch.export.save(exported, name)
