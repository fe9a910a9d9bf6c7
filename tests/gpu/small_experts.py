"""Kilobyte experts for the simulated GPU, as graphs and as engines, and what they should say."""

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

from runtime.backends import Batch, Outputs, Views
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
"""No power of two, so that the largest bucket is not one either."""
ALL_OUTPUTS = ("age_years", "age_probs", "gender_probs", "answer_mass")
THREE = {
    "alpha": Tiny(largest=LARGEST),
    "beta": Tiny(slope=40, offset=9, inputs=("face", "person"), outputs=ALL_OUTPUTS, largest=8),
    "gamma": Tiny(slope=70, offset=3, side=6, largest=LARGEST),
}
"""Two share the face, one of them sees a person too, one has a size of its own."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """An engines folder."""

    folder: Path
    experts: Mapping[str, Expert]

    def engine(self, name: str) -> Artifact:
        return next(a for a in self.experts[name].artifacts if a.backend in ENGINE_BACKENDS)

    def graph(self, name: str) -> Artifact:
        return next(a for a in self.experts[name].artifacts if a.backend == "onnx")

    def views(self, count: int, seed: int = 0) -> Views:
        """Noise for all inputs of all experts."""
        rng = np.random.default_rng(seed)
        specs = dict.fromkeys(spec for expert in self.experts.values() for spec in expert.inputs)
        return {
            s: rng.integers(0, 256, (count, s.height, s.width, 3), dtype=np.uint8) for s in specs
        }

    def expected(self, name: str, views: Views) -> Outputs:
        """What an expert says on the CPU, face by face."""
        expert = self.experts[name]
        session = OnnxCpuSession(name, expert, self.graph(name), self.folder, threads=1)
        try:
            inputs = {spec.name: views[spec] for spec in expert.inputs}
            return session.enqueue(inputs).result().outputs
        finally:
            session.close()


def stock(
    gpu: SimulatedGpu, folder: Path, tinies: Mapping[str, Tiny] = THREE, **plan: Any
) -> Shelf:
    """Writes experts with a graph and an engine each.

    Args:
        gpu: plans are for it.
        folder: to write into.
        tinies: the experts.
        plan: what `SimulatedGpu.plan` shall do otherwise.
    """
    write_engines(folder, tinies)
    experts = read_manifest(folder).experts
    return Shelf(folder, {n: _with_engine(gpu, folder, n, e, plan) for n, e in experts.items()})


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
    made = replace(artifact, backend=backend, files=(_record(folder, engine),), binding=binding)
    return replace(expert, artifacts=(replace(artifact, files=(_record(folder, graph),)), made))


def _fix_widths(path: Path) -> None:
    """TensorRT knows how wide `age_probs` is; these graphs leave it open."""
    model = onnx.load(path)
    for output in model.graph.output:
        if output.name == "age_probs":
            output.type.tensor_type.shape.dim[1].dim_value = len(GRID)
    onnx.save(model, path)


def _record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(path.relative_to(folder).as_posix(), sha256_of(path), path.stat().st_size)


def open_expert(
    shelf: Shelf, name: str, cuda: Cuda, backend: str = "tensorrt", *, graphs: bool = False
) -> TensorRTExpert | OnnxCudaExpert:
    """One expert on a backend: `tensorrt` or `onnx`."""
    expert, folder = shelf.experts[name], shelf.folder
    if backend == "tensorrt":
        return TensorRTExpert(name, expert, shelf.engine(name), folder, cuda, graphs=graphs)
    limit = 1 << 20
    return OnnxCudaExpert(name, expert, shelf.graph(name), folder, cuda, memory_limit_bytes=limit)


def open_device(
    shelf: Shelf,
    backends: Mapping[str, str] | str = "tensorrt",
    *,
    lanes: int = 2,
    graphs: bool = False,
) -> CudaDevice:
    """All experts of a shelf on the GPU; `backends` is one for all or one for each."""
    chosen = dict.fromkeys(shelf.experts, backends) if isinstance(backends, str) else backends
    inputs = {name: expert.inputs for name, expert in shelf.experts.items()}
    largest = min(expert.profile.largest for expert in shelf.experts.values())
    opened: dict[str, CudaExpert] = {}
    with contextlib.ExitStack() as stack:
        cuda = open_cuda(0)
        stack.callback(cuda.close)
        for name in shelf.experts:
            opened[name] = open_expert(shelf, name, cuda, chosen[name], graphs=graphs)
            stack.callback(opened[name].close)
        device = CudaDevice(cuda, opened, inputs, largest, lanes=lanes)
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
    lanes: int = 2,
    graphs: bool = False,
    **plan: Any,
) -> Iterator[tuple[SimulatedGpu, Shelf, CudaDevice]]:
    """A simulated GPU with experts; at the end all must have been freed."""
    with simulated_gpu(seed, library=library, threaded=threaded) as gpu:
        shelf = stock(gpu, folder, **plan)
        device = open_device(shelf, backends, lanes=lanes, graphs=graphs)
        try:
            yield gpu, shelf, device
        finally:
            gpu.go()
            device.close()
        assert gpu.leaks() == []


def answers(batch: Batch, names: Sequence[str], timeout: float | None = 20.0) -> dict[str, Outputs]:
    """Starts experts together and waits for them."""
    pending = {name: batch.enqueue(name) for name in names}
    return {name: started.result(timeout).outputs for name, started in pending.items()}


def assert_right(shelf: Shelf, views: Views, found: Mapping[str, Outputs]) -> None:
    """The answers are, byte for byte, those of a serial run on the CPU."""
    for name, outputs in found.items():
        expected = shelf.expected(name, views)
        assert outputs.keys() == expected.keys()
        for key, array in outputs.items():
            _assert_same(array, np.asarray(expected[key]))


def _assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def error_of(call: Callable[[], object]) -> Exception:
    """What a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error
    raise AssertionError("nothing was raised")


def until(happened: Callable[[], bool]) -> None:
    """Waits for what another thread does."""
    for _ in range(20_000):
        if happened():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")
