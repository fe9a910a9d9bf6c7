"""A test bench for the fakes: a small engine with its memory and stream on the simulated device."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from runtime.backends.gpu.cuda import Cuda, Stream
from tests.gpu.simulator import SimulatedGpu

BATCH = 3
ROW = 48
CUDA = "CUDAExecutionProvider"


def model() -> bytes:
    """Returns a graph: the mean of a picture of 4 x 4 pixels."""
    face = helper.make_tensor_value_info("face", TensorProto.UINT8, ["N", 4, 4, 3])
    age = helper.make_tensor_value_info("age_years", TensorProto.FLOAT, ["N"])
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")
    nodes = [
        helper.make_node("Cast", ["face"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["age_years"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "mean", [face], [age], [axes])
    opsets = [helper.make_opsetid("", 18)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(proto.SerializeToString())


MODEL = model()


class Bench:
    """A device with a stream and memory for the input and output of an engine."""

    def __init__(self, gpu: SimulatedGpu, cuda: Cuda) -> None:
        self.gpu, self.cuda = gpu, cuda
        self.stream, self.done = cuda.stream(), cuda.event()
        self.face, self.age = cuda.device_memory(8 * ROW), cuda.device_memory(32)
        self.pinned, self.result = cuda.host_memory(8 * ROW), cuda.host_memory(32)
        self.tensorrt: Any = importlib.import_module("tensorrt")
        self.log = self.tensorrt.Logger()

    def engine(self, plan: bytes | None = None) -> Any:
        """Returns an engine, or None if the plan is rejected."""
        return self.tensorrt.Runtime(self.log).deserialize_cuda_engine(plan or self.gpu.plan(MODEL))

    def context(self, engine: Any = None, *options: Any) -> Any:
        """Returns a context that is ready to run."""
        context = (engine or self.engine()).create_execution_context(*options)
        assert context.set_input_shape("face", (BATCH, 4, 4, 3))
        assert context.set_tensor_address("face", self.face.pointer)
        assert context.set_tensor_address("age_years", self.age.pointer)
        return context

    def upload(self, pictures: NDArray[np.uint8], stream: Stream | None = None) -> None:
        self.pinned.array[: pictures.size] = pictures.ravel()
        self.cuda.upload(self.face, self.pinned, pictures.size, stream or self.stream)

    def ages(self) -> NDArray[np.float32]:
        self.cuda.download(self.result, self.age, 4 * BATCH, self.stream)
        self.cuda.synchronize(self.stream)
        return self.result.array.view(np.float32)[:BATCH].copy()

    def user_managed(self, engine: Any) -> Any:
        return self.context(engine, self.tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED)


def pictures(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (BATCH, 4, 4, 3), np.uint8)


def session(bench: Bench, **options: Any) -> Any:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options.setdefault("user_compute_stream", str(bench.stream.handle))
    return onnxruntime.InferenceSession(MODEL, providers=[(CUDA, options)])


def bound(bench: Bench, of: Any) -> Any:
    binding = of.io_binding()
    binding.bind_input("face", "cuda", 0, np.uint8, (BATCH, 4, 4, 3), bench.face.pointer)
    binding.bind_output("age_years", "cuda", 0, np.float32, (BATCH,), bench.age.pointer)
    return binding


def run_onnx(bench: Bench, *, wait: bool = False) -> None:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.RunOptions()
    if not wait:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    opened = session(bench)
    opened.run_with_iobinding(bound(bench, opened), options)
