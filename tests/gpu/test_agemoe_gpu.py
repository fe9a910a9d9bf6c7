"""`AgeMoE` on a simulated GPU: each expert uses the right backend, with the same estimates."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import (
    AgeEstimate,
    AgeMoE,
    BackendError,
    DeadlineError,
    EngineMismatchError,
    FallbackWarning,
    GpuOptions,
    PredictionError,
)
from runtime.backends.gpu.tensorrt import TensorRTLane
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest, write_manifest
from tests.gpu.simulator import SimulatedGpu, simulated_gpu
from tests.gpu.small_experts import THREE, build_experts

pytestmark = pytest.mark.usefixtures("no_thread_left")
GRAY = np.full((9, 9, 3), 90, np.uint8)


def faces(count: int = 12) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (20, 14, 3), dtype=np.uint8) for _ in range(count)]


def without(expert: Expert, backend: str) -> Expert:
    kept = tuple(a for a in expert.artifacts if a.backend != backend)
    return replace(expert, artifacts=kept)


@contextmanager
def engines(
    folder: Path, *, without_engine: Sequence[str] = (), plan: Mapping[str, Any] | None = None,
    **machine: Any,
) -> Iterator[tuple[SimulatedGpu, Path]]:  # fmt: skip
    """Simulates a machine and builds an engines folder for it."""
    with simulated_gpu(**machine) as gpu:
        built = build_experts(gpu, folder, THREE, **(plan or {}))
        experts = {
            name: without(e, "tensorrt") if name in without_engine else e
            for name, e in built.experts.items()
        }
        write_manifest(folder, replace(read_manifest(folder), experts=experts))
        yield gpu, folder
        assert gpu.leaks() == []


def on_cpu(folder: Path, pictures: Sequence[NDArray[np.uint8]]) -> list[Any]:
    with AgeMoE(folder, device="cpu") as moe:
        return [moe.predict(picture) for picture in pictures]


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", "tensorrt"])
def test_tensorrt_is_preferred_and_equals_the_cpu(
    tmp_path: Path, library: str, device: str
) -> None:
    with engines(tmp_path, library=library) as (_, folder):
        serial = on_cpu(folder, faces())
        with AgeMoE(folder, device=device, gpu=GpuOptions(cuda=library)) as moe:
            assert all(b.startswith("tensorrt") for b in moe.backends.values())
            assert moe.predict(faces()) == serial
            assert moe.stats().experts["beta"].answers == 12


def test_an_expert_without_an_engine_runs_on_onnx_cuda(tmp_path: Path) -> None:
    with engines(tmp_path, without_engine=["beta"]) as (_, folder):
        serial = on_cpu(folder, faces())
        with AgeMoE(folder) as moe:
            assert moe.backends["beta"].startswith("onnx-cuda")
            assert moe.backends["alpha"].startswith("tensorrt")
            assert moe.predict(faces()) == serial
        with pytest.raises(BackendError, match="'beta' has no file for TensorRT"):
            AgeMoE(folder, device="tensorrt")


def test_the_second_gpu_is_used_on_request(tmp_path: Path) -> None:
    with engines(tmp_path, devices=2) as (_, folder), AgeMoE(folder, device="cuda:1") as moe:
        assert isinstance(moe.predict(GRAY), AgeEstimate)
    with (
        engines(tmp_path / "one") as (_, folder),
        pytest.raises(BackendError, match="no CUDA device 1"),
    ):
        AgeMoE(folder, device="cuda:1")


@pytest.mark.parametrize(
    ("machine", "used", "reason"),
    [
        ({"devices": 0}, "onnx-cpu", "no CUDA device 0"),
        ({"library": "none"}, "onnx-cpu", "CUDA cannot be used from Python"),
        ({"tensorrt": None}, "onnx-cuda", "tensorrt cannot be imported"),
        ({"tensorrt": None, "onnx_cuda": False}, "onnx-cpu", "did not put expert"),
    ],
    ids=["no GPU", "no CUDA library", "no TensorRT", "a provider that does not load"],
)
def test_auto_falls_back_with_a_warning_per_expert(
    tmp_path: Path, machine: dict[str, Any], used: str, reason: str
) -> None:
    with engines(tmp_path):
        pass  # built on a machine with everything
    with simulated_gpu(**machine) as gpu:
        with pytest.warns(FallbackWarning) as caught, AgeMoE(tmp_path) as moe:
            assert all(backend.startswith(used) for backend in moe.backends.values())
        messages = [str(w.message) for w in caught if w.category is FallbackWarning]
        assert [text.split("'")[1] for text in messages] == list(THREE)
        assert all("instead of TensorRT: " in text and reason in text for text in messages)
        with pytest.raises(BackendError, match=reason if used == "onnx-cpu" else "import"):
            AgeMoE(tmp_path, device="cuda" if used == "onnx-cpu" else "tensorrt")
        assert gpu.leaks() == []


@pytest.mark.parametrize(
    ("call", "old"),
    [
        ("createInferRuntime", "CUDA initialization failure with error: 35"),
        ("deserialize_cuda_engine", "Error Code 1: Cuda Runtime: driver version is insufficient"),
    ],
)
def test_a_tensorrt_that_does_not_start_causes_a_fallback(
    tmp_path: Path, call: str, old: str
) -> None:
    with engines(tmp_path) as (gpu, folder):
        for nth in (1, 2, 3, 4):
            gpu.fail(call, nth=nth, error=old)
        with pytest.warns(FallbackWarning, match=f"{old}.*nvidia-smi"):
            moe = AgeMoE(folder)
        with moe:
            assert all(backend.startswith("onnx-cuda") for backend in moe.backends.values())
        with pytest.raises(BackendError, match=old):
            AgeMoE(folder, device="tensorrt")


def test_missing_tensorrt_libraries_cause_a_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module = importlib.import_module

    def load(name: str) -> object:
        if name == "tensorrt":
            raise OSError("libnvinfer.so.11: cannot open shared object file")
        return import_module(name)

    with engines(tmp_path) as (_, folder):
        monkeypatch.setattr(importlib, "import_module", load)
        with pytest.warns(FallbackWarning, match=r"libnvinfer\.so\.11"), AgeMoE(folder) as moe:
            assert all(backend.startswith("onnx-cuda") for backend in moe.backends.values())


@pytest.mark.parametrize("graphs", [True, False])
def test_rtx_engines_run_their_final_kernels_from_the_start(
    tmp_path: Path, *, graphs: bool
) -> None:
    with engines(tmp_path, plan={"for_rtx": True}, tensorrt=None, rtx=True) as (gpu, folder):
        serial = on_cpu(folder, faces())
        with AgeMoE(folder, gpu=GpuOptions(graphs=graphs)) as moe:
            assert set(moe.backends.values()) == {"tensorrt_rtx"}
            assert moe.predict(faces()) == serial
        assert (gpu.calls["cuGraphLaunch"] > 0) == graphs


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"tensorrt": "10.16.1.11"}, r"built with TensorRT 11\.4\.0\.106, installed is 10\.16"),
        ({"compute_capability": (8, 6)}, r"for compute capability 9\.0, .* has 8\.6"),
    ],
)
def test_a_mismatched_engine_is_an_error_or_optionally_a_fallback(
    tmp_path: Path, machine: dict[str, Any], message: str
) -> None:
    with engines(tmp_path):
        pass
    with simulated_gpu(**machine) as gpu:
        for device in ("auto", "cuda", "tensorrt"):
            with pytest.raises(
                EngineMismatchError, match=f"{message}.*Rebuild: python -m runtime build"
            ):
                AgeMoE(tmp_path, device=device)
        with (
            pytest.warns(FallbackWarning, match=message),
            AgeMoE(tmp_path, gpu=GpuOptions(on_mismatch="fallback")) as moe,
        ):
            assert all(backend.startswith("onnx-cuda") for backend in moe.backends.values())
        with pytest.raises(EngineMismatchError, match=message):
            AgeMoE(tmp_path, device="tensorrt", gpu=GpuOptions(on_mismatch="fallback"))
        assert gpu.leaks() == []


@pytest.mark.parametrize("graphs", [True, False])
def test_concurrent_calls_equal_a_serial_run(tmp_path: Path, *, graphs: bool) -> None:
    with engines(tmp_path, without_engine=["gamma"], threaded=True) as (_, folder):
        pictures = faces()
        serial = on_cpu(folder, pictures)
        with AgeMoE(folder, gpu=GpuOptions(graphs=graphs, slots=2)) as moe:

            def caller(seed: int) -> bool:
                rng = np.random.default_rng(seed)
                for _ in range(4):
                    chosen = rng.integers(0, len(pictures), rng.integers(1, 10))
                    found = moe.predict([pictures[i] for i in chosen])
                    if found != [serial[i] for i in chosen]:
                        return False
                return True

            with ThreadPoolExecutor(4) as callers:
                assert all(callers.map(caller, range(4)))


def test_a_late_expert_is_left_out_and_its_slot_is_reused(tmp_path: Path) -> None:
    with (
        engines(tmp_path) as (gpu, folder),
        AgeMoE(folder, gpu=GpuOptions(graphs=False, slots=1)) as moe,
    ):
        whole = moe.predict(GRAY)
        gpu.hold("execute beta")
        late = moe.predict(GRAY, deadline_ms=300)
        assert late.missing == {"beta": "deadline of 300 ms passed"}
        with pytest.raises(DeadlineError):  # the only slot is still in use
            moe.predict(GRAY, deadline_ms=50)
        gpu.go()
        assert moe.predict(GRAY) == whole
        assert moe.stats().experts["beta"].late == 2


def test_after_the_loss_of_the_gpu_experts_on_the_cpu_continue(tmp_path: Path) -> None:
    with engines(tmp_path, onnx_cuda=False, without_engine=["gamma"]) as (gpu, folder):
        with pytest.warns(FallbackWarning, match="'gamma' runs on the CPU"):
            moe = AgeMoE(folder, gpu=GpuOptions(graphs=False))
        with moe:
            gpu.crash("execute alpha")
            for _ in range(3):
                estimate = moe.predict(GRAY)
                assert set(estimate.experts) == {"gamma"}
                assert set(estimate.missing) == {"alpha", "beta"}
            assert "The device is lost to this process" in estimate.missing["beta"]


def test_the_loss_of_the_gpu_with_all_experts_is_an_error(tmp_path: Path) -> None:
    with engines(tmp_path) as (gpu, folder), AgeMoE(folder, gpu=GpuOptions(graphs=False)) as moe:
        gpu.crash("execute alpha")
        for _ in range(3):
            with pytest.raises(PredictionError, match="CUDA failed while"):
                moe.predict(GRAY)


def test_a_failure_while_opening_frees_everything(tmp_path: Path) -> None:
    with engines(tmp_path) as (gpu, folder):
        gpu.fail("cuMemAlloc", nth=3, error="CUDA_ERROR_OUT_OF_MEMORY")
        with pytest.raises(BackendError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            AgeMoE(folder)
        assert gpu.leaks() == []


def test_several_instances_share_a_gpu(tmp_path: Path) -> None:
    with engines(tmp_path) as (_, folder):
        serial = on_cpu(folder, faces(3))
        with AgeMoE(folder) as one, AgeMoE(folder) as two:
            assert one.predict(faces(3)) == two.predict(faces(3)) == serial
            one.close()
            assert two.predict(faces(3)) == serial


def test_opening_one_during_a_capture_of_another_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a session of ONNX Runtime synchronizes the device, which invalidates a capture."""
    with (
        engines(tmp_path, without_engine=["gamma"]) as (gpu, folder),
        ThreadPoolExecutor(1) as other,
    ):
        opened: list[Future[AgeMoE]] = []
        enqueue = TensorRTLane._enqueue_directly

        def meanwhile(lane: TensorRTLane, bucket: int) -> None:
            capturing = any(stream.capture for stream in gpu.streams.by_handle.values())
            if capturing and not opened:
                opened.append(other.submit(AgeMoE, folder, gpu=GpuOptions(graphs=False)))
                wait(opened, timeout=0.3)  # it must wait for the capture
            enqueue(lane, bucket)

        monkeypatch.setattr(TensorRTLane, "_enqueue_directly", meanwhile)
        with AgeMoE(folder) as one, opened[0].result() as two:
            assert one.backends["alpha"] == "tensorrt"
            assert two.predict(faces(3)) == one.predict(faces(3))
