"""Experts on TensorRT: one engine each, and per lane execution contexts of its own."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from runtime.backends import Outputs
from runtime.backends.gpu.buffers import OutputBuffers, Resources
from runtime.backends.gpu.cuda import RECORDING, Cuda, DeviceMemory, Event, Graph
from runtime.backends.gpu.tensorrt_engine import (
    check_binding,
    import_tensorrt,
    load_engine,
    tensorrt_log,
)
from runtime.errors import BackendError, ContractError, CudaError
from runtime.manifest import Artifact, Expert

T = TypeVar("T")

_log = logging.getLogger("agemoe")


class TensorRTExpert:
    """One expert's engine, shared by its lanes."""

    def __init__(
        self,
        name: str,
        expert: Expert,
        artifact: Artifact,
        folder: Path,
        cuda: Cuda,
        *,
        graphs: bool,
    ) -> None:
        """Checks that the engine fits this machine, reads it and checks it against the contract.

        Args:
            name: of the expert.
            expert: its manifest entry.
            artifact: the engine to load.
            folder: the engines folder.
            cuda: the device it is for; it has to live longer.
            graphs: record each batch size as a CUDA graph, where that gives the same answers.

        Raises:
            BackendError: TensorRT is not installed.
            EngineMismatchError: the engine was built for another TensorRT, GPU or graph.
            ContractError: TensorRT cannot read the engine, or it breaks the contract.
        """
        check_binding(name, expert, artifact, cuda.facts)
        self.name = name
        self.expert = expert
        self.cuda = cuda
        self.graphs = graphs
        self.library: ModuleType = import_tensorrt(artifact.backend)
        self._said = tensorrt_log(self.library)
        self._backend = artifact.backend
        self._no_graphs = ""
        if graphs and not cuda.has_graphs:
            self.give_up_graphs(f"{cuda.library} has none")
        with cuda.current():
            self._runtime, self.engine = load_engine(name, expert, artifact, folder, self.library)

    @property
    def backend(self) -> str:
        """`tensorrt` or `tensorrt_rtx`, and whether graphs were wanted and given up."""
        return self._backend + self._no_graphs

    def lane(self, inputs: Mapping[str, DeviceMemory], largest: int) -> TensorRTLane:
        """A new lane that reads its views, at most `largest`, from the given memory, by name."""
        return TensorRTLane(self, inputs, largest)

    def give_up_graphs(self, reason: object) -> None:
        """Goes on without graphs, in all lanes."""
        _log.warning("expert %r runs without CUDA graphs: %s", self.name, reason)
        self.graphs = False
        self._no_graphs = " (no graphs)"

    def call(self, doing: str, function: Callable[..., T], *arguments: object) -> T:
        """Calls TensorRT, which says by what it returns whether it could.

        Raises:
            BackendError: it could not, with what it logged.
        """
        self._said.forget()
        result = function(*arguments)
        del function  # in an error's traceback it would outlive the device with its object
        if result is None or result is False:
            raise BackendError(
                f"TensorRT failed while {doing} {self.name!r}: {self._said.errors()}."
            )
        return result

    def context(self) -> Any:  # noqa: ANN401 - an IExecutionContext
        """A new execution context, whose working memory is still to be given."""
        memory = self.library.ExecutionContextAllocationStrategy.USER_MANAGED
        create = self.engine.create_execution_context
        kernels = getattr(self.library, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is None:
            return self.call("preparing", create, memory)
        # TensorRT for RTX compiles its kernels here. By default it does so in the background and
        # runs others until then: answers would change, and a CUDA graph would keep the slow ones.
        options = self.call("configuring", self.engine.create_runtime_config)
        options.set_execution_context_allocation_strategy(memory)
        options.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        return self.call("preparing", create, options)

    def close(self) -> None:
        """Lets the engine go, after its lanes; harmless when repeated."""
        self.engine = None
        self._runtime = None


class TensorRTLane:
    """One batch at a time through an engine.

    A CUDA graph holds on to the shapes of its execution context, so with graphs every batch size
    has a context of its own. All of them work in the same memory, as NVIDIA advises.
    """

    def __init__(
        self, expert: TensorRTExpert, inputs: Mapping[str, DeviceMemory], largest: int
    ) -> None:
        """Takes a stream, outputs and working memory; contexts come with `warm_up`."""
        self._expert = expert
        self._cuda = expert.cuda
        self._inputs = inputs
        self._contexts: dict[int, Any] = {}
        self._graphs: dict[int, Graph] = {}
        self._resources = Resources(expert.cuda)
        try:
            self._take(largest)
        except BaseException:
            self._resources.free()
            raise

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Calls what enqueues at once: TensorRT does not hold the host."""
        launched: Future[None] = Future()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told by the answer
            launched.set_exception(error)
        else:
            launched.set_result(None)
        return launched

    def run(self, bucket: int, executed: Event) -> None:
        """Enqueues a recorded graph, after which the mark stands, or execution and downloads."""
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
        """Runs each batch size, records it, and compares the two bit for bit."""
        for bucket in buckets:
            self._prepare(bucket)
            self._set_shapes(bucket)
            self._check_shapes(bucket)
            plain = self._observed(bucket, functools.partial(self._plain, bucket))
            if self._expert.graphs:
                self._record(bucket, plain)

    def free(self) -> None:
        """Frees everything; harmless when repeated. Nothing may be under way."""
        self._graphs.clear()
        self._contexts.clear()
        self._resources.free()

    def _take(self, largest: int) -> None:
        keep, cuda, engine = self._resources.keep, self._cuda, self._expert.engine
        self.stream = keep(cuda.stream())
        self._aux = [keep(cuda.stream()) for _ in range(engine.num_aux_streams)]
        self.outputs = OutputBuffers(cuda, self._resources, self._expert.expert, largest)
        self._scratch = keep(cuda.device_memory(max(engine.device_memory_size_v2, 1)))

    def _prepare(self, bucket: int) -> None:
        """Makes a context for a batch size; without graphs, one serves all."""
        if self._contexts and not self._expert.graphs:
            self._contexts[bucket] = next(iter(self._contexts.values()))
            return
        call = self._expert.call
        self._contexts[bucket] = self._expert.context()
        self._contexts[bucket].set_device_memory(self._scratch.pointer, self._scratch.size_bytes)
        if self._aux:  # else TensorRT makes streams of its own
            self._contexts[bucket].set_aux_streams([stream.handle for stream in self._aux])
        memory = dict(self._inputs)
        memory |= {name: buffer.memory for name, buffer in self.outputs.buffers.items()}
        for name, place in memory.items():
            call("giving memory to", self._contexts[bucket].set_tensor_address, name, place.pointer)

    def _set_shapes(self, bucket: int) -> None:
        for spec in self._expert.expert.inputs:
            shape = (bucket, spec.height, spec.width, 3)
            self._expert.call(
                "giving faces to", self._contexts[bucket].set_input_shape, spec.name, shape
            )

    def _check_shapes(self, bucket: int) -> None:
        """Compares the outputs' shapes, which some engines tell only now, with their buffers."""
        for name, buffer in self.outputs.buffers.items():
            found = tuple(self._contexts[bucket].get_tensor_shape(name))
            if found != (bucket, *buffer.tail):
                raise ContractError(
                    f"{name} of expert {self._expert.name!r} must have shape "
                    f"{(bucket, *buffer.tail)}, the engine gives {found}."
                )

    def _execute(self, bucket: int) -> None:
        self._expert.call("executing", self._contexts[bucket].execute_async_v3, self.stream.handle)

    def _plain(self, bucket: int) -> None:
        self._execute(bucket)
        self.outputs.download(bucket, self.stream)

    def _observed(self, bucket: int, enqueue: Callable[[], None]) -> Outputs:
        """What comes of enqueued work; NaN where it writes nothing."""
        self.outputs.spoil(self.stream)
        enqueue()
        self._cuda.synchronize(self.stream)
        return self.outputs.read(bucket)

    def _record(self, bucket: int, plain: Outputs) -> None:
        """Keeps a graph of a batch size if it gives the same answers as the plain run before."""
        try:
            with RECORDING:
                graph = self._captured(bucket)
            replayed = self._observed(bucket, lambda: self._cuda.launch(graph, self.stream))
        except BackendError as error:
            if isinstance(error, CudaError) and error.lost:
                raise
            self._expert.give_up_graphs(error)
            return
        if all(replayed[name].tobytes() == plain[name].tobytes() for name in plain):
            self._graphs[bucket] = graph
        else:
            self._expert.give_up_graphs(f"a replay of {bucket} faces gave other answers")

    def _captured(self, bucket: int) -> Graph:
        self._cuda.begin_capture(self.stream)
        try:
            self._plain(bucket)
        except BaseException:
            with contextlib.suppress(CudaError):  # the recording that failed is of no use
                self._cuda.free(self._cuda.end_capture(self.stream))
            raise
        return self._resources.keep(self._cuda.end_capture(self.stream))
