"""How many images it takes to flip the detector by the top regions alone."""

from __future__ import annotations


def images_to_flip(flipped: bool, images: int, budget: int) -> int:
    """What an attack needed to flip; one that failed counts as its whole budget.

    So a mean over frames is bounded, and a method whose regions flip nothing gets the budget.
    """
    return images if flipped else budget
