"""AgeMoE: age estimation by a mixture of experts, without PyTorch."""

from runtime.agemoe import AgeMoE
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
from runtime.opening import StandInWarning
from runtime.results import AgeEstimate, ExpertAge, Face, ResidualQuantiles
from runtime.sessions.ladder import FallbackWarning
from runtime.statistics import ExpertStats, Spread, Stats

__all__ = [
    "AgeEstimate",
    "AgeMoE",
    "AgeMoEError",
    "BackendError",
    "BoxError",
    "ClosedError",
    "ContractError",
    "CudaError",
    "DeadlineError",
    "EngineError",
    "EngineFileError",
    "EngineMismatchError",
    "ExpertAge",
    "ExpertStats",
    "Face",
    "FallbackWarning",
    "FusionTableError",
    "ImageError",
    "ImageLimits",
    "ImageTooLargeError",
    "InputError",
    "ManifestError",
    "NotCalibratedError",
    "PredictionError",
    "ResidualQuantiles",
    "Spread",
    "StandInWarning",
    "Stats",
]
