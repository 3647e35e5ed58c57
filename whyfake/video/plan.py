"""What is wanted of a clip: which frames and faces, cut how, and which of them to explain."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, unknown
from ..media import Finder, Sampling, printable
from ..request import Request
from ..runtime import Detector

USUAL_MARGIN = 1.3
"""Crop margin where neither card nor caller gives one: FaceForensics++'s, for many detectors."""
FACES = ("all", "largest")


@dataclass(frozen=True)
class Choice:
    """Which of the sampled faces are explained: `fake`, `all`, or the `top` so many by P(fake)."""

    kind: str
    top: int = 0

    def __str__(self) -> str:
        return f"top:{self.top}" if self.kind == "top" else self.kind


def parse_choice(text: str) -> Choice:
    """`fake` (what the detector calls fake), `all`, or `top:K`. Raises UsageError."""
    kind, _, count = text.partition(":")
    if kind == "top" and count.isdigit() and int(count) > 0:
        return Choice("top", int(count))
    if text in ("fake", "all"):
        return Choice(text)
    raise UsageError(unknown("choice of frames", text, ("fake", "all", "top:K")))


@dataclass(frozen=True)
class Plan:
    """All that decides what comes out for a clip; equal plans give equal results.

    `margin` None: the card's. `warm`: NES begins with the neighbour's perturbation. Raises
    UsageError.
    """

    request: Request
    sampling: Sampling
    choice: Choice
    faces: str = "all"
    margin: float | None = None
    align: bool = False
    warm: bool = True

    def __post_init__(self) -> None:
        if self.faces not in FACES:
            raise UsageError(unknown("faces", self.faces, FACES))
        if self.margin is not None and not 0.5 <= self.margin <= 10:
            raise UsageError(f"margin must be 0.5 to 10 times the face, got {self.margin}")

    def margin_for(self, detector: Detector) -> float:
        """The crop's side in face boxes: as asked for, as the card says, or the usual one."""
        if self.margin is not None:
            return self.margin
        return detector.card.crop_margin or USUAL_MARGIN

    def record(self, detector: Detector, clip: Path, finder: Finder) -> dict[str, Any]:
        """As JSON types, with what it was run on: two runs may only mix where these are equal."""
        from .. import __version__

        request = self.request
        return {
            "schema": 1,
            "clip": {"name": printable(clip.name), "sha256": file_hash(clip)},
            "sampling": {k: v for k, v in dataclasses.asdict(self.sampling).items() if v},
            "explain": str(self.choice),
            "finder": finder.name,
            "finder_sha256": finder.digest,
            "faces": self.faces,
            "margin": self.margin_for(detector),
            "align": self.align,
            "warm_start": self.warm,
            "methods": list(request.methods),
            "target": request.target,
            "baseline": request.baseline,
            "seed": request.seed,
            "settings": request.settings.plain(),
            "detector": {
                "name": detector.card.name,
                "sha256": detector.sha256,
                "card": detector.card.to_dict(),
                "engine": detector.engine.name,
                "device": detector.engine.device,
                **detector.layout_record,
            },
            "whyfake": __version__,
        }


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
