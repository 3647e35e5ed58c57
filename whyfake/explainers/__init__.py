"""The explainers, and the only list of them. A new one is one file and one line here."""

from __future__ import annotations

from .adversary import AdversarialSample, Attack, real_margin
from .base import Attribution, Explainer, Scene, Target, options, region_means
from .baselines import NAMES as BASELINES
from .baselines import baseline_image, check_baseline
from .hsic import Hsic
from .kernelshap import KernelShap
from .lime import Lime
from .nes import Directions, Nes
from .noise_floor import nes_in, trusted_nes, with_nes
from .owen import Owen
from .regions import parse_regions, region_map
from .rise import Rise
from .shap import Shap
from .sobol import Sobol
from .square import Square
from .square_bisect import Bisect, SquareBisect
from .square_nes import SquareNes

EXPLAINERS: dict[str, type[Explainer]] = {
    "lime": Lime,
    "shap": Shap,
    "sobol": Sobol,
    "rise": Rise,
    "hsic": Hsic,
    "kernelshap": KernelShap,
    "owen": Owen,
}

ADVERSARIAL = "-adv"
"""The ending of a method's adversarial form: `lime-adv` is `lime` with baseline `adversarial`."""


def base_name(method: str) -> str:
    """The explainer of a method: `lime-adv` is `lime`."""
    return method.removesuffix(ADVERSARIAL)


METHODS: tuple[str, ...] = tuple(EXPLAINERS) + tuple(name + ADVERSARIAL for name in EXPLAINERS)
"""Every method, the original forms first."""

ADVERSARIES: tuple[str, ...] = (Nes.name, Square.name, SquareBisect.name, SquareNes.name)
"""What can make the adversarial sample; `Settings.attack` builds the chosen one."""
_PAPER = ("lime", "shap", "sobol", "rise")
GROUPS: dict[str, tuple[str, ...]] = {
    "all": METHODS,
    "paper": _PAPER + tuple(name + ADVERSARIAL for name in _PAPER),
}
"""Words for several methods: every one, or the eight of arXiv 2502.03957."""


def is_signed(method: str) -> bool:
    """Whether a method's heat has a sign; that of controls, which are no methods, has none."""
    explainer = EXPLAINERS.get(base_name(method))
    return explainer is not None and explainer.signed


__all__ = [
    "ADVERSARIAL",
    "ADVERSARIES",
    "BASELINES",
    "EXPLAINERS",
    "GROUPS",
    "METHODS",
    "AdversarialSample",
    "Attack",
    "Attribution",
    "Bisect",
    "Directions",
    "Explainer",
    "Hsic",
    "KernelShap",
    "Lime",
    "Nes",
    "Owen",
    "Rise",
    "Scene",
    "Shap",
    "Sobol",
    "Square",
    "SquareBisect",
    "SquareNes",
    "Target",
    "base_name",
    "baseline_image",
    "check_baseline",
    "is_signed",
    "nes_in",
    "options",
    "parse_regions",
    "real_margin",
    "region_map",
    "region_means",
    "trusted_nes",
    "with_nes",
]
