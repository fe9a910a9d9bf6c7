"""Experts on TensorRT: one engine each, and execution contexts per lane."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import ModuleType
from typing import Any, TypeVar

from runtime.backends import ExpertVariant, Outputs
from runtime.backends.gpu.buffers import OutputBuffers, Resources
from runtime.backends.gpu.cuda import CAPTURE_LOCK, Cuda, DeviceMemory, Event, Graph
from runtime.backends.gpu.tensorrt_engine import (
    check_binding,
    import_tensorrt,
    load_engine,
    tensorrt_logger,
)
from runtime.errors import BackendError, ContractError, CudaError

T = TypeVar("T")

_log = logging.getLogger("agemoe")


class TensorRTExpert:
    """One expert's engine, shared by its lanes."""

    def __init__(self, variant: ExpertVariant, cuda: Cuda, *, graphs: bool) -> None:
        """Checks that the engine fits this machine, loads it and checks it against the contract.

        The device must outlive the expert. With `graphs`, each batch size is captured as a CUDA
        graph, if that gives the same outputs.

        Raises:
            BackendError: TensorRT is not installed.
            EngineMismatchError: the engine was built for another TensorRT, GPU or graph.
            ContractError: TensorRT cannot load the engine, or it breaks the contract.
        """
        check_binding(variant, cuda.properties)
        self.name = variant.name
        self.expert = variant.expert
        self.cuda = cuda
        self.graphs = graphs
        self.library: ModuleType = import_tensorrt(variant.artifact.backend)
        self._logger = tensorrt_logger(self.library)
        self._backend = variant.artifact.backend
        self._suffix = ""
        if graphs and not cuda.has_graphs:
            self.disable_graphs(f"{cuda.library} has none")
        with cuda.current():
            self._runtime, self.engine = load_engine(variant, self.library)

    @property
    def backend(self) -> str:
        """`tensorrt` or `tensorrt_rtx`, and ` (no graphs)` if they were requested but failed."""
        return self._backend + self._suffix

    def lane(self, inputs: Mapping[str, DeviceMemory], largest: int) -> TensorRTLane:
        """Returns a new lane that reads at most `largest` views from the memory, by input name."""
        return TensorRTLane(self, inputs, largest)

    def disable_graphs(self, reason: object) -> None:
        """Disables graphs in all lanes and logs the reason."""
        _log.warning("expert %r runs without CUDA graphs: %s", self.name, reason)
        self.graphs = False
        self._suffix = " (no graphs)"

    def call(self, doing: str, function: Callable[..., T], *arguments: object) -> T:
        """Calls a function of TensorRT; raises `BackendError` with its message where it fails."""
        self._logger.clear()
        result = function(*arguments)
        del function  # an error's traceback would keep its object alive after the device
        if result is None or result is False:
            raise BackendError(
                f"TensorRT failed while {doing} {self.name!r}: {self._logger.errors()}."
            )
        return result

    def context(self) -> Any:  # noqa: ANN401 - an IExecutionContext
        """Creates an execution context, whose memory the caller has to set."""
        memory = self.library.ExecutionContextAllocationStrategy.USER_MANAGED
        create = self.engine.create_execution_context
        kernels = getattr(self.library, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is None:
            return self.call("preparing", create, memory)
        # TensorRT for RTX compiles its kernels here. By default it does so in the background and
        # runs others until then: outputs would change, and a CUDA graph would keep the slow ones.
        options = self.call("configuring", self.engine.create_runtime_config)
        options.set_execution_context_allocation_strategy(memory)
        options.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        return self.call("preparing", create, options)

    def close(self) -> None:
        """Frees the engine; idempotent. The lanes must have been freed."""
        self.engine = None
        self._runtime = None


class TensorRTLane:
    """One batch at a time through an engine.

    A CUDA graph is bound to the shapes of its execution context, so with graphs every batch size
    has its own context. All contexts share one block of memory, as NVIDIA recommends.
    """

    def __init__(
        self, expert: TensorRTExpert, inputs: Mapping[str, DeviceMemory], largest: int
    ) -> None:
        """Allocates stream, output buffers and context memory; `warm_up` creates the contexts."""
        self._expert = expert
        self._cuda = expert.cuda
        self._inputs = inputs
        self._contexts: dict[int, Any] = {}
        self._graphs: dict[int, Graph] = {}
        self._resources = Resources(expert.cuda)
        try:
            self._allocate(largest)
        except BaseException:
            self._resources.free()
            raise

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Calls `work` in this thread: TensorRT does not block the host."""
        launched: Future[None] = Future()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised by the result
            launched.set_exception(error)
        else:
            launched.set_result(None)
        return launched

    def enqueue(self, bucket: int, executed: Event) -> None:
        """Enqueues a graph and the event, or the execution, the event and the downloads."""
        graph = self._graphs.get(bucket) if self._expert.graphs else None
        if graph is not None:
            self._cuda.launch(graph, self.stream)
            self._cuda.record(executed, self.stream)
        else:
            self._set_shapes(bucket)
            self._execute(bucket)
            self._cuda.record(executed, self.stream)
            self.outputs.download(bucket, self.stream)

    def warm_up(self, buckets: Sequence[int]) -> None:
        """Runs each batch size; with graphs, also captures, replays and compares it bit for bit."""
        for bucket in buckets:
            self._create_context(bucket)
            self._set_shapes(bucket)
            self._check_shapes(bucket)
            direct = self._outputs_of(bucket, functools.partial(self._enqueue_directly, bucket))
            if self._expert.graphs:
                self._capture(bucket, direct)

    def free(self) -> None:
        """Frees everything; idempotent. No work may be in progress."""
        self._graphs.clear()
        self._contexts.clear()
        self._resources.free()

    def _allocate(self, largest: int) -> None:
        keep, cuda, engine = self._resources.keep, self._cuda, self._expert.engine
        self.stream = keep(cuda.stream())
        self._aux = [keep(cuda.stream()) for _ in range(engine.num_aux_streams)]
        self.outputs = OutputBuffers(cuda, self._resources, self._expert.expert, largest)
        self._context_memory = keep(cuda.device_memory(max(engine.device_memory_size_v2, 1)))

    def _create_context(self, bucket: int) -> None:
        """Creates a context for a batch size; without graphs, one serves all sizes."""
        if self._contexts and not self._expert.graphs:
            self._contexts[bucket] = next(iter(self._contexts.values()))
            return
        call, memory = self._expert.call, self._context_memory
        self._contexts[bucket] = self._expert.context()
        self._contexts[bucket].set_device_memory(memory.pointer, memory.size_bytes)
        if self._aux:  # else TensorRT creates its own streams
            self._contexts[bucket].set_aux_streams([stream.handle for stream in self._aux])
        buffers = dict(self._inputs)
        buffers |= {name: buffer.memory for name, buffer in self.outputs.buffers.items()}
        for name, memory in buffers.items():
            call(
                "binding memory to", self._contexts[bucket].set_tensor_address, name, memory.pointer
            )

    def _set_shapes(self, bucket: int) -> None:
        for spec in self._expert.expert.inputs:
            shape = (bucket, spec.height, spec.width, 3)
            self._expert.call(
                "setting shapes of", self._contexts[bucket].set_input_shape, spec.name, shape
            )

    def _check_shapes(self, bucket: int) -> None:
        """Compares the outputs' shapes, which some engines know only now, with the buffers."""
        for name, buffer in self.outputs.buffers.items():
            found = tuple(self._contexts[bucket].get_tensor_shape(name))
            if found != (bucket, *buffer.tail):
                raise ContractError(
                    f"{name} of expert {self._expert.name!r} must have shape "
                    f"{(bucket, *buffer.tail)}, the engine returns {found}."
                )

    def _execute(self, bucket: int) -> None:
        self._expert.call("executing", self._contexts[bucket].execute_async_v3, self.stream.handle)

    def _enqueue_directly(self, bucket: int) -> None:
        self._execute(bucket)
        self.outputs.download(bucket, self.stream)

    def _outputs_of(self, bucket: int, enqueue: Callable[[], None]) -> Outputs:
        """Runs the work that `enqueue` enqueues; outputs it does not write are NaN."""
        self.outputs.fill_nan(self.stream)
        enqueue()
        self._cuda.synchronize(self.stream)
        return self.outputs.read(bucket)

    def _capture(self, bucket: int, direct: Outputs) -> None:
        """Captures a batch size and keeps the graph if its outputs equal those of a direct run."""
        try:
            with CAPTURE_LOCK:
                graph = self._captured(bucket)
            replayed = self._outputs_of(bucket, lambda: self._cuda.launch(graph, self.stream))
        except BackendError as error:
            if isinstance(error, CudaError) and error.lost:
                raise
            self._expert.disable_graphs(error)
            return
        if all(replayed[name].tobytes() == direct[name].tobytes() for name in direct):
            self._graphs[bucket] = graph
        else:
            self._expert.disable_graphs(f"a replay of {bucket} faces gave different outputs")

    def _captured(self, bucket: int) -> Graph:
        self._cuda.begin_capture(self.stream)
        try:
            self._enqueue_directly(bucket)
        except BaseException:
            with contextlib.suppress(CudaError):  # a failed capture is discarded
                self._cuda.free(self._cuda.end_capture(self.stream))
            raise
        return self._resources.keep(self._cuda.end_capture(self.stream))
