"""A simulated GPU: CUDA, TensorRT and ONNX Runtime's CUDA provider, computed on the CPU.

    with simulated_gpu(seed=7) as gpu:
        plan = gpu.plan("vgg16.onnx", profile=(1, 4, 8), name="vgg16")
        …                           # the runtime uses `tensorrt` and `cuda.bindings`
        assert gpu.leaks() == []

Only the hardware is simulated: work is queued in streams, runs late and in an order that depends on
the seed, copies bytes, and computes with ONNX Runtime, one row of a batch at a time. Violations of
CUDA's rules, even those that CUDA does not always detect, end the test; the modules `fake_…` list
the rules that each enforces. A violation raises `RuleBrokenError` at once and again at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.gpu.fake_cuda_bindings import FakeDriver
from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.fake_onnxruntime import FakeOnnxRuntime
from tests.gpu.fake_plans import Profile, plan_bytes
from tests.gpu.fake_pycuda import FakePyCuda
from tests.gpu.fake_pycuda_errors import driver_library
from tests.gpu.fake_streams import RuleBrokenError
from tests.gpu.fake_tensorrt import FakeTensorRt

__all__ = ["RuleBrokenError", "SimulatedGpu", "simulated_gpu"]

cuda_python: Callable[[SimulatedDriver], ModuleType] = FakeDriver
"""Creates `cuda.bindings.driver`; `driver_library` replaces it by the real one."""


class SimulatedGpu(SimulatedDriver):
    """The simulated device, with the controls for tests."""

    tensorrt = "11.4.0.106"
    """Version of the fake TensorRT, and of plans by default."""
    rtx = "1.7.1.116"
    """Version of the fake TensorRT for RTX."""

    def plan(
        self,
        model: Path | str | bytes,
        *,
        profile: tuple[int, int, int] | Profile = (1, 4, 8),
        name: str = "engine",
        version: str | None = None,
        compute_capability: str | None = None,
        device_memory_bytes: int = 4096,
        aux_streams: int = 0,
        for_rtx: bool = False,
    ) -> bytes:
        """Returns a serialized engine for the fake TensorRT.

        Args:
            model: an ONNX file or its bytes, without external data.
            profile: smallest, optimal and largest batch, or these three shapes by input.
            name: in the labels of its work.
            version: of the TensorRT that built it; by default the simulated one.
            compute_capability: of the GPU it was built on; by default the simulated one.
            device_memory_bytes: activation memory of every execution context.
            aux_streams: number of auxiliary streams.
            for_rtx: built by TensorRT for RTX, for several kinds of GPU.
        """
        capability = compute_capability or "{}.{}".format(*self.capability)
        return plan_bytes(
            model if isinstance(model, bytes) else Path(model).read_bytes(),
            profile=profile,
            name=name,
            version=version or (self.rtx if for_rtx else self.tensorrt),
            compute_capability=None if for_rtx else capability,
            device_memory_bytes=device_memory_bytes,
            aux_streams=aux_streams,
        )

    def fail(self, call: str, *, nth: int = 1, error: str = "CUDA_ERROR_UNKNOWN") -> None:
        """Makes the nth call from now fail, by CUDA's name: `cuMemcpyHtoDAsync`.

        Sticky errors also lose the device. Calls of libraries: `execute_async_v3` (returns False),
        `deserialize_cuda_engine` and `create_execution_context` (None), `createInferRuntime`,
        `run_with_iobinding` and `InferenceSession` (raise `error`).
        """
        with self.lock:
            self.fail_at(call, nth, error)

    def crash(self, label: str, error: str = "CUDA_ERROR_ILLEGAL_ADDRESS") -> None:
        """Loses the device when the first work whose label contains the text runs.

        Labels: `upload`, `download`, `record …`, `wait for …`, `execute NAME`, `graph of …`.
        """
        with self.lock:
            self.crash_at(label, error)

    def hold(self, label: str = "") -> None:
        """Holds work whose label contains the text; without one, all work."""
        with self.lock:
            self.streams.held.add(label)

    def go(self, label: str | None = None) -> None:
        """Ends one hold, or all."""
        with self.lock:
            self.streams.held -= self.streams.held if label is None else {label}

    def drain(self) -> None:
        """Runs all work that can run."""
        while self.step():
            pass

    @property
    def waiting(self) -> list[str]:
        """Labels of all pending work."""
        with self.lock:
            return [work.label for work in self.streams.pending()]


@contextlib.contextmanager
def simulated_gpu(
    seed: int = 0,
    *,
    library: str = "cuda-python",
    devices: int = 1,
    threaded: bool = False,
    memory_bytes: int = 1 << 30,
    compute_capability: tuple[int, int] = (9, 0),
    tensorrt: str | None = SimulatedGpu.tensorrt,
    rtx: bool = False,
    onnx_cuda: bool = True,
) -> Iterator[SimulatedGpu]:
    """Replaces the real modules by the fakes.

    Args:
        seed: determines when and in which order work runs.
        library: the installed one, `cuda-python`, `pycuda`, `both` or `none`.
        devices: number of GPUs; 0 means a driver without a GPU.
        threaded: run work in a separate thread, not only during calls of the host.
        memory_bytes: of the device.
        compute_capability: of the device.
        tensorrt: version of the fake TensorRT; None if it is not installed.
        rtx: TensorRT for RTX is installed.
        onnx_cuda: ONNX Runtime's CUDA provider loads; otherwise it falls back silently.

    Raises:
        RuleBrokenError: at the end, if any rule was violated.
    """
    gpu = SimulatedGpu(
        seed, devices=devices, memory_bytes=memory_bytes, capability=compute_capability
    )
    gpu.tensorrt = tensorrt or SimulatedGpu.tensorrt
    with contextlib.ExitStack() as stack:
        modules = _modules(gpu, library, tensorrt, rtx=rtx, onnx_cuda=onnx_cuda)
        stack.enter_context(_installed(modules))
        stack.enter_context(_driver_texts())
        if threaded:
            stack.enter_context(_running(gpu, seed))
        yield gpu
    if gpu.faults:
        raise RuleBrokenError("; ".join(gpu.faults))


def _modules(
    gpu: SimulatedGpu, library: str, tensorrt: str | None, *, rtx: bool, onnx_cuda: bool
) -> Mapping[str, ModuleType | None]:
    driver = cuda_python(gpu) if library in ("cuda-python", "both") else None
    pycuda = FakePyCuda(gpu) if library in ("pycuda", "both") else None
    return {
        "cuda.bindings.driver": driver,
        "pycuda": pycuda and pycuda.package,
        "pycuda.driver": pycuda,
        "tensorrt": FakeTensorRt(gpu, tensorrt) if tensorrt else None,
        "tensorrt_rtx": FakeTensorRt(gpu, gpu.rtx, "tensorrt_rtx") if rtx else None,
        "onnxruntime": FakeOnnxRuntime(gpu, loads=onnx_cuda),
    }


@contextlib.contextmanager
def _installed(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Replaces modules; None makes their import fail."""
    before = {name: sys.modules.get(name) for name in modules}
    parents = {name: _parent(name) for name in modules}
    attributes = {name: vars(parent).get(_leaf(name)) for name, parent in parents.items() if parent}
    for name, module in modules.items():
        if module is not None:
            module.__spec__ = ModuleSpec(name, None)
        _put(name, module, parents[name], absent=None)
    try:
        yield
    finally:
        for name in modules:
            _restore(name, before[name], parents[name], attributes.get(name))


