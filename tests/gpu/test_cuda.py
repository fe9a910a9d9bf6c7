"""Both implementations of `Cuda`, on the simulated device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.gpu.cuda import Cuda, Event, Stream
from runtime.backends.gpu.cuda_library import open_cuda
from runtime.errors import BackendError, CudaError
from tests.gpu.simulator import SimulatedGpu, simulated_gpu

LIBRARIES = ("cuda-python", "pycuda")
SIZE = 1000


@pytest.fixture(params=LIBRARIES)
def gpu(request: pytest.FixtureRequest) -> Iterator[SimulatedGpu]:
    """A device that must not leak."""
    with simulated_gpu(seed=1, library=request.param) as simulated:
        yield simulated
        assert simulated.leaks() == []


@pytest.fixture
def cuda(gpu: SimulatedGpu) -> Iterator[Cuda]:
    del gpu
    opened = open_cuda(0)
    with opened.current():
        yield opened
    opened.close()


def wait(cuda: Cuda, event: Event) -> None:
    for _ in range(10_000):
        if cuda.query(event):
            return
    pytest.fail("the event is never reached")


def round_trip(cuda: Cuda, data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bytes:
    """Uploads in one stream and downloads in another."""
    up, down, uploaded, done = cuda.stream(), cuda.stream(), cuda.event(), cuda.event()
    source, target = cuda.host_memory(data.size), cuda.host_memory(data.size)
    memory = cuda.device_memory(data.size)
    source.array[:] = data
    cuda.upload(memory, source, data.size, up)
    cuda.record(uploaded, up)
    cuda.wait_for(uploaded, down)
    cuda.download(target, memory, data.size, down)
    cuda.record(done, down)
    wait(cuda, done)
    got = target.array.tobytes()
    cuda.free(up, down, uploaded, done, source, target, memory)
    return got


@pytest.mark.parametrize("library", LIBRARIES)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 3000))
def test_a_round_trip_preserves_the_bytes(library: str, seed: int, size: int) -> None:
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    with simulated_gpu(seed, library=library) as gpu:
        cuda = open_cuda(0)
        with cuda.current():
            assert round_trip(cuda, data) == data.tobytes()
        cuda.close()
        assert gpu.leaks() == []
        assert gpu.calls["cuStreamSynchronize"] == 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_device_with_its_own_thread(library: str) -> None:
    with simulated_gpu(library=library, threaded=True):
        cuda = open_cuda(0)
        with cuda.current():
            stream = cuda.stream()
            source, memory = cuda.host_memory(SIZE), cuda.device_memory(SIZE)
            source.array[:] = 1
            cuda.upload(memory, source, SIZE, stream)
            cuda.synchronize(stream)
            cuda.free(stream, source, memory)
        cuda.close()


def test_only_the_first_bytes_are_copied(gpu: SimulatedGpu, cuda: Cuda) -> None:
    stream, memory = cuda.stream(), cuda.device_memory(SIZE)
    source, target = cuda.host_memory(SIZE), cuda.host_memory(SIZE)
    source.array[:], target.array[:] = 7, 3
    cuda.upload(memory, source, 10, stream)
    cuda.download(target, memory, 10, stream)
    cuda.synchronize(stream)
    assert target.array[:10].tolist() == [7] * 10
    assert (target.array[10:] == 3).all()
    assert gpu.leaks()
    cuda.free(stream, memory, source, target)


def test_an_event_is_complete_when_the_stream_reaches_it(gpu: SimulatedGpu, cuda: Cuda) -> None:
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    assert cuda.query(start)
    gpu.hold()
    cuda.record(start, stream)
    cuda.record(end, stream)
    assert not cuda.query(start)
    with pytest.raises(CudaError, match="NOT_READY"):
        cuda.elapsed_seconds(start, end)
    gpu.go()
    wait(cuda, end)
    assert 0 < cuda.elapsed_seconds(start, end) < 1e-3
    cuda.free(stream, start, end)


def test_device_properties(gpu: SimulatedGpu, cuda: Cuda) -> None:
    device = cuda.properties
    assert (device.ordinal, device.name, device.driver) == (0, "Simulated GPU 0", "13.0")
    assert device.compute_capability == "9.0"
    memory = cuda.device_memory(SIZE)
    assert cuda.free_bytes() == device.total_bytes - SIZE
    cuda.free(memory)
    assert gpu.calls["cuDevicePrimaryCtxRetain"] == 1


def test_the_former_context_is_restored(gpu: SimulatedGpu) -> None:
    cuda = open_cuda(0)
    other = gpu.retain(0)
    gpu.push(other)
    with pytest.raises(KeyError), cuda.current():  # noqa: PT012 - nothing else raises it
        outer = gpu.current_context()
        with cuda.current():
            assert gpu.current_context() == outer
        assert gpu.current_context() == outer != 0
        raise KeyError
    assert gpu.current_contexts == [other]
    cuda.close()
    assert gpu.current_contexts == [other]
    gpu.pop()
    gpu.release(0)


def test_a_thread_without_the_context_is_rejected(cuda: Cuda) -> None:
    errors: list[CudaError] = []

    def use() -> None:
        try:
            cuda.device_memory(SIZE)
        except CudaError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors
    assert not errors[0].lost


def test_an_error_names_the_operation_and_the_cuda_error(gpu: SimulatedGpu, cuda: Cuda) -> None:
    gpu.fail("cuMemAlloc", error="CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(CudaError) as caught:
        cuda.device_memory(123_456)
    message = "allocating 123,456 bytes of device memory: CUDA_ERROR_OUT_OF_MEMORY (out of memory"
    assert message in str(caught.value)
    assert not caught.value.lost
    assert round_trip(cuda, np.arange(9, dtype=np.uint8)) == bytes(range(9))


CALLS: dict[str, Callable[[Cuda, Stream, Event], object]] = {
    "cuStreamCreate": lambda cuda, _s, _e: cuda.stream(),
    "cuEventCreate": lambda cuda, _s, _e: cuda.event(),
    "cuMemHostAlloc": lambda cuda, _s, _e: cuda.host_memory(1),
    "cuMemAlloc": lambda cuda, _s, _e: cuda.device_memory(1),
    "cuMemGetInfo": lambda cuda, _s, _e: cuda.free_bytes(),
    "cuEventRecord": lambda cuda, s, e: cuda.record(e, s),
    "cuStreamWaitEvent": lambda cuda, s, e: cuda.wait_for(e, s),
    "cuEventQuery": lambda cuda, _s, e: cuda.query(e),
    "cuStreamSynchronize": lambda cuda, s, _e: cuda.synchronize(s),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_checked_and_reports_a_lost_device(
    gpu: SimulatedGpu, cuda: Cuda, call: str
) -> None:
    stream, event = cuda.stream(), cuda.event()
    gpu.fail(call, error="CUDA_ERROR_INVALID_VALUE")
    with pytest.raises(CudaError, match="INVALID_VALUE") as caught:
        CALLS[call](cuda, stream, event)
    assert not caught.value.lost
    gpu.fail(call, error="CUDA_ERROR_LAUNCH_FAILED")
    for _ in range(2):
        with pytest.raises(CudaError, match="restart it") as caught:
            CALLS[call](cuda, stream, event)
        assert caught.value.lost
    _free_on_a_lost_device(cuda, stream, event)


def _free_on_a_lost_device(cuda: Cuda, stream: Stream, event: Event) -> None:
    """Frees everything; PyCUDA's destructors report no error."""
    if cuda.library == "pycuda":
        cuda.free(stream, event)
        return
    with pytest.raises(CudaError) as caught:
        cuda.free(stream, event)
    assert caught.value.lost


