"""The face detectors of the runtime: CenterFace, YuNet and OpenCV's Haar cascade."""

from runtime.detectors.centerface import CenterFaceDetector
from runtime.detectors.haar import HaarDetector
from runtime.detectors.names import (
    DetectorFallbackWarning,
    default_detector,
    detector_named,
    parse_detector,
)
from runtime.detectors.yunet import YuNetDetector

__all__ = [
    "CenterFaceDetector",
    "DetectorFallbackWarning",
    "HaarDetector",
    "YuNetDetector",
    "default_detector",
    "detector_named",
    "parse_detector",
]
