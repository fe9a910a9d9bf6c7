"""AgeMoE: age estimation by a mixture of experts, without PyTorch."""

from runtime.agemoe import AgeMoE
from runtime.backends.fallback import FallbackWarning
from runtime.detection import AnyWayUp, Detection, Detector, GivenBoxes
from runtime.detectors import (
    CenterFaceDetector,
    DetectorFallbackWarning,
    HaarDetector,
    YuNetDetector,
)
from runtime.errors import (
    AgeMoEError,
    BackendError,
    BoxError,
    ClosedError,
    ContractError,
    CudaError,
    DeadlineError,
    EngineError,
    EngineFileError,
    EngineMismatchError,
    FusionTableError,
    ImageError,
    ImageTooLargeError,
    InputError,
    LandmarkError,
    ManifestError,
    NotCalibratedError,
    PredictionError,
    QualityError,
)
from runtime.images import ImageLimits
from runtime.options import GpuOptions
from runtime.photographs import PhotoFace
from runtime.quality import FaceQuality, QualityLimits
from runtime.results import AgeEstimate, ExpertAge, Face, Landmarks, ResidualQuantiles
from runtime.startup import DetectorWarning, PlaceholderWeightsWarning
from runtime.stats import Durations, ExpertStats, Stats

__all__ = [
    "AgeEstimate",
    "AgeMoE",
    "AgeMoEError",
    "AnyWayUp",
    "BackendError",
    "BoxError",
    "CenterFaceDetector",
    "ClosedError",
    "ContractError",
    "CudaError",
    "DeadlineError",
    "Detection",
    "Detector",
    "DetectorFallbackWarning",
    "DetectorWarning",
    "Durations",
    "EngineError",
    "EngineFileError",
    "EngineMismatchError",
    "ExpertAge",
    "ExpertStats",
    "Face",
    "FaceQuality",
    "FallbackWarning",
    "FusionTableError",
    "GivenBoxes",
    "GpuOptions",
    "HaarDetector",
    "ImageError",
    "ImageLimits",
    "ImageTooLargeError",
    "InputError",
    "LandmarkError",
    "Landmarks",
    "ManifestError",
    "NotCalibratedError",
    "PhotoFace",
    "PlaceholderWeightsWarning",
    "PredictionError",
    "QualityError",
    "QualityLimits",
    "ResidualQuantiles",
    "Stats",
    "YuNetDetector",
]
