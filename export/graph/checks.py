"""Checks of an ONNX file: validity, inputs and outputs, operators that TensorRT supports."""

from __future__ import annotations

from pathlib import Path

import onnx

from export.config.contract import Signature
from export.errors import GraphError
from export.graph.conversion import BATCH
from export.graph.tensorrt_operators import tensorrt_problems
from runtime.manifest import OUTPUT_RANKS
from runtime.printing import bullets


def check_graph(path: Path, signature: Signature, *, tensorrt: bool = True) -> list[str]:
    """Validates an ONNX file.

    Args:
        path: of the file.
        signature: the inputs and outputs it must have.
        tensorrt: whether TensorRT must support its operators.

    Returns:
        Nodes that TensorRT does not support; none where it must.

    Raises:
        GraphError: the file is not valid ONNX, does not match the signature, or has nodes that
            TensorRT does not support; every problem at once.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name} is not valid ONNX: {error}") from error
    model = onnx.load(str(path), load_external_data=False)
    problems = _signature_problems(model, signature)
    unsupported = tensorrt_problems(model)
    if problems or (tensorrt and unsupported):
        cure = ["Build without engines: --target onnx."] if tensorrt and unsupported else []
        problems += unsupported if tensorrt else []
        raise GraphError(f"{path.name}:", *bullets(problems), *cure)
    return unsupported


def _signature_problems(model: onnx.ModelProto, signature: Signature) -> list[str]:
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    inputs = [(spec.name, uint8, [BATCH, spec.height, spec.width, 3]) for spec in signature.inputs]
    columns = {"age_probs": len(signature.age_grid or ()), "gender_probs": 2}
    outputs = [
        (name, float32, [BATCH, columns[name]] if OUTPUT_RANKS[name] == 2 else [BATCH])
        for name in signature.outputs
    ]
    problems = []
    values = (("inputs", model.graph.input, inputs), ("outputs", model.graph.output, outputs))
    for kind, present, expected in values:
        found = [_description(value) for value in present]
        if found != expected:
            problems.append(f"{kind} are {found}, expected {expected}")
    return problems


def _description(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    tensor = value.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    return value.name, tensor.elem_type, shape
