"""The face detector of an engines folder: written from a given file and compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.build import publish
from export.build.keys import detector_key
from export.build.options import BuildOptions
from export.build.plan import detector_file_name, detector_reason
from export.build.weights import known_weights, ready_weights
from export.checkpoints.loading import first_line
from export.config.detector import DETECTOR, DetectorConfig
from export.errors import GraphError, ParityError
from export.faces.drawn import drawn_faces
from export.graph.detector import CENTERFACE_CHANNELS, STRIDE, write_centerface
from runtime.manifest import DetectorRecord, Manifest, Source

_SIZES = ((96, 128), (256, 160))
"""Heights and widths, in pixels, of the drawn pictures that the built file is run on."""
_TOLERANCE = 1e-5
"""Largest difference to the given file: of a probability, or relative to the largest output."""


@dataclass(frozen=True, slots=True)
class BuiltDetector:
    """The result of a build for the detector."""

    record: DetectorRecord
    seconds: float
    reused: bool


def build_detector(
    config: DetectorConfig,
    options: BuildOptions,
    manifest: Manifest,
    say: Callable[[str], None],
) -> BuiltDetector:
    """Builds the detector into the staging folder, unless it is up to date.

    Raises:
        ExportError: the file cannot be had, or is not the network that it should be.
    """
    started = time.monotonic()
    say("checking the weights")
    weights = known_weights(config, options)
    built = manifest.detector
    if built is not None and not detector_reason(built, config, weights, options):
        source = replace(built.source, license=config.license)
        record = replace(built, source=source)
        return BuiltDetector(record, time.monotonic() - started, reused=True)
    weights = ready_weights(config, options, weights, say)
    given = _given_file(weights.path)
    path = publish.staging_folder(options.output, DETECTOR) / detector_file_name(config)
    say("writing ONNX with symbolic sizes")
    write_centerface(given, path)
    say("comparing with the given file")
    check_centerface(given, path)
    record = DetectorRecord(
        config.kind,
        Source("onnx", config.checkpoint, weights.sha256, config.license),
        (publish.file_record(options.output, path),),
        detector_key(config, weights.sha256),
    )
    return BuiltDetector(record, time.monotonic() - started, reused=False)


def check_centerface(given: Path, built: Path) -> None:
    """Compares a built CenterFace with the given file, and runs it on pictures of two sizes.

    Raises:
        ParityError: an output differs from the given file's at the size that it declares.
        GraphError: it cannot be run, an output has another shape than the size of the picture
            demands, or a value that is not finite.
    """
    batch, _, height, width = _declared(given)
    picture = _picture(height, width, batch)
    for wanted, found in zip(_outputs(given, picture), _outputs(built, picture), strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        difference = float(np.abs(found - wanted).max()) / scale
        if not difference <= _TOLERANCE:
            raise ParityError(
                f"{built.name} differs from the given ONNX file {given} by {difference:.2g} of an "
                f"output; allowed is {_TOLERANCE:g}."
            )
    for height, width in _SIZES:
        outputs = _outputs(built, _picture(height, width, 2))
        shapes = [output.shape for output in outputs]
        cells = height // STRIDE, width // STRIDE
        if shapes != [(2, channels, *cells) for channels in CENTERFACE_CHANNELS]:
            raise GraphError(f"{given} has outputs {shapes} for a picture of {height} by {width}.")


def _given_file(path: Path | None) -> Path:
    if path is None or not path.is_file():
        raise GraphError(f"The detector {path} is not a file; give the ONNX file itself.")
    return path


def _outputs(path: Path, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Runs a graph; raises `GraphError` if that fails, or a value is not finite."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # not that weights are also inputs; errors are raised below
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(None, {session.get_inputs()[0].name: pixels})
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise GraphError(f"{path} cannot be run: {first_line(error)}.") from error
    outputs = [np.asarray(output) for output in found]
    if not all(np.isfinite(output).all() for output in outputs):
        raise GraphError(f"{path} computes values that are not finite.")
    return outputs


def _declared(path: Path) -> tuple[int, int, int, int]:
    """Returns the sizes of a file's input; where a file leaves one open, a small one."""
    model = onnx.load(str(path))
    weights = {tensor.name for tensor in model.graph.initializer}
    (value,) = [value for value in model.graph.input if value.name not in weights]
    sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    batch, channels, height, width = (
        size or small for size, small in zip(sizes, (2, 3, 64, 64), strict=True)
    )
    return batch, channels, height, width


def _picture(height: int, width: int, batch: int) -> NDArray[np.float32]:
    """Returns drawn faces as CenterFace takes them: RGB within 0..255, (N, 3, height, width)."""
    import cv2

    faces = drawn_faces(batch, seed=0, size=96)
    resized = [cv2.resize(face.image, (width, height)) for face in faces]
    return np.ascontiguousarray(np.stack(resized).transpose(0, 3, 1, 2), np.float32)
