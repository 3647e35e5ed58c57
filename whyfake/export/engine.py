"""Compiles an ONNX graph to a TensorRT engine: one profile, strongly typed, with progress."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..errors import DetectorError, EngineError
from ..onnx_graph import PIXELS
from ..tensorrt_api import TensorRt, message_log

Progress = Callable[[str, float], None]
"""`progress(phase, share)`: what TensorRT is doing, and how much of that is done, 0 to 1."""


@dataclass(frozen=True)
class Plan:
    """A serialised engine and the timing cache that its build leaves behind (where it has one)."""

    engine: bytes
    timing_cache: bytes | None


@dataclass(frozen=True)
class BuildOptions:
    """How to build: the batches of the one profile, memory for tactics, where it must run.

    best_batch: the batch it is tuned for; max_batch: the largest it takes; tf32: whether float32
    layers may round their inputs to TF32; workspace: bytes, None for TensorRT's own choice; level:
    TensorRT's optimisation level, 0 (fast build) to 5 (fast engine).
    """

    best_batch: int = 64
    max_batch: int = 256
    tf32: bool = False
    workspace: int | None = None
    level: int | None = None


def plan_from_onnx(
    model: bytes,
    tensorrt: TensorRt,
    options: BuildOptions,
    *,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Plan:
    """Build an engine from a serialised graph whose input is `whyfake_pixels` (N, 3, h, w).

    The build runs in a thread of its own, so that Ctrl-C cancels it within a step; `within` makes
    the GPU to build for current there. Raises
    DetectorError for a graph that TensorRT cannot take, EngineError where the build fails.
    """
    build = _Build(model, tensorrt, options, timing_cache, progress, within)
    worker = threading.Thread(target=build.run, name="tensorrt-build", daemon=True)
    worker.start()
    try:
        # not worker.join(): where Ctrl-C interrupts that, the thread counts as ended
        while not build.done.wait(0.1):
            build.report()
    except KeyboardInterrupt:
        build.cancelled = True
        build.done.wait()
        raise
    if build.error is not None:
        raise build.error
    assert build.plan is not None
    return build.plan


class _Build:
    """One build, in its own thread."""

    def __init__(
        self,
        model: bytes,
        tensorrt: TensorRt,
        options: BuildOptions,
        timing_cache: bytes | None,
        progress: Progress | None,
        within: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._model = model
        self._tensorrt = tensorrt
        self._options = options
        self._timing_cache = timing_cache
        self._progress = progress
        self._within = within
        self._phase: tuple[str, float] | None = None
        self.cancelled = False
        self.done = threading.Event()
        self.plan: Plan | None = None
        self.error: BaseException | None = None

    def report(self) -> None:
        """Hand the latest progress on, in the caller's thread."""
        if self._progress is not None and self._phase is not None:
            self._progress(*self._phase)

    def run(self) -> None:
        """Build; what goes wrong is kept in `error`."""
        try:
            with self._within():
                self.plan = self._build()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self.error = error
        finally:
            self.done.set()

    def _build(self) -> Plan:
        trt: Any = self._tensorrt.module
        log = message_log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(self._model):
            found = [parser.get_error(i) for i in range(parser.num_errors)]
            where = ", ".join(f"{e.node_operator()} '{e.node_name()}'" for e in found)
            reason = f"{where}: {log.reason()}" if where else log.reason()
            raise DetectorError(f"{self._tensorrt} cannot take this graph: {reason[:400]}")
        config = builder.create_builder_config()
        self._configure(trt, builder, network, config)
        keeps_timings = self._tensorrt.flavour == "tensorrt"  # RTX measures on the user's machine
        if keeps_timings:
            cache = config.create_timing_cache(self._timing_cache or b"")
            if cache is None:  # a cache of another version or GPU
                cache = config.create_timing_cache(b"")
            if cache is not None:
                config.set_timing_cache(cache, False)
        config.progress_monitor = _monitor(trt, self)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            if self.cancelled:
                raise KeyboardInterrupt
            raise EngineError(f"{self._tensorrt} built no engine: {log.reason()[:400]}")
        kept = config.get_timing_cache() if keeps_timings else None
        return Plan(bytes(plan), None if kept is None else bytes(kept.serialize()))

    def _configure(self, trt: Any, builder: Any, network: Any, config: Any) -> None:
        options = self._options
        source = network.get_input(0)
        shape = tuple(source.shape)
        if network.num_inputs != 1 or source.name != PIXELS or len(shape) != 4:
            raise DetectorError(f"wanted a graph whose one input is {PIXELS} (N, 3, h, w)")
        batches = (1, options.best_batch, options.max_batch)
        if shape[0] != -1:
            if options.max_batch != shape[0]:
                raise DetectorError(
                    f"the graph's batch is fixed at {shape[0]}: adopt it with a free one "
                    "(whyfake export), or build with "
                    f"--best-batch {shape[0]} --max-batch {shape[0]}"
                )
        else:
            profile = builder.create_optimization_profile()
            profile.set_shape(PIXELS, *((batch, *shape[1:]) for batch in batches))
            if not bool(profile) or config.add_optimization_profile(profile) < 0:
                raise EngineError(f"{self._tensorrt} refuses the batches {batches}")
        if options.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        # RTX only: an engine that allocates by itself cannot be recorded as a CUDA graph
        no_own_memory = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        if no_own_memory is not None:
            config.set_flag(no_own_memory)
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        if options.level is not None:
            config.builder_optimization_level = options.level


def _monitor(trt: Any, build: _Build) -> Any:
    """TensorRT's progress monitor: remembers the innermost phase, and stops when told to."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = max(steps, 1)
            build._phase = (phase, 0.0)

        def step_complete(self, phase: str, step: int) -> bool:
            build._phase = (phase, min((step + 1) / self._steps.get(phase, 1), 1.0))
            return not build.cancelled

        def phase_finish(self, phase: str) -> None:
            build._phase = (phase, 1.0)

    return Monitor()
