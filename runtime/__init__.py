"""AgeMoE: age estimation by a mixture of experts, without PyTorch."""

from runtime.agemoe import AgeMoE, StandInWarning
from runtime.errors import (
    AgeMoEError,
    BackendError,
    BoxError,
    ClosedError,
    ContractError,
    DeadlineError,
    EngineError,
    EngineFileError,
    FusionTableError,
    ImageError,
    ImageTooLargeError,
    InputError,
    ManifestError,
    NotCalibratedError,
    PredictionError,
)
from runtime.images import ImageLimits
from runtime.results import AgeEstimate, ExpertAge, Face, ResidualQuantiles

__all__ = [
    "AgeEstimate",
    "AgeMoE",
    "AgeMoEError",
    "BackendError",
    "BoxError",
    "ClosedError",
    "ContractError",
    "DeadlineError",
    "EngineError",
    "EngineFileError",
    "ExpertAge",
    "Face",
    "FusionTableError",
    "ImageError",
    "ImageLimits",
    "ImageTooLargeError",
    "InputError",
    "ManifestError",
    "NotCalibratedError",
    "PredictionError",
    "ResidualQuantiles",
    "StandInWarning",
]
