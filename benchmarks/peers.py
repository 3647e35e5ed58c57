"""How fast and how like others? The same detector, frame and questions through each package.

    pip install lime==0.2.0.1 shap dianna==1.8.1
    python -m venv xp
    xp/bin/pip install tensorflow-cpu==2.20.0 tf_keras==2.20.1 tensorflow-probability==0.25.0 \\
        'scikit-image<=0.25.2' 'scikit-learn<=1.7.2' 'scipy<=1.15.3' einops deprecated matplotlib \\
        opencv-python-headless onnxruntime
    xp/bin/pip install --no-deps xplique==2.0.2
    python benchmarks/peers.py detector.onnx frame.png --python xplique=xp/bin/python \\
        --out benchmarks/results/peers.json

Rows: LIME, Partition SHAP, RISE, SOBOL and HSIC of `lime`, `shap`, `dianna` and `xplique`, and NES
one image a call as the paper's code is described, each beside whyfake's own. Every package gets the
same frame, segments, number of images and, where it can, the same baseline, and drives ONNX Runtime
on all cores through one session that lives as long as the run, in the way that a trial found
fastest for it (its batch, images a session's call, one session with all threads or lanes of one).
dianna, given a path, opens a session for every batch: it runs so too (`documented`), as well as
with a callable. whyfake runs with its defaults.

Every run is a process of its own; rows are interleaved, and a ratio is the median over repeats of
(peer's seconds ÷ whyfake's seconds in the same repeat). Imports, compilers, the loading of the
session and a small first run are not counted. A package that is missing or breaks is one line. A
second detector's figures join those in --out. Exits with 1 where whyfake is slower than a peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_tables import (
    DOCUMENTED,
    ROWS,
    agreement,
    markdown,
    missed,
    samples_markdown,
    summarise,
)

import whyfake
from whyfake.explainers.baselines import baseline_image
from whyfake.explainers.regions import slic
from whyfake.media import fit_to, load_picture
from whyfake.runtime.engine import cpu_count

HERE = Path(__file__).resolve().parent
LIMIT = 600  # seconds a process may take


class Bench:
    """One detector and frame: starts the runs and keeps what they said."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.pythons = dict(item.split("=", 1) for item in options.python)
        self.drivers: dict[str, list[Any]] = {k: list(v) for k, v in DOCUMENTED.items()}
        self.trials: dict[str, list[Any]] = {}
        self.not_run: dict[str, str] = {}
        asked = options.methods.split(",")
        self.rows = [r for r in ROWS if options.methods == "all" or r[0].partition(".")[0] in asked]
        self.runs: dict[str, list[dict[str, Any]]] = {}

    def images(self, row: str) -> int:
        """A row's budget; for SOBOL the rows of its design."""
        method = row.partition(".")[0]
        if method == "sobol":
            return int(self.options.design)
        return int(min(self.options.images, 500) if method == "hsic" else self.options.images)

    def start(self, row: str, baseline: str, **changes: Any) -> dict[str, Any] | None:
        """What a fresh process says of a row; None, with the reason kept, where it fails."""
        options = {
            "images": self.images(row), "seed": self.options.seed, "steps": self.options.steps,
            "cores": self.options.threads, "baseline": baseline, "driver": self.drivers.get(row),
            **changes,
        }  # fmt: skip
        python = self.pythons.get(row.partition(".")[2].partition("-")[0], sys.executable)
        command = [python, str(HERE / "peer_runs.py"), str(self.folder), row, json.dumps(options)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT, env={**os.environ, **quiet}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.not_run[row] = one_line(str(error))
            return None
        if done.returncode:
            self.not_run[row] = one_line(done.stderr) or f"ended with status {done.returncode}"
            return None
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    def tune(self) -> None:
        """Find how each peer drives the session fastest."""
        for row, baseline in self.rows:
            known = row.partition(".")[0] in whyfake.METHODS
            if "whyfake" in row or row in DOCUMENTED or not known:
                continue
            few = 2 if row.startswith("sobol") else self.options.trial
            found = self.start(row, baseline, tune=True, images=few)
            if found is not None:
                self.drivers[row], self.trials[row] = found["driver"], found["trials"]
            print(f"  {row:24} {found['driver'] if found else self.not_run[row]}", flush=True)

    def run(self) -> None:
        """All rows, interleaved, as often as wanted; the order turns with every repeat."""
        rows = [
            item for item in self.rows if item[0].partition(".")[0] in (*whyfake.METHODS, "nes")
        ]
        for row, _ in set(self.rows) - set(rows):
            self.not_run.setdefault(row, f"whyfake has no {row.partition('.')[0]}")
        for repeat in range(self.options.repeats):
            turn = repeat * len(rows) // self.options.repeats
            for row, baseline in rows[turn:] + rows[:turn]:
                if row in self.not_run:
                    continue
                heat = str(self.folder / f"{row}.{repeat}.npy")
                said = self.start(row, baseline, seed=self.options.seed + repeat, heat=heat)
                if said is not None:
                    self.runs.setdefault(row, []).append({"repeat": repeat, **said})
                    print(f"  {repeat} {row:24} {said['seconds']:8.2f} s", flush=True)

    def heat(self, row: str, repeat: int = 0) -> NDArray[Any] | None:
        """A row's heat map of one repeat."""
        path = self.folder / f"{row}.{repeat}.npy"
        return np.load(path) if path.exists() else None

    def asked(self, row: str, baseline: str, **changes: Any) -> NDArray[Any] | None:
        """The map of an untimed run beside the others."""
        path = self.folder / "beside.npy"
        said = self.start(row, baseline, heat=str(path), **changes)
        return None if said is None else np.load(path)

    def agreements(self) -> dict[str, dict[str, Any]]:
        """How like whyfake's map each map is, and how like one made from four times the images."""
        labels = np.load(self.folder / "labels.npy")
        ours: dict[tuple[str, str], Any] = {}
        large: dict[tuple[str, str], Any] = {}
        found: dict[str, dict[str, Any]] = {}
        for row, baseline in self.rows:
            method = row.partition(".")[0]
            heat, key = self.heat(row), (method, baseline)
            if heat is None:
                continue
            if key not in ours:
                own, more = f"{method}.whyfake", 4 * self.images(row)
                timed = dict(ROWS)[own] == baseline
                ours[key] = self.heat(own) if timed else self.asked(own, baseline)
                large[key] = self.asked(own, baseline, images=more, seed=self.options.seed + 100)
            found[row] = {"baseline": baseline, **agreement(heat, large[key], labels, "large_")}
            # whyfake with another seed: as like as two runs of one method are
            other = self.heat(row, 1) if "whyfake" in row else ours[key]
            found[row].update(agreement(heat, other, labels))
        same = self.asked("lime.whyfake-same", "mean")
        for row in ("lime.lime", "lime.dianna", "lime.dianna-documented"):
            if row in found:
                found[row].update(agreement(self.heat(row), same, labels, "same_"))
        return found


def one_line(text: str) -> str:
    """The last line that says something, without folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = lines[-1].split() if lines else []
    return " ".join(Path(word).name if word.startswith("/") else word for word in words)[:160]


def make_case(folder: Path, detector_file: Path, picture: Path, threads: int) -> dict[str, Any]:
    """Write what `peer_runs.Case` reads; says what was put there."""
    with whyfake.load_detector(detector_file, device="cpu", threads=threads) as detector:
        card, size = detector.card, detector.size
        # at the detector's size and in whole steps of 1/255, so that all see the same numbers
        rgb = np.rint(fit_to(load_picture(picture).rgb, size) * 255).astype(np.uint8)
        rgb = np.ascontiguousarray(rgb.transpose(1, 2, 0))
        frame = fit_to(rgb, size)
        log_probs = detector.log_probs(frame[None])[0]
    target = int(log_probs.argmax())
    # NES has work to do only on a picture that is called fake; which class that is does not matter
    real = tuple(c for c, name in enumerate(card.classes) if name in card.real)
    if target in real:
        real = tuple(c for c in range(len(card.classes)) if c not in real)
    written = {**card.to_dict(), "real": [card.classes[c] for c in real]}
    labels = slic(frame, 50)
    rng = np.random.default_rng(0)  # a blur needs none
    np.save(folder / "labels.npy", labels)
    np.savez(
        folder / "case.npz", frame=frame, rgb=rgb, labels=labels, target=target, real=real,
        classes=len(card.classes),
        blur=baseline_image("blur", frame, labels, (0, 0, 0), rng),
    )  # fmt: skip
    (folder / "card.json").write_text(json.dumps(written))
    shutil.copy(detector_file, folder / "detector.onnx")
    (folder / "probabilities.onnx").write_bytes(probabilities(detector_file, card))
    check_probabilities(folder, frame, log_probs)
    return {
        "target": card.classes[target],
        "probability": round(float(np.exp(log_probs[target])), 4),
        "real": written["real"],
        "regions": int(labels.max()) + 1,
    }


def probabilities(detector_file: Path, card: whyfake.DetectorCard) -> bytes:
    """The detector from pixels (N, 3, h, w) in [0, 1] to probabilities (N, C), for the peers."""
    from onnx import TensorProto, helper, numpy_helper

    from whyfake.onnx_graph import SCORES, fit, fold, load_graph

    graph, info = load_graph(detector_file)
    model, stripped = fold(graph, card, fit(info, card, str(detector_file)))
    kind = card.output.activation
    nodes = []
    if card.output.positive is not None:
        logit = stripped or kind != "sigmoid"
        nodes.append(helper.make_node("Sigmoid" if logit else "Identity", [SCORES], ["p"]))
        one = numpy_helper.from_array(np.ones(1, np.float32), "one")
        model.graph.initializer.append(one)
        nodes.append(helper.make_node("Sub", ["one", "p"], ["q"]))
        order = ["p", "q"] if card.output.positive == card.classes[0] else ["q", "p"]
        nodes.append(helper.make_node("Concat", order, ["probabilities"], axis=1))
    elif kind == "sigmoid":
        raise SystemExit("independent sigmoids of several columns: not a case for this benchmark")
    else:
        plain = kind == "softmax" and not stripped
        nodes.append(
            helper.make_node("Identity", [SCORES], ["probabilities"])
            if plain
            else helper.make_node("Softmax", [SCORES], ["probabilities"], axis=1)
        )
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)
    )
    return bytes(model.SerializeToString())


def check_probabilities(
    folder: Path, frame: NDArray[np.float32], log_probs: NDArray[np.float32]
) -> None:
    """The peers' graph must say of the frame what whyfake's detector says."""
    from peer_runs import Oracle

    said = Oracle(folder / "probabilities.onnx", 1)(frame[None])[0]
    if not np.allclose(said, np.exp(log_probs), rtol=0, atol=1e-4):
        raise SystemExit(f"the peers' graph says {said}, the detector {np.exp(log_probs)}")


def machine() -> dict[str, Any]:
    """Processor, cores and load."""
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return {"processor": name, "cores": cpu_count(), "load_before": os.getloadavg()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one detector and frame."""
    began = time.perf_counter()
    entry: dict[str, Any] = {
        "detector": options.detector.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**machine(), "threads": options.threads},
        "seeds": [options.seed + repeat for repeat in range(options.repeats)],
    }
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options)
        entry["case"] = make_case(bench.folder, options.detector, options.frame, options.threads)
        print("the fastest way to drive the session: batch, images a session's call, lanes")
        bench.tune()
        print("runs")
        bench.run()
        print("agreement")
        entry["agreement"] = bench.agreements()
    entry["versions"] = {"python": platform.python_version(), "whyfake": whyfake.__version__}
    for of_row in bench.runs.values():
        entry["versions"].update(of_row[0].pop("versions", {}))
        for run in of_row:
            run.pop("versions", None)
    entry.update(drivers=bench.drivers, trials=bench.trials, not_run=bench.not_run)
    entry.update(runs=bench.runs, table=summarise(bench.runs))
    entry["machine"]["load_after"] = os.getloadavg()
    entry["missed"] = missed(entry["table"])
    entry["minutes"] = round((time.perf_counter() - began) / 60, 1)
    return entry


