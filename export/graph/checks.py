"""Checks of an ONNX file: validity, the expert's signature, TensorRT's operators."""

from __future__ import annotations

from pathlib import Path

import onnx

from export.config.contract import Signature
from export.errors import GraphError
from export.graph.conversion import BATCH
from export.graph.tensorrt_operators import tensorrt_problems
from runtime.manifest import OUTPUT_RANKS


def check_graph(path: Path, signature: Signature, *, tensorrt: bool = True) -> None:
    """Refuses a file that is no valid ONNX, breaks the contract, or that TensorRT cannot take.

    Args:
        path: of the file.
        signature: what it promises.
        tensorrt: whether TensorRT has to take it.

    Raises:
        GraphError: saying which, and naming the nodes.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name} is not valid ONNX: {error}") from error
    model = onnx.load(str(path), load_external_data=False)
    problems = _contract_problems(model, signature)
    if tensorrt:
        problems += tensorrt_problems(model)
    if problems:
        raise GraphError(f"{path.name}:" + "".join(f"\n- {problem}" for problem in problems))


def _contract_problems(model: onnx.ModelProto, signature: Signature) -> list[str]:
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    wanted = [(spec.name, uint8, [BATCH, spec.height, spec.width, 3]) for spec in signature.inputs]
    found = [_described(value) for value in model.graph.input]
    problems = [] if found == wanted else [f"inputs are {found}, wanted {wanted}"]
    columns = {"age_probs": len(signature.age_grid or ()), "gender_probs": 2}
    wanted = [
        (name, float32, [BATCH, columns[name]] if OUTPUT_RANKS[name] == 2 else [BATCH])
        for name in signature.outputs
    ]
    found = [_described(value) for value in model.graph.output]
    return problems if found == wanted else [*problems, f"outputs are {found}, wanted {wanted}"]


def _described(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    tensor = value.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    return value.name, tensor.elem_type, shape