def _put(
    name: str, module: ModuleType | None, parent: ModuleType | None, *, absent: ModuleType | None
) -> None:
    sys.modules[name] = module if module is not None else absent  # type: ignore[assignment]
    if parent is not None and module is not None:
        setattr(parent, _leaf(name), module)
    elif parent is not None:
        vars(parent).pop(_leaf(name), None)


def _restore(
    name: str, module: ModuleType | None, parent: ModuleType | None, attribute: Any
) -> None:
    _put(name, attribute, parent, absent=None)
    if module is None:
        del sys.modules[name]
    else:
        sys.modules[name] = module


def _parent(name: str) -> ModuleType | None:
    package = name.rpartition(".")[0]
    if not package or package == "pycuda":
        return None
    return importlib.import_module(package)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


@contextlib.contextmanager
def _driver_texts() -> Iterator[None]:
    """Replaces the driver's library, in which `cuda_pycuda` looks up the names of errors."""
    load = ctypes.CDLL
    ctypes.CDLL = lambda name, *args, **options: (  # type: ignore[assignment, misc]
        driver_library() if name == "libcuda.so.1" else load(name, *args, **options)
    )
    try:
        yield
    finally:
        ctypes.CDLL = load  # type: ignore[misc]


@contextlib.contextmanager
def _running(gpu: SimulatedGpu, seed: int) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=gpu.work_forever, args=(stop, seed), name="simulated-gpu")
    gpu.threaded = True
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        gpu.threaded = False