def save(path: Path, entry: dict[str, Any]) -> None:
    """Put the entry into the file, in place of one for the same detector."""
    kept = json.loads(path.read_text())["detectors"] if path.exists() else []
    kept = [item for item in kept if item["detector"] != entry["detector"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps({"detectors": [*kept, entry]}, indent=1) + "\n")
    beside.replace(path)
    print(f"wrote {path}")


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detector", type=Path, help="an ONNX file with its card")
    parser.add_argument("frame", type=Path, help="a face crop")
    parser.add_argument("--images", type=int, default=1000, help="for LIME, SHAP, RISE; HSIC ≤ 500")
    parser.add_argument("--design", type=int, default=16, help="SOBOL's rows, a power of two")
    parser.add_argument("--steps", type=int, default=80, help="the most NES steps")
    parser.add_argument("--trial", type=int, default=128, help="images of a driving trial")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH")
    parser.add_argument("--methods", default="all", help="of lime,shap,rise,sobol,hsic,nes")
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    methods = {row.partition(".")[0] for row, _ in ROWS} | {"all"}
    if not set(options.methods.split(",")) <= methods:
        parser.error(f"--methods takes some of {', '.join(sorted(methods))}")
    if any("=" not in item for item in options.python):
        parser.error("--python takes PEER=PATH")
    entry = measure(options)
    print(f"\n{markdown(entry)}\n\n{samples_markdown(entry)}\n")
    print(f"{entry['minutes']} minutes")
    if options.out:
        save(options.out, entry)
    if entry["missed"]:
        raise SystemExit("missed:\n" + "\n".join(entry["missed"]))


if __name__ == "__main__":
    main()
