"""A liveness check by a given ONNX file, described in a TOML file with the keys of experts.toml."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.onnx import cpu_session
from runtime.detectors.model_file import HUB_PREFIX, read_model
from runtime.errors import BackendError, LivenessError, LivenessFileError
from runtime.files import read_text
from runtime.geometry import ALIGN, MAX_SIDE, Geometry, Pixels
from runtime.json_reader import SHA256, JsonReader, at_least, one_of, read_dataclass, within
from runtime.liveness import Liveness
from runtime.manifest import InputSpec
from runtime.preparation import input_view
from runtime.results import Face

LIVENESS = "check each face with the liveness model that this TOML file describes"
"""Help of the option --liveness."""
_MOST_BYTES = 64 << 10
_GEOMETRY_KEYS = (
    *("crop_margin", "margins", "offset"),
    *("fit", "template", "interpolation", "border", "pad_color"),
)
"""Those of experts.toml, without `before`."""
_FLOAT = "tensor(float)"
_HINT = "Give the path of the file, or hf://owner/repo/file, as checkpoint."
_CURE = "See docs/liveness.md."
_ROUNDING = 1e-3
"""By which probabilities may lie outside 0..1."""

_Side = Annotated[int, within(16, MAX_SIDE)]
_Numbers = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessModel:
    """A liveness model: its file, its input, and how its output is read."""

    checkpoint: str
    """Path of the ONNX file, from the folder of the TOML file, or `hf://owner/repo/file`."""
    sha256: SHA256
    """Of the ONNX file."""
    license: str | None = None
    """Of the weights; a note."""
    input_size: tuple[_Side, _Side]
    """Height and width in pixels."""
    layout: Annotated[str, one_of(("NCHW", "NHWC"))] = "NCHW"
    color_order: Annotated[str, one_of(("RGB", "BGR"))]
    scale: float
    """The input is (pixel * scale - mean) / std, in the network's own color order."""
    mean: _Numbers = (0.0, 0.0, 0.0)
    std: _Numbers = (1.0, 1.0, 1.0)
    geometry: Geometry = field(default_factory=Geometry)
    """From the face's box to the input."""
    output: str | None = None
    """Name of the output; None for a file with only one."""
    head: Annotated[str, one_of(("softmax", "sigmoid"))]
    """Turns the output's values of a face into probabilities."""
    probabilities: bool = False
    """The output holds probabilities already."""
    column: Annotated[int, at_least(0)]
    """Which value of the output is read, counted from 0."""
    inverted: bool = False
    """The value read is that of an attack: the score is 1 - value."""
    threshold: float
    """A face of at least this score, within 0..1, is live."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if len(self.std) == 3 and min(self.std) <= 0.0:
            yield "std", "must be positive"
        if not 0.0 < self.threshold <= 1.0:
            yield "threshold", f"must be above 0 and at most 1, got {self.threshold:g}"

    def score(self, values: NDArray[np.float64]) -> float:
        """Returns the score of a face, within 0..1, or NaN.

        Args:
            values: float64 (K,), the output.
        """
        read = float(values[self.column])
        if not self.probabilities and self.head == "softmax":
            powers = np.exp(values - values.max())
            read = float(powers[self.column] / powers.sum())
        elif not self.probabilities:
            read = float(0.5 + 0.5 * np.tanh(0.5 * read))  # the sigmoid, without overflow
        elif not -_ROUNDING <= read <= 1.0 + _ROUNDING:
            return float("nan")
        return 1.0 - read if self.inverted else read


def read_liveness(path: Path) -> LivenessModel:
    """Reads the description of a liveness model.

    Raises:
        LivenessFileError: the file is missing, unreadable or inconsistent; every problem is listed.
    """
    try:
        document = tomllib.loads(read_text(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise LivenessFileError(str(path), [f"cannot be read: {error}"], _CURE) from error
    if type(size := document.get("input_size")) is int:
        document["input_size"] = [size, size]
    problems: list[str] = []
    if isinstance(geometry := document.get("geometry"), dict):
        JsonReader(geometry, "geometry", problems).only(_GEOMETRY_KEYS)
    found = read_dataclass(LivenessModel, JsonReader(document, "", problems))
    if problems:
        raise LivenessFileError(str(path), problems, _CURE)
    return found


class OnnxLiveness:
    """A `LivenessCheck` by a given ONNX file, on the CPU. Safe to use from several threads."""

    def __init__(self, description: str | os.PathLike[str], *, threads: int = 1) -> None:
        """Reads the description, verifies and opens the model and runs it once.

        Args:
            description: the TOML file, as in docs/liveness.md.
            threads: cores that one check may use.

        Raises:
            LivenessFileError: the description is invalid.
            BackendError: the model is missing, has another SHA-256, or is not as described.
        """
        path = Path(description)
        self._model = model = read_liveness(path)
        place: str | Path = model.checkpoint
        if not model.checkpoint.startswith(HUB_PREFIX):
            place = path.parent / place
        file = read_model(place, "liveness", model.sha256, _HINT)
        height, width = model.input_size
        self._spec = InputSpec("face", height, width, model.geometry)
        try:
            self._session = cpu_session(file.data, threads, severity=4)
        except BackendError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise _unfit(file.name, f"ONNX Runtime cannot load it: {error}") from error
        self._input = _input_of(self._session, file.name, self._shape)
        self._output = _output_of(self._session, file.name, model.output)
        self._mean = np.array(model.mean, np.float32)
        self._std = np.array(model.std, np.float32)
        self.provenance = f"liveness {file.provenance}, threshold {model.threshold:g}"
        """The model's file, its SHA-256 and the threshold."""
        try:
            self._score(np.zeros((height, width, 3), np.uint8))
        except Exception as error:
            raise _unfit(file.name, str(error)) from error

    def check(self, image: Pixels, face: Face) -> Liveness:
        """Checks one face.

        Args:
            image: uint8 RGB (H, W, 3), upright.
            face: its box, or None for a picture that is a face as a whole; and its landmarks, which
                a model that aligns needs.

        Raises:
            LivenessError: a face without landmarks has to be aligned.
            InputError: the box or the landmarks are invalid.
        """
        spec = self._spec
        if spec.geometry.fit == ALIGN and face.landmarks is None:
            raise LivenessError("the model aligns faces, and the landmarks of this one are unknown")
        view = input_view(image, {"face": face.box}, spec, face.landmarks)
        if view is None:
            raise LivenessError("too little of the face is visible")
        score = self._score(view)
        return Liveness(score, score >= self._model.threshold, self.provenance)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of the model's input, for one face."""
        height, width = self._model.input_size
        return (1, 3, height, width) if self._model.layout == "NCHW" else (1, height, width, 3)

    def _score(self, view: Pixels) -> float:
        """Returns the score of an input, uint8 RGB (height, width, 3)."""
        model = self._model
        pixels = view if model.color_order == "RGB" else view[:, :, ::-1]
        normal = (pixels.astype(np.float32) * np.float32(model.scale) - self._mean) / self._std
        planes = normal.transpose(2, 0, 1) if model.layout == "NCHW" else normal
        (found,) = self._session.run([self._output], {self._input: planes[np.newaxis]})
        values = np.asarray(found, np.float64).reshape(-1)
        if len(values) <= model.column or np.shape(found)[:1] not in ((), (1,)):
            raise ValueError(
                f"its output has the shape {np.shape(found)} for one face; column is {model.column}"
            )
        return model.score(values)


def _unfit(name: str, problem: str) -> BackendError:
    return BackendError(
        f"The liveness model {name} does not fit its description: {problem}. {_CURE}"
    )


def _input_of(session: Any, name: str, shape: tuple[int, ...]) -> str:  # noqa: ANN401
    """Returns the name of a model's only input."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise _unfit(name, f"it has {len(inputs)} inputs, expected one")
    (only,) = inputs
    fits = len(only.shape) == 4 and all(
        not isinstance(there, int) or there == size
        for there, size in zip(only.shape, shape, strict=True)
    )
    if only.type != _FLOAT or not fits:
        found = f"{only.type} {list(only.shape)}"
        raise _unfit(name, f"its input is {found}, expected {_FLOAT} {list(shape)}")
    return str(only.name)


def _output_of(session: Any, name: str, wanted: str | None) -> str:  # noqa: ANN401
    """Returns the name of the output that is read."""
    names = [output.name for output in session.get_outputs()]
    if wanted is None and len(names) == 1:
        return str(names[0])
    if wanted not in names:
        found = "names none" if wanted is None else f"names {wanted}"
        raise _unfit(name, f"it has the outputs {', '.join(names)}; the description {found}")
    return str(wanted)
