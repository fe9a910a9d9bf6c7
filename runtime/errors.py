"""Every error the library raises on purpose.

    AgeMoEError
    ├── EngineError               something is wrong with the engines folder
    │   ├── ManifestError         manifest.json is missing, unreadable or inconsistent
    │   ├── EngineFileError       a file is missing, truncated or not the one that was built
    │   ├── FusionTableError      fusion.json is unreadable, inconsistent or of other experts
    │   └── ContractError         an expert's graph does not honor the contract
    ├── BackendError              what was asked for cannot run on this machine
    │   ├── CudaError             a CUDA call failed; `lost` tells whether the device can be used on
    │   └── EngineMismatchError   a TensorRT engine was built for another TensorRT, GPU or graph
    ├── InputError                the caller's picture or box cannot be used
    │   ├── ImageError            not a picture that can be read
    │   ├── ImageTooLargeError    over the limit on bytes or pixels
    │   └── BoxError              the box lies outside the picture or has no area
    ├── PredictionError           no expert gave an answer
    │   └── DeadlineError         … because none was in time
    ├── NotCalibratedError        an interval was asked for and there are no tables for one
    └── ClosedError               the AgeMoE was closed

Leaves also derive from the natural builtin, so `except ValueError` and friends work. A service
usually wants:

    try:
        estimate = moe.predict(upload)
    except InputError as error:        # the caller's fault: 4xx
        ...
    except AgeMoEError as error:       # ours: 5xx
        ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class AgeMoEError(Exception):
    """Base of every error this library raises on purpose."""


class EngineError(AgeMoEError):
    """Something is wrong with the engines folder."""


class _ListedError(EngineError, ValueError):
    """An error that reports every problem of one file at once."""

    def __init__(self, file: str, problems: Sequence[str], cure: str) -> None:
        """Compose the message from the file's name, its problems and the cure."""
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        bullets = "".join(f"\n- {problem}" for problem in problems)
        super().__init__(f"{file} has {count}:{bullets}\n{cure}")


class ManifestError(_ListedError):
    """manifest.json is missing, unreadable or inconsistent."""


class FusionTableError(_ListedError):
    """fusion.json is unreadable, inconsistent or was made for other experts."""


class EngineFileError(EngineError, OSError):
    """A file of the engines folder is missing, truncated or not the one that was built."""


class ContractError(EngineError, ValueError):
    """An expert's graph does not honor the contract of its manifest entry."""


class BackendError(AgeMoEError, RuntimeError):
    """What was asked for cannot run on this machine."""


class CudaError(BackendError):
    """A CUDA call failed."""

    def __init__(self, doing: str, name: str, text: str, *, lost: bool = False) -> None:
        """Composes the message from what was being done and what CUDA said of it.

        Args:
            doing: for example `copying to the device`.
            name: CUDA's name of the error, `CUDA_ERROR_OUT_OF_MEMORY`.
            text: CUDA's words for it.
            lost: no work can run on the device in this process any more.
        """
        self.name = name
        self.lost = lost
        cure = " The device is lost to this process; restart it." if lost else ""
        super().__init__(f"CUDA failed while {doing}: {name} ({text}).{cure}")


class EngineMismatchError(BackendError):
    """A TensorRT engine was built with another TensorRT, for another GPU or of another graph."""


class InputError(AgeMoEError, ValueError):
    """The caller's picture or box cannot be used."""


class ImageError(InputError):
    """Not a picture that can be read."""


class ImageTooLargeError(InputError):
    """The picture is over the limit on bytes or pixels."""


class BoxError(InputError):
    """The box lies outside the picture or has no area."""


class PredictionError(AgeMoEError, RuntimeError):
    """No expert gave an answer; `missing` says why, by expert."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        """Compose the message from the reason each expert has."""
        self.missing = dict(missing)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        super().__init__(f"None of the {len(missing)} experts gave an age ({reasons}).")


class DeadlineError(PredictionError, TimeoutError):
    """No expert was in time."""


class NotCalibratedError(AgeMoEError, RuntimeError):
    """An interval or a probability was asked for and no residual quantiles exist for it."""


class ClosedError(AgeMoEError, RuntimeError):
    """The AgeMoE was closed."""
