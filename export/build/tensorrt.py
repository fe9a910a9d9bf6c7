"""TensorRT engines from ONNX files, for TensorRT from 10.12 on and for TensorRT for RTX.

Networks are strongly typed: every tensor has the type it has in the ONNX file, so precision is
decided there and verified here. TensorRT for RTX has the same API, but needs no timing cache, and
requires a GPU if it is given one.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from export.build.tensorrt_target import EngineOptions
from export.errors import ExportError, GraphError
from export.variants.fp16 import tensor_types
from runtime.backends.gpu.tensorrt_engine import construct, import_tensorrt, tensorrt_logger
from runtime.files import write_whole
from runtime.manifest import BatchProfile

REVISION = 1
"""To be raised with every change of how engines are built."""
TIMING_CACHE = "timing.cache"
"""File in the engines folder with TensorRT's kernel timings, which later builds reuse."""
SHARE_MARGIN = 0.1
"""Largest shortfall of a network's half-precision share from that of its ONNX file's activations.
With NVIDIA's parser 11.4 the two shares differ by at most 0.023 for the four demo experts and for
VGG16, ResNet50 and MiVOLO at full size; a network that fell back to FP32 has a share of 0."""
LEAST_HALF_WORK = 0.5
"""Least half-precision share of an FP16 network's convolutions and matrix products. In those
experts all but Janus's last product are half precision."""
_WORK = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_BYTES_PER_GIB = 1 << 30

_log = logging.getLogger("agemoe")
_Trt = Any
"""An object of TensorRT, which has no types."""
Advance = Callable[[float], None]
"""Callback that receives the completed share, from 0 to 1; called from another thread."""


def build_engine(
    source: Path,
    target: Path,
    precision: str,
    profile: BatchProfile,
    options: EngineOptions,
    timing_cache: Path,
    advance: Advance,
) -> float:
    """Builds an engine and writes it; on Ctrl-C the build stops and nothing is written.

    The precision is that of the ONNX file; `fp16` is verified in the network. The timing cache is
    shared by all engines of a folder.

    Returns:
        Share of the network's floating-point activations in half precision.

    Raises:
        BackendError: TensorRT does not start here.
        GraphError: TensorRT does not support the graph, or FP16 has become FP32.
        ExportError: TensorRT built no engine.
    """
    library = import_tensorrt(options.target.backend)
    log = tensorrt_logger(library)
    builder = construct(library.Builder, log)
    strongly_typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = library.OnnxParser(network, log)  # holds the weights until the engine is built
    if not parser.parse_from_file(str(source)):
        raise GraphError(f"TensorRT does not support {source.name}:{_parser_errors(parser)}")
    share = half_share(network, library)
    if precision == "fp16":
        check_half(source, network, library)
    config = _config(builder, network, profile, options, library)
    timed = options.target.backend == "tensorrt"  # TensorRT for RTX needs no timings
    if timed:
        _read_timings(timing_cache, config)
    plan = _plan(source, builder, network, config, advance, library)
    target.write_bytes(plan)
    if timed:
        write_whole(timing_cache, bytes(config.get_timing_cache().serialize()))
    return share


def half_share(network: _Trt, library: ModuleType) -> float:
    """Returns the half-precision share of a network's floating-point tensors without constants."""
    return _share(dtype for kind, dtype in _computed(network, library) if kind != "CONSTANT")


def check_half(source: Path, network: _Trt, library: ModuleType) -> None:
    """Raises `GraphError` if too much of a network parsed from an FP16 graph is FP32."""
    found = half_share(network, library)
    work = _share(dtype for kind, dtype in _computed(network, library) if kind in _WORK)
    promised = promised_share(source)
    if found < promised - SHARE_MARGIN or work < LEAST_HALF_WORK:
        raise GraphError(
            f"{source.name} should be half precision and is not: {found:.0%} of TensorRT's tensors "
            f"are, and {work:.0%} of its convolutions and matrix products; expected are "
            f"{promised:.0%} as in the file and at least {LEAST_HALF_WORK:.0%}. Convert it again: "
            f"--force."
        )


def promised_share(path: Path) -> float:
    """Returns the half-precision share of an ONNX file's floating-point activations."""
    types = tensor_types(path)
    graph = onnx.load(str(path), load_external_data=False).graph
    made = {name for n in graph.node if n.op_type != "Constant" for name in n.output}
    kinds = Counter(kind for name, kind in types.items() if name in made)
    return kinds["fp16"] / max(1, kinds.total())


