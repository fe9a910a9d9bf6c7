"""The runtime part of `tensorrt` and `tensorrt_rtx` on the simulated device.

Enforces:
- a plan of another version or compute capability, or a truncated one, returns None and is logged;
- a shape outside the profile returns False, as does running without all shapes and addresses, or
  a USER_MANAGED context without enough device memory;
- the first run after a change of shape cannot be captured (False, and the capture is invalidated);
- two runs of one context, or of two that share device memory or auxiliary streams, race unless
  ordered by events;
- addresses are aligned, live and large enough, and a CUDA context is current;
- a context is not destroyed while it runs;
- a context of TensorRT for RTX that compiles kernels in the background is not captured.

A Runtime that cannot be created is a null pointer, for which pybind11 raises a TypeError.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.fake_models import Model, execution
from tests.gpu.fake_plans import parts
from tests.gpu.fake_streams import CudaFailure, Span
from tests.gpu.fake_tensorrt_types import (
    DATA_TYPES,
    DataType,
    Dims,
    DynamicShapesKernelSpecializationStrategy,
    ExecutionContextAllocationStrategy,
    ILogger,
    Logger,
    RuntimeConfig,
    Severity,
    TensorIOMode,
)

_ALIGNMENT = 256


class Runtime:
    """Creates engines from plans."""

    def __init__(self, gpu: SimulatedDriver, version: str, logger: ILogger) -> None:
        if not getattr(logger, "_initialized", False):
            raise TypeError("Runtime(): the logger's __init__ was not called")
        if error := gpu.fails_now("createInferRuntime"):
            logger.log(Severity.WARNING, error)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._gpu = gpu
        self._version = version
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Engine | None:
        plan = bytes(serialized_engine)
        _need_context(self._gpu)
        error = self._gpu.fails_now("deserialize_cuda_engine")
        problem = error or self._problem(plan)
        if problem:
            self.logger.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: {problem}")
            return None
        header, graph = parts(plan)
        return Engine(self._gpu, self.logger, header, Model(graph))

    def _problem(self, plan: bytes) -> str | None:
        try:
            header, graph = parts(plan)
        except ValueError:
            return "magicTag is wrong, the plan is damaged"
        if hashlib.sha256(graph).hexdigest() != header["sha256"]:
            return "the plan is truncated"
        if header["version"] != self._version:
            return f"the plan is of TensorRT {header['version']}, this is {self._version}"
        capability = "{}.{}".format(*self._gpu.capability)
        if header["compute_capability"] not in (None, capability):
            return f"the plan is for compute capability {header['compute_capability']}"
        return None


def _need_context(gpu: SimulatedDriver) -> None:
    if not gpu.current_context():
        gpu.fault("TensorRT was called without a current CUDA context")


class Engine:
    """An engine, shared by its execution contexts."""

    def __init__(
        self, gpu: SimulatedDriver, logger: ILogger, header: dict[str, Any], model: Model
    ) -> None:
        self.gpu = gpu
        self.logger = logger
        self.model = model
        self.name: str = header["name"]
        self._for_rtx = header["compute_capability"] is None
        self.profile: dict[str, list[list[int]]] = header["profile"]
        self.num_aux_streams: int = header["aux_streams"]
        self.device_memory_size_v2: int = header["device_memory_bytes"]
        self._names = [*model.inputs, *model.outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        name: str = self._names[index]
        return name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name not in self._names:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self.model.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DATA_TYPES[(self.model.inputs | self.model.outputs)[name].type]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self.model.shape(name))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if profile_index != 0:
            raise IndexError(profile_index)
        return [Dims(shape) for shape in self.profile[name]]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy
        | RuntimeConfig = ExecutionContextAllocationStrategy.STATIC,
    ) -> Context | None:
        config = strategy if isinstance(strategy, RuntimeConfig) else RuntimeConfig(strategy)
        _need_context(self.gpu)
        error = self.gpu.lost or self.gpu.fails_now("create_execution_context")
        if error:
            self.logger.log(Severity.ERROR, f"createExecutionContext: {error}")
            return None
        lazy = self._for_rtx and config.dynamic_shapes_kernel_specialization_strategy.name == "LAZY"
        if config.allocation is ExecutionContextAllocationStrategy.USER_MANAGED:
            return Context(self, None, lazy=lazy)
        try:
            with self.gpu.lock:
                memory = self.gpu.memory.allocate(self.device_memory_size_v2, "tensorrt").span
        except CudaFailure as failure:
            self.logger.log(Severity.ERROR, f"createExecutionContext: {failure}")
            return None
        return Context(self, memory, lazy=lazy)


class Context:
    """Runs an engine, in one stream at a time."""

    def __init__(self, engine: Engine, memory: Span | None, *, lazy: bool) -> None:
        self.engine = engine
        self._gpu = engine.gpu
        self._memory = memory
        self._lazy = lazy
        """True if kernels for its shapes are compiled in the background."""
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._aux_streams: list[int] = []
        self._changed = True
        with self._gpu.lock:
            handle = self._gpu.handle()
        self._token = (handle, handle + 1)
        self._finalizer = weakref.finalize(self, _end_context, self._gpu, self._token, memory)

    def set_device_memory(self, memory: int, size: int) -> None:
        if size < self.engine.device_memory_size_v2:
            self._error(f"setDeviceMemory: {size:,} bytes are not enough")
        elif self._gpu.memory.view(memory, size, "device") is None:
            self._gpu.fault(f"the {size:,} bytes at {memory:#x} are not allocated")
        else:
            self._memory = (memory, memory + self.engine.device_memory_size_v2)

    def set_aux_streams(self, aux_streams: Sequence[int]) -> None:
        with self._gpu.lock:
            for handle in aux_streams:
                self._gpu.stream(int(handle))
        self._aux_streams = [int(handle) for handle in aux_streams]

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = tuple(int(dim) for dim in shape)
        if name not in self.engine.profile:
            return self._error(f"setInputShape: {name} is not an input")
        low, _best, high = self.engine.profile[name]
        inside = len(wanted) == len(low) and all(
            a <= dim <= b for a, dim, b in zip(low, wanted, high, strict=True)
        )
        if not inside:
            return self._error(f"setInputShape: {name} {wanted} is outside {low} to {high}")
        self._changed |= self._shapes.get(name) != wanted
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self.engine.model.inputs:
            return Dims(self._shapes.get(name, self.engine.model.shape(name)))
        return Dims(self.engine.model.shape(name, -1 if self.infer_shapes() else self._batch))

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.model.inputs if name not in self._shapes]

    @property
    def _batch(self) -> int:
        return next(iter(self._shapes.values()))[0]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self.engine.get_tensor_mode(name) is TensorIOMode.NONE:
            return self._error(f"setTensorAddress: no tensor {name}")
        if memory % _ALIGNMENT:
            return self._error(f"setTensorAddress: {memory:#x} is not aligned to {_ALIGNMENT}")
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        _need_context(self._gpu)
        with self._gpu.lock:
            error = self._gpu.fails_now("execute_async_v3")
            problem = self._gpu.lost or error or self._problem(int(stream_handle))
            if problem:
                return self._error(f"enqueueV3: {problem}")
            assert self._memory is not None
            label = f"execute {self.engine.name}"
            addresses = {name: self._addresses[name] for name in self.engine._names}
            aux = [(handle, handle + 1) for handle in self._aux_streams]
            exclusive = (self._token, self._memory, *aux)
            model = self.engine.model
            work = execution(self._gpu, label, model, addresses, self._batch, exclusive)
            self._gpu.enqueue(int(stream_handle), work)
            self._changed = False
        return True

    def _problem(self, stream_handle: int) -> str | None:
        capture = self._gpu.stream(stream_handle).capture
        if missing := self.infer_shapes():
            return f"no shape of {missing}"
        if len({shape[0] for shape in self._shapes.values()}) > 1:
            return f"batches differ: {self._shapes}"
        if missing := [name for name in self.engine._names if not self._addresses.get(name)]:
            return f"no address of {missing}"
        if self._memory is None:
            return "no device memory"
        if capture and self._lazy:
            self._gpu.fault("a graph would keep kernels that are about to be replaced")
        if capture and self._changed:
            capture.broken = True
            return "the first run after a change of shape cannot be captured"
        return None

    def _error(self, text: str) -> bool:
        self.engine.logger.log(Severity.ERROR, f"IExecutionContext::{text}")
        return False


def _end_context(gpu: SimulatedDriver, token: Span, memory: Span | None) -> None:
    with gpu.lock:
        if any(work.touches((token,)) for work in gpu.streams.pending()):
            gpu.faults.append("an execution context was destroyed while it ran")
        block = gpu.memory.blocks.get(memory[0]) if memory else None
        if block is not None:
            gpu.memory.free(block)


class FakeTensorRt(ModuleType):
    """The module."""

    def __init__(self, gpu: SimulatedDriver, version: str, name: str = "tensorrt") -> None:
        super().__init__(name)
        if name == "tensorrt_rtx":
            self.DynamicShapesKernelSpecializationStrategy = (
                DynamicShapesKernelSpecializationStrategy
            )
        self.__version__ = version
        self.Runtime = lambda logger: Runtime(gpu, version, logger)
        for kind in (ILogger, Logger, Dims, DataType, TensorIOMode):
            setattr(self, kind.__name__, kind)
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.ICudaEngine = Engine
        self.IExecutionContext = Context

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"tensorrt.{name} is not simulated")
