"""Paired differences with intervals, from folders of `studies.truth`.

    python -m studies.paired RUN             # each adversarial form against its original
    python -m studies.paired RUN OTHER       # each method in OTHER, with its other settings there
    python -m studies.paired RUN OTHER --flips 400

OTHER may be a copy of RUN that was gone on with under another preset: of methods that it holds with
two settings, those that RUN has not are meant. Differences are of the same case, averaged over
cases, with 95 % bootstrap intervals over clips and people. Insertion and deletion are of the cases
whose canvas, with everything hidden, is not itself called fake, and how many these are stands
beside them: where it is, the curve does not say which pixels make a frame fake. Prints markdown.

With --flips it also says how many differences lie beyond their intervals, and how many would if the
settings did nothing: the signs of all of a clip's differences are turned together, since its
figures depend on one another, in every pattern or as many as it says, and intervals are made anew.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whyfake.evaluate.bootstrap import Estimate, mean_interval
from whyfake.evaluation.facts import Facts, gather
from whyfake.explainers import ADVERSARIAL
from whyfake.ledger import Ledger, canonical
from whyfake.report.tables import Cell, Table, markdown

METRICS = {
    "nes_to_flip_1": "NES, top-1",
    "nes_to_flip_2": "NES, top-2",
    "nes_to_flip_3": "NES, top-3",
    "square_to_flip_1": "Square, top-1",
    "square_to_flip_3": "Square, top-3",
    "nes_sufficiency_1": "sufficiency, top-1",
    "energy": "energy",
    "precision_1": "precision, top-1",
    "precision_3": "precision, top-3",
    "insertion": "insertion",
    "deletion": "deletion",
    "images": "images asked",
}
CURVES = ("insertion", "deletion")
LESS_IS_BETTER = ("nes_to_flip", "square_to_flip", "deletion")
COLUMNS = [
    column
    for metric, title in {"method": "method", "cases": "cases", **METRICS}.items()
    for column in ([f"{title}, cases"] if metric in CURVES else []) + [title]
]


def read(folder: Path) -> Facts:
    """The facts of the one detector of a folder."""
    with Ledger(folder) as ledger:
        [detector] = ledger.detectors()
        return gather(ledger, detector)


@dataclass(frozen=True)
class Change:
    """What a metric changes by in the cases (N,) that have it, and their clips."""

    metric: str
    values: NDArray[np.float64]
    clips: list[str]

    def mean(self) -> Estimate:
        """The mean with its interval over clips; NaN without cases."""
        found = mean_interval(self.values, self.clips)
        return found if found.count else Estimate(*[float("nan")] * 3, 0)

    def verdict(self, signs: dict[str, int] | None = None) -> int:
        """1 if better beyond the interval, −1 if worse, else 0; `signs` turns clips."""
        turned = [1 if signs is None else signs[clip] for clip in self.clips]
        found = mean_interval(self.values * turned, self.clips)
        beyond = int(found.low > 0) - int(found.high < 0)
        return -beyond if self.metric.startswith(LESS_IS_BETTER) else beyond


def changes(one: Facts, first: str, other: Facts, second: str) -> tuple[int, list[Change]]:
    """How many cases both have, and `second` − `first` in each metric; of curves, in those cases
    whose canvas is not called fake.
    """
    # by name: each folder has its own copy of the cases, and a copied ledger knows them twice
    known, found = (
        {Path(fact.path).name: fact for fact in facts.of(method)}
        for facts, method in ((one, first), (other, second))
    )
    pairs = [(known[name], fact) for name, fact in found.items() if name in known]
    result = []
    for metric in METRICS:
        both = [(a, b) for a, b in pairs if metric in a.values and metric in b.values]
        if metric in CURVES:
            both = [(a, b) for a, b in both if a.values[f"{metric}_canvas"] < 0.5]
        values = np.array([b.values[metric] - a.values[metric] for a, b in both], np.float64)
        result.append(Change(metric, values, [a.clip for a, _ in both]))
    return len(pairs), result


def differences(one: Facts, first: str, other: Facts, second: str) -> list[Cell]:
    """How many cases both have, and the mean change of each metric; before that of a curve, in how
    many cases that is.
    """
    count, found = changes(one, first, other, second)
    cells: list[Cell] = [count]
    for change in found:
        cells += [len(change.values)] if change.metric in CURVES else []
        cells.append(change.mean())
    return cells


def forms(facts: Facts) -> Table:
    """Each adversarial form minus its original."""
    originals = [m for m in facts.methods if m + ADVERSARIAL in facts.methods]
    rows = [[m, *differences(facts, m, facts, m + ADVERSARIAL)] for m in originals]
    note = (
        "Images to flip, sufficiency and localisation of the adversarial form minus the original."
    )
    title = f"{facts.detector['name']}: adversarial minus original"
    return Table(title, COLUMNS, rows, note)


def renewed(one: Facts, other: Facts) -> list[tuple[str, str]]:
    """Methods of `one`, and what each is called in `other` under settings that `one` has not."""
    mine = {canonical(value) for value in one.variants.values()}
    return [
        (first, second)
        for first in one.methods
        for second in other.methods
        if second.partition("#")[0] == first and canonical(other.variants.get(second)) not in mine
    ]


def settings(one: Facts, other: Facts) -> Table:
    """Each method under other settings minus the same method in `one`."""
    rows = [[a, *differences(one, a, other, b)] for a, b in renewed(one, other)]
    title = f"{one.detector['name']}: the other settings minus these"
    return Table(title, COLUMNS, rows, "The same cases under both.")


def chance(found: list[Change], flips: int) -> str:
    """How many changes lie beyond their intervals, and how many by chance alone."""
    found = [c for c in found if c.metric != "images" and len(set(c.clips)) > 1]
    clips = sorted({clip for change in found for clip in change.clips})
    if 2 ** len(clips) <= flips:
        turned = np.array(list(itertools.product((1, -1), repeat=len(clips))))
    else:
        turned = np.random.default_rng(0).choice([-1, 1], (flips, len(clips)))
    by_signs = np.array([
        [change.verdict(dict(zip(clips, signs, strict=True))) for change in found]
        for signs in turned.tolist()
    ])  # fmt: skip
    now = [change.verdict() for change in found]
    lines = [f"{len(found)} differences of {len(clips)} clips, {len(turned)} patterns of signs."]
    for verdict, name in ((-1, "worse"), (1, "better")):
        by_chance = (by_signs == verdict).sum(axis=1)
        low, middle, high = np.quantile(by_chance, (0.025, 0.5, 0.975))
        as_many = np.mean(by_chance >= now.count(verdict))
        lines.append(
            f"{now.count(verdict)} {name} beyond their interval; by chance {middle:.0f} "
            f"[{low:.0f}, {high:.0f}], as many or more in {as_many:.0%} of them."
        )
    return "\n".join(lines)


def main() -> None:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--flips", type=int, default=0, help="at most so many patterns of signs")
    options = parser.parse_args()
    facts = read(options.run)
    if options.other is None:
        print(markdown([forms(facts)]))
    else:
        other = read(options.other)
        print(markdown([settings(facts, other)]))
        if options.flips:
            named = renewed(facts, other)
            found = [change for a, b in named for change in changes(facts, a, other, b)[1]]
            print(chance(found, options.flips))


if __name__ == "__main__":
    main()
