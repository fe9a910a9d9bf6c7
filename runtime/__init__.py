"""AgeMoE: age estimation by a mixture of experts, without PyTorch."""

from runtime.agemoe import AgeMoE
from runtime.backends.fallback import FallbackWarning, PrecisionWarning
from runtime.decisions import Decision, Policy, Reason
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
    BoxesTooLargeError,
    ClosedError,
    ContractError,
    CudaError,
    DeadlineError,
    EngineError,
    EngineFileError,
    EngineMismatchError,
    FaceCountError,
    FusionTableError,
    ImageError,
    ImageTooLargeError,
    InputError,
    LandmarkError,
    LivenessError,
    LivenessFileError,
    ManifestError,
    ManyFacesError,
    NotCalibratedError,
    NoUsablePictureError,
    PolicyError,
    PredictionError,
    QualityError,
)
from runtime.images import DecoderLimitsWarning, ImageLimits
from runtime.liveness import Liveness, LivenessCheck
from runtime.liveness_model import OnnxLiveness
from runtime.options import GpuOptions
from runtime.pandas_tables import to_pandas
from runtime.person import FrameResult, PersonEstimate, combine
from runtime.photographs import PhotoFace
from runtime.policy_file import check_policy_fits, read_policy, write_policy
from runtime.policy_terms import Binding
from runtime.quality import FaceQuality, QualityLimits
from runtime.results import AgeEstimate, ExpertAge, Face, Landmarks, ResidualQuantiles
from runtime.startup import DetectorWarning, PlaceholderWeightsWarning
from runtime.stats import Durations, ExpertStats, Stats

__version__ = "0.1.0"

__all__ = [
    "AgeEstimate",
    "AgeMoE",
    "AgeMoEError",
    "AnyWayUp",
    "BackendError",
    "Binding",
    "BoxError",
    "BoxesTooLargeError",
    "CenterFaceDetector",
    "ClosedError",
    "ContractError",
    "CudaError",
    "DeadlineError",
    "Decision",
    "DecoderLimitsWarning",
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
    "FaceCountError",
    "FaceQuality",
    "FallbackWarning",
    "FrameResult",
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
    "Liveness",
    "LivenessCheck",
    "LivenessError",
    "LivenessFileError",
    "ManifestError",
    "ManyFacesError",
    "NoUsablePictureError",
    "NotCalibratedError",
    "OnnxLiveness",
    "PersonEstimate",
    "PhotoFace",
    "PlaceholderWeightsWarning",
    "Policy",
    "PolicyError",
    "PrecisionWarning",
    "PredictionError",
    "QualityError",
    "QualityLimits",
    "Reason",
    "ResidualQuantiles",
    "Stats",
    "YuNetDetector",
    "check_policy_fits",
    "combine",
    "read_policy",
    "to_pandas",
    "write_policy",
]
