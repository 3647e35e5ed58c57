"""NES on detectors whose arithmetic is coarse: σ from the noise floor, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from half import HALF_SIZE
from half import half_detector as detector
from numpy.typing import NDArray
from toys import planted_detector, planted_frame

import whyfake
from whyfake.errors import EngineError
from whyfake.explainers import Directions, Nes, real_margin, trusted_nes
from whyfake.explainers.noise_floor import TRUSTED, difference_correlation
from whyfake.likeness import nes_likeness
from whyfake.runtime import Detector, drive

SIZE, PATCH = HALF_SIZE, (6, 12, 9, 18)


def frame(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((3, *SIZE), np.float32)


def differences(which: Detector, at: NDArray[np.float32], sigma: float) -> NDArray[np.float64]:
    directions = Directions(SIZE, 1, 5, np.random.default_rng(6))
    margins = real_margin(which.ask(directions.batch(at, 200, sigma, None), at), which.real)[1:]
    return margins[:200] - margins[200:]


# --- the estimate


@pytest.mark.parametrize("true", [0.6, 0.8, 0.95, 0.99])
def test_the_correlation_is_told_from_two_radii(true: float) -> None:
    """Closed form: signal doubles from σ/2 to σ, noise stays; 20,000 directions."""
    rng = np.random.default_rng(0)
    noise = np.sqrt(1 / true**2 - 1)
    exact = rng.normal(0, 1, 20_000)
    half = exact / 2 + rng.normal(0, noise, 20_000)
    full = exact + rng.normal(0, noise, 20_000)
    assert abs(difference_correlation(half, full) - true) < 0.01
    assert abs(np.corrcoef(full, exact)[0, 1] - true) < 0.01


def test_noise_alone_and_nothing_at_all() -> None:
    rng = np.random.default_rng(0)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        assert difference_correlation(rng.normal(size=40), rng.normal(size=40)) < 0.8
    assert difference_correlation(np.zeros(40), np.zeros(40)) == 0.0


def test_exact_arithmetic_needs_no_larger_radius() -> None:
    chosen, correlation = drive(
        trusted_nes(
            Nes(),
            frame(),
            (0,),
            seed=0,
            rng=np.random.default_rng(0),
            precision="fp32",
        ),
        exact := detector(np.float32),
        frame(),
    )
    assert chosen == Nes()
    assert correlation > 0.999
    assert exact.images_seen == 160


# --- on a detector that computes in fp16


def test_fp16_gets_a_radius_at_which_its_differences_are_those_of_float32() -> None:
    """At NES's own σ they are rounding; at the chosen one they are slope."""
    half, exact = detector(np.float16), detector(np.float32)
    nes = Nes()
    wanted = differences(exact, frame(), nes.sigma)
    assert np.corrcoef(differences(half, frame(), nes.sigma), wanted)[0, 1] < 0.85
    chosen, believed = drive(
        trusted_nes(nes, frame(), (0,), seed=0, rng=np.random.default_rng(0), precision="fp16"),
        half,
        frame(),
    )
    assert nes.sigma < chosen.sigma <= nes.epsilon
    doublings = round(np.log2(chosen.sigma / nes.sigma))
    assert half.images_seen == 401 + 160 + 80 * doublings
    really = np.corrcoef(differences(half, frame(), chosen.sigma), wanted)[0, 1]
    assert believed >= TRUSTED
    assert abs(really - believed) < 0.05


def test_forward_differences_are_judged_as_what_they_are() -> None:
    """They are half as large over the same rounding, and are trusted for what they then say."""
    half, exact = detector(np.float16), detector(np.float32)
    nes = Nes(differences="forward")
    asking = trusted_nes(nes, frame(), (0,), seed=0, rng=np.random.default_rng(0), precision="fp16")
    chosen, believed = drive(asking, half, frame())
    doublings = round(np.log2(chosen.sigma / nes.sigma))
    assert chosen.sigma > nes.sigma
    assert half.images_seen == (2 + doublings) * 81
    assert believed >= TRUSTED
    directions = Directions(SIZE, 1, 0, np.random.default_rng(7))
    batch = chosen.asked(directions, frame(), chosen.pairs, None)
    sides = [real_margin(each.ask(batch, frame()), (0,)) for each in (half, exact)]
    really = np.corrcoef(*(margins[1:] - margins[0] for margins in sides))[0, 1]
    assert abs(really - believed) < 0.05


def test_a_slope_that_fp16_cannot_show_is_refused() -> None:
    """Carried around 30,000, the score moves in steps of 16."""
    flat = detector(np.float16, offset=30_000.0)
    asking = trusted_nes(
        Nes(), frame(), (0,), seed=0, rng=np.random.default_rng(0), precision="fp16"
    )
    with pytest.raises(EngineError, match=r"computes in fp16.*--precision fp32"):
        drive(asking, flat, frame())


def test_likeness_says_what_nes_will_do() -> None:
    frames = np.stack([frame(seed) for seed in range(3)])
    found = nes_likeness(detector(np.float32), detector(np.float16), frames)
    assert (found["frames"], found["refused"]) == (3, 0)
    assert found["sigma"] > Nes().sigma
    assert found["correlation"] > 0.85
    same = nes_likeness(detector(np.float32), detector(np.float32), frames)
    assert same["sigma"] == Nes().sigma
    assert same["correlation"] > 0.999999


# --- through the whole of an explanation


def explain(which: Detector) -> whyfake.Explanation:
    picture = np.round(frame(3).transpose(1, 2, 0) * 255).astype(np.uint8)
    return whyfake.explain(which, picture, method="rise-adv", settings=_small())


def _small() -> whyfake.Settings:
    return whyfake.Settings().with_budget(64)


def test_an_explanation_says_which_sigma_it_used_and_counts_its_cost() -> None:
    half = detector(np.float16, seed=6)
    found = explain(half)
    assert found.images == half.images_seen == sum(found.image_counts.values())
    assert found.image_counts["sigma"] in range(160, 561, 80)
    used = found.settings["nes"]["sigma"]
    assert used > Nes().sigma
    [note] = [note for note in found.notes if "computes in fp16" in note]
    assert f"NES searched at sigma {used:.3g}" in note
    assert found.adversary is not None
    assert found.adversary.flipped
    with detector(np.float32, seed=6) as exact:  # the sample is one for the exact network too
        assert exact.log_probs(found.adversarial[None])[0].argmax() == 0


def test_float32_detectors_ask_nothing_more(tmp_path: Path) -> None:
    with planted_detector(tmp_path, PATCH, SIZE) as exact:
        picture = planted_frame(PATCH, SIZE)
        found = whyfake.explain(exact, picture, method="rise-adv", settings=_small())
    assert "sigma" not in found.image_counts
    assert found.settings["nes"]["sigma"] == Nes().sigma
    assert not any("sigma" in note for note in found.notes)
