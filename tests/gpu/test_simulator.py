"""The simulated device enforces CUDA's rules: each has a test that violates it."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from runtime.backends.gpu.cuda import Cuda, DeviceMemory, HostMemory, Stream
from runtime.backends.gpu.cuda_library import open_cuda
from runtime.errors import CudaError
from tests.gpu.simulator import RuleBrokenError, SimulatedGpu, simulated_gpu

SIZE = 64
Buffers = tuple[Stream, HostMemory, DeviceMemory]


@pytest.fixture
def gpu() -> Iterator[SimulatedGpu]:
    """A device on which violations are expected."""
    with simulated_gpu(seed=5) as simulated:
        yield simulated
        simulated.faults.clear()


@pytest.fixture
def cuda(gpu: SimulatedGpu) -> Iterator[Cuda]:
    del gpu
    opened = open_cuda(0)
    with opened.current():
        yield opened


@pytest.fixture
def buffers(cuda: Cuda) -> Buffers:
    return cuda.stream(), cuda.host_memory(SIZE), cuda.device_memory(SIZE)


def test_a_violation_is_raised_again_at_the_end() -> None:
    def ignore_violation() -> None:
        with simulated_gpu(), contextlib.suppress(RuleBrokenError):
            cuda = open_cuda(0)
            with cuda.current():
                cuda.synchronize(Stream(0, 0))

    with pytest.raises(RuleBrokenError, match="default stream"):
        ignore_violation()


def test_the_default_stream(cuda: Cuda) -> None:
    with pytest.raises(RuleBrokenError, match="default stream"):
        cuda.record(cuda.event(), Stream(0, 0))


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[str]:
        with simulated_gpu(seed) as gpu:
            cuda = open_cuda(0)
            seen: list[str] = []
            gpu.hold()
            with cuda.current():
                for _ in range(2):
                    stream, event = cuda.stream(), cuda.event()
                    for _ in range(4):
                        cuda.record(event, stream)
                gpu.go()
                gpu.streams.before = lambda work: seen.append(work.label)
                gpu.drain()
            return seen

    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in range(8)}) > 2


def test_pinned_memory_changed_too_early(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    gpu.hold()
    cuda.upload(memory, host, SIZE, stream)
    host.array[:] = 1
    gpu.go()
    gpu.drain()
    assert gpu.faults == ["pinned memory changed before its upload ran"]
    with pytest.raises(CudaError) as caught:
        cuda.synchronize(stream)
    assert caught.value.lost


def test_a_download_read_too_early_is_nan(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    host.array[:] = 0
    cuda.upload(memory, host, SIZE, stream)
    cuda.synchronize(stream)
    gpu.hold("download")
    cuda.download(host, memory, SIZE, stream)
    assert np.isnan(host.array.view(np.float32)).all()
    gpu.go("download")
    cuda.synchronize(stream)
    assert not host.array.any()


def test_uninitialized_memory_is_nan(cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    cuda.download(host, memory, SIZE, stream)
    cuda.synchronize(stream)
    assert np.isnan(host.array.view(np.float32)).all()


def test_unordered_streams_race(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    other, target = cuda.stream(), cuda.host_memory(SIZE)
    gpu.hold()
    cuda.upload(memory, host, SIZE, stream)
    with pytest.raises(RuleBrokenError, match="download races with upload"):
        cuda.download(target, memory, SIZE, other)


def test_events_order_streams(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    middle, last = cuda.stream(), cuda.stream()
    target, first, second = cuda.host_memory(SIZE), cuda.event(), cuda.event()
    host.array[:] = 3
    gpu.hold()
    cuda.upload(memory, host, SIZE, stream)
    cuda.record(first, stream)
    cuda.wait_for(first, middle)
    cuda.record(second, middle)
    cuda.wait_for(second, last)
    cuda.download(target, memory, SIZE, last)
    gpu.go()
    cuda.synchronize(last)
    assert (target.array == 3).all()


def test_an_early_event_orders_nothing(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    other, early = cuda.stream(), cuda.event()
    gpu.hold()
    cuda.record(early, stream)
    cuda.upload(memory, host, SIZE, stream)
    cuda.wait_for(early, other)
    with pytest.raises(RuleBrokenError, match="races"):
        cuda.download(cuda.host_memory(SIZE), memory, SIZE, other)


def test_copies_stay_within_live_memory(cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    with pytest.raises(CudaError, match="INVALID_VALUE"):
        cuda.upload(memory, host, SIZE + 1, stream)
    cuda.free(memory)
    with pytest.raises(CudaError, match="INVALID_VALUE"):
        cuda.upload(memory, host, SIZE, stream)
    with pytest.raises(CudaError, match="INVALID_VALUE"):
        cuda.free(memory)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_resources_in_use_are_not_freed(
    gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers, which: int
) -> None:
    stream, host, memory = buffers
    gpu.hold()
    cuda.upload(memory, host, SIZE, stream)
    with pytest.raises(RuleBrokenError, match=r"still uses|has work left"):
        cuda.free(buffers[which])


def test_a_pending_event_is_not_freed(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    event = cuda.event()
    gpu.hold()
    cuda.record(event, buffers[0])
    with pytest.raises(RuleBrokenError, match="still pending"):
        cuda.free(event)


def test_memory_runs_out() -> None:
    with simulated_gpu(memory_bytes=100):
        cuda = open_cuda(0)
        with cuda.current():
            cuda.device_memory(60)
            with pytest.raises(CudaError, match="OUT_OF_MEMORY"):
                cuda.device_memory(41)


def test_leaks_are_listed(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    cuda.event()
    assert gpu.leaks() == [
        "1 stream(s)",
        "1 event(s)",
        "1 retained primary context(s)",
        "pinned memory of 64 bytes",
        "device memory of 64 bytes",
    ]
    cuda.free(*buffers)
    assert "1 stream(s)" not in gpu.leaks()


def test_injected_failures_occur_at_the_nth_call(gpu: SimulatedGpu, cuda: Cuda) -> None:
    gpu.fail("cuStreamCreate", nth=2, error="CUDA_ERROR_OUT_OF_MEMORY")
    cuda.stream()
    with pytest.raises(CudaError, match="OUT_OF_MEMORY"):
        cuda.stream()
    cuda.stream()


def test_a_crash_is_seen_by_later_calls(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    gpu.crash("upload")
    gpu.hold()
    cuda.upload(memory, host, SIZE, stream)
    gpu.go()
    gpu.drain()
    for _ in range(2):
        with pytest.raises(CudaError, match="ILLEGAL_ADDRESS") as caught:
            cuda.query(cuda.event())
        assert caught.value.lost


def test_waiting_for_held_work_ends(gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    gpu.hold("upload")
    cuda.upload(memory, host, SIZE, stream)
    assert gpu.waiting == ["upload"]
    with pytest.raises(RuleBrokenError, match="wait forever"):
        cuda.synchronize(stream)


@pytest.mark.parametrize("doing", ["synchronize", "allocate", "query", "outside event"])
def test_captures_are_invalidated(
    gpu: SimulatedGpu, cuda: Cuda, buffers: Buffers, doing: str
) -> None:
    stream, _host, _memory = buffers
    event = cuda.event()
    gpu.hold()
    cuda.record(event, cuda.stream())
    cuda.begin_capture(stream)
    calls: dict[str, Callable[[], object]] = {
        "synchronize": lambda: cuda.synchronize(stream),
        "allocate": lambda: cuda.host_memory(1),
        "query": lambda: cuda.query(event),
        "outside event": lambda: cuda.wait_for(event, stream),
    }
    with pytest.raises(CudaError, match=r"CAPTURE_(UNSUPPORTED|ISOLATION)"):
        calls[doing]()
    with pytest.raises(CudaError, match="CAPTURE_INVALIDATED"):
        cuda.end_capture(stream)


def test_captured_work_does_not_run(cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    event = cuda.event()
    cuda.begin_capture(stream)
    host.array[:] = 1
    cuda.upload(memory, host, SIZE, stream)
    cuda.record(event, stream)
    cuda.wait_for(event, stream)
    graph = cuda.end_capture(stream)
    with pytest.raises(CudaError, match="CAPTURED_EVENT"):
        cuda.query(event)
    cuda.download(host, memory, SIZE, stream)
    cuda.synchronize(stream)
    assert (host.array == 0xFF).all()
    cuda.free(graph)


def test_a_graph_of_freed_memory(cuda: Cuda, buffers: Buffers) -> None:
    stream, host, memory = buffers
    cuda.begin_capture(stream)
    cuda.upload(memory, host, SIZE, stream)
    graph = cuda.end_capture(stream)
    cuda.free(memory)
    with pytest.raises(RuleBrokenError, match="memory that was freed"):
        cuda.launch(graph, stream)


def test_a_capture_ends_in_its_thread(cuda: Cuda, buffers: Buffers) -> None:
    cuda.begin_capture(buffers[0])
    errors: list[str] = []

    def end() -> None:
        with cuda.current():
            try:
                cuda.end_capture(buffers[0])
            except CudaError as error:
                errors.append(error.name)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert errors == ["CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"]


def test_pycuda_does_not_clean_up_in_another_thread() -> None:
    def drop_elsewhere() -> None:
        with simulated_gpu(library="pycuda"):
            cuda = open_cuda(0)
            with cuda.current():
                kept = [cuda.event()]
            thread = threading.Thread(target=kept.clear)
            thread.start()
            thread.join()

    with pytest.raises(RuleBrokenError, match="out-of-thread"):
        drop_elsewhere()


def test_the_modules_are_restored() -> None:
    names = ("cuda.bindings.driver", "pycuda", "tensorrt", "onnxruntime")
    before = [sys.modules.get(name) for name in names]
    with simulated_gpu(library="pycuda"):
        with pytest.raises(ImportError):
            importlib.import_module("cuda.bindings.driver")
        assert [sys.modules.get(name) for name in names] != before
    assert [sys.modules.get(name) for name in names] == before
    assert vars(importlib.import_module("cuda.bindings"))["driver"] is before[0]
