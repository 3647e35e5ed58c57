"""What `whyfake doctor` tries out, each in a child process: imports, providers, GPUs, a detector.

Every function here takes and returns JSON types, and may raise, hang or crash.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from base64 import b64decode
from typing import Any

RELU = b64decode(
    "CAg6gQEKJgoOd2h5ZmFrZV9waXhlbHMSDndoeWZha2Vfc2NvcmVzIgRSZWx1EgFnWikKDndoeWZha2VfcGl4ZWxzEhcK"
    "FQgBEhEKAxIBbgoCCAMKAggECgIIBGIpCg53aHlmYWtlX3Njb3JlcxIXChUIARIRCgMSAW4KAggDCgIIBAoCCARCBAoA"
    "EBE="
)
"""An ONNX model of one Relu, `whyfake_pixels` (n, 3, 4, 4) to `whyfake_scores`: needs no onnx to be
made, so that a broken onnx is not taken for a broken provider. A test holds it to its recipe."""


def imports(modules: list[str]) -> dict[str, str | None]:
    """What each module says when it is imported: None, or its error in one line."""
    said: dict[str, str | None] = {}
    for name in modules:
        try:
            importlib.import_module(name)
            said[name] = None
        except BaseException as error:  # noqa: BLE001 - broken packages raise anything
            text = " ".join(str(error).split())[:300]
            said[name] = f"{type(error).__name__}: {text}"
    return said


def providers() -> list[str]:
    """The providers that ONNX Runtime says it has, whether they load or not."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def provider(device: str) -> str:
    """Run a tiny model as whyfake runs detectors on `device`; the engine's own name for itself.

    Raises EngineError where the provider does not load or computes nonsense.
    """
    import numpy as np

    from ..errors import EngineError
    from ..runtime.onnxruntime_engine import OnnxRuntimeEngine

    pixels = np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    with tempfile.TemporaryDirectory(prefix="whyfake-doctor-") as cache:
        os.environ["WHYFAKE_CACHE"] = cache  # engines of a model that nobody will run again
        with OnnxRuntimeEngine(RELU, device=device, batch=1, size=(4, 4)) as engine:
            scores = engine.run({"whyfake_pixels": pixels})["whyfake_scores"]
            if not np.allclose(scores, np.maximum(pixels, 0), atol=1e-3):
                raise EngineError(f"{engine.name} on {device} computes max(x, 0) wrongly")
            return engine.name


def gpus() -> dict[str, Any]:
    """The NVIDIA GPUs that the driver shows, the CUDA version it speaks, and who asked it."""
    from ..runtime.cuda import devices, open_cuda

    found = [
        {
            "index": item["index"],
            "name": item["name"],
            "compute_capability": ".".join(map(str, item["compute_capability"])),
            "memory": item["memory"],
        }
        for item in devices()
    ]
    if not found:
        return {"gpus": [], "cuda": None, "package": None}
    with open_cuda(0) as cuda:
        version = ".".join(map(str, cuda.driver_version))
        return {"gpus": found, "cuda": version, "package": cuda.package}


def tensorrt(flavour: str, gpu: bool) -> dict[str, Any]:
    """Load a flavour of TensorRT; make a runtime and a builder where that is safe.

    Without a GPU only TensorRT for RTX can make a builder, and none a runtime: full TensorRT
    crashes then.
    """
    from ..errors import EngineError
    from ..tensorrt_api import load_tensorrt, message_log

    loaded = load_tensorrt(flavour, "whyfake doctor")
    trt, log = loaded.module, message_log(loaded.module)
    builds = gpu or flavour == "rtx"
    if gpu and not trt.Runtime(log):
        raise EngineError(f"{loaded} makes no runtime: {log.reason()}")
    if builds and not trt.Builder(log):
        raise EngineError(f"{loaded} makes no builder: {log.reason()}")
    return {"version": loaded.version, "builds": builds, "runs": gpu}


def detector(device: str) -> dict[str, Any]:
    """Ask the bundled detector about two pictures on `device`: probabilities, and the seconds."""
    import numpy as np

    from ..errors import DetectorError
    from ..runtime import load_detector

    started = time.perf_counter()
    with load_detector(device=device) as opened:
        height, width = opened.size
        ramp = np.linspace(0, 1, width, dtype=np.float32)
        pictures = np.stack([np.broadcast_to(ramp, (3, height, width))] * 2)
        pictures[1] = pictures[1, :, :, ::-1]
        scores = np.exp(opened.log_probs(pictures))
        if not np.allclose(scores.sum(axis=1), 1, atol=1e-4):
            raise DetectorError(f"the scores do not add up to one: {scores.tolist()}")
        return {
            "engine": opened.engine.name,
            "p": [float(p) for p in scores.ravel()],
            "seconds": time.perf_counter() - started,
        }
