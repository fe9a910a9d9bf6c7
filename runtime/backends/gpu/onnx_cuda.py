"""Experts on ONNX Runtime's CUDA provider: one session, stream and thread each."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends import ExpertVariant
from runtime.backends.gpu.buffers import OutputBuffers, Resources
from runtime.backends.gpu.cuda import CAPTURE_LOCK, Cuda, DeviceMemory, Event, Stream
from runtime.backends.onnx import check_contract, cuda_provider_problem, import_onnxruntime
from runtime.errors import BackendError, CudaError
from runtime.program import command_line

_log = logging.getLogger("agemoe")
_PROVIDER = "CUDAExecutionProvider"
_CURE = f"Install agemoe-runtime[gpu], without [cpu] beside it; see `{command_line('doctor')}`."


class OnnxCudaExpert:
    """One expert's session, whose lanes share its one stream.

    ONNX Runtime blocks the host while it launches kernels, so the session has its own thread.
    """

    backend = "onnx-cuda"

    def __init__(
        self, variant: ExpertVariant, cuda: Cuda, *, memory_limit_bytes: int | None
    ) -> None:
        """Loads the graph, verifies that it is on the GPU, and checks it against the contract.

        The device must outlive the expert. The limit is on ONNX Runtime's arena.

        Raises:
            BackendError: ONNX Runtime is not installed or cannot use the GPU.
            ContractError: ONNX Runtime cannot load the graph, or it breaks the contract.
        """
        self.name = name = variant.name
        self.expert = variant.expert
        self.cuda = cuda
        self.library = _import_with_cuda()
        self._resources = Resources(cuda)
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"agemoe-{name}")
        try:
            with cuda.current():
                self.stream = self._resources.keep(cuda.stream())
                self.session = self._open(str(variant.path), memory_limit_bytes)
            check_contract(variant, self.session)
        except BaseException:
            self.close()
            raise
        self.placed_on_cpu = _placed_on_cpu(self.session)
        """Operators of the nodes that ONNX Runtime placed on the CPU, one entry per node."""
        if self.placed_on_cpu:
            kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(self.placed_on_cpu).items())
            _log.info("expert %r has nodes on the CPU: %s", name, kinds)

    def lane(self, inputs: Mapping[str, DeviceMemory], largest: int) -> OnnxCudaLane:
        """Returns a new lane that reads at most `largest` views from the memory, by input name."""
        return OnnxCudaLane(self, inputs, largest)

    def close(self) -> None:
        """Ends the thread and frees session and stream; idempotent."""
        self.thread.shutdown(wait=True)
        self.session = None
        if not self._resources.held:
            return
        with contextlib.suppress(CudaError), self.cuda.current():
            self._resources.free()

    def _open(self, graph: str, memory_limit_bytes: int | None) -> Any:  # noqa: ANN401
        options = self.library.SessionOptions()
        options.intra_op_num_threads = 1  # at most, the CPU computes shapes
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers = [
            (_PROVIDER, self._provider_options(memory_limit_bytes)),
            "CPUExecutionProvider",
        ]
        try:
            with CAPTURE_LOCK:  # the CUDA provider synchronizes the device
                session = self.library.InferenceSession(
                    graph, options, providers=providers, enable_fallback=0
                )
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise BackendError(
                f"ONNX Runtime cannot open {graph} of expert {self.name!r} on the GPU: {error} "
                f"{_CURE}"
            ) from error
        if session.get_providers()[0] != _PROVIDER:
            raise BackendError(
                f"ONNX Runtime did not put expert {self.name!r} on the GPU but on "
                f"{', '.join(session.get_providers())}. {_CURE}"
            )
        return session

    def _provider_options(self, memory_limit_bytes: int | None) -> dict[str, str]:
        options = {
            "device_id": str(self.cuda.properties.ordinal),
            "user_compute_stream": str(self.stream.handle),
            "use_tf32": "0",  # ages as PyTorch computes them
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",  # a search runs again for every batch size
        }
        if memory_limit_bytes is not None:
            options["gpu_mem_limit"] = str(memory_limit_bytes)
        return options


class OnnxCudaLane:
    """One batch at a time through a session; the stream orders the batches of all lanes."""

    def __init__(
        self, expert: OnnxCudaExpert, inputs: Mapping[str, DeviceMemory], largest: int
    ) -> None:
        """Allocates output buffers; `warm_up` binds them to the session."""
        self.stream: Stream = expert.stream
        self._expert = expert
        self._inputs = inputs
        self._bindings: dict[int, Any] = {}
        self._resources = Resources(expert.cuda)
        try:
            self.outputs = OutputBuffers(expert.cuda, self._resources, expert.expert, largest)
        except BaseException:
            self._resources.free()
            raise

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Calls `work` on the expert's thread, which ONNX Runtime blocks meanwhile."""
        return self._expert.thread.submit(work)

    def enqueue(self, bucket: int, executed: Event) -> None:
        """Enqueues the execution, the event and the downloads."""
        self._execute(bucket)
        self._expert.cuda.record(executed, self.stream)
        self.outputs.download(bucket, self.stream)

    def warm_up(self, buckets: Sequence[int]) -> None:
        """Runs each batch size, so that the session's arena grows now."""
        self.submit(lambda: self._warm_up(buckets)).result()

    def free(self) -> None:
        """Frees everything; idempotent. No work may be in progress."""
        if self._resources.held:
            self.submit(self._bindings.clear).result()  # after the work that may still run there
            self._resources.free()

    def _execute(self, bucket: int) -> None:
        options = self._expert.library.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        try:
            self._expert.session.run_with_iobinding(self._bindings[bucket], options)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            error.__traceback__ = None  # its frames would keep the session alive after the device
            raise BackendError(
                f"ONNX Runtime failed while executing expert {self._expert.name!r}: {error}"
            ) from error

    def _warm_up(self, buckets: Sequence[int]) -> None:
        with self._expert.cuda.current():
            for bucket in buckets:
                self._bindings[bucket] = self._bound(bucket)
                self._execute(bucket)
            self._expert.cuda.synchronize(self.stream)

    def _bound(self, bucket: int) -> Any:  # noqa: ANN401 - an IOBinding
        """Returns the binding of a batch size to the input and output buffers."""
        binding = self._expert.session.io_binding()
        device = ("cuda", self._expert.cuda.properties.ordinal)
        for spec in self._expert.expert.inputs:
            shape = (bucket, spec.height, spec.width, 3)
            pointer = self._inputs[spec.name].pointer
            binding.bind_input(spec.name, *device, np.uint8, shape, pointer)
        for name, buffer in self.outputs.buffers.items():
            pointer = buffer.memory.pointer
            binding.bind_output(name, *device, np.float32, (bucket, *buffer.tail), pointer)
        return binding


def _import_with_cuda() -> ModuleType:
    """Imports ONNX Runtime and loads CUDA's libraries, from nvidia-* wheels if installed."""
    problem = cuda_provider_problem()
    if problem is not None:
        raise BackendError(problem)
    onnxruntime = import_onnxruntime()
    onnxruntime.preload_dlls()
    return onnxruntime


def _placed_on_cpu(session: Any) -> tuple[str, ...]:  # noqa: ANN401
    assignment = getattr(session, "get_provider_graph_assignment_info", tuple)
    return tuple(
        node.op_type
        for part in assignment()
        if part.ep_name != _PROVIDER
        for node in part.get_nodes()
    )
