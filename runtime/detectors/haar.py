"""OpenCV's Haar cascade."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.detection import Detection, enlarged, without_duplicates
from runtime.detectors.common import visible
from runtime.errors import BackendError
from runtime.files import sha256_of
from runtime.geometry import Pixels
from runtime.opencv import haar_cascade, import_opencv
from runtime.per_thread import PerThread
from runtime.resizing import reduced

if TYPE_CHECKING:
    import cv2

SURE_SCORE = 20.0
"""Windows of the cascade that agree on a sure face."""
CLEAR_LEAD = 1.6
"""Of a turned face, see `AnyWayUp`. In wrong turns of 250 photographs, coins and a clock up to 30
windows agreed; on 82 % of the photographs' faces at least 32 do."""


class HaarDetector:
    """OpenCV's bundled cascade for upright frontal faces; needs no model file.

    The score of a face is the number of windows that agree on it. Round objects are sometimes
    detected as faces: use CenterFace or YuNet if that matters.
    """

    finds_landmarks = False
    """The cascade finds no landmarks."""

    def __init__(
        self,
        *,
        longest_side: int = 1280,
        smallest_face: int = 24,
        least_windows: int = 6,
        border: float = 1 / 12,
    ) -> None:
        """Reads the cascade.

        Args:
            longest_side: in pixels; a larger picture is reduced to this size first.
            smallest_face: side of the smallest face, in pixels of the reduced picture.
            least_windows: number of windows that have to agree on a face.
            border: width of a replicated border, as a share of the longest side; with it, faces cut
                off by the edge are found.

        Raises:
            BackendError: OpenCV has no cascades (as OpenCV 5), or cannot be imported.
        """
        cv2, path = import_opencv(), haar_cascade()
        self._longest_side = longest_side
        self._smallest_face = smallest_face
        self._least_windows = least_windows
        self._border = border
        # OpenCV's detectors are not thread-safe.
        self._cascades = PerThread(lambda: _cascade(path))
        self.provenance = (
            f"haar {path.name} (sha256 {sha256_of(path)}) of OpenCV {cv2.__version__}, "
            f"longest side {longest_side}, smallest face {smallest_face}, "
            f"windows {least_windows}, border {border:g}"
        )
        """Everything that the detections depend on: model, library and settings."""

    def detect(self, image: Pixels) -> list[Detection]:
        """Finds upright frontal faces in uint8 RGB (H, W, 3), the highest score first."""
        cv2 = import_opencv()

        small, scale = reduced(image, self._longest_side)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        edge = round(max(gray.shape) * self._border)
        framed = cv2.copyMakeBorder(gray, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        side = (self._smallest_face, self._smallest_face)
        boxes, windows = self._cascades.own.detectMultiScale2(
            framed, scaleFactor=1.1, minNeighbors=self._least_windows, minSize=side
        )
        found = [
            enlarged(Detection((x - edge, y - edge, w, h), float(count)), scale)
            for (x, y, w, h), count in zip(np.asarray(boxes).tolist(), windows, strict=True)
        ]
        return without_duplicates(visible(found, image))


def _cascade(path: Path) -> cv2.CascadeClassifier:
    cascade: cv2.CascadeClassifier = import_opencv().CascadeClassifier(str(path))
    if cascade.empty():
        raise BackendError(f"OpenCV cannot read its own cascade {path}. Reinstall OpenCV.")
    return cascade
