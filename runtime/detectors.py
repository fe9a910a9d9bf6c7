"""The face detectors of the runtime: OpenCV's Haar cascade and YuNet.

OpenCV's detectors are not thread-safe, so each thread has its own.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from runtime.detection import (
    AnyWayUp,
    Detection,
    Detector,
    area,
    shared_area,
    within,
    without_duplicates,
)
from runtime.errors import BackendError
from runtime.files import sha256_of
from runtime.geometry import Pixels
from runtime.results import Box

if TYPE_CHECKING:
    import cv2

T = TypeVar("T")

HUB_PREFIX = "hf://"
SURE_SCORE = 20.0
"""Windows of the cascade that agree on a sure face; on false positives, up to 17 agreed."""
_SHA_MARK = "#sha256="


class HaarDetector:
    """OpenCV's bundled cascade for upright frontal faces; needs no model file.

    The score of a face is the number of windows that agree on it. Round objects are sometimes
    detected as faces: use YuNet if that matters.
    """

    CASCADE = "haarcascade_frontalface_default.xml"

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
        """
        import cv2.data

        path = Path(cv2.data.haarcascades) / self.CASCADE
        self._longest_side = longest_side
        self._smallest_face = smallest_face
        self._least_windows = least_windows
        self._border = border
        self._cascades = _PerThread(lambda: _cascade(path))
        self.provenance = (
            f"haar {self.CASCADE} (sha256 {sha256_of(path)}) of OpenCV {cv2.__version__}, "
            f"longest side {longest_side}, smallest face {smallest_face}, "
            f"windows {least_windows}, border {border:g}"
        )

    def detect(self, image: Pixels) -> list[Detection]:
        """Finds upright frontal faces in uint8 RGB (H, W, 3), the highest score first."""
        import cv2

        small, scale = _reduced(image, self._longest_side)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        edge = round(max(gray.shape) * self._border)
        framed = cv2.copyMakeBorder(gray, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        side = (self._smallest_face, self._smallest_face)
        boxes, windows = self._cascades.own.detectMultiScale2(
            framed, scaleFactor=1.1, minNeighbors=self._least_windows, minSize=side
        )
        found = [
            Detection(_scaled((x - edge, y - edge, w, h), scale), float(count))
            for (x, y, w, h), count in zip(np.asarray(boxes).tolist(), windows, strict=True)
        ]
        return without_duplicates(_visible(found, image))


class YuNetDetector:
    """OpenCV's YuNet (`cv2.FaceDetectorYN`): better than the cascade, needs a 230 kB model file."""

    def __init__(
        self,
        model: str | Path,
        *,
        sha256: str | None = None,
        longest_side: int = 640,
        least_score: float = 0.8,
    ) -> None:
        """Reads the model.

        Args:
            model: its ONNX file, or `hf://owner/repo/file[@revision]` on the Hugging Face hub.
            sha256: expected SHA-256 of the file; None accepts any.
            longest_side: in pixels; a larger picture is reduced to this size first, in which the
                network finds faces of about 10 to 300 pixels.
            least_score: minimum score of a face, within 0..1.

        Raises:
            BackendError: the file is missing, is not the expected one or is not a YuNet model.
        """
        data = _model_bytes(str(model))
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and digest != sha256.lower():
            raise BackendError(
                f"The YuNet model {model} has SHA-256 {digest}, expected {sha256}. Get the file "
                f"again, or give the SHA-256 of the file you trust."
            )
        import cv2

        self._longest_side = longest_side
        self._networks = _PerThread(lambda: _network(data, str(model), least_score))
        self.provenance = (
            f"yunet {Path(str(model)).name} (sha256 {digest}) on OpenCV {cv2.__version__}, "
            f"longest side {longest_side}, score {least_score:g}"
        )

    def detect(self, image: Pixels) -> list[Detection]:
        """Finds faces in uint8 RGB (H, W, 3), the highest score first."""
        import cv2

        small, scale = _reduced(image, self._longest_side)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        network = self._networks.own
        network.setInputSize((bgr.shape[1], bgr.shape[0]))
        rows = network.detect(bgr)[1]
        # x, y, width, height, five landmarks as x, y, score; None without any face
        found = [
            Detection(_scaled((row[0], row[1], row[2], row[3]), scale), row[14])
            for row in ([] if rows is None else rows.tolist())
        ]
        return without_duplicates(_visible(found, image))


@functools.cache
def default_detector() -> Detector:
    """Returns the detector that needs no model file: the Haar cascade, with quarter turns."""
    return AnyWayUp(HaarDetector(), SURE_SCORE)


def detector_named(name: str) -> Detector:
    """Returns the detector of a name, as in `parse_detector`.

    Raises:
        ValueError: the name is invalid.
        BackendError: the model cannot be used.
    """
    model, sha256 = parse_detector(name)
    return YuNetDetector(model, sha256=sha256) if model else default_detector()


def parse_detector(name: str) -> tuple[str | None, str | None]:
    """Parses the name of a detector into YuNet's model and SHA-256; None if not given.

    Args:
        name: `haar`, or `yunet:MODEL[#sha256=HEX]`, where MODEL is as in `YuNetDetector`.

    Raises:
        ValueError: the name is invalid.
    """
    if name == "haar":
        return None, None
    kind, _, rest = name.partition(":")
    model, _, sha256 = rest.partition(_SHA_MARK)
    if kind != "yunet" or not model:
        raise ValueError(f"A detector is haar or yunet:MODEL[{_SHA_MARK}HEX], got {name!r}.")
    return model, sha256 or None


class _PerThread(threading.local, Generic[T]):
    """An object of each thread, made when this is created or first used there."""

    def __init__(self, make: Callable[[], T]) -> None:
        self.own = make()


def _cascade(path: Path) -> cv2.CascadeClassifier:
    import cv2

    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise BackendError(f"OpenCV cannot read its own cascade {path}. Reinstall OpenCV.")
    return cascade


def _network(data: bytes, model: str, least_score: float) -> cv2.FaceDetectorYN:
    import cv2

    nothing = np.empty(0, np.uint8)
    buffer = np.frombuffer(data, np.uint8)
    try:
        return cv2.FaceDetectorYN.create("onnx", buffer, nothing, (320, 320), least_score)
    except cv2.error as error:
        raise BackendError(f"OpenCV cannot load {model} as a YuNet model ({error}).") from error


def _model_bytes(model: str) -> bytes:
    path = _from_hub(model) if model.startswith(HUB_PREFIX) else Path(model)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BackendError(
            f"The YuNet model {model} cannot be read ({error}). It is face_detection_yunet_"
            f"2023mar.onnx of OpenCV's model zoo: give its path or hf://owner/repo/file."
        ) from error


def _from_hub(model: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise BackendError(
            f"{model} is on the hub and huggingface_hub is not installed. Install it, or give the "
            f"path of a file."
        ) from error
    location, _, revision = model.removeprefix(HUB_PREFIX).partition("@")
    owner, _, rest = location.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise BackendError(f"Expected hf://owner/repo/file[@revision], got {model}.")
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file, revision=revision or None))
    except (OSError, ValueError) as error:  # the bases of huggingface_hub's errors
        raise BackendError(f"{model} cannot be downloaded from the hub ({error}).") from error


def _reduced(image: Pixels, longest_side: int) -> tuple[Pixels, float]:
    """Returns a picture of at most that size, and the factor by which it was reduced."""
    import cv2

    height, width = image.shape[:2]
    scale = max(height, width) / longest_side
    if scale <= 1.0:
        return image, 1.0
    size = max(round(width / scale), 1), max(round(height / scale), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _scaled(box: Box, scale: float) -> Box:
    x, y, width, height = box
    return x * scale, y * scale, width * scale, height * scale


def _visible(found: list[Detection], image: Pixels) -> list[Detection]:
    """Returns the detections at least half of which lies in the picture, clipped to it."""
    height, width = image.shape[:2]
    picture = (0.0, 0.0, float(width), float(height))
    return [
        Detection(within(one.box, width, height), one.score)
        for one in found
        if shared_area(one.box, picture) >= 0.5 * area(one.box) > 0.0
    ]