@pytest.mark.parametrize("from_thread", [False, True])
def test_closing_releases_the_context_once(gpu: SimulatedGpu, *, from_thread: bool) -> None:
    cuda = open_cuda(0)
    with cuda.current():
        pass
    if from_thread:
        thread = threading.Thread(target=cuda.close)
        thread.start()
        thread.join()
    cuda.close()
    assert gpu.leaks() == []
    assert gpu.calls["cuDevicePrimaryCtxRelease"] == 1


@pytest.fixture
def python_cuda() -> Iterator[tuple[SimulatedGpu, Cuda, Stream]]:
    with simulated_gpu(seed=3) as gpu:
        cuda = open_cuda(0)
        with cuda.current():
            stream = cuda.stream()
            yield gpu, cuda, stream
            cuda.free(stream)
        cuda.close()
        assert gpu.leaks() == []


def test_a_graph_replays_the_captured_work(
    python_cuda: tuple[SimulatedGpu, Cuda, Stream],
) -> None:
    _gpu, cuda, stream = python_cuda
    memory, host = cuda.device_memory(SIZE), cuda.host_memory(SIZE)
    host.array[:] = 1
    cuda.begin_capture(stream)
    cuda.upload(memory, host, SIZE, stream)
    graph = cuda.end_capture(stream)
    for value in (5, 9):
        host.array[:] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        got = cuda.host_memory(SIZE)
        cuda.download(got, memory, SIZE, stream)
        cuda.synchronize(stream)
        assert (got.array == value).all()
        cuda.free(got)
    cuda.free(graph, memory, host)


