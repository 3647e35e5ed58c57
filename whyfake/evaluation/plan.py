"""What is to be asked of every frame of an evaluation: methods, seeds, judges and metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError, unknown
from ..evaluate.controls import CONTROLS
from ..evaluate.deletion import PARTS
from ..evaluate.radius import RADII
from ..explainers import ADVERSARIAL, Nes, Square, base_name, options
from ..ledger import digest
from ..request import parse_methods
from ..settings import Settings

ATTACKS, RADIUS, SECOND, LOCALISATION, CURVES = "attacks", "radius", "second", "masks", "curves"
SUITES: dict[str, frozenset[str]] = {
    "flip-rate": frozenset({ATTACKS, RADIUS}),
    "localisation": frozenset({LOCALISATION}),
    "paper": frozenset({ATTACKS, SECOND}),
    "all": frozenset({ATTACKS, RADIUS, SECOND, LOCALISATION, CURVES}),
}
"""What each suite asks. Localisation needs masks, and is left out of frames that have none."""
TOPS = (1, 2, 3)
PAPER_ATTACK = Nes(steps=50)
"""The paper's judge: 50 steps, the rest as for the adversarial sample."""


@dataclass(frozen=True)
class Plan:
    """What is asked of every frame. All of it goes into the keys of results.

    `methods` out of `whyfake.METHODS`; explanations are made with each of `seeds`, and judged with
    the first. `attack` is the first judge, at the largest of `radii`; `square` the second.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    parts: frozenset[str] = SUITES["all"]
    settings: Settings = field(default_factory=Settings)
    attack: Nes = PAPER_ATTACK
    square: Square = field(default_factory=Square)
    radii: tuple[float, ...] = RADII
    tops: tuple[int, ...] = TOPS
    controls: tuple[str, ...] = CONTROLS
    curve_parts: int = PARTS

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise UsageError(f"seeds must be one or more whole numbers from 0, got {self.seeds}")
        if list(self.radii) != sorted(set(self.radii)) or self.radii[-1] != self.attack.epsilon:
            raise UsageError(
                f"radii must rise up to the attack's epsilon {self.attack.epsilon:.4g}, "
                f"got {', '.join(f'{r:.4g}' for r in self.radii)}"
            )

    @property
    def digest(self) -> str:
        """A hash of everything in the plan: whether a picture is done with it."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        plain["settings"] = self.settings.plain()
        plain["parts"] = sorted(self.parts)
        plain["attack"], plain["square"] = options(self.attack), options(self.square)
        return digest(plain)

    def explanation_settings(self, method: str) -> dict[str, Any]:
        """What determines an explanation, beside frame and seed."""
        made: dict[str, Any] = {"regions": self.settings.regions}
        if method in CONTROLS:
            return made
        made["explainer"] = options(self.settings.explainer(base_name(method)))
        if method.endswith(ADVERSARIAL):
            attack = self.settings.attack()
            made[attack.name] = options(attack)
        return made

    def images(self, entries: int) -> int:
        """The most images that so many pictures can cost, if none is misclassified."""
        explainers = [self.settings.explainer(base_name(name)) for name in self.methods]
        adversarial = any(name.endswith(ADVERSARIAL) for name in self.methods)
        once = sum(e.images() for e in explainers)
        once += self.settings.attack().images() if adversarial else 0
        rankings = len(self.methods) + len(self.controls)
        attacks = len(self.tops) * (
            (ATTACKS in self.parts) * self.attack.images()
            + (RADIUS in self.parts) * (len(self.radii) - 1) * self.attack.images()
            + (SECOND in self.parts) * self.square.images()
        )
        curves = 2 * (self.curve_parts + 1) * (CURVES in self.parts)
        return entries * (1 + once * len(self.seeds) + rankings * (attacks + curves))


def make_plan(
    methods: str | Sequence[str] = "paper",
    *,
    suite: str = "all",
    seed: int = 0,
    seeds: int = 1,
    settings: Settings | None = None,
) -> Plan:
    """A checked plan from a caller's words: `seeds` seeds from `seed` on. Raises UsageError."""
    if suite not in SUITES:
        raise UsageError(unknown("suite", suite, SUITES))
    if seeds < 1:
        raise UsageError(f"seeds must be 1 or more, got {seeds}")
    return Plan(
        parse_methods(methods),
        seeds=tuple(range(seed, seed + seeds)),
        parts=SUITES[suite],
        settings=settings or Settings(),
    )
