"""The tables of an evaluation: what still tells methods apart first, then the paper's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..evaluate.bootstrap import Estimate, mean_interval
from ..report.tables import Cell, Table
from .facts import Fact, Facts, budget
from .plan import TOPS

OVERALL = "all"


def tables(facts: Facts, *, several: bool = False) -> list[Table]:
    """All tables that the facts can fill, in the order in which they should be read.

    Where there are `several` detectors, titles name this one.
    """
    made = [_pictures(facts)]
    judges = sorted(facts.judges, key=lambda name: (not name.startswith("nes"), name))
    for name in judges:
        made += [_flips(facts, name), _radii(facts, name)]
    made += [_paper(facts, name) for name in judges]
    made += [_localisation(facts), _curves(facts), _stability(facts), _cost(facts)]
    prefix = f"{facts.detector['name']}: " if several else ""
    return [replace(table, title=prefix + table.title) for table in made if table.rows]


def estimate(facts: Sequence[Fact], metric: str) -> Estimate:
    """A metric's mean over pictures with its interval, drawn by clips."""
    known = [fact for fact in facts if metric in fact.values]
    return mean_interval([f.values[metric] for f in known], [f.clip for f in known])


def _pictures(facts: Facts) -> Table:
    rows: list[list[Cell]] = []
    for group in (*facts.groups, OVERALL):
        mine = [p for p in facts.pictures if group in (p.row.group, OVERALL)]
        asked = [p for p in mine if p.correct is not None]
        samples = [s for p in mine for s in facts.samples.get(p.row.path, [])]
        flips: Cell = ""
        if samples:
            flipped = sum(bool(s["flipped"]) for s in samples)
            farthest = 255 * sum(s["linf"] for s in samples) / len(samples)
            flips = f"{flipped} of {len(samples)}, L∞ {farthest:.1f}/255"
        rows.append(
            [
                group,
                len(mine),
                len({p.row.clip for p in mine}),
                sum(p.correct is True for p in asked) / len(asked) if asked else float("nan"),
                sum(p.status == "judged" for p in mine),
                sum(p.status == "misclassified" for p in mine),
                sum(p.status == "real" for p in mine),
                sum(p.status == "failed" for p in mine),
                sum(p.status == "waiting" for p in mine),
                flips,
            ]
        )
    note = (
        "Judged are the forgeries that the detector classifies correctly; the others stand apart. "
        "Flipped: adversarial samples of the whole frame that it calls real."
    )
    columns = ["group", "pictures", "clips", "accuracy", "judged", "misclassified", "real"]
    return Table("Pictures", [*columns, "failed", "waiting", "flipped"], rows, note)


def _flips(facts: Facts, judge: str) -> Table:
    most = budget(judge, facts.judges[judge])
    note = (
        f"Images that {judge} needs to flip the detector when only the top regions may move: less "
        f"is better. One that fails counts as its whole budget, {most:,}. With 95 % intervals."
    )
    metrics = [f"{judge}_to_flip_{top}" for top in TOPS] + [f"{judge}_flipped_{t}" for t in TOPS]
    columns = [f"images, top-{top}" for top in TOPS] + [f"flipped, top-{top}" for top in TOPS]
    return _by_method(facts, f"Images to flip ({judge})", metrics, columns, note, grouped=True)


def _radii(facts: Facts, judge: str) -> Table:
    note = (
        "Area under the accuracy over the radius ε of the attack, as a share: less is better. It "
        "still tells methods apart where every attack at the largest ε succeeds."
    )
    metrics = [f"{judge}_area_{top}" for top in TOPS]
    columns = [f"area, top-{top}" for top in TOPS]
    return _by_method(facts, f"Accuracy over radii ({judge})", metrics, columns, note, grouped=True)


