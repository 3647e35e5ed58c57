"""The training's run: resumable to the bit, and what it learns from."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_toys import RECIPE, strict_json, synthetic_face

pytest.importorskip("onnxscript")
import torch

from training.faces import FolderError, read_faces
from training.fit import Fit, Pairs, fit
from training.network import normalise
from whyfake.errors import UsageError
from whyfake.evaluate.forge import SelfBlend

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

STEPS = 18  # a round: 18 identities × 2 faces, 4 a batch, 2 passes


def states(run: Fit) -> dict[str, Any]:
    parts = {"average": run.average, "network": run.network}
    return {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def assert_same(one: Fit, other: Fit) -> None:
    """To the bit."""
    first, second = states(one), states(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert one.curve == other.curve
    assert (one.turn, one.step) == (other.turn, other.step)


def test_another_run_is_the_same_to_the_bit(crops: Path, two_rounds: Fit, tmp_path: Path) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - neither may matter
    assert_same(fit(crops, tmp_path / "run", RECIPE, "cpu", workers=0), two_rounds)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    crops: Path, two_rounds: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in round 2: that round is done anew from what round 1 left."""
    run = tmp_path / "run"
    learn = Fit._learn

    def stop(self: Fit, batch: tuple[Any, ...], total: int) -> float:
        if self.step == STEPS + 5:
            raise KeyboardInterrupt
        return learn(self, batch, total)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_learn", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(crops, run, RECIPE, "cpu", workers=0)
    assert Fit(run, RECIPE, "cpu", workers=0).step == STEPS
    assert_same(fit(crops, run, RECIPE, "cpu", workers=0), two_rounds)


def test_a_finished_run_is_left_alone(
    crops: Path, two_rounds: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fit, "train_round", None)
    before = (two_rounds.run / "checkpoint.pt").read_bytes()
    assert_same(fit(crops, two_rounds.run, RECIPE, "cpu", workers=0), two_rounds)
    assert (two_rounds.run / "checkpoint.pt").read_bytes() == before


def test_another_recipe_in_the_same_folder_is_refused(crops: Path, two_rounds: Fit) -> None:
    with pytest.raises(FolderError, match=r"checkpoint\.pt was made with another recipe"):
        fit(crops, two_rounds.run, replace(RECIPE, rounds=3), "cpu", workers=0)


def test_fewer_faces_than_a_batch_are_refused(crops: Path, tmp_path: Path) -> None:
    """36 train: nothing could be learnt of them, and the loss would be no number."""
    run = tmp_path / "run"
    with pytest.raises(FolderError, match="36 faces to train on are fewer than a batch, 37"):
        fit(crops, run, replace(RECIPE, batch=37), "cpu", workers=0)
    assert not run.exists()


def test_a_run_leaves_a_checkpoint_and_its_curve(two_rounds: Fit) -> None:
    assert sorted(p.name for p in two_rounds.run.iterdir()) == ["checkpoint.pt", "curve.json"]
    record = strict_json(two_rounds.run / "curve.json")
    assert record == {"recipe": asdict(RECIPE), "curve": two_rounds.curve}
    assert [point["round"] for point in record["curve"]] == [1, 2]
    assert all(0 <= point["validation_auc"] <= 1 for point in record["curve"])
    saved = torch.load(two_rounds.run / "checkpoint.pt", weights_only=True)
    assert (saved["turn"], saved["step"]) == (2, 2 * STEPS)
    assert saved["average"]["n_averaged"] == 2 * STEPS
    for name, value in two_rounds.network.state_dict().items():
        assert torch.equal(saved["network"][name], value)


def test_a_damaged_checkpoint_is_said(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"junk")
    with pytest.raises(FolderError, match=r"checkpoint\.pt is damaged: remove it"):
        fit(crops, tmp_path, RECIPE, "cpu", workers=0)


@pytest.mark.parametrize(
    "change",
    [{"size": 100}, {"size": 48}, {"rounds": 0}, {"passes": 0}, {"batch": 0}, {"seed": -1}],
    ids=str,
)
def test_recipes_that_cannot_be(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(change))} must be"):
        replace(RECIPE, **change)


def test_it_learns_a_trivial_batch(tmp_path: Path) -> None:
    """Black is real, white is fake, all over: 30 steps bring the loss to a tenth."""
    run = Fit(tmp_path, RECIPE, "cpu", workers=0)
    run.network.train()
    black = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    batch = (black, black + 255, torch.ones(4, 8, 8))
    losses = [run._learn(batch, total=1000) for _ in range(30)]
    assert np.mean(losses[-3:]) < 0.1 * losses[0]
    run.network.eval()
    logits, where = run.network(normalise(torch.cat(batch[:2])))
    assert logits[:4].max() < logits[4:].min()
    assert where[:4].max() < where[4:].min()


def test_every_second_pass_is_mirrored(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def record(_: Fit, batch: tuple[Any, ...], total: int) -> float:
        seen.append(tuple(part.numpy() for part in batch))
        return float(len(seen))

    monkeypatch.setattr(Fit, "_learn", record)
    run = Fit(tmp_path, replace(RECIPE, passes=3), "cpu", workers=0)
    ticks: list[None] = []
    loss = run.train_round(read_faces(crops, "train", 1), lambda: ticks.append(None))
    assert len(ticks) == len(seen) == 27
    assert loss == np.mean(np.arange(1, 28))
    first, second, third = (
        sorted(b"".join(part.tobytes() for part in parts) for parts in passed)
        for passed in (
            seen[:9],
            [tuple(part[..., ::-1] for part in batch) for batch in seen[9:18]],
            seen[18:],
        )
    )
    assert first == second == third
    assert len(set(first)) == 9


def test_a_round_forges_anew_and_coarsely_at_first() -> None:
    faces = [synthetic_face(0), synthetic_face(1)]
    rounds = [Pairs(faces, RECIPE, turn) for turn in (7, 8, 8)]  # equally fine
    for side in (0, 1):
        assert not torch.equal(rounds[0][1][side], rounds[1][1][side])
        assert torch.equal(rounds[1][1][side], rounds[2][1][side])
    again = Pairs(faces, RECIPE, 7, repeats=3)
    assert len(again) == 6
    assert torch.equal(again[1][0], rounds[0][1][0])
    assert not torch.equal(again[3][0], again[1][0])
    recipe = replace(RECIPE, rounds=100, easy=0.2)
    colours = [recipe.blend(turn).colour for turn in range(100)]
    assert colours[:21:10] == pytest.approx([50, 35, 20])
    assert recipe.blend(0).ratios == (1.0,)
    assert all(recipe.blend(turn) == SelfBlend() for turn in range(20, 100))
