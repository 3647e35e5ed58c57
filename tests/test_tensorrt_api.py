"""Every name of TensorRT's that whyfake uses is there in 10.3, 10.16, 11.4 and TensorRT for RTX.

The bindings are the real ones; only the libraries beneath are stubs. A file that uses TensorRT is
listed in FILES, its classes' parameters are named as tensorrt_names.NAMES has them, and a name
that some version lacks is asked for by hasattr or getattr, or stands in LACKING with a reason.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorrt_bindings import VERSIONS, bindings_api, rtx_api, signatures, split_arguments
from tensorrt_names import Call, Reader, Use

PACKAGE = Path(__file__).resolve().parents[1] / "whyfake"
FILES = {
    "export/engine.py": 30,
    "runtime/tensorrt_composition.py": 18,
    "runtime/tensorrt_engine.py": 18,
    "tensorrt_api.py": 5,
    "doctor/probes.py": 4,
}
"""Files that use TensorRT, and how many names the reader must find in each, or it read nothing."""
_RTX_ONLY = "asked of TensorRT for RTX alone, which is told by its strategies"
LACKING: dict[str, tuple[set[str], str]] = {
    "ICudaEngine.create_runtime_config": ({"10.3"}, _RTX_ONLY),
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": (
        {"10.16", "11.4"},
        _RTX_ONLY,
    ),
}
"""`Class.name` → the versions that lack it, and why the code may use it without asking."""
ALL = (*VERSIONS, "rtx")


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`apis(version)`: the description of one."""
    work = {version: tmp_path_factory.mktemp(f"stubs-{version}") for version in VERSIONS}
    return lambda version: rtx_api() if version == "rtx" else bindings_api(version, work[version])


def read(source: str, api: dict[str, Any]) -> Reader:
    return Reader(textwrap.dedent(source), api)


def lacking(use: Use, api: dict[str, Any]) -> str | None:
    """What a version lacks for a use; None where it has all."""
    if not use.owner:
        names = {*api["classes"], *api["functions"], *api["values"], "__version__"}
        said = api["functions"].get(use.name)
        if use.name not in names:
            return f"{use.key} does not exist"
        return _refusal(use, said, bound=False) if said is not None else None
    members = api["classes"].get(use.owner)
    if members is None or use.name not in members:
        return f"{use.key} does not exist"
    member = members[use.name]
    if use.stored and not member.get("set"):
        return f"{use.key} cannot be set"
    if use.call is not None and member["kind"] != "method":
        return f"{use.key} is a {member['kind']}, and is called"
    return _refusal(use, member.get("signatures", []), bound=True)


def _refusal(use: Use, said: list[dict[str, Any]], *, bound: bool) -> str | None:
    """Why no overload takes the call; None where one does, or where nothing is called."""
    if use.call is None or not said:
        return None
    if any(_takes(use.call, one["parameters"][bound:]) for one in said):
        return None
    return f"{use.key} does not take {use.call}"


def _takes(call: Call, parameters: list[dict[str, Any]]) -> bool:
    names = [parameter["name"] for parameter in parameters]
    if any(name.startswith("*") for name in names):
        return True
    if call.positional > len(names) or not set(call.keywords) <= set(names[call.positional :]):
        return False
    left = [p for p in parameters[call.positional :] if p["name"] not in call.keywords]
    return call.open or all(parameter["default"] for parameter in left)


def faults(reader: Reader, api: dict[str, Any]) -> Iterator[str]:
    """All that is wrong with a file for a version, but for guarded names that it lacks."""
    yield from (f"line {line}: {text}" for line, text in reader.problems)
    for use in reader.uses:
        text = lacking(use, api)
        if text is not None and not (use.guarded and text.endswith("does not exist")):
            yield f"line {use.line}: {text}"
    for override in reader.overrides:
        for name, member in api["classes"].get(override.base, {}).items():
            if name.startswith("_") or member["kind"] != "method":
                continue
            wanted = {len(one["parameters"]) - 1 for one in member["signatures"]}
            if name not in override.methods:
                yield f"line {override.line}: {override.base}.{name} is not overridden"
            elif override.methods[name] not in wanted:
                yield f"line {override.line}: {override.base}.{name} takes {wanted} arguments"


