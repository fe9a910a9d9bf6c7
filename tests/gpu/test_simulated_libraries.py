"""The fake TensorRT and ONNX Runtime enforce the real rules: each has a test that violates it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.gpu.cuda_library import open_cuda
from runtime.errors import CudaError
from tests.gpu.bench import BATCH, CUDA, MODEL, Bench, pictures, run_onnx, session
from tests.gpu.simulator import RuleBrokenError, simulated_gpu


@pytest.fixture
def bench() -> Iterator[Bench]:
    with simulated_gpu(seed=2) as gpu:
        cuda = open_cuda(0)
        with cuda.current():
            yield Bench(gpu, cuda)
        gpu.faults.clear()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("by", ["tensorrt", "onnxruntime"])
def test_engines_compute_in_stream_order(by: str, seed: int) -> None:
    with simulated_gpu(seed) as gpu:
        cuda = open_cuda(0)
        with cuda.current():
            bench = Bench(gpu, cuda)
            bench.upload(pictures(seed))
            context = bench.context() if by == "tensorrt" else None
            if context is None:
                run_onnx(bench)
            else:
                assert context.execute_async_v3(bench.stream.handle)
            expected = pictures(seed).reshape(BATCH, -1).mean(axis=1)
            np.testing.assert_allclose(bench.ages(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "10.16.1.11"}, "of TensorRT 10.16.1.11"),
        ({"compute_capability": "8.6"}, "compute capability 8.6"),
    ],
)
def test_plans_of_another_machine(bench: Bench, options: dict[str, Any], message: str) -> None:
    assert bench.engine(bench.gpu.plan(MODEL, **options)) is None
    assert message in bench.log.lines[0]


def test_damaged_plans(bench: Bench) -> None:
    plan = bench.gpu.plan(MODEL)
    assert bench.engine(plan[:-10]) is None
    assert bench.engine(b"no plan") is None
    assert len(bench.log.lines) == 2


def test_engines_describe_their_tensors(bench: Bench) -> None:
    engine, tensorrt = bench.engine(), bench.tensorrt
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    assert names == ["face", "age_years"]
    assert engine.get_tensor_mode("face") is tensorrt.TensorIOMode.INPUT
    assert engine.get_tensor_dtype("face") is tensorrt.DataType.UINT8
    assert tuple(engine.get_tensor_shape("face")) == (-1, 4, 4, 3)
    largest = engine.get_tensor_profile_shape("face", 0)[2]
    assert tuple(largest) == (8, 4, 4, 3)
    assert largest != (8, 4, 4, 3)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (9, 4, 4, 3), (1, 4, 5, 3), (1, 4, 4)])
def test_shapes_outside_the_profile(bench: Bench, shape: tuple[int, ...]) -> None:
    context = bench.engine().create_execution_context()
    assert not context.set_input_shape("face", shape)
    assert "outside" in bench.log.lines[0]


def test_nothing_runs_without_shapes_addresses_or_memory(bench: Bench) -> None:
    context = bench.engine().create_execution_context()
    handle = bench.stream.handle
    assert not context.execute_async_v3(handle)
    assert context.set_input_shape("face", (1, 4, 4, 3))
    assert not context.execute_async_v3(handle)
    assert not bench.user_managed(bench.engine()).execute_async_v3(handle)
    assert [line.partition("no ")[2].split(" of ")[0] for line in bench.log.lines] == [
        "shape",
        "address",
        "device memory",
    ]


def test_too_little_device_memory(bench: Bench) -> None:
    context, memory = bench.user_managed(bench.engine()), bench.cuda.device_memory(4096)
    context.set_device_memory(memory.pointer, 4095)
    assert not context.execute_async_v3(bench.stream.handle)
    context.set_device_memory(memory.pointer, 4096)
    assert context.execute_async_v3(bench.stream.handle)


@pytest.mark.parametrize("shared", ["context", "memory"])
def test_two_streams_race(bench: Bench, shared: str) -> None:
    engine, memory, other = bench.engine(), bench.cuda.device_memory(4096), bench.cuda.stream()
    first, second = bench.user_managed(engine), bench.user_managed(engine)
    second.set_tensor_address("age_years", bench.cuda.device_memory(32).pointer)
    for context in (first, second):
        context.set_device_memory(memory.pointer, 4096)
    bench.gpu.hold()
    assert first.execute_async_v3(bench.stream.handle)
    with pytest.raises(RuleBrokenError, match="execute engine races with execute engine"):
        (first if shared == "context" else second).execute_async_v3(other.handle)


def test_separate_contexts_run_in_parallel(bench: Bench) -> None:
    engine, other = bench.engine(), bench.cuda.stream()
    first, second = bench.context(engine), bench.context(engine)
    second.set_tensor_address("age_years", bench.cuda.device_memory(32).pointer)
    bench.gpu.hold()
    assert first.execute_async_v3(bench.stream.handle)
    assert second.execute_async_v3(other.handle)
    bench.gpu.go()
    bench.gpu.drain()


def test_overwriting_an_input_in_use_races(bench: Bench) -> None:
    other, context = bench.cuda.stream(), bench.context()
    bench.gpu.hold()
    assert context.execute_async_v3(bench.stream.handle)
    with pytest.raises(RuleBrokenError, match="upload races with execute"):
        bench.upload(pictures(0), other)
    bench.gpu.drain()


def test_the_first_run_of_a_shape_is_not_captured(bench: Bench) -> None:
    context, cuda, stream = bench.context(), bench.cuda, bench.stream
    cuda.begin_capture(stream)
    assert not context.execute_async_v3(stream.handle)
    with pytest.raises(CudaError, match="INVALIDATED"):
        cuda.end_capture(stream)
    bench.upload(pictures(1))
    assert context.execute_async_v3(stream.handle)
    first = bench.ages()
    cuda.begin_capture(stream)
    assert context.execute_async_v3(stream.handle)
    graph = cuda.end_capture(stream)
    bench.upload(pictures(2))
    cuda.launch(graph, stream)
    assert not np.array_equal(bench.ages(), first)


@pytest.mark.parametrize("size", [0, 4 * BATCH - 1])
def test_memory_that_is_freed_or_too_small(bench: Bench, size: int) -> None:
    memory, context = bench.cuda.device_memory(size or 32), bench.context()
    context.set_tensor_address("age_years", memory.pointer)
    if size == 0:
        bench.cuda.free(memory)
    with pytest.raises(RuleBrokenError, match="age_years needs 12 bytes"):
        context.execute_async_v3(bench.stream.handle)


def test_addresses_are_aligned_and_of_tensors(bench: Bench) -> None:
    context = bench.context()
    assert not context.set_tensor_address("age_years", bench.age.pointer + 4)
    assert not context.set_tensor_address("age", bench.age.pointer)


def test_a_context_is_not_destroyed_while_it_runs(bench: Bench) -> None:
    context = bench.context()
    bench.gpu.hold()
    assert context.execute_async_v3(bench.stream.handle)
    del context
    assert bench.gpu.faults == ["an execution context was destroyed while it ran"]


def test_contexts_allocate_memory_and_free_it() -> None:
    with simulated_gpu(memory_bytes=10_000) as gpu, open_cuda(0).current():
        engine = Bench(gpu, open_cuda(0)).engine(gpu.plan(MODEL, device_memory_bytes=6000))
        context = engine.create_execution_context()
        assert engine.create_execution_context() is None
        assert "OUT_OF_MEMORY" in engine.logger.lines[0]
        del context
        assert engine.create_execution_context() is not None


def test_auxiliary_streams_are_not_shared_or_destroyed_in_use(bench: Bench) -> None:
    engine = bench.engine(bench.gpu.plan(MODEL, aux_streams=1))
    assert engine.num_aux_streams == 1
    aux, other = bench.cuda.stream(), bench.cuda.stream()
    first, second = bench.context(engine), bench.context(engine)
    second.set_tensor_address("age_years", bench.cuda.device_memory(32).pointer)
    for context in (first, second):
        context.set_aux_streams([aux.handle])
    bench.gpu.hold()
    assert first.execute_async_v3(bench.stream.handle)
    with pytest.raises(RuleBrokenError, match="races"):
        second.execute_async_v3(other.handle)
    with pytest.raises(RuleBrokenError, match="still uses"):
        bench.cuda.free(aux)
    bench.gpu.drain()


def test_a_logger_without_initialization(bench: Bench) -> None:
    class Careless(bench.tensorrt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            """Does not initialize the base."""

    with pytest.raises(TypeError, match="__init__"):
        bench.tensorrt.Runtime(Careless())


def test_tensorrt_without_a_current_context() -> None:
    with simulated_gpu() as gpu:
        tensorrt = importlib.import_module("tensorrt")
        with pytest.raises(RuleBrokenError, match="current CUDA context"):
            tensorrt.Runtime(tensorrt.Logger()).deserialize_cuda_engine(gpu.plan(MODEL))
        gpu.faults.clear()


@pytest.mark.parametrize("wait", [False, True])
def test_a_synchronizing_run_is_counted(bench: Bench, *, wait: bool) -> None:
    run_onnx(bench, wait=wait)
    assert bench.gpu.calls["onnxruntime synchronize"] == wait


def test_a_session_needs_its_own_stream(bench: Bench) -> None:
    with pytest.raises(RuleBrokenError, match="default stream"):
        session(bench, user_compute_stream="0")


def test_unknown_options_are_rejected(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="use_tf_32"):
        session(bench, use_tf_32="0")


def test_outputs_are_bound_to_memory(bench: Bench) -> None:
    with pytest.raises(RuleBrokenError, match="bound to no memory"):
        session(bench).io_binding().bind_output("age_years", "cuda")
    with pytest.raises(RuleBrokenError, match="copy"):
        session(bench).io_binding().bind_input("face", "cpu", 0, np.uint8, (1, 4, 4, 3), 1)


def test_a_provider_that_does_not_load_falls_back_silently() -> None:
    with simulated_gpu(onnx_cuda=False) as gpu:
        onnxruntime: Any = importlib.import_module("onnxruntime")
        assert CUDA in onnxruntime.get_available_providers()
        opened = onnxruntime.InferenceSession(MODEL, providers=[(CUDA, {})])
        assert opened.get_providers() == ["CPUExecutionProvider"]
        assert not gpu.calls
