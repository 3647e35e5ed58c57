"""What fp16, bf16 and int8 do to a detector and to NES, predicted on a CPU.

    pip install '.[cpu,rtx]'
    python benchmarks/predicted_precision.py meso4_df.onnx bundled --out benchmarks/results/X.json

Builds an engine with TensorRT for RTX in each precision and keeps what its card says of parity; no
GPU runs it. int8 is calibrated on 32 of the pictures that parity is measured on.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import whyfake
from whyfake.building import BuildRequest, build_engine
from whyfake.export.parity import parity_inputs

PRECISIONS = ("fp16", "bf16", "int8")


def main() -> None:
    """Build, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="ONNX detectors, or bundled")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            for precision in PRECISIONS:
                request = BuildRequest(
                    model,
                    Path(folder) / "d.engine",
                    precision,
                    flavour="rtx",
                    max_flips=1.0,
                    calibration=(lambda size: parity_inputs(size, 32))
                    if precision == "int8"
                    else None,
                )
                built = build_engine(request)
                parity = built.card.engine["parity"]
                found.setdefault(built.card.name, {})[precision] = parity
                print(built.card.name, precision, json.dumps(parity), flush=True)
    report = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "whyfake": whyfake.__version__,
        "detectors": found,
    }
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
