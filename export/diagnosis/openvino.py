"""Layers of a bf16 or INT8 variant in OpenVINO on this CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.config.contract import Images
from export.diagnosis.layers import Values
from runtime.backends.openvino import check_cpu
from runtime.backends.openvino_graph import compile_graph, import_openvino
from runtime.cores import usable_cores
from runtime.errors import BackendError


class OpenVinoLayers:
    """A graph in OpenVINO's format; its tensors have the names they have in the ONNX file."""

    def __init__(self, path: Path, faces: Images, precision: str) -> None:
        """Reads the graph.

        Raises:
            BackendError: OpenVINO is not installed, or the CPU lacks what the precision needs.
        """
        check_cpu(path.stem, precision)
        self._path = path
        self._faces = dict(faces)
        self._bfloat16 = precision == "bf16"
        self.names = frozenset(
            name
            for node in self._model().get_ordered_ops()
            for port in node.outputs()
            if port.get_element_type().to_string() == "f32"
            for name in port.get_names()
        )

    def values(self, names: Sequence[str]) -> Values:
        """Compiles the graph with some tensors as outputs and runs it.

        Raises:
            BackendError: OpenVINO cannot compile it so.
        """
        model = self._model()
        shapes = {name: views.shape for name, views in self._faces.items()}
        try:
            present = {name for output in model.outputs for name in output.get_names()}
            model.add_outputs([name for name in names if name not in present])
            compiled = compile_graph(model, shapes, usable_cores(), bfloat16=self._bfloat16)
            found = compiled.create_infer_request().infer(self._faces)
        except RuntimeError as error:  # raised by OpenVINO for every kind of failure
            raise BackendError(
                f"OpenVINO cannot show the layers of {self._path.name}: {error}"
            ) from error
        return {name: np.array(found[name]) for name in names}

    def _model(self) -> Any:  # noqa: ANN401 - lazily imported type
        return import_openvino().Core().read_model(str(self._path))