def test_an_invalidated_capture_leaves_the_stream_usable(
    python_cuda: tuple[SimulatedGpu, Cuda, Stream],
) -> None:
    _gpu, cuda, stream = python_cuda
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="CAPTURE_UNSUPPORTED"):
        cuda.device_memory(SIZE)
    with pytest.raises(CudaError, match="ending a graph: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        cuda.end_capture(stream)
    cuda.synchronize(stream)


def test_a_graph_that_cannot_be_instantiated_is_freed(
    python_cuda: tuple[SimulatedGpu, Cuda, Stream],
) -> None:
    gpu, cuda, stream = python_cuda
    gpu.fail("cuGraphInstantiate", error="CUDA_ERROR_OUT_OF_MEMORY")
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="instantiating a graph"):
        cuda.end_capture(stream)


def test_freeing_continues_after_an_error(python_cuda: tuple[SimulatedGpu, Cuda, Stream]) -> None:
    _gpu, cuda, _stream = python_cuda
    event, memory = cuda.event(), cuda.device_memory(SIZE)
    cuda.free(memory)
    with pytest.raises(CudaError, match="freeing device memory"):
        cuda.free(memory, event)


def test_on_a_lost_device_everything_is_freed() -> None:
    with simulated_gpu() as gpu:
        cuda = open_cuda(0)
        with cuda.current():
            stream, event = cuda.stream(), cuda.event()
            cuda.begin_capture(stream)
            cuda.record(event, stream)
            graph = cuda.end_capture(stream)
            pinned, memory = cuda.host_memory(SIZE), cuda.device_memory(SIZE)
            gpu.fail("cuEventQuery", error="CUDA_ERROR_ILLEGAL_ADDRESS")
            with pytest.raises(CudaError):
                cuda.query(event)
            with pytest.raises(CudaError, match="freeing a graph"):
                cuda.free(graph, pinned, memory, event, stream)
        cuda.close()
        assert gpu.leaks() == []


def test_pycuda_has_no_graphs() -> None:
    with simulated_gpu(library="pycuda"):
        cuda = open_cuda(0)
        with cuda.current():
            stream = cuda.stream()
            assert not cuda.has_graphs
            with pytest.raises(BackendError, match="Install cuda-python"):
                cuda.begin_capture(stream)
            cuda.free(stream)
        cuda.close()
