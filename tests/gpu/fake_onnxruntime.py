"""ONNX Runtime with a CUDA provider on the simulated device; everything else is the real package.

Enforces: the provider's options are known ones, a session has its own stream
(`user_compute_stream`), inputs and outputs are bound to live device memory of sufficient size, and
every input is bound. Creating a session synchronizes the device, which fails and invalidates the
capture while any stream captures. A run synchronizes its stream unless its RunOptions contain
`disable_synchronize_execution_providers`; such waits are counted as `onnxruntime synchronize`. If
the provider does not load, the session falls back to the CPU silently, like the real one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.fake_models import Model, execution

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_OPTIONS = """
    device_id has_user_compute_stream user_compute_stream gpu_mem_limit arena_extend_strategy
    cudnn_conv_algo_search do_copy_in_default_stream cudnn_conv_use_max_workspace enable_cuda_graph
    cudnn_conv1d_pad_to_nc1d tunable_op_enable tunable_op_tuning_enable prefer_nhwc use_tf32
    tunable_op_max_tuning_duration_ms enable_skip_layer_norm_strict_mode fuse_conv_bias sdpa_kernel
    use_ep_level_unified_stream gpu_external_alloc gpu_external_free gpu_external_empty_cache
"""
OPTIONS = frozenset(_OPTIONS.split())
_NO_WAIT = "disable_synchronize_execution_providers"


@dataclass(frozen=True, slots=True)
class Bound:
    """Shape and address of a bound tensor."""

    shape: tuple[int, ...]
    address: int


class IOBinding:
    """Bindings of inputs and outputs to device memory."""

    def __init__(self, gpu: SimulatedDriver, model: Model) -> None:
        self._gpu = gpu
        self._model = model
        self.bound: dict[str, Bound] = {}

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        self._bind(name, self._model.inputs, device_type, device_id, element_type)
        self.bound[name] = Bound(tuple(shape), int(buffer_ptr))

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        if buffer_ptr is None or shape is None:
            self._gpu.fault(f"output {name} is bound to no memory: each run would allocate it")
            raise AssertionError
        self._bind(name, self._model.outputs, device_type, device_id, element_type)
        self.bound[name] = Bound(tuple(shape), int(buffer_ptr))

    def _bind(self, name: str, known: Any, kind: str, device: int, element_type: Any) -> None:
        if name not in known:
            raise RuntimeError(f"no {name} among {sorted(known)}")
        if kind != "cuda" or device != 0:
            self._gpu.fault(f"{name} is bound to {kind}:{device}: each run would copy it")
        if np.dtype(element_type) != self._model.dtype(name):
            raise RuntimeError(f"{name} is {self._model.dtype(name)}, bound as {element_type}")


class CudaSession:
    """An InferenceSession whose nodes are all on the simulated device."""

    def __init__(self, gpu: SimulatedDriver, graph: bytes | str, options: dict[str, Any]) -> None:
        if error := gpu.fails_now("InferenceSession"):
            raise RuntimeError(error)
        if unknown := set(options) - OPTIONS:
            raise RuntimeError(f"unknown options of {CUDA}: {sorted(unknown)}")
        self._gpu = gpu
        self._model = Model(graph)
        self._options = {name: str(value) for name, value in options.items()}
        self._stream = int(self._options.get("user_compute_stream", "0"))
        self._name = Path(graph).stem.split(".")[0] if isinstance(graph, str) else "onnx"
        with gpu.lock:
            gpu.forbid_capture()
            handle = gpu.handle()
            gpu.stream(self._stream)
        self._token = (handle, handle + 1)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA: dict(self._options), CPU: {}}

    def get_inputs(self) -> list[Any]:
        return list(self._model.inputs.values())

    def get_outputs(self) -> list[Any]:
        return list(self._model.outputs.values())

    def io_binding(self) -> IOBinding:
        return IOBinding(self._gpu, self._model)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        with self._gpu.lock:
            if error := self._gpu.lost or self._gpu.fails_now("run_with_iobinding"):
                raise RuntimeError(f"CUDA failure: {error}")
            if missing := set(self._model.inputs) - set(iobinding.bound):
                raise RuntimeError(f"Missing Input: {sorted(missing)}")
            self._gpu.enqueue(self._stream, self._work(iobinding))
            if not _stays_asynchronous(run_options):
                self._gpu.calls["onnxruntime synchronize"] += 1
                self._gpu.synchronize(self._stream)

    def _work(self, iobinding: IOBinding) -> Any:
        bound = iobinding.bound
        (batch,) = {tensor.shape[0] for tensor in bound.values()}
        for name, tensor in bound.items():
            if tensor.shape != self._model.shape(name, batch):
                raise RuntimeError(f"Got invalid dimensions for {name}: {tensor.shape}")
        addresses = {name: tensor.address for name, tensor in bound.items()}
        label = f"execute {self._name}"
        return execution(self._gpu, label, self._model, addresses, batch, (self._token,))


def _stays_asynchronous(run_options: Any) -> bool:
    try:
        return run_options is not None and run_options.get_run_config_entry(_NO_WAIT) == "1"
    except RuntimeError:
        return False


class FakeOnnxRuntime(ModuleType):
    """The module."""

    def __init__(self, gpu: SimulatedDriver, *, loads: bool) -> None:
        super().__init__("onnxruntime")
        self._gpu = gpu
        self._loads = loads

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self, **_options: Any) -> None:
        """Does nothing."""

    def InferenceSession(  # noqa: N802 - ONNX Runtime's name
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
        **options: Any,
    ) -> Any:
        """Returns a session of the CUDA provider if it is requested and loads."""
        chosen: dict[str, Any] = dict(
            p if isinstance(p, tuple) else (p, {}) for p in providers or [CPU]
        )
        chosen |= dict(zip(chosen, provider_options or (), strict=False))
        if CUDA not in chosen or not self._loads:
            kept = [CPU]
            return onnxruntime.InferenceSession(path_or_bytes, sess_options, kept, **options)
        graph = path_or_bytes if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        return CudaSession(self._gpu, graph, chosen[CUDA])
