"""What `whyfake inspect` and `whyfake methods` print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ..explainers import ADVERSARIAL, EXPLAINERS, options
from . import stdout
from .build import engine_rows

if TYPE_CHECKING:
    from ..settings import Settings


def print_inspection(report: dict[str, Any], *, as_json: bool) -> None:
    """Print what `inspect_model` found."""
    console = stdout()
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    rows = {"model": report["model"], "sha256": report["sha256"]}
    if "engine" in report:
        rows |= engine_rows(report["engine"])
    else:
        rows |= _graph_rows(report)
    rows["card"] = report["card_from"] or "none"
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(Text(key, style="bold"), Text(value))
    console.print(table)
    if report["card"] is not None:
        console.print_json(json.dumps(report["card"]))
    for problem in report["problems"]:
        console.print(Text(f"problem: {problem}"), style="red", soft_wrap=True)
    if "card_start" in report:
        console.print("a card to start from (check every value):")
        console.print_json(json.dumps(report["card_start"]))
    for advice in report["advice"]:
        console.print(Text(f"advice: {advice}"), style="yellow", soft_wrap=True)
    if not report["problems"] and "engine" not in report:
        console.print("card and graph agree", style="green")


def _graph_rows(report: dict[str, Any]) -> dict[str, str]:
    return {
        "graph": f"opset {report['opset']}, {report['nodes']} nodes",
        "inputs": "; ".join(_tensor_line(t) for t in report["inputs"]),
        "outputs": "; ".join(_tensor_line(t) for t in report["outputs"]),
    }


def _tensor_line(tensor: dict[str, Any]) -> str:
    shape = "×".join("?" if dim is None else str(dim) for dim in tensor["shape"])
    ending = f", ends in {tensor['activation']}" if tensor.get("activation") else ""
    return f"{tensor['name']} {tensor['dtype']} {shape}{ending}"


def print_methods(settings: Settings, *, as_json: bool) -> None:
    """Print every method with its cost in images, baseline and settings."""
    rows: list[dict[str, Any]] = [
        {
            "method": name,
            "images": settings.explainer(name).images(),
            "baseline": EXPLAINERS[name].baseline,
            "adversarial": name + ADVERSARIAL,
            "settings": options(settings.explainer(name)),
        }
        for name in EXPLAINERS
    ]
    attack = settings.attack()
    sample: dict[str, Any] = {"images": attack.images(), "settings": options(attack)}
    if as_json:
        print(json.dumps({"methods": rows, attack.name: sample, "regions": settings.regions}))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("method", "adversarial form", "images", "baseline", "settings"):
        table.add_column(column, justify="right" if column == "images" else "left")
    for row in rows:
        table.add_row(
            row["method"],
            row["adversarial"],
            f"{row['images']:,}",
            row["baseline"],
            _settings_line(row["settings"]),
        )
    table.add_row(
        attack.name,
        "makes their sample",
        f"≤ {sample['images']:,}",
        "",
        _settings_line(sample["settings"]),
    )
    stdout().print(table)


def _settings_line(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in settings.items()
    )
