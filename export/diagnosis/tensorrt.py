"""Layers of a TensorRT engine, by NVIDIA's Polygraphy.

The tensors of a finished engine cannot be read. Polygraphy parses the ONNX file again, marks
tensors as outputs, builds an engine from that and runs it. A marked tensor is not fused with the
next.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.config.contract import Images
from export.diagnosis.layers import Values
from export.errors import ExportError

_RTX = "POLYGRAPHY_USE_TENSORRT_RTX"
_FLOATS = ("FLOAT", "HALF", "BF16")


class TensorRtLayers:
    """An ONNX file in TensorRT, or in TensorRT for RTX."""

    def __init__(self, path: Path, faces: Images, backend: str, level: int) -> None:
        """Parses the file.

        Args:
            path: of the ONNX file that the engine was built from.
            faces: the inputs.
            backend: `tensorrt` or `tensorrt_rtx`.
            level: TensorRT's optimization level, 0 to 5.

        Raises:
            ExportError: Polygraphy or TensorRT is missing, or TensorRT does not support the file.
        """
        os.environ[_RTX] = str(int(backend == "tensorrt_rtx"))  # read when Polygraphy is imported
        try:
            from polygraphy.backend import trt
            from polygraphy.logger import G_LOGGER
        except ModuleNotFoundError as error:
            raise ExportError(
                f"The layers of an engine are read by the package {error.name!r}, which is not "
                f"installed. Run: pip install 'agemoe-runtime[diagnose]'"
            ) from error
        G_LOGGER.module_severity = G_LOGGER.ERROR
        self._trt = trt
        self._path = path
        self._faces = dict(faces)
        self._level = level
        self.names = frozenset(self._named())

    def values(self, names: Sequence[str]) -> Values:
        """Builds an engine with some tensors as outputs and runs it on the GPU.

        Raises:
            ExportError: TensorRT built no engine so, or it does not run.
        """
        from polygraphy.comparator import Comparator
        from polygraphy.exception import PolygraphyException

        try:
            engine = self._trt.EngineFromNetwork(self.marked(names), self.config())
            runner = self._trt.TrtRunner(engine)
            ((_, (result,)),) = Comparator.run([runner], data_loader=[self._faces])
        except PolygraphyException as error:
            raise _failure(self._path, error) from error
        return {name: np.array(result[name]) for name in names}

    def marked(self, names: Sequence[str]) -> Any:  # noqa: ANN401 - Polygraphy's loader
        """Returns a function that parses the file and makes some tensors the outputs."""
        patterns = [glob.escape(name) for name in names]
        return self._trt.ModifyNetworkOutputs(self._network(), outputs=patterns)

    def config(self) -> Any:  # noqa: ANN401 - Polygraphy's loader
        """Returns a function that makes the options of the build, as the exporter has them."""
        batches = self._trt.Profile()
        for name, views in self._faces.items():
            batches.add(name, min=views.shape, opt=views.shape, max=views.shape)
        return self._trt.CreateConfig(
            tf32=False, profiles=[batches], builder_optimization_level=self._level
        )

    def _network(self) -> Any:  # noqa: ANN401 - Polygraphy's loader
        return self._trt.NetworkFromOnnxPath(str(self._path), strongly_typed=True)

    def _named(self) -> list[str]:
        """Returns the names of the floating-point tensors that layers compute."""
        from polygraphy.exception import PolygraphyException

        try:
            _, network, _ = self._network()()
        except PolygraphyException as error:
            raise _failure(self._path, error) from error
        tensors = [layer.get_output(i) for layer in network for i in range(layer.num_outputs)]
        return [tensor.name for tensor in tensors if tensor.dtype.name in _FLOATS]


def _failure(path: Path, error: Exception) -> ExportError:
    return ExportError(f"TensorRT cannot show the layers of {path.name}: {error}")
