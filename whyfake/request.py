"""What is wanted of every frame: methods, target, baseline, seed and settings, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import UsageError, unknown
from .explainers import (
    ADVERSARIAL,
    BASELINES,
    GROUPS,
    METHODS,
    Target,
    base_name,
    check_baseline,
    parse_regions,
    region_map,
)
from .explanation import FAKE
from .media import load_picture
from .runtime import Detector
from .settings import Settings

PREDICTED = "predicted"


@dataclass(frozen=True)
class Request:
    """What is wanted of every frame: methods, target, baseline, seed and settings.

    `methods` are names out of `whyfake.explainers.METHODS`; `target` is `predicted`, `fake` or a
    class; `baseline` replaces that of the original forms. Raises UsageError.
    """

    methods: tuple[str, ...]
    target: str = PREDICTED
    baseline: str | None = None
    seed: int = 0
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, got {self.seed}")
        if self.baseline is not None:
            check_baseline(self.baseline)
            if all(name.endswith(ADVERSARIAL) for name in self.methods):
                raise UsageError(
                    f"{', '.join(self.methods)}: the adversarial form has its own baseline; "
                    f"leave out the baseline, or ask for {self.methods[0][: -len(ADVERSARIAL)]}"
                )

    def images(self) -> int:
        """The most images that one frame can cost."""
        explainers = [self.settings.explainer(base_name(name)) for name in self.methods]
        sample = self.settings.attack().images() if self.adversarial else 0
        return 1 + sample + sum(explainer.images() for explainer in explainers)

    @property
    def adversarial(self) -> bool:
        """Whether any method wants the adversarial sample."""
        return any(name.endswith(ADVERSARIAL) for name in self.methods)


def parse_methods(text: str | Sequence[str], baseline: str | None = None) -> tuple[str, ...]:
    """Method names from `lime-adv,rise`, a list of names, `all` or `paper`. Raises UsageError.

    With baseline `adversarial`, original forms become adversarial ones.
    """
    names = text.split(",") if isinstance(text, str) else list(text)
    names = [name.strip().lower() for name in names if name.strip()]
    if not names:
        raise UsageError(f"name at least one method: {', '.join((*GROUPS, *METHODS))}")
    names = [method for name in names for method in GROUPS.get(name, (name,))]
    for name in names:
        if name not in METHODS:
            raise UsageError(unknown("method", name, (*METHODS, *GROUPS)))
    if baseline == "adversarial":
        names = [base_name(name) + ADVERSARIAL for name in names]
    return tuple(dict.fromkeys(names))


def make_request(
    method: str | Sequence[str],
    *,
    target: str = PREDICTED,
    baseline: str | None = None,
    regions: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Request:
    """A checked request from a caller's words. Raises UsageError."""
    methods = parse_methods(method, baseline)
    settings = settings or Settings()
    if regions is not None:
        settings = dataclasses.replace(settings, regions=regions)
    own = None if baseline == "adversarial" else baseline
    return Request(methods, target, own, seed, settings)


def check_request(request: Request, detector: Detector) -> None:
    """Raise UsageError or PictureError for a request that no picture can meet on this detector."""
    resolve_target(request.target, detector, 0)
    if parse_regions(request.settings.regions)[0] in ("grid", "file"):
        region_map(request.settings.regions, np.zeros((3, *detector.size), np.float32))
    if request.baseline is not None and request.baseline not in BASELINES:
        load_picture(request.baseline)


def resolve_target(name: str, detector: Detector, predicted: int) -> Target:
    """The target called `name`; `predicted` is the column that the detector ranks first.

    Raises UsageError for a class that the detector does not have.
    """
    classes = detector.card.classes
    if name == PREDICTED:
        return Target(classes[predicted], (predicted,))
    if name == FAKE:
        others = [c for c in range(len(classes)) if c not in detector.real]
        return Target(FAKE, tuple(others))
    if name not in classes:
        raise UsageError(unknown("class", name, (*dict.fromkeys((*classes, FAKE, PREDICTED)),)))
    return Target(name, (classes.index(name),))
