"""YuNet, run by OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.detection import Detection, enlarged, without_duplicates
from runtime.detectors.common import visible
from runtime.detectors.model_file import ModelFile, read_model
from runtime.errors import BackendError
from runtime.geometry import Pixels
from runtime.opencv import import_opencv
from runtime.per_thread import PerThread
from runtime.resizing import reduced
from runtime.results import Landmarks

if TYPE_CHECKING:
    import cv2

_HINT = (
    "It is face_detection_yunet_2023mar.onnx or …_2026may.onnx of OpenCV's model zoo: give its "
    "path or hf://owner/repo/file."
)


class YuNetDetector:
    """OpenCV's YuNet (`cv2.FaceDetectorYN`): five landmarks, needs a 230 kB model file."""

    def __init__(
        self,
        model: str | Path,
        *,
        sha256: str | None = None,
        longest_sides: Sequence[int] = (640, 320),
        least_score: float = 0.8,
    ) -> None:
        """Reads the model.

        Args:
            model: its ONNX file, or `hf://owner/repo/file[@revision]` on the Hugging Face hub.
            sha256: expected SHA-256 of the file; None accepts any.
            longest_sides: in pixels; a larger picture is reduced to the first size, in which the
                network finds faces of about 10 to 300 pixels. Only if nothing is found, it is
                searched again in the next: large grainy faces are found there.
            least_score: minimum score of a face, within 0..1.

        Raises:
            BackendError: the file is missing, is not the expected one or is not a YuNet model.
        """
        cv2 = import_opencv()
        file = read_model(model, "YuNet", sha256, _HINT)
        self._longest_sides = longest_sides
        # OpenCV's detectors are not thread-safe.
        self._networks = PerThread(lambda: _network(file, least_score))
        self.provenance = (
            f"yunet {file.provenance} on OpenCV {cv2.__version__}, "
            f"longest side {', then '.join(map(str, longest_sides))}, score {least_score:g}"
        )
        """Everything that the detections depend on: model, library and settings."""

    def detect(self, image: Pixels) -> list[Detection]:
        """Finds faces in uint8 RGB (H, W, 3), the highest score first."""
        for longest_side in self._longest_sides:
            found = self._detect(image, longest_side)
            if found or max(image.shape[:2]) <= self._longest_sides[-1]:
                return found
        return []

    def _detect(self, image: Pixels, longest_side: int) -> list[Detection]:
        cv2 = import_opencv()
        small, scale = reduced(image, longest_side)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        network = self._networks.own
        network.setInputSize((bgr.shape[1], bgr.shape[0]))
        rows = network.detect(bgr)[1]  # None without any face
        found = [] if rows is None else [enlarged(_detection(row), scale) for row in rows.tolist()]
        return without_duplicates(visible(found, image))


def _detection(row: list[float]) -> Detection:
    """Reads x, y, width, height, five landmarks as x, y, and the score.

    OpenCV names the person's right eye first, which is the left one in the picture.
    """
    x, y, width, height, *points, score = row
    landmarks: Landmarks = tuple(zip(points[::2], points[1::2], strict=True))  # type: ignore[assignment]
    return Detection((x, y, width, height), score, landmarks=landmarks)


def _network(file: ModelFile, least_score: float) -> cv2.FaceDetectorYN:
    opencv = import_opencv()
    nothing = np.empty(0, np.uint8)
    buffer = np.frombuffer(file.data, np.uint8)
    try:
        network: cv2.FaceDetectorYN = opencv.FaceDetectorYN.create(
            "onnx", buffer, nothing, (320, 320), least_score
        )
        network.detect(np.zeros((320, 320, 3), np.uint8))  # only now are its outputs looked for
    except opencv.error as error:
        raise BackendError(
            f"OpenCV cannot load {file.name} as a YuNet model ({error}). {_HINT}"
        ) from error
    return network
