"""A given ONNX file with one float32 image input, wrapped in-graph into the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.config.contract import Images, Outputs, Signature
from export.config.settings import AgeHead, Normalization
from export.errors import GraphError
from export.experts.onnx_file.settings import OnnxSettings
from export.graph.conversion import BATCH, OPSET
from export.graph.shapes import fix_reshapes
from export.graph.weights import save_model
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

_PREFIX = "wrapped/"
"""Prefix of every name of the given graph, to avoid collisions with the wrapper's."""


class ExternalExpert:
    """A given ONNX graph between a normalization and a readout."""

    def __init__(self, source: Path, settings: OnnxSettings, signature: Signature) -> None:
        """Reads the given file.

        Raises:
            GraphError: it is not an ONNX file, or its inputs or outputs are not as configured.
        """
        self.signature = signature
        self._source = source
        self._settings = settings
        self._model = _read(source)
        self._input = _only_input(source, self._model, settings)
        self._output = _age_output(source, self._model, settings)

    def write_onnx(self, path: Path) -> None:
        """Writes the wrapped graph."""
        inner = onnx.compose.add_prefix(self._model, _PREFIX)
        wrapped = helper.make_model(
            _wrapped_graph(inner, self._input, self._output, self._settings, self.signature),
            opset_imports=inner.opset_import,
            ir_version=inner.ir_version,
        )
        inferred = onnx.shape_inference.infer_shapes(wrapped, data_prop=True)
        fix_reshapes(inferred)
        save_model(inferred, path)

    def reference(self, images: Images) -> Outputs:
        """Runs the unchanged file, one face at a time, with the wrapper's arithmetic in NumPy."""
        import onnxruntime

        session = onnxruntime.InferenceSession(
            str(self._source), providers=["CPUExecutionProvider"]
        )
        rows = []
        for face in images["face"]:
            pixels = _normalized(face, self._settings)
            (output,) = session.run([self._output], {self._input: pixels[None]})
            rows.append(np.asarray(output, np.float32).reshape(-1))
        return _ages(np.stack(rows), self._settings)


def external_expert(source: Path, settings: OnnxSettings, geometry: Geometry) -> ExternalExpert:
    """Returns a given ONNX file as an expert of the pipeline.

    Raises:
        GraphError: it differs from the settings.
    """
    classes = settings.head.kind == "expectation"
    signature = Signature(
        inputs=(InputSpec("face", settings.height, settings.width, geometry),),
        outputs=("age_years", "age_probs") if classes else ("age_years",),
        age_grid=settings.head.age_grid if classes else None,
        whole_years=settings.head.round_years,
    )
    return ExternalExpert(source, settings, signature)


def _read(source: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(source))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise their own, without a common base
        raise GraphError(f"{source} is not a valid ONNX file: {error}") from error
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 13:
        model = onnx.version_converter.convert_version(model, OPSET)
    return _with_dynamic_batch(model)


