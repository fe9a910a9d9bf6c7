"""OpenCV, imported when it is first needed and checked for what the runtime uses of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from runtime.errors import BackendError
from runtime.program import command_line

WANTED = "opencv-python-headless<5"
"""The distribution to install; OpenCV 5 has no Haar cascades."""
CASCADE = "haarcascade_frontalface_default.xml"
_USED = ("FaceDetectorYN", "copyMakeBorder", "cvtColor", "resize", "warpAffine")
_CURE = (
    f"Several distributions install the same folder cv2; `{command_line('doctor')}` names them. "
    f"Uninstall all of them, then: pip install '{WANTED}'"
)


def import_opencv() -> ModuleType:
    """Imports `cv2`.

    Raises:
        BackendError: it cannot be imported or lacks a function that the runtime calls.
    """
    try:
        import cv2  # slow to import
    except Exception as error:  # a mixture of two versions fails in other ways than ImportError
        raise BackendError(f"OpenCV cannot be imported ({error}). {_CURE}") from error
    if missing := [name for name in _USED if not hasattr(cv2, name)]:
        found = f"cv2 from {getattr(cv2, '__file__', None) or 'an empty folder'}"
        raise BackendError(f"{found} has no {' and no '.join(missing)}. {_CURE}")
    return cv2


def haar_cascade() -> Path:
    """Returns the file of the cascade for upright frontal faces that comes with OpenCV.

    Raises:
        BackendError: this OpenCV has no cascades, as OpenCV 5 has none, or cannot be imported.
    """
    cv2 = import_opencv()
    try:
        folder = importlib.import_module("cv2.data").haarcascades
    except ImportError:  # a system's own OpenCV keeps them elsewhere
        folder = ""
    path = Path(folder) / CASCADE
    if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
        raise BackendError(
            f"OpenCV {cv2.__version__} has no Haar cascades (OpenCV 5 no longer contains them), so "
            f"that detector 'haar' is unusable. Use an engines folder with a face detector or "
            f"detector centerface:MODEL or yunet:MODEL, or uninstall every OpenCV, then: pip "
            f"install '{WANTED}'"
        )
    return path
