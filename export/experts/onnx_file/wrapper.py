"""A given ONNX file with one image input, wrapped in-graph into the contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.config.contract import Images, Outputs, Signature
from export.errors import GraphError
from export.experts.onnx_file.batch import free_batch
from export.experts.onnx_file.comparison import difference
from export.experts.onnx_file.given import GivenFile, computes_in_half
from export.experts.onnx_file.inputs import add_preparation, as_input, connect, find_input
from export.experts.onnx_file.nodes import Nodes, opset_of
from export.experts.onnx_file.normal import given_name, in_newest_opset, normal_form
from export.experts.onnx_file.readouts import find_readout
from export.experts.onnx_file.sensible import check_values
from export.experts.onnx_file.settings import GRAY, OnnxSettings
from export.graph.conversion import BATCH
from export.graph.shapes import fix_reshapes
from export.graph.weights import save_model
from runtime.geometry import Geometry
from runtime.manifest import InputSpec


class ExternalExpert:
    """A given ONNX graph between a normalization and a readout."""

    def __init__(self, source: Path, settings: OnnxSettings, signature: Signature) -> None:
        """Reads the given file and runs it once.

        Raises:
            CheckpointError: external data is missing.
            GraphError: it is not an ONNX file, its inputs or outputs are not as configured, or ONNX
                Runtime cannot run it.
        """
        self._settings = settings
        self._given = GivenFile(source)
        self.signature = replace(signature, half_precision=computes_in_half(self._given.model))
        self._input = find_input(self._given, settings)
        self._output = _age_output(self._given, settings)
        black = np.zeros((settings.height, settings.width, 3), np.uint8)
        output = self._run(black)
        kind = helper.np_dtype_to_tensor_dtype(output.dtype)
        self._readout = find_readout(
            source, self._output, output, kind, settings, self._input.batch
        )

    def write_onnx(self, path: Path) -> None:
        """Writes the wrapped graph.

        Raises:
            GraphError: it does not compute for a batch what the given file computes face by face.
        """
        faces = self._noise()
        rows = np.stack([self._one(self._run(face)) for face in faces])
        expected = self._readout.outputs(self._readout.values(rows))
        problems = []
        for model in self._candidates():
            try:
                save_model(self._wrapped(model), path)
                problem = difference(path, self._given, faces, expected, self._as_given)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
                problem = str(error)
            if problem is None:
                return
            problems.append(problem)
        quantized = any(n.op_type == "DynamicQuantizeLinear" for n in self._given.model.graph.node)
        cure = (
            "It is quantized dynamically, by the values of the whole batch: give the file in float"
            if quantized
            else "Export with a dynamic batch"
        )
        raise GraphError(
            f"{self._given.path} cannot be run on several faces at once: {problems[0]}. {cure}."
        )

    def reference(self, images: Images) -> Outputs:
        """Runs the unchanged file, one face at a time, with the wrapper's arithmetic in NumPy.

        Raises:
            GraphError: the values are not what the settings say they are.
        """
        rows = np.stack([self._one(self._run(face)) for face in images["face"]])
        values = self._readout.values(rows)
        check_values(self._given.path, self._output, self._readout, values)
        return self._readout.outputs(values)

    def _run(self, face: NDArray[np.uint8]) -> NDArray[Any]:
        pixels = as_input(face, self._settings, self._input)
        (output,) = self._given.run(self._input.name, pixels, [self._output])
        return np.asarray(output)

    def _one(self, output: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the values of one face; a file with a fixed batch computes them several times."""
        values: NDArray[np.float32] = np.asarray(output, np.float32)
        first: NDArray[np.float32] = values.reshape(self._input.batch, -1)[0]
        return first

    def _candidates(self) -> Iterator[onnx.ModelProto]:
        """Yields the given graph in its normal form: with the newest opset, then with its own."""
        model = normal_form(self._given.path, self._given.model)
        old = opset_of(model)
        try:
            newest = in_newest_opset(self._given.path, model)
        except GraphError:
            if self._settings.head.round_years:  # Round exists from opset 11 on
                raise
        else:
            yield newest
            if opset_of(newest) == old:
                return
        yield model

    def _wrapped(self, model: onnx.ModelProto) -> onnx.ModelProto:
        settings, signature = self._settings, self.signature
        channels = 1 if settings.normalization.color_order == GRAY else 3
        size = (settings.height, settings.width)
        shape = (channels, *size) if settings.layout == "NCHW" else (*size, channels)
        free_batch(model, self._input.batch, shape)
        before, after = Nodes(opset_of(model)), Nodes(opset_of(model))
        pixels = add_preparation(before, settings, self._input)
        connect(model.graph, before, pixels, given_name(self._input.name), self._input.kind)
        self._readout.add(after, given_name(self._output))
        graph = helper.make_graph(
            [*before.nodes, *model.graph.node, *after.nodes],
            "agemoe",
            [helper.make_tensor_value_info("face", TensorProto.UINT8, [BATCH, *size, 3])],
            list(_output_values(signature)),
            [*model.graph.initializer, *before.constants, *after.constants],
        )
        wrapped = helper.make_model(
            graph, opset_imports=model.opset_import, ir_version=model.ir_version
        )
        inferred = onnx.shape_inference.infer_shapes(wrapped, data_prop=True)
        fix_reshapes(inferred)
        return inferred

    def _noise(self) -> NDArray[np.uint8]:
        """Returns a batch of three faces that differ as much as possible."""
        size = (3, self._settings.height, self._settings.width, 3)
        noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        return noise // np.array([1, 2, 8], np.uint8)[:, None, None, None]

    def _as_given(self, face: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        return {self._input.name: as_input(face, self._settings, self._input)}


def external_expert(source: Path, settings: OnnxSettings, geometry: Geometry) -> ExternalExpert:
    """Returns a given ONNX file as an expert of the pipeline.

    Raises:
        CheckpointError: external data is missing.
        GraphError: it differs from the settings.
    """
    classes = settings.head.kind == "expectation"
    signature = Signature(
        inputs=(InputSpec("face", settings.height, settings.width, geometry),),
        outputs=("age_years", "age_probs") if classes else ("age_years",),
        age_grid=settings.head.increasing if classes else None,
        whole_years=settings.head.round_years,
    )
    return ExternalExpert(source, settings, signature)


def _output_values(signature: Signature) -> Iterator[onnx.ValueInfoProto]:
    yield helper.make_tensor_value_info("age_years", TensorProto.FLOAT, [BATCH])
    if signature.age_grid is not None:
        shape: list[str | int | None] = [BATCH, len(signature.age_grid)]
        yield helper.make_tensor_value_info("age_probs", TensorProto.FLOAT, shape)


def _age_output(given: GivenFile, settings: OnnxSettings) -> str:
    names = [str(value.name) for value in given.model.graph.output]
    if settings.output is None and len(names) == 1:
        return names[0]
    if settings.output is None or settings.output not in names:
        raise GraphError(
            f"{given.path} has outputs {', '.join(names)}; name the one with the age in `output` "
            f"(got {settings.output!r})."
        )
    return settings.output