def _with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes the batch dimension dynamic; many public files fix it at 1 without need."""
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes:
            axes[0].dim_param = BATCH
    del model.graph.value_info[:]  # shapes inferred for the old batch
    return model


def _only_input(source: Path, model: onnx.ModelProto, settings: OnnxSettings) -> str:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    names = [str(value.name) for value in inputs]
    if len(inputs) != 1:
        raise GraphError(f"{source} has inputs {names}, expected one image.")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise GraphError(f"{source}: input {names[0]!r} is {kind}, expected FLOAT.")
    found = [axis.dim_value for axis in tensor.shape.dim][1:]
    size = (settings.height, settings.width)
    wanted = [3, *size] if settings.layout == "NCHW" else [*size, 3]
    fits = len(found) == 3 and all(f in (0, w) for f, w in zip(found, wanted, strict=True))
    if not fits:
        raise GraphError(
            f"{source}: input {names[0]!r} has the shape (N, {str(found)[1:-1]}), expected "
            f"(N, {str(wanted)[1:-1]}). Check `layout` and `input_size`."
        )
    return names[0]


def _age_output(source: Path, model: onnx.ModelProto, settings: OnnxSettings) -> str:
    names = [str(value.name) for value in model.graph.output]
    if settings.output is None and len(names) == 1:
        return names[0]
    if settings.output is None or settings.output not in names:
        raise GraphError(
            f"{source} has outputs {', '.join(names)}; name the one with the age in `output` "
            f"(got {settings.output!r})."
        )
    return settings.output


def _wrapped_graph(
    inner: onnx.ModelProto,
    input_name: str,
    output_name: str,
    settings: OnnxSettings,
    signature: Signature,
) -> onnx.GraphProto:
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    before = _normalizing_nodes(settings, _PREFIX + input_name, constant)
    after = _readout_nodes(settings.head, settings, _PREFIX + output_name, constant)
    spec = signature.inputs[0]
    image = helper.make_tensor_value_info(
        spec.name, TensorProto.UINT8, [BATCH, spec.height, spec.width, 3]
    )
    outputs = [helper.make_tensor_value_info("age_years", TensorProto.FLOAT, [BATCH])]
    if signature.age_grid is not None:
        shape: list[str | int | None] = [BATCH, len(signature.age_grid)]
        outputs.append(helper.make_tensor_value_info("age_probs", TensorProto.FLOAT, shape))
    return helper.make_graph(
        [*before, *inner.graph.node, *after],
        "agemoe",
        [image],
        outputs,
        [*inner.graph.initializer, *constants],
    )


def _normalizing_nodes(
    settings: OnnxSettings,
    target: str,
    constant: Any,  # noqa: ANN401 - a local function
) -> list[onnx.NodeProto]:
    factor, offset = _factor_and_offset(settings.normalization)
    nodes = [helper.make_node("Cast", ["face"], ["pixels"], "cast", to=TensorProto.FLOAT)]
    pixels = "pixels"
    if settings.normalization.color_order == "BGR":
        order = constant("bgr", np.array([2, 1, 0], np.int64))
        nodes.append(helper.make_node("Gather", [pixels, order], ["ordered"], "order", axis=3))
        pixels = "ordered"
    nodes += [
        helper.make_node("Mul", [pixels, constant("factor", factor)], ["scaled"], "scale"),
        helper.make_node("Add", ["scaled", constant("offset", offset)], ["normalized"], "shift"),
    ]
    if settings.layout == "NCHW":
        nodes.append(
            helper.make_node("Transpose", ["normalized"], [target], "layout", perm=[0, 3, 1, 2])
        )
    else:
        nodes.append(helper.make_node("Identity", ["normalized"], [target], "layout"))
    return nodes


def _readout_nodes(
    head: AgeHead,
    settings: OnnxSettings,
    source: str,
    constant: Any,  # noqa: ANN401 - a local function
) -> list[onnx.NodeProto]:
    if head.kind == "regression":
        flat = constant("flat", np.array([-1], np.int64))
        unit = constant("years_per_unit", np.array(head.years_per_unit, np.float32))
        start = constant("years_offset", np.array(head.years_offset, np.float32))
        return [
            helper.make_node("Reshape", [source, flat], ["units"], "flatten"),
            helper.make_node("Mul", ["units", unit], ["years"], "to_years"),
            helper.make_node("Add", ["years", start], ["age_years"], "from_offset"),
        ]
    ages = constant("ages", np.array(head.age_grid, np.float32))
    axis = constant("last_axis", np.array([1], np.int64))
    shape = constant("classes", np.array([-1, len(head.age_grid)], np.int64))
    last = "Identity" if settings.probabilities else "Softmax"
    expectation = "expectation" if head.round_years else "age_years"
    rounding = [helper.make_node("Round", [expectation], ["age_years"], "whole_years")]
    return [
        helper.make_node("Reshape", [source, shape], ["classes_of"], "columns"),
        helper.make_node(last, ["classes_of"], ["age_probs"], "probabilities"),
        helper.make_node("Mul", ["age_probs", ages], ["weighted"], "weigh"),
        helper.make_node("ReduceSum", ["weighted", axis], [expectation], "expect", keepdims=0),
        *(rounding if head.round_years else []),
    ]


def _factor_and_offset(n: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rewrites (pixel * scale - mean) / std as pixel * factor + offset, per channel."""
    mean, std = np.array(n.mean), np.array(n.std)
    return (n.scale / std).astype(np.float32), (-mean / std).astype(np.float32)


def _normalized(face: NDArray[np.uint8], settings: OnnxSettings) -> NDArray[np.float32]:
    """Prepares one face for the given graph: (3, H, W) or (H, W, 3)."""
    ordered = face[..., ::-1] if settings.normalization.color_order == "BGR" else face
    factor, offset = _factor_and_offset(settings.normalization)
    pixels = ordered.astype(np.float32) * factor + offset
    laid_out = pixels.transpose(2, 0, 1) if settings.layout == "NCHW" else pixels
    return np.ascontiguousarray(laid_out, np.float32)


def _ages(outputs: NDArray[np.float32], settings: OnnxSettings) -> Outputs:
    head = settings.head
    wanted = len(head.age_grid) if head.kind == "expectation" else 1
    if outputs.shape[1] != wanted:
        raise GraphError(
            f"The given graph's output has {outputs.shape[1]} values per face, a head of kind "
            f"{head.kind!r} expects {wanted}. Check `head`, `age_grid` and `output`."
        )
    if head.kind == "regression":
        return {"age_years": outputs[:, 0] * head.years_per_unit + head.years_offset}
    probabilities = outputs
    if not settings.probabilities:
        exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    ages = np.array(head.age_grid, np.float32)
    years = probabilities @ ages
    return {
        "age_years": np.rint(years) if head.round_years else years,
        "age_probs": probabilities,
    }
