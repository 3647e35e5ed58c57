"""The bundled detector's network: a small residual CNN that also says where it sees a forgery."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class Network(nn.Module):
    """Images (N, 3, S, S), normalised, to logits (N,) of *fake*, and (N, S/8, S/8) of *where*.

    Dense 3×3 convolutions throughout: on CPUs they run nearer to the machine's speed than
    depthwise ones. `where` is for training alone: it has a gradient at every place of the picture,
    which is what lets so small a network learn from scratch.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.fine = nn.Sequential(_conv(3, a, 2), _conv(a, a))
        self.middle = nn.Sequential(_conv(a, b, 2), _Residual(b), _Residual(b))
        self.coarse = nn.Sequential(_conv(b, c, 2), _Residual(c), _Residual(c))
        self.whole = nn.Sequential(_conv(c, d, 2), _Residual(d), _Residual(d))
        self.where = nn.Conv2d(c, 1, 1)
        self.drop = nn.Dropout(0.2)
        self.fake = nn.Linear(2 * d, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of *fake* (N,) and of *where* (N, S/8, S/8)."""
        places = self.coarse(self.middle(self.fine(x)))
        return self._decide(places), self.where(places)[:, 0]

    def logit(self, x: Tensor) -> Tensor:
        """The logit of *fake* alone, (N,)."""
        return self._decide(self.coarse(self.middle(self.fine(x))))

    def _decide(self, places: Tensor) -> Tensor:
        features = self.whole(places)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return self.fake(self.drop(pooled))[:, 0]


def normalise(images: Tensor) -> Tensor:
    """uint8 RGB (N, 3, h, w) as the network wants it."""
    pixels = images.to(memory_format=torch.channels_last).float() / 255
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    return (pixels - mean) / torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
