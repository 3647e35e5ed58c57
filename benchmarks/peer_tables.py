"""What `peers.py` makes of its runs: rows, agreement of maps, medians, what was missed, tables."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whyfake.explainers import region_means

MEDIANS = ("seconds", "cpu_seconds", "images", "peak_mb", "load_seconds", "first_seconds")
ROWS = (
    ("lime.whyfake", "mean"), ("lime.lime", "mean"), ("lime.dianna", "mean"),
    ("lime.dianna-documented", "mean"), ("lime.xplique", "gray"),
    ("shap.whyfake", "blur"), ("shap.shap", "blur"),
    ("rise.whyfake", "black"), ("rise.dianna", "black"), ("rise.dianna-documented", "black"),
    ("rise.xplique", "black"),
    ("sobol.whyfake", "black"), ("sobol.xplique", "black"),
    ("hsic.whyfake", "black"), ("hsic.xplique", "black"),
    ("nes.whyfake", ""), ("nes.paper", ""),
)  # fmt: skip
"""METHOD.PACKAGE and what its hidden pixels show."""
DOCUMENTED = {
    "lime.dianna-documented": (10, 10, False),
    "rise.dianna-documented": (100, 100, False),
}
"""Not tuned: run as the documentation shows, at the package's own batch."""


def agreement(
    heat: NDArray[Any] | None, other: NDArray[Any] | None, labels: NDArray[np.int32], name: str = ""
) -> dict[str, float | None]:
    """Spearman of the regions' mean heat and Pearson of the pixels; None where one is constant."""
    from scipy.stats import pearsonr, spearmanr

    if heat is None or other is None:
        return {}
    means = [region_means(np.asarray(h), labels) for h in (heat, other)]
    if any(np.ptp(m) == 0 for m in means):
        return {f"{name}spearman": None, f"{name}pearson": None}
    return {
        f"{name}spearman": round(float(spearmanr(*means).statistic), 4),
        f"{name}pearson": round(float(pearsonr(heat.ravel(), other.ravel()).statistic), 6),
    }


def summarise(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Medians over repeats; `ratio` is that of the ratios to whyfake's run of the same repeat."""
    table = {}
    for row, of_row in runs.items():
        own = {run["repeat"]: run for run in runs.get(row.partition(".")[0] + ".whyfake", [])}
        table[row] = {
            key: statistics.median(run[key] for run in of_row if key in run)
            for key in (
                "seconds",
                "cpu_seconds",
                "images",
                "peak_mb",
                "load_seconds",
                "first_seconds",
            )
            if any(key in run for run in of_row)
        }
        pairs = [(run, own[run["repeat"]]) for run in of_row if run["repeat"] in own]
        if pairs:
            for key, name in (("seconds", "ratio"), ("cpu_seconds", "cpu_ratio")):
                table[row][name] = statistics.median(a[key] / b[key] for a, b in pairs)
        stepped = [(a, b) for a, b in pairs if a.get("steps") and b.get("steps")]
        if stepped:
            each = [a["seconds"] / a["steps"] for a, _ in stepped]
            table[row]["step_seconds"] = statistics.median(each)
            table[row]["step_ratio"] = statistics.median(
                a["seconds"] / a["steps"] / (b["seconds"] / b["steps"]) for a, b in stepped
            )
    return table


def missed(table: dict[str, dict[str, float]]) -> list[str]:
    """What should hold and does not: no peer is faster, and dianna as documented 5 times slower."""
    said = []
    for row, cells in table.items():
        wanted = 5 if row in DOCUMENTED else 1
        if "whyfake" not in row and cells.get("ratio", wanted) < wanted:
            said.append(
                f"{row}: {cells['ratio']:.2f} times whyfake's time, {wanted} or more wanted"
            )
    return said


def markdown(entry: dict[str, Any]) -> str:
    """The table of one detector, as docs/results.md shows it."""
    lines = [
        "| method | by | images | seconds | × whyfake | × its CPU time | peak MB "
        "| Spearman with whyfake | pixels | same rows | with whyfake at 4× |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row, baseline in ROWS:
        method, name = row.split(".")
        if row in entry["not_run"]:
            lines.append(f"| {method} | {name} | not run: {entry['not_run'][row]} ||||||||")
            continue
        cells, like = entry["table"].get(row), entry["agreement"].get(row, {})
        if cells is None:
            continue
        shown = f"{method}, {baseline}" if baseline else method
        ratio = f"{cells['ratio']:.2f} | {cells['cpu_ratio']:.2f}" if "ratio" in cells else " | "
        keys = ("spearman", "pearson", "same_pearson", "large_spearman")
        alike = ["" if like.get(key) is None else f"{like[key]:.3f}" for key in keys]
        lines.append(
            f"| {shown} | {name} | {cells['images']:.0f} | {cells['seconds']:.2f} | {ratio} "
            f"| {cells['peak_mb']:.0f} | " + " | ".join(alike) + " |"
        )
    return "\n".join(lines)


def samples_markdown(entry: dict[str, Any]) -> str:
    """What became of the adversarial samples, seed by seed."""
    lines = [
        "| NES | repeat | steps | flipped | L∞ ÷ 255 | lowest | highest | outside [0, 1] "
        "| flipped as a picture |",
        "|---|---:|---:|---|---:|---:|---:|---:|---|",
    ]
    for row in ("nes.whyfake", "nes.paper"):
        for run in entry["runs"].get(row, ()):
            lines.append(
                f"| {row[4:]} | {run['repeat']} | {run['steps']} | {yes(run['flipped'])} "
                f"| {run['linf']:.1f} | {run['low']:.3f} | {run['high']:.3f} "
                f"| {run['outside']:.2%} | {yes(run['flipped_as_picture'])} |"
            )
    return "\n".join(lines)


def yes(fact: bool) -> str:
    """A fact as a word."""
    return "yes" if fact else "no"