# --- whyfake


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("file", FILES)
def test_every_name_exists_in_every_version(file: str, version: str, apis: Any) -> None:
    api = apis(version)
    reader = Reader((PACKAGE / file).read_text(), api)
    allowed = {key for key, (versions, _) in LACKING.items() if version in versions}
    found = [text for text in faults(reader, api) if not any(key in text for key in allowed)]
    assert found == []


@pytest.mark.parametrize(("file", "least"), FILES.items())
def test_the_reader_finds_what_there_is(file: str, least: int, apis: Any) -> None:
    reader = Reader((PACKAGE / file).read_text(), apis("rtx"))
    assert len({use.key for use in reader.uses}) >= least, sorted({u.key for u in reader.uses})


def test_no_file_that_uses_tensorrt_is_forgotten() -> None:
    using = set()
    for file in PACKAGE.rglob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name)}
        if "trt" in names:
            using.add(file.relative_to(PACKAGE).as_posix())
    assert using <= set(FILES)


def test_guarded_names_exist_somewhere(apis: Any) -> None:
    """A name that is asked for, and that no version has, is a slip of the pen."""
    versions = [apis(version) for version in ALL]
    for file in FILES:
        for use in Reader((PACKAGE / file).read_text(), versions[-1]).uses:
            if use.guarded:
                assert any(lacking(use, api) is None for api in versions), use


def test_what_is_allowed_to_lack_does(apis: Any) -> None:
    for key, (versions, _) in LACKING.items():
        owner, _, name = key.rpartition(".")
        for version in versions:
            assert lacking(Use(owner, name, 0), apis(version)), f"{version} has {key}"


# --- the reader and the rules

SAMPLE = """
    from .tensorrt_api import message_log
    def build(tensorrt, model):
        trt = tensorrt.module
        log = message_log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network=network, logger=log)
        if not parser.parse(model):
            found = [parser.get_error(i) for i in range(parser.num_errors)]
            raise ValueError("; ".join(e.desc() for e in found))
        config = builder.create_builder_config()
        set_up(trt, config)
        return builder.build_serialized_network(network, config)
    def set_up(trt, config):
        config.set_flag(trt.BuilderFlag.TF32)
        config.builder_optimization_level = 3
        if hasattr(trt.BuilderFlag, "STRIP_PLAN"):
            config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.progress_monitor = monitor(trt)
    def monitor(trt):
        class Monitor(trt.IProgressMonitor):
            def __init__(self): super().__init__()
            def phase_start(self, phase, parent, steps): pass
            def step_complete(self, phase, step): return True
            def phase_finish(self, phase): pass
        return Monitor()
    class Engine:
        def __init__(self, trt, data):
            self._engine = self._loaded(trt, data)
            self._context = self._engine.create_execution_context()
        def _loaded(self, trt, data):
            return trt.Runtime(None).deserialize_cuda_engine(data)
        def names(self):
            return [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        def run(self, stream):
            self._context.set_input_shape("x", (1, 2))
            return self._context.execute_async_v3(stream_handle=stream)
"""


