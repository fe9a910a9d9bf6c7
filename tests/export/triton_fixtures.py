"""A substitute for Triton: configuration schema, Python backend and ensemble scheduler."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
    text_format,
)
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

# The part of Triton's model_config.proto that the exporter writes: `*` repeats, a capital letter
# names a message, and enums are strings that text format would quote, so they are enums here too.
_SCHEMA = {
    "ModelConfig": "name:string platform:string backend:string max_batch_size:int32 "
    "input:*Tensor output:*Tensor dynamic_batching:Batching instance_group:*Group "
    "ensemble_scheduling:Ensemble parameters:*Parameter model_warmup:*Warmup",
    "Tensor": "name:string data_type:DataType dims:*int64 reshape:Reshape",
    "Reshape": "shape:*int64",
    "Batching": "preferred_batch_size:*int32 max_queue_delay_microseconds:uint64",
    "Group": "count:int32 kind:Kind",
    "Ensemble": "step:*Step",
    "Step": "model_name:string model_version:int64 input_map:*Pair output_map:*Pair",
    "Pair": "key:string value:string",
    "Parameter": "key:string value:ParameterValue",
    "ParameterValue": "string_value:string",
    "Warmup": "name:string batch_size:uint32 inputs:*WarmupInput",
    "WarmupInput": "key:string value:WarmupTensor",
    "WarmupTensor": "data_type:DataType dims:*int64 zero_data:bool",
}
_ENUMS = {
    "DataType": ("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_FP32", "TYPE_FP64"),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU"),
}
NUMPY = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
}


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config.pbtxt with protobuf's parser; unknown fields and enum values fail."""
    message = text_format.Parse(path.read_text(encoding="utf-8"), _model_config()())
    config = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert isinstance(config, dict)
    return config


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the decoded parameters of a configuration."""
    return {p["key"]: json.loads(p["value"]["string_value"]) for p in config["parameters"]}


def pairs(entries: list[dict[str, str]]) -> dict[str, str]:
    """Returns a map field as a dictionary."""
    return {entry["key"]: entry["value"] for entry in entries}


def _model_config() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="triton_subset.proto", package="subset")
    file.syntax = "proto3"
    for name, words in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, word in enumerate(words):
            enum.value.add(name=word, number=number)
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(), 1):
            _add_field(message, number, *field.split(":"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("subset.ModelConfig"))


def _add_field(message: Any, number: int, name: str, kind: str) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    bare = kind.removeprefix("*")
    field = message.field.add(name=name, number=number)
    field.label = types.LABEL_REPEATED if kind != bare else types.LABEL_OPTIONAL
    if bare in _ENUMS:
        field.type, field.type_name = types.TYPE_ENUM, f".subset.{bare}"
    elif bare in _SCHEMA:
        field.type, field.type_name = types.TYPE_MESSAGE, f".subset.{bare}"
    else:
        field.type = getattr(types, f"TYPE_{bare.upper()}")


class FakeTensor:
    """`pb_utils.Tensor`."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


@dataclass(frozen=True, slots=True)
class FakeResponse:
    """`pb_utils.InferenceResponse`."""

    output_tensors: list[FakeTensor]


def fake_backend() -> ModuleType:
    """Returns a substitute for the module `triton_python_backend_utils`."""
    module = ModuleType("triton_python_backend_utils")
    found = {
        "Tensor": FakeTensor,
        "InferenceResponse": FakeResponse,
        "get_input_tensor_by_name": lambda request, name: FakeTensor(name, request[name]),
    }
    vars(module).update(found)
    return module


def open_python_model(folder: Path) -> Any:
    """Returns a model of the Python backend, initialized as Triton does."""
    spec = importlib.util.spec_from_file_location("model_under_test", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = read_config(folder / "config.pbtxt")
    as_json = {**config, "parameters": {p["key"]: p["value"] for p in config["parameters"]}}
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(as_json), "model_name": config["name"]})
    return model


def run_model(repository: Path, name: str, inputs: Arrays) -> Arrays:
    """Runs a model of a repository; checks inputs and outputs against its configuration."""
    folder = repository / name
    config = read_config(folder / "config.pbtxt")
    _check(config["input"], inputs)
    if config["backend"] == "python":
        (response,) = open_python_model(folder).execute([inputs])
        outputs = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}
    else:
        session = onnxruntime.InferenceSession(
            folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        names = [output["name"] for output in config["output"]]
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
    reshaped = {
        output["name"]: outputs[output["name"]].reshape(-1, *map(int, output["dims"]))
        for output in config["output"]
    }
    _check(config["output"], reshaped)
    return reshaped


def run_ensemble(repository: Path, name: str, inputs: Arrays) -> Arrays:
    """Runs the steps of an ensemble in order."""
    config = read_config(repository / name / "config.pbtxt")
    _check(config["input"], inputs)
    tensors = dict(inputs)
    for step in config["ensemble_scheduling"]["step"]:
        inputs_of_step = {key: tensors[value] for key, value in pairs(step["input_map"]).items()}
        results = run_model(repository, step["model_name"], inputs_of_step)
        tensors |= {value: results[key] for key, value in pairs(step["output_map"]).items()}
    outputs = {output["name"]: tensors[output["name"]] for output in config["output"]}
    _check(config["output"], outputs)
    return outputs


def _check(declared: list[dict[str, Any]], arrays: Arrays) -> None:
    assert {tensor["name"] for tensor in declared} == set(arrays)
    for tensor, array in ((t, arrays[t["name"]]) for t in declared):
        assert array.dtype == NUMPY[tensor["data_type"]]
        assert list(array.shape[1:]) == [int(size) for size in tensor["dims"]]


def models(repository: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and configuration of every model of a repository."""
    for path in sorted(repository.glob("*/config.pbtxt")):
        yield path.parent.name, read_config(path)
