"""Kilobyte experts for the simulated GPU, as graphs and engines, and their expected outputs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from runtime.backends import Batch, ExpertVariant, Outputs, Views
from runtime.backends.gpu.cuda import Cuda
from runtime.backends.gpu.cuda_library import open_cuda
from runtime.backends.gpu.device import CudaDevice
from runtime.backends.gpu.lane import CudaExpert
from runtime.backends.gpu.onnx_cuda import OnnxCudaExpert
from runtime.backends.gpu.tensorrt import TensorRTExpert
from runtime.backends.onnx import OnnxCpuSession
from runtime.files import sha256_of
from runtime.manifest import ENGINE_BACKENDS, Artifact, EngineBinding, Expert, FileRecord
from runtime.manifest_file import read_manifest
from tests.gpu.simulator import SimulatedGpu, simulated_gpu
from tests.runtime.tiny_engines import GRID, Tiny, write_engines

LARGEST = 6
"""Not a power of two, so that the largest bucket is not one either."""
ALL_OUTPUTS = ("age_years", "age_probs", "gender_probs", "answer_mass")
THREE = {
    "alpha": Tiny(largest=LARGEST),
    "beta": Tiny(slope=40, offset=9, inputs=("face", "person"), outputs=ALL_OUTPUTS, largest=8),
    "gamma": Tiny(slope=70, offset=3, side=6, largest=LARGEST),
}
"""Two share the face input, one of them also has a person input, one has another size."""
NAMES = tuple(THREE)
MIXED = {"alpha": "tensorrt", "beta": "onnx", "gamma": "tensorrt"}
"""Backends of the three experts."""
ALLOCATING = ("cuMemAlloc", "cuMemHostAlloc", "cuEventCreate", "cuStreamCreate")
"""Calls of CUDA that allocate."""


@dataclass(frozen=True, slots=True)
class BuiltExperts:
    """An engines folder with its experts."""

    folder: Path
    experts: Mapping[str, Expert]

    def engine(self, name: str) -> Artifact:
        return next(a for a in self.experts[name].artifacts if a.backend in ENGINE_BACKENDS)

    def graph(self, name: str) -> Artifact:
        return next(a for a in self.experts[name].artifacts if a.backend == "onnx")

    def variant(self, name: str, artifact: Artifact | None = None) -> ExpertVariant:
        """Returns an expert with its engine, or with another artifact."""
        return ExpertVariant(name, self.experts[name], artifact or self.engine(name), self.folder)

    def views(self, count: int, seed: int = 0) -> Views:
        """Returns noise for all inputs of all experts."""
        rng = np.random.default_rng(seed)
        specs = dict.fromkeys(spec for expert in self.experts.values() for spec in expert.inputs)
        return {
            s: rng.integers(0, 256, (count, s.height, s.width, 3), dtype=np.uint8) for s in specs
        }

    def expected(self, name: str, views: Views) -> Outputs:
        """Returns an expert's outputs on the CPU, face by face."""
        expert = self.experts[name]
        session = OnnxCpuSession(self.variant(name, self.graph(name)), threads=1)
        try:
            inputs = {spec.name: views[spec] for spec in expert.inputs}
            return session.enqueue(inputs).result().outputs
        finally:
            session.close()


def build_experts(
    gpu: SimulatedGpu, folder: Path, tinies: Mapping[str, Tiny] = THREE, **plan: Any
) -> BuiltExperts:
    """Writes an engines folder of experts with a graph and an engine each.

    Args:
        gpu: for which the engines are built.
        folder: to write to.
        tinies: the experts.
        plan: options of `SimulatedGpu.plan`.
    """
    write_engines(folder, tinies)
    experts = read_manifest(folder).experts
    return BuiltExperts(
        folder, {n: _with_engine(gpu, folder, n, e, plan) for n, e in experts.items()}
    )


def _with_engine(
    gpu: SimulatedGpu, folder: Path, name: str, expert: Expert, plan: Mapping[str, Any]
) -> Expert:
    (artifact,) = expert.artifacts
    graph = folder / artifact.files[0].path
    _fix_widths(graph)
    largest = expert.profile.largest
    engine = graph.with_suffix(".engine")
    engine.write_bytes(gpu.plan(graph, **({"profile": (1, 2, largest), "name": name} | dict(plan))))
    rtx = bool(plan.get("for_rtx"))
    version, capability = (gpu.rtx, None) if rtx else (gpu.tensorrt, "9.0")
    binding = EngineBinding(version, capability, sha256_of(graph), {})
    backend = "tensorrt_rtx" if rtx else "tensorrt"
    built = replace(artifact, backend=backend, files=(_record(folder, engine),), binding=binding)
    return replace(expert, artifacts=(replace(artifact, files=(_record(folder, graph),)), built))


