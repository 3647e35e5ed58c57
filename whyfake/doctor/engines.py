"""What can run a detector: ONNX Runtime's providers, TensorRT, and the bundled detector on them."""

from __future__ import annotations

import importlib.util

from ..tensorrt_api import INSTALL, RTX_CARDS, TITLES
from .check import ABSENT, BROKEN, MISSING, NOTE, OK, Ask, Check
from .child import Answer
from .gpu import Gpus
from .packages import PACKAGES, Package, install_onnxruntime

PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "ort-tensorrt",
}
"""ONNX Runtime's name → whyfake's `--device`."""
_TENSORRT_10 = "pip install 'tensorrt>=10.13,<11'"
"""What ONNX Runtime's TensorRT provider needs: it links libnvinfer.so.10, CUDA 13."""


def provider_checks(available: Answer, gpus: Gpus, ask: Ask) -> list[Check]:
    """Each provider that whyfake can use must run a model: what is listed may not load."""
    install: str | None = install_onnxruntime(gpu=bool(gpus.found))
    if available.error is not None:
        absent = available.kind == "ModuleNotFoundError"
        detail = "not installed: nothing runs ONNX detectors" if absent else available.error
        mend = install if absent else _reinstall()
        return [Check("onnxruntime", "onnxruntime", MISSING if absent else BROKEN, detail, mend)]
    asked = {n: ask("provider", d) for n, d in PROVIDERS.items() if n in available.value}
    checks = []
    for name in PROVIDERS:
        if name not in asked:
            mend = install if gpus.found else None
            detail = "not in the installed onnxruntime"
            checks.append(Check("onnxruntime", name, ABSENT, detail, mend))
            continue
        said = asked[name].result()
        if said.error is None:
            checks.append(Check("onnxruntime", name, OK, f"{said.value}: made a session and ran"))
        else:
            checks.append(_failed(name, said.error, gpus))
    return checks


def _failed(name: str, error: str, gpus: Gpus) -> Check:
    if name == "CPUExecutionProvider":
        return Check("onnxruntime", name, BROKEN, error, _reinstall())
    if not gpus.found:
        return Check("onnxruntime", name, ABSENT, "listed, but there is no GPU to run it")
    if name == "CUDAExecutionProvider":
        mend = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        return Check("onnxruntime", name, BROKEN, error, mend)
    found = _package("tensorrt").found()
    if found is None or found[1].split(".")[0] != "10":
        have = "is not installed" if found is None else f"is {found[1]} here"
        detail = f"needs TensorRT 10 (libnvinfer.so.10), which {have}"
        return Check("onnxruntime", name, ABSENT, detail, _TENSORRT_10)
    return Check("onnxruntime", name, BROKEN, error, _show_libraries())


def _package(name: str) -> Package:
    return next(package for package in PACKAGES if package.name == name)


def _reinstall() -> str:
    name, _ = _package("onnxruntime").found() or ("onnxruntime", "")
    return f"pip install --force-reinstall {name}"


def _show_libraries() -> str:
    """The command with which ONNX Runtime finds the libraries in TensorRT's wheel."""
    spec = importlib.util.find_spec("tensorrt_libs")
    places = list(spec.submodule_search_locations or []) if spec else []
    return f"export LD_LIBRARY_PATH={places[0]}:$LD_LIBRARY_PATH" if places else _TENSORRT_10


def tensorrt_checks(gpus: Gpus, ask: Ask) -> list[Check]:
    """Each flavour of TensorRT: whether it is there, loads, and fits the GPUs."""
    asked = {flavour: ask("tensorrt", flavour, bool(gpus.found)) for flavour in TITLES}
    checks = []
    for flavour, future in asked.items():
        said, name = future.result(), TITLES[flavour]
        if said.kind == "MissingExtraError":
            checks.append(Check("tensorrt", name, ABSENT, "not installed", _worth(flavour, gpus)))
        elif said.error is not None:
            checks.append(Check("tensorrt", name, BROKEN, said.error, INSTALL[flavour]))
        else:
            checks.append(_fit(flavour, said.value, gpus))
    return checks


def _worth(flavour: str, gpus: Gpus) -> str | None:
    """The command that installs a flavour, where this machine has a use for it."""
    if not gpus.found:
        return INSTALL[flavour] if flavour == "rtx" else None  # it builds engines without a GPU
    if all(unfit(flavour, "", gpu["compute_capability"]) for gpu in gpus.found):
        return None
    return install_onnxruntime(gpu=True) if flavour == "tensorrt" else INSTALL[flavour]


def _fit(flavour: str, said: dict[str, object], gpus: Gpus) -> Check:
    version, name = str(said["version"]), TITLES[flavour]
    if not gpus.found:
        can = "builds engines; running them" if said["builds"] else "building and running engines"
        return Check("tensorrt", name, NOTE, f"{version}: {can} needs a GPU")
    wrong = [
        f"gpu {gpu['index']} ({gpu['name']}): {why}"
        for gpu in gpus.found
        if (why := unfit(flavour, version, gpu["compute_capability"]))
    ]
    if not wrong:
        return Check("tensorrt", name, OK, f"{version}: builds and runs engines")
    other = "rtx" if flavour == "tensorrt" else "tensorrt"
    return Check("tensorrt", name, NOTE, f"{version}, but {'; '.join(wrong)}", _worth(other, gpus))


def unfit(flavour: str, version: str, capability: str) -> str | None:
    """Why a flavour and version cannot serve a GPU, None where it can. `version` "" is the latest.

    Source: NVIDIA's support matrices of TensorRT 10.0 to 10.15 and of TensorRT for RTX 1.0 to 1.5.
    """
    gpu = tuple(int(part) for part in capability.split("."))
    have = tuple(int(part) for part in version.split(".")[:2]) if version else (99, 0)
    if flavour == "rtx":
        if capability in RTX_CARDS:
            return None
        return f"TensorRT for RTX serves GeForce and RTX cards only ({', '.join(RTX_CARDS)})"
    if gpu < (7, 5):
        return f"TensorRT of today wants compute capability 7.5 or later, this is {capability}"
    if gpu >= (10, 0) and have < (10, 8):
        return f"Blackwell wants TensorRT 10.8 or later, this is {version}"
    return None


def detector_checks(providers: list[Check], ask: Ask) -> list[Check]:
    """The bundled detector, on the CPU and on every provider that loads: it must answer alike."""
    works = [PROVIDERS[c.name] for c in providers if c.status == OK and c.name in PROVIDERS]
    asked = {device: ask("detector", device) for device in works or ["cpu"]}
    checks: list[Check] = []
    first: tuple[str, list[float]] | None = None
    for device, future in asked.items():
        said, name = future.result(), f"bundled detector on {device}"
        if said.error is not None:
            status = MISSING if said.kind == "MissingExtraError" else BROKEN
            mend = install_onnxruntime(gpu=False) if status == MISSING else _reinstall()
            checks.append(Check("detector", name, status, said.error, mend))
            continue
        first = first or (device, said.value["p"])
        apart = max(abs(a - b) for a, b in zip(said.value["p"], first[1], strict=True))
        if apart > 0.01:
            detail = f"its probabilities differ by {apart:.3f} from those on {first[0]}"
            checks.append(Check("detector", name, BROKEN, detail, _reinstall()))
        else:
            detail = f"answers {said.value['seconds']:.1f} s after opening ({said.value['engine']})"
            checks.append(Check("detector", name, OK, detail))
    return checks