@pytest.mark.parametrize("version", ALL)
def test_a_sample_is_good_everywhere(version: str, apis: Any) -> None:
    api = apis(version)
    reader = read(SAMPLE, api)
    assert list(faults(reader, api)) == []
    found = {use.key for use in reader.uses}
    assert found >= {
        "Builder",
        "Builder.__init__",
        "Builder.create_network",
        "BuilderFlag.TF32",
        "IBuilderConfig.progress_monitor",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.get_tensor_name",
        "ICudaEngine.num_io_tensors",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_input_shape",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.num_errors",
        "ParserError.desc",
        "Runtime.deserialize_cuda_engine",
    }


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("trt.Builder(log)", "trt.Bulider(log)", "Bulider does not exist"),
        ("BuilderFlag.TF32", "BuilderFlag.TF23", "BuilderFlag.TF23 does not exist"),
        ("create_network(", "create_netwrok(", "Builder.create_netwrok does not exist"),
        ("trt.Builder(log)", "trt.Builder()", "Builder.__init__ does not take"),
        ("network=network", "net=network", "OnnxParser.__init__ does not take"),
        ("parser.parse(model)", "parser.parse()", "OnnxParser.parse does not take"),
        ("(network, config)", "(network)", "build_serialized_network does not take"),
        ("stream_handle=stream", "stream=stream", "execute_async_v3 does not take"),
        ("parser.num_errors", "parser.num_error", "OnnxParser.num_error does not exist"),
        ("num_errors)]", "num_errors())]", "is a property, and is called"),
        ("e.desc()", "e.describe()", "ParserError.describe does not exist"),
        ("self._engine.get_tensor_name", "self._engine.tensor_name", "ICudaEngine.tensor_name"),
        ("builder_optimization_level = 3", "optimization_level = 3", "optimization_level does not"),
        ("builder_optimization_level = 3", "num_optimization_profiles = 3", "cannot be set"),
        ("def phase_finish(self, phase)", "def phase_end(self, phase)", "is not overridden"),
        ("def step_complete(self, phase, step)", "def step_complete(self, phase)", "takes {2}"),
        ("trt.BuilderFlag.TF32)", "getattr(trt.BuilderFlag, name))", "made at run time"),
        ("parser = trt", "p = trt", "'num_errors' is a name of TensorRT's, but"),
        ('"STRIP_PLAN"', '"TF32"', None),
        ("BuilderFlag.STRIP_PLAN)", "BuilderFlag.STRIP_PLANS)", "STRIP_PLANS does not exist"),
    ],
)
def test_a_wrong_name_is_found(good: str, bad: str, said: str | None, apis: Any) -> None:
    api = apis("rtx")
    assert good in SAMPLE
    found = list(faults(read(SAMPLE.replace(good, bad), api), api))
    if said is None:
        assert found == []
    else:
        assert any(said in text for text in found), found


def test_names_that_left_with_11_are_found(apis: Any) -> None:
    source = """
        def set_up(trt, config, builder):
            config.set_flag(trt.BuilderFlag.FP16)
            builder.platform_has_fast_fp16
            flag = getattr(trt.BuilderFlag, "INT8", None)
    """
    assert list(faults(read(source, apis("10.3")), apis("10.3"))) == []
    (fp16, *_) = faults(read(source, apis("11.4")), apis("11.4"))
    assert "BuilderFlag.FP16 does not exist" in fp16


def test_bindings_are_the_versions_that_they_should_be(apis: Any) -> None:
    for version in VERSIONS:
        assert apis(version)["version"].startswith(version + ".")


def test_signatures_of_pybind11() -> None:
    doc = "f(self: a.B, x: int = 0, y: Tuple[int, str] = (1, 'a,b'), *, z: b::C) -> List[a.D]\n\nX"
    (one,) = signatures(doc)
    names = [(p["name"], p["default"]) for p in one["parameters"]]
    assert names == [("self", False), ("x", True), ("y", True), ("*", False), ("z", False)]
    assert one["returns"] == "List[a.D]"
    doc = "f(*args, **kwargs)\nOverloaded function.\n\n1. f(a: int) -> str\n\nx\n\n2. f() -> None"
    assert [len(s["parameters"]) for s in signatures(doc)] == [1, 0]
    assert split_arguments("a: x[b, c], d = {1, 2}, e") == ["a: x[b, c]", "d = {1, 2}", "e"]