def _fix_widths(path: Path) -> None:
    """Fixes the width of `age_probs`, which TensorRT knows but these graphs leave open."""
    model = onnx.load(path)
    for output in model.graph.output:
        if output.name == "age_probs":
            output.type.tensor_type.shape.dim[1].dim_value = len(GRID)
    onnx.save(model, path)


def _record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(path.relative_to(folder).as_posix(), sha256_of(path), path.stat().st_size)


@contextlib.contextmanager
def experts_on(
    folder: Path,
    tinies: Mapping[str, Tiny] = THREE,
    *,
    plan: Mapping[str, Any] | None = None,
    **machine: Any,
) -> Iterator[tuple[SimulatedGpu, BuiltExperts, Cuda]]:
    """Simulates a machine, builds experts for it and opens its GPU, which must not leak."""
    with simulated_gpu(**machine) as gpu:
        built = build_experts(gpu, folder, tinies, **(plan or {}))
        cuda = open_cuda(0)
        try:
            yield gpu, built, cuda
        finally:
            cuda.close()
        assert gpu.leaks() == []


def open_expert(
    built: BuiltExperts, name: str, cuda: Cuda, backend: str = "tensorrt", *, graphs: bool = False
) -> TensorRTExpert | OnnxCudaExpert:
    """Opens one expert on a backend: `tensorrt` or `onnx`."""
    if backend == "tensorrt":
        return TensorRTExpert(built.variant(name), cuda, graphs=graphs)
    graph = built.variant(name, built.graph(name))
    return OnnxCudaExpert(graph, cuda, memory_limit_bytes=1 << 20)


def open_device(
    built: BuiltExperts,
    backends: Mapping[str, str] | str = "tensorrt",
    *,
    slots: int = 2,
    graphs: bool = False,
) -> CudaDevice:
    """Opens all experts on the GPU; `backends` is one for all, or one for each."""
    chosen = dict.fromkeys(built.experts, backends) if isinstance(backends, str) else backends
    opened: dict[str, CudaExpert] = {}
    with contextlib.ExitStack() as stack:
        cuda = open_cuda(0)
        stack.callback(cuda.close)
        for name in built.experts:
            opened[name] = open_expert(built, name, cuda, chosen[name], graphs=graphs)
            stack.callback(opened[name].close)
        device = CudaDevice(cuda, opened, slots=slots)
        stack.pop_all()
    return device


@contextlib.contextmanager
def device_on(
    folder: Path,
    backends: Mapping[str, str] | str = "tensorrt",
    *,
    seed: int = 0,
    library: str = "cuda-python",
    threaded: bool = False,
    slots: int = 2,
    graphs: bool = False,
    **plan: Any,
) -> Iterator[tuple[SimulatedGpu, BuiltExperts, CudaDevice]]:
    """Opens experts on a simulated GPU and verifies at the end that everything was freed."""
    with simulated_gpu(seed, library=library, threaded=threaded) as gpu:
        built = build_experts(gpu, folder, **plan)
        device = open_device(built, backends, slots=slots, graphs=graphs)
        try:
            yield gpu, built, device
        finally:
            gpu.go()
            device.close()
        assert gpu.leaks() == []


def outputs_of(
    batch: Batch, names: Sequence[str], timeout: float | None = 20.0
) -> dict[str, Outputs]:
    """Starts experts together and returns their outputs."""
    pending = {name: batch.enqueue(name) for name in names}
    return {name: started.result(timeout).outputs for name, started in pending.items()}


def assert_exact(built: BuiltExperts, views: Views, found: Mapping[str, Outputs]) -> None:
    """Asserts that outputs equal those of a serial run on the CPU, byte for byte."""
    for name, outputs in found.items():
        expected = built.expected(name, views)
        assert outputs.keys() == expected.keys()
        for key, array in outputs.items():
            _assert_same(array, np.asarray(expected[key]))


def _assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def error_of(call: Callable[[], object]) -> Exception:
    """Returns the exception that a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - returned to the test
        return error
    raise AssertionError("nothing was raised")


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds that another thread brings about."""
    for _ in range(20_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("the condition did not become true")
