"""Paired differences with intervals, from folders of `studies.truth`.

    python -m studies.paired RUN             # each adversarial form against its original
    python -m studies.paired RUN OTHER       # each method in OTHER, with its other settings there

OTHER may be a copy of RUN that was gone on with under another preset: of methods that it holds with
two settings, those that RUN has not are meant. Differences are of the same case, averaged over
cases, with 95 % bootstrap intervals over clips and people. Insertion and deletion are of the cases
whose canvas, with everything hidden, is not itself called fake, and how many these are stands
beside them: where it is, the curve does not say which pixels make a frame fake. Prints markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

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


def differences(one: Facts, first: str, other: Facts, second: str) -> list[Cell]:
    """How many cases both have, and the mean of `second` − `first` for each metric; before that of
    a curve, in how many cases its canvas is not called fake.
    """
    # by name: each folder has its own copy of the cases, and a copied ledger knows them twice
    known, found = (
        {Path(fact.path).name: fact for fact in facts.of(method)}
        for facts, method in ((one, first), (other, second))
    )
    pairs = [(known[name], fact) for name, fact in found.items() if name in known]
    cells: list[Cell] = [len(pairs)]
    for metric in METRICS:
        both = [(a, b) for a, b in pairs if metric in a.values and metric in b.values]
        if metric in CURVES:
            both = [(a, b) for a, b in both if a.values[f"{metric}_canvas"] < 0.5]
            cells.append(len(both))
        change = mean_interval(
            [b.values[metric] - a.values[metric] for a, b in both], [a.clip for a, _ in both]
        )
        cells.append(change if change.count else Estimate(*[float("nan")] * 3, 0))
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


def settings(one: Facts, other: Facts) -> Table:
    """Each method under other settings minus the same method in `one`."""
    mine = {canonical(value) for value in one.variants.values()}
    rows: list[list[Cell]] = []
    for first in one.methods:
        named = [name for name in other.methods if name.partition("#")[0] == first]
        new = [n for n in named if canonical(other.variants.get(n)) not in mine]
        rows += [[first, *differences(one, first, other, second)] for second in new]
    title = f"{one.detector['name']}: the other settings minus these"
    return Table(title, COLUMNS, rows, "The same cases under both.")


def main() -> None:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    options = parser.parse_args()
    facts = read(options.run)
    if options.other is None:
        print(markdown([forms(facts)]))
    else:
        print(markdown([settings(facts, read(options.other))]))


if __name__ == "__main__":
    main()