def _computed(network: _Trt, library: ModuleType) -> Iterator[tuple[str, str]]:
    """Yields layer type and data type of every floating-point tensor that layers compute."""
    floats = {library.DataType.FLOAT: "fp32", library.DataType.HALF: "fp16"}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            dtype = layer.get_output(output).dtype
            if dtype in floats:
                yield layer.type.name, floats[dtype]


def _share(dtypes: Iterator[str]) -> float:
    """Returns the share of half precision, 1 where there is no tensor."""
    counts = Counter(dtypes)
    return round(counts["fp16"] / counts.total(), 4) if counts else 1.0


def _parser_errors(parser: _Trt) -> str:
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = f"node {error.node_name()!r} ({error.node_operator()}): "
        lines.append(
            f"\n- {node if error.node_operator() else ''}{error.code().name}: {error.desc()}"
        )
    return "".join(lines)


def _config(
    builder: _Trt, network: _Trt, profile: BatchProfile, options: EngineOptions, library: ModuleType
) -> _Trt:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.clear_flag(library.BuilderFlag.TF32)  # too imprecise for the parity of FP32
    own_memory = getattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if own_memory is not None:  # TensorRT for RTX, whose engines need it for CUDA graphs
        config.set_flag(own_memory)
    if options.workspace_gib is not None:
        size_bytes = int(options.workspace_gib * _BYTES_PER_GIB)
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, size_bytes)
    batches = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = (profile.smallest, profile.best, profile.largest)
        batches.set_shape(tensor.name, *((size, *tuple(tensor.shape)[1:]) for size in sizes))
    if config.add_optimization_profile(batches) < 0:
        raise ExportError(f"TensorRT cannot build for batches like {profile}.")
    return config


def _plan(
    source: Path, builder: _Trt, network: _Trt, config: _Trt, advance: Advance, library: ModuleType
) -> _Trt:
    """Returns the serialized engine, built in another thread so that this one receives Ctrl-C."""
    stopped = threading.Event()
    config.progress_monitor = _monitor(library, Phases(advance), stopped)
    log = tensorrt_logger(library)

    def serialized() -> tuple[_Trt, str]:
        log.clear()
        return builder.build_serialized_network(network, config), log.errors()

    with ThreadPoolExecutor(1, thread_name_prefix="agemoe-builder") as pool:
        try:
            plan, errors = pool.submit(serialized).result()
        except BaseException:
            stopped.set()
            raise
    if plan is None:
        raise ExportError(
            f"TensorRT built no engine from {source.name}: {errors}. If it is short of memory: "
            f"a smaller --max-batch or --workspace-gib."
        )
    return plan


def _monitor(library: ModuleType, phases: Phases, stopped: threading.Event) -> _Trt:
    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Forwards TensorRT's progress, and cancels the build when `stopped` is set."""

        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return not stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


class Phases:
    """Overall progress of TensorRT's nested phases; a phase within another is one step of it."""

    def __init__(self, advance: Advance) -> None:
        """Reports to a callback, and only when the share has grown."""
        self._advance = advance
        self._lock = threading.Lock()  # TensorRT's own threads call
        self._phases: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, int] = {}
        self._reported = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begins a phase."""
        with self._lock:
            self._phases[name] = (parent, steps)
            self._done[name] = 0

    def step(self, name: str, step: int) -> None:
        """Completes a step of a phase, counted from 0."""
        with self._lock:
            self._done[name] = max(self._done.get(name, 0), step + 1)
            self._report()

    def finish(self, name: str) -> None:
        """Ends a phase."""
        with self._lock:
            self._phases.pop(name, None)
            if not self._phases:
                self._reported = 1.0
                self._advance(1.0)

    def _report(self) -> None:
        roots = [name for name, (parent, _) in self._phases.items() if parent not in self._phases]
        share = max((self._share(name) for name in roots), default=0.0)
        if share > self._reported:
            self._reported = share
            self._advance(share)

    def _share(self, name: str) -> float:
        within = [self._share(n) for n, (parent, _) in self._phases.items() if parent == name]
        steps = max(1, self._phases[name][1])
        return min(1.0, (self._done[name] + max(within, default=0.0)) / steps)


def _read_timings(path: Path, config: _Trt) -> None:
    written = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(written)
    if cache is None or not config.set_timing_cache(cache, False):  # noqa: FBT003 - theirs
        _log.warning("%s is damaged or belongs to another TensorRT; it is not used", path)
        config.set_timing_cache(config.create_timing_cache(b""), False)  # noqa: FBT003
