"""The errors of this library.

    AgeMoEError
    ├── EngineError               the engines folder is invalid
    │   ├── ManifestError         manifest.json is missing, unreadable or inconsistent
    │   ├── EngineFileError       a file is missing, truncated or not the one that was built
    │   ├── FusionTableError      fusion.json is unreadable, inconsistent or of other experts
    │   ├── PolicyError           policy.json is unreadable, inconsistent or of other engines
    │   ├── LivenessFileError     the description of a liveness model is unreadable or inconsistent
    │   └── ContractError         an expert's graph violates the contract
    ├── BackendError              the request cannot run on this machine
    │   ├── CudaError             a CUDA call failed; `lost`: the device is unusable from now on
    │   └── EngineMismatchError   a TensorRT engine was built for another TensorRT, GPU or graph
    ├── InputError                the picture or box cannot be used
    │   ├── ImageError            not a readable picture
    │   ├── ImageTooLargeError    over the limit on bytes or pixels
    │   ├── BoxError              the box lies outside the picture or has no area
    │   ├── BoxesTooLargeError    the boxes of a picture together cover too many pixels
    │   ├── LandmarkError         the landmarks cannot be those of a face in the picture
    │   ├── QualityError          the face is below the quality limits, or no face at all
    │   ├── LivenessError         the face is not that of a live person, or could not be checked
    │   └── FaceCountError        the picture does not show one person: no face, or several
    │       └── ManyFacesError    several that are about as large
    ├── PredictionError           no expert answered
    │   ├── DeadlineError         every expert was late
    │   └── NoUsablePictureError  no picture of a person gives an age
    ├── NotCalibratedError        there are no residual quantiles for an interval
    └── ClosedError               the AgeMoE was closed

Leaves also derive from the matching builtin exception, such as `ValueError`. A service usually
distinguishes:

    try:
        estimate = moe.predict(upload)
    except InputError as error:        # invalid request: 4xx
        ...
    except AgeMoEError as error:       # server error: 5xx
        ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.printing import MOST_LINE, bullets, printable


class PicklableError(Exception):
    """An error that can be sent to another process, whatever its `__init__` takes.

    Each of its arguments is a line of the message. Within a line everything is escaped that is not
    printable, line ends too, because messages quote names from files and requests.
    """

    def __str__(self) -> str:
        """Returns the message, fit for a terminal, a log and a response."""
        return "\n".join(printable(line, MOST_LINE) for line in self.args)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the message and the attributes."""
        return _restored, (type(self), self.args, dict(self.__dict__))


class AgeMoEError(PicklableError):
    """Base class of all errors of this library."""


class EngineError(AgeMoEError):
    """The engines folder is invalid."""


class _ListedError(EngineError, ValueError):
    """An error that reports every problem of one file at once."""

    def __init__(self, file: str, problems: Sequence[str], cure: str) -> None:
        """Compose the message from the file's name, its problems and the cure."""
        self.problems = tuple(problems)
        """One sentence for each problem of the file."""
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{file} has {count}:", *bullets(problems), cure)


class ManifestError(_ListedError):
    """manifest.json is missing, unreadable or inconsistent."""


class FusionTableError(_ListedError):
    """fusion.json is unreadable, inconsistent or belongs to other experts."""


class PolicyError(_ListedError):
    """policy.json is unreadable, inconsistent or belongs to other engines, tables or faces."""


class LivenessFileError(_ListedError):
    """The description of a liveness model is missing, unreadable or inconsistent."""


class EngineFileError(EngineError, OSError):
    """A file of the engines folder is missing, truncated or not the one that was built."""


class ContractError(EngineError, ValueError):
    """An expert's graph violates the contract of its manifest entry."""


class BackendError(AgeMoEError, RuntimeError):
    """The request cannot run on this machine."""


class CudaError(BackendError):
    """A CUDA call failed."""

    def __init__(self, doing: str, name: str, text: str, *, lost: bool = False) -> None:
        """Composes the message from the operation and CUDA's error.

        Args:
            doing: for example `copying to the device`.
            name: CUDA's name of the error, `CUDA_ERROR_OUT_OF_MEMORY`.
            text: CUDA's description.
            lost: the device is unusable in this process from now on.
        """
        self.name = name
        """CUDA's name of the error."""
        self.lost = lost
        """Whether the device is unusable in this process from now on."""
        cure = " The device is lost to this process; restart it." if lost else ""
        super().__init__(f"CUDA failed while {doing}: {name} ({text}).{cure}")


class EngineMismatchError(BackendError):
    """A TensorRT engine was built with another TensorRT, for another GPU or from another graph."""


class InputError(AgeMoEError, ValueError):
    """The picture or box cannot be used."""


class ImageError(InputError):
    """Not a readable picture."""


class ImageTooLargeError(InputError):
    """The picture is over the limit on bytes or pixels."""


class BoxError(InputError):
    """The box is no box in pixels of the picture, or lies mostly outside it."""


class BoxesTooLargeError(InputError):
    """The boxes of a picture together cover too many pixels."""


class LandmarkError(InputError):
    """The landmarks cannot be those of a face in the picture."""


class QualityError(InputError):
    """The face is below the quality limits, or no face; `reasons` holds a sentence for each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        """Composes the message from the reasons, of which there is at least one."""
        self.reasons = tuple(reasons)
        """One sentence for each limit that the face does not meet."""
        super().__init__(f"The face was refused: {'; '.join(self.reasons)}.")


class LivenessError(InputError):
    """The face is not that of a live person, or could not be checked."""

    def __init__(self, reason: str, score: float | None = None) -> None:
        """Composes the message from the reason.

        Args:
            reason: why the face is not accepted as live.
            score: of the check; None if it gave none.
        """
        self.score = score
        """Of the check; None if it gave none."""
        super().__init__(f"The face was not accepted as that of a live person: {reason}.")


class FaceCountError(InputError):
    """The picture does not show one person: no face, or several that are as large."""


class ManyFacesError(FaceCountError):
    """The picture shows several faces that are about as large, so it is unclear which is meant."""


class PredictionError(AgeMoEError, RuntimeError):
    """No expert answered; `missing` holds the reason of each."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        """Composes the message from the experts' reasons."""
        self.missing = dict(missing)
        """Reason of each expert, by name."""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        super().__init__(f"None of the {len(missing)} experts predicted an age ({reasons}).")


class DeadlineError(PredictionError, TimeoutError):
    """Every expert was late."""


class NoUsablePictureError(PredictionError):
    """None of the pictures of a person gives an age."""

    def __init__(self, reasons: Sequence[str]) -> None:
        """Composes the message from the pictures' reasons."""
        super().__init__({f"picture {number}": text for number, text in enumerate(reasons, 1)})
        listed = [f"{name}: {text}" for name, text in self.missing.items()]
        self.args = (
            f"None of {len(reasons)} pictures of the person gives an age.",
            *bullets(listed),
        )


class NotCalibratedError(AgeMoEError, RuntimeError):
    """There are no residual quantiles for an interval or a probability."""


class ClosedError(AgeMoEError, RuntimeError):
    """The AgeMoE was closed."""


def _restored(
    kind: type[PicklableError], message: tuple[Any, ...], attributes: dict[str, Any]
) -> PicklableError:
    # With several bases, looking `__new__` up finds that of the first, which refuses an OSError.
    new = OSError.__new__ if issubclass(kind, OSError) else kind.__new__
    error = new(kind, *message)
    error.args = message
    error.__dict__.update(attributes)
    return error
