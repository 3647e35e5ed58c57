"""Every setting of every method, in one place: presets, TOML files, and checks of names and types.

regions = "slic:50"
[nes]
steps = 80
[rise]
masks = 4000
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError, unknown
from .explainers import (
    ADVERSARIES,
    EXPLAINERS,
    Attack,
    Bisect,
    Explainer,
    Hsic,
    KernelShap,
    Lime,
    Nes,
    Owen,
    Rise,
    Shap,
    Sobol,
    Square,
    SquareBisect,
    SquareNes,
    options,
    parse_regions,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_FIRST = ("lime", "shap", "sobol", "rise")
"""The explainers that every version had."""


@dataclass(frozen=True)
class Refine:
    """How square-nes draws its sample towards NES's: `steps` of `pairs` antithetic pairs each."""

    steps: int = 2
    pairs: int = 40

    def __post_init__(self) -> None:
        for name in ("steps", "pairs"):
            if getattr(self, name) < 1:
                raise UsageError(f"Refine: {name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Settings:
    """The options of each explainer and attack, and the regions that explanations rank.

    `adversary` names what makes the adversarial sample: nes, square, square-bisect or square-nes.
    """

    nes: Nes = dataclasses.field(default_factory=Nes)
    lime: Lime = dataclasses.field(default_factory=Lime)
    shap: Shap = dataclasses.field(default_factory=Shap)
    sobol: Sobol = dataclasses.field(default_factory=Sobol)
    rise: Rise = dataclasses.field(default_factory=Rise)
    hsic: Hsic = dataclasses.field(default_factory=Hsic)
    kernelshap: KernelShap = dataclasses.field(default_factory=KernelShap)
    owen: Owen = dataclasses.field(default_factory=Owen)
    regions: str = "slic:50"
    adversary: str = "nes"
    square: Square = dataclasses.field(default_factory=Square)
    bisect: Bisect = dataclasses.field(default_factory=Bisect)
    refine: Refine = dataclasses.field(default_factory=Refine)

    def __post_init__(self) -> None:
        parse_regions(self.regions)
        if self.adversary not in ADVERSARIES:
            raise UsageError(unknown("adversary", self.adversary, ADVERSARIES))

    def attack(self) -> Attack:
        """What makes the adversarial sample, with its options."""
        if self.adversary == Square.name:
            return self.square
        if self.adversary == SquareBisect.name:
            return SquareBisect(self.square, self.bisect)
        if self.adversary == SquareNes.name:
            nes = dataclasses.replace(self.nes, pairs=self.refine.pairs)
            return SquareNes(self.square, self.bisect, nes, self.refine.steps)
        return self.nes

    def plain(self) -> dict[str, Any]:
        """What determines explanations, as plain JSON types: of the attacks, the chosen one.

        What earlier versions did not have is left out at its default, so that they wrote the same.
        """
        found: dict[str, Any] = {"nes": options(self.nes), "regions": self.regions}
        for name in EXPLAINERS:
            explainer = self.explainer(name)
            if name in _FIRST or explainer != EXPLAINERS[name]():
                found[name] = options(explainer)
        if self.adversary != Nes.name:
            found[self.adversary] = options(self.attack())
        return found

    def explainer(self, name: str) -> Explainer:
        """The explainer of that name with its options."""
        found: Explainer = getattr(self, name)
        return found

    def with_budget(self, images: int) -> Settings:
        """The same with every explainer asking for about `images`; NES keeps its own."""
        budgets = {name: self.explainer(name).with_budget(images) for name in EXPLAINERS}
        return dataclasses.replace(self, **budgets)  # type: ignore[arg-type]

    def merge(self, changes: Mapping[str, Any], where: str) -> Settings:
        """The same with `changes` as a settings file holds them. Raises UsageError."""
        updated: dict[str, Any] = {}
        for key, value in changes.items():
            known = [item.name for item in dataclasses.fields(self)]
            if key not in known:
                raise UsageError(f"{where}: {unknown('setting', key, known)}")
            current = getattr(self, key)
            if dataclasses.is_dataclass(current):
                updated[key] = _merge_options(current, value, f"{where}: [{key}]")
            else:
                updated[key] = _typed(current, value, f"{where}: {key}")
        return dataclasses.replace(self, **updated)

    def to_toml(self) -> str:
        """A settings file that `read_settings` reads back equal."""
        lines, tables = [], []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if dataclasses.is_dataclass(value):
                tables.append(f"\n[{item.name}]")
                tables += [
                    f"{option.name} = {_toml(getattr(value, option.name))}"
                    for option in dataclasses.fields(value)
                ]
            else:
                lines.append(f"{item.name} = {_toml(value)}")
        return "\n".join(lines + tables) + "\n"


PRESETS: dict[str, Settings] = {
    "default": Settings(),
    # fewer and better questions; held to the paper's budgets in docs/questions.md
    "fast": Settings(
        nes=Nes(pairs=10, differences="forward", move="gradient", alpha=1.25 / 255, steps=56),
        lime=Lime(samples=224, design="hadamard"),
        shap=Shap(samples=448, contexts="paired", pairs=2, nodes_per_round=4),
        sobol=Sobol(design=6, scramble=True, steps="half"),
        rise=Rise(masks=1000, sampling="stratified", adjusted=True),
        hsic=Hsic(samples=125, fitted=True),
        kernelshap=KernelShap(samples=500),
        owen=Owen(samples=500, contexts="paired", pairs=6, nodes_per_round=4),
    ),
    # a track asks about one face again and again: more frames say more than more samples of each
    "video": Settings(lime=Lime(samples=500)),
    # the budgets and the mask density of the paper's published code; not its mistakes
    "paper": Settings(shap=Shap(nodes_per_round=25), rise=Rise(p=0.54)),
}


def preset(name: str) -> Settings:
    """A preset by name. Raises UsageError."""
    if name not in PRESETS:
        raise UsageError(unknown("preset", name, PRESETS))
    return PRESETS[name]


def read_settings(path: str | Path, base: Settings) -> Settings:
    """`base` with what a TOML file changes. Raises UsageError."""
    try:
        changes = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the settings: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the settings are not UTF-8 text: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    return base.merge(changes, str(path))


def _merge_options(current: Any, changes: Any, where: str) -> Any:
    if not isinstance(changes, Mapping):
        raise UsageError(f"{where} must be a table, got {changes!r}")
    known = [option.name for option in dataclasses.fields(current)]
    typed = {}
    for key, value in changes.items():
        if key not in known:
            raise UsageError(f"{where}: {unknown('setting', key, known)}")
        typed[key] = _typed(getattr(current, key), value, f"{where} {key}")
    return dataclasses.replace(current, **typed)


def _typed(current: Any, value: Any, where: str) -> Any:
    wanted = type(current)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise UsageError(f"{where} must be {words[wanted]}, got {value!r}")
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # a JSON string is a TOML string
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
