"""The paper's pair (Tsigos et al. 2024, arXiv 2404.18649): accuracy and sufficiency when the top
regions are attacked.
"""

from __future__ import annotations


def sufficiency(score_before: float, score_after: float) -> float:
    """The drop of the explained class's probability by an attack on the top regions, in [−1, 1].

    Larger is better: the regions carry what the detector uses. Accuracy is the share of attacked
    frames still classified as their label says; smaller is better.
    """
    return score_before - score_after
