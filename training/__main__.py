"""Trains, calibrates, exports and judges the bundled detector, in one command.

    python -m training FACES --run runs/a --out whyfake/models/bundled.onnx --data ../shared/data

FACES is a folder of pictures named IDENTITY_ANYTHING.jpg with landmarks68.csv beside them. The run
stops with Ctrl-C and goes on with the same command. Its folder keeps checkpoint.pt, curve.json,
curve.png and results.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import torch

from whyfake.errors import WhyfakeError
from whyfake.files import write_file

from .export import calibrate, export, score_pairs
from .faces import FolderError, read_faces
from .fit import Recipe, fit
from .judge import judge


def main() -> None:
    """Parse the command line and run all four steps."""
    options = _parse()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    try:
        _run(options, Recipe(**{item.name: getattr(options, item.name) for item in fields(Recipe)}))
    except (FolderError, WhyfakeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last finished round")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("faces", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="folder of this run")
    parser.add_argument("--out", type=Path, help="where the ONNX file goes (RUN/detector.onnx)")
    parser.add_argument("--data", type=Path, help="ffpp_pairs/, videos/ and face_detector/")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that forge faces")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for item in fields(Recipe):
        flag = "--" + item.name.replace("_", "-")
        parser.add_argument(flag, type=type(item.default), default=item.default)
    return parser.parse_args()


def _run(options: argparse.Namespace, recipe: Recipe) -> None:
    for part in ("ffpp_pairs", "videos", "face_detector") if options.data else ():
        if not (options.data / part).is_dir():  # said now, and not after an hour of training
            raise FolderError(f"{options.data}: wanted a folder {part} in it")
    run = fit(options.faces, options.run, recipe, options.device, options.workers)
    _draw_curve(run.curve, options.run / "curve.png")
    held_out = read_faces(options.faces, "validation", recipe.seed)
    calibration = calibrate(*score_pairs(run.average.module, held_out, recipe, 4, run.device))
    path = options.out or options.run / "detector.onnx"
    export(run, calibration, path)
    rows = judge(path, options.faces, options.data, recipe)
    record: dict[str, Any] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {options.threads} threads, {options.device}",
        "versions": {name: version(name) for name in ("torch", "numpy", "onnxruntime", "av")},
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "calibration": asdict(calibration),
        "sets": rows,
    }
    write_file(options.run / "results.json", (json.dumps(record, indent=1) + "\n").encode())
    print(table(rows))
    print(f"\n{path}: {path.stat().st_size / 1e6:.1f} MB; figures in {options.run}/results.json")


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    names = ("auc", "accuracy", "false_alarms", "found")
    lines = ["| set | real / fake | groups | AUC | accuracy | false alarms | found |"]
    lines.append("|---|---:|---:|---|---|---|---|")
    for row in rows:
        cells = [_cell(row, name) for name in names]
        counts = f"{row['real']} / {row['fake']} | {row['groups']}"
        lines.append(f"| {row['set']} | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return "–"
    bounds = row.get(f"{name}_95")
    return f"{row[name]:.3f}" + (f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else "")


def _draw_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Loss and held-out AUC by round, as a picture."""
    import io

    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, left = plt.subplots(figsize=(7, 3.5), layout="constrained")
    rounds = [point["round"] for point in curve]
    left.plot(rounds, [point["loss"] for point in curve], color="#8a8f98")
    left.set_xlabel("round (every face forged anew)")
    left.set_ylabel("training loss", color="#8a8f98")
    right = left.twinx()
    right.plot(rounds, [point["validation_auc"] for point in curve], color="#c8431b")
    right.set_ylabel("AUC, held-out identities", color="#c8431b")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    write_file(path, stream.getvalue())


if __name__ == "__main__":
    main()
