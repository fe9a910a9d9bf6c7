"""AgeMoE: age estimation by a mixture of experts, without PyTorch."""

from runtime.agemoe import AgeMoE
from runtime.backends.fallback import FallbackWarning
from runtime.detection import AnyWayUp, Detection, Detector, GivenBoxes
from runtime.detectors import HaarDetector, YuNetDetector
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
    ManifestError,
    NotCalibratedError,
    PredictionError,
)
from runtime.images import ImageLimits
from runtime.options import GpuOptions
from runtime.photographs import PhotoFace
from runtime.results import AgeEstimate, ExpertAge, Face, ResidualQuantiles
from runtime.startup import DetectorWarning, PlaceholderWeightsWarning
from runtime.stats import Durations, ExpertStats, Stats

__all__ = [
    "AgeEstimate",
    "AgeMoE",
    "AgeMoEError",
    "AnyWayUp",
    "BackendError",
    "BoxError",
    "ClosedError",
    "ContractError",
    "CudaError",
    "DeadlineError",
    "Detection",
    "Detector",
    "DetectorWarning",
    "Durations",
    "EngineError",
    "EngineFileError",
    "EngineMismatchError",
    "ExpertAge",
    "ExpertStats",
    "Face",
    "FallbackWarning",
    "FusionTableError",
    "GivenBoxes",
    "GpuOptions",
    "HaarDetector",
    "ImageError",
    "ImageLimits",
    "ImageTooLargeError",
    "InputError",
    "ManifestError",
    "NotCalibratedError",
    "PhotoFace",
    "PlaceholderWeightsWarning",
    "PredictionError",
    "ResidualQuantiles",
    "Stats",
    "YuNetDetector",
]
