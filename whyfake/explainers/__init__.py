"""The explainers, and the only list of them. A new one is one file and one line here."""

from __future__ import annotations

from .adversary import AdversarialSample, Attack, real_margin
from .base import Attribution, Explainer, Scene, Target, options, region_means
from .baselines import NAMES as BASELINES
from .baselines import baseline_image, check_baseline
from .lime import Lime
from .nes import Directions, Nes
from .noise_floor import nes_in, trusted_nes, with_nes
from .regions import parse_regions, region_map
from .rise import Rise
from .shap import Shap
from .sobol import Sobol
from .square import Square
from .square_bisect import Bisect, SquareBisect
from .square_nes import SquareNes

EXPLAINERS: dict[str, type[Explainer]] = {"lime": Lime, "shap": Shap, "sobol": Sobol, "rise": Rise}

ADVERSARIAL = "-adv"
"""The ending of a method's adversarial form: `lime-adv` is `lime` with baseline `adversarial`."""

METHODS: tuple[str, ...] = tuple(EXPLAINERS) + tuple(name + ADVERSARIAL for name in EXPLAINERS)
"""Every method, the original forms first."""

ADVERSARIES: tuple[str, ...] = (Nes.name, Square.name, SquareBisect.name, SquareNes.name)
"""What can make the adversarial sample; `Settings.attack` builds the chosen one."""

__all__ = [
    "ADVERSARIAL",
    "ADVERSARIES",
    "BASELINES",
    "EXPLAINERS",
    "METHODS",
    "AdversarialSample",
    "Attack",
    "Attribution",
    "Bisect",
    "Directions",
    "Explainer",
    "Lime",
    "Nes",
    "Rise",
    "Scene",
    "Shap",
    "Sobol",
    "Square",
    "SquareBisect",
    "SquareNes",
    "Target",
    "baseline_image",
    "check_baseline",
    "nes_in",
    "options",
    "parse_regions",
    "real_margin",
    "region_map",
    "region_means",
    "trusted_nes",
    "with_nes",
]
