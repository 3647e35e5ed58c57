"""The explainers, and the only list of them. A new one is one file and one line here."""

from __future__ import annotations

from .base import Attribution, Explainer, Scene, Target, options, region_means
from .baselines import NAMES as BASELINES
from .baselines import baseline_image, check_baseline
from .lime import Lime
from .nes import AdversarialSample, Directions, Nes, real_margin
from .noise_floor import trusted_nes
from .regions import parse_regions, region_map
from .rise import Rise
from .shap import Shap
from .sobol import Sobol

EXPLAINERS: dict[str, type[Explainer]] = {"lime": Lime, "shap": Shap, "sobol": Sobol, "rise": Rise}

ADVERSARIAL = "-adv"
"""The ending of a method's adversarial form: `lime-adv` is `lime` with baseline `adversarial`."""

METHODS: tuple[str, ...] = tuple(EXPLAINERS) + tuple(name + ADVERSARIAL for name in EXPLAINERS)
"""Every method, the original forms first."""

__all__ = [
    "ADVERSARIAL",
    "BASELINES",
    "EXPLAINERS",
    "METHODS",
    "AdversarialSample",
    "Attribution",
    "Directions",
    "Explainer",
    "Lime",
    "Nes",
    "Rise",
    "Scene",
    "Shap",
    "Sobol",
    "Target",
    "baseline_image",
    "check_baseline",
    "options",
    "parse_regions",
    "real_margin",
    "region_map",
    "region_means",
    "trusted_nes",
]
