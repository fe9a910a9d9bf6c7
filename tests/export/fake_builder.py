"""A small fake of TensorRT's builder API, with the same restrictions as the real one.

A "plan" is the ONNX file's bytes with the batch sizes before them; one layer stands for each node.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

from export.variants.fp16 import tensor_types
from runtime.backends.gpu.cuda import DeviceProperties
from runtime.backends.gpu.cuda_library import CudaDeviceList

STEPS = 20
"""Number of steps in the one phase of a fake build."""
CACHE_MARK = b"timings of "


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3

    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


DataType = enum.Enum("DataType", "FLOAT HALF INT64 UINT8")
BuilderFlag = enum.Enum("BuilderFlag", "TF32")
RtxBuilderFlag = enum.Enum("RtxBuilderFlag", "TF32 REQUIRE_USER_ALLOCATION")
MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
LayerType = enum.Enum("LayerType", "CONVOLUTION DECONVOLUTION MATRIX_MULTIPLY CONSTANT ELEMENTWISE")
ErrorCode = enum.Enum("ErrorCode", "UNSUPPORTED_NODE")


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


_LAYERS = {"Conv": "CONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY"}


class Network:
    def __init__(self) -> None:
        self.content = b""
        self.layers: list[Any] = []
        self.inputs: list[Any] = []

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        return self.inputs[index]


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._network = network
        self._errors: list[Any] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        path = Path(model)
        graph = onnx.load(model, load_external_data=False).graph
        types = tensor_types(path)
        for node in graph.node:
            if node.op_type == "Col2Im":
                self._errors.append(_parser_error(node))
            dtypes = [{"fp16": DataType.HALF, "fp32": DataType.FLOAT}.get(types.get(o, ""))
                      for o in node.output]  # fmt: skip
            self._network.layers.append(_layer(node.op_type, dtypes))
        self._network.inputs = [_input(value) for value in graph.input]
        self._network.content = path.read_bytes()
        return not self._errors


def _parser_error(node: onnx.NodeProto) -> Any:
    return SimpleNamespace(
        node_name=lambda: node.name,
        node_operator=lambda: node.op_type,
        code=lambda: ErrorCode.UNSUPPORTED_NODE,
        desc=lambda: "false",
    )


def _layer(operator: str, dtypes: Sequence[Any]) -> Any:
    outputs = [SimpleNamespace(dtype=dtype or DataType.INT64) for dtype in dtypes]
    kind = LayerType[_LAYERS.get(operator, "ELEMENTWISE")]
    return SimpleNamespace(type=kind, num_outputs=len(outputs), get_output=outputs.__getitem__)


def _input(value: onnx.ValueInfoProto) -> Any:
    dims = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
    return SimpleNamespace(name=value.name, shape=tuple(dims))


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        shapes = [tuple(shape) for shape in (low, best, high)]
        assert len({shape[1:] for shape in shapes}) == 1
        assert shapes[0][0] <= shapes[1][0] <= shapes[2][0]
        self.shapes[name] = shapes


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    """A builder configuration with only the settings that TensorRT 11 still has."""

    __slots__ = (
        "_cache",
        "builder_optimization_level",
        "flags",
        "pools",
        "profiles",
        "progress_monitor",
    )

    def __init__(self) -> None:
        self._cache: TimingCache | None = None
        self.builder_optimization_level = 3
        self.flags = {"TF32"}
        self.pools: dict[Any, int] = {}
        self.profiles: list[Profile] = []
        self.progress_monitor: IProgressMonitor | None = None

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        assert isinstance(size, int)
        self.pools[pool] = size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and not cache.content.startswith(CACHE_MARK):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        assert self._cache is not None
        return self._cache


class Builder:
    built: list[Config]
    """Configurations of the builds of one fake module."""
    pause: threading.Event
    """Awaited before the second step."""
    fails: str
    """Error that is logged instead of building; empty to build."""
    starts: bool
    """Whether a builder can be created."""

    def __init__(self, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._logger = logger
        if not self.starts:
            logger.log(ILogger.WARNING, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        assert len(config.profiles) == 1
        assert set(config.profiles[0].shapes) == {value.name for value in network.inputs}
        monitor = config.progress_monitor
        assert monitor is not None
        monitor.phase_start("Building engine", None, 1)
        monitor.phase_start("Timing", "Building engine", STEPS)
        for step in range(STEPS):
            if not monitor.step_complete("Timing", step) or self.fails:
                self._logger.log(ILogger.ERROR, self.fails or "BuildCanceled")
                return None
            if step == 0:
                self._logger.log(ILogger.WARNING, "some kernels are slow")
                self.pause.wait(2.0)
        monitor.phase_finish("Timing")
        monitor.step_complete("Building engine", 0)
        monitor.phase_finish("Building engine")
        if config._cache is not None:
            config._cache.content = config._cache.content or CACHE_MARK
            config._cache.content += b"one more "
        self.built.append(config)
        sizes = [shape[0] for shape in next(iter(config.profiles[0].shapes.values()))]
        return f"plan for {sizes} ".encode() + network.content


def fake_tensorrt(version: str = "11.4.0.106", name: str = "tensorrt") -> Any:
    """Returns a module that replaces `tensorrt` or `tensorrt_rtx`."""
    library: Any = ModuleType(name)
    library.__version__ = version
    for thing in (
        BuilderFlag,
        DataType,
        ILogger,
        IProgressMonitor,
        MemoryPoolType,
        NetworkDefinitionCreationFlag,
        OnnxParser,
    ):
        setattr(library, thing.__name__, thing)
    if name == "tensorrt_rtx":
        library.BuilderFlag = RtxBuilderFlag
    go = threading.Event()
    go.set()
    facts = {"built": [], "pause": go, "fails": "", "starts": True}
    library.Builder = type("Builder", (Builder,), facts)
    return library


def gpu(capability: str = "9.0") -> CudaDeviceList:
    """Returns a machine with one GPU."""
    return CudaDeviceList((DeviceProperties(0, "H100", capability, 80 << 30, "13.0"),), None)