def _paper(facts: Facts, judge: str) -> Table:
    title = f"Accuracy and sufficiency ({judge})"
    note = (
        "The paper's table: accuracy of the detector when the top regions are attacked (less is "
        "better), and the drop of the explained class's probability (more is better). Short: "
        "pictures with fewer than three regions that speak for the class: those were attacked."
    )
    metrics = [f"{judge}_accuracy_{t}" for t in TOPS] + [f"{judge}_sufficiency_{t}" for t in TOPS]
    columns = [f"accuracy, top-{top}" for top in TOPS] + [f"sufficiency, top-{top}" for top in TOPS]
    rows: list[list[Cell]] = []
    for group in _groups(facts):
        for method in facts.methods:
            mine = facts.of(method, None if group == OVERALL else group)
            found = [estimate(mine, metric) for metric in metrics]
            if any(e.count for e in found):
                short = int(sum(fact.values["short"] for fact in mine))
                rows.append([group, method, *found, short])
    return _without_empty(Table(title, ["group", "method", *columns, "short"], rows, note))


def _localisation(facts: Facts) -> Table:
    note = (
        "Against the masks: energy is the share of positive heat inside, above the same from the "
        "lowest value of unsigned maps; precision the share of the top regions inside; pointing "
        "whether the hottest pixel is; overlap intersection over union with as many hottest "
        "pixels. Compare with the centred Gaussian: on face crops a prior is hard to beat."
    )
    metrics = [
        "energy",
        "above",
        "precision_1",
        "precision_2",
        "precision_3",
        "pointing",
        "overlap",
    ]
    columns = ["energy", "above", *(f"precision, top-{top}" for top in TOPS), "pointing", "overlap"]
    metrics, columns = [*metrics, "area"], [*columns, "area of mask"]
    return _by_method(facts, "Localisation", metrics, columns, note, grouped=True)


def _curves(facts: Facts) -> Table:
    note = (
        "Area under the score while pixels are hidden (deletion, less is better) or shown "
        "(insertion, more is better), hottest first. Unsuited to deepfakes after Gowrisankar "
        "and Thing 2023. Canvas: the score with everything hidden, where deletion ends (the "
        "detector's zero) and insertion begins (the frame, blurred). Above .5 that is called what "
        "the frame is called: no pixels are needed for it, and the area says little about them."
    )
    metrics = ["deletion", "deletion_canvas", "insertion", "insertion_canvas"]
    columns = ["deletion", "deletion's canvas", "insertion", "insertion's canvas"]
    return _by_method(facts, "Deletion and insertion", metrics, columns, note)


def _stability(facts: Facts) -> Table:
    note = (
        "Between seeds: rank correlation of region scores, and how much of the top three is shared."
    )
    metrics, columns = ["spearman", "top3"], ["Spearman", "top-3 in common"]
    return _by_method(facts, "Stability over seeds", metrics, columns, note)


def _cost(facts: Facts) -> Table:
    note = "Of one explanation, without the adversarial sample that all adversarial forms share."
    made = _by_method(facts, "Cost", ["images", "seconds"], ["images", "seconds"], note)
    asking = [row for row in made.rows if isinstance(row[2], Estimate) and row[2].mean > 0]
    return replace(made, rows=asking)


def _by_method(
    facts: Facts,
    title: str,
    metrics: Sequence[str],
    columns: Sequence[str],
    note: str,
    *,
    grouped: bool = False,
) -> Table:
    """A row for each method that has any of the metrics, over all pictures or `grouped` too."""
    rows: list[list[Cell]] = []
    for group in _groups(facts) if grouped else (OVERALL,):
        for method in facts.methods:
            mine = facts.of(method, None if group == OVERALL else group)
            found = [estimate(mine, metric) for metric in metrics]
            count = max(e.count for e in found)
            if count:
                rows.append([*((group,) if grouped else ()), method, count, *found])
    heads = ["group", "method"] if grouped else ["method"]
    return _without_empty(Table(title, [*heads, "pictures", *columns], rows, note))


def _groups(facts: Facts) -> tuple[str, ...]:
    """All pictures first, then the groups that have any, where there is more than one."""
    groups = [g for g in facts.groups if any(fact.group == g for fact in facts.facts)]
    return (OVERALL, *(groups if len(groups) > 1 else ()))


def _without_empty(table: Table) -> Table:
    """The table without columns that nobody has a number in."""
    kept = [
        index
        for index in range(len(table.columns))
        if any(not isinstance(cell := row[index], Estimate) or cell.count for row in table.rows)
    ]
    rows = [[row[index] for index in kept] for row in table.rows]
    return Table(table.title, [table.columns[index] for index in kept], rows, table.note)
